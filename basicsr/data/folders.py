"""The pictures of a data set, in one or more folders or LMDBs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict

from basicsr.data.data_util import (
    check_folder,
    find_listed,
    listed,
    paired_paths_from_folder,
    paired_paths_from_lmdb,
    paired_paths_from_meta_info_file,
    paths_from_folder,
    paths_from_lmdb,
    paths_from_meta_info_file,
)
from basicsr.data.names import NameList, Spellings, read_names
from basicsr.utils.file_client import FileClient
from basicsr.utils.lmdb_util import lmdb_keys

OnePath = str | os.PathLike[str]
Paths = OnePath | Sequence[OnePath]
"""One path or several."""
_KEYS = ['lq', 'gt']


class IOBackend(TypedDict, total=False):
    """How files are read.

    Attributes:
        type: Where the pictures are: disk, in single files, or lmdb, in databases.
    """

    type: Literal['disk', 'lmdb']


def as_list(paths: Paths) -> list[str]:
    """One path or several, as a list of strings."""
    return [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def same_folders(first: Paths, second: Paths | None) -> bool:
    """Whether two options name the same folders in the same order."""
    return second is not None and [*map(os.path.abspath, as_list(first))] == [*map(os.path.abspath, as_list(second))]


def folder_mistakes(given: Mapping[str, Any], read: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Mistakes in the numbers of folders and of lists of names, as (argument, message).

    Args:
        given: The arguments of a data set.
        read: The names of those whose folders are read; the others are paired with the first.
    """
    counts = {key: len(as_list(given[key])) for key in read if given.get(key) is not None}
    for key, count in counts.items():
        if not count:
            yield key, 'must name a folder, or several; the list is empty'
    wanted = counts.get(read[0])
    for key, count in counts.items():
        if count and wanted and count != wanted:
            yield key, f'must name as many folders as {read[0]}, {wanted}, not {count}: they are paired in order'
    for key in ('meta_info_file', 'meta_info'):
        files = given.get(key)
        if isinstance(files, list | tuple) and wanted and len(files) != wanted:
            yield key, f'must be one file, or as many as {read[0]} has folders, {wanted}, not {len(files)}'


def find_pairs(
    lq: Paths, gt: Paths, filename_tmpl: str = '{}', meta_info: Paths | None = None, lmdb: bool = False
) -> list[dict[str, str]]:
    """Pair the pictures of `lq` and `gt`, folder by folder, in order.

    Args:
        lq, gt: Folders or LMDBs, equally many of each.
        filename_tmpl: As in `paired_paths_from_folder`.
        meta_info: Text file that names the pictures to use; default: all. With several folders, one file for each, or
            a single one, each of whose names must be in exactly one ground-truth folder.
        lmdb: Whether they are LMDBs.

    Returns:
        `{'lq_path': …, 'gt_path': …}` of each pair. The path of a picture in an LMDB is its key; with several LMDBs it
        is `<LMDB>/<key>`.

    Raises:
        FileNotFoundError, ImportError, ValueError: As for the functions of `basicsr.data.data_util`; or a name is in
            more than one folder.
    """
    lq, gt = as_list(lq), as_list(gt)
    pairs = []
    for place, *folders, names in zip(_places(gt), lq, gt, _lists(gt, 'dataroot_gt', meta_info, lmdb), strict=True):
        if lmdb:
            found = paired_paths_from_lmdb(folders, _KEYS, names, filename_tmpl, place)
            if place:
                found = [{f'{k}_path': f'{f}/{pair[f"{k}_path"]}' for k, f in zip(_KEYS, folders, strict=True)}
                         for pair in found]  # fmt: skip
        elif names is not None:
            found = paired_paths_from_meta_info_file(folders, _KEYS, names, filename_tmpl, place)
        else:
            found = paired_paths_from_folder(folders, _KEYS, filename_tmpl, place)
        pairs += found
    return pairs


