"""Metrics of classification, over the logits of a whole data set.

Each is called with `logits` (N, classes), float, and `labels` (N,), int64, both of a whole set. It returns one number
per sample, (N,), whose mean is the metric, or a scalar where it belongs to the set as a whole.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from basicsr.options.types import Ceiling
from basicsr.utils.registry import METRIC_REGISTRY

_Count = Annotated[int, Ge(1), Ceiling(10**6)]


@METRIC_REGISTRY.register()
def accuracy(logits: Tensor, labels: Tensor, top_k: _Count = 1) -> Tensor:
    """1 for each sample whose class is among the `top_k` with the highest logits, else 0.

    Of classes with equal logits, those with a lower index come first, so that a network that says nothing is not right
    everywhere.

    Args:
        logits: (N, classes).
        labels: (N,).
        top_k: How many classes may be named.

    Raises:
        ValueError: There are no more than `top_k` classes, so that any answer would be right.
    """
    if top_k >= logits.shape[1]:
        raise ValueError(f'top_k: {top_k} of {logits.shape[1]} classes are always right; it must be below their number')
    predicted = logits.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    return (predicted == labels[:, None]).any(1).double()


@METRIC_REGISTRY.register()
def balanced_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Top-1 accuracy in which all classes that occur count alike, whatever their number of samples.

    The mean of the result is the mean of the classes' recalls (Brodersen et al., ICPR 2010): a right answer counts
    samples / (classes * samples of its class).

    Args:
        logits: (N, classes).
        labels: (N,).
    """
    counts = labels.bincount(minlength=logits.shape[1])
    weight = len(labels) / (counts > 0).sum() / counts[labels]
    return (logits.sort(dim=1, descending=True, stable=True).indices[:, 0] == labels).double() * weight


@METRIC_REGISTRY.register()
def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logarithm of the probability of each sample's class, in nats: cross-entropy without smoothing.

    Args:
        logits: (N, classes).
        labels: (N,).
    """
    return F.cross_entropy(logits.double(), labels, reduction='none')


@METRIC_REGISTRY.register()
def calibration_error(logits: Tensor, labels: Tensor, bins: _Count = 15) -> float:
    """Expected calibration error of the top-1 confidence (Guo et al., ICML 2017, equation 3), in [0, 1].

    Samples are put into bins of equal width by their confidence, upper ends included; the error is the mean over
    samples of the gap between their bin's accuracy and its mean confidence. It is a property of a whole set.

    Args:
        logits: (N, classes).
        labels: (N,).
        bins: How many.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64)
    gap.index_add_(0, place, (predicted == labels).double() - confidence)
    return (gap.abs().sum() / len(labels)).item()


for _metric in (negative_log_likelihood, calibration_error):
    _metric.lower_is_better = True
calibration_error.of_a_set = True
