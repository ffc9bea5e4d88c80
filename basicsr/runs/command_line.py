"""The command line of the entry scripts."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable

import torch

from basicsr.runs.stopping import Stopped
from basicsr.utils.dist_util import default_launcher
from basicsr.utils.misc import is_out_of_memory

INTERRUPTED = 130
"""Exit code of a run ended by Ctrl-C, by shell convention."""
OUT_OF_MEMORY = 3
_GOES_ON = 'a training with a saved state goes on with --auto_resume'
LOST_PROCESS = 4

_LESS_MEMORY = (
    'out of memory; what helps: a lower datasets.train.batch_size_per_gpu (with train.accumulate for the same step), '
    'a smaller datasets.train.gt_size, train.amp: bf16, network_g.use_checkpoint: true; in validation and tests a '
    'smaller val.tile_size'
)


def _explain(error: RuntimeError) -> tuple[int, str]:
    """Exit code and message for torch's errors when memory runs out or another process is gone; code 0 otherwise."""
    text = str(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY, _LESS_MEMORY
    lost = ('Connection closed by peer', 'Connection reset by peer', 'Timed out waiting', 'NCCL', 'gloo/transport')
    if isinstance(error, torch.distributed.DistError) or any(part in text for part in lost):
        return LOST_PROCESS, 'another process of this run has died or stopped responding; its own message says why'
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

    2: a mistake in options or data, a full disk, losses that are not finite. 3: out of memory. 4: another process of
    the run has died. 130 and 143: Ctrl-C and SIGTERM.

    Args:
        run: The command.
        debug: Let exceptions through, with their traceback.
        goes_on: How to continue after Ctrl-C, for the message.
    """
    try:
        run()
    except Stopped as stop:
        sys.stderr.write(f'{stop}\n')
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write(f'\ninterrupted; {goes_on}\n')
        sys.exit(INTERRUPTED)
    except (OSError, ValueError, KeyError, ImportError) as error:  # some of these are RuntimeErrors, too
        if debug:
            raise
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if 'Original Traceback' in text:  # from a data loader worker: its last paragraph is the message
            text = re.split(r'\n\w*Error: ', text)[-1].strip()
        sys.stderr.write('\n'.join([f'error: {text}', *getattr(error, '__notes__', []), '(--debug shows where)\n']))
        sys.exit(2)
    except RuntimeError as error:
        code, message = _explain(error)
        if debug or not code:
            raise
        sys.stderr.write(f'error: {message}\n{str(error).splitlines()[0]}\n(--debug shows where)\n')
        # A process group that has lost a process may wait for it on shutdown.
        sys.stderr.flush()
        os._exit(code) if code == LOST_PROCESS else sys.exit(code)
