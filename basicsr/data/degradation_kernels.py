"""Blur kernels of real-world super-resolution: Gaussians, their relatives, and sinc filters.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", ICCVW 2021, sections
3.1 and 3.3. All kernels sum to 1. Random ones use NumPy's global generator.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import j1
from scipy.stats import multivariate_normal

Range = Sequence[float]


def sigma_matrix2(sig_x: float, sig_y: float, theta: float) -> np.ndarray:
    """Return the covariance (2, 2) of a Gaussian with deviations `sig_x` and `sig_y` along axes rotated by `theta`."""
    cos, sin = np.cos(theta), np.sin(theta)
    turn = np.array([[cos, -sin], [sin, cos]])
    return turn @ np.diag([sig_x**2, sig_y**2]) @ turn.T


def mesh_grid(kernel_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixel positions relative to the centre of a kernel: (k, k, 2) as pairs x, y, then x and y separately."""
    axis = np.arange(kernel_size) - (kernel_size - 1) // 2.0
    xx, yy = np.meshgrid(axis, axis)
    return np.stack([xx, yy], axis=-1), xx, yy


def pdf2(sigma_matrix: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return exp(-d² / 2), (k, k), with the Mahalanobis distance d of each point of `grid`: a Gaussian, not normalised.

    Args:
        sigma_matrix: Covariance, (2, 2).
        grid: (k, k, 2), see `mesh_grid`.
    """
    return np.exp(-0.5 * _squared_distance(sigma_matrix, grid))


def cdf2(d_matrix: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the standard bivariate normal distribution's CDF, (k, k), at `grid @ d_matrix`; skewed Gaussians need it.

    Args:
        d_matrix: Skew matrix, (2, 2).
        grid: (k, k, 2), see `mesh_grid`.
    """
    return multivariate_normal([0, 0], np.eye(2)).cdf(grid @ d_matrix)


def bivariate_Gaussian(
    kernel_size: int,
    sig_x: float,
    sig_y: float,
    theta: float,
    grid: np.ndarray | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a Gaussian kernel (k, k).

    Args:
        kernel_size: k.
        sig_x: Deviation along the first axis, in pixels; along both where `isotropic`.
        sig_y: Deviation along the second axis.
        theta: Angle of the axes, in radians.
        grid: The result of `mesh_grid` for k; computed by default.
        isotropic: Ignore `sig_y` and `theta`.
    """
    return _normalised(np.exp(-0.5 * _distances(kernel_size, sig_x, sig_y, theta, grid, isotropic)))


def bivariate_generalized_Gaussian(
    kernel_size: int,
    sig_x: float,
    sig_y: float,
    theta: float,
    beta: float,
    grid: np.ndarray | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return the kernel exp(-(d²)^beta / 2), (k, k); `beta` 1 is a Gaussian, larger values are flatter in the middle.

    Further arguments as for `bivariate_Gaussian`.
    """
    return _normalised(np.exp(-0.5 * _distances(kernel_size, sig_x, sig_y, theta, grid, isotropic) ** beta))


def bivariate_plateau(
    kernel_size: int,
    sig_x: float,
    sig_y: float,
    theta: float,
    beta: float,
    grid: np.ndarray | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return the kernel 1 / (1 + (d²)^beta), (k, k), which falls off more slowly than a Gaussian.

    Further arguments as for `bivariate_Gaussian`.
    """
    return _normalised(1 / (1 + _distances(kernel_size, sig_x, sig_y, theta, grid, isotropic) ** beta))


def random_bivariate_Gaussian(
    kernel_size: int,
    sigma_x_range: Range,
    sigma_y_range: Range,
    rotation_range: Range,
    noise_range: Range | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a Gaussian kernel (k, k) with parameters drawn from uniform distributions.

    Args:
        kernel_size: k, odd.
        sigma_x_range: Lowest and highest deviation along the first axis, in pixels.
        sigma_y_range: Likewise along the second axis; ignored if `isotropic`.
        rotation_range: Likewise for the angle, in radians; ignored if `isotropic`.
        noise_range: Range of random factors on the kernel's elements, for example (0.75, 1.25); None: no factors.
        isotropic: Use the first deviation for both axes.

    Raises:
        ValueError: The size is even, or a range is not from lower to higher.
    """
    axes = _draw_axes(kernel_size, sigma_x_range, sigma_y_range, rotation_range, isotropic)
    return _with_noise(bivariate_Gaussian(kernel_size, *axes, isotropic=isotropic), noise_range)


def random_bivariate_generalized_Gaussian(
    kernel_size: int,
    sigma_x_range: Range,
    sigma_y_range: Range,
    rotation_range: Range,
    beta_range: Range,
    noise_range: Range | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a generalised Gaussian kernel (k, k) with random parameters.

    `beta` is drawn from below 1 or above 1 with equal chances, so `beta_range` holds 1. Further arguments and errors as
    for `random_bivariate_Gaussian`.
    """
    axes = _draw_axes(kernel_size, sigma_x_range, sigma_y_range, rotation_range, isotropic)
    kernel = bivariate_generalized_Gaussian(kernel_size, *axes, _draw_beta(beta_range), isotropic=isotropic)
    return _with_noise(kernel, noise_range)


def random_bivariate_plateau(
    kernel_size: int,
    sigma_x_range: Range,
    sigma_y_range: Range,
    rotation_range: Range,
    beta_range: Range,
    noise_range: Range | None = None,
    isotropic: bool = True,
) -> np.ndarray:
    """Return a plateau kernel (k, k) with random parameters, as `random_bivariate_generalized_Gaussian` draws them."""
    axes = _draw_axes(kernel_size, sigma_x_range, sigma_y_range, rotation_range, isotropic)
    kernel = bivariate_plateau(kernel_size, *axes, _draw_beta(beta_range), isotropic=isotropic)
    return _with_noise(kernel, noise_range)


KERNELS: dict[str, Callable[..., np.ndarray]] = {
    'iso': random_bivariate_Gaussian,
    'aniso': random_bivariate_Gaussian,
    'generalized_iso': random_bivariate_generalized_Gaussian,
    'generalized_aniso': random_bivariate_generalized_Gaussian,
    'plateau_iso': random_bivariate_plateau,
    'plateau_aniso': random_bivariate_plateau,
}


def random_mixed_kernels(
    kernel_list: Sequence[str],
    kernel_prob: Sequence[float],
    kernel_size: int = 21,
    sigma_x_range: Range = (0.6, 5),
    sigma_y_range: Range = (0.6, 5),
    rotation_range: Range = (-math.pi, math.pi),
    betag_range: Range = (0.5, 8),
    betap_range: Range = (0.5, 8),
    noise_range: Range | None = None,
) -> np.ndarray:
    """Return a random kernel (k, k) of a random family. Python's `random` chooses the family.

    Args:
        kernel_list: Families: iso, aniso, generalized_iso, generalized_aniso, plateau_iso, plateau_aniso.
        kernel_prob: Their relative chances.
        kernel_size: k, odd.
        sigma_x_range: Lowest and highest deviation along the first axis, in pixels.
        sigma_y_range: Likewise along the second axis.
        rotation_range: Likewise for the angle, in radians.
        betag_range: Exponents of generalised Gaussians.
        betap_range: Exponents of plateaus.
        noise_range: Range of random factors on a kernel's elements; not applied to plateaus.

    Raises:
        ValueError: A family is unknown, the size is even, or a range is not from lower to higher.
    """
    unknown = [name for name in kernel_list if name not in KERNELS]
    if unknown:
        raise ValueError(f'kernel_list: there is no kernel {unknown[0]!r}; choose from {", ".join(KERNELS)}')
    name = random.choices(kernel_list, kernel_prob)[0]
    shape: dict = {'noise_range': noise_range, 'isotropic': not name.endswith('aniso')}
    if name.startswith('generalized'):
        shape['beta_range'] = betag_range
    elif name.startswith('plateau'):
        shape.update(beta_range=betap_range, noise_range=None)
    return KERNELS[name](kernel_size, sigma_x_range, sigma_y_range, rotation_range, **shape)


def circular_lowpass_kernel(cutoff: float, kernel_size: int, pad_to: int = 0) -> np.ndarray:
    """Return the 2-D sinc filter (k, k), which rings: cutoff J1(cutoff r) / (2 pi r), normalised.

    It is the inverse Fourier transform of a disc; `cutoff`² / (4 pi) in the middle is the limit.

    Args:
        cutoff: Cut-off frequency in radians per pixel, at most pi.
        kernel_size: k, odd.
        pad_to: Surround the kernel with zeros up to this odd size; 0 leaves it as it is.

    Raises:
        ValueError: The size is even.
    """
    _check_size(kernel_size)
    _, xx, yy = mesh_grid(kernel_size)
    radius = np.hypot(xx, yy)
    middle = radius == 0
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * np.where(middle, 1, radius))
    kernel[middle] = cutoff**2 / (4 * np.pi)
    return np.pad(_normalised(kernel), max(0, (pad_to - kernel_size) // 2))


def _squared_distance(sigma_matrix: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.sum(grid @ np.linalg.inv(sigma_matrix) * grid, axis=2)


def _distances(
    kernel_size: int, sig_x: float, sig_y: float, theta: float, grid: np.ndarray | None, isotropic: bool
) -> np.ndarray:
    """Squared Mahalanobis distances of a kernel's pixels from its centre, (k, k)."""
    grid = mesh_grid(kernel_size)[0] if grid is None else grid
    return _squared_distance(np.eye(2) * sig_x**2 if isotropic else sigma_matrix2(sig_x, sig_y, theta), grid)


def _normalised(kernel: np.ndarray) -> np.ndarray:
    return kernel / kernel.sum()


def _check_size(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be odd, so that a kernel has a middle; it is {kernel_size}')


def _draw(name: str, limits: Range, size: tuple[int, ...] | None = None) -> float | np.ndarray:
    if not limits[0] < limits[1]:
        raise ValueError(f'{name} must go from lower to higher, not {limits[0]} to {limits[1]}')
    return np.random.uniform(limits[0], limits[1], size)


def _draw_axes(
    kernel_size: int, sigma_x_range: Range, sigma_y_range: Range, rotation_range: Range, isotropic: bool
) -> tuple[float, float, float]:
    """Deviations along the two axes, and their angle."""
    _check_size(kernel_size)
    sigma_x = _draw('sigma_x_range', sigma_x_range)
    if isotropic:
        return sigma_x, sigma_x, 0
    return sigma_x, _draw('sigma_y_range', sigma_y_range), _draw('rotation_range', rotation_range)


def _draw_beta(beta_range: Range) -> float:
    below = np.random.uniform() < 0.5
    return np.random.uniform(beta_range[0], 1) if below else np.random.uniform(1, beta_range[1])


def _with_noise(kernel: np.ndarray, noise_range: Range | None) -> np.ndarray:
    if noise_range is not None:
        kernel = kernel * _draw('noise_range', noise_range, kernel.shape)
    return _normalised(kernel)
