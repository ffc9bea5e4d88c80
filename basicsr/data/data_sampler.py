"""Sampling for long training runs in several processes."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

_LARGEST_EPOCH = 10**8


def endless(loader: Any, epoch: int = 0) -> Iterator[Any]:
    """Batches of one epoch after another, starting with `epoch`."""
    while True:
        if hasattr(loader.sampler, 'set_epoch'):
            loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def entries(values: Any) -> list[Any]:
    """What a sequence, an array or a tensor with an entry for each sample holds, as Python's own values."""
    return values.tolist() if hasattr(values, 'tolist') else list(values)


class EnlargedSampler(Sampler[int]):
    """Gives each process its share of a random permutation of a dataset repeated `ratio` times.

    Repeating the dataset makes epochs longer, so workers restart less often. The order depends on seed and epoch alone,
    so that a resumed run sees what the interrupted one would have seen.

    Args:
        dataset: Anything with a length.
        num_replicas: Number of processes.
        rank: This process, 0 to num_replicas - 1.
        ratio: How often an epoch goes through the dataset; may be a fraction.
        seed: The run's seed, at most 2**31 - 1; the same in all processes. With 0 the order is BasicSR's.

    Raises:
        ValueError: The dataset is empty, or the ratio is not positive or makes epochs of more than 10**8 samples.
    """

    def __init__(
        self, dataset: Sized, num_replicas: int | None, rank: int | None, ratio: float = 1, seed: int = 0
    ) -> None:
        self.dataset_size = len(dataset)
        self.num_replicas = 1 if num_replicas is None else num_replicas
        self.rank = 0 if rank is None else rank
        if not self.dataset_size:
            raise ValueError('cannot sample from an empty dataset; check its dataroot')
        if not ratio > 0:
            raise ValueError(f'dataset_enlarge_ratio must be above 0, not {ratio}')
        self.seed, self.epoch, self.start = seed, 0, 0
        self.num_samples = math.ceil(self.dataset_size * ratio / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
        if ratio > 1 and self.total_size > _LARGEST_EPOCH:  # whose order would fill the memory
            raise ValueError(
                f'dataset_enlarge_ratio {ratio} makes epochs of {self.total_size:,} samples; at most '
                f'{_LARGEST_EPOCH:,} are possible'
            )

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 32) + self.epoch)
        indices = torch.randperm(self.total_size, generator=generator) % self.dataset_size
        return iter(indices[self.rank :: self.num_replicas].tolist()[self.start :])

    def places(self) -> Sequence[int]:
        """Where in the epoch over all processes this process's samples stand."""
        return range(self.start * self.num_replicas + self.rank, self.total_size, self.num_replicas)

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch whose permutation is used next, and how many of this process's samples to skip."""
        self.epoch, self.start = epoch, start


class BalancedSampler(EnlargedSampler):
    """Takes the domains of a dataset in turn, so that every batch has as many samples of each, or one less.

    Over all processes and epochs, the samples are one endless sequence, whose place c belongs to domain c mod D. Each
    domain is gone through by random permutations of its own, one after the other. A batch of all processes has the next
    places of that sequence, of which each process takes a part without gaps. So it has the same samples, with the same
    random numbers, whatever number of processes shares it. An epoch is the smallest number of whole batches that has as
    many samples as the dataset times `ratio`.

    Args:
        groups: The domain of each sample, a number or a name; D differ.
        num_replicas: Number of processes.
        rank: This process, 0 to num_replicas - 1.
        batch_size: Samples that this process loads at a time.
        ratio: Length of an epoch, in datasets; may be a fraction.
        seed: The run's seed, at most 2**31 - 1; the same in all processes.

    Raises:
        ValueError: There are no samples, or the ratio is as for `EnlargedSampler`.
    """

    def __init__(
        self,
        groups: Sequence[int] | Sequence[str],
        num_replicas: int | None,
        rank: int | None,
        batch_size: int,
        ratio: float = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(groups, num_replicas, rank, ratio, seed)
        names = entries(groups)
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        of_each = torch.tensor([numbers[name] for name in names])
        self._members = [(of_each == group).nonzero().flatten() for group in of_each.unique()]
        self.batch_size = batch_size
        batches = math.ceil(self.dataset_size * ratio / (batch_size * self.num_replicas))
        self.num_samples = batches * batch_size
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        before, orders = self.epoch * self.total_size, {}
        for place in self.places():
            draw, group = divmod(before + place, len(self._members))
            members = self._members[group]
            time, index = divmod(draw, len(members))
            if orders.get(group, (None,))[0] != time:
                orders[group] = time, members[self._permutation(group, time)].tolist()
            yield orders[group][1][index]

    def _permutation(self, group: int, time: int) -> torch.Tensor:
        """In which order a domain is gone through for the time with this number."""
        seed = int(np.random.SeedSequence((self.seed, group, time)).generate_state(1, np.uint64)[0] >> 1)
        return torch.randperm(len(self._members[group]), generator=torch.Generator().manual_seed(seed))

    def places(self) -> Sequence[int]:
        steps = range(self.start, self.num_samples)
        size, together = self.batch_size, self.batch_size * self.num_replicas
        return [step // size * together + self.rank * size + step % size for step in steps]


class SeededSampler(Sampler[tuple]):
    """Pairs each index of `sampler` with the seed of that sample, for a `SeededDataset`.

    A seed is (run's seed, epoch, place in the epoch over all processes), whichever worker or process loads the sample,
    and whether or not the run was interrupted before.
    """

    def __init__(self, sampler: EnlargedSampler, seed: int) -> None:
        self.sampler, self.seed = sampler, seed

    def __iter__(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        epoch = self.sampler.epoch
        for index, place in zip(self.sampler, self.sampler.places(), strict=True):
            yield index, (self.seed, epoch, place)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.sampler.set_epoch(epoch, start)


class SeededDataset(Dataset):
    """`dataset`, with the global random generators seeded by each sample's own seed before it is made.

    In the main process, which uses them for other things as well, their states are restored afterwards.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:  # `opt`, and whatever else a dataset has
        if name == 'dataset':  # pickle asks for attributes before __init__
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, item: tuple[int, tuple[int, int, int]]) -> Any:
        index, seed = item
        with _seeded(seed, restored=get_worker_info() is None):
            return self.dataset[index]


@contextmanager
def _seeded(seed: tuple[int, ...], restored: bool) -> Iterator[None]:
    state = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if restored else None
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        if state is not None:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])
