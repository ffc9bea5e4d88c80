from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.utils import color_util
from basicsr.utils.matlab_functions import bgr2ycbcr, imresize, rgb2ycbcr, ycbcr2bgr, ycbcr2rgb

GOLDEN = Path(__file__).parents[2] / 'golden'


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN / 'framework.npz') as arrays:
        return dict(arrays)


@pytest.mark.parametrize('scale, key', [(1 / 4, '0.2500'), (1 / 2, '0.5000'), (1 / 3, '0.3333'), (2, '2.0000')])
def test_imresize_gives_the_golden_pictures(golden, scale, key):
    resized = imresize(golden['imresize_input'], scale)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, golden[f'imresize {key}'], atol=2e-6, rtol=0)


@pytest.mark.parametrize('scale', [1 / 3, 1.7])
def test_all_layouts_agree_and_sizes_are_rounded_up(golden, scale):
    img = golden['imresize_input']
    resized = imresize(img, scale)
    assert resized.shape == (int(np.ceil(72 * scale)), int(np.ceil(95 * scale)), 3)
    tensor = imresize(torch.from_numpy(img).permute(2, 0, 1), scale)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), resized)
    np.testing.assert_allclose(imresize(img[..., 1], scale), resized[..., 1], atol=1e-6)
    np.testing.assert_allclose(imresize(torch.from_numpy(img[..., 1]), scale).numpy(), resized[..., 1], atol=1e-6)
    assert imresize(img.astype(np.float64), scale).dtype == np.float32


def test_kernel_reproduces_what_it_must():
    flat = np.full((7, 9), 0.3, np.float32)
    for scale in (0.2, 0.37, 3, 3.3):
        np.testing.assert_allclose(imresize(flat, scale), 0.3, atol=1e-6)
    noise = np.random.default_rng(0).random((6, 5), dtype=np.float32)
    np.testing.assert_allclose(imresize(noise, 1), noise, atol=1e-6)
    # Cubic convolution is exact for straight lines, away from the borders.
    line = np.arange(20, dtype=np.float32)[None].repeat(20, 0)
    np.testing.assert_allclose(imresize(line, 2)[10, 6:-6], (np.arange(40)[6:-6] + 0.5) / 2 - 0.5, atol=1e-5)


def test_antialiasing_widens_the_kernel_only_when_shrinking():
    noise = np.random.default_rng(0).random((6, 5), dtype=np.float32)
    np.testing.assert_array_equal(imresize(noise, 2), imresize(noise, 2, antialiasing=False))
    # The centres lie at 1.5, 5.5, 9.5, ...; the kernel reaches 2 pixels from them, widened 8.
    impulse = np.zeros((1, 24), np.float32)
    impulse[0, 3] = 1
    assert np.count_nonzero(imresize(impulse, 0.25, antialiasing=False)) == 1
    assert np.count_nonzero(imresize(impulse, 0.25)) == 3


def test_tiny_pictures_are_mirrored_as_often_as_needed():
    row = np.array([[0.0, 1.0]], np.float32)
    np.testing.assert_allclose(imresize(row, 0.5), 0.5, atol=1e-6)
    assert imresize(np.ones((1, 1), np.float32), 0.1).item() == pytest.approx(1)


def test_wrong_input_to_imresize():
    with pytest.raises(ValueError, match='floats in \\[0, 1\\], not uint8'):
        imresize(np.zeros((4, 4), np.uint8), 2)
    with pytest.raises(ValueError, match='scale above 0, not 0'):
        imresize(np.zeros((4, 4), np.float32), 0)
    with pytest.raises(ValueError, match=r'not the shape \(1, 3, 4, 4\)'):
        imresize(torch.zeros(1, 3, 4, 4), 2)


def test_luma_gives_the_golden_picture(golden):
    img = golden['imresize_input']
    luma = bgr2ycbcr(img, y_only=True)
    assert luma.dtype == np.float32
    np.testing.assert_allclose(luma, golden['bgr2ycbcr_y'], atol=1e-6)
    np.testing.assert_allclose(bgr2ycbcr(img)[..., 0], luma, atol=1e-6)
    np.testing.assert_allclose(rgb2ycbcr(img[..., ::-1]), bgr2ycbcr(img), atol=1e-6)


def test_known_colours():
    # RGB black, white, red, green, blue, as MATLAB's rgb2ycbcr gives them.
    rgb = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    ycbcr = np.array([[[16, 128, 128], [235, 128, 128], [81, 90, 240], [145, 54, 34], [41, 240, 110]]], np.uint8)
    np.testing.assert_array_equal(rgb2ycbcr(rgb), ycbcr)
    np.testing.assert_array_equal(bgr2ycbcr(rgb[..., ::-1]), ycbcr)
    assert np.abs(ycbcr2rgb(ycbcr).astype(int) - rgb).max() <= 1


def test_ycbcr_and_back(golden):
    img = golden['imresize_input']
    np.testing.assert_allclose(ycbcr2rgb(rgb2ycbcr(img)), img, atol=1e-5)
    np.testing.assert_allclose(ycbcr2bgr(bgr2ycbcr(img)), img, atol=1e-5)
    back = ycbcr2bgr(bgr2ycbcr(golden['img1']))
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - golden['img1']).max() <= 2


def test_tensors_give_what_pictures_give(golden):
    img = golden['imresize_input']
    batch = torch.from_numpy(img).permute(2, 0, 1)[None]
    np.testing.assert_allclose(color_util.rgb2ycbcr_pt(batch)[0].permute(1, 2, 0), rgb2ycbcr(img), atol=1e-6)
    luma = color_util.rgb2ycbcr_pt(batch, y_only=True)
    assert luma.shape == (1, 1, 72, 95)
    np.testing.assert_allclose(luma[0, 0], rgb2ycbcr(img, y_only=True), atol=1e-6)
    with pytest.raises(ValueError, match=r'\(n, 3, h, w\)'):
        color_util.rgb2ycbcr_pt(batch[0])


def test_wrong_input_to_colour_conversion():
    with pytest.raises(TypeError, match='not float64'):
        rgb2ycbcr(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match=r'not \(2, 2\)'):
        bgr2ycbcr(np.zeros((2, 2), np.uint8))
