"""Sampling for long training runs on several processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized

import torch
from torch.utils.data import Sampler


class EnlargedSampler(Sampler[int]):
    """Gives each process its share of a random permutation, over a dataset repeated `ratio` times.

    An enlarged dataset makes epochs longer, and so the restarts of the workers rarer. The order depends on the
    epoch alone, so that a resumed run sees what the interrupted one would have seen.

    Args:
        dataset: Anything with a length.
        num_replicas: Number of processes.
        rank: This process, 0 to num_replicas - 1.
        ratio: How often an epoch goes through the dataset; may be a fraction.

    Raises:
        ValueError: The dataset is empty, or the ratio is not positive.
    """

    def __init__(self, dataset: Sized, num_replicas: int | None, rank: int | None, ratio: float = 1) -> None:
        self.dataset_size = len(dataset)
        self.num_replicas = 1 if num_replicas is None else num_replicas
        self.rank = 0 if rank is None else rank
        if not self.dataset_size:
            raise ValueError('cannot sample from an empty dataset; check its dataroot')
        if not ratio > 0:
            raise ValueError(f'dataset_enlarge_ratio must be above 0, not {ratio}')
        self.epoch = 0
        self.num_samples = math.ceil(self.dataset_size * ratio / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.epoch)
        indices = torch.randperm(self.total_size, generator=generator) % self.dataset_size
        return iter(indices[self.rank :: self.num_replicas].tolist())

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next iteration."""
        self.epoch = epoch
