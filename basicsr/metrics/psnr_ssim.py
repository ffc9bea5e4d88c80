"""PSNR and SSIM, for pictures (numpy, [0, 255]) and for batches (torch, [0, 1])."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.metrics.metric_util import cropped_size, reorder_image, to_y_channel
from basicsr.options.bounds import Border
from basicsr.utils.color_util import rgb2ycbcr_pt
from basicsr.utils.img_util import crop_border as crop_picture
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import METRIC_REGISTRY

Picture = TypeVar('Picture', np.ndarray, Tensor)

PERFECT = 100.0
"""The most that PSNR counts in means, in dB: more than any difference that 8 bits leave visible."""
_WINDOW = cv2.getGaussianKernel(11, 1.5)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@METRIC_REGISTRY.register()
def calculate_psnr(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: Border,
    input_order: Literal['HWC', 'CHW'] = 'HWC',
    test_y_channel: bool = False,
    **kwargs: Any,
) -> float:
    """Return the peak signal-to-noise ratio of two pictures in dB; infinite if they are equal.

    Args:
        img: (h, w), (h, w, c) or, by `input_order`, (c, h, w); BGR in [0, 255].
        img2: As `img`.
        crop_border: Pixels to leave out at each side.
        input_order: HWC or CHW.
        test_y_channel: Compare the luma only.
        kwargs: Entries of the options that concern others, such as `better`; ignored.

    Raises:
        ValueError: The shapes differ or leave nothing to compare.
    """
    first, second = _prepare(img, img2, crop_border, input_order, test_y_channel)
    error = np.mean((first - second) ** 2)
    return float('inf') if error == 0 else float(10 * np.log10(255.0**2 / error))


@METRIC_REGISTRY.register()
def calculate_ssim(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: Border,
    input_order: Literal['HWC', 'CHW'] = 'HWC',
    test_y_channel: bool = False,
    **kwargs: Any,
) -> float:
    """Return the structural similarity (Wang et al., 2004) of two pictures, the mean over their channels.

    Windows are 11 x 11, Gaussian with sigma 1.5, and lie within the picture.

    Args:
        img: (h, w), (h, w, c) or, by `input_order`, (c, h, w); BGR in [0, 255].
        img2: As `img`.
        crop_border: Pixels to leave out at each side.
        input_order: HWC or CHW.
        test_y_channel: Compare the luma only.
        kwargs: Entries of the options that concern others, such as `better`; ignored.

    Raises:
        ValueError: The shapes differ, or are smaller than a window once cropped.
    """
    first, second = _prepare(img, img2, crop_border, input_order, test_y_channel)
    _check_window(*first.shape[:2])

    def blur(channels: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(channels, -1, _WINDOW, _WINDOW)[5:-5, 5:-5]

    return float(_ssim_map(first, second, blur).mean())


@METRIC_REGISTRY.register()
def calculate_psnr_pt(
    img: Tensor | np.ndarray,
    img2: Tensor | np.ndarray,
    crop_border: Border,
    test_y_channel: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Return the PSNR of each pair of a batch, (n,) float64, in dB; 80 for equal pictures.

    Args:
        img: (n, 3, h, w) or (n, 1, h, w), RGB in [0, 1]; or, as for options, a picture as `calculate_psnr` takes it.
        img2: As `img`.
        crop_border: Pixels to leave out at each side.
        test_y_channel: Compare the luma only.
        kwargs: Ignored.

    Raises:
        ValueError: The shapes differ or leave nothing to compare.
    """
    first, second = _prepare_pt(img, img2, crop_border, test_y_channel)
    error = ((first - second) ** 2).mean((1, 2, 3))
    return 10 * torch.log10(1 / (error + 1e-8))


