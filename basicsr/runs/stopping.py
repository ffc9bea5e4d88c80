"""Ending a run by Ctrl-C, SIGTERM or a closed terminal without losing the current iteration."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from basicsr.utils.dist_util import get_dist_info, highest

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else []))
_breakable: StopSignals | None = None
"""The `StopSignals` whose `breaking_off()` is active, if any."""


class Stopped(Exception):
    """A signal has ended a run, which has saved what it needs to resume.

    Attributes:
        exit_code: 130 for Ctrl-C, 143 for SIGTERM and 129 for SIGHUP, by shell convention.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopSignals:
    """Inside this context, SIGINT, SIGTERM and SIGHUP are recorded rather than obeyed; a second Ctrl-C acts at once.

    A SIGHUP that the run was started to ignore (nohup) stays ignored. Outside the main thread, where Python allows no
    signal handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._received = 0

    def __enter__(self) -> StopSignals:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            # A shell lets what it starts with & ignore SIGINT, too, by which cells of a grid are stopped.
            kept = [number for number in _SIGNALS[2:] if signal.getsignal(number) == signal.SIG_IGN]
            obeyed = [number for number in _SIGNALS if number not in kept]
            self._before = {number: signal.signal(number, self._note) for number in obeyed}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self._received == signal.SIGINT:
            raise KeyboardInterrupt
        if number not in (signal.SIGINT, signal.SIGTERM):
            _leave_the_closed_terminal()
        if not self._received and get_dist_info()[0] == 0:
            sys.stderr.write(f'\n{signal.Signals(number).name}: saving after this iteration …\n')
        self._received = self._received or number

    def received(self) -> int:
        """The signal that any process of the run has received, or 0; a collective call, with the same result in all."""
        return highest(self._received)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """A block, such as a validation, that a signal ends at its next `end_if_broken_off()`; for a single process.

        Nothing is raised anywhere else, so that, for example, networks that lend their weights get them back safely.
        """
        global _breakable
        _breakable = self if get_dist_info()[1] == 1 else None
        try:
            yield
        except _BrokenOff:
            pass
        finally:
            _breakable = None


def _leave_the_closed_terminal() -> None:
    """Let what is written to a terminal that is gone go nowhere: it would raise an error wherever a line is printed."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not _is_terminal_or_null(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _is_terminal_or_null(descriptor: int) -> bool:
    return os.isatty(descriptor) or os.path.samestat(os.fstat(descriptor), os.stat(os.devnull))


def end_if_broken_off() -> None:
    """End the enclosing `StopSignals.breaking_off` block if a signal was received."""
    if _breakable is not None and _breakable._received:
        raise _BrokenOff


class _BrokenOff(BaseException):
    """Not an Exception subclass, which a metric or a library might catch."""
