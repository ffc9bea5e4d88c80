"""Reading files for the datasets, behind BasicSR's `io_backend` option."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from basicsr.utils.lmdb_util import check_lmdb, read_lmdb
from basicsr.utils.misc import read_file


class FileClient:
    """Reads files from the disk, or pictures from LMDBs.

    Args:
        backend: `io_backend: {type: …}` of the options: disk or lmdb.
        db_paths: For lmdb: the folders; several of them under one key as a list.
        client_keys: For lmdb: the name of each folder in `get`, for example lq and gt.

    Raises:
        ValueError: Another backend, or entries that do not belong to it.
        FileNotFoundError: A folder holds no LMDB.
        ImportError: The package lmdb is not installed.
    """

    def __init__(
        self,
        backend: str = 'disk',
        db_paths: Sequence[str | Sequence[str]] | str | None = None,
        client_keys: Sequence[str] | str = 'default',
        **kwargs: object,
    ) -> None:
        if backend not in ('disk', 'lmdb'):
            raise ValueError(f'io_backend: type {backend!r} is not supported; it is disk or lmdb')
        extra = {**kwargs, **({'db_paths': db_paths} if backend == 'disk' and db_paths is not None else {})}
        if extra:
            raise ValueError(f'io_backend: type {backend} takes no other entries; remove {", ".join(sorted(extra))}')
        self._folders: dict[str, list[str]] | None = None
        if backend == 'lmdb':
            folders, names = ([item] if isinstance(item, str) else list(item or []) for item in (db_paths, client_keys))
            if not folders or len(folders) != len(names):
                raise ValueError(f'an LMDB client takes a key for each folder, not {names} for {folders}')
            self._folders = {}
            for name, item in zip(names, folders, strict=True):
                several = isinstance(item, list | tuple)
                self._folders[name] = [str(folder) for folder in (item if several else [item])]
                for index, folder in enumerate(self._folders[name]):
                    check_lmdb(folder, f'dataroot_{name}' + (f'[{index}]' if several else ''))

    def get(self, filepath: str | Path, client_key: str = 'default') -> bytes:
        """Return the bytes of a file; from an LMDB, those stored under `filepath` in the folder called `client_key`.

        If several folders share that name, `filepath` is `<folder>/<key>`.
        """
        if self._folders is None:
            return read_file(filepath)
        folders, key = self._folders[client_key], str(filepath)
        for folder in folders if len(folders) > 1 else ():
            if key.startswith(f'{folder}/'):
                return read_lmdb(folder, key.removeprefix(f'{folder}/'))
        return read_lmdb(folders[0], key)

    def get_text(self, filepath: str | Path) -> str:
        """Return a file's text, read as UTF-8 from the disk."""
        return read_file(filepath).decode()
