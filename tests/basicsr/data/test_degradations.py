"""Kernels, noise and JPEG of real-world super-resolution, against SciPy, OpenCV and statistics."""

import inspect
import math
import random

import cv2
import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from skimage import data

from basicsr.data import degradations
from basicsr.data.degradations import (
    add_gaussian_noise,
    add_gaussian_noise_pt,
    add_jpg_compression,
    add_poisson_noise,
    add_poisson_noise_pt,
    bivariate_Gaussian,
    bivariate_generalized_Gaussian,
    bivariate_plateau,
    cdf2,
    circular_lowpass_kernel,
    generate_gaussian_noise,
    generate_gaussian_noise_pt,
    generate_poisson_noise,
    generate_poisson_noise_pt,
    mesh_grid,
    pdf2,
    random_add_gaussian_noise,
    random_add_gaussian_noise_pt,
    random_add_jpg_compression,
    random_add_poisson_noise,
    random_add_poisson_noise_pt,
    random_bivariate_Gaussian,
    random_bivariate_generalized_Gaussian,
    random_bivariate_plateau,
    random_generate_gaussian_noise,
    random_generate_gaussian_noise_pt,
    random_generate_poisson_noise,
    random_generate_poisson_noise_pt,
    random_mixed_kernels,
    sigma_matrix2,
)

FAMILIES = ['iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso']


@pytest.fixture(scope='module')
def photo():
    """(h, w, 3), BGR float32 in [0, 1]."""
    return np.ascontiguousarray(data.astronaut()[:128, 160:288, ::-1]).astype(np.float32) / 255


@pytest.fixture(scope='module')
def batch(photo):
    """(2, 3, h, w), RGB."""
    chw = torch.from_numpy(np.ascontiguousarray(photo[..., ::-1].transpose(2, 0, 1)))
    return torch.stack([chw, chw.flip(-1) * 0.5])


def seeded(function, *args, seed=4, **options):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return function(*args, **options)


@pytest.mark.parametrize(
    'name, arguments',
    [
        ('bivariate_Gaussian', 'kernel_size sig_x sig_y theta grid=None isotropic=True'),
        ('bivariate_generalized_Gaussian', 'kernel_size sig_x sig_y theta beta grid=None isotropic=True'),
        ('bivariate_plateau', 'kernel_size sig_x sig_y theta beta grid=None isotropic=True'),
        (
            'random_bivariate_Gaussian',
            'kernel_size sigma_x_range sigma_y_range rotation_range noise_range=None isotropic=True',
        ),
        (
            'random_bivariate_plateau',
            'kernel_size sigma_x_range sigma_y_range rotation_range beta_range noise_range=None isotropic=True',
        ),
        (
            'random_mixed_kernels',
            f'kernel_list kernel_prob kernel_size=21 sigma_x_range=(0.6,5) sigma_y_range=(0.6,5) '
            f'rotation_range=({-math.pi},{math.pi}) betag_range=(0.5,8) betap_range=(0.5,8) noise_range=None',
        ),
        ('circular_lowpass_kernel', 'cutoff kernel_size pad_to=0'),
        ('add_gaussian_noise', 'img sigma=10 clip=True rounds=False gray_noise=False'),
        ('add_gaussian_noise_pt', 'img sigma=10 gray_noise=0 clip=True rounds=False'),
        ('random_add_gaussian_noise', 'img sigma_range=(0,1.0) gray_prob=0 clip=True rounds=False'),
        ('random_add_gaussian_noise_pt', 'img sigma_range=(0,1.0) gray_prob=0 clip=True rounds=False'),
        ('random_generate_gaussian_noise_pt', 'img sigma_range=(0,10) gray_prob=0'),
        ('add_poisson_noise', 'img scale=1.0 clip=True rounds=False gray_noise=False'),
        ('add_poisson_noise_pt', 'img scale=1.0 clip=True rounds=False gray_noise=0'),
        ('random_add_poisson_noise_pt', 'img scale_range=(0,1.0) gray_prob=0 clip=True rounds=False'),
        ('add_jpg_compression', 'img quality=90'),
        ('random_add_jpg_compression', 'img quality_range=(90,100)'),
    ],
)
def test_arguments_are_those_of_basicsr(name, arguments):
    parameters = inspect.signature(getattr(degradations, name)).parameters.values()
    found = [one.name if one.default is one.empty else f'{one.name}={one.default}' for one in parameters]
    assert [text.replace(' ', '') for text in found] == arguments.split()


