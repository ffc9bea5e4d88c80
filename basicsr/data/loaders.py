"""The data loaders of a training run, from its resolved options."""

from __future__ import annotations

from typing import Any

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
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


def training_loader(opt: dict, section: dict, accumulate: int = 1) -> tuple[Any, EnlargedSampler]:
    """(loader, its sampler) of this process's training batches, merged in groups of `accumulate`."""
    dataset, ratio = build_dataset(section), section.get('dataset_enlarge_ratio') or 1
    sampler = EnlargedSampler(dataset, opt['world_size'], opt['rank'], ratio, opt['manual_seed'])
    loader = build_dataloader(dataset, section, opt['num_gpu'], opt['dist'], sampler, opt['manual_seed'], accumulate)
    return loader, sampler


def loader_beside_the_training(opt: dict) -> Any:
    """A separate loader of training batches: using some between two iterations must not advance the training loader."""
    section = {**training_section(opt), 'prefetch_mode': None, 'persistent_workers': False}
    return training_loader(opt, section)[0]


def prefetcher(loader: Any, opt: dict) -> CPUPrefetcher | CUDAPrefetcher:
    """The prefetcher for a training loader, chosen by `prefetch_mode`.

    Raises:
        ValueError: `prefetch_mode: cuda` without a GPU.
    """
    return (
        CUDAPrefetcher(loader, opt) if training_section(opt).get('prefetch_mode') == 'cuda' else CPUPrefetcher(loader)
    )
