"""Trainings that a script or Slurm starts in several processes."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from scripts.benchmark import trainings

pytestmark = pytest.mark.slow

SCRIPT = trainings.ROOT / 'scripts' / 'dist_train.sh'
LONGEST = 180


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('dist')
    trainings.make_pictures(folder)
    return folder


def options(folder, name, **changes):
    return trainings.write_options(folder, name, **{'train__total_iter': 4, 'val__val_freq': 4, **changes})


def run_all(commands, environments):
    """What processes that need each other printed; all of them must succeed."""
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    runs = [
        subprocess.Popen(command, env={**os.environ, 'OMP_NUM_THREADS': '1', **environment}, **pipes)
        for command, environment in zip(commands, environments, strict=True)
    ]
    try:
        printed = [run.communicate(timeout=LONGEST)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0] * len(runs), printed
    return printed


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def test_two_machines_train_one_network(folder):
    common = {'NNODES': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': free_port(), 'PYTHON': sys.executable}
    command = [str(SCRIPT), '1', str(options(folder, 'nodes')), '--set', 'manual_seed=5']
    first, second = run_all([command] * 2, [{**common, 'NODE_RANK': rank} for rank in ('0', '1')])
    assert 'iter 4,' in first and 'iter 4,' not in second
    assert trainings.weights(folder, 'nodes')
    assert 'manual_seed: 5' in (folder / 'experiments' / 'nodes' / 'options.yml').read_text()

    # Three pictures, shared by two processes, have the mean that one process finds.
    weights = str(folder / 'experiments' / 'nodes' / 'models' / 'net_g_latest.pth')
    again = trainings.write_options(folder, 'again', path__pretrain_network_g=weights)
    (printed,) = run_all([[sys.executable, str(trainings.ROOT / 'basicsr' / 'test.py'), '-opt', str(again)]], [{}])
    spread, alone = (re.search(r'Validation val: psnr (\d+\.\d{4})', text)[1] for text in (first, printed))
    assert spread == alone


def test_slurm_starts_the_processes(folder, tmp_path):
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\nprintf "127.0.0.1\\nother\\n"\n')
    scontrol.chmod(0o755)
    common = {'SLURM_NODELIST': 'node[1-2]', 'SLURM_NTASKS': '2', 'MASTER_PORT': free_port()}
    common['PATH'] = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    command = [sys.executable, str(trainings.ROOT / 'Train_pip.py'), '-opt', str(options(folder, 'slurm'))]
    environments = [{**common, 'SLURM_PROCID': rank, 'SLURM_LOCALID': rank} for rank in ('0', '1')]
    first, second = run_all([[*command, '--launcher', 'slurm', '--auto_resume']] * 2, environments)
    assert 'iter 4,' in first and 'iter 4,' not in second
    assert trainings.weights(folder, 'slurm')


def test_processes_that_torchrun_stops_save_first(folder):
    run = trainings.start(options(folder, 'stopped', train__total_iter=100_000), processes=2)
    for line in run.stdout:
        if 'iter 3,' in line:
            os.kill(run.pid, signal.SIGTERM)  # torchrun alone, which hands it on
            break
    printed = trainings.finish(run)
    stopped = re.search(r'^SIGTERM: stopped after iteration (\d+) and saved it; --auto_resume', printed, re.M)
    assert stopped and run.returncode == 1, printed
    states = folder / 'experiments' / 'stopped' / 'training_states'
    assert f'{stopped[1]}.state' in {file.name for file in states.iterdir()}


@pytest.mark.parametrize(
    ('arguments', 'environment', 'message'),
    [
        ([], {}, 'usage: scripts/dist_train.sh PROCESSES OPTION_FILE'),
        (['two', 'x.yml'], {}, 'usage: scripts/dist_train.sh PROCESSES OPTION_FILE'),
        (['2', 'x.yml'], {'NNODES': '2'}, 'set NODE_RANK to the number of this machine'),
        (['2', 'x.yml'], {'NNODES': '2', 'NODE_RANK': '0'}, 'set MASTER_ADDR to the name of the first machine'),
    ],
)
def test_wrong_use_is_said(arguments, environment, message):
    clean = {key: value for key, value in os.environ.items() if key not in ('NNODES', 'NODE_RANK', 'MASTER_ADDR')}
    done = subprocess.run([SCRIPT, *arguments], env={**clean, **environment}, capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr


def test_slurm_without_srun_is_said(folder):
    environment = {key: value for key, value in os.environ.items() if not key.startswith('SLURM_')}
    command = [sys.executable, str(trainings.ROOT / 'Train_pip.py'), '-opt', str(options(folder, 'none'))]
    done = subprocess.run([*command, '--launcher', 'slurm'], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and '--launcher slurm needs the environment of srun' in done.stderr
