"""Weighting and reducing element-wise losses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

Reduction = Literal['none', 'mean', 'sum']
REDUCTIONS = get_args(Reduction)


def check_reduction(reduction: str) -> None:
    """Raise a ValueError unless `reduction` is one of none, mean and sum."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'unknown reduction {reduction!r}; choose one of {", ".join(REDUCTIONS)}')


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """Return `loss` itself ('none'), its mean ('mean') or its sum ('sum')."""
    check_reduction(reduction)
    return loss if reduction == 'none' else getattr(loss, reduction)()


def weight_reduce_loss(loss: Tensor, weight: Tensor | None = None, reduction: str = 'mean') -> Tensor:
    """Multiply an element-wise loss by weights and reduce it.

    Args:
        loss: (n, c, h, w), or any shape.
        weight: As many axes as `loss` has and broadcastable to it, usually (n, 1, h, w) or (n, c, h, w).
        reduction: 'none', 'sum', or 'mean', which with weights is the weighted mean: it divides by the sum of
            the weights over all elements.

    Returns:
        A scalar, or the shape of `loss` for 'none'.

    Raises:
        ValueError: The reduction is unknown, or the weights do not fit.
    """
    if weight is None:
        return reduce_loss(loss, reduction)
    fits = weight.ndim == loss.ndim and all(w in (1, n) for w, n in zip(weight.shape, loss.shape, strict=True))
    if not fits:
        raise ValueError(f'weights of shape {tuple(weight.shape)} do not fit a loss of shape {tuple(loss.shape)}')
    if reduction != 'mean':
        return reduce_loss(loss * weight, reduction)
    return (loss * weight).sum() / weight.expand_as(loss).sum()


def weighted_loss(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give an element-wise loss `f(pred, target, **kwargs)` the arguments `weight` and `reduction`.

    The result, `f(pred, target, weight=None, reduction='mean', **kwargs)`, refuses predictions and targets of
    different shapes with a ValueError, where torch might broadcast them.
    """

    @functools.wraps(loss_func)
    def wrapper(
        pred: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = 'mean', **kwargs: Any
    ) -> Tensor:
        if pred.shape != target.shape:
            raise ValueError(f'the prediction has shape {tuple(pred.shape)}, the target {tuple(target.shape)}')
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction)

    return wrapper
