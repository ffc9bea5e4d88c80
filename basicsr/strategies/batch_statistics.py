"""Batch statistics of networks that no batch was trained with: averages of weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from basicsr.data.data_sampler import endless
from basicsr.utils.misc import get_random_state, set_random_state
from ldt.restore import preserve_modes_and_buffers


def normalizations(net: nn.Module) -> list[_NormBase]:
    """The modules that normalize by running statistics in evaluation mode.

    These are torch's `BatchNorm1d` to `3d`, `SyncBatchNorm`, `InstanceNorm1d` to `3d` with `track_running_stats`, and
    their subclasses.
    """
    return [module for module in net.modules() if isinstance(module, _NormBase) and module.running_mean is not None]


class BatchStatistics:
    """Computes the running statistics of a network's normalizations over training batches.

    They are the means of the statistics of `count` batches, that of each process its own, in training mode. Those of
    modules that normalize by their running statistics in training too (frozen ones) stay as they are, and so do all
    other buffers and the random numbers.

    Args:
        loss: `loss(net, batch)` runs the network on a batch; its value is not looked at.
        batches: The training batches, a loader.
        count: Over how many batches of each process.
    """

    def __init__(self, loss: Callable[[nn.Module, Any], Tensor], batches: Callable[[], Any], count: int = 50) -> None:
        self.loss, self.batches, self.count = loss, batches, count
        self._known: tuple[Hashable, list[Tensor]] | None = None

    def put_into(self, net: nn.Module, version: Hashable) -> None:
        """Give `net` its statistics; without normalizations by batch, nothing happens.

        Args:
            net: The network. The caller puts its buffers back.
            version: Tells weights from others: statistics are computed once for each. None: each time.

        Raises:
            ValueError: The network has batch statistics, and there are no training batches to compute them over.
        """
        modules = normalizations(net)
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
            with preserve_modes_and_buffers(net), _cumulative_means(modules):
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


@contextmanager
def _cumulative_means(modules: list[_NormBase]) -> Iterator[None]:
    """Let running statistics be the means over the calls in training mode.

    `torch.optim.swa_utils.update_bn` leaves out `InstanceNorm`, for which `momentum = None` is no mean, and forgets the
    statistics of modules that stay in evaluation mode.
    """
    momenta = [(module, module.momentum) for module in modules]
    calls = dict.fromkeys(modules, 0)

    def before_call(module: _NormBase, inputs: Any) -> None:
        if module.training:
            if not calls[module]:
                module.reset_running_stats()
            calls[module] += 1
            module.momentum = 1 / calls[module]

    hooks = [module.register_forward_pre_hook(before_call) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, momentum in momenta:
            module.momentum = momentum
