"""Stage 1: how much does the gradient of each layer vary over samples?

A layer is one parameter tensor, or the tensors of one module. What is kept of its gradients, and what score is made of
it, is up to the criterion: see `criteria.py`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .criteria import BetweenSampleVariance, Criterion, Moments, Variance, criterion_class
from .layers import LayerTensors, as_real, layers_of
from .networks import check_loss, check_network, format_names, unwrapped
from .restore import preserve_gradients, preserve_modes_and_buffers


class GradientStatistics:
    """What the criteria keep of the gradients of each trainable layer, updated in one pass.

    Mean and variance are always kept, in two numbers per tensor, and with them all criteria that need no more. A
    gradient that is absent counts as zero. Layers without entries, such as a bias of shape (0,), score zero by any
    criterion, which does not see them.

    Args:
        model: The network. Parameters with `requires_grad=False` are left out. Layers inside DataParallel and what
            torch.compile returns are named as if these were not there.
        between_sample: Short for `criteria='between_sample_variance'`.
        granularity: What a layer is, "parameter" or "module", see `layers_of`. Statistics of a module are those of all
            entries of all its tensors.
        criteria: One or several of `CRITERIA` that `scores` will be asked for, beyond those that need mean and
            variance alone.
        seed: For criteria that draw random numbers.

    Attributes:
        names: The layers, in the network's order.
        batches: How many have been taken in.

    Raises:
        ValueError: The network has no trainable parameter, its gradients are averaged over processes or its weights
            have no values (see `check_network`), or unknown granularity or criterion.
    """

    def __init__(
        self,
        model: nn.Module,
        between_sample: bool = False,
        granularity: str = 'parameter',
        *,
        criteria: str | Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        check_network(model, averaging='take statistics of the network inside it, and back-propagate through that')
        trainable = {name: p for name, p in unwrapped(model).named_parameters() if p.requires_grad}
        self._parameters = {name: p for name, p in trainable.items() if p.numel()}
        if not self._parameters:
            raise ValueError('the network has no parameter with requires_grad=True: there is nothing to score')
        self.names = list(layers_of(trainable, granularity))
        self._layers = LayerTensors(self._parameters, granularity)
        self._seed = seed
        asked = [criterion_class(name) for name in ([criteria] if isinstance(criteria, str) else criteria)]
        asked += [BetweenSampleVariance] if between_sample else []
        self._kept: dict[type[Criterion], Criterion] = {}
        for cls in (Variance, *asked):
            self._keep(cls)
        self._touched = [False] * len(self._parameters)
        self.batches = 0

    def _keep(self, cls: type[Criterion]) -> Criterion:
        """Start to keep what a criterion needs, unless another one keeps the same."""
        if cls.keeper() not in self._kept:
            self._kept[cls.keeper()] = cls(self._layers, self._seed)
        return self._kept[cls.keeper()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients that a backward pass has just left in `.grad`. Nothing waits for the device."""
        self.batches += 1
        gradients = [None if p.grad is None else as_real(p.grad) for p in self._parameters.values()]
        self._touched = [seen or g is not None for seen, g in zip(self._touched, gradients, strict=True)]
        for kept in self._kept.values():
            kept.batches = self.batches
            kept.update(gradients)

    @torch.no_grad()
    def all_reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Merge the statistics of all processes of `group`, so that each holds those over all batches of all of them.

        Raises:
            ValueError: No process of the group has taken in a batch.
        """
        device = self._layers.entries.device
        batches = torch.tensor([float(self.batches)], dtype=torch.float64, device=device)
        dist.all_reduce(batches, group=group)
        total = round(batches.item())
        if total == 0:
            raise ValueError('no process has taken in a batch: call update() after each backward pass first')
        for kept in self._kept.values():
            kept.all_reduce(total, group)
            kept.batches = total
        touched = torch.tensor(self._touched).to(batches)
        dist.all_reduce(touched, op=dist.ReduceOp.MAX, group=group)
        self._touched = touched.bool().tolist()
        self.batches = total

    def mean(self) -> dict[str, float]:
        """Mean of each layer's gradient over every entry of every batch."""
        self._require(1)
        return self._named(self._kept[Moments].mean())

    def variance(self) -> dict[str, float]:
        """Unbiased variance of each layer's gradient over every entry of every batch.

        Raises:
            ValueError: A layer has shown fewer than two values.
        """
        return self.scores('variance')

    def between_sample_variance(self) -> dict[str, float]:
        """Unbiased variance across batches of each entry, averaged over the entries of the layer.

        Raises:
            ValueError: Fewer than two batches, or built without `between_sample=True`.
        """
        return self.scores('between_sample_variance')

    def scores(self, criterion: str = 'variance') -> dict[str, float]:
        """Score of each layer, in the network's order, by one of `CRITERIA`.

        Raises:
            ValueError: Unknown criterion, one that needs more than was kept or more batches, or one that does not
                return a number for each layer.
        """
        cls = criterion_class(criterion)
        if cls.keeper() not in self._kept and cls.min_batches:
            raise ValueError(
                f'what {criterion} needs was not kept: it takes GradientStatistics(model, criteria={criterion!r})'
            )
        kept = self._keep(cls)
        self._require(cls.min_batches)
        score = cls.view(kept).score()
        try:
            values = torch.as_tensor(score, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            values = torch.empty(0, 0)
        count = len(self._layers.names)
        if values.shape != (count,):
            found = f'{tuple(values.shape)}' if isinstance(score, Tensor) else f'{score!r:.60}'
            raise ValueError(
                f'score() of criterion {criterion!r} must return one number per layer, shape ({count},), not {found}'
            )
        return self._named(values)

    def untouched(self) -> list[str]:
        """Names of the layers to which no backward pass has given a gradient."""
        touched = self._layers.sum(torch.tensor(self._touched).double()).tolist()
        return [name for name, tensors in zip(self._layers.names, touched, strict=True) if not tensors]

    def zero(self) -> list[str]:
        """Names of the layers whose gradients came, and were exactly zero in every batch."""
        absent, zero = {*self.untouched()}, self._kept[Moments].all_zero().tolist()
        return [
            name for name, all_zero in zip(self._layers.names, zero, strict=True) if all_zero and name not in absent
        ]

    def _require(self, batches: int) -> None:
        if self.batches < batches:
            raise ValueError(f'{self.batches} batches were taken in where {batches} are needed: score more batches')

    def _named(self, values: Tensor) -> dict[str, float]:
        known = dict(zip(self._layers.names, values.tolist(), strict=True))
        return {name: known.get(name, 0.0) for name in self.names}


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

    Of a DistributedDataParallel, DataParallel or what torch.compile returns, the network inside is scored: what is
    averaged over processes varies less than a sample's gradient does. Layers have the names that they have in there.

    Args:
        model: The network. Weights on the meta device, sharded ones and those of lazy modules are refused.
        batches: What `loss_fn` takes, one item a batch; at most `num_batches` are drawn, and none for a criterion
            that needs none.
        loss_fn: `loss_fn(model, batch)` returns a scalar tensor, computed by the `model` that it is given.
        num_batches: How many batches at most.
        criterion: One of `CRITERIA`, your own included: see `register_criterion`.
        granularity: What is scored as one layer, "parameter" or "module", see `layers_of`.
        seed: For a criterion that draws random numbers.
        group: The processes that score together; None is all of them.
        on_batch: Called with the number of batches done after each, to show progress.

    Returns:
        Score by name of the layer, in the network's order.

    Raises:
        ValueError: Unknown criterion or granularity, no batch, a loss that is no scalar or does not depend on the
            network, gradients with NaN or Inf (named), a criterion whose score is not a finite number for each layer,
            or a network that cannot be scored.

    Warns:
        UserWarning: Layers without a gradient, and layers whose gradient was exactly zero in every batch.
    """
    needs_batches = criterion_class(criterion).min_batches > 0
    if num_batches < 1:
        raise ValueError(f'num_batches must be at least 1, not {num_batches}')
    model = unwrapped(model)
    statistics = GradientStatistics(model, granularity=granularity, criteria=criterion, seed=seed)
    if needs_batches:
        _take_in(statistics, model, islice(batches, num_batches), loss_fn, on_batch)
        if dist.is_available() and dist.is_initialized():
            statistics.all_reduce(group)
        if statistics.batches == 0:
            raise ValueError('there was no batch to score: `batches` is empty, or an iterator that is exhausted')
        _check_gradients(statistics)
    scores = statistics.scores(criterion)
    broken = [name for name, score in scores.items() if not math.isfinite(score)]
    if broken:
        raise ValueError(f'criterion {criterion!r} scores {format_names(broken)} as NaN or Inf, of finite gradients')
    return scores


def _take_in(
    statistics: GradientStatistics,
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    on_batch: Callable[[int], None] | None,
) -> None:
    """Forward, loss and backward of each batch, and a network that is then what it was."""
    with preserve_modes_and_buffers(model), preserve_gradients(model), torch.enable_grad():
        model.train()
        for batch in batches:
            model.zero_grad(set_to_none=True)
            loss = loss_fn(model, batch)
            check_loss(loss, 'trainable parameter of the network')
            loss.backward()
            statistics.update()
            if on_batch is not None:
                on_batch(statistics.batches)


def _check_gradients(statistics: GradientStatistics) -> None:
    """Refuse gradients with NaN or Inf, which some criteria would not show; warn about layers without gradients."""
    broken = [name for name, mean in statistics.mean().items() if not math.isfinite(mean)]
    if broken:
        raise ValueError(
            f'the gradients of {format_names(broken)} hold NaN or Inf: look at the data, the loss and the weights'
        )
    untouched, zero = statistics.untouched(), statistics.zero()
    if len(untouched) == len(statistics._layers.names):
        raise ValueError(
            'no batch gave any layer a gradient: loss_fn(model, batch) must run the model that it is given'
        )
    if untouched:
        warnings.warn(
            f'no batch gave a gradient to {format_names(untouched)}: scored as zero, the stablest. They are not used, '
            'or in a checkpoint with use_reentrant=True whose inputs need no gradient',
            stacklevel=3,
        )
    if zero:
        warnings.warn(
            f'the gradient of {format_names(zero)} was exactly zero in every batch: scored as zero, the stablest. '
            'A factor after them is zero, as the second matrix of LoRA or a gate is at first; to measure them, score '
            'after some steps of training',
            stacklevel=3,
        )
