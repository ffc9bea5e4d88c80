"""LP-FT: the head alone trains first, then everything (Kumar et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from basicsr.options.types import List, Section, Share, Whole, iterations, option
from basicsr.strategies.heads import head_prefixes
from basicsr.strategies.plain_strategy import Plain
from basicsr.strategies.strategy import Setting
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import STRATEGY_REGISTRY
from ldt import Partition


class HeadFirst(Section):
    """train.head_first"""

    iter: Whole(1) | Share = option(..., 'Iterations in which the head trains alone.')
    prefixes: List(str, 1) | str = option(
        None, 'The head: layers whose names begin like this. Default: as the network says, where it does.'
    )


@STRATEGY_REGISTRY.register()
class LPFT(Plain):
    """Freezes all but the head in the first iterations. Which those are does not depend on where a run was resumed.

    An optimizer over all parameters passes over frozen ones, which have no gradient; the head's moments go on at the
    switch, and the others' begin there. Batch statistics of the frozen layers follow the training's batches throughout.

    Args:
        net: The network, which has something to train beside the head.
        setting: See `Setting`; reads `train.head_first`.

    Attributes:
        last: The last iteration in which the head trains alone.

    Raises:
        ValueError: See `head_prefixes`.
    """

    name = 'lp_ft'
    not_with = {'ldt': 'LDT chooses what trains; train.ldt.criterion: prefix splits off a head; leave it out'}
    keys = {'head_first': (HeadFirst, option(None, 'LP-FT: the head trains alone first, then everything.'))}

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        section = setting.options['head_first']
        self.last = round(iterations(section['iter'], setting.total_iter))
        prefixes = head_prefixes(net, section.get('prefixes'), 'train.head_first.prefixes')
        head = {*Partition.from_prefixes(net, prefixes).unstable}
        trainable = {name: value for name, value in net.named_parameters() if value.requires_grad}
        self._later = [value for name, value in trainable.items() if name not in head]
        self._all = trainable
        self._all_train = True
        super().__init__(net, setting)
        get_root_logger().info(
            'LP-FT: %d of %d layers are the head, which trains alone for %d iterations',
            len(head),
            len(trainable),
            self.last,
        )
        self.before_step(1)

    @classmethod
    def check_train(cls, train: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        time, total = (train.get('head_first') or {}).get('iter'), train.get('total_iter')
        if time is None or not total:
            return
        last = round(iterations(time, total))
        if not 1 <= last < total:
            yield 'head_first.iter', f'must be at least 1 and below total_iter, {total}, and is {last}'

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._all)

    def before_step(self, iteration: int) -> None:
        """Freeze or free layers for this iteration; wrappers count on what trains, and are made anew."""
        if self._all_train == (iteration > self.last):
            return
        self._all_train = not self._all_train
        for parameter in self._later:
            parameter.requires_grad_(self._all_train)
        self.running = self.setting.wrap(self.network)
