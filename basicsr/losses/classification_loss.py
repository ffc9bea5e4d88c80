"""Losses of classification, called as `loss(logits, labels)`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.options.bounds import NonNegative, Rate
from basicsr.utils.registry import LOSS_REGISTRY

__all__ = ['CrossEntropyLoss']


@LOSS_REGISTRY.register()
class CrossEntropyLoss(nn.Module):
    """Cross-entropy of a softmax over the classes, the mean over a batch.

    Args:
        loss_weight: Factor of the result.
        label_smoothing: Share of the target that is spread evenly over all classes (Szegedy et al., CVPR 2016).
    """

    def __init__(self, loss_weight: NonNegative = 1.0, label_smoothing: Rate = 0.0) -> None:
        super().__init__()
        self.loss_weight, self.label_smoothing = loss_weight, label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (N, classes) against labels (N,), a scalar."""
        return self.loss_weight * F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
