"""Filters and sharpening, against OpenCV, on real pictures."""

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from basicsr.utils import USMSharp, usm_sharp
from basicsr.utils.img_process_util import filter2D


@pytest.fixture(scope='module')
def photos():
    """Two pictures, (60, 90, 3), float32 in [0, 1]."""
    return [getattr(data, name)()[50:110, 100:190].astype(np.float32) / 255 for name in ('astronaut', 'coffee')]


def as_tensor(*pictures):
    return torch.stack([torch.from_numpy(img.transpose(2, 0, 1).copy()) for img in pictures])


def filtered(img, kernel):
    """OpenCV's, with the border that torch calls reflect."""
    out = cv2.filter2D(img, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return torch.from_numpy(out.transpose(2, 0, 1).copy())


@pytest.mark.parametrize('size', [1, 5, 21])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_filter2d_is_opencvs(photos, size, layout):
    kernels = np.random.default_rng(0).random((2, size, size)).astype(np.float32)
    kernels /= kernels.sum((1, 2), keepdims=True)
    batch = as_tensor(*photos).contiguous(memory_format=layout)
    own = filter2D(batch, torch.from_numpy(kernels))
    shared = filter2D(batch, torch.from_numpy(kernels[:1]))
    for index, img in enumerate(photos):
        torch.testing.assert_close(own[index], filtered(img, kernels[index]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(shared[index], filtered(img, kernels[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'shape, kernel, message',
    [
        ((2, 3, 9, 9), (2, 4, 4), 'must be odd.*it is 4'),
        ((2, 3, 9, 9), (3, 3, 3), 'there are 3 kernels for 2 pictures'),
        ((2, 3, 9, 5), (1, 11, 11), 'pictures of 9x5 are too small to be mirrored for a kernel of 11x11'),
    ],
)
def test_filters_that_cannot_be(shape, kernel, message):
    with pytest.raises(ValueError, match=message):
        filter2D(torch.zeros(shape), torch.ones(kernel))


def test_unsharp_masking_by_hand():
    """A step of 100 levels: sharpened where it is, left alone where nothing is."""
    img = np.full((41, 61), 0.3, np.float32)
    img[:, 30:] += 100 / 255
    line = cv2.getGaussianKernel(9, 0)[:, 0]
    low, high = 0.3, 0.3 + 100 / 255
    share = line[5:].sum()  # of the window that reaches over the step from the pixel before it
    blurred = np.array([low + share * (high - low), high - share * (high - low)])
    residual = np.array([low, high]) - blurred
    out = usm_sharp(img, weight=0.8, radius=8, threshold=0)
    mask = cv2.GaussianBlur((np.abs(img - cv2.GaussianBlur(img, (9, 9), 0)) > 0).astype(np.float32), (9, 9), 0)
    np.testing.assert_allclose(out[20, 29:31] - img[20, 29:31], mask[20, 29:31] * 0.8 * residual, atol=1e-5)
    np.testing.assert_allclose(out[:, :15], img[:, :15], atol=1e-6)
    np.testing.assert_array_equal(usm_sharp(img, 0.8, 8, threshold=101), img)
    assert out.dtype == np.float32
    strong = usm_sharp(img, weight=20.0, radius=8, threshold=0)
    assert strong.min() >= 0 and strong.max() <= 1, 'sharpened pixels are clipped'


@pytest.mark.parametrize('options', [{}, {'weight': 1.5, 'threshold': 2}])
@pytest.mark.parametrize('radius', [20, 21])
def test_the_module_does_what_the_function_does(photos, radius, options):
    sharpener = USMSharp(radius=radius)
    assert sharpener.radius == 21 and sharpener.kernel.shape == (1, 21, 21)
    assert sharpener.kernel.sum().item() == pytest.approx(1, abs=1e-5)
    out = sharpener(as_tensor(*photos), **options)
    expected = as_tensor(*(usm_sharp(img, radius=radius, **options) for img in photos))
    # A pixel whose difference is at the threshold may fall to either side.
    assert ((out - expected).abs() < 2e-3).float().mean() > 0.999
    assert (out - as_tensor(*photos)).abs().max() > 0.02
    assert out.min() >= 0 and out.max() <= 1


def test_sigma_of_the_module():
    line = cv2.getGaussianKernel(11, 1.3)
    np.testing.assert_allclose(USMSharp(11, sigma=1.3).kernel[0].numpy(), line @ line.T, rtol=1e-5)
    assert USMSharp().kernel.shape == (1, 51, 51)
    assert list(USMSharp().state_dict()) == ['kernel']
