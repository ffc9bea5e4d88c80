"""Stage 0 of a training by LDT: the head trains on one half of the samples, the other half is for the scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import nn
from tqdm import tqdm

import ldt
from basicsr.data.data_sampler import endless, entries
from basicsr.strategies.strategy import Setting
from basicsr.utils.logger import get_root_logger

_OPTION = 'train.ldt.warmup_iter'


class WarmUp:
    """The halves of the training samples, by the run's seed, and the warm-up on the first of them.

    Where the data set has `labels` or `groups` (domains), both halves have as many samples of each.

    Args:
        iterations: How long the head trains.
        prefixes: Of the names of its layers.
        setting: See `Setting`; its loaders exist once it is used.
    """

    def __init__(self, iterations: int, prefixes: Sequence[str], setting: Setting) -> None:
        self.iterations, self.prefixes, self.setting = iterations, list(prefixes), setting

    @property
    def dataset(self) -> Any:
        return self.setting.batches().dataset

    @cached_property
    def halves(self) -> tuple[list[int], list[int]]:
        """Indices of D1, for the warm-up, and of D2, for the scores.

        Raises:
            ValueError: Fewer than two samples.
        """
        kinds = [kind for name in ('groups', 'labels') if (kind := self._of_samples(name)) is not None]
        try:
            return ldt.split_samples(list(zip(*kinds, strict=True)) or len(self.dataset), self.setting.seed)
        except ValueError as error:
            raise ValueError(f'{_OPTION}: {error}') from error

    def _of_samples(self, name: str) -> list[Any] | None:
        """An attribute of the data set that has an entry for each sample, where it has it."""
        values = getattr(self.dataset, name, None)
        if values is None or len(values) != len(self.dataset):
            return None
        return entries(values)

    @cached_property
    def scoring_batches(self) -> Any:
        """A loader of batches of D2."""
        return self._loader(1, step=False)

    def _loader(self, half: int, step: bool) -> Any:
        try:
            return self.setting.batches_of(self.halves[half], step)
        except ValueError as error:
            whose = ('the head', 'the scores')[half]
            raise ValueError(
                f'{_OPTION}: {len(self.halves[half])} of {len(self.dataset)} training samples are for {whose}. {error}'
            ) from error

    def check(self) -> None:
        """Raise a ValueError where a half is too small for a batch."""
        if self.setting.batches() is None:
            return
        self._loader(0, step=True)
        self._loader(1, step=False)

    def run(self, net: nn.Module) -> list[float]:
        """Train the head of `net`; returns the losses.

        Raises:
            ValueError: See `ldt.warm_up`; the message begins with the option.
        """
        setting, logger = self.setting, get_root_logger()
        logger.info(
            'Warm-up: the head (%s) trains alone for %d iterations on %d of %d training samples',
            ', '.join(self.prefixes),
            self.iterations,
            len(self.halves[0]),
            len(self.dataset),
        )
        loader = self._loader(0, step=True)
        with tqdm(total=self.iterations, desc='Warm up the head', unit='it', leave=False, disable=None) as progress:
            try:
                losses = ldt.warm_up(
                    net,
                    endless(loader),
                    setting.loss,
                    self.prefixes,
                    self.iterations,
                    setting.optimizer,
                    wrap=setting.wrap,
                    step=setting.step,
                    on_iteration=lambda *_: progress.update(),
                )
            except ValueError as error:
                raise ValueError(f'{_OPTION}: {error}') from error
        logger.info('Warm-up: the loss is %.4g in the first iteration, %.4g in the last', losses[0], losses[-1])
        return losses

    def record(self) -> dict[str, Any]:
        """What `partition.json` holds of it: the seed, and both halves, by file name or else by index."""
        names = _names(self._of_samples('paths'))
        warm_up, scoring = ([names[index] for index in half] if names else half for half in self.halves)
        return {'seed': self.setting.seed, 'warm_up': warm_up, 'scoring': scoring}


def _names(paths: list[Any] | None) -> list[str] | None:
    """The samples' files, as seen from the folder that all of them are in; None where they are not known."""
    files = [_file(path) for path in paths or ()]
    if not files or not all(isinstance(file, str | os.PathLike) for file in files):
        return None
    files = [os.fspath(file) for file in files]
    folders = {os.path.dirname(file) for file in files}
    if '' in folders or len({os.path.isabs(folder) for folder in folders}) > 1:
        return files
    top = os.path.commonpath(folders)
    return [os.path.relpath(file, top) for file in files]


def _file(path: Any) -> Any:
    """Of a pair of files, the truth."""
    if not isinstance(path, Mapping):
        return path
    return path.get('gt_path') or next(iter(path.values()), None)
