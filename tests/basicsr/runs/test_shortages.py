"""What a machine runs out of: real errors, from the main process and from workers."""

import errno
import resource

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from basicsr.data.workers import WatchedLoader
from basicsr.runs.command_line import OUT_OF_MEMORY, run_from_command_line
from basicsr.runs.shortages import shortage_of
from basicsr.utils.img_util import imfrombytes
from basicsr.utils.misc import is_out_of_memory, told_by_worker


def numpy_memory():
    np.zeros(2**58)


def python_memory():
    bytearray(2**62)


def torch_memory():
    torch.empty(2**60)


def opencv_memory():
    cv2.resize(np.zeros((3, 3), np.uint8), (2**20, 2**24))


def no_memory_to_fork():
    raise OSError(errno.ENOMEM, 'Cannot allocate memory')


def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    try:
        kept = [open('/dev/null') for _ in range(50)]  # noqa: SIM115
        kept.clear()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def no_process():
    raise BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable')


def no_thread():
    raise RuntimeError("can't start new thread")


REAL = [
    *((one, 'out of memory') for one in (numpy_memory, python_memory, torch_memory, opencv_memory, no_memory_to_fork)),
    (many_files, 'too many open files'),
    (no_process, 'the system starts no more threads'),
    (no_thread, 'the system starts no more threads'),
]


class Failing(Dataset):
    def __init__(self, fails):
        self.fails = fails

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.fails()


def ended(run, capsys):
    code = None
    try:  # pytest.raises would keep the loader alive, in a cycle of frames that takes seconds to be deleted
        run_from_command_line(run)
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def raised(fails):
    """The error of a worker, without its frames."""
    try:
        list(WatchedLoader(Failing(fails), num_workers=1))
    except Exception as error:
        return error.with_traceback(None)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('fails, what', REAL)
def test_each_ends_with_3_and_what_helps(fails, what, workers, capsys):
    code, printed = ended(lambda: list(WatchedLoader(Failing(fails), num_workers=workers)), capsys)
    assert code == OUT_OF_MEMORY and 'Traceback' not in printed and 'Caught' not in printed
    assert printed.startswith(f'error: {what}') and '; what helps: ' in printed
    assert 'num_worker_per_gpu' in printed
    _, said, debug = printed.splitlines()
    assert said and debug == '(--debug shows where)'


TOLD = [
    ('unable to open shared memory object </torch_1_2_3> in read-write mode: Too many open files (24)', 'too many'),
    ('received 0 items of ancdata', 'too many open files'),
    ('unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)', 'shared memory'),
    ('unable to write to file </torch_1_2_0>: No space left on device (28)', 'shared memory'),
    ('unable to mmap 1024 bytes from file </torch_1_2_0>: Cannot allocate memory (12)', 'out of memory'),
    ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
     'shared memory. Please try to raise your shared memory limit.', 'shared memory'),
    ('DataLoader worker (pid 7) is killed by signal: Killed. ', 'a worker of a data loader was killed'),
    ('DataLoader worker (pid(s) 7, 8) exited unexpectedly', 'a worker of a data loader was killed'),
    ('Pin memory thread exited unexpectedly', 'a worker of a data loader was killed'),
    ('CUDA error: out of memory', 'out of memory'),
]  # fmt: skip
"""Words of torch, as it was seen to say them."""


@pytest.mark.parametrize('text, what', TOLD)
def test_words_of_torch(text, what):
    assert shortage_of(RuntimeError(text)).what.startswith(what)
    wrapped = ValueError('datasets.train: the first batch')
    wrapped.__cause__ = RuntimeError(text)
    assert shortage_of(wrapped).what.startswith(what)


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, 'No space left on device', 'net_g_5.pth'),
        ValueError('cannot read the picture out of shared memory.png'),
        KeyError('Too many open files'),
        RuntimeError('sizes do not match'),
        FileNotFoundError('/data/shared memory/1.png'),
    ],
)
def test_other_errors_are_none(error):
    assert shortage_of(error) is None and not is_out_of_memory(error)


def test_only_the_error_counts_not_the_code_that_raised_it():
    def fails():
        "can't allocate memory; Too many open files"
        raise RuntimeError('weights: a defect')  # can't allocate memory, Too many open files

    found = raised(fails)
    assert 'Too many open files' in str(found), 'torch shows the lines of the code'
    assert told_by_worker(found) == 'weights: a defect' and shortage_of(found) is None


@pytest.mark.parametrize(
    'error, told',
    [
        (ValueError('one line'), 'one line'),
        (KeyError('name'), "'name'"),
        (ValueError('first\n  second: line\nthird'), 'first\n  second: line\nthird'),
        (AssertionError(), 'AssertionError'),
    ],
)
def test_what_a_worker_says(error, told):
    def fails():
        raise error

    found = raised(fails)
    assert type(found) is type(error) and told_by_worker(found) == told
    assert told_by_worker(error) == ''


def test_a_picture_that_memory_is_too_small_for_is_not_broken(monkeypatch):
    def decode(*arguments):
        opencv_memory()

    monkeypatch.setattr(cv2, 'imdecode', decode)
    with pytest.raises(cv2.error) as found:
        imfrombytes(b'picture')
    assert is_out_of_memory(found.value)
