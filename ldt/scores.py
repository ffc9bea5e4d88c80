"""Stage 1: how much does the gradient of each layer vary over samples?

A layer is one parameter tensor, or the tensors of one module. Its statistics run over every entry of its gradient in
every batch, so that two numbers a tensor, the mean and the sum of squared deviations from it, are all that is kept.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .layers import layers_of, listing
from .restore import gradients_restored, modes_and_buffers_restored

CRITERIA = ('variance', 'mean', 'normalized_variance', 'between_sample_variance', 'random')

_SMALLEST_MEAN = 1e-38  # keeps variance / |mean| finite, and so JSON valid, where a mean is exactly zero


class GradientStatistics:
    """Mean and unbiased variance of the gradient of each trainable layer, updated in one pass.

    Batches are merged by the pairwise rule of Chan, Golub and LeVeque (1983), which does not lose the variance where
    the mean is large, as a sum of squares would. A gradient that is absent counts as zero.

    Args:
        model: The network. Parameters with `requires_grad=False` are left out.
        between_sample: Also keep what `between_sample_variance` needs, one more tensor of the size of each gradient.
        granularity: What a layer is, "parameter" or "module", see `layers_of`. Statistics of a module are those of all
            entries of all its tensors.

    Attributes:
        names: The layers, in the network's order.
        batches: How many were taken in.

    Raises:
        ValueError: The network has no trainable parameter, or unknown granularity.
    """

    def __init__(self, model: nn.Module, between_sample: bool = False, granularity: str = 'parameter') -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError('the network has no parameter with requires_grad=True: there is nothing to score')
        layers = layers_of(self._parameters, granularity)
        self.names = list(layers)
        layer_of = {name: index for index, names in enumerate(layers.values()) for name in names}
        self._layer_of = torch.tensor([layer_of[name] for name in self._parameters])
        device = next(iter(self._parameters.values())).device
        if device.type == 'mps':  # has no float64
            device = torch.device('cpu')
        # Entries of one batch's gradient; a complex one counts twice, as real and imaginary part.
        sizes = [p.numel() * (2 if p.is_complex() else 1) for p in self._parameters.values()]
        self._sizes = torch.tensor(sizes, dtype=torch.float64, device=device)
        self._means = torch.zeros_like(self._sizes)
        self._deviations = torch.zeros_like(self._sizes)
        self._touched = [False] * len(sizes)
        self._entry_means: list[Tensor] | None = None
        if between_sample:
            self._entry_means = [_as_real(torch.zeros_like(p)).detach() for p in self._parameters.values()]
            self._entry_deviations = torch.zeros_like(self._sizes)
        self.batches = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients that a backward pass has just left in `.grad`. Nothing waits for the device."""
        self.batches += 1
        zero = torch.zeros((), dtype=torch.float64, device=self._sizes.device)
        variances, means, entry_deviations = [], [], []
        for index, parameter in enumerate(self._parameters.values()):
            gradient = None if parameter.grad is None else _as_real(parameter.grad)
            self._touched[index] = self._touched[index] or gradient is not None
            variance, mean = (zero, zero) if gradient is None else torch.var_mean(gradient, correction=0)
            variances.append(variance.to(zero))
            means.append(mean.to(zero))
            if self._entry_means is not None:
                entry_deviations.append(self._update_entries(index, gradient).to(zero))
        self._merge(self.batches - 1, torch.stack(means), torch.stack(variances) * self._sizes)
        if self._entry_means is not None:
            self._entry_deviations += torch.stack(entry_deviations)

    def _merge(self, before: int, means: Tensor, deviations: Tensor) -> None:
        """Merge one batch's means and summed squared deviations into those of `before` batches."""
        step = means - self._means
        self._means += step / (before + 1)
        self._deviations += deviations + step.square() * self._sizes * (before / (before + 1))

    def _update_entries(self, index: int, gradient: Tensor | None) -> Tensor:
        """Welford's update for every entry of one layer; returns what the squared deviations grew by, summed."""
        mean = self._entry_means[index]
        step = -mean if gradient is None else gradient - mean
        mean += step / self.batches
        return (step * step).sum(dtype=torch.float32 if step.device.type == 'mps' else torch.float64) * (
            1 - 1 / self.batches
        )

    @torch.no_grad()
    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Merge the statistics of all processes of `group`, so that each holds those over all batches of all of them.

        Raises:
            ValueError: No process of the group has taken in a batch.
        """
        batches = torch.tensor([float(self.batches)], dtype=torch.float64, device=self._sizes.device)
        dist.all_reduce(batches, group=group)
        total = round(batches.item())
        if total == 0:
            raise ValueError('no process has taken in a batch: call update() after each backward pass first')
        share = self.batches / total
        means = self._means * share
        dist.all_reduce(means, group=group)
        self._deviations += (self._means - means).square() * self._sizes * self.batches
        dist.all_reduce(self._deviations, group=group)
        self._means = means
        if self._entry_means is not None:
            self._all_reduce_entries(share, group)
        touched = torch.tensor(self._touched).to(self._sizes)
        dist.all_reduce(touched, op=dist.ReduceOp.MAX, group=group)
        self._touched = touched.bool().tolist()
        self.batches = total

    def _all_reduce_entries(self, share: float, group: dist.ProcessGroup | None) -> None:
        for index, own in enumerate(self._entry_means):
            mean = own * share
            dist.all_reduce(mean, group=group)
            self._entry_deviations[index] += (own - mean).double().square().sum() * self.batches
            self._entry_means[index] = mean
        dist.all_reduce(self._entry_deviations, group=group)

    def mean(self) -> dict[str, float]:
        """Mean of each layer's gradient over every entry of every batch."""
        self._require(1)
        return self._named(self._pooled()[1])

    def variance(self) -> dict[str, float]:
        """Unbiased variance of each layer's gradient over every entry of every batch.

        Raises:
            ValueError: A layer has shown fewer than two values.
        """
        self._require(1)
        sizes, _, deviations = self._pooled()
        counts = sizes * self.batches
        if bool((counts < 2).any()):
            raise ValueError(
                'a variance needs two values, and a layer with one entry has shown one: score more batches'
            )
        return self._named(deviations / (counts - 1))

    def between_sample_variance(self) -> dict[str, float]:
        """Unbiased variance across batches of each entry, averaged over the entries of the layer.

        Raises:
            ValueError: Fewer than two batches, or built without `between_sample=True`.
        """
        if self._entry_means is None:
            raise ValueError('between-sample variance needs GradientStatistics(model, between_sample=True)')
        self._require(2)
        return self._named(self._by_layer(self._entry_deviations) / (self.batches - 1) / self._by_layer(self._sizes))

    def _by_layer(self, values: Tensor) -> Tensor:
        """Sums over the tensors of each layer, on the CPU, where their order is always the same."""
        sums = torch.zeros(len(self.names), dtype=torch.float64)
        return sums.index_add_(0, self._layer_of, values.to('cpu'))

    def _pooled(self) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of a batch, mean, and summed squared deviations from it of each layer."""
        sizes = self._by_layer(self._sizes)
        means = self._by_layer(self._means * self._sizes) / sizes
        apart = self._means.to('cpu') - means[self._layer_of]
        deviations = self._deviations.to('cpu') + apart.square() * self._sizes.to('cpu') * self.batches
        return sizes, means, self._by_layer(deviations)

    def scores(self, criterion: str = 'variance') -> dict[str, float]:
        """Score of each layer, in the network's order, by one of `CRITERIA` other than "random"."""
        if criterion == 'variance':
            return self.variance()
        if criterion == 'mean':
            return {name: abs(mean) for name, mean in self.mean().items()}
        if criterion == 'normalized_variance':
            means = self.mean()
            return {name: var / max(abs(means[name]), _SMALLEST_MEAN) for name, var in self.variance().items()}
        if criterion == 'between_sample_variance':
            return self.between_sample_variance()
        raise ValueError(f'no criterion is called {criterion!r}; choose from {", ".join(CRITERIA)}')

    def untouched(self) -> list[str]:
        """Names of the layers to which no backward pass has given a gradient."""
        touched = self._by_layer(torch.tensor(self._touched).double()).tolist()
        return [name for name, tensors in zip(self.names, touched, strict=True) if not tensors]

    def _require(self, batches: int) -> None:
        if self.batches < batches:
            raise ValueError(f'{self.batches} batches were taken in where {batches} are needed: score more batches')

    def _named(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self.names, values.tolist(), strict=True))


