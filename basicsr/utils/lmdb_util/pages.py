"""A look at the pages of an LMDB before LMDB maps it into memory.

LMDB follows page numbers without asking whether the file has such pages; one beyond its end, as where a copy broke
off, kills the process by SIGBUS. The layout is that of LMDB 0.9 on machines of 64 bits.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import BinaryIO

from basicsr.utils.misc import sizeof_fmt

_HEADER = 16
_PAGE, _META, _NODE = struct.Struct('=QHHHH'), struct.Struct('=IIQQ'), struct.Struct('=HHHH')
_TREE = struct.Struct('=IHHQQQQQ')
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _META_PAGE, _BIG = 1, 2, 8, 1
_NO_PAGE = 2**64 - 1
_DEEPEST = 32


def check_lmdb_file(path: str | os.PathLike) -> int:
    """Verify that all pages of a database that LMDB may go to are in its file, and that nodes lie within their pages.

    Args:
        path: The file data.mdb.

    Returns:
        The size that it needs, in bytes.

    Raises:
        ValueError: They are not, or it is no database of this machine's kind; the message has no path.
    """
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        if sys.maxsize < 2**32:
            return size  # another layout
        try:
            page_size, last, root, depth = _newest(file, size)
            if (last + 1) * page_size > size:
                raise ValueError(
                    f'it is truncated: {sizeof_fmt(size)} are there of at least {sizeof_fmt((last + 1) * page_size)}'
                )
            _check_tree(file, page_size, last, root, depth)
        except (struct.error, OverflowError) as error:
            raise ValueError('it is truncated or damaged') from error
    return (last + 1) * page_size


def _newest(file: BinaryIO, size: int) -> tuple[int, int, int, int]:
    """(page size, last page, root page, depth) by the newer one of the two pages that describe the database."""
    head = _at(file, 0, _HEADER + _META.size + _TREE.size)
    magic, version, *_ = _META.unpack_from(head, _HEADER)
    if magic != _MAGIC or version != _VERSION:
        swapped = ', of a machine with another byte order' if magic == 0xDEC0EFBE else ''
        raise ValueError(f'it is no LMDB{swapped}' if magic != _MAGIC else f'it is an LMDB of format {version}, not 1')
    page_size = _TREE.unpack_from(head, _HEADER + _META.size)[0]
    if page_size not in (2**power for power in range(9, 17)):
        raise ValueError(f'it is damaged: pages of {page_size} bytes')
    found = []
    for place in (0, page_size):
        content = _at(file, place, _HEADER + _META.size + 2 * _TREE.size + 16)
        flags = _PAGE.unpack_from(content)[2]
        at = _HEADER + _META.size
        free, main = _TREE.unpack_from(content, at), _TREE.unpack_from(content, at + _TREE.size)
        last, transaction = struct.unpack_from('=QQ', content, at + 2 * _TREE.size)
        same = _META.unpack_from(content, _HEADER)[:2] == (magic, version) and free[0] == page_size
        if not same or not flags & _META_PAGE or last < 1:
            raise ValueError(f'it is damaged: its description at byte {place} is none')
        if main[1]:
            raise ValueError('its keys are of a kind that is not supported here, such as duplicates')
        found.append((transaction, (page_size, last, main[7], main[2])))
    return max(found)[1]


def _check_tree(file: BinaryIO, page_size: int, last: int, root: int, depth: int) -> None:
    waiting, seen = [] if root == _NO_PAGE else [(root, 1)], set()
    if depth > _DEEPEST:
        raise ValueError('it is damaged: its tree is too deep')
    while waiting:
        number, level = waiting.pop()
        if not 1 < number <= last or number in seen or level > depth:
            raise ValueError(f'it is damaged: its tree leads to page {number} of {last}')
        seen.add(number)
        page = _at(file, number * page_size, page_size)
        own, _, flags, lower, upper = _PAGE.unpack_from(page)
        is_leaf = level == depth
        if own != number or flags & (_BRANCH | _LEAF) != (_LEAF if is_leaf else _BRANCH):
            raise ValueError(f'it is damaged: page {number} is of another kind')
        if not _HEADER <= lower <= upper <= page_size or (not is_leaf and lower < _HEADER + 2):
            raise ValueError(f'it is damaged: page {number} has other bounds')
        for (place,) in struct.iter_unpack('=H', page[_HEADER : lower - lower % 2]):
            low, high, kind, key_size = _NODE.unpack_from(page, place)
            if place < lower or place + _NODE.size + key_size > page_size:
                raise ValueError(f'it is damaged: a key reaches beyond page {number}')
            if not is_leaf:
                waiting.append((low | high << 16 | kind << 32, level + 1))
                continue
            begin, length, end = place + _NODE.size + key_size, low | high << 16, page_size
            if kind == _BIG:
                (first,) = struct.unpack_from('=Q', page, begin)
                begin, end = first * page_size + _HEADER, (last + 1) * page_size
                if not 1 < first <= last:
                    raise ValueError(f'it is damaged: a value of page {number} begins beyond its end')
            elif kind:
                raise ValueError('its values are of a kind that is not supported here, such as further databases')
            if begin + length > end:
                raise ValueError(f'it is damaged: a value of page {number} reaches beyond its end')


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
