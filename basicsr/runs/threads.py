"""Work that waits for disks or decoders, in threads."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm


def in_threads(function: Callable[[Any], Any], items: Collection[Any], workers: int, title: str) -> list[Any]:
    """`function` of each item, in order, with a progress bar; what has not begun is dropped where one fails."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        return list(tqdm(pool.map(function, items), title, len(items), disable=None))  # None: without a terminal
    finally:
        pool.shutdown(cancel_futures=True)
