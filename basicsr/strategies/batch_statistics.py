"""Batch statistics of networks that no batch was trained with: averages of weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.data.data_sampler import endless


class BatchStatistics:
    """Computes the running statistics of a network's normalizations over training batches.

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
            version: Tells weights from others: statistics are computed once for each.

        Raises:
            ValueError: The network has batch statistics, and there are no training batches to compute them over.
        """
        if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
            return
        if self._known is None or self._known[0] != version:
            loader = self.batches()
            if loader is None:
                raise ValueError(
                    'averaged weights need batch statistics of their own, and there are no training batches'
                )
            runs = (partial(self.loss, net, batch) for batch in islice(endless(loader), self.count))
            torch.optim.swa_utils.update_bn(runs, _Runs(net))
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                for buffer in net.buffers():  # each process has seen batches of its own
                    torch.distributed.broadcast(buffer, 0)
            self._known = version, [buffer.clone() for buffer in net.buffers()]
        for buffer, value in zip(net.buffers(), self._known[1], strict=True):
            buffer.copy_(value)


class _Runs(nn.Module):
    """`net` as `update_bn` wants it, whose inputs are calls that run it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.training = net, net.training

    def forward(self, run: Callable[[], Tensor]) -> Tensor:
        return run()
