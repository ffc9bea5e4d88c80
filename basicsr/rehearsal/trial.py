"""Trying a model: its first step, a few pictures of each data set, and what to say of what fails."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from basicsr.data.samples import Sizes, cut, file_of, first_batch, item_of, largest, sizes_of, smallest, undisturbed
from basicsr.metrics import check_size, needs_ground_truth
from basicsr.models.contract import ignored_options, is_replaced
from basicsr.models.in_words import name_of, options_by_part, shapes_in_words
from basicsr.options.blame import blamed, described, names_option, raised_by, together
from basicsr.runs.aside import random_numbers_kept
from basicsr.runs.shortages import shortage_of
from basicsr.utils.dist_util import TO_SPEAK, all_gather, get_dist_info
from basicsr.utils.logger import get_root_logger

_LARGEST = 256
"""Side in pixels of lq to which a picture is cut: enough for tiles, and no matter of minutes."""
_BLACK = 1 / 255
"""A value of pictures in [0, 1] that no one sees."""
_OF_THE_NETWORK = ('network_', 'scale: ')
READERS = {
    'load_network': 'path.pretrain_network_g',
    'build_network': 'network_g',
    'setup_optimizers': 'train.optim_g',
    'setup_schedulers': 'train.scheduler',
}
"""What of the options a method reads."""


class Rehearsal:
    """What was tried before a run, and what came of it.

    Args:
        opt: The resolved options.
        of: Before each message; for networks beside the main one, and for option files that are trained first.

    Attributes:
        mistakes: What failed; each message begins with the option to blame, and ends with what was tried.
        notes: What works, and may not be what is meant.
        tried: A line for each that worked.
        networks: A line for each that was built.
    """

    def __init__(self, opt: dict, of: str = '') -> None:
        self.opt, self.of = opt, of
        self.mistakes: list[ValueError] = []
        self.notes: list[str] = []
        self.tried: list[str] = []
        self._said: set[str] = set()
        self._network_failed = False
        self.networks: list[str] = []

    @contextmanager
    def trying(self, option: str, doing: str = '', model: Any = None, batch: tuple = ()) -> Iterator[None]:
        """Note what the block raises, unless the machine is short of something, or another process is gone.

        Args:
            option: What is to blame, where neither the message nor what raised it tells.
            doing: What is tried, for the message.
            model: Its networks and criteria are to blame for what they raise.
            batch: What the network runs on, and the key of the data set that it is of.
        """
        try:
            yield
        except Exception as error:  # what users write raises anything
            if shortage_of(error) or isinstance(error, torch.distributed.DistError):
                raise
            owners = {} if model is None else options_by_part(model)
            option = raised_by(error, owners, READERS) or option
            text = described(error)
            if batch and option.startswith('network_') and not names_option(text, self.opt):
                option = _why_not(model, *batch) or option
            self.add(blamed(error, option, doing, self.opt), text)

    def add(self, mistake: ValueError, text: str = '') -> None:
        """Note a mistake; where one with the same `text`, of another picture, is there already, that stands for it."""
        if str(mistake).startswith(_OF_THE_NETWORK):
            self._network_failed, text = True, re.sub(r'\d+', '', text)  # the sizes are those of the picture
        if text and text in self._said:
            return
        self._said.add(text)
        if self.of:
            cause, mistake = mistake, ValueError(f'{self.of}: {mistake}')
            mistake.__cause__ = cause.__cause__
        self.mistakes.append(mistake)

    def take(self, other: Rehearsal) -> None:
        """Note what another one has noted, but for what is known of the data sets that both have."""
        known = {str(mistake) for mistake in self.mistakes}
        for mistake in other.mistakes:  # they have said already whose they are
            if str(mistake).removeprefix(f'{other.of}: ') not in known:
                self.add(mistake)
        self.notes += other.notes
        self.tried += [f'{other.of}: {line}' if other.of else line for line in other.tried]
        self.networks += [f'{line} ({other.of})' if other.of else line for line in other.networks]

    def try_model(
        self, model: Any, train_loader: Any, loaders: Sequence[Any], sizes: Mapping[str, Sizes] | None = None
    ) -> None:
        """Run a training batch through network, loss and backward, and pictures of each data set through a test.

        These are the smallest of each, and the largest of all, cut to 256 pixels. Afterwards random numbers and data
        sets are what they were, and so are models of this project; those of users may have taken a step in earnest.

        Args:
            model: The model.
            train_loader: The training batches; None where there are none to try.
            loaders: Of the data sets that validate and test.
            sizes: By the keys of data sets, `Sizes` that are known.
        """
        self.notes += ignored_options(model)
        with random_numbers_kept():
            if train_loader is not None:
                self._try_step(model, train_loader)
            if self._network_failed:
                return  # tests would say the same
            known: dict[str, Sizes] = {}
            for loader in loaders:
                key = self._key(loader)
                with self.trying(f'datasets.{key}', 'looking for its smallest picture'), undisturbed(loader.dataset):
                    known[key] = (sizes or {}).get(key) or sizes_of(loader.dataset)
            most = max(known, key=lambda key: max((h * w for h, w in known[key].values()), default=0), default=None)
            with_gt = []
            for loader in [loader for loader in loaders if self._key(loader) in known]:
                key, count = self._key(loader), len(self.mistakes)
                for index in _chosen(known[key], key == most):
                    if len(self.mistakes) == count:
                        with_gt.append(self._try_test(model, loader, index))
                if len(self.mistakes) == count and not is_replaced(model, 'nondist_validation'):
                    self._look_at_sizes(loader, known[key], with_gt[-1])
        self._look_at_save_best(model, loaders, any(with_gt))

    def _key(self, loader: Any) -> str:
        """Which of the options' data sets a loader has."""
        section, all_of_them = loader.dataset.opt, self.opt['datasets'].items()
        phase, name = section.get('phase'), section.get('name')
        return next(key for key, one in all_of_them if (one.get('phase'), one.get('name', key)) == (phase, name))

    def _label(self, key: str) -> str:
        name = self.opt['datasets'][key].get('name', key)
        return f'datasets.{key}' + (f' ({name})' if name != key else '')

    def _try_step(self, model: Any, loader: Any) -> None:
        key, dataset, count = self._key(loader), loader.dataset, len(self.mistakes)
        with undisturbed(dataset):
            with self.trying(f'datasets.{key}', 'its smallest picture'):
                index = smallest(sizes_of(dataset))
                if index is not None:
                    item_of(dataset, index)
            if len(self.mistakes) > count:
                return
            batch = None
            with self.trying(f'datasets.{key}', 'its first batch'):
                batch = first_batch(loader)
        if batch is not None:
            doing = f'the first step, on a batch of {self._label(key)}: {shapes_in_words(batch)}'
            with self.trying('the first step', doing, model, (batch, key)):
                model.rehearse_step(batch)
                self.tried.append(doing)

    def _try_test(self, model: Any, loader: Any, index: int) -> bool:
        """Test an item and measure it; returns whether it has a truth."""
        key, data = self._key(loader), None
        with self.trying(f'datasets.{key}', f'item {index}'), undisturbed(loader.dataset):
            item = cut(loader.dataset[index], self.opt.get('scale') or 1, _LARGEST)
            data = loader.collate_fn([item])
        if data is None:
            return False
        doing = f'a test of {name_of(data, index)} of {self._label(key)}: {shapes_in_words(data)}'
        with self.trying('the first test', doing, model, (data, key)):
            failed = model.rehearse_test(data, key)
            for option, error in failed.items():
                self.add(blamed(error, option, doing, self.opt), f'{option}: {described(error)}')
            if not failed:
                self.tried.append(doing)
            self._note_black(data, key, index)
            self._note_values(data, key)
        return isinstance(data, dict) and 'gt' in data

    def _look_at_sizes(self, loader: Any, sizes: Sizes, has_gt: bool) -> None:
        """Note the pictures that are too small for a metric; not all are those with the shortest side."""
        key, scale = self._key(loader), self.opt.get('scale') or 1
        for name, content in ((self.opt.get('val') or {}).get('metrics') or {}).items():
            if not has_gt and needs_ground_truth(content):
                continue
            found = []
            for index, (height, width) in sizes.items():
                try:
                    check_size(height * scale, width * scale, content)
                except ValueError as error:
                    found.append(f'{file_of(loader.dataset, index)}: {error}')
            if found:
                more = f', and of {len(found) - 1} others' if len(found) > 1 else ''
                self.add(ValueError(f'val.metrics.{name}: cannot measure what becomes of {found[0]}{more} of '
                                    f'{self._label(key)}'))  # fmt: skip

    def _note_black(self, data: Any, key: str, index: int) -> None:
        """Note pictures that are black to the eye: 8 bits in a file of 16, say, or a second division by 255."""
        for name in ('lq', 'gt') if isinstance(data, dict) else ():
            picture = data.get(name)
            if isinstance(picture, Tensor) and picture.is_floating_point() and 0 < picture.max() <= _BLACK:
                self.notes.append(
                    f'datasets.{key}: {name} of {name_of(data, index)} is black, with no value above '
                    f'{picture.max():.2g}; are these values of 8 bits in a file of 16?'
                )

    def _note_values(self, data: Any, key: str) -> None:
        metrics = (self.opt.get('val') or {}).get('metrics') or {}
        if not isinstance(data, dict) or not metrics:
            return
        if 'gt' not in data:
            names = [name for name, content in metrics.items() if needs_ground_truth(content)]
            self.notes += [
                f'val.metrics.{name}: needs gt, and {self._label(key)} gives none: left out' for name in names
            ]
        self._note_normalisation(key)
        if isinstance(data.get('gt'), Tensor) and data['gt'].is_floating_point():
            low, high = data['gt'].min().item(), data['gt'].max().item()
            if low < -0.01 or high > 1.01:
                self.notes.append(
                    f'val.metrics: measure pictures in [0, 1], and gt of {self._label(key)} goes from {low:.2f} to '
                    f'{high:.2f} (mean, std), of which they see what lies within'
                )

    def _note_normalisation(self, key: str) -> None:
        train, section = (self.opt['datasets'].get(name, {}) for name in ('train', key))
        for name in ('mean', 'std') if train and self.opt['is_train'] else ():
            if train.get(name) != section.get(name):
                here, there = ('~' if one.get(name) is None else one[name] for one in (section, train))
                self.notes.append(
                    f'datasets.{key}.{name}: {here}, and that of datasets.train is {there}: the network is tested on '
                    'other values than it trains on'
                )

    def _look_at_save_best(self, model: Any, loaders: Sequence[Any], with_gt: bool) -> None:
        best, metrics = (
            (self.opt.get('logger') or {}).get('save_best'),
            (self.opt.get('val') or {}).get('metrics') or {},
        )
        validates = any(self._key(loader).startswith('val') for loader in loaders)
        if not model.is_train or not validates or best not in metrics or with_gt or self.mistakes:
            return
        if needs_ground_truth(metrics[best]) and not is_replaced(model, 'nondist_validation'):
            self.add(ValueError(f'logger.save_best: {best} needs gt, and no validation set gives one'))

    def end(self, in_earnest: bool = False) -> None:
        """Log the notes, and raise the mistakes; where one of several processes has some, all of them end.

        Args:
            in_earnest: Whether a process may have stopped while others wait for it, so that it must not wait for them.

        Raises:
            ValueError: The mistakes.
        """
        for note in dict.fromkeys(self.notes):
            get_root_logger().warning('%s', note)
        mistake = together(self.mistakes) if self.mistakes else None
        if not in_earnest:
            found = all_gather(mistake is not None)
            if True not in found:
                return
            if found.index(True) != get_dist_info()[0]:
                time.sleep(TO_SPEAK)
                sys.exit(2)
        elif mistake is not None and get_dist_info()[0] > 0:
            time.sleep(TO_SPEAK)  # the first is likely to find the same, and to end the others
        if mistake is not None:
            raise mistake


def _why_not(model: Any, batch: Any, key: str) -> str | None:
    try:
        return model.why_not(batch, key)
    except Exception:  # it is about to be said that something is wrong
        return None


def _chosen(sizes: Sizes, with_largest: bool) -> list[int]:
    """The item that is tried of a data set, or the two."""
    first = smallest(sizes)
    return list(dict.fromkeys([first or 0, *([largest(sizes)] if with_largest and sizes else [])]))
