"""A look at a checkpoint's bytes before torch reads them.

Torch's reader is native code that takes an archive's directory and a pickle's sizes at their word: an entry marked as a
folder, or a storage that claims more bytes than its entry has, becomes memory of somebody else.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from typing import Any, BinaryIO

_FOLDER = 0x10
"""In an entry's attributes: a folder, of which torch reads nothing."""
_ITEMSIZE = {
    **{'ComplexDouble': 16, 'ComplexFloat': 8, 'Double': 8, 'Long': 8, 'Float': 4, 'Int': 4, 'QInt32': 4},
    **{'Half': 2, 'BFloat16': 2, 'Short': 2},
}
"""Bytes of an element in torch's storages, by their names; 1 in all others."""


def check_archive(file: BinaryIO) -> None:
    """Verify the directory and the checksums of a zip archive that torch wrote, and the sizes of its storages.

    Raises:
        ValueError: It is compressed, or claims what it does not hold.
        Exception: Whatever a parser comes up with for other damage.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        _check_directory(entries, os.fstat(file.fileno()).st_size)
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f'{damaged} is damaged')
        folder = entries[0].filename.partition('/')[0]
        sizes = {entry.filename.removeprefix(f'{folder}/'): entry.file_size for entry in entries}
        pickled = archive.read(f'{folder}/data.pkl')
    _Storages(pickled, sizes).load()


def _check_directory(entries: list[zipfile.ZipInfo], size: int) -> None:
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f'{entry.filename} is compressed, as torch.save never does it')
        if entry.external_attr & _FOLDER or entry.is_dir() or entry.file_size != entry.compress_size:
            raise ValueError(f'the entry of {entry.filename} is damaged')
    if len({entry.filename.lower() for entry in entries}) < len(entries):  # torch ignores case
        raise ValueError('two entries have one name')
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError('its entries overlap')


class _Inert:
    """Stands for whatever a pickle names: it takes everything and does nothing."""

    itemsize = 1

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def _ignored(self, *args: Any) -> None: ...

    __setitem__ = __setstate__ = append = extend = add = _ignored


class _Storages(pickle._Unpickler):
    """Compares the storages that a pickle asks for with the entries that hold them; nothing in it is called.

    This is the unpickler in Python: the one in C allocates what a damaged pickle claims.
    """

    def __init__(self, pickled: bytes, sizes: dict[str, int]) -> None:
        super().__init__(io.BytesIO(pickled), encoding='utf-8')
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> type:
        return type(name, (_Inert,), {'itemsize': _ITEMSIZE.get(name.removesuffix('Storage'), 1)})

    def persistent_load(self, pid: tuple) -> _Inert:
        kind, stored, key, _, count = pid
        held, claimed = self._sizes.get(f'data/{key}', 0), count * stored.itemsize
        if kind != 'storage' or not 0 <= claimed <= held:
            raise ValueError(f'the storage data/{key} holds {held} bytes, and {claimed} are asked for')
        return _Inert()
