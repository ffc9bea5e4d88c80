"""The command line of the entry scripts."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

INTERRUPTED = 130
"""Exit code of a run that Ctrl-C ended, as shells have it."""


def _from_basicsr(assignment: str) -> str:
    path, sign, value = assignment.partition('=')
    return path.replace(':', '.') + sign + value


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
        help='the same, as BasicSR writes it',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='who starts processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--debug', action='store_true', help='show tracebacks of errors in options and data')
    if is_train:
        parser.add_argument('--auto_resume', action='store_true', help='go on from the newest training state')
    return parser


def run_from_command_line(run: Callable[[], None], debug: bool = False) -> None:
    """Run; a mistake in options or data ends in one message and exit code 2, Ctrl-C in one and 130.

    Args:
        run: What to do.
        debug: Let exceptions through, with their traceback.
    """
    try:
        run()
    except KeyboardInterrupt:
        sys.stderr.write('\ninterrupted; a training with a saved state goes on with --auto_resume\n')
        sys.exit(INTERRUPTED)
    except (OSError, ValueError, KeyError) as error:
        if debug:
            raise
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if 'Original Traceback' in text:  # from a worker of the data loader: its last paragraph is the message
            text = re.split(r'\n\w*Error: ', text)[-1].strip()
        sys.stderr.write(f'error: {text}\n(--debug shows where)\n')
        sys.exit(2)
