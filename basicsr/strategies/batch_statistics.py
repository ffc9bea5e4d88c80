"""Batch statistics of networks that no batch was trained with: averages of weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from basicsr.data.data_sampler import endless
from basicsr.strategies.strategy import Setting
from basicsr.utils.misc import get_random_state, set_random_state
from ldt.frozen import thawed_normalizations
from ldt.restore import preserve_modes_and_buffers
from ldt.statistics import cumulative_means, normalizations

__all__ = ['BatchStatistics', 'normalizations']


class BatchStatistics:
    """Computes the running statistics of a network's normalizations over training batches.

    They are the means of the statistics of `count` batches, that of each process its own, in training mode. Those of
    modules that normalize by their running statistics in training too (frozen ones) stay as they are, and so do all
    other buffers and the random numbers. A network whose statistics are all frozen by `train.freeze_batch_statistics`
    runs no batch.

    Args:
        loss: `loss(net, batch)` runs the network on a batch; its value is not looked at.
        batches: The training batches, a loader.
        count: Over how many batches of each process.
    """

    def __init__(self, loss: Callable[[nn.Module, Any], Tensor], batches: Callable[[], Any], count: int = 50) -> None:
        self.loss, self.batches, self.count = loss, batches, count
        self._known: tuple[Hashable, list[Tensor]] | None = None

    @classmethod
    def of(cls, setting: Setting) -> BatchStatistics:
        """Over 50 batches, or as many as a shorter training has iterations."""
        return cls(setting.loss, setting.batches, min(50, setting.total_iter))

    def put_into(self, net: nn.Module, version: Hashable) -> None:
        """Give `net` its statistics; without normalizations by batch, nothing happens.

        Args:
            net: The network. The caller puts its buffers back.
            version: Tells weights from others: statistics are computed once for each. None: each time.

        Raises:
            ValueError: The network has batch statistics, and there are no training batches to compute them over.
        """
        modules = thawed_normalizations(net)
        if not modules:
            return
        if version is None or self._known is None or self._known[0] != version:
            self._known = version, self._computed(net, modules)
        for buffer, value in zip(_statistics(modules), self._known[1], strict=True):
            buffer.copy_(value)

    @torch.no_grad()
    def _computed(self, net: nn.Module, modules: list[_NormBase]) -> list[Tensor]:
        loader = self.batches()
        if loader is None:
            raise ValueError('averaged weights need batch statistics of their own, and there are no training batches')
        random_state = get_random_state()
        try:
            with preserve_modes_and_buffers(net), cumulative_means(modules):
                net.train()
                for batch in islice(endless(loader), self.count):
                    self.loss(net, batch)
                values = [buffer.clone() for buffer in _statistics(modules)]
        finally:
            set_random_state(random_state)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for value in values:  # each process has seen batches of its own
                if value.is_floating_point():
                    torch.distributed.all_reduce(value)
                    value /= torch.distributed.get_world_size()
        return values


def _statistics(modules: list[_NormBase]) -> list[Tensor]:
    return [buffer for module in modules for buffer in module.buffers(recurse=False)]
