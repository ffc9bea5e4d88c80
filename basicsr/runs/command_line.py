"""The command line of the entry scripts."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress

import torch

from basicsr.runs.shortages import shortage_of
from basicsr.runs.stopping import Stopped
from basicsr.utils.dist_util import default_launcher, get_dist_info
from basicsr.utils.logger import say_what_was_not_written
from basicsr.utils.misc import told_by_worker

INTERRUPTED = 130
"""Exit code of a run ended by Ctrl-C, by shell convention."""
MISTAKE = 2
OUT_OF_MEMORY = 3
"""Of this or of something else that a machine has too little of, see `shortages`."""
LOST_PROCESS = 4
_GOES_ON = 'a training with a saved state goes on with --auto_resume'
_COMPILERS = ('torch._dynamo', 'torch._inductor')


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and message for an error that is no defect of the program; code 0 for others.

    That is a mistake of the user, a machine that is short of something, or another process that is gone.
    """
    text, shortage = str(error), shortage_of(error)
    if shortage:
        said = told_by_worker(error) or text or type(error).__name__
        return OUT_OF_MEMORY, f'{shortage.what}; what helps: {shortage.helps}\n{said.splitlines()[0]}'
    lost = ('Connection closed by peer', 'Connection reset by peer', 'Timed out waiting', 'NCCL', 'gloo/transport')
    is_lost = isinstance(error, RuntimeError) and any(part in text for part in lost)
    if is_lost or isinstance(error, torch.distributed.DistError):
        why = 'another process of this run has died or stopped responding; its own message says why'
        return LOST_PROCESS, f'{why}\n{text.splitlines()[0]}'
    if isinstance(error, OSError | ValueError | KeyError | ImportError):  # some of these are RuntimeErrors, too
        if isinstance(error, KeyError) and error.args:
            text = str(error.args[0])
        return MISTAKE, told_by_worker(error) or text
    if any(base.__module__.startswith(_COMPILERS) for base in type(error).__mro__):
        said = text.strip().splitlines()[0]
        return MISTAKE, f'train.compile: torch.compile does not manage this network here; leave it out\n{said}'
    return 0, ''


def _from_basicsr(assignment: str) -> str:
    path, sign, value = assignment.partition('=')
    return path.replace(':', '.') + sign + value


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--import`, whose values are stored in `imports`."""
    parser.add_argument(
        '--import',
        nargs='+',
        action='extend',
        default=[],
        dest='imports',
        metavar='FILE_OR_MODULE',
        help='modules of your own with networks, data sets, losses, …, see docs/your_modules.md',
    )


def make_parser(is_train: bool) -> argparse.ArgumentParser:
    """The command line that training and testing share."""
    parser = argparse.ArgumentParser(description='Train a network.' if is_train else 'Test a network.')
    parser.add_argument('-opt', metavar='FILE', required=not is_train, help='option file (YAML)')
    parser.add_argument(
        '--set', nargs='+', action='extend', default=[], metavar='a.b=value', help='change options; values are YAML'
    )
    parser.add_argument(
        '--force_yml',
        nargs='+',
        action='extend',
        dest='set',
        type=_from_basicsr,
        metavar='a:b=value',
        help="the same under BasicSR's name",
    )
    add_import_argument(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default=default_launcher(),
        help='what starts the processes; torchrun is detected automatically',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        '--check', action='store_true', help='check options, network, every picture and a first step; write nothing'
    )
    parser.add_argument('--debug', action='store_true', help='show tracebacks of errors in options and data')
    if not is_train:
        parser.add_argument(
            '--compare',
            nargs='+',
            action='extend',
            default=[],
            metavar='label=checkpoint',
            help='other networks to include in the tables; bicubic means interpolation',
        )
        parser.add_argument(
            '--self_ensemble',
            action='append_const',
            dest='set',
            const='val.selfensemble_testing=true',
            help="average over a picture's eight flips and rotations",
        )
    if is_train:
        parser.add_argument('--auto_resume', action='store_true', help='resume from the newest training state')
    return parser


def add_note(error: BaseException, note: str) -> None:
    """Add a line to what `run_from_command_line` says of an error; `BaseException.add_note` of Python 3.11."""
    error.__notes__ = [*getattr(error, '__notes__', []), note]


def run_from_command_line(run: Callable[[], None], debug: bool = False, goes_on: str = _GOES_ON) -> None:
    """Call `run` and turn errors into a one-line message and an exit code.

    2: a mistake in options or data, a full disk, losses that are not finite. 3: out of memory, of shared memory, open
    files or threads, or a killed worker. 4: another process of the run has died. 130, 143 and 129: Ctrl-C, SIGTERM,
    SIGHUP.

    Args:
        run: The command.
        debug: Let exceptions through, with their traceback.
        goes_on: How to continue after Ctrl-C, for the message.
    """
    try:
        try:
            run()
        finally:
            say_what_was_not_written()
    except Stopped as stop:
        _say(str(stop))
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        _say(f'\ninterrupted; {goes_on}')
        sys.exit(INTERRUPTED)
    except Exception as error:
        code, message = (0, '') if debug else _explained(error)
        if not code:
            raise
        _say('\n'.join([f'error: {message}', *getattr(error, '__notes__', []), '(--debug shows where)']))
        # A process group whose processes end at different places may wait for them on shutdown.
        os._exit(code) if code != MISTAKE and get_dist_info()[1] > 1 else sys.exit(code)


def _say(text: str) -> None:
    with suppress(OSError):  # a full disk that the output goes to is no reason for another exit code
        sys.stderr.write(f'{text}\n')
        sys.stderr.flush()