# Kernels


def test_covariance_and_its_axes():
    matrix = sigma_matrix2(3, 1, 0.3)
    variances, axes = np.linalg.eigh(matrix)
    np.testing.assert_allclose(variances, [1, 9])
    np.testing.assert_allclose(np.abs(axes[:, 1]), [math.cos(0.3), math.sin(0.3)])
    assert matrix[0, 1] > 0, 'turned counter-clockwise in x and y'


def test_grid_is_centred():
    grid, xx, yy = mesh_grid(5)
    assert grid.shape == (5, 5, 2)
    np.testing.assert_array_equal(grid[1, 4], [2, -1])
    np.testing.assert_array_equal(grid, np.dstack([xx, yy]))
    assert mesh_grid(4)[1][0].tolist() == [-1, 0, 1, 2]


def test_gaussians_are_scipys():
    grid = mesh_grid(9)[0]
    matrix = sigma_matrix2(2.5, 1.2, 0.7)
    density = stats.multivariate_normal([0, 0], matrix).pdf(grid)
    np.testing.assert_allclose(pdf2(matrix, grid), density / density[4, 4])
    np.testing.assert_allclose(bivariate_Gaussian(9, 2.5, 1.2, 0.7, isotropic=False), density / density.sum())
    line = cv2.getGaussianKernel(9, 1.7)
    np.testing.assert_allclose(bivariate_Gaussian(9, 1.7, 99, 99), line @ line.T, rtol=1e-6)
    np.testing.assert_array_equal(bivariate_Gaussian(9, 1.7, 0, 0, grid=grid), bivariate_Gaussian(9, 1.7, 0, 0))


def test_cdf_of_a_skewed_grid():
    skew = np.array([[1.0, 0.5], [0.0, 2.0]])
    values = cdf2(skew, mesh_grid(3)[0])
    for row, column, (x, y) in ((0, 2, (1, -1)), (1, 0, (-1, 0))):
        u, v = np.array([x, y]) @ skew
        expected = integrate.dblquad(
            lambda b, a: math.exp(-(a * a + b * b) / 2) / (2 * math.pi), -8, u, lambda _: -8, lambda _, v=v: v
        )[0]
        assert values[row, column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('isotropic', [True, False])
def test_generalised_gaussians_and_plateaus(isotropic):
    sig_x, sig_y, theta, beta = 2.5, 1.2, 0.7, 1.6
    generalised = bivariate_generalized_Gaussian(9, sig_x, sig_y, theta, beta, isotropic=isotropic)
    plateau = bivariate_plateau(9, sig_x, sig_y, theta, beta, isotropic=isotropic)
    for row, y in enumerate(range(-4, 5)):
        for column, x in enumerate(range(-4, 5)):
            # The point in the kernel's own axes.
            along = x * math.cos(theta) + y * math.sin(theta)
            across = y * math.cos(theta) - x * math.sin(theta)
            distance = (x * x + y * y) / sig_x**2 if isotropic else (along / sig_x) ** 2 + (across / sig_y) ** 2
            bell, shelf = math.exp(-(distance**beta) / 2), 1 / (1 + distance**beta)
            assert generalised[row, column] / generalised[4, 4] == pytest.approx(bell)
            assert plateau[row, column] / plateau[4, 4] == pytest.approx(shelf)
    assert generalised.sum() == pytest.approx(1) and plateau.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        bivariate_generalized_Gaussian(9, sig_x, sig_y, theta, 1, isotropic=isotropic),
        bivariate_Gaussian(9, sig_x, sig_y, theta, isotropic=isotropic),
    )


