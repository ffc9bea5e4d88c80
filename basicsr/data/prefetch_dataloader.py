"""Having the next batch ready before it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader

from basicsr.data.workers import WatchedLoader

_END = object()


def read_ahead(batches: Iterable[Any], count: int = 1) -> Iterator[Any]:
    """Yield the items of `batches`, of which a thread has `count` more ready."""
    iterator, pool = iter(batches), ThreadPoolExecutor(max_workers=1)
    try:
        queue = deque(pool.submit(next, iterator, _END) for _ in range(count))
        while (batch := queue.popleft().result()) is not _END:
            queue.append(pool.submit(next, iterator, _END))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


class PrefetchDataLoader(WatchedLoader):
    """A loader of which a thread keeps the next batches ready (`prefetch_mode: cpu`).

    Args:
        num_prefetch_queue: Number of batches to keep ready.
        kwargs: Arguments of `WatchedLoader`.
    """

    def __init__(self, num_prefetch_queue: int, **kwargs: Any) -> None:
        if num_prefetch_queue < 1:
            raise ValueError(f'num_prefetch_queue must be at least 1, not {num_prefetch_queue}')
        super().__init__(**kwargs)
        self.num_prefetch_queue = num_prefetch_queue

    def __iter__(self) -> Iterator[Any]:
        return read_ahead(super().__iter__(), self.num_prefetch_queue)


class CPUPrefetcher:
    """Hands out a loader's batches one by one; the first epoch begins with the first `reset` or `next`.

    Args:
        loader: The loader to take batches from.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.ori_loader = loader
        self.loader: Iterator[Any] | None = None

    def next(self) -> Any:
        """Return the next batch, or None at the end of the epoch."""
        if self.loader is None:
            self.reset()
        return next(self.loader, None)

    def reset(self) -> None:
        """Begin an epoch."""
        self.loader = iter(self.ori_loader)


class CUDAPrefetcher:
    """Copies the next batch to the GPU while the present one is worked on (`prefetch_mode: cuda`).

    The first epoch begins with the first `reset` or `next`.
    The copies overlap with computation only if the loader has `pin_memory: true`.

    Args:
        loader: The loader to take batches, dictionaries, from.
        opt: The run's options, of which `num_gpu` is read.

    Raises:
        ValueError: The run uses no GPU.
    """

    def __init__(self, loader: DataLoader, opt: dict) -> None:
        if not opt['num_gpu'] or not torch.cuda.is_available():
            raise ValueError('datasets.train.prefetch_mode: cuda needs a GPU; leave it out, or set prefetch_mode: cpu')
        self.ori_loader = loader
        self.loader: Iterator[dict] | None = None
        self.batch: dict | None = None
        self.device = torch.device('cuda')
        self.stream = torch.cuda.Stream()

    def preload(self) -> None:
        """Start copying the next batch."""
        self.batch = next(self.loader, None)
        if self.batch is None:
            return
        with torch.cuda.stream(self.stream):
            self.batch = {
                key: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
                for key, value in self.batch.items()
            }

    def next(self) -> dict | None:
        """Return the next batch, its tensors on the GPU, or None at the end of the epoch."""
        if self.loader is None:
            self.reset()
        current = torch.cuda.current_stream()
        current.wait_stream(self.stream)
        batch = self.batch
        for value in (batch or {}).values():
            if torch.is_tensor(value):
                value.record_stream(current)
        self.preload()
        return batch

    def reset(self) -> None:
        """Begin an epoch."""
        self.loader = iter(self.ori_loader)
        self.preload()
