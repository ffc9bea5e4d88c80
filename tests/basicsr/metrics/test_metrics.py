import json
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.metrics import (
    calculate_metric,
    calculate_psnr,
    calculate_psnr_pt,
    calculate_ssim,
    calculate_ssim_pt,
)
from basicsr.metrics.metric_util import reorder_image, to_y_channel

GOLDEN = Path(__file__).parents[2] / 'golden'
EXPECTED = json.loads((GOLDEN / 'framework.json').read_text())['metrics']
CASES = [(kind, border, luma) for kind in ('psnr', 'ssim') for border in (0, 4) for luma in (False, True)]


@pytest.fixture(scope='module')
def pictures():
    with np.load(GOLDEN / 'framework.npz') as arrays:
        return arrays['img1'], arrays['img2']


def expected(kind, border, luma):
    return EXPECTED[f'{kind} crop_border={border} test_y_channel={luma}']


def batch(*pictures):
    """RGB in [0, 1], (n, 3, h, w)."""
    return torch.from_numpy(np.stack(pictures)[..., ::-1].transpose(0, 3, 1, 2).copy()).double() / 255


@pytest.mark.parametrize('kind, border, luma', CASES)
def test_pictures_give_the_golden_values(pictures, kind, border, luma):
    function = {'psnr': calculate_psnr, 'ssim': calculate_ssim}[kind]
    value = function(*pictures, border, test_y_channel=luma)
    assert isinstance(value, float)
    assert value == pytest.approx(expected(kind, border, luma), rel=1e-6)
    channels_first = [picture.transpose(2, 0, 1) for picture in pictures]
    assert function(*channels_first, border, input_order='CHW', test_y_channel=luma) == value


@pytest.mark.parametrize('kind, border, luma', CASES)
def test_batches_give_the_golden_values_for_each_pair(pictures, kind, border, luma):
    img1, img2 = pictures
    function = {'psnr': calculate_psnr_pt, 'ssim': calculate_ssim_pt}[kind]
    value = function(batch(img1, img2), batch(img2, img2), border, test_y_channel=luma)
    # PSNR has 1e-8 added to the error, which shows at 1e-6 already.
    assert value.tolist() == pytest.approx([expected(kind, border, luma), {'psnr': 80, 'ssim': 1}[kind]], rel=1e-5)


def test_equal_pictures(pictures):
    assert calculate_psnr(pictures[0], pictures[0], 0) == float('inf')
    assert calculate_ssim(pictures[0], pictures[0], 0) == pytest.approx(1)


def test_grey_pictures_count_as_luma(pictures):
    first, second = (picture[..., 0] for picture in pictures)
    plain = calculate_psnr(first, second, 2)
    error = ((first[2:-2, 2:-2].astype(float) - second[2:-2, 2:-2]) ** 2).mean()
    assert plain == pytest.approx(10 * np.log10(255**2 / error))
    assert calculate_psnr(first, second, 2, test_y_channel=True) == pytest.approx(plain)


def test_the_options_choose_the_metric_and_stay_as_they_are(pictures):
    opt = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True, 'better': 'higher'}
    before = dict(opt)
    value = calculate_metric({'img': pictures[0], 'img2': pictures[1]}, opt)
    assert value == pytest.approx(expected('psnr', 4, True))
    assert opt == before
    with pytest.raises(KeyError, match="'calculate_psnrr'; did you mean 'calculate_psnr'"):
        calculate_metric({}, {'type': 'calculate_psnrr'})
    with pytest.raises(ValueError, match='needs `type`'):
        calculate_metric({}, {'crop_border': 4})


@pytest.mark.parametrize('function', [calculate_psnr, calculate_ssim])
def test_wrong_pictures_are_errors(pictures, function):
    first, second = pictures
    with pytest.raises(ValueError, match=r'\(72, 95, 3\) and \(71, 95, 3\)'):
        function(first, second[1:], 0)
    with pytest.raises(ValueError, match='crop_border 36 does not fit a picture of 72x95'):
        function(first, second, 36)
    with pytest.raises(ValueError, match="not 'WHC'"):
        function(first, second, 0, input_order='WHC')


def test_wrong_batches_are_errors(pictures):
    first, second = batch(pictures[0]), batch(pictures[1])
    with pytest.raises(ValueError, match=r'not \(n, c, h, w\) of one shape'):
        calculate_psnr_pt(first, second[..., 1:], 0)
    with pytest.raises(ValueError, match='crop_border 36'):
        calculate_psnr_pt(first, second, 36)
    with pytest.raises(ValueError, match='at least 11x11'):
        calculate_ssim_pt(first, second, 31)
    with pytest.raises(ValueError, match='at least 11x11 pixels after cropping, not 10x33'):
        calculate_ssim(*pictures, 31)


def test_metric_util():
    assert reorder_image(np.zeros((3, 4))).shape == (3, 4, 1)
    assert reorder_image(np.zeros((3, 4, 5)), 'CHW').shape == (4, 5, 3)
    white = np.full((2, 2, 3), 255, np.uint8)
    luma = to_y_channel(white)
    assert luma.shape == (2, 2, 1) and luma.dtype == np.float32
    np.testing.assert_allclose(luma, 235, rtol=1e-6)
