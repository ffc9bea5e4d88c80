from dataclasses import replace

import cv2
import numpy as np
import pytest

from basicsr.data.archives import camera_simulation as simulation

PLAIN = simulation.Camera(
    'plain', blur=(1.5, 1.5), angle=0, defocus=0, lateral_colour=1.0, decentring=(0.0, 0.0), exposure=1.0, shot=0,
    read=0, mosaic=False, white_balance=(1.0, 1.0, 1.0), saturation=1.0, gamma=1.0, contrast=0, denoise=0, sharpen=0,
    jpeg=100,
)  # fmt: skip


@pytest.fixture
def scene() -> np.ndarray:
    """Smooth detail in one tint: JPEG halves the resolution of colour."""
    smooth = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((128, 160)).astype(np.float32), (0, 0), 4)
    return simulation.to_uint8((0.5 + 0.15 * smooth / smooth.std())[..., None] * np.float32([0.8, 1.0, 0.9]))


def test_encoding_is_inverted():
    values = np.linspace(0, 1, 1001, dtype=np.float32)
    assert np.allclose(simulation.to_encoded(simulation.to_linear(values)), values, atol=1e-6)
    assert simulation.to_linear(np.float32([0.5]))[0] == pytest.approx(0.214041, abs=1e-6)


def test_a_plain_camera_keeps_the_scene(scene):
    hr, lr = simulation.photograph_scene(scene, PLAIN, 'a')
    assert np.array_equal(hr, scene)
    expected = cv2.resize(scene, (40, 32), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(lr[2:-2, 2:-2] - expected[2:-2, 2:-2]).mean() < 5


def test_point_spread_has_the_asked_moments():
    kernel = simulation.point_spread(replace(PLAIN, blur=(3.0, 1.5), angle=90, defocus=2.0))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    # A disc of radius r has variance r^2 / 4 along each axis.
    assert (kernel * y**2).sum() == pytest.approx(9 + 1, rel=0.1)
    assert (kernel * x**2).sum() == pytest.approx(2.25 + 1, rel=0.1)


@pytest.mark.parametrize('mosaic', [False, True])
def test_noise_has_the_asked_strength(mosaic):
    camera = replace(PLAIN, shot=1e-3, read=0.01, mosaic=mosaic)
    scene = np.full((800, 800, 3), 0.25, np.float32)
    raw = simulation.expose(scene, camera, np.random.default_rng(0))
    sites = {False: 1, True: 4}[mosaic]
    spread = np.sqrt((1e-3 * 0.25 + 0.01**2) / sites)
    assert raw.mean() == pytest.approx(0.25, abs=1e-3)
    assert raw[..., 1].std() == pytest.approx(spread, rel=0.35 if mosaic else 0.03)


def test_mosaic_keeps_colours_in_place():
    scene = np.zeros((64, 64, 3), np.float32)
    scene[:] = (0.1, 0.4, 0.7)
    raw = simulation.expose(scene, replace(PLAIN, mosaic=True), np.random.default_rng(0))
    assert raw.shape == (16, 16, 3)
    assert np.allclose(raw, scene[:16, :16], atol=1e-3)


def test_lateral_colour_moves_red_and_blue_apart():
    scene = np.zeros((128, 128, 3), np.float32)
    scene[60:68, 100:108] = 1
    raw = simulation.expose(scene, replace(PLAIN, lateral_colour=1.05), np.random.default_rng(0))
    centre = [(raw[..., c].sum(axis=0) * np.arange(32)).sum() / raw[..., c].sum() for c in range(3)]
    # Blue, green and red: 40 px right of the middle, magnified by 5 %, is half an LR pixel.
    assert centre[1] - centre[0] == pytest.approx(0.5, abs=0.05)
    assert centre[2] - centre[1] == pytest.approx(0.5, abs=0.05)


def test_development_is_monotonic_and_in_range():
    raw = np.repeat(np.linspace(0, 1, 512, dtype=np.float32)[:, None], 3, axis=1)[None]
    camera = replace(PLAIN, contrast=0.9, gamma=0.8, white_balance=(1.3, 1.0, 0.7), saturation=1.5)
    developed = simulation.develop(raw, camera)
    assert developed.min() == 0 and developed.max() == 1
    assert (np.diff(developed[0, :, 1]) >= -1e-6).all()


def test_noise_is_drawn_from_the_seed(scene):
    noisy = replace(PLAIN, shot=1e-3)
    first, again, other = (simulation.photograph_scene(scene, noisy, seed)[1] for seed in ('a', 'a', 'b'))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize('bad', [np.zeros((64, 66, 3), np.uint8), np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3))])
def test_bad_scenes_are_refused(bad):
    with pytest.raises(ValueError, match='multiples of 4, not'):
        simulation.photograph_scene(bad, PLAIN, 'a')
