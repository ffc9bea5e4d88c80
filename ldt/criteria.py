"""Scoring criteria: what makes one layer less stable than another.

A criterion is one class: what it keeps of each batch's gradients (`start`, `update`), how the processes of a
distributed run combine what they kept (`all_reduce`), and the score it gives each layer in the end (`score`). To add
one, write that class, here or in a file of your own, and register it; `ldt.score_layers`, `ldt.GradientStatistics`,
distributed runs and module granularity then work with it, and the tests of this project run over it.

    @ldt.register_criterion
    class MeanAbsoluteGradient(ldt.Criterion):
        name = 'mean_absolute_gradient'

        def start(self):
            self.sums = self.layers.zeros()

        def update(self, gradients):
            for index, gradient in enumerate(gradients):
                if gradient is not None:
                    self.sums[index] += gradient.abs().sum()

        def all_reduce(self, batches, group):
            dist.all_reduce(self.sums, group=group)

        def score(self):
            return self.layers.sum(self.sums) / (self.layers.entries_by_layer * self.batches)

A criterion that needs no more than the mean and the variance of each layer is shorter still: subclass `Moments` and
write `score` alone.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from .layers import LayerTensors

_SMALLEST_MEAN = 1e-38
"""Keeps variance / |mean| finite, and so JSON valid, where a mean is exactly zero."""

_NOT_SCORED = ('prefix',)
"""What `Partition.criterion` says of a split that no criterion made."""


class Criterion(ABC):
    """How a layer is scored by its gradients. Layers with a high score are the unstable ones.

    Attributes:
        name: What users call it: letters, digits and underscores.
        min_batches: How many batches it needs, over all processes. One that needs none is scored without any.
        layers: The layers to score, and the tensors they consist of.
        batches: How many batches have been taken in, the one passed to `update` included.
        seed: For a criterion that draws random numbers.
    """

    name: ClassVar[str]
    min_batches: ClassVar[int] = 1

    def __init__(self, layers: LayerTensors, seed: int = 0) -> None:
        self.layers = layers
        self.seed = seed
        self.batches = 0
        self.start()

    def start(self) -> None:  # noqa: B027 - to keep nothing is a choice, such as that of "random"
        """Create what is kept from batch to batch, such as `self.layers.zeros()`; by default nothing."""

    @abstractmethod
    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """Take in the gradients of one batch.

        Args:
            gradients: One for each parameter tensor, in the network's order: dense and real, of at least float32; a
                complex one as (…, 2). None where backward left none, which counts as zero.
        """

    @abstractmethod
    def all_reduce(self, batches: int, group: dist.ProcessGroup | None) -> None:
        """Combine what the processes of `group` kept, so that each holds what it would have kept of all batches.

        Each process calls this. `self.batches` is still the number that this process has taken in, maybe none.

        Args:
            batches: How many batches all processes have taken in together, at least 1.
            group: What to pass on to `torch.distributed.all_reduce`.
        """

    @abstractmethod
    def score(self) -> Tensor | Sequence[float]:
        """The score of each layer, (L,), in the order of `self.layers.names`: finite wherever the gradients are.

        Raises:
            ValueError: The batches taken in do not suffice.
        """

    @classmethod
    def keeper(cls) -> type[Criterion]:
        """The class that says what is kept: criteria that inherit this from the same class share it."""
        own = {'__init__', 'start', 'update', 'all_reduce'}
        return next(base for base in cls.__mro__ if own & set(vars(base)))

    @classmethod
    def view(cls, kept: Criterion) -> Criterion:
        """This criterion over what another one with the same `keeper()` has kept; nothing is copied."""
        other = cls.__new__(cls)
        vars(other).update(vars(kept))
        return other


_registered: dict[str, type[Criterion]] = {}

CRITERIA: Mapping[str, type[Criterion]] = MappingProxyType(_registered)
"""The registered criteria by name, in the order in which they were registered."""


def register_criterion(cls: type[Criterion]) -> type[Criterion]:
    """Class decorator: make a `Criterion` known by its `name`.

    A class that is defined again, by running the cell of a notebook twice, replaces its former self.

    Raises:
        ValueError: No subclass of `Criterion`, methods that are missing, no usable name, or a name that is taken.
    """
    if not (isinstance(cls, type) and issubclass(cls, Criterion)):
        raise ValueError(f'{cls!r} cannot be registered as a criterion: it is not a subclass of ldt.Criterion')
    missing = sorted(cls.__abstractmethods__)
    if missing:
        raise ValueError(f'criterion {cls.__name__} is incomplete: it does not define {", ".join(missing)}')
    name = getattr(cls, 'name', None)
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f'criterion {cls.__name__} needs a `name` of letters, digits and underscores, not {name!r}')
    if name in _NOT_SCORED:
        raise ValueError(f'criterion {cls.__name__} cannot be called {name!r}, which means a split by name')
    if not (isinstance(cls.min_batches, int) and cls.min_batches >= 0):
        raise ValueError(f'criterion {name!r}: min_batches must be a whole number, 0 or more, not {cls.min_batches!r}')
    taken = _registered.get(name)
    if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f'criterion {cls.__name__} cannot be called {name!r}: {taken.__module__}.{taken.__qualname__} has this name'
        )
    _registered[name] = cls
    return cls


def criterion_class(name: str) -> type[Criterion]:
    """The criterion of this name.

    Raises:
        ValueError: There is none; the message lists the choices.
    """
    if name not in CRITERIA:
        raise ValueError(f'no criterion is called {name!r}; choose from {", ".join(CRITERIA)}')
    return CRITERIA[name]


class Moments(Criterion):
    """Keeps the mean and the variance of each layer's gradient; subclasses make a score of them.

    Two numbers per tensor, its mean and its sum of squared deviations, over every entry of every batch. Batches are
    merged by the pairwise rule of Chan, Golub and LeVeque (1983), which does not lose the variance where the mean is
    large, as a sum of squares would.
    """

    def start(self) -> None:
        self._means = self.layers.zeros()
        self._deviations = self.layers.zeros()

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """Nothing waits for the device."""
        zero = torch.zeros((), dtype=torch.float64, device=self._means.device)
        variances, means = [], []
        for gradient in gradients:
            variance, mean = (zero, zero) if gradient is None else torch.var_mean(gradient, correction=0)
            variances.append(variance.to(zero))
            means.append(mean.to(zero))
        before, entries = self.batches - 1, self.layers.entries
        step = torch.stack(means) - self._means
        self._means += step / (before + 1)
        self._deviations += torch.stack(variances) * entries + step.square() * entries * (before / (before + 1))

    def all_reduce(self, batches: int, group: dist.ProcessGroup | None) -> None:
        means = self._means * (self.batches / batches)
        dist.all_reduce(means, group=group)
        self._deviations += (self._means - means).square() * self.layers.entries * self.batches
        dist.all_reduce(self._deviations, group=group)
        self._means = means

    def mean(self) -> Tensor:
        """(L,) mean of each layer's gradient over every entry of every batch."""
        return self.layers.sum(self._means * self.layers.entries) / self.layers.entries_by_layer

    def all_zero(self) -> Tensor:
        """(L,) bool: whether no entry of any batch was other than zero."""
        return self.layers.sum(self._means.abs() + self._deviations) == 0

    def variance(self) -> Tensor:
        """(L,) unbiased variance of each layer's gradient over every entry of every batch.

        Raises:
            ValueError: A layer has shown fewer than two values.
        """
        counts = self.layers.entries_by_layer * self.batches
        if bool((counts < 2).any()):
            raise ValueError(
                'a variance needs two values, and a layer with one entry has shown one: score more batches'
            )
        apart = self._means.to('cpu') - self.layers.spread(self.mean())
        deviations = self._deviations.to('cpu') + apart.square() * self.layers.entries.to('cpu') * self.batches
        return self.layers.sum(deviations) / (counts - 1)


