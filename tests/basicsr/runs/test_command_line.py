"""What ends a command early, and what it says."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from basicsr.runs.command_line import LOST_PROCESS, OUT_OF_MEMORY, make_parser, run_from_command_line
from basicsr.runs.stopping import Stopped, StopSignals, end_if_broken_off


def fails_with(error):
    def run():
        raise error

    return run


def ended(error, debug=False):
    with pytest.raises(SystemExit) as end:
        run_from_command_line(fails_with(error), debug)
    return end.value.code


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.'),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: 9 GB"),
    ],
)
def test_out_of_memory_names_the_options_that_help(error, capsys):
    assert ended(error) == OUT_OF_MEMORY
    printed = capsys.readouterr().err
    for option in (
        *('batch_size_per_gpu', 'train.accumulate', 'gt_size', 'train.amp: bf16', 'use_checkpoint', 'val.tile_size'),
        str(error).splitlines()[0],
    ):
        assert option in printed
    assert 'Traceback' not in printed


def test_memory_that_really_runs_out_is_one_message():
    program = """
import sys, torch
from basicsr.runs.command_line import run_from_command_line
run_from_command_line(lambda: torch.empty(2**60, dtype=torch.uint8))
"""
    process = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert process.returncode == OUT_OF_MEMORY
    assert process.stderr.startswith('error: out of memory; what helps: ') and 'Traceback' not in process.stderr


def test_a_lost_process_ends_at_once_with_a_code_of_its_own():
    program = """
from basicsr.runs.command_line import run_from_command_line
def run():
    raise RuntimeError('[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1')
run_from_command_line(run)
"""
    process = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert process.returncode == LOST_PROCESS
    assert 'another process of this run has died' in process.stderr and 'Traceback' not in process.stderr


def test_mistakes_end_with_2_and_defects_with_a_traceback(capsys):
    assert ended(ValueError('train.lr: wrong')) == 2
    assert ended(KeyError('no arch')) == 2
    assert ended(OSError('disk')) == 2
    assert capsys.readouterr().err.count('(--debug shows where)') == 3
    with pytest.raises(ValueError, match='wrong'):
        run_from_command_line(fails_with(ValueError('wrong')), debug=True)
    with pytest.raises(RuntimeError, match='sizes'):
        run_from_command_line(fails_with(RuntimeError('sizes do not match')))
    with pytest.raises(AttributeError):
        run_from_command_line(fails_with(AttributeError('a defect')))


def test_signals_have_the_exit_codes_of_shells(capsys):
    assert ended(Stopped(signal.SIGTERM, 'saved')) == 143
    assert ended(Stopped(signal.SIGINT, 'saved')) == 130
    assert ended(KeyboardInterrupt()) == 130
    assert 'saved\nsaved\n' in capsys.readouterr().err


def test_signals_are_noted_and_given_back(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals() as signals:
        assert signals.received() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received() == signal.SIGTERM
    assert capsys.readouterr().err.count('SIGTERM: saving after this iteration') == 1
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:  # a second Ctrl-C does not wait
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_breaks_a_validation_off_where_it_may_be(capsys):
    reached = []
    end_if_broken_off()
    with StopSignals() as signals:
        with signals.breaking_off():
            end_if_broken_off()
            os.kill(os.getpid(), signal.SIGINT)
            reached.append('the end of the picture')
            end_if_broken_off()
            reached.append('the next picture')
        assert signals.received() == signal.SIGINT and reached == ['the end of the picture']
        end_if_broken_off()
        with pytest.raises(KeyboardInterrupt), signals.breaking_off():
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_have_no_signals():
    outcome = []

    def run():
        with StopSignals() as signals:
            outcome.append(signals.received())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert outcome == [0]


def test_torchrun_is_seen_without_being_named(monkeypatch):
    assert make_parser(True).parse_args(['-opt', 'x']).launcher == 'none'
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'none')
    assert make_parser(True).parse_args(['-opt', 'x']).launcher == 'pytorch'
