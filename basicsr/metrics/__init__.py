"""Metrics, chosen by name in the options (`metrics: {psnr: {type: calculate_psnr, crop_border: 4}}`)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from basicsr.metrics.classification import accuracy, balanced_accuracy, calibration_error, negative_log_likelihood
from basicsr.metrics.metric_util import NoValue
from basicsr.metrics.niqe import calculate_niqe
from basicsr.metrics.perceptual import calculate_dists, calculate_lpips
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_psnr_pt, calculate_ssim, calculate_ssim_pt
from basicsr.utils.registry import METRIC_REGISTRY

__all__ = [
    'NoValue',
    'accuracy',
    'balanced_accuracy',
    'better_is',
    'calculate_dists',
    'calculate_lpips',
    'calculate_metric',
    'calculate_niqe',
    'calculate_psnr',
    'calculate_psnr_pt',
    'calculate_ssim',
    'calculate_ssim_pt',
    'calibration_error',
    'check_size',
    'is_of_classes',
    'is_of_a_set',
    'most_of',
    'needs_ground_truth',
    'negative_log_likelihood',
    'perfect_in_words',
]


_LOWER_IS_BETTER = ('calculate_dists', 'calculate_lpips', 'calculate_niqe')


def better_is(opt: dict[str, Any]) -> str:
    """Which values of this section's metric are better, 'higher' or 'lower': as it says, or by its type.

    A metric with the attribute `lower_is_better` says it of itself.
    """
    lower = opt.get('type') in _LOWER_IS_BETTER or _says(opt, 'lower_is_better')
    return opt.get('better') or ('lower' if lower else 'higher')


def is_of_classes(opt: dict[str, Any]) -> bool:
    """Whether this section's metric measures logits against labels, and not pictures."""
    return 'logits' in inspect.signature(METRIC_REGISTRY.get(opt['type'])).parameters


def is_of_a_set(opt: dict[str, Any]) -> bool:
    """Whether this section's metric belongs to a set as a whole, by its attribute `of_a_set`: samples have no value."""
    return _says(opt, 'of_a_set')


def _says(opt: dict[str, Any], attribute: str) -> bool:
    return bool(getattr(METRIC_REGISTRY.get(opt['type']), attribute, False)) if 'type' in opt else False


def needs_ground_truth(opt: dict[str, Any]) -> bool:
    """Whether this section's metric compares with a second picture."""
    return 'img2' in inspect.signature(METRIC_REGISTRY.get(opt['type'])).parameters


def most_of(opt: dict[str, Any]) -> float:
    """The most that a value of this section's metric counts, by its attribute `most`; infinite for most metrics.

    PSNR is infinite for a picture equal to the truth, and so would be a mean that it is part of: it counts at most 100
    dB. That applies wherever the options choose the metric: to validation, tests, intervals, tables and grids alike.
    """
    return getattr(METRIC_REGISTRY.get(opt['type']), 'most', math.inf) if 'type' in opt else math.inf


def perfect_in_words(values: Sequence[float], most: float) -> str:
    """'2 of 5 pictures at the most that counts, 100', or '' where there is none."""
    count = sum(value >= most for value in values)
    return f'{count} of {len(values)} pictures at the most that counts, {most:g}' if count and most < math.inf else ''


def check_size(height: int, width: int, opt: dict[str, Any]) -> None:
    """Ask this section's metric, by its attribute `check_size`, whether it can measure pictures of a size.

    Raises:
        ValueError: They are too small.
    """
    check = getattr(METRIC_REGISTRY.get(opt['type']), 'check_size', None)
    if check is not None:
        check(height, width, opt)


def calculate_metric(data: dict[str, Any], opt: dict[str, Any]) -> float:
    """Compute the metric `opt['type']` for `data`; values above `most_of(opt)` are that.

    Args:
        data: Arguments of the metric that differ from picture to picture, usually `img` and `img2`.
        opt: The metric's section: its name, `type`, and its other arguments.

    Raises:
        KeyError: No metric has that name.
        ValueError: `opt` has no `type`, the metric cannot measure such pictures, or it returns no number.
        NoValue: It has no value for these.
    """
    arguments = dict(opt)
    if 'type' not in arguments:
        raise ValueError(f'a metric section needs `type`, one of {", ".join(sorted(METRIC_REGISTRY.keys()))}')
    arguments.pop('better', None)  # the framework's, see `better_is`
    value = METRIC_REGISTRY.get(arguments.pop('type'))(**data, **arguments)
    try:
        return min(float(value), most_of(opt))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'{opt["type"]} returns {value!r}, which is no number') from error
