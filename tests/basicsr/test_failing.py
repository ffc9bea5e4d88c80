"""Trainings whose data loading or validation fails for a reason of the machine: saved, told, and gone on with."""

import errno
import os
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch

from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.models.sr_model import SRModel
from basicsr.runs.command_line import run_from_command_line
from tests.small_run import LDT, check, everything, make_pictures, train, weights

CHANGES = {
    **{'train__total_iter': 9, 'train__ldt': LDT, 'val__val_freq': 4, 'logger__save_checkpoint_freq': 100},
    **{'datasets__train__use_hflip': True, 'datasets__test_0': None},
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('failing'))


@pytest.fixture(scope='module')
def expected(folder):
    """Weights of the run that nothing disturbs."""
    train(folder, name='whole', **CHANGES)
    return weights(folder, 'whole')


def ended(capsys, run):
    code = 0
    try:
        run_from_command_line(run)
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr().err
    return code, printed[max(0, printed.find('error: ')) :]  # the log before it goes to where a test before this was


def no_memory():
    np.zeros(2**58)


def no_memory_of_opencv():
    cv2.resize(np.zeros((3, 3), np.uint8), (2**20, 2**24))


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def many_files():
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def no_room():
    raise RuntimeError('unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)')


class Fails:
    """Lets a function run once in place of the n-th picture of a phase, in whatever process."""

    def __init__(self, folder, phase, after, fails):
        self.folder, self.phase, self.after, self.fails = folder / 'asked', phase, after, fails
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.whole = PairedImageDataset.__getitem__

    def __call__(self, dataset, index):
        if dataset.opt['phase'] == self.phase:
            count = len(list(self.folder.iterdir()))
            (self.folder / f'{count}_{os.getpid()}').touch()
            if count == self.after:
                self.fails()
        return self.whole(dataset, index)


@pytest.mark.parametrize(
    'phase, after, fails, what, more',
    [
        ('train', 20, killed, 'a worker of a data loader was killed', {'num_worker_per_gpu': 2}),
        ('train', 20, killed, 'a worker of a data loader was killed', {'prefetch_mode': 'cpu'}),
        ('train', 20, no_memory, 'out of memory', {'num_worker_per_gpu': 2}),
        ('train', 20, no_memory, 'out of memory', {}),
        ('train', 20, no_memory_of_opencv, 'out of memory', {}),
        ('train', 20, many_files, 'too many open files', {'num_worker_per_gpu': 1}),
        ('train', 20, no_room, 'shared memory (/dev/shm) is full', {'num_worker_per_gpu': 1}),
        ('val', 4, no_memory, 'out of memory', {}),
    ],
)
def test_a_run_that_the_machine_ends_is_saved_and_goes_on(
    folder, expected, monkeypatch, capsys, logged, phase, after, fails, what, more
):
    name = f'{phase}_{fails.__name__}_{"_".join(more)}'
    changes = {**CHANGES, 'name': name, **{f'datasets__train__{key}': value for key, value in more.items()}}
    with monkeypatch.context() as patch:
        fail = Fails(folder, phase, after, fails)
        patch.setattr(PairedImageDataset, '__getitem__', lambda dataset, index: fail(dataset, index))
        code, printed = ended(capsys, lambda: train(folder, **changes))
    error = printed.splitlines()
    assert code == 3 and error[0].startswith(f'error: {what}') and '; what helps: ' in error[0]
    assert error[-2].startswith('Saved at iteration ') and error[-1] == '(--debug shows where)'
    assert 'Traceback' not in printed
    iteration = int(error[-2].split()[3].rstrip(';'))
    states = list((folder / 'experiments' / name / 'training_states').iterdir())
    assert [file.name for file in states] == [f'{iteration}.state'] and 0 < iteration < 9
    code, printed = ended(capsys, lambda: train(folder, auto_resume=True, **changes))
    assert code == 0, printed
    assert any(f'iteration {iteration};' in record.getMessage() for record in logged.records)
    found = weights(folder, name)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_before_the_first_iteration_the_scores_are_kept(folder, expected, monkeypatch, capsys):
    changes = {**CHANGES, 'name': 'scored'}
    with monkeypatch.context() as patch:
        fail = Fails(folder, 'train', 7, no_memory)  # rehearsal: 3; scores: 4
        patch.setattr(PairedImageDataset, '__getitem__', lambda dataset, index: fail(dataset, index))
        code, printed = ended(capsys, lambda: train(folder, **changes))
    assert code == 3 and 'Saved at iteration 0; --auto_resume goes on from there' in printed
    code, printed = ended(capsys, lambda: train(folder, auto_resume=True, **changes))
    assert code == 0 and 'Score layers' not in printed
    found = weights(folder, 'scored')
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize('fails', [many_files, no_memory, no_room])
def test_what_cannot_be_saved_is_not_said_to_be(folder, monkeypatch, capsys, fails):
    with monkeypatch.context() as patch:
        fail = Fails(folder, 'train', 20, no_memory)
        patch.setattr(PairedImageDataset, '__getitem__', lambda dataset, index: fail(dataset, index))
        patch.setattr(SRModel, 'save', lambda *arguments: fails())
        code, printed = ended(capsys, lambda: train(folder, name='unsaved', **CHANGES))
    assert code == 3 and 'Could NOT be saved at iteration 6' in printed and 'Saved at' not in printed
    assert 'Unable to allocate' in printed, 'the error that ended the run'


@pytest.mark.slow
@pytest.mark.parametrize('run', [train, check])
def test_a_missing_compiler_is_found_before_a_run(folder, monkeypatch, capsys, run):
    monkeypatch.setenv('PATH', '/nowhere')
    monkeypatch.setenv('CXX', '/nowhere/g++')
    before = everything(folder)
    code, printed = ended(capsys, lambda: run(folder, name='compiled', train__compile=True))
    assert code == 2 and 'Traceback' not in printed
    assert 'train.compile: torch.compile does not work here: ' in printed and 'install a C++ compiler' in printed
    assert everything(folder) == before
