"""What another input shows about a network that failed: it takes other channels, or larger pictures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from basicsr.data.tasks import GREY_TASKS
from basicsr.utils.registry import ARCH_REGISTRY

_CHANNELS = (3, 1, 4)
_LARGEST = 128
"""Side in pixels of the largest picture that is tried."""
_IN = ('num_in_ch', 'in_chans', 'in_channels', 'in_ch', 'in_nc', 'n_colors')
_OUT = ('num_out_ch', 'out_chans', 'out_channels', 'out_ch', 'out_nc')
_SCALES = ('upscale', 'scale', 'upscale_factor', 'upsampling')


def why_not(run: Callable[[Tensor], Any], lq: Tensor, opt: Mapping[str, Any], key: str) -> str | None:
    """Why a network does not take `lq`, where another picture shows it; begins with the option to blame.

    Args:
        run: Runs the network.
        lq: What it failed on, (N, C, H, W).
        opt: The options.
        key: Whose pictures these are: of `datasets.<key>`.
    """
    count, channels, height, width = lq.shape
    for other in _CHANNELS:
        if other != channels and _works(run, lq.new_full((count, other, height, width), 0.5)):
            option = named_argument(opt['network_g'], _IN) or 'network_g'
            return f'{option}: the network takes {other} channels, and lq of {channels_of(opt, key)} has {channels}'
    side = min(height, width)
    while side < _LARGEST:
        side *= 2
        if _works(run, lq.new_full((count, channels, side, side), 0.5)):
            size = f'{height}x{width}'
            gt_size = opt['datasets'][key].get('gt_size')
            if opt['datasets'][key]['phase'] == 'train' and gt_size:
                return (
                    f'datasets.{key}.gt_size: {gt_size} makes lq of {size}, which the network does not take; it takes '
                    f'{side}x{side}'
                )
            return f'network_g: does not take pictures as small as {size} of datasets.{key}; it takes {side}x{side}'
    return None


@torch.no_grad()
def _works(run: Callable[[Tensor], Any], picture: Tensor) -> bool:
    try:
        run(picture)
    except Exception:
        return False
    return True


def named_argument(network: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """`network_g.<name>: <value>` of the first of `names` that the network has, from its section or by default."""
    kind = network.get('type')
    arguments: dict[str, Any] = {}
    if isinstance(kind, str) and kind in ARCH_REGISTRY:
        signature = inspect.signature(ARCH_REGISTRY.get(kind)).parameters.values()
        arguments = {one.name: one.default for one in signature if one.default is not inspect.Parameter.empty}
    arguments.update(network)
    return next((f'network_g.{name}: {arguments[name]}' for name in names if arguments.get(name) is not None), None)


def channels_of(opt: Mapping[str, Any], key: str) -> str:
    """`datasets.<key>`, and what in its section makes its pictures grey."""
    section = opt['datasets'].get(key) or {}
    if section.get('color') == 'y':
        return f'datasets.{key} (color: y)'
    return f'datasets.{key}' + (f' (task: {section["task"]})' if section.get('task') in GREY_TASKS else '')


def checked_output(net: Callable[[Tensor], Any], opt: Mapping[str, Any], lq: Tensor) -> Tensor:
    """What `net` makes of `lq`.

    Raises:
        ValueError: That is no picture of `scale` times the size; the message begins with the option to blame.
    """
    output = net(lq)
    if not isinstance(output, Tensor) or output.ndim != lq.ndim:
        what = f'a tensor of shape {tuple(output.shape)}' if isinstance(output, Tensor) else _kind(output)
        raise ValueError(f'network_g: the network returns {what}, not a tensor (N, C, H, W) alone')
    scale = opt.get('scale') or 1
    wanted = [side * scale for side in lq.shape[-2:]]
    if list(output.shape[-2:]) != wanted:
        option = named_argument(opt['network_g'], _SCALES)
        says = option or f'network_g: enlarges {output.shape[-1] / lq.shape[-1]:g} times'
        raise ValueError(
            f'{says}, but scale: {scale}; lq of {_sides(lq)} becomes {_sides(output)}, not {"x".join(map(str, wanted))}'
        )
    return output


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f'a {type(value).__name__} of {len(value)}'
    return 'nothing' if value is None else f'a {type(value).__name__}'


def misfit(output: Tensor, gt: Tensor, opt: Mapping[str, Any], key: str) -> str:
    """Why an output of the right size cannot be compared with the truth of `datasets.<key>`; begins with the option."""
    if output.shape[-2:] == gt.shape[-2:]:
        option = named_argument(opt['network_g'], _OUT) or named_argument(opt['network_g'], _IN) or 'network_g'
        made = f'{option}: the network makes {output.shape[1]} channels'
        return f'{made}, and gt of {channels_of(opt, key)} has {gt.shape[1]}'
    scale = opt.get('scale') or 1
    return (
        f'datasets.{key}: gt of {_sides(gt)} is not lq at scale: {scale}, of which the network makes {_sides(output)}'
    )


def _sides(picture: Tensor) -> str:
    return 'x'.join(map(str, picture.shape[-2:]))