def test_random_kernels_are_made_of_the_draws_in_order():
    ranges = ((0.5, 3), (1, 2), (-1, 1))
    drawn = np.random.RandomState(4)
    sigma_x, sigma_y, theta = (drawn.uniform(*limits) for limits in ranges)
    kernel = bivariate_Gaussian(7, sigma_x, sigma_y, theta, isotropic=False) * drawn.uniform(0.8, 1.2, (7, 7))
    made = seeded(random_bivariate_Gaussian, 7, *ranges, noise_range=(0.8, 1.2), isotropic=False)
    np.testing.assert_allclose(made, kernel / kernel.sum())

    for make, fixed in (
        (random_bivariate_generalized_Gaussian, bivariate_generalized_Gaussian),
        (random_bivariate_plateau, bivariate_plateau),
    ):
        sides = set()
        for seed in range(8):
            drawn = np.random.RandomState(seed)
            sigma_x = drawn.uniform(0.5, 3)
            below = drawn.uniform() < 0.5
            beta = drawn.uniform(0.4, 1) if below else drawn.uniform(1, 4)
            made = seeded(make, 7, *ranges, (0.4, 4), seed=seed)
            np.testing.assert_allclose(made, fixed(7, sigma_x, sigma_x, 0, beta))
            sides.add(below)
        assert sides == {True, False}


@pytest.mark.parametrize('family', FAMILIES)
def test_families_of_mixed_kernels(family):
    make = {'iso': random_bivariate_Gaussian, 'aniso': random_bivariate_Gaussian}.get(family)
    beta = ()
    if make is None:
        plateau = family.startswith('plateau')
        make = random_bivariate_plateau if plateau else random_bivariate_generalized_Gaussian
        beta = ((1, 2),) if plateau else ((0.5, 4),)
    noise = None if family.startswith('plateau') else (0.75, 1.25)
    ranges = ((0.6, 5), (0.7, 4), (-math.pi, math.pi))
    expected = seeded(make, 21, *ranges, *beta, noise_range=noise, isotropic='aniso' not in family)
    options = {'sigma_y_range': (0.7, 4), 'betag_range': (0.5, 4), 'betap_range': (1, 2), 'noise_range': (0.75, 1.25)}
    np.testing.assert_array_equal(seeded(random_mixed_kernels, [family], [1], **options), expected)


def test_mixed_kernels_are_mixed_by_their_chances():
    made = [seeded(random_mixed_kernels, FAMILIES, [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], 9, seed=seed)
            for seed in range(40)]  # fmt: skip
    round_ones = sum(np.allclose(kernel, kernel.T) and np.allclose(kernel, kernel[::-1]) for kernel in made)
    assert 20 <= round_ones <= 37, 'seven tenths of them should be isotropic'
    for kernel in made:
        assert kernel.shape == (9, 9) and kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    only = seeded(random_mixed_kernels, ['aniso', 'iso'], [0, 1], 9)
    np.testing.assert_allclose(only, only.T)


@pytest.mark.parametrize('cutoff', [math.pi / 3, 2.2, math.pi])
def test_sinc_filter(cutoff):
    kernel = circular_lowpass_kernel(cutoff, 13)
    assert kernel.shape == (13, 13) and kernel.sum() == pytest.approx(1)
    for row, column in ((6, 7), (0, 0), (3, 11)):
        radius = math.hypot(row - 6, column - 6)
        ratio = cutoff * special.j1(cutoff * radius) / (2 * math.pi * radius) / (cutoff**2 / (4 * math.pi))
        assert kernel[row, column] / kernel[6, 6] == pytest.approx(ratio, abs=1e-12)
        # Its definition: the inverse Fourier transform of a disc of radius `cutoff`, 2 pi J0 being the ring's.
        ring = integrate.quad(lambda f, r=radius: f * special.j0(f * r), 0, cutoff)[0]
        assert ratio == pytest.approx(ring / (cutoff**2 / 2), abs=1e-8)


