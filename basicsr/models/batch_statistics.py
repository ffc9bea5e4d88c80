"""Batch statistics of networks that no batch was trained with: averages of weights."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.data.data_sampler import endless


class BatchStatistics:
    """Computes the running statistics of a network's normalizations over training batches.

    Args:
        device: Where the network is.
        batches: Over how many batches of each process.
    """

    def __init__(self, device: torch.device, batches: int = 50) -> None:
        self.device, self.batches = device, batches
        self._known: tuple[Hashable, list[Tensor]] | None = None

    def put_into(self, net: nn.Module, loader: Iterable[dict[str, Any]], version: Hashable) -> None:
        """Give `net` its statistics; without normalizations by batch, nothing happens.

        Args:
            net: The network. The caller puts its buffers back.
            loader: Gives batches with `lq`.
            version: Tells weights from others: statistics are computed once for each.
        """
        if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
            return
        if self._known is None or self._known[0] != version:
            batches = islice(endless(loader), self.batches)
            torch.optim.swa_utils.update_bn((batch['lq'].to(self.device) for batch in batches), net)
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                for buffer in net.buffers():  # each process has seen batches of its own
                    torch.distributed.broadcast(buffer, 0)
            self._known = version, [buffer.clone() for buffer in net.buffers()]
        for buffer, value in zip(net.buffers(), self._known[1], strict=True):
            buffer.copy_(value)
