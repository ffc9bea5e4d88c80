"""Pixel losses. All but `WeightedTVLoss` are called as `loss(pred, target, weight=None)` with (n, c, h, w) tensors.

`PerceptualLoss` is importable from here as well, as in BasicSR.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.losses.loss_util import Reduction, check_reduction, weighted_loss
from basicsr.losses.perceptual_loss import PerceptualLoss
from basicsr.options.bounds import NonNegative, Positive
from basicsr.utils.registry import LOSS_REGISTRY

__all__ = [
    'CharbonnierLoss',
    'L1Loss',
    'MSELoss',
    'PerceptualLoss',
    'WeightedTVLoss',
    'charbonnier_loss',
    'l1_loss',
    'mse_loss',
]


@weighted_loss
def l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Return |pred - target| for each element."""
    return F.l1_loss(pred, target, reduction='none')


@weighted_loss
def mse_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Return (pred - target)² for each element."""
    return F.mse_loss(pred, target, reduction='none')


@weighted_loss
def charbonnier_loss(pred: Tensor, target: Tensor, eps: float = 1e-12) -> Tensor:
    """Return sqrt((pred - target)² + eps) for each element."""
    return torch.sqrt((pred - target) ** 2 + eps)


@LOSS_REGISTRY.register()
class L1Loss(nn.Module):
    """Mean absolute error.

    Args:
        loss_weight: Factor of the result.
        reduction: none, mean or sum.
    """

    def __init__(self, loss_weight: NonNegative = 1.0, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the loss of `pred` against `target`; see `weight_reduce_loss` for `weight`."""
        return self.loss_weight * l1_loss(pred, target, weight, reduction=self.reduction)


@LOSS_REGISTRY.register()
class MSELoss(nn.Module):
    """Mean squared error.

    Args:
        loss_weight: Factor of the result.
        reduction: none, mean or sum.
    """

    def __init__(self, loss_weight: NonNegative = 1.0, reduction: Reduction = 'mean') -> None:
        super().__init__()
        check_reduction(reduction)
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the loss of `pred` against `target`; see `weight_reduce_loss` for `weight`."""
        return self.loss_weight * mse_loss(pred, target, weight, reduction=self.reduction)


@LOSS_REGISTRY.register()
class CharbonnierLoss(nn.Module):
    """L1 made smooth at zero (Lai et al., "Deep Laplacian Pyramid Networks", 2017).

    Args:
        loss_weight: Factor of the result.
        reduction: none, mean or sum.
        eps: Added to the squared difference; its root is the loss at zero.
    """

    def __init__(self, loss_weight: NonNegative = 1.0, reduction: Reduction = 'mean', eps: Positive = 1e-12) -> None:
        super().__init__()
        check_reduction(reduction)
        self.loss_weight = loss_weight
        self.reduction = reduction
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the loss of `pred` against `target`; see `weight_reduce_loss` for `weight`."""
        return self.loss_weight * charbonnier_loss(pred, target, weight, reduction=self.reduction, eps=self.eps)


@LOSS_REGISTRY.register()
class WeightedTVLoss(L1Loss):
    """Total variation: the absolute differences between vertical and horizontal neighbours.

    Args:
        loss_weight: Factor of the result.
        reduction: mean, taken for each direction separately, or sum.

        Raises:
            ValueError: Another reduction.
    """

    def __init__(self, loss_weight: NonNegative = 1.0, reduction: Literal['mean', 'sum'] = 'mean') -> None:
        if reduction not in ('mean', 'sum'):
            raise ValueError(f'reduction is mean or sum, not {reduction!r}: the two directions differ in shape')
        super().__init__(loss_weight, reduction)

    def forward(self, pred: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the total variation of `pred` (n, c, h, w).

        Args:
            pred: The pictures.
            weight: (n, 1, h, w) or (n, c, h, w). A pixel's weight applies to its differences to the pixel below and to
                the one on the right.
        """
        down = None if weight is None else weight[:, :, :-1]
        right = None if weight is None else weight[..., :-1]
        return super().forward(pred[..., :-1], pred[..., 1:], right) + super().forward(
            pred[:, :, :-1], pred[:, :, 1:], down
        )
