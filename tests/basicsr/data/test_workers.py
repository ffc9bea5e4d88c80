"""Loaders whose workers die, each in a way of its own."""

import errno
import gc
import multiprocessing
import os
import re
import signal
import time
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from basicsr.data.prefetch_dataloader import CPUPrefetcher, PrefetchDataLoader, read_ahead
from basicsr.data.workers import WatchedLoader

COUNT = 24


class Numbers(Dataset):
    """Items that are their own number; `fails` is called in the worker that loads item 9."""

    def __init__(self, fails=None):
        self.fails = fails

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        if index == 9 and self.fails:
            self.fails()
        return torch.full((300,), index)


def dies_of(number):
    return lambda: os.kill(os.getpid(), number)


def plain(data):
    return iter(WatchedLoader(data, 2, num_workers=2))


def prefetched(data):
    return iter(PrefetchDataLoader(1, dataset=data, batch_size=2, num_workers=2))


def ahead(data):
    return read_ahead(WatchedLoader(data, 2, num_workers=2))


def handed_out(data):
    prefetcher = CPUPrefetcher(WatchedLoader(data, 2, num_workers=2))
    return iter(prefetcher.next, None)


WAYS = pytest.mark.parametrize('batches', [plain, prefetched, ahead, handed_out])


def error_of(run):
    """What `run` raises, without the frames: a loader that a cycle of them keeps alive takes seconds to be deleted."""
    try:
        run()
    except Exception as error:
        return type(error), str(error)
    return None, ''


DEAD = r'DataLoader worker \(pid.* (is killed by signal|exited unexpectedly)'


@WAYS
def test_batches_are_those_of_a_plain_loader(batches):
    expected = list(DataLoader(Numbers(), 2))
    for _ in range(2):
        found = list(batches(Numbers()))
        assert len(found) == COUNT // 2 and all(map(torch.equal, found, expected))


@WAYS
@pytest.mark.parametrize(
    'fails', [dies_of(signal.SIGKILL), dies_of(signal.SIGBUS), dies_of(signal.SIGSEGV), lambda: os._exit(3)]
)
def test_a_dead_worker_is_called_so(batches, fails):
    kind, text = error_of(lambda: list(batches(Numbers(fails))))
    assert kind is RuntimeError and re.match(DEAD, text), text


@WAYS
def test_a_worker_that_dies_between_two_batches_ends_no_other_work(batches):
    found = batches(Numbers())
    next(found)
    worker = multiprocessing.active_children()[0].pid
    os.kill(worker, signal.SIGKILL)
    assert os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT).si_status == signal.SIGKILL
    for _ in range(1000):
        time.sleep(0)  # where a step would be, in which torch's handler would raise
    kind, text = error_of(lambda: list(found))
    assert kind is RuntimeError and re.match(DEAD, text), text


def test_an_error_in_a_worker_stays_what_it_is():
    def fails():
        raise ConnectionResetError('the server that the pictures are on')

    kind, text = error_of(lambda: list(plain(Numbers(fails))))
    assert kind is ConnectionResetError and 'the server that the pictures are on' in text


def test_no_room_for_semaphores_is_about_shared_memory(monkeypatch, capfd):
    taken = Counter()
    made = multiprocessing.synchronize.SemLock.__init__

    def init(self, *arguments, **more):
        taken['all'] += 1
        if taken['all'] > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made(self, *arguments, **more)

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, '__init__', init)
    kind, text = error_of(lambda: plain(Numbers()))
    assert kind is RuntimeError and text.startswith('no space left in shared memory (/dev/shm)')
    gc.collect()
    assert capfd.readouterr().err == '', "torch's half-made iterator complains"
