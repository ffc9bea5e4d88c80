"""The data loaders of a training run, from its resolved options."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from basicsr.data import build_dataloader, build_dataset, loaded_at_a_time
from basicsr.data.data_sampler import BalancedSampler, EnlargedSampler, SeededDataset, entries
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher


def training_section(opt: dict) -> dict:
    """The section `datasets.train`.

    Raises:
        ValueError: The section is missing.
    """
    section = next((dataset for dataset in opt['datasets'].values() if dataset['phase'] == 'train'), None)
    if section is None:
        raise ValueError('datasets.train: missing; there is nothing to train on')
    return section


def training_loader(
    opt: dict, section: dict, accumulate: int = 1, dataset: Dataset | None = None
) -> tuple[Any, EnlargedSampler]:
    """(loader, its sampler) of this process's training batches, merged in groups of `accumulate`.

    Batches are balanced over the domains of a data set that has `groups`, unless its section says `balanced: false`.

    Args:
        opt: The resolved options.
        section: The section of the data set.
        accumulate: How many batches are loaded as one.
        dataset: None: that of the section.
    """
    dataset = build_dataset(section) if dataset is None else dataset
    ratio = section.get('dataset_enlarge_ratio') or 1
    processes = opt['world_size'], opt['rank']
    groups = getattr(dataset, 'groups', None)
    if groups is not None and len(groups) and section.get('balanced') is not False:
        at_a_time = loaded_at_a_time(section, opt['num_gpu'], opt['dist'], accumulate)
        _warn_of_few_samples(dataset, section['batch_size_per_gpu'])
        sampler = BalancedSampler(dataset.groups, *processes, at_a_time, ratio, opt['manual_seed'])
    else:
        sampler = EnlargedSampler(dataset, *processes, ratio, opt['manual_seed'])
    loader = build_dataloader(dataset, section, opt['num_gpu'], opt['dist'], sampler, opt['manual_seed'], accumulate)
    return loader, sampler


def _warn_of_few_samples(dataset: Any, batch_size: int) -> None:
    domains = len(set(entries(dataset.groups)))
    if batch_size < domains:
        logging.getLogger('basicsr').warning(
            'datasets.train.batch_size_per_gpu: %d samples cannot be of all %d training domains; raise it to a '
            'multiple of that',
            *(batch_size, domains),
        )


def loader_beside_the_training(opt: dict) -> Any:
    """A separate loader of training batches: using some between two iterations must not advance the training loader."""
    return training_loader(opt, _beside(opt))[0]


def loader_of_some(opt: dict, loader: Any, indices: Sequence[int], accumulate: int = 1) -> Any:
    """A loader of training batches of some samples of another loader's data set, which is not built again.

    Raises:
        ValueError: They are fewer than a batch.
    """
    return training_loader(opt, _beside(opt), accumulate, Some(loader.dataset, indices))[0]


def _beside(opt: dict) -> dict:
    return {**training_section(opt), 'prefetch_mode': None, 'persistent_workers': False}


class Some(Dataset):
    """Some of the samples of a data set, with the labels, groups, paths and names of these alone.

    Args:
        dataset: The data set. The numbers that seed its samples, see `SeededDataset`, are left to who seeds this one.
        indices: Which, in order.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
        self.indices = list(indices)
        for name in _OF_SAMPLES:
            values = getattr(self.dataset, name, None)
            if values is not None and len(values) == len(self.dataset):
                setattr(self, name, [values[index] for index in self.indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __getattr__(self, name: str) -> Any:  # `opt`, `classes`, and whatever else a data set has
        if name == 'dataset':  # pickle asks for attributes before __init__
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]


_OF_SAMPLES = ('labels', 'groups', 'paths', 'names')
"""Attributes of data sets that have an entry for each sample."""


def prefetcher(loader: Any, opt: dict) -> CPUPrefetcher | CUDAPrefetcher:
    """The prefetcher for a training loader, chosen by `prefetch_mode`.

    Raises:
        ValueError: `prefetch_mode: cuda` without a GPU.
    """
    return (
        CUDAPrefetcher(loader, opt) if training_section(opt).get('prefetch_mode') == 'cuda' else CPUPrefetcher(loader)
    )
