"""Whole runs in processes of their own, killed, stopped, cut off from each other, and out of disk."""

import fcntl
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch
import yaml

from basicsr.archs import build_network
from basicsr.runs.checkpoint import load_checkpoint
from scripts.benchmark import trainings
from tests import small_run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    trainings.make_pictures(folder)
    return folder


def whole(folder, name, processes=1, **options):
    """Weights of a run that nothing has interrupted, and what it printed."""
    run = trainings.start(trainings.write_options(folder, name, **options), processes=processes)
    text = trainings.finish(run)
    assert run.returncode == 0, text
    return trainings.weights(folder, name), text


def killed_at(iteration, options, *more, processes=1):
    """Start, and kill as soon as the iteration is logged."""
    run = trainings.start(options, *more, processes=processes)
    for line in run.stdout:
        if f'iter {iteration},' in line:
            trainings.kill_all(run.pid)
    run.communicate()
    assert run.returncode == -signal.SIGKILL


@pytest.fixture(scope='module')
def ldt(folder):
    return whole(folder, 'ldt')


@pytest.mark.parametrize(
    'model_type, processes, kills',
    [('LDTModel', 1, (11, 19)), pytest.param('LDTModel', 2, (19,), marks=pytest.mark.slow), ('SRModel', 1, (19,))],
)
def test_a_killed_run_ends_with_the_same_weights(folder, ldt, model_type, processes, kills):
    name = f'{model_type}_{processes}'
    if (model_type, processes) == ('LDTModel', 1):
        expected, text = ldt
    else:
        expected, text = whole(folder, f'{name}_whole', processes, model_type=model_type)
    assert ('split anew at iteration 7; ' in text) == (model_type == 'LDTModel')
    options = trainings.write_options(folder, name, model_type=model_type)
    for iteration in kills:
        killed_at(iteration, options, '--auto_resume', processes=processes)
    run = trainings.start(options, '--auto_resume', processes=processes)
    text = trainings.finish(run)
    assert run.returncode == 0, text
    assert re.search(r'Going on from epoch \d, iteration 16;', text)
    assert 'iter 15,' not in text
    assert trainings.weights(folder, name) == expected
    assert not trainings.unreadable(folder / 'experiments' / name)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_says_so_and_goes_on(folder, ldt, number):
    name = f'stopped_{number.name}'
    options = trainings.write_options(folder, name, logger__save_checkpoint_freq=1000)
    run = trainings.start(options)
    text = ''
    for line in run.stdout:
        text += line
        if 'iter 5,' in line:
            for process in trainings.descendants(run.pid):  # workers, too, as a terminal and a cluster do it
                os.kill(process, number)
            break
    text += trainings.finish(run)
    assert run.returncode == 128 + number, text
    stopped = re.search(rf'^{number.name}: stopped after iteration (\d+) and saved it; --auto_resume', text, re.M)
    assert stopped and 'Traceback' not in text, text
    states = list((folder / 'experiments' / name / 'training_states').iterdir())
    assert [file.name for file in states] == [f'{stopped[1]}.state']
    again = trainings.start(options, '--auto_resume')
    text = trainings.finish(again)
    assert again.returncode == 0, text
    assert f'iter {stopped[1]},' not in text
    assert trainings.weights(folder, name) == ldt[0]


@pytest.mark.slow
def test_a_terminal_that_closes_ends_a_run_as_sigterm_does(folder, ldt):
    options = trainings.write_options(folder, 'hung_up', logger__save_checkpoint_freq=1000)
    terminal, end = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, str(ROOT / 'Train_pip.py'), '-opt', str(options)],
        stdin=end, stdout=end, stderr=end, cwd=folder, env={**os.environ, 'OMP_NUM_THREADS': '1'},
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(end)
    text = b''
    while b'iter 5,' not in text:
        text += os.read(terminal, 1 << 16)
    os.close(terminal)  # the system sends SIGHUP to the run and its workers, and whatever they print now fails
    assert run.wait(timeout=trainings.LONGEST) == 128 + signal.SIGHUP
    states = list((folder / 'experiments' / 'hung_up' / 'training_states').iterdir())
    assert len(states) == 1
    again = trainings.start(options, '--auto_resume')
    text = trainings.finish(again)
    assert again.returncode == 0, text
    assert f'iter {states[0].stem},' not in text and trainings.weights(folder, 'hung_up') == ldt[0]