def test_sinc_filter_is_padded():
    padded = circular_lowpass_kernel(2, 7, pad_to=21)
    assert padded.shape == (21, 21)
    np.testing.assert_array_equal(padded[7:14, 7:14], circular_lowpass_kernel(2, 7))
    assert np.count_nonzero(padded) == np.count_nonzero(padded[7:14, 7:14])
    assert circular_lowpass_kernel(2, 7, pad_to=5).shape == (7, 7)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: random_mixed_kernels(['iso'], [1], 20), 'kernel_size must be odd.*it is 20'),
        (lambda: circular_lowpass_kernel(2, 8), 'kernel_size must be odd.*it is 8'),
        (lambda: random_mixed_kernels(['iso'], [1], sigma_x_range=(3, 1)), 'sigma_x_range must go .* not 3 to 1'),
        (lambda: random_bivariate_Gaussian(7, (1, 2), (2, 2), (0, 1), isotropic=False), 'sigma_y_range must go'),
        (lambda: random_bivariate_Gaussian(7, (1, 2), (1, 2), (1, 0), isotropic=False), 'rotation_range must go'),
        (lambda: random_bivariate_Gaussian(7, (1, 2), (1, 2), (0, 1), (1, 1)), 'noise_range must go'),
        (lambda: random_mixed_kernels(['box'], [1]), "kernel_list: there is no kernel 'box'; choose from iso, aniso"),
    ],
)
def test_kernels_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Noise


