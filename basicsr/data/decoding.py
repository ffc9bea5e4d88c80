"""Pictures as classifiers see them: eight bits, RGB, upright; and as many in memory as there is room for."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from basicsr.data.data_util import listed
from basicsr.runs.threads import in_threads
from basicsr.utils.misc import file_fault, sizeof_fmt

_THREADS = max(4, os.cpu_count() or 1)
_broken: dict[tuple[str, int, int], str] = {}
"""By path, size and time of change, why a file cannot be read; '' for one that can."""


def read_rgb(path: str | os.PathLike[str]) -> np.ndarray:
    """Decode a picture by Pillow, as torchvision does: uint8, (h, w, 3).

    Grey, palette and CMYK become RGB, transparency is dropped, 16 bits are reduced to 8. EXIF orientation is applied,
    as in pictures for super-resolution. Of an animation or a file of several pages the first is read.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: It is no complete picture; the message names it.
    """
    if fault := file_fault(path):
        raise FileNotFoundError(f'{os.fspath(path)!r} is {fault}')
    try:
        with Image.open(path) as picture:
            return np.array(_eight_bits(ImageOps.exif_transpose(picture)).convert('RGB'))
    except MemoryError:
        raise
    except Exception as error:  # whatever a parser comes up with for other bytes
        why = ' '.join(str(error).replace(repr(os.fspath(path)), 'it').split()) or type(error).__name__
        raise ValueError(
            f'{os.fspath(path)!r} cannot be read as a picture: {why}; mend or remove it, or leave such pictures out '
            'with skip_broken: true'
        ) from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of grey in 16 bits in 8; others as they are."""
    if picture.mode == 'P' and 'transparency' in picture.info:
        return picture.convert('RGBA')
    if picture.mode != 'I' and not picture.mode.startswith('I;16'):
        if picture.mode == 'F':
            raise ValueError('its values are floats, of which it does not say how bright they are')
        return picture
    values = np.asarray(picture.convert('I'))
    if values.min() < 0 or values.max() > 65535:
        raise ValueError('its values are beyond 16 bits')
    return Image.fromarray((values / 257).round().astype(np.uint8))


def size_in_head(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of a picture, by the head of its file; EXIF orientation may swap them."""
    with Image.open(path) as picture:
        return picture.size[::-1]


def broken_pictures(paths: Sequence[str]) -> dict[str, str]:
    """Decode each file; returns why by path for those that fail. What was found is remembered while files stay."""

    def look(path: str) -> str:
        try:
            state = os.stat(path)
            key = (path, state.st_size, state.st_mtime_ns)
            if key not in _broken:
                _broken[key] = ''
                _broken[key] = _why_not(path)
            return _broken[key]
        except OSError as error:
            return str(error)

    return {path: why for path, why in zip(paths, in_threads(look, paths, _THREADS, 'Decoding'), strict=True) if why}


def _why_not(path: str) -> str:
    try:
        read_rgb(path)
    except (OSError, ValueError) as error:
        return str(error)
    return ''


class PictureCache:
    """Decoded pictures in one block of memory, which workers share that are forked.

    Args:
        paths: The files.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: One cannot be read; or they take more memory than is free, and nothing was decoded.
    """

    _alive: weakref.WeakValueDictionary[tuple[str, ...], PictureCache] = weakref.WeakValueDictionary()

    def __init__(self, paths: Sequence[str]) -> None:
        sizes = in_threads(_numbers_in, paths, _THREADS, 'Looking at sizes')
        self._starts = np.cumsum([0, *sizes])
        total, free, processes = int(self._starts[-1]), free_memory(), int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        said = f'cache: {len(paths):,} decoded pictures take {sizeof_fmt(total)} of memory'
        said += f' in each of {processes} processes' if processes > 1 else ''
        if free is not None and total * processes > free:
            raise ValueError(f'{said}, of which {sizeof_fmt(free)} is free; leave cache out, or make pictures smaller')
        logging.getLogger('basicsr').info('%s%s', said, '' if free is None else f', of {sizeof_fmt(free)} that is free')
        self._values = torch.empty(total, dtype=torch.uint8)
        self._shapes = in_threads(lambda place: self._fill(*place), list(enumerate(paths)), _THREADS, 'Decoding')

    @classmethod
    def of(cls, paths: Sequence[str]) -> PictureCache:
        """The one that already holds these files, for another data set of this process; else a new one."""
        key = tuple(paths)
        cache = cls._alive.get(key)
        if cache is None:
            cache = cls._alive[key] = cls(paths)
        return cache

    def _fill(self, index: int, path: str) -> tuple[int, ...]:
        picture = read_rgb(path)
        self._values[self._starts[index] : self._starts[index + 1]] = torch.from_numpy(picture).flatten()
        return picture.shape

    def __getitem__(self, index: int) -> Tensor:
        """A copy of a picture: uint8, (h, w, 3)."""
        return self._values[self._starts[index] : self._starts[index + 1]].reshape(self._shapes[index]).clone()


def _numbers_in(path: str) -> int:
    try:
        height, width = size_in_head(path)
    except Exception:  # whatever a parser comes up with for other bytes: the message of whoever decodes it says more
        return read_rgb(path).size
    return height * width * 3


def free_memory() -> int | None:
    """Bytes that a process can take without swapping, by the machine and by the limit of its container; or None."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:')]
    for folder, most, now, cached in (('', 'memory.max', 'memory.current', 'inactive_file'),
                                      ('memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes',
                                       'total_inactive_file')):  # fmt: skip
        group = Path('/sys/fs/cgroup', folder)
        try:
            limit, used = int((group / most).read_text()), int((group / now).read_text())
            state = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
            found.append(max(limit - used + int(state.get(cached, 0)), 0))  # of files, which give way
        except (OSError, ValueError):  # no such group, or one without a limit: max
            continue
    return min(found, default=None)


def without_broken(paths: Sequence[str]) -> set[str]:
    """The files that can be read; the log counts the others, and names the first few."""
    broken = broken_pictures(paths)
    if broken:
        said = listed(f'of {len(paths):,} pictures cannot be read and are left out (skip_broken)', list(broken))
        logging.getLogger('basicsr').warning('%s', said)
    return set(paths) - set(broken)