def score_layers(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    num_batches: int = 300,
    criterion: str = 'variance',
    *,
    granularity: str = 'parameter',
    seed: int = 0,
    group: dist.ProcessGroup | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Score each trainable layer of `model` by its gradients: forward, loss, backward, no update (the paper's stage 1).

    The network runs in training mode. Afterwards weights, buffers, `.grad`, `requires_grad` and the mode of every
    module are what they were. Where `torch.distributed` is initialised, every process of `group` must call this, with
    batches of its own, and gets the scores over the batches of all.

    Args:
        model: The network.
        batches: What `loss_fn` takes, one item a batch; at most `num_batches` are drawn.
        loss_fn: `loss_fn(model, batch)` returns a scalar tensor.
        num_batches: How many batches at most.
        criterion: One of `CRITERIA`.
        granularity: What is scored as one layer, "parameter" or "module", see `layers_of`.
        seed: For "random", which looks at no batch.
        group: The processes that score together; None is all of them.
        on_batch: Called with the number of batches done after each, to show progress.

    Returns:
        Score by name of the layer, in the network's order.

    Raises:
        ValueError: Unknown criterion or granularity, no batch, a loss that is no scalar, or gradients with NaN or Inf
            (named).
    """
    if criterion not in CRITERIA:
        raise ValueError(f'no criterion is called {criterion!r}; choose from {", ".join(CRITERIA)}')
    if num_batches < 1:
        raise ValueError(f'num_batches must be at least 1, not {num_batches}')
    statistics = GradientStatistics(model, criterion == 'between_sample_variance', granularity)
    if criterion == 'random':
        generator = random.Random(seed)
        return {name: generator.random() for name in statistics.names}
    with modes_and_buffers_restored(model), gradients_restored(model), torch.enable_grad():
        model.train()
        for batch in islice(batches, num_batches):
            model.zero_grad(set_to_none=True)
            loss = loss_fn(model, batch)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                found = f'a tensor of shape {tuple(loss.shape)}' if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(f'loss_fn(model, batch) must return a scalar tensor, not {found}')
            loss.backward()
            statistics.update()
            if on_batch is not None:
                on_batch(statistics.batches)
    if dist.is_available() and dist.is_initialized():
        statistics.all_reduce(group)
    if statistics.batches == 0:
        raise ValueError('there was no batch to score: `batches` is empty')
    return _checked(statistics, criterion)


def _checked(statistics: GradientStatistics, criterion: str) -> dict[str, float]:
    scores = statistics.scores(criterion)
    broken = [name for name, score in scores.items() if not math.isfinite(score)]
    if broken:
        raise ValueError(
            f'the gradients of {listing(broken)} hold NaN or Inf: look at the data, the loss and the weights'
        )
    untouched = statistics.untouched()
    if untouched:
        warnings.warn(f'no batch gave a gradient to {listing(untouched)}: scored as zero, the stablest', stacklevel=3)
    return scores


def _as_real(tensor: Tensor) -> Tensor:
    """A gradient as dense real numbers of at least float32, (…) or (…, 2) for a complex one."""
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