def test_gaussian_noise(photo):
    noise = seeded(generate_gaussian_noise, photo, 25)
    assert noise.shape == photo.shape and noise.dtype == np.float32
    np.testing.assert_allclose(noise, np.random.RandomState(4).randn(*photo.shape) * 25 / 255, rtol=1e-5, atol=1e-8)
    assert noise.std() * 255 == pytest.approx(25, rel=0.02)
    grey = seeded(generate_gaussian_noise, photo, 25, gray_noise=True)
    assert grey.shape == photo.shape and (grey == grey[..., :1]).all()
    np.testing.assert_allclose(grey[..., 0], np.random.RandomState(4).randn(128, 128) * 25 / 255, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize('name', ['gaussian', 'poisson'])
@pytest.mark.parametrize('gray_noise', [False, True])
def test_clipping_and_rounding(photo, name, gray_noise):
    generate, add = {
        'gaussian': (generate_gaussian_noise, add_gaussian_noise),
        'poisson': (generate_poisson_noise, add_poisson_noise),
    }[name]
    strength = {'gaussian': 60, 'poisson': 3.0}[name]
    free = photo + seeded(generate, photo, strength, gray_noise=gray_noise)
    assert free.min() < 0 and free.max() > 1
    levels = (free * 255).round() / 255
    for clip, rounds, expected in (
        (False, False, free), (True, False, free.clip(0, 1)), (False, True, levels), (True, True, levels.clip(0, 1)),
    ):  # fmt: skip
        out = seeded(add, photo, strength, clip, rounds, gray_noise)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_array_equal(seeded(add, photo, strength), seeded(add, photo, strength, True, False, False))


def test_poisson_noise_counts_photons():
    # Sixteen brightnesses that are there: 16 photons are white. Three: 4 photons.
    for levels, photons in ((np.arange(16) * 17, 16), (np.array([0, 51, 204]), 4)):
        img = np.repeat(levels, 3 * 40000 // len(levels) + 3)[: 3 * 39999].reshape(-1, 3, 3).astype(np.float32) / 255
        noise = seeded(generate_poisson_noise, img)
        assert noise.dtype == np.float32
        counts = (img + noise) * photons
        np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
        for level in np.unique(img):
            here = noise[img == level]
            assert here.mean() == pytest.approx(0, abs=5 * math.sqrt(level / photons / here.size) + 1e-6)
            assert here.var() == pytest.approx(level / photons, rel=0.1)
    half = seeded(generate_poisson_noise, img, 0.5)
    np.testing.assert_allclose(half, noise * 0.5)


def test_grey_poisson_noise_is_that_of_the_grey_picture(photo):
    noise = seeded(generate_poisson_noise, photo, gray_noise=True)
    assert noise.shape == photo.shape and (noise == noise[..., :1]).all()
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    alone = seeded(generate_poisson_noise, grey[..., None])
    np.testing.assert_allclose(noise[..., :1], alone)


@pytest.mark.parametrize(
    'generate, add, fixed, limits',
    [
        (random_generate_gaussian_noise, random_add_gaussian_noise, generate_gaussian_noise, (5, 30)),
        (random_generate_poisson_noise, random_add_poisson_noise, generate_poisson_noise, (0.5, 3)),
    ],
)
def test_random_strengths(photo, generate, add, fixed, limits):
    kinds = set()
    for seed in range(8):
        np.random.seed(seed)
        strength, grey = np.random.uniform(*limits), bool(np.random.uniform() < 0.4)
        expected = fixed(photo, strength, grey)
        np.testing.assert_array_equal(seeded(generate, photo, limits, 0.4, seed=seed), expected)
        out = seeded(add, photo, limits, 0.4, True, True, seed=seed)
        np.testing.assert_allclose(out, ((photo + expected) * 255).round().clip(0, 255) / 255, atol=1e-6)
        kinds.add(grey)
    assert kinds == {True, False}


# Noise of batches


def test_gaussian_noise_of_batches(batch):
    noise = seeded(generate_gaussian_noise_pt, batch, torch.tensor([10.0, 40.0]))
    assert noise.shape == batch.shape and noise.dtype == batch.dtype
    assert (noise * 255).std((1, 2, 3)).tolist() == pytest.approx([10, 40], rel=0.03)
    torch.testing.assert_close(
        seeded(generate_gaussian_noise_pt, batch, 10), noise / noise.new_tensor([1, 4]).view(-1, 1, 1, 1)
    )
    mixed = seeded(generate_gaussian_noise_pt, batch, torch.tensor([10.0, 40.0]), torch.tensor([1.0, 0.0]))
    assert torch.equal(mixed[0], mixed[0, :1].expand_as(mixed[0])) and not torch.equal(mixed[1, 0], mixed[1, 1])
    assert (mixed * 255).std((1, 2, 3)).tolist() == pytest.approx([10, 40], rel=0.03)
    torch.manual_seed(4)
    pattern = torch.randn(128, 128)
    torch.testing.assert_close(mixed[0, 1], pattern * 10 / 255)
    both = seeded(generate_gaussian_noise_pt, batch, 10, 1)
    assert torch.equal(both[0], both[1]), 'one pattern for the batch'
    double = generate_gaussian_noise_pt(batch.double(), 10)
    assert double.dtype == torch.float64


@pytest.mark.parametrize('name', ['gaussian', 'poisson'])
def test_clipping_and_rounding_of_batches(batch, name):
    if name == 'gaussian':
        free = batch + seeded(generate_gaussian_noise_pt, batch, 60)
        made = [seeded(add_gaussian_noise_pt, batch, 60, 0, clip, rounds) for clip in (0, 1) for rounds in (0, 1)]
    else:
        free = batch + seeded(generate_poisson_noise_pt, batch, 3.0)
        made = [seeded(add_poisson_noise_pt, batch, 3.0, clip, rounds) for clip in (0, 1) for rounds in (0, 1)]
    assert free.min() < 0 and free.max() > 1
    levels = (free * 255).round() / 255
    for out, expected in zip(made, (free, levels, free.clamp(0, 1), levels.clamp(0, 1)), strict=True):
        torch.testing.assert_close(out, expected)


def test_poisson_noise_of_batches_counts_photons_picture_by_picture():
    levels = torch.arange(16) * 17
    fine = levels.repeat_interleave(3 * 2500).view(3, 200, 200)[:, torch.randperm(200)] / 255
    coarse = torch.tensor([0, 51, 204]).repeat_interleave(40000).view(3, 200, 200) / 255
    batch = torch.stack([fine, coarse])
    noise = seeded(generate_poisson_noise_pt, batch)
    for img, its_noise, photons in zip(batch, noise, (16, 4), strict=True):
        counts = (img + its_noise) * photons
        torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
        for level in img.unique():
            assert its_noise[img == level].var().item() == pytest.approx(level.item() / photons, rel=0.1, abs=1e-9)
    scaled = seeded(generate_poisson_noise_pt, batch, torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(scaled, noise * noise.new_tensor([0.5, 2.0]).view(-1, 1, 1, 1))


def test_grey_poisson_noise_of_batches(batch):
    mixed = seeded(generate_poisson_noise_pt, batch, 1.0, torch.tensor([1.0, 0.0]))
    assert torch.equal(mixed[0], mixed[0, :1].expand_as(mixed[0])) and not torch.equal(mixed[1, 0], mixed[1, 1])
    # Rec. 601 luma, which has up to 256 values.
    grey = (batch[0] * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    photons = 2 ** math.ceil(math.log2(len((grey * 255).round().unique())))
    counts = ((grey * 255).round() / 255 + mixed[0, 0]) * photons
    close = (counts - counts.round()).abs() < 1e-3
    assert close.float().mean() > 0.98, 'but where 0.2989 for 0.299 makes another of 256 levels'
    everywhere = seeded(generate_poisson_noise_pt, batch, 1.0, 1)
    assert torch.equal(everywhere[0], mixed[0])


@pytest.mark.parametrize(
    'generate, add, fixed, limits',
    [
        (random_generate_gaussian_noise_pt, random_add_gaussian_noise_pt, generate_gaussian_noise_pt, (5, 30)),
        (random_generate_poisson_noise_pt, random_add_poisson_noise_pt, generate_poisson_noise_pt, (0.5, 3)),
    ],
)
def test_random_strengths_of_batches(batch, generate, add, fixed, limits):
    kinds = set()
    for seed in range(6):
        torch.manual_seed(seed)
        strength = torch.rand(2) * (limits[1] - limits[0]) + limits[0]
        grey = (torch.rand(2) < 0.4).float()
        expected = fixed(batch, strength, grey)
        assert torch.equal(seeded(generate, batch, limits, 0.4, seed=seed), expected)
        out = seeded(add, batch, limits, 0.4, True, True, seed=seed)
        torch.testing.assert_close(out, ((batch + expected) * 255).round().clamp(0, 255) / 255)
        kinds |= set(grey.tolist())
    assert kinds == {0.0, 1.0}


# JPEG


@pytest.mark.parametrize('quality', [10, 50, 90])
def test_jpeg_is_opencvs(photo, quality):
    levels = np.rint(photo * 255).astype(np.uint8)
    decoded = cv2.imdecode(cv2.imencode('.jpg', levels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    out = add_jpg_compression(photo, quality)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, decoded.astype(np.float32) / 255)
    np.testing.assert_array_equal(
        add_jpg_compression(photo * 3 - 1, quality), add_jpg_compression((photo * 3 - 1).clip(0, 1), quality)
    )


def test_jpeg_of_random_quality(photo):
    for seed in range(4):
        quality = np.random.RandomState(seed).uniform(30, 95)
        out = seeded(random_add_jpg_compression, photo, (30, 95), seed=seed)
        np.testing.assert_array_equal(out, add_jpg_compression(photo, math.floor(quality)))
    assert np.abs(add_jpg_compression(photo) - photo).mean() < np.abs(add_jpg_compression(photo, 30) - photo).mean()
