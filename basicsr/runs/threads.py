"""Threads for work that waits for disks or decoders."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm


def in_threads(function: Callable[[Any], Any], items: Collection[Any], workers: int, title: str) -> list[Any]:
    """Map `function` over the items, in order, with a progress bar; if one fails, the ones not started are dropped."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        return list(tqdm(pool.map(function, items), title, len(items), disable=None))  # None: no bar without a terminal
    finally:
        pool.shutdown(cancel_futures=True)
