"""A few samples of a data set, with which a run tries itself out: a batch, the smallest picture, a large one."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from basicsr.data.data_sampler import SeededDataset
from basicsr.data.folders import as_list
from basicsr.utils.lmdb_util import META_INFO

INPUTS = ('lq', 'image', 'gt')
"""Keys of an item's pictures; the first that is there is what the network gets."""
_PROBED = 8
"""Items that are loaded of a data set that does not say its paths."""
_WAITING = 8
"""Threads that wait for the heads of files, which may lie on a network drive."""
_LMDB_LINE = re.compile(r'(.+)\.\w+ \((\d+),(\d+),\d+\)')

Sizes = Mapping[int, tuple[int, int]]
"""Height and width of what the network gets, by the item's index, of the items for which they are known."""


def first_batch(loader: Any) -> Any:
    """The first batch of a loader, made here, without its workers."""
    places = islice(iter(loader.sampler), loader.batch_size)
    collate = loader.collate_fn or default_collate
    return collate([loader.dataset[place] for place in places])


def item_of(dataset: Any, index: int) -> Any:
    """An item, of a training set whose loader asks for it by index and seed, too."""
    return dataset[(index, (0, 0, 0))] if isinstance(dataset, SeededDataset) else dataset[index]


def size_of(item: Any, key: str) -> tuple[int, int] | None:
    """Height and width of an item's picture `key`, where it has one."""
    picture = item.get(key) if isinstance(item, dict) else None
    return tuple(picture.shape[-2:]) if isinstance(picture, Tensor) and picture.ndim >= 2 else None


def input_size(item: Any) -> tuple[int, int] | None:
    """Height and width of what the network gets of an item, or of what it is compared to."""
    return next((size for key in INPUTS if (size := size_of(item, key)) is not None), None)


def sizes_of(dataset: Any) -> dict[int, tuple[int, int]]:
    """`Sizes` of a data set: the one that it says, those in the heads of its files or in the list of its LMDB, or else
    those of a few items that are loaded.

    Items whose size cannot be told are left out.
    """
    if said := getattr(dataset, 'item_size', None):
        return dict.fromkeys(range(len(dataset)), tuple(said))
    paths = [_first_path(one) for one in getattr(dataset, 'paths', None) or []]
    listed = _sizes_in_lmdbs(dataset)
    with ThreadPoolExecutor(_WAITING) as pool:
        found = dict(enumerate(pool.map(listed.get if listed else _size_in_head, paths)))
    known = {index: size for index, size in found.items() if size is not None}
    return known or _sizes_of_a_few(dataset)


def _sizes_of_a_few(dataset: Any) -> dict[int, tuple[int, int]]:
    last = len(dataset) - 1
    chosen = sorted({place * last // (_PROBED - 1) for place in range(_PROBED)}) if last >= 0 else []
    items = ((index, item_of(dataset, index)) for index in chosen)
    found = {index: input_size(item) for index, item in items}
    return {index: size for index, size in found.items() if size is not None}


def _first_path(paths: Any) -> str | None:
    """The path of lq, or of what there is, in an entry of a data set's `paths`."""
    if isinstance(paths, dict):
        paths = paths.get('lq_path') or paths.get('gt_path') or next(iter(paths.values()), None)
    return os.fspath(paths) if isinstance(paths, str | os.PathLike) else None


def file_of(dataset: Any, index: int) -> str:
    """The path of an item's lq, or of what there is, where the data set says it; else its index."""
    paths = getattr(dataset, 'paths', None)
    return (_first_path(paths[index]) if paths else None) or f'item {index}'


def _size_in_head(path: str | None) -> tuple[int, int] | None:
    with suppress(Exception), Image.open(path) as picture:  # whatever a parser comes up with for other bytes
        return picture.size[::-1]
    return None


def _sizes_in_lmdbs(dataset: Any) -> dict[str, tuple[int, int]]:
    """By path, the sizes in the lists of the LMDBs that a data set reads lq from."""
    backend = getattr(dataset, 'io_backend_opt', None)
    if not isinstance(backend, dict) or not backend.get('db_paths'):
        return {}
    databases = backend['db_paths']
    folders = as_list(databases if isinstance(databases, str) else databases[0])
    sizes = {}
    for folder in folders:
        with suppress(OSError):
            for line in (Path(folder) / META_INFO).read_text(encoding='utf-8-sig').splitlines():
                if match := _LMDB_LINE.match(line):
                    key = f'{folder}/{match[1]}' if len(folders) > 1 else match[1]
                    sizes[key] = int(match[2]), int(match[3])
    return sizes


def smallest(sizes: Sizes) -> int | None:
    """The index of the item with the shortest side."""
    return min(sizes, key=lambda index: (min(sizes[index]), max(sizes[index])), default=None)


def largest(sizes: Sizes) -> int | None:
    """The index of the item with most pixels."""
    return max(sizes, key=lambda index: sizes[index][0] * sizes[index][1], default=None)


def cut(item: Any, scale: int, side: int) -> Any:
    """The upper left corner of an item's pictures, `side` pixels of lq at most; an item with others stays as it is."""
    pictures = {key: value for key, value in item.items() if _is_picture(value)} if isinstance(item, dict) else {}
    if 'lq' not in pictures or max(pictures['lq'].shape[-2:]) <= side:
        return item
    height, width = pictures['lq'].shape[-2:]
    factors = {(height, width): 1, (height * scale, width * scale): scale}
    if any(tuple(value.shape[-2:]) not in factors for value in pictures.values()):
        return item
    for key, value in pictures.items():
        length = side * factors[tuple(value.shape[-2:])]
        pictures[key] = value[..., :length, :length].clone()
    return {**item, **pictures}


def _is_picture(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim >= 3


@contextmanager
def undisturbed(dataset: Any) -> Iterator[None]:
    """On leaving, attributes of a data set, and random numbers of its own, are what they were on entering."""
    before = dict(vars(dataset)) if hasattr(dataset, '__dict__') else {}
    states = [_put_back(value) for value in before.values()]
    with ExitStack() as stack:
        for value in before.values():
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Dataset):
                    stack.enter_context(undisturbed(inner))
        try:
            yield
        finally:
            for put_back in states:
                put_back()
            if before:
                vars(dataset).clear()
                vars(dataset).update(before)


def _put_back(value: Any) -> Callable[[], Any]:
    """What puts a generator of random numbers, a list or a dictionary back as it is now."""
    if isinstance(value, np.random.Generator):
        state = value.bit_generator.state
        return lambda: setattr(value.bit_generator, 'state', state)
    if isinstance(value, np.random.RandomState):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, random.Random):
        state = value.getstate()
        return lambda: value.setstate(state)
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, list):
        items = value.copy()
        return lambda: value.__setitem__(slice(None), items)
    if isinstance(value, dict):
        entries = value.copy()
        return lambda: (value.clear(), value.update(entries))
    return lambda: None
