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
