"""Ending a run by Ctrl-C or SIGTERM without losing the iteration in hand."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from basicsr.utils.dist_util import get_dist_info, highest

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_breakable: StopSignals | None = None
"""Whose `breaking_off()` is open."""


class Stopped(Exception):
    """A signal has ended a run, which has saved what it needs to go on.

    Attributes:
        exit_code: 130 for Ctrl-C and 143 for SIGTERM, as shells have it.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopSignals:
    """While this context is open, SIGINT and SIGTERM are noted instead of obeyed; a second Ctrl-C is obeyed at once.

    In a thread other than the main one, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._received = 0

    def __enter__(self) -> StopSignals:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self._received == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._received and get_dist_info()[0] == 0:
            sys.stderr.write(f'\n{signal.Signals(number).name}: saving after this iteration …\n')
        self._received = self._received or number

    def received(self) -> int:
        """The signal that any process of the run has received, or 0; the same in all of them, which must all ask."""
        return highest(self._received)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """A block, such as a validation, that a signal ends at its next `end_if_broken_off()`, in a process alone.

        Nothing is raised anywhere else: networks that lend their weights, for one, get them back undisturbed.
        """
        global _breakable
        _breakable = self if get_dist_info()[1] == 1 else None
        try:
            yield
        except _BrokenOff:
            pass
        finally:
            _breakable = None


def end_if_broken_off() -> None:
    """End the block of `StopSignals.breaking_off` that this is called in, where a signal was received."""
    if _breakable is not None and _breakable._received:
        raise _BrokenOff


class _BrokenOff(BaseException):
    """Not an Exception, which a metric or a library might catch."""