@register_criterion
class Variance(Moments):
    """Unbiased variance over every entry of every batch: the paper's criterion."""

    name = 'variance'

    def score(self) -> Tensor:
        return self.variance()


@register_criterion
class Mean(Moments):
    """|mean|."""

    name = 'mean'

    def score(self) -> Tensor:
        return self.mean().abs()


@register_criterion
class NormalizedVariance(Moments):
    """variance / |mean|."""

    name = 'normalized_variance'

    def score(self) -> Tensor:
        return self.variance() / self.mean().abs().clamp(min=_SMALLEST_MEAN)


@register_criterion
class BetweenSampleVariance(Criterion):
    """Unbiased variance across batches of each entry, averaged over the layer's entries.

    Keeps one tensor of the size of each gradient.
    """

    name = 'between_sample_variance'
    min_batches = 2

    def start(self) -> None:
        self._means = self.layers.zeros_like_gradients()
        self._deviations = self.layers.zeros()

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        """Welford's update for every entry; nothing waits for the device."""
        grown = []
        for mean, gradient in zip(self._means, gradients, strict=True):
            step = -mean if gradient is None else gradient - mean
            mean += step / self.batches
            wide = torch.float32 if step.device.type == 'mps' else torch.float64
            grown.append(((step * step).sum(dtype=wide) * (1 - 1 / self.batches)).to(self._deviations))
        self._deviations += torch.stack(grown)

    def all_reduce(self, batches: int, group: dist.ProcessGroup | None) -> None:
        for index, own in enumerate(self._means):
            mean = own * (self.batches / batches)
            dist.all_reduce(mean, group=group)
            self._deviations[index] += (own - mean).double().square().sum() * self.batches
            self._means[index] = mean
        dist.all_reduce(self._deviations, group=group)

    def score(self) -> Tensor:
        return self.layers.sum(self._deviations) / (self.batches - 1) / self.layers.entries_by_layer


@register_criterion
class Random(Criterion):
    """A seeded random number: what a split that measures nothing is worth. Looks at no batch."""

    name = 'random'
    min_batches = 0

    def update(self, gradients: Sequence[Tensor | None]) -> None:
        pass

    def all_reduce(self, batches: int, group: dist.ProcessGroup | None) -> None:
        pass

    def score(self) -> list[float]:
        generator = random.Random(self.seed)
        return [generator.random() for _ in self.layers.names]
