"""MATLAB's `imresize` (bicubic), with which super-resolution data sets are made, and its colour conversions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from basicsr.utils.color_util import bgr2ycbcr, rgb2ycbcr, ycbcr2bgr, ycbcr2rgb

__all__ = ['bgr2ycbcr', 'imresize', 'rgb2ycbcr', 'ycbcr2bgr', 'ycbcr2rgb']


@torch.no_grad()
def imresize(img: np.ndarray | Tensor, scale: float, antialiasing: bool = True) -> np.ndarray | Tensor:
    """Resize by `scale` with the bicubic kernel, mirroring the picture at its borders.

    Args:
        img: Floats in [0, 1]; numpy (h, w, c) or (h, w), torch (c, h, w) or (h, w), in any channel order.
        scale: Factor for both axes, any positive number.
        antialiasing: Widen the kernel when shrinking, as MATLAB does by default.

    Returns:
        float32 of the same kind as the input, with sides of ceil(length * scale). Values may overshoot [0, 1] slightly.

        Raises:
            ValueError: The scale is not positive, or the picture does not hold floats or has another number of axes.
    """
    if not scale > 0:
        raise ValueError(f'imresize needs a scale above 0, not {scale}')
    from_numpy = isinstance(img, np.ndarray)
    if img.ndim not in (2, 3) or 0 in img.shape:
        raise ValueError(f'imresize takes one picture of 2 or 3 axes, not the shape {tuple(img.shape)}')
    tensor = torch.from_numpy(np.ascontiguousarray(img)) if from_numpy else img
    if not tensor.is_floating_point():
        raise ValueError(f'imresize takes floats in [0, 1], not {img.dtype}; convert the picture first')
    rows = 0 if from_numpy or tensor.ndim == 2 else 1
    tensor = tensor.float()
    for axis in (rows, rows + 1):
        tensor = _resize_axis(tensor, axis, scale, antialiasing)
    return tensor.numpy() if from_numpy else tensor


def _resize_axis(img: Tensor, axis: int, scale: float, antialiasing: bool) -> Tensor:
    weights, indices = _weights_indices(img.shape[axis], scale, antialiasing)
    weights, indices = weights.to(img.device, img.dtype), indices.to(img.device)
    trailing = (1,) * (img.ndim - axis - 1)
    # One tap of the kernel at a time, so that memory does not grow with the kernel's width.
    out = 0
    for tap in range(indices.shape[1]):
        out = out + img.index_select(axis, indices[:, tap]) * weights[:, tap].view(-1, *trailing)
    return out


def _weights_indices(in_length: int, scale: float, antialiasing: bool) -> tuple[Tensor, Tensor]:
    """Return what each output pixel along one axis sums: weights (out_length, taps), float64, and input indices."""
    stretch = min(scale, 1.0) if antialiasing else 1.0
    width = 4.0 / stretch
    out_length = math.ceil(in_length * scale)
    centres = (torch.arange(out_length, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centres - width / 2)
    indices = first[:, None] + torch.arange(math.ceil(width) + 2, dtype=torch.float64)
    weights = _cubic((centres[:, None] - indices) * stretch)
    weights /= weights.sum(1, keepdim=True)
    used = (weights != 0).any(0)
    # Mirrored with the border pixel repeated: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    folded = torch.remainder(indices[:, used].long(), 2 * in_length)
    return weights[:, used], torch.minimum(folded, 2 * in_length - 1 - folded)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5; zero beyond |x| = 2."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
