"""Learning rates that restart."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Len
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from basicsr.options.bounds import NonNegative, Positive, Steps
from basicsr.utils.registry import SCHEDULER_REGISTRY


@SCHEDULER_REGISTRY.register()
class TrueCosineAnnealingLR(CosineAnnealingLR):
    """Anneal from the initial rate to `eta_min` along half a cosine, and back again: torch's `CosineAnnealingLR`.

    Args:
        optimizer: The optimizer.
        T_max: Iterations of the half cosine.
        eta_min: Lowest rate.
        last_epoch: As in torch.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: Steps, eta_min: NonNegative = 0.0, last_epoch: Literal[-1] = -1
    ) -> None:
        super().__init__(optimizer, T_max, eta_min, last_epoch)


@SCHEDULER_REGISTRY.register(name='MultiStepLR')
@SCHEDULER_REGISTRY.register()
class MultiStepRestartLR(LRScheduler):
    """Multiply the rate by `gamma` at each milestone; set it to weight * initial rate at each restart.

    Args:
        optimizer: The optimizer.
        milestones: Iterations at which the rate falls; one that is listed twice counts twice.
        gamma: Factor at a milestone.
        restarts: Iterations of the restarts.
        restart_weights: Weight of each restart.
        last_epoch: As in torch.

    Raises:
        ValueError: Restarts and weights differ in number.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[Steps],
        gamma: Positive = 0.1,
        restarts: Sequence[Annotated[int, Ge(0)]] = (0,),
        restart_weights: Sequence[Positive] = (1,),
        last_epoch: Literal[-1] = -1,
    ) -> None:
        if len(restarts) != len(restart_weights):
            raise ValueError(f'{len(restarts)} restarts need as many restart_weights, not {len(restart_weights)}')
        self.milestones, self.gamma = list(milestones), gamma
        self.restarts, self.restart_weights = list(restarts), list(restart_weights)
        super().__init__(optimizer, last_epoch)

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if isinstance(self.milestones, Counter):  # as BasicSR keeps them
            self.milestones = sorted(self.milestones.elements())

    def get_lr(self) -> list[float]:
        if self.last_epoch in self.restarts:
            weight = self.restart_weights[self.restarts.index(self.last_epoch)]
            return [group['initial_lr'] * weight for group in self.optimizer.param_groups]
        factor = self.gamma ** self.milestones.count(self.last_epoch)
        return [group['lr'] * factor for group in self.optimizer.param_groups]


@SCHEDULER_REGISTRY.register()
class CosineAnnealingRestartLR(LRScheduler):
    """In each period, anneal from weight * initial rate to `eta_min` along half a cosine.

    Args:
        optimizer: The optimizer.
        periods: Iterations of each period.
        restart_weights: Weight of each period.
        eta_min: Lowest rate.
        last_epoch: As in torch.

    Raises:
        ValueError: Periods and weights differ in number.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        periods: Annotated[Sequence[Steps], Len(1)],
        restart_weights: Sequence[Positive] = (1,),
        eta_min: NonNegative = 0,
        last_epoch: Literal[-1] = -1,
    ) -> None:
        if len(periods) != len(restart_weights):
            raise ValueError(f'{len(periods)} periods need as many restart_weights, not {len(restart_weights)}')
        self.periods, self.restart_weights, self.eta_min = list(periods), list(restart_weights), eta_min
        self.cumulative_period = [sum(self.periods[: index + 1]) for index in range(len(self.periods))]
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        index = get_position_from_periods(self.last_epoch, self.cumulative_period)
        start = self.cumulative_period[index] - self.periods[index]
        turn = math.pi * (self.last_epoch - start) / self.periods[index]
        swing = 0.5 * self.restart_weights[index] * (1 + math.cos(turn))
        return [self.eta_min + swing * (base - self.eta_min) for base in self.base_lrs]


def get_position_from_periods(iteration: int, cumulative_period: Sequence[int]) -> int:
    """Index of the period that holds `iteration`, the last one past the end; periods include their last iteration."""
    return min(bisect.bisect_left(cumulative_period, iteration), len(cumulative_period) - 1)
