"""Causal depth-wise convolution of sequences, followed by SiLU, along both directions.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3.4; both
directions: Zhu et al., "Vision Mamba", ICML 2024.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu

__all__ = ['two_way_causal_conv1d']

_WIDTHS = range(2, 5)
"""Kernels that the package causal-conv1d has code for."""


@cache
def _fused() -> Callable | None:
    """The CUDA kernel of the package causal-conv1d, or None where it is not installed or does not import."""
    if importlib.util.find_spec('causal_conv1d') is None:
        return None
    try:
        from causal_conv1d import causal_conv1d_fn
    except Exception as error:  # its own extension, or what that needs
        message = 'causal-conv1d is installed but does not import (%s); convolutions are those of torch'
        logging.getLogger('basicsr').warning(message, error)
        return None
    return causal_conv1d_fn


def two_way_causal_conv1d(x: Tensor, weights: tuple[Tensor, Tensor], biases: tuple[Tensor | None, ...]) -> Tensor:
    """SiLU of two causal convolutions, the second of which reads the sequence from its end.

    Place t of the first sees t - K + 1 … t, of the second t … t + K - 1, in either case with the kernel's last entry
    for t itself, and zeros beyond the ends. On a GPU the package causal-conv1d computes it where it is installed.

    Args:
        x: Sequences, (batch, channels, length).
        weights: Kernels of the two directions, (channels, 1, K) each.
        biases: (channels,) each, or None.

    Returns:
        (batch, 2 * channels, length), both in the order of `x`.
    """
    width = weights[0].shape[-1]
    fused = _fused() if x.is_cuda and x.dtype != torch.float64 and width in _WIDTHS else None
    if fused:
        ways = (x.contiguous(), x.flip(-1))
        ahead, back = (
            fused(way, weight.squeeze(1), bias, activation='silu')
            for way, weight, bias in zip(ways, weights, biases, strict=True)
        )
        return torch.cat([ahead, back.flip(-1)], 1)
    ahead = conv1d(pad(x, (width - 1, 0)), weights[0], biases[0], groups=x.shape[1])
    back = conv1d(pad(x, (0, width - 1)), weights[1].flip(-1), biases[1], groups=x.shape[1])
    return silu(torch.cat([ahead, back], 1))
