"""Batch statistics that stay as they are: `BatchNorm` and its like in evaluation mode while all else trains."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from .statistics import normalizations


class FrozenStatistics:
    """Marks modules that normalize by their running statistics in training, too, whatever `train()` is told."""

    training: bool

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)

    def __reduce_ex__(self, protocol: Any) -> tuple:
        """For pickles: the class, which is made on the fly, has no name in a module."""
        _, _, *state = super().__reduce_ex__(protocol)
        return _empty, (type(self).__bases__[1],), *state


@functools.cache
def _frozen_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (FrozenStatistics, kind), {'__module__': kind.__module__, '__doc__': kind.__doc__})


def _empty(kind: type[nn.Module]) -> nn.Module:
    made = _frozen_class(kind)
    return made.__new__(made)


def freeze_batch_statistics(net: nn.Module) -> int:
    """Freeze the running statistics of `net`'s normalizations, as DomainBed does (Gulrajani and Lopez-Paz, ICLR 2021).

    They normalize by these statistics in training as in evaluation, through every later `train()` of the network or of
    a copy of it. Their weights and biases train as before. Averages of such a network need no statistics of their own.

    Args:
        net: The network, which is changed itself: the modules that `ldt.statistics.normalizations` finds change class.

    Returns:
        How many normalizations are frozen now; 0 where the network has no running statistics.
    """
    modules = normalizations(net)
    for module in modules:
        if not isinstance(module, FrozenStatistics):
            module.__class__ = _frozen_class(type(module))
        module.train()
    return len(modules)


def thawed_normalizations(net: nn.Module) -> list[nn.Module]:
    """`normalizations` without those that `freeze_batch_statistics` has frozen."""
    return [module for module in normalizations(net) if not isinstance(module, FrozenStatistics)]
