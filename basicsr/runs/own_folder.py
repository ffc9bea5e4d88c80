"""The folder of a run belongs to one run at a time, and nothing that a run reads is moved aside with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from basicsr.runs.lock import Held, locked
from basicsr.utils.dist_util import broadcast, raise_once


@contextmanager
def own_folder(opt: dict) -> Iterator[None]:
    """Hold the folder that a training or a test writes to, by `.<name>.lock` beside it; every process must call this.

    Args:
        opt: The resolved options.

    Raises:
        ValueError: Another process holds it; the message says which and since when.
        OSError: The lock cannot be made: the folder is read-only, or the disk is full.
    """
    folder, error = _folder(opt), None
    with ExitStack() as stack:
        if opt['rank'] == 0:
            try:
                for place in dict.fromkeys(
                    [folder.parent.resolve() / folder.name, folder.resolve()]
                ):  # it may be a link
                    stack.enter_context(locked(place.with_name(f'.{place.name}.lock'), f'the folder {folder}'))
            except Held as held:
                error = ValueError(f'name: {held}; wait for its end, or give this run another name')
            except OSError as failed:
                error = OSError(f'name: {folder} cannot be locked: {failed}')
        error = broadcast(error)
        if error is not None:
            raise_once(error)
        yield


def refuse_to_move_inputs(opt: dict) -> None:
    """Make sure that nothing the options name lies in a folder that is moved aside when the run begins.

    Raises:
        ValueError: Names the options and their paths.
    """
    moved = [Path(opt['path'][key]) for key in ('experiments_root', 'tb_logger', 'results_root') if key in opt['path']]
    moved = [folder.resolve() for folder in moved if folder.exists()]
    own = {'path': {key: value for key, value in opt['path'].items() if key not in _OUTPUTS}}
    inside = [
        f'{option}: {text}'
        for option, text in _texts({**opt, **own})
        if os.path.isabs(text)
        and os.path.exists(text)
        and any(Path(text).resolve().is_relative_to(folder) for folder in moved)
    ]
    if inside:
        raise ValueError(
            f'these lie in the folder of the run {opt["name"]} itself, which is moved aside when it begins anew; give '
            'the run another name, or copy them elsewhere:\n  ' + '\n  '.join(inside)
        )


_OUTPUTS = (
    *('experiments_root', 'results_root', 'tb_logger', 'models', 'training_states', 'log', 'visualization'),
    *('output_root', 'resume_state', 'resume_network'),
)


def _folder(opt: dict) -> Path:
    return Path(opt['path']['experiments_root' if opt['is_train'] else 'results_root'])


def _texts(value: Any, option: str = '') -> Iterator[tuple[str, str]]:
    """Every text in nested options, with its dotted key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f'{option}.{key}' if option else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, f'{option}[{index}]')
    elif isinstance(value, str):
        yield option, value
