"""Processes of one run must see the same options and files; what differs is found before anything is trained."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from basicsr.runs.identity import changes
from basicsr.utils.dist_util import all_gather, get_dist_info, raise_once

_SHOWN = 3
_WAITING = 16
"""Threads that ask for the sizes of files, which may lie on a network drive."""


def check_same_options(written: dict) -> None:
    """Compare the options of all processes; every process must call this.

    Args:
        written: The options as they were written, merged.

    Raises:
        ValueError: In the first process, and all end; names the options of the first that differs from process 0.
    """
    everyones = all_gather(written)
    for rank, other in enumerate(everyones):
        shown = '\n  '.join(
            f'{option}: {own!r} in process 0, {its!r} in process {rank}'
            for option, own, its in changes(everyones[0], other)
        )
        if shown:
            error = f'the processes of this run have different options; give all of them the same file:\n  {shown}'
            raise_once(ValueError(error))


def check_same_data(datasets: Mapping[str, Any]) -> None:
    """Compare the files of the data sets in all processes, by name and size; every process must call this.

    Args:
        datasets: By option: `datasets.val`. One that does not say its `paths` is compared by its length.

    Raises:
        ValueError: In the first process, and all end; names the data set and files that differ.
    """
    if get_dist_info()[1] == 1:
        return
    own = {option: list(_samples(dataset)) for option, dataset in datasets.items()}
    digests = all_gather({option: _digest(samples) for option, samples in own.items()})
    for option in own:
        if len({each[option] for each in digests}) > 1:
            first, *others = all_gather(own[option])
            rank, other = next((rank, other) for rank, other in enumerate(others, 1) if other != first)
            error = ValueError(
                f'{option}: the processes of this run do not see the same files: {_difference(first, other, rank)}; '
                'every machine needs the same copy of the data'
            )
            raise_once(error)


def _digest(samples: list[str]) -> str:
    return hashlib.sha256('\0'.join(samples).encode(errors='surrogateescape')).hexdigest()


def _difference(first: list[str], other: list[str], rank: int) -> str:
    parts = []
    for process, own, others in ((0, first, set(other)), (rank, other, set(first))):
        alone = [text for text in own if text not in others]
        if alone:
            more = f' and {len(alone) - _SHOWN} more' if len(alone) > _SHOWN else ''
            parts.append(f'process {process} alone has {", ".join(alone[:_SHOWN])}{more}')
    return '; '.join(parts) or 'they come in another order'


def _samples(dataset: Any) -> Iterator[str]:
    """A text for each sample, the same wherever the data lies: its files, from their common folder on, and sizes."""
    entries = getattr(dataset, 'paths', None)
    if entries is None:
        yield f'{len(dataset)} samples of {type(dataset).__name__}'
        return
    samples = [[str(path) for path in files_of(entry)] for entry in entries]
    samples += [[os.path.join(folder, 'data.mdb')] for folder in databases_of(dataset)]
    folders = {os.path.dirname(file) for sample in samples for file in sample if os.path.isabs(file)}
    common = os.path.commonpath(folders) if folders else ''

    def described(sample: list[str]) -> str:
        return ', '.join(dict.fromkeys(f'{_name(file, common)}{_size(file)}' for file in sample))

    with ThreadPoolExecutor(_WAITING) as pool:
        yield from pool.map(described, samples)


def files_of(entry: Any) -> list[Any]:
    """The files, or keys of a database, of one entry of a data set's `paths`."""
    if isinstance(entry, dict):
        return [value for value in entry.values() if isinstance(value, str | os.PathLike)]
    return list(entry) if isinstance(entry, list | tuple) else [entry]


def databases_of(dataset: Any) -> list[str]:
    """The LMDBs that a data set reads."""
    backend = getattr(dataset, 'io_backend_opt', None)
    paths = backend.get('db_paths') if isinstance(backend, dict) else None
    groups = [paths] if isinstance(paths, str) else paths or []
    return [folder for group in groups for folder in ([group] if isinstance(group, str) else group)]


def _name(file: str, common: str) -> str:
    return os.path.relpath(file, common) if os.path.isabs(file) else file


def _size(file: str) -> str:
    try:
        return f' ({os.stat(file).st_size} bytes)'
    except (OSError, ValueError):  # a key of a database; or gone, which is found when it is read
        return ''