def find_pictures(root: Paths, option: str, meta_info: Paths | None = None, lmdb: bool = False) -> list[str]:
    """The paths of the pictures in an option's folders or LMDBs; arguments, paths and errors as for `find_pairs`."""
    folders, paths = as_list(root), []
    for place, folder, names in zip(_places(folders), folders, _lists(folders, option, meta_info, lmdb), strict=True):
        if lmdb:
            keys = paths_from_lmdb(folder, names, f'{option}{place}')
            paths += [f'{folder}/{key}' for key in keys] if place else keys
        elif names is not None:
            paths += paths_from_meta_info_file(folder, names, f'{option}{place}')
        else:
            paths += paths_from_folder(folder, f'{option}{place}')
    return paths


def make_file_client(io_backend: Mapping[str, Any]) -> FileClient:
    """Build the file client that `io_backend` describes; for LMDB, with BasicSR's `db_paths` and `client_keys`."""
    arguments = dict(io_backend)
    return FileClient(arguments.pop('type', 'disk'), **arguments)


def io_backend_options(io_backend: Mapping[str, Any] | None, roots: Mapping[str, Paths]) -> dict[str, Any]:
    """The arguments, including `type`, of a `FileClient` that reads `roots`, given by their client keys."""
    options: dict[str, Any] = {'type': 'disk', **(io_backend or {})}
    if options['type'] == 'lmdb':
        folders = [as_list(root) for root in roots.values()]
        options['db_paths'] = [one[0] if len(one) == 1 else one for one in folders]
        options['client_keys'] = list(roots)
    return options


def _places(folders: Sequence[str]) -> list[str]:
    """The index that identifies one of several folders in messages: '[1]'."""
    return [f'[{index}]' if len(folders) > 1 else '' for index in range(len(folders))]


def _lists(folders: Sequence[str], option: str, meta_info: Paths | None, lmdb: bool) -> list[NameList | None]:
    """For each folder, the names of the pictures to use, or None for all."""
    if meta_info is None:
        return [None] * len(folders)
    files = as_list(meta_info)
    if len(files) == len(folders):
        return [read_names(file) for file in files]
    if len(files) > 1:
        raise ValueError(f'meta_info_file: {len(files)} files for the {len(folders)} folders of {option}')
    return _shared_out(read_names(files[0]), folders, option, lmdb)


def _shared_out(names: NameList, folders: Sequence[str], option: str, lmdb: bool) -> list[NameList]:
    """Split one list over several folders: each gets the names of its own pictures."""
    labels = [f'{option}{place}' for place in _places(folders)]
    if lmdb:
        keys = [Spellings(lmdb_keys(folder, label)) for folder, label in zip(folders, labels, strict=True)]
        having = [[known.find(os.path.splitext(name)[0]) is not None for known in keys] for _, name in names.names]
    else:
        for folder, label in zip(folders, labels, strict=True):
            check_folder(folder, label)
        listings: dict[str, Spellings] = {}
        having = [[find_listed(folder, name, listings) is not None for folder in folders] for _, name in names.names]
    absent, ambiguous = [], []
    for (number, name), there in zip(names.names, having, strict=True):
        if not any(there):
            absent.append(f'line {number}: {name}')
        elif sum(there) > 1:
            owners = ' and '.join(label for label, has in zip(labels, there, strict=True) if has)
            ambiguous.append(f'line {number}: {name} in {owners}')
    if absent:
        raise FileNotFoundError(listed(f'names of meta_info_file {str(names)!r} in none of {option}', absent))
    if ambiguous:
        problem = listed(f'names of meta_info_file {str(names)!r} in more than one folder', ambiguous)
        raise ValueError(f'{problem}; give a list of files, one for each folder')
    rows = list(zip(names.names, having, strict=True))
    return [NameList(names.file, tuple(row for row, there in rows if there[i])) for i in range(len(folders))]