@pytest.mark.slow
def test_a_stopped_run_that_cannot_be_saved_does_not_say_so(folder):
    run = trainings.start(trainings.write_options(folder, 'lost', train__total_iter=100_000))
    for line in run.stdout:
        if 'iter 5,' in line:
            shutil.rmtree(folder / 'experiments' / 'lost' / 'training_states')
            os.kill(run.pid, signal.SIGINT)
            break
    text = trainings.finish(run)
    assert run.returncode == 130 and 'Traceback' not in text
    assert re.search(r'^SIGINT: stopped after iteration \d+ and could NOT save it', text, re.M), text


@pytest.mark.slow
def test_a_dead_process_ends_the_run(folder):
    run = trainings.start(trainings.write_options(folder, 'dead', train__total_iter=100000), processes=2)
    text, died = '', 0.0
    for line in run.stdout:
        text += line
        if 'iter 3,' in line:
            ranks = [pid for pid in trainings.descendants(run.pid)[1:] if b'RANK=1' in environment(pid)]
            os.kill(min(ranks), signal.SIGKILL)
            died = time.monotonic()
            break
    text += trainings.finish(run)
    assert died and time.monotonic() - died < 100
    assert run.returncode not in (0, None) and 'HANGS' not in text, text


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_a_killed_worker_ends_the_run_with_what_helps(folder, ldt, processes):
    """In a run of one process it is saved; of two, the other is in the midst of a step, and both end."""
    name = f'workerless_{processes}'
    changes = {'train__total_iter': 100_000} if processes > 1 else {}
    options = trainings.write_options(folder, name, logger__save_checkpoint_freq=100_000, **changes)
    run = trainings.start(options, processes=processes)
    text = ''
    for line in run.stdout:
        text += line
        if 'iter 3,' in line:
            os.kill(trainings.workers_of(run.pid)[-1], signal.SIGKILL)
            break
    text += trainings.finish(run)
    said = re.search(r'^error: a worker of a data loader was killed .* what helps: .*num_worker_per_gpu', text, re.M)
    assert said and 'HANGS' not in text, text
    states = folder / 'experiments' / name / 'training_states'
    if processes > 1:
        assert run.returncode == 1 and 'Nothing was saved; --auto_resume goes on from the newest' in text
        assert not list(states.iterdir())
        return
    assert run.returncode == 3 and 'Traceback' not in text, text
    saved = re.search(r'^Saved at iteration (\d+); --auto_resume goes on from there$', text, re.M)
    assert [file.name for file in states.iterdir()] == [f'{saved[1]}.state']
    again = trainings.start(trainings.write_options(folder, name), '--auto_resume')
    text = trainings.finish(again)
    assert again.returncode == 0 and f'iteration {saved[1]};' in text, text
    assert trainings.weights(folder, name) == ldt[0]


@pytest.mark.slow
def test_full_shared_memory_ends_the_run_with_what_helps(folder):
    """A /dev/shm of 32 KB, in a mount namespace of its own: room for the workers' semaphores, not for batches."""
    small = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=32k tmpfs /dev/shm && exec "$@"', 'sh']
    if subprocess.run([*small, 'true'], capture_output=True).returncode:
        pytest.skip('only root can give a process a small /dev/shm')
    options = trainings.write_options(folder, 'cramped', datasets__train__batch_size_per_gpu=8, model_type='SRModel')
    run = trainings.start(options, before=small)
    text = trainings.finish(run)
    assert run.returncode == 3 and 'Traceback' not in text, text
    assert re.search(r'^error: shared memory \(/dev/shm\) is full.* what helps: .*--shm-size', text, re.M), text
    assert re.search(r'^Saved at iteration \d+; --auto_resume', text, re.M), text


def environment(pid: int) -> bytes:
    with open(f'/proc/{pid}/environ', 'rb') as file:
        return b'\0'.join(entry for entry in file.read().split(b'\0') if entry.startswith(b'RANK='))


@pytest.mark.slow
def test_a_disk_without_room_is_said_and_survived(folder):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    options = trainings.write_options(folder, 'full')
    run = trainings.start(options, preexec_fn=limited)
    text = trainings.finish(run)
    assert text.count('could not save') == 7 and 'The run goes on; what was saved before is as it was' in text
    assert 'iter 30,' in text and 'Traceback' not in text
    assert run.returncode == (0 if (folder / 'experiments/full/models/net_g_latest.pth').exists() else 2)
    assert not list((folder / 'experiments' / 'full').rglob('*.tmp'))
    assert not list((folder / 'experiments' / 'full' / 'training_states').iterdir())


