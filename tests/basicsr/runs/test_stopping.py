import os
import signal

import pytest

from basicsr.runs.stopping import StopSignals


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_recorded_and_obeyed_again_afterwards(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received() == 0
        os.kill(os.getpid(), number)
        assert signals.received() == number
    assert signal.getsignal(number) == before


def test_nohup_is_obeyed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_what_a_shell_starts_in_the_background_can_be_stopped(number):
    before = signal.signal(number, signal.SIG_IGN)  # of SIGINT, scripts do that for `command &`
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), number)
            assert signals.received() == number
    finally:
        signal.signal(number, before)
