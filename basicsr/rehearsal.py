"""The first step of a training, and the first picture of each data set, tried before anything is made or renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch.utils.data import default_collate

from basicsr.data.loaders import loader_beside_the_training, prefetcher
from basicsr.evaluation import build_loaders
from basicsr.models import build_model
from basicsr.options.resolve import check_files
from basicsr.options.strategies import asked_strategies
from basicsr.utils.misc import get_random_state, is_out_of_memory, set_random_state

_LARGEST = 256
"""Side in pixels of lq to which a picture is cut: enough for tiles, and no matter of minutes."""


def rehearse(model: Any, train_loader: Any, loaders: list[Any]) -> None:
    """Run a training batch through network, loss and backward, and the smallest picture of each set through a test.

    Afterwards weights, random numbers and all else are what they were.

    Args:
        model: The model, built for the training.
        train_loader: The training batches; None where there are none to try.
        loaders: Of the data sets that validate and test.

    Raises:
        ValueError: What fails, with the option that is to blame where that can be told.
    """
    with _random_numbers_kept():
        if train_loader is not None:
            _rehearse_step(model, train_loader)
        for loader in loaders:
            _rehearse_test(model, loader)


def without_pretrained_weights(opt: dict) -> dict:
    """The options of a training whose weights are not made yet, without strategies that need them."""
    train = dict(opt['train'])
    for key, strategy in asked_strategies(train).items():
        if 'path.pretrain_network_g' in dict(strategy.needs({})):
            del train[key]
    return {**opt, 'train': train, 'path': {**opt['path'], 'pretrain_network_g': None}}


def rehearse_untrained(opt: dict) -> None:
    """Build what a training is made of, with weights at random in place of those that are trained first, and try it.

    Raises:
        FileNotFoundError, ValueError, KeyError: What is wrong with the options or the data.
    """
    check_files({**without_pretrained_weights(opt), 'compare': None})
    opt = without_pretrained_weights(opt)
    with _random_numbers_kept():
        model = build_model(opt)
        model.train_loader = loader_beside_the_training(opt)
        prefetcher(model.train_loader, opt)
        rehearse(model, model.train_loader, build_loaders(opt, ['val', 'test']))


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Errors of networks, losses and metrics as one line that begins with what was tried."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) or (isinstance(error, ValueError | OSError) and ': ' in str(error).split('\n')[0]):
            raise
        text = ' '.join(str(error).split()) or 'no message'
        raise ValueError(f'{what}: {type(error).__name__}: {text}') from error


def _first_batch(loader: Any) -> Any:
    """The first batch of a loader, made here, without its workers."""
    places = islice(iter(loader.sampler), loader.batch_size)
    collate = loader.collate_fn or default_collate
    return collate([loader.dataset[place] for place in places])


def _shapes(batch: Any) -> str:
    if not isinstance(batch, dict):
        return type(batch).__name__
    shapes = {key: value.shape for key, value in batch.items() if isinstance(value, torch.Tensor)}
    return ', '.join(f'{key} of {"x".join(map(str, shape))}' for key, shape in shapes.items())


def _rehearse_step(model: Any, loader: Any) -> None:
    smallest = _smallest(loader.dataset)
    if smallest is not None:
        with _blamed('datasets.train'):
            _item(loader.dataset, smallest)
    with _blamed('datasets.train'):
        batch = _first_batch(loader)
    with _blamed(f'the first step, on a batch of datasets.train ({_shapes(batch)})'):
        model.rehearse_step(batch)


def _rehearse_test(model: Any, loader: Any) -> None:
    section = loader.dataset.opt
    name = f'datasets.{section.get("phase")} ({section.get("name")})'
    index = _smallest(loader.dataset) or 0
    with _blamed(name):
        data = default_collate([_cut(loader.dataset[index], model.opt.get('scale') or 1)])
    with _blamed(f'the first test, on the smallest picture of {name} ({_shapes(data)})'):
        model.rehearse_test(data, section.get('name'))


def _item(dataset: Any, index: int) -> Any:
    """An item of a training set, whose loader asks for it by index and seed."""
    return dataset[(index, (0, 0, 0))] if hasattr(dataset, 'dataset') else dataset[index]


def _smallest(dataset: Any) -> int | None:
    """The index of the smallest picture of a data set that says its paths; None where none can be told."""
    sizes = {}
    for index, paths in enumerate(getattr(dataset, 'paths', None) or []):
        path = paths.get('lq_path') or paths.get('gt_path') if isinstance(paths, dict) else paths
        with suppress(OSError, TypeError, ValueError, AttributeError), Image.open(path) as picture:
            sizes[index] = min(picture.size)
    return min(sizes, key=sizes.get) if sizes else None


def _cut(item: Any, scale: int) -> Any:
    """The corner of a large picture, of lq and gt alike."""
    if not isinstance(item, dict) or not isinstance(item.get('lq'), torch.Tensor):
        return item
    lq, gt = item['lq'], item.get('gt')
    if (
        not isinstance(gt, torch.Tensor)
        or gt.ndim != 3
        or tuple(gt.shape[-2:]) == tuple(scale * s for s in lq.shape[-2:])
    ):
        cut = {'lq': lq[..., :_LARGEST, :_LARGEST]}
        if isinstance(gt, torch.Tensor) and gt.ndim == 3:
            cut['gt'] = gt[..., : _LARGEST * scale, : _LARGEST * scale]
        return {**item, **cut}
    return item
