"""Stage 2: a decay per layer, and the moving average that applies it in place."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .networks import format_names
from .partition import Partition

LOW_PRECISION = (torch.float16, torch.bfloat16)


def dynamic_decay(
    partition: Partition,
    stable: tuple[float, float] = (0.99, 0.01),
    unstable: tuple[float, float] = (0.999, 0.001),
) -> dict[str, float]:
    """Dynamic parameter update (DPU): W = base + span * k / n for the layer at place k of n in its group.

    Places follow ascending score: the less stable a layer is, the more slowly its average follows.

    Args:
        partition: The groups.
        stable: (base, span) of the stable layers.
        unstable: (base, span) of the unstable layers.

    Returns:
        Decay by name, each in [0, 1).

    Raises:
        ValueError: A base outside [0, 1), a negative span, or a sum above 1.
    """
    decay = {}
    for group, layers, (base, span) in (
        ('stable', partition.stable_layers, stable),
        ('unstable', partition.unstable_layers, unstable),
    ):
        if not 0 <= base < 1 or span < 0 or base + span > 1 + 1e-12:
            raise ValueError(
                f'the decay of the {group} layers needs 0 <= base < 1, span >= 0 and base + span <= 1; '
                f'it is base {base}, span {span}'
            )
        for place, names in enumerate(layers.values()):
            decay.update(dict.fromkeys(names, base + span * place / len(layers)))
    return decay


def fixed_decay(partition: Partition, decay: float = 0.999) -> dict[str, float]:
    """One decay W in [0, 1) for every layer (LDT without DPU)."""
    if not 0 <= decay < 1:
        raise ValueError(f'a decay must lie in [0, 1), below 1 so that no layer is frozen for ever; it is {decay}')
    return dict.fromkeys([*partition.stable, *partition.unstable], decay)


def checked_decay(decay: Mapping[str, float], partition: Partition) -> dict[str, float]:
    """Return the decays by name in the partition's order; a ValueError names those that do not fit."""
    names = [*partition.stable, *partition.unstable]
    missing = [name for name in names if name not in decay]
    unknown = sorted(set(decay) - set(names))
    outside = [f'{name} ({decay[name]})' for name in names if name in decay and not 0 <= decay[name] < 1]
    for what, culprits in (
        ('no decay is given for', missing),
        ('a decay is given for layers that the partition lacks:', unknown),
        ('a decay must lie in [0, 1):', outside),
    ):
        if culprits:
            raise ValueError(f'{what} {format_names(culprits)}')
    return {name: float(decay[name]) for name in names}


def decay_from_time_constants(fastest: float, slowest: float, exchange_every: int) -> tuple[float, float]:
    """Turn time constants in iterations into a decay: W = 1 - exchange_every / time constant.

    The layer at place 0 gets `fastest`; W is linear in the place, as in DPU, and would reach `slowest` at place n. The
    same time constant twice is one W for all layers, `decay_from_time_constants(t, t, every)[0]`.

    Args:
        fastest: Time constant of the layer with the lowest score.
        slowest: Time constant one place beyond the layer with the highest score.
        exchange_every: Iterations between two exchanges of a layer.

    Returns:
        (base, span) for `dynamic_decay`.

    Raises:
        ValueError: Unless exchange_every <= fastest <= slowest < infinity.
    """
    if not exchange_every <= fastest <= slowest < math.inf:
        raise ValueError(
            f'time constants must be finite, the fastest ({fastest:g} iterations) no longer than the slowest '
            f'({slowest:g}) and no shorter than the interval between two exchanges of a layer ({exchange_every})'
        )
    return 1 - exchange_every / fastest, exchange_every / fastest - exchange_every / slowest


def time_constants(decay: Mapping[str, float], exchange_every: int) -> dict[str, float]:
    """Iterations in which an averaged layer closes 63% of the gap to its trained twin: exchange_every / (1 - W)."""
    return {name: exchange_every / (1 - value) for name, value in decay.items()}


@dataclass(frozen=True)
class TimeConstantStats:
    """How fast the averaged layers of one group follow: time constants in iterations, against the length of the run."""

    group: str
    layers: int
    fastest: float
    median: float
    slowest: float
    slow: int
    """Layers whose time constant exceeds the length of the run: they cover less than 63% of the way."""

    @property
    def mostly_slow(self) -> bool:
        """Whether this is more than half of the group."""
        return 2 * self.slow > self.layers


def time_constant_stats(
    partition: Partition, decay: Mapping[str, float], exchange_every: int, total_iter: int
) -> tuple[TimeConstantStats, TimeConstantStats]:
    """Time constants of the stable and the unstable group, against a run of `total_iter` iterations."""
    constants = time_constants(decay, exchange_every)
    both = []
    for group, layers in (('stable', partition.stable_layers), ('unstable', partition.unstable_layers)):
        own = [constants[names[0]] for names in layers.values()]
        slow = sum(constant > total_iter for constant in own)
        both.append(TimeConstantStats(group, len(own), min(own), statistics.median(own), max(own), slow))
    return both[0], both[1]


# The names they had before.
Pace = TimeConstantStats
paces = time_constant_stats
decay_of = decay_from_time_constants


class MovingAverage:
    """Averages that follow trained tensors: average <- W average + (1 - W) trained, with a W for each.

    Averages of float16 and bfloat16 tensors are also kept in float32: at a rate of 1e-3, a bfloat16 average never
    moves.

    Args:
        averages: The tensors that follow; changed in place.
        trained: The tensors to follow, of the same shapes and types.
        decays: W for each pair.
    """

    def __init__(self, averages: Sequence[Tensor], trained: Sequence[Tensor], decays: Sequence[float]) -> None:
        self._averages, self._trained = list(averages), list(trained)
        self._rates = [1 - decay for decay in decays]
        self.low: list[int] = [index for index, tensor in enumerate(self._averages) if tensor.dtype in LOW_PRECISION]
        self.precise: list[Tensor] = [self._averages[index].detach().float() for index in self.low]
        """The float32 averages of the low-precision tensors, in the order of `low`."""

    @torch.no_grad()
    def step(self) -> None:
        """Move every average once, all of them in one foreach kernel."""
        averages: list[Tensor] = [tensor.detach() for tensor in self._averages]
        trained: list[Tensor] = [tensor.detach() for tensor in self._trained]
        for index, precise in zip(self.low, self.precise, strict=True):
            averages[index], trained[index] = precise, trained[index].float()
        torch._foreach_lerp_(averages, trained, self._rates)
        if self.low:
            torch._foreach_copy_([self._averages[index].detach() for index in self.low], self.precise)
