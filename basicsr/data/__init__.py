"""Datasets and loaders. Each `*_dataset.py` beside this file is imported, so that its classes are registered."""

from __future__ import annotations

import logging
import os
import signal
import threading
from copy import deepcopy
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from basicsr.data.contract import from_section
from basicsr.data.data_sampler import EnlargedSampler, SeededDataset, SeededSampler
from basicsr.data.prefetch_dataloader import PrefetchDataLoader
from basicsr.data.workers import WatchedLoader
from basicsr.utils.registry import DATASET_REGISTRY, import_modules

__all__ = ['build_dataloader', 'build_dataset', 'loaded_at_a_time']

import_modules(__file__, __name__, '_dataset')


def build_dataset(dataset_opt: dict) -> Dataset:
    """Make the data set that `dataset_opt['type']` names; see `basicsr.data.contract`.

    A class gets the arguments of its signature, or, where it takes one argument `opt`, a copy of the whole section. The
    data set has the section as its attribute `opt`.

    Raises:
        KeyError: No data set has that name.
        ValueError: The section has no `type`, a key that the class does not have, lacks one, or has a wrong value.
    """
    dataset_opt = deepcopy(dataset_opt)
    if 'type' not in dataset_opt:
        raise ValueError(f'a dataset section needs `type`, one of {", ".join(sorted(DATASET_REGISTRY.keys()))}')
    dataset = from_section(DATASET_REGISTRY.get(dataset_opt['type']), dataset_opt)
    name = dataset_opt.get('name', dataset_opt['type'])
    logging.getLogger('basicsr').info('Dataset %s [%s]: %d samples', name, dataset_opt['type'], len(dataset))
    return dataset


def build_dataloader(
    dataset: Dataset,
    dataset_opt: dict,
    num_gpu: int = 1,
    dist: bool = False,
    sampler: Sampler | None = None,
    seed: int | None = None,
    accumulate: int = 1,
) -> DataLoader:
    """Make the loader of a dataset.

    Args:
        dataset: The dataset.
        dataset_opt: Its section. `phase: train` needs `batch_size_per_gpu` and `num_worker_per_gpu`; incomplete
            batches are dropped, and `use_shuffle` (default true) counts where there is no sampler. `val` and
            `test` give the samples in order, loaded by the main process unless `num_worker_per_gpu` says otherwise:
            single pictures, or batches of `batch_size_per_gpu` where a dataset has `test_batch_size`, which is the
            default then. Optional: `prefetch_mode` (cpu, cuda), `num_prefetch_queue`, `pin_memory`,
            `persistent_workers`.
        num_gpu: GPUs of a run in one process, whose batches and workers are multiplied by it; 0 means the CPU.
        dist: One process for each GPU, so that nothing is multiplied.
        sampler: Chooses the order in training.
        seed: With an `EnlargedSampler`: every sample gets random numbers of its own, a function of this seed, the
            epoch and the sample's place in it, see `SeededSampler`.
        accumulate: Batches whose gradients make one step (`train.accumulate`); they are loaded as one.

    Raises:
        ValueError: A key is missing or has no meaning, or a training epoch is shorter than one batch.
    """
    phase = dataset_opt.get('phase')
    if phase == 'train':
        args = _training_args(dataset, dataset_opt, num_gpu, dist, sampler, accumulate)
    elif phase in ('val', 'test'):
        size = getattr(dataset, 'test_batch_size', None)
        size = 1 if size is None else dataset_opt.get('batch_size_per_gpu') or size
        args = {'batch_size': size, 'shuffle': False, 'num_workers': dataset_opt.get('num_worker_per_gpu') or 0}
    else:
        raise ValueError(f'the phase of a dataset is train, val or test, not {phase!r}')
    mode = dataset_opt.get('prefetch_mode')
    if seed is not None and isinstance(sampler, EnlargedSampler):
        dataset, args['sampler'] = SeededDataset(dataset), SeededSampler(sampler, seed)
        if mode == 'cpu':  # its thread must not share the random numbers of the main process
            args['num_workers'] = max(1, args['num_workers'])
    workers = args['num_workers']
    # Without a generator of its own a loader draws on torch's global one, on which the network draws, too.
    args['generator'] = torch.Generator().manual_seed(seed or 0)
    args['worker_init_fn'] = _leave_signals_to_the_main_process
    args['pin_memory'] = bool(dataset_opt.get('pin_memory'))
    args['persistent_workers'] = bool(dataset_opt.get('persistent_workers')) and workers > 0

    if mode not in (None, 'cpu', 'cuda'):
        raise ValueError(f'prefetch_mode is cpu, cuda or left out, not {mode!r}')
    if mode == 'cpu':
        ahead = dataset_opt.get('num_prefetch_queue')
        return PrefetchDataLoader(num_prefetch_queue=1 if ahead is None else ahead, dataset=dataset, **args)
    return WatchedLoader(dataset, **args)


def _multiplier(num_gpu: int, dist: bool) -> int:
    return 1 if dist else max(num_gpu, 1)


def loaded_at_a_time(dataset_opt: dict, num_gpu: int = 1, dist: bool = False, accumulate: int = 1) -> int:
    """Samples of a training batch of this process, as `build_dataloader` loads them.

    Raises:
        ValueError: The section has no `batch_size_per_gpu`.
    """
    if dataset_opt.get('batch_size_per_gpu') is None:
        raise ValueError('the training dataset needs batch_size_per_gpu')
    return dataset_opt['batch_size_per_gpu'] * _multiplier(num_gpu, dist) * accumulate


def _training_args(
    dataset: Dataset, opt: dict, num_gpu: int, dist: bool, sampler: Sampler | None, accumulate: int
) -> dict[str, Any]:
    batch_size = loaded_at_a_time(opt, num_gpu, dist, accumulate)
    if opt.get('num_worker_per_gpu') is None:
        raise ValueError('the training dataset needs num_worker_per_gpu')
    length = len(dataset) if sampler is None else len(sampler)
    if length < batch_size:
        raise ValueError(
            f'datasets.train: an epoch of the training dataset has {length} samples, fewer than one batch of '
            f'{batch_size}; lower batch_size_per_gpu, raise dataset_enlarge_ratio or add pictures'
        )
    return {
        'batch_size': batch_size,
        'num_workers': opt['num_worker_per_gpu'] * _multiplier(num_gpu, dist),
        'sampler': sampler,
        'shuffle': sampler is None and opt.get('use_shuffle', True),
        'drop_last': True,
    }


def _leave_signals_to_the_main_process(worker_id: int) -> None:
    """Ctrl-C, a terminal's end and a cluster's SIGTERM reach workers, too, which the main process still needs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'SIGHUP'):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_the_main_process, daemon=True).start()


def _obey_the_main_process() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
