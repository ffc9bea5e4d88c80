"""Filtering and sharpening pictures."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def filter2D(img: Tensor, kernel: Tensor) -> Tensor:
    """Correlate pictures with kernels, like OpenCV's function of the same name, with mirrored borders.

    Args:
        img: (b, c, h, w), larger than k // 2 on both sides.
        kernel: (b, k, k), a kernel for each picture, or (1, k, k) for all; k is odd.

    Returns:
        (b, c, h, w).

    Raises:
        ValueError: k is even, the pictures are too small for it, or the number of kernels does not fit.
    """
    k = kernel.shape[-1]
    b, c, height, width = img.shape
    if k % 2 == 0:
        raise ValueError(f'the size of a kernel must be odd, so that it has a middle; it is {k}')
    if len(kernel) not in (1, b):
        raise ValueError(f'there are {len(kernel)} kernels for {b} pictures')
    if k // 2 >= min(height, width):
        raise ValueError(f'pictures of {height}x{width} are too small to be mirrored for a kernel of {k}x{k}')
    padded = F.pad(img, [k // 2] * 4, mode='reflect')
    if len(kernel) == 1:
        return F.conv2d(padded.flatten(0, 1)[:, None], kernel[None]).reshape(b, c, height, width)
    weights = kernel.repeat_interleave(c, dim=0)[:, None]
    return F.conv2d(padded.flatten(0, 1)[None], weights, groups=b * c).reshape(b, c, height, width)


def usm_sharp(img: np.ndarray, weight: float = 0.5, radius: int = 50, threshold: float = 10) -> np.ndarray:
    """Sharpen a picture by unsharp masking where it differs from its blurred version.

    Args:
        img: (h, w[, c]), float32 in [0, 1].
        weight: Share of the difference that is added.
        radius: Size of the Gaussian's window in pixels; even sizes are rounded up to odd. OpenCV chooses its sigma.
        threshold: Differences up to this, in units of 1/255, are ignored; the mask of the others is blurred.

        Returns:
            The sharpened picture, with the shape and type of `img`.
    """
    radius += 1 - radius % 2
    residual = img - cv2.GaussianBlur(img, (radius, radius), 0)
    mask = (np.abs(residual) * 255 > threshold).astype(np.float32)
    mask = cv2.GaussianBlur(mask, (radius, radius), 0)
    sharp = np.clip(img + weight * residual, 0, 1)
    return mask * sharp + (1 - mask) * img


class USMSharp(nn.Module):
    """`usm_sharp` for batches of tensors.

    Args:
        radius: Size of the Gaussian's window in pixels; even sizes are rounded up to odd.
        sigma: Sigma of the Gaussian in pixels; 0: OpenCV's default for the size.
    """

    def __init__(self, radius: int = 50, sigma: float = 0) -> None:
        super().__init__()
        self.radius = radius + 1 - radius % 2
        line = cv2.getGaussianKernel(self.radius, sigma)
        self.register_buffer('kernel', torch.from_numpy(line @ line.T).float()[None])

    def forward(self, img: Tensor, weight: float = 0.5, threshold: float = 10) -> Tensor:
        """Return (b, c, h, w), sharpened.

        Args:
            img: (b, c, h, w) in [0, 1].
            weight: Share of the difference to the blurred picture that is added.
            threshold: Differences up to this, in units of 1/255, are ignored.
        """
        residual = img - filter2D(img, self.kernel)
        mask = filter2D((residual.abs() * 255 > threshold).to(img.dtype), self.kernel)
        sharp = (img + weight * residual).clamp(0, 1)
        return mask * sharp + (1 - mask) * img