@pytest.mark.slow
def test_auto_resume_goes_back_to_a_good_state_and_old_ones_are_deleted(folder, ldt):
    expected, _ = ldt
    options = trainings.write_options(folder, 'kept', logger__keep_checkpoints=2)
    killed_at(18, options)
    states = folder / 'experiments' / 'kept' / 'training_states'
    assert sorted(file.name for file in states.iterdir()) == ['12.state', '16.state']
    models = folder / 'experiments' / 'kept' / 'models'
    assert sorted(file.name for file in models.iterdir()) == ['net_g_12.pth', 'net_g_16.pth', 'net_g_best.pth']
    newest = states / '16.state'
    newest.write_bytes(newest.read_bytes()[:5000])
    run = trainings.start(options, '--auto_resume')
    text = trainings.finish(run)
    assert run.returncode == 0, text
    assert f'{newest} is no readable checkpoint: it is truncated or damaged' in text
    assert 'iteration 12' in text and trainings.weights(folder, 'kept') == expected
    for file in states.iterdir():
        file.write_bytes(b'broken')
    run = trainings.start(options, '--auto_resume')
    text = trainings.finish(run)
    assert run.returncode == 2 and 'no training state can be read' in text and '24.state' in text
    assert (folder / 'experiments' / 'kept' / 'options.yml').exists(), 'nothing was moved or begun anew'


@pytest.mark.slow
def test_losses_that_stay_broken_end_the_run_with_the_last_good_weights(folder):
    options = trainings.write_options(
        folder,
        'diverged',
        train__optim_g={'type': 'SGD', 'lr': 1e30},
        train__max_bad_steps=3,
        train__ldt__exchange_every=1,
    )
    run = trainings.start(options)
    text = trainings.finish(run)
    assert run.returncode == 2 and 'Traceback' not in text
    assert 'Step skipped, 3 in a row and 3 in all: l_pix_primary is ' in text
    assert 'weights that gave a finite loss last are in the checkpoint of iteration 0\n' in text, (
        'that of the first step'
    )
    experiment = folder / 'experiments' / 'diverged'
    assert [file.name for file in (experiment / 'models').iterdir()] == ['net_g_0.pth']
    saved = load_checkpoint(experiment / 'models' / 'net_g_0.pth')['params']
    torch.manual_seed(3)
    expected = build_network(yaml.safe_load(options.read_text())['network_g']).state_dict()
    assert saved.keys() == expected.keys() and all(torch.equal(saved[name], expected[name]) for name in expected)


def test_checkpoints_of_a_step_that_exploded_are_set_aside(tmp_path, logged):
    small_run.make_pictures(tmp_path)
    changes = {'logger__save_checkpoint_freq': 1, 'logger__keep_checkpoints': 1, 'train__max_bad_steps': 2}
    changes |= {'val__val_freq': None, 'logger__save_best': None, 'datasets__test_0': None, 'train__total_iter': 9}
    # The rate rises to 1e30 at the fourth step, whose loss is finite, and whose weights give no finite loss.
    rate = {'type': 'SGD', 'lr': 1e-30}
    rises = {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 1e60}
    with pytest.raises(ValueError, match=r'gave a finite loss last are in the checkpoint of iteration 3$'):
        small_run.train(tmp_path, train__optim_g=rate, train__scheduler=rises, **changes)
    folder = tmp_path / 'experiments' / 'small'
    assert {file.name for file in (folder / 'models').iterdir()} == {'net_g_3.pth', 'net_g_4.pth.not_finite'}
    assert [file.name for file in (folder / 'training_states').iterdir()] == ['4.state.not_finite']
    assert all(
        tensor.isfinite().all() for tensor in load_checkpoint(folder / 'models' / 'net_g_3.pth')['params'].values()
    )
    assert [message for message in logged.warnings() if 'No checkpoint of iteration' in message] == [
        f'No checkpoint of iteration {iteration}: its loss is not finite' for iteration in (5, 6)
    ]


def test_a_run_that_ends_in_bad_steps_publishes_the_last_good_weights(tmp_path, logged):
    small_run.make_pictures(tmp_path)
    changes = {'logger__save_checkpoint_freq': None, 'train__max_bad_steps': 99, 'train__total_iter': 6}
    changes |= {'val__val_freq': None, 'logger__save_best': None, 'datasets__test_0': None}
    rises = {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 1e60}
    small_run.train(tmp_path, train__optim_g={'type': 'SGD', 'lr': 1e-30}, train__scheduler=rises, **changes)
    saved = load_checkpoint(tmp_path / 'experiments' / 'small' / 'models' / 'net_g_latest.pth')['params']
    assert all(tensor.isfinite().all() and tensor.abs().max() < 10 for tensor in saved.values())
    assert any('net_g_latest.pth holds the weights of iteration 3' in message for message in logged.warnings())
