"""Gaussian noise, Poisson noise and JPEG compression of NumPy pictures, using NumPy's global generator.

Pictures are float32 in [0, 1], (h, w, c); for grey Poisson noise and for JPEG, c is 3 and the order BGR. Grey noise
is the same in all channels. `clip` keeps results in [0, 1]; `rounds` rounds them to multiples of 1/255.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Range = Sequence[float]


def generate_gaussian_noise(img: np.ndarray, sigma: float = 10, gray_noise: bool = False) -> np.ndarray:
    """Return white Gaussian noise for `img`, float32, (h, w, c).

    Args:
        img: The picture; only its shape is used.
        sigma: Standard deviation in units of 1/255.
        gray_noise: Make one channel and repeat it.
    """
    noise = np.random.randn(*(img.shape[:2] if gray_noise else img.shape)).astype(np.float32) * sigma / 255.0
    return _repeat(noise, img) if gray_noise else noise


def add_gaussian_noise(
    img: np.ndarray, sigma: float = 10, clip: bool = True, rounds: bool = False, gray_noise: bool = False
) -> np.ndarray:
    """Return `img` plus the noise of `generate_gaussian_noise`."""
    return _limit(img + generate_gaussian_noise(img, sigma, gray_noise), clip, rounds)


def random_generate_gaussian_noise(img: np.ndarray, sigma_range: Range = (0, 10), gray_prob: float = 0) -> np.ndarray:
    """Return white Gaussian noise with a sigma drawn from `sigma_range`, grey with probability `gray_prob`."""
    return generate_gaussian_noise(img, *_draw(sigma_range, gray_prob))


def random_add_gaussian_noise(
    img: np.ndarray, sigma_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> np.ndarray:
    """Return `img` plus the noise of `random_generate_gaussian_noise`."""
    return _limit(img + random_generate_gaussian_noise(img, sigma_range, gray_prob), clip, rounds)


def generate_poisson_noise(img: np.ndarray, scale: float = 1.0, gray_noise: bool = False) -> np.ndarray:
    """Return shot noise for `img`, float32, (h, w, c).

    Brightness 1 corresponds to as many photons as the picture has distinct values, rounded up to a power of two.

    Args:
        img: The picture.
        scale: Factor of the noise.
        gray_noise: Use the noise of the grey version of the picture.
    """
    grey = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY) if gray_noise else img
    levels = _limit(grey, clip=True, rounds=True)
    photons = power_of_two(np.unique(levels).size)
    noise = (np.random.poisson(levels * photons) / photons).astype(np.float32) - levels
    return (_repeat(noise, img) if gray_noise else noise) * scale


def add_poisson_noise(
    img: np.ndarray, scale: float = 1.0, clip: bool = True, rounds: bool = False, gray_noise: bool = False
) -> np.ndarray:
    """Return `img` plus the noise of `generate_poisson_noise`."""
    return _limit(img + generate_poisson_noise(img, scale, gray_noise), clip, rounds)


def random_generate_poisson_noise(img: np.ndarray, scale_range: Range = (0, 1.0), gray_prob: float = 0) -> np.ndarray:
    """Return shot noise with a scale drawn from `scale_range`, grey with probability `gray_prob`."""
    return generate_poisson_noise(img, *_draw(scale_range, gray_prob))


def random_add_poisson_noise(
    img: np.ndarray, scale_range: Range = (0, 1.0), gray_prob: float = 0, clip: bool = True, rounds: bool = False
) -> np.ndarray:
    """Return `img` plus the noise of `random_generate_poisson_noise`."""
    return _limit(img + random_generate_poisson_noise(img, scale_range, gray_prob), clip, rounds)


def add_jpg_compression(img: np.ndarray, quality: float = 90) -> np.ndarray:
    """Return a BGR picture (h, w, 3) after JPEG compression by OpenCV, float32.

    Args:
        img: The picture; values outside [0, 1] are clipped.
        quality: 0 (worst) to 100; fractions are truncated.
    """
    levels = _limit(img, clip=True, rounds=True) * 255.0
    content = cv2.imencode('.jpg', np.rint(levels).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return cv2.imdecode(content, cv2.IMREAD_COLOR).astype(np.float32) / 255.0


def random_add_jpg_compression(img: np.ndarray, quality_range: Range = (90, 100)) -> np.ndarray:
    """Return a picture compressed as by `add_jpg_compression`, with a quality drawn from `quality_range`."""
    return add_jpg_compression(img, np.random.uniform(quality_range[0], quality_range[1]))


def power_of_two(count: int) -> int:
    """The smallest power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


def _draw(limits: Range, gray_prob: float) -> tuple[float, bool]:
    strength = np.random.uniform(limits[0], limits[1])
    return strength, bool(np.random.uniform() < gray_prob)


def _repeat(noise: np.ndarray, img: np.ndarray) -> np.ndarray:
    return np.repeat(noise[..., None], img.shape[2], axis=2)


def _limit(img: np.ndarray, clip: bool, rounds: bool) -> np.ndarray:
    if rounds:
        img = (img * 255.0).round()
        return (img.clip(0, 255) if clip else img) / 255.0
    return img.clip(0, 1) if clip else img