@METRIC_REGISTRY.register()
def calculate_ssim_pt(
    img: Tensor | np.ndarray,
    img2: Tensor | np.ndarray,
    crop_border: Border,
    test_y_channel: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Return the SSIM of each pair of a batch, (n,) float64.

    Args:
        img: (n, 3, h, w) or (n, 1, h, w), RGB in [0, 1]; or, as for options, a picture as `calculate_psnr` takes it.
        img2: As `img`.
        crop_border: Pixels to leave out at each side.
        test_y_channel: Compare the luma only.
        kwargs: Ignored.

    Raises:
        ValueError: The shapes differ, or are smaller than a window once cropped.
    """
    first, second = _prepare_pt(img, img2, crop_border, test_y_channel)
    _check_window(*first.shape[2:])
    channels = first.shape[1]
    window = torch.from_numpy(_WINDOW @ _WINDOW.T).to(first).expand(channels, 1, 11, 11)

    def blur(batch: Tensor) -> Tensor:
        return F.conv2d(batch, window, groups=channels)

    return _ssim_map(first * 255, second * 255, blur).mean((1, 2, 3))


def _check_psnr_size(height: int, width: int, given: dict[str, Any]) -> None:
    cropped_size(height, width, given.get('crop_border', 0))


def _check_ssim_size(height: int, width: int, given: dict[str, Any]) -> None:
    _check_window(*cropped_size(height, width, given.get('crop_border', 0)))


calculate_psnr.most = PERFECT
calculate_psnr.check_size = calculate_psnr_pt.check_size = _check_psnr_size
calculate_ssim.check_size = calculate_ssim_pt.check_size = _check_ssim_size


def _ssim_map(first: Picture, second: Picture, blur: Callable[[Picture], Picture]) -> Picture:
    """Return the similarity in each window: Wang et al., equation 13, with values in [0, 255]."""
    mu1, mu2 = blur(first), blur(second)
    variance1 = blur(first**2) - mu1**2
    variance2 = blur(second**2) - mu2**2
    covariance = blur(first * second) - mu1 * mu2
    luminance = (2 * mu1 * mu2 + _C1) / (mu1**2 + mu2**2 + _C1)
    return luminance * (2 * covariance + _C2) / (variance1 + variance2 + _C2)


def _prepare(
    img: np.ndarray, img2: np.ndarray, crop_border: int, input_order: str, test_y_channel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return both pictures as float64 (h, w, c) in [0, 255], cropped."""
    if img.shape != img2.shape:
        raise ValueError(f'the pictures to compare differ in shape: {img.shape} and {img2.shape}')
    pictures = [crop_picture(reorder_image(picture, input_order), crop_border) for picture in (img, img2)]
    if test_y_channel:
        pictures = [to_y_channel(picture) for picture in pictures]
    return pictures[0].astype(np.float64), pictures[1].astype(np.float64)


def _prepare_pt(
    img: Tensor | np.ndarray, img2: Tensor | np.ndarray, crop_border: int, test_y_channel: bool
) -> tuple[Tensor, Tensor]:
    """Return both batches as float64, cropped."""
    img, img2 = (_as_batch(one) for one in (img, img2))
    if img.shape != img2.shape or img.ndim != 4:
        raise ValueError(
            f'the batches to compare are not (n, c, h, w) of one shape: {tuple(img.shape)} and {tuple(img2.shape)}'
        )
    cropped_size(*img.shape[2:], crop_border)
    rows, columns = (slice(crop_border, side - crop_border) for side in img.shape[2:])
    batches = [batch[..., rows, columns].double() for batch in (img, img2)]
    if test_y_channel and img.shape[1] == 3:
        batches = [rgb2ycbcr_pt(batch, y_only=True) for batch in batches]
    return batches[0], batches[1]


def _as_batch(img: Tensor | np.ndarray) -> Tensor:
    """A batch as it is; a picture (h, w[, 3]), BGR in [0, 255], as a batch of one."""
    if isinstance(img, Tensor):
        return img
    return img2tensor(img if img.ndim == 3 else img[..., None])[None] / 255


def _check_window(height: int, width: int) -> None:
    if min(height, width) < 11:
        raise ValueError(f'SSIM needs at least 11x11 pixels after cropping, not {height}x{width}; lower crop_border')
