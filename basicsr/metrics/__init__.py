"""Metrics, chosen by name in the options (`metrics: {psnr: {type: calculate_psnr, crop_border: 4}}`)."""

from __future__ import annotations

import inspect
from typing import Any

from basicsr.metrics.niqe import calculate_niqe
from basicsr.metrics.perceptual import calculate_dists, calculate_lpips
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_psnr_pt, calculate_ssim, calculate_ssim_pt
from basicsr.utils.registry import METRIC_REGISTRY

__all__ = [
    'better_is',
    'calculate_dists',
    'calculate_lpips',
    'calculate_metric',
    'calculate_niqe',
    'calculate_psnr',
    'calculate_psnr_pt',
    'calculate_ssim',
    'calculate_ssim_pt',
    'needs_ground_truth',
]


_LOWER_IS_BETTER = ('calculate_dists', 'calculate_lpips', 'calculate_niqe')


def better_is(opt: dict[str, Any]) -> str:
    """Which values of this section's metric are better, 'higher' or 'lower': as it says, or by its type."""
    return opt.get('better') or ('lower' if opt.get('type') in _LOWER_IS_BETTER else 'higher')


def needs_ground_truth(opt: dict[str, Any]) -> bool:
    """Whether this section's metric compares with a second picture."""
    return 'img2' in inspect.signature(METRIC_REGISTRY.get(opt['type'])).parameters


def calculate_metric(data: dict[str, Any], opt: dict[str, Any]) -> float:
    """Compute the metric `opt['type']` for `data`.

    Args:
        data: Arguments of the metric that differ from picture to picture, usually `img` and `img2`.
        opt: The metric's section: its name, `type`, and its other arguments.

    Raises:
        KeyError: No metric has that name.
        ValueError: `opt` has no `type`.
    """
    arguments = dict(opt)
    if 'type' not in arguments:
        raise ValueError(f'a metric section needs `type`, one of {", ".join(sorted(METRIC_REGISTRY.keys()))}')
    arguments.pop('better', None)  # the framework's, see `better_is`
    return METRIC_REGISTRY.get(arguments.pop('type'))(**data, **arguments)
