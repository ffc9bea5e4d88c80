"""Gaussian and Poisson noise for batches of tensors, using torch's global generator of their device.

Batches are (n, 3, h, w), RGB in [0, 1]. Sigma, scale and whether noise is grey may each be one number for the batch,
or a tensor (n,) with one for each picture. Grey noise is the same in all channels. `clip` keeps results in
[0, 1]; `rounds` rounds them to multiples of 1/255.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from basicsr.data.degradation_noise import power_of_two

Range = Sequence[float]


def generate_gaussian_noise_pt(img: Tensor, sigma: float | Tensor = 10, gray_noise: float | Tensor = 0) -> Tensor:
    """Return white Gaussian noise of the shape of `img`.

    Args:
        img: The batch; only its shape, type and device are used.
        sigma: Standard deviation in units of 1/255.
        gray_noise: 1 for grey noise, 0 for independent noise in each channel. Grey noise has one pattern for the whole
            batch, scaled by each picture's sigma, as in BasicSR.
    """
    sigma, gray_noise = _per_picture(sigma), _per_picture(gray_noise)
    grey = None
    if _any(gray_noise):  # drawn before the colours
        grey = torch.randn(img.shape[2:], dtype=img.dtype, device=img.device) * sigma / 255.0
    return _mix(torch.randn_like(img) * sigma / 255.0, grey, gray_noise)


def add_gaussian_noise_pt(
    img: Tensor,
    sigma: float | Tensor = 10,
    gray_noise: float | Tensor = 0,
    clip: bool = True,
    rounds: bool = False,
) -> Tensor:
    """Return `img` plus the noise of `generate_gaussian_noise_pt`."""
    return _limit(img + generate_gaussian_noise_pt(img, sigma, gray_noise), clip, rounds)


def random_generate_gaussian_noise_pt(img: Tensor, sigma_range: Range = (0, 10), gray_prob: float = 0) -> Tensor:
    """Return white Gaussian noise: sigma, from `sigma_range`, and grey, at `gray_prob`, are drawn for each picture."""
    return generate_gaussian_noise_pt(img, *_draw(img, sigma_range, gray_prob))


def random_add_gaussian_noise_pt(
    img: Tensor, sigma_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> Tensor:
    """Return `img` plus the noise of `random_generate_gaussian_noise_pt`."""
    return _limit(img + random_generate_gaussian_noise_pt(img, sigma_range, gray_prob), clip, rounds)


def generate_poisson_noise_pt(img: Tensor, scale: float | Tensor = 1.0, gray_noise: float | Tensor = 0) -> Tensor:
    """Return shot noise of the shape of `img`.

    Brightness 1 corresponds to as many photons as a picture has distinct values, rounded up to a power of two.

    Args:
        img: The batch.
        scale: Factor of the noise.
        gray_noise: 1 for the noise of the grey version of the picture, 0 for that of the colour picture.
    """
    scale, gray_noise = _per_picture(scale), _per_picture(gray_noise)
    grey = _shot_noise(rgb_to_grayscale(img)) if _any(gray_noise) else None  # drawn before the colours
    return _mix(_shot_noise(img), grey, gray_noise) * scale


def add_poisson_noise_pt(
    img: Tensor,
    scale: float | Tensor = 1.0,
    clip: bool = True,
    rounds: bool = False,
    gray_noise: float | Tensor = 0,
) -> Tensor:
    """Return `img` plus the noise of `generate_poisson_noise_pt`."""
    return _limit(img + generate_poisson_noise_pt(img, scale, gray_noise), clip, rounds)


def random_generate_poisson_noise_pt(img: Tensor, scale_range: Range = (0, 1.0), gray_prob: float = 0) -> Tensor:
    """Return shot noise: its scale, from `scale_range`, and grey, at `gray_prob`, are drawn for each picture."""
    return generate_poisson_noise_pt(img, *_draw(img, scale_range, gray_prob))


def random_add_poisson_noise_pt(
    img: Tensor, scale_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> Tensor:
    """Return `img` plus the noise of `random_generate_poisson_noise_pt`."""
    return _limit(img + random_generate_poisson_noise_pt(img, scale_range, gray_prob), clip, rounds)


def _per_picture(value: float | Tensor) -> float | Tensor:
    return value.view(-1, 1, 1, 1) if isinstance(value, Tensor) else value


def _any(gray_noise: float | Tensor) -> bool:
    return bool(gray_noise.sum() > 0) if isinstance(gray_noise, Tensor) else gray_noise > 0


def _mix(colour: Tensor, grey: Tensor | None, gray_noise: float | Tensor) -> Tensor:
    return colour if grey is None else colour * (1 - gray_noise) + grey * gray_noise


def _shot_noise(img: Tensor) -> Tensor:
    levels = _limit(img, clip=True, rounds=True)
    photons = levels.new_tensor([power_of_two(one.unique().numel()) for one in levels]).view(-1, 1, 1, 1)
    return torch.poisson(levels * photons) / photons - levels


def _draw(img: Tensor, limits: Range, gray_prob: float) -> tuple[Tensor, Tensor]:
    strength = torch.rand(len(img), dtype=img.dtype, device=img.device) * (limits[1] - limits[0]) + limits[0]
    grey = torch.rand(len(img), dtype=img.dtype, device=img.device) < gray_prob
    return strength, grey.to(img.dtype)


def _limit(img: Tensor, clip: bool, rounds: bool) -> Tensor:
    if rounds:
        img = (img * 255.0).round()
        return (img.clamp(0, 255) if clip else img) / 255.0
    return img.clamp(0, 1) if clip else img
