"""Metrics, chosen by name in the options (`metrics: {psnr: {type: calculate_psnr, crop_border: 4}}`)."""

from __future__ import annotations

import inspect
from typing import Any

from basicsr.metrics.niqe import calculate_niqe, pristine_model
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_psnr_pt, calculate_ssim, calculate_ssim_pt
from basicsr.utils.registry import METRIC_REGISTRY, did_you_mean

__all__ = [
    'better_is',
    'calculate_metric',
    'calculate_niqe',
    'calculate_psnr',
    'calculate_psnr_pt',
    'calculate_ssim',
    'calculate_ssim_pt',
    'check_metrics',
    'needs_ground_truth',
]


def check_metrics(opt: dict[str, Any]) -> None:
    """Make sure that `val.metrics` and `logger.save_best` mean something; metrics ignore arguments that are not theirs.

    Args:
        opt: The resolved options.

    Raises:
        ValueError: An unknown metric or argument, or a `save_best` that is no metric; all are named.
    """
    metrics = (opt.get('val') or {}).get('metrics') or {}
    mistakes = []
    for name, content in metrics.items():
        path = f'val.metrics.{name}'
        kind = content.get('type') if isinstance(content, dict) else None
        if kind not in METRIC_REGISTRY:
            known = ', '.join(sorted(METRIC_REGISTRY.keys()))
            mistakes.append(f'{path}.type: {kind!r} is no metric; there are {known}')
            continue
        accepted = [*inspect.signature(METRIC_REGISTRY.get(kind)).parameters, 'type', 'better']
        mistakes += [
            f'{path}.{key}: unknown option{did_you_mean(key, accepted)}' for key in content if key not in accepted
        ]
        if content.get('better', 'higher') not in ('higher', 'lower'):
            mistakes.append(f'{path}.better: is higher or lower, not {content["better"]!r}')
        if kind == 'calculate_niqe':
            try:
                pristine_model(content.get('params'))
            except (OSError, ValueError) as error:
                mistakes.append(f'{path}.{error}' if content.get('params') else f'{path}: {error}')
    best = (opt.get('logger') or {}).get('save_best')
    if best and best not in metrics:
        mistakes.append(f'logger.save_best: {best!r} is none of val.metrics: {", ".join(metrics) or "there are none"}')
    if mistakes:
        raise ValueError('the options have mistakes:\n  ' + '\n  '.join(mistakes))


def better_is(opt: dict[str, Any]) -> str:
    """Which values of the metric of this section are better, 'higher' or 'lower': as it says, else by its type."""
    return opt.get('better') or ('lower' if opt.get('type') == 'calculate_niqe' else 'higher')


def needs_ground_truth(opt: dict[str, Any]) -> bool:
    """Whether the metric of this section compares with a second picture."""
    return 'img2' in inspect.signature(METRIC_REGISTRY.get(opt['type'])).parameters


def calculate_metric(data: dict[str, Any], opt: dict[str, Any]) -> float:
    """Return what the metric `opt['type']` gives for `data`.

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
    return METRIC_REGISTRY.get(arguments.pop('type'))(**data, **arguments)
