"""JPEG of tensors, against the files that OpenCV writes, on real pictures."""

import cv2
import numpy as np
import pytest
import torch
from skimage import data

from basicsr.utils import DiffJPEG
from basicsr.utils.diffjpeg import diff_round, quality_to_factor


def photo(name, height, width):
    """(h, w, 3), RGB uint8."""
    return np.ascontiguousarray(getattr(data, name)()[40 : 40 + height, 60 : 60 + width])


def as_tensor(*pictures):
    return torch.stack([torch.from_numpy(img.transpose(2, 0, 1).copy()).float() / 255 for img in pictures])


def as_picture(tensor):
    return tensor.permute(1, 2, 0).numpy() * 255


def from_file(img, quality, turned=False):
    """`img` after OpenCV has written and read it, (h, w, 3) in [0, 255].

    `turned` writes it with rows for columns. The table of luma is then used as `DiffJPEG`, like BasicSR, uses it.
    """
    img = img.swapaxes(0, 1) if turned else img
    content = cv2.imencode('.jpg', np.ascontiguousarray(img[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    out = cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    return out.swapaxes(0, 1) if turned else out


def distance(first, second):
    return np.abs(first - second).mean()


@pytest.mark.parametrize('name', ['astronaut', 'coffee', 'chelsea'])
@pytest.mark.parametrize('quality', [10, 30, 50, 75, 90, 95])
def test_near_to_files(name, quality):
    img = photo(name, 208, 320)
    out = as_picture(DiffJPEG(differentiable=False)(as_tensor(img), quality)[0])
    lost = distance(from_file(img, quality), img)
    assert distance(out, img) == pytest.approx(lost, rel=0.15), 'it loses as much as a file does'
    assert distance(out, from_file(img, quality)) < 0.9 * lost and distance(out, from_file(img, quality)) < 4.5
    # But for the table's turn, chroma is what differs: libjpeg interpolates it.
    assert distance(out, from_file(img, quality, turned=True)) < 2.5


@pytest.mark.parametrize('quality', [25, 50])
def test_grey_pictures_are_those_of_files(quality):
    """Without chroma, and where factors of 2 and 1 leave the tables integers, blocks differ by their last rounding.

    But for those with a coefficient halfway between two steps, which libjpeg's integers round to the other side.
    """
    img = np.repeat(data.camera()[100:228, 150:310, None], 3, axis=2)
    out = as_picture(DiffJPEG(differentiable=False)(as_tensor(img), quality)[0])
    difference = np.abs(out - from_file(img, quality, turned=True))[..., 0]
    by_block = difference.reshape(16, 8, 20, 8).max((1, 3))
    assert (by_block < 1).mean() > 0.9 and np.median(by_block) < 0.75
    assert difference.max() < 20 and distance(img, from_file(img, quality)) > 3


def test_other_sizes_are_padded_with_black():
    img = photo('chelsea', 50, 77)
    padded = np.pad(img, ((0, 14), (0, 3), (0, 0)))
    jpeg = DiffJPEG(differentiable=False)
    out = jpeg(as_tensor(img), 50)
    assert out.shape == (1, 3, 50, 77)
    torch.testing.assert_close(out, jpeg(as_tensor(padded), 50)[..., :50, :77])
    assert distance(as_picture(out[0]), from_file(padded, 50)[:50, :77]) < 4


@pytest.mark.parametrize('differentiable', [True, False])
def test_each_picture_has_its_quality(differentiable):
    jpeg = DiffJPEG(differentiable=differentiable)
    batch = as_tensor(photo('chelsea', 48, 64), photo('coffee', 48, 64))
    qualities = torch.tensor([20.0, 80.0])
    out = jpeg(batch, qualities)
    assert qualities.tolist() == [20, 80], 'left as they were'
    for index, quality in enumerate((20, 80)):
        torch.testing.assert_close(out[index : index + 1], jpeg(batch[index : index + 1], quality), atol=1e-5, rtol=0)
    assert out.min() >= 0 and out.max() <= 1
    assert not list(jpeg.parameters()) and not jpeg.state_dict()


@pytest.mark.parametrize('quality', [5, 50, 95, 100])
def test_gradients(quality):
    x = as_tensor(photo('coffee', 40, 56)).requires_grad_()
    target = x.detach().flip(-1)
    (DiffJPEG()(x, quality) - target).square().mean().backward()
    assert x.grad.isfinite().all()
    assert (x.grad.abs() > 0).float().mean() > 0.9
    before = (DiffJPEG()(x.detach(), quality) - target).square().mean()
    step = x.detach() - 1e-2 * x.grad / x.grad.norm()
    assert (DiffJPEG()(step, quality) - target).square().mean() < before, 'they point uphill'


def test_quality_100_is_nearly_lossless():
    """Halving chroma loses what is lost."""
    img = np.repeat(data.camera()[100:164, 150:214, None], 3, axis=2)
    out = as_picture(DiffJPEG(differentiable=False)(as_tensor(img), 100)[0])
    assert np.abs(out - img).max() < 0.1


def test_soft_rounding():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    out = diff_round(x)
    assert (out - x.detach().round()).abs().max() <= 0.125
    out.sum().backward()
    torch.testing.assert_close(x.grad, 3 * (x.detach() - x.detach().round()) ** 2)


def test_factors_are_those_of_libjpeg():
    """Its `jpeg_quality_scaling`, in percent: 5000 / q, and 200 - 2 q from 50 on."""
    expected = {1: 50, 10: 5, 25: 2, 50: 1, 75: 0.5, 100: 0}
    for quality, factor in expected.items():
        assert quality_to_factor(quality) == pytest.approx(factor)
    assert quality_to_factor(torch.tensor(list(expected))).tolist() == pytest.approx(list(expected.values()))


@pytest.mark.parametrize(
    'quality, message',
    [
        (0, 'above 0 and at most 100, not 0'),
        (101, 'above 0 and at most 100, not 101'),
        (torch.tensor([50.0, -1.0]), 'above 0 and at most 100, not tensor'),
        (torch.tensor([50.0, 60.0, 70.0]), 'there are 3 qualities for 2 pictures'),
    ],
)
def test_qualities_that_cannot_be(quality, message):
    with pytest.raises(ValueError, match=message):
        DiffJPEG()(torch.zeros(2, 3, 16, 16), quality)
