"""Data loaders whose workers may die: where that is noticed, and what it is called."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

_END = object()
_TRIES, _DYING = 20, 0.05
"""How often, and every how many seconds, a worker is looked at whose connection broke: it may be about to die."""
_of_torch: Callable[[int, Any], None] | None = None
"""The handler by which torch raises an error, in the main thread, when a worker has died."""


class WatchedLoader(DataLoader):
    """A DataLoader that notices dead workers while it waits for a batch, and only then.

    torch raises the error in a signal handler, wherever the main thread is: in the midst of a step, too, after which
    the network is in no state to be saved. Where the death breaks a connection first, the error says so and not why.

    Raises:
        RuntimeError: A worker has died, or shared memory is full.
    """

    def __iter__(self) -> Iterator[Any]:
        if not self.num_workers:
            return super().__iter__()
        with _watching():
            return _watched(_started(super().__iter__))


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        while True:
            with _watching():
                batch = next(batches, _END)
            if batch is _END:
                return
            yield batch
    except Exception:
        _stop(batches)
        raise


def _stop(batches: Iterator[Any]) -> None:
    """End the workers now, whose memory may be short, and not when the error's frames are deleted."""
    workers = getattr(batches, '_workers', [])
    if not all(worker.is_alive() for worker in workers):
        for worker in workers:  # which may wait for what a dead one holds; torch gives each of them seconds to end
            worker.kill()
    if hasattr(batches, '_shutdown_workers'):
        batches._shutdown_workers()


@contextmanager
def _watching() -> Iterator[None]:
    """Inside, the death of a worker is an error; outside, it waits for the next time that this is entered."""
    is_main = threading.current_thread() is threading.main_thread() and hasattr(signal, 'SIGCHLD')
    if is_main and _of_torch:
        signal.signal(signal.SIGCHLD, _of_torch)
    try:
        _look_for_the_dead()
        yield
    except Exception as error:
        for _ in range(_TRIES if isinstance(error, ConnectionError | EOFError) else 1):
            _look_for_the_dead(error)
            time.sleep(_DYING)
        raise
    finally:
        if is_main:
            _put_off()


def _look_for_the_dead(cause: Exception | None = None) -> None:
    if _of_torch:
        try:
            _of_torch(signal.SIGCHLD, None)
        except RuntimeError as error:
            raise error from cause


def _put_off() -> None:
    """Replace torch's handler, which it sets with the first loader that has workers, until the next batch is due."""
    global _of_torch
    handler = signal.getsignal(signal.SIGCHLD)
    if callable(handler) and handler is not _later:
        _of_torch = handler
        signal.signal(signal.SIGCHLD, _later)


def _later(number: int, frame: Any) -> None:
    """The signal is not lost: `_watching` asks after workers that have died since."""


def _started(start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """The iterator of a loader, whose workers and queues `start` makes."""
    try:
        return start()
    except OSError as error:
        _is_made_in_part()
        if error.errno == errno.ENOSPC:  # from semaphores, without a word on where
            raise RuntimeError('no space left in shared memory (/dev/shm) for the workers of a data loader') from error
        raise


def _is_made_in_part() -> None:
    """Keep the iterator of torch whose making the current exception ended from complaining when it is deleted."""
    traceback = sys.exc_info()[2]
    while traceback is not None:
        made = traceback.tb_frame.f_locals.get('self')
        if type(made).__name__ == '_MultiProcessingDataLoaderIter':
            made._shutdown = True
        traceback = traceback.tb_next
