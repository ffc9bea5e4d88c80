"""Weights of Vision Mamba: from a file into a network for another grid or other classes, and what their shapes say."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from basicsr.archs.arch_util import count_numbers
from basicsr.archs.classifier_head import with_own_head
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights

__all__ = ['load_pretrained', 'options_of', 'resized_positions']

_STRIDE_8 = (16, 27**2)
"""Side and number of the patches of the published networks that have stride 8 on 224 x 224 pixels."""


def load_pretrained(net: nn.Module, path: str | os.PathLike) -> None:
    """Load a file of weights into a `VisionMamba`, except a head for other classes.

    A position embedding for another grid is resized.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds no weights, or those of another network.
    """
    own = net.state_dict()
    weights, net.new_layers = with_own_head(find_weights(load_checkpoint(path), path), own, net.head_prefixes, path)
    theirs, shape = weights.get('pos_embed'), own['pos_embed'].shape if 'pos_embed' in own else None
    if isinstance(theirs, Tensor) and shape and theirs.ndim == 3 and theirs.shape[1] != shape[1]:
        try:
            weights['pos_embed'] = resized_positions(theirs, net.grid, 'cls_token' in own, bool(net.class_place))
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from error
        message = '%s: pos_embed is resized from %d places to %d'
        logging.getLogger('basicsr').info(message, path, theirs.shape[1], shape[1])
    load_weights(net, weights, path)


def resized_positions(positions: Tensor, grid: tuple[int, int], has_class: bool, in_middle: bool) -> Tensor:
    """Position embedding for another grid of patches, bicubically; the class token's row is taken out and put back.

    Args:
        positions: (1, M or M + 1, C), of a square grid of M patches.
        grid: Rows and columns of the new grid.
        has_class: Whether there is a row of a class token.
        in_middle: Whether that is row M // 2, before and after; else row 0.

    Returns:
        (1, rows * columns or one more, C).

    Raises:
        ValueError: M is not the square of a number.
    """
    patches = positions.shape[1] - has_class
    side = math.isqrt(max(patches, 0))
    if side < 1 or side**2 != patches:
        raise ValueError(f'pos_embed is not of a square grid, so that it cannot be resized: it has {patches} patches')
    place = patches // 2 if in_middle else 0
    row, rest = positions[:, place : place + has_class], positions
    if has_class:
        rest = torch.cat([positions[:, :place], positions[:, place + 1 :]], 1)
    plane = rest.transpose(1, 2).unflatten(2, (side, side)).float()
    rest = interpolate(plane, grid, mode='bicubic', align_corners=False).to(positions.dtype).flatten(2).transpose(1, 2)
    place = rest.shape[1] // 2 if in_middle else 0
    return torch.cat([rest[:, :place], row, rest[:, place:]], 1)


def options_of(weights: dict[str, Tensor]) -> dict[str, Any] | None:
    """Arguments of `VisionMamba` that yield weights with these names and shapes, see `basicsr.archs.from_weights`.

    What leaves no trace is as published: square pictures, the class token in the middle.
    """
    if 'layers.0.mixer.A_b_log' not in weights or 'patch_embed.proj.weight' not in weights:
        return None
    embed_dim, channels, *patch = weights['patch_embed.proj.weight'].shape
    mixer = 'layers.0.mixer.'
    first = {name.removeprefix(mixer): value for name, value in weights.items() if name.startswith(mixer)}
    inner, d_state = first['A_log'].shape
    has_class = 'cls_token' in weights
    options = {
        'patch_size': patch[0] if patch[0] == patch[1] else patch,
        'stride': patch[0],
        'depth': count_numbers(weights, r'layers\.(\d+)\.'),
        'embed_dim': embed_dim,
        'd_state': d_state,
        'channels': channels,
        'num_classes': len(weights['head.weight']) if 'head.weight' in weights else 0,
        'ssm_cfg': _mixer_options(first, inner, embed_dim),
        'rms_norm': 'norm_f.bias' not in weights,
        'final_pool_type': 'mean',
        'if_abs_pos_embed': 'pos_embed' in weights,
        'if_cls_token': has_class,
        'init_layer_scale': 1.0 if 'gamma' in first else None,
    }
    if 'pos_embed' not in weights:
        return options
    patches = weights['pos_embed'].shape[1] - has_class
    side = math.isqrt(patches)
    if side**2 != patches:
        return None
    if (patch[0], patches) == _STRIDE_8:
        return {**options, 'img_size': 224, 'stride': 8}
    sides = [patch[0] * side, patch[0] * (side - 1) + patch[1]]
    return {**options, 'img_size': sides[0] if sides[0] == sides[1] else sides}


def _mixer_options(first: dict[str, Tensor], inner: int, embed_dim: int) -> dict[str, Any] | None:
    """`ssm_cfg` with what differs from the defaults, by the weights of the first mixer; None if nothing does."""
    ratio = inner / embed_dim
    rank = first['dt_proj.weight'].shape[1]
    found = {
        'd_conv': first['conv1d.weight'].shape[2],
        # The network truncates to an integer.
        'expand': ratio if int(ratio * embed_dim) == inner else (inner + 0.5) / embed_dim,
        'dt_rank': 'auto' if rank == math.ceil(embed_dim / 16) else rank,
        'conv_bias': 'conv1d.bias' in first,
        'bias': 'in_proj.bias' in first,
    }
    defaults = {'d_conv': 4, 'expand': 2, 'dt_rank': 'auto', 'conv_bias': True, 'bias': False}
    return {key: value for key, value in found.items() if value != defaults[key]} or None
