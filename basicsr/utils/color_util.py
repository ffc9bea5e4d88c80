"""RGB and YCbCr after ITU-R BT.601, with the scaling of MATLAB's rgb2ycbcr: Y in [16, 235], Cb and Cr in [16, 240].

The array functions take float32 in [0, 1] or uint8 in [0, 255], and return the same type (uint8 rounded).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Rows give Y, Cb, Cr in [0, 255] from R, G, B in [0, 1].
_FROM_RGB = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
_OFFSET = np.array([16.0, 128.0, 128.0])
_TO_RGB = np.linalg.inv(_FROM_RGB)


def rgb2ycbcr(img: np.ndarray, y_only: bool = False) -> np.ndarray:
    """Convert an RGB picture (h, w, 3) to YCbCr (h, w, 3), or to its luma alone (h, w) with `y_only`.

    Raises:
        TypeError: The picture is neither float32 nor uint8.
        ValueError: Its last axis does not hold three channels.
    """
    return _to_ycbcr(img, _FROM_RGB, y_only)


def bgr2ycbcr(img: np.ndarray, y_only: bool = False) -> np.ndarray:
    """As `rgb2ycbcr`, from BGR. Not OpenCV's conversion, which is full-range JPEG and orders Y, Cr, Cb."""
    return _to_ycbcr(img, _FROM_RGB[:, ::-1], y_only)


def ycbcr2rgb(img: np.ndarray) -> np.ndarray:
    """Convert a YCbCr picture (h, w, 3) to RGB (h, w, 3); floats may leave [0, 1] for colours outside RGB."""
    return _from_ycbcr(img, _TO_RGB)


def ycbcr2bgr(img: np.ndarray) -> np.ndarray:
    """As `ycbcr2rgb`, to BGR."""
    return _from_ycbcr(img, _TO_RGB[::-1])


def rgb2ycbcr_pt(img: Tensor, y_only: bool = False) -> Tensor:
    """Convert RGB tensors (n, 3, h, w) in [0, 1] to YCbCr (n, 3, h, w) in [0, 1], or (n, 1, h, w) with `y_only`."""
    if img.ndim != 4 or img.shape[1] != 3:
        raise ValueError(f'rgb2ycbcr_pt takes tensors of shape (n, 3, h, w), not {tuple(img.shape)}')
    rows = 1 if y_only else 3
    matrix = torch.as_tensor(_FROM_RGB[:rows], dtype=img.dtype, device=img.device)
    offset = torch.as_tensor(_OFFSET[:rows], dtype=img.dtype, device=img.device)
    return (torch.einsum('kc,nchw->nkhw', matrix, img) + offset.view(1, -1, 1, 1)) / 255.0


def _to_ycbcr(img: np.ndarray, matrix: np.ndarray, y_only: bool) -> np.ndarray:
    unit = _unit_range(img)
    if y_only:
        values = unit @ matrix[0].astype(np.float32) + np.float32(_OFFSET[0])
    else:
        values = unit @ matrix.T.astype(np.float32) + _OFFSET.astype(np.float32)
    return _like_input(values, img.dtype)


def _from_ycbcr(img: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    unit = _unit_range(img) * np.float32(255.0) - _OFFSET.astype(np.float32)
    return _like_input(unit @ matrix.T.astype(np.float32) * np.float32(255.0), img.dtype)


def _unit_range(img: np.ndarray) -> np.ndarray:
    """Return the picture as float32 in [0, 1]."""
    if img.dtype not in (np.float32, np.uint8):
        raise TypeError(f'colour conversion takes float32 in [0, 1] or uint8, not {img.dtype}; convert it first')
    if img.shape[-1] != 3:
        raise ValueError(f'colour conversion takes pictures of shape (h, w, 3), not {img.shape}')
    return img if img.dtype == np.float32 else img.astype(np.float32) / np.float32(255.0)


def _like_input(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert float32 in [0, 255] to the range of `dtype`."""
    if dtype == np.uint8:
        return values.round().clip(0, 255).astype(np.uint8)
    return values / np.float32(255.0)
