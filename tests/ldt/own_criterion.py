"""A criterion as a user would write it in a file of their own; registered by the tests that use it."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

import ldt


class MeanAbsoluteGradient(ldt.Criterion):
    """mean |g| over every entry of every batch."""

    name = 'of_a_users_own'

    def start(self) -> None:
        self.sums = self.layers.zeros()

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                self.sums[index] += gradient.abs().sum(dtype=torch.float64)

    def all_reduce(self, batches: int, group: dist.ProcessGroup | None) -> None:
        dist.all_reduce(self.sums, group=group)

    def score(self) -> Tensor:
        return self.layers.sum(self.sums) / (self.layers.entries_by_layer * self.batches)
