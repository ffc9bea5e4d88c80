import sys
import types

import numpy as np
import pytest
import torch

from basicsr.metrics import better_is, calculate_metric, needs_ground_truth, perceptual
from basicsr.options.check import check_section
from basicsr.options.schema import Val

RNG = np.random.default_rng(0)
IMG, IMG2 = (RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(2))


class Weighted(torch.nn.Module):
    """A metric with pyiqa's interface: the mean difference, red counting 100 times as much as green, blue nothing."""

    def forward(self, target, ref):
        for batch in (target, ref):
            assert batch.ndim == 4 and batch.shape[1] == 3 and batch.min() >= 0 and batch.max() <= 1
        weights = torch.tensor([100.0, 1.0, 0.0]).view(1, 3, 1, 1)
        return ((target - ref).abs() * weights).mean((1, 2, 3), keepdim=True)


@pytest.fixture
def pyiqa(monkeypatch):
    """A stand-in for the package; `made` lists what was asked of it."""
    module = types.ModuleType('pyiqa')
    module.made = []

    def create_metric(name, device, **options):
        module.made.append((name, str(device), options))
        return Weighted()

    module.create_metric = create_metric
    monkeypatch.setitem(sys.modules, 'pyiqa', module)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    perceptual._model.cache_clear()
    yield module
    perceptual._model.cache_clear()


def expected(img, img2):
    blue, green, red = (np.abs(img / 255 - img2 / 255)).mean((0, 1))
    return (100 * red + green + 0 * blue) / 3


def test_pictures_reach_pyiqa_as_it_takes_them(pyiqa):
    lpips = {'type': 'calculate_lpips', 'crop_border': 4, 'better': 'lower'}
    value = calculate_metric({'img': IMG, 'img2': IMG2}, lpips)
    assert value == pytest.approx(expected(IMG[4:-4, 4:-4], IMG2[4:-4, 4:-4]), rel=1e-5)
    first, second = (img.transpose(2, 0, 1) for img in (IMG, IMG2))
    assert calculate_metric({'img': first, 'img2': second}, {**lpips, 'input_order': 'CHW'}) == value
    grey = calculate_metric({'img': IMG[..., 0], 'img2': IMG2[..., 0]}, {'type': 'calculate_dists', 'crop_border': 0})
    assert grey == pytest.approx(expected(*(np.repeat(img[..., :1], 3, 2) for img in (IMG, IMG2))), rel=1e-5)
    # Each network is made once.
    assert pyiqa.made == [('lpips', 'cpu', {'net': 'alex'}), ('dists', 'cpu', {})]


def test_lower_is_better_and_both_need_the_truth():
    for name in ('calculate_lpips', 'calculate_dists'):
        assert better_is({'type': name}) == 'lower'
        assert needs_ground_truth({'type': name})


def test_mistakes_are_found_before_a_run(pyiqa, monkeypatch):
    with pytest.raises(ValueError, match=r'\(20, 24, 3\) and \(19, 24, 3\)'):
        calculate_metric({'img': IMG, 'img2': IMG2[1:]}, {'type': 'calculate_dists', 'crop_border': 0})
    metrics = {'lpips': {'type': 'calculate_lpips', 'crop_border': 4, 'net': 'resnet'}}
    with pytest.raises(ValueError, match=r"val\.metrics\.lpips\.net: .*squeeze.*'resnet'"):
        check_section(Val, {'metrics': metrics}, 'val')

    def offline(name, device, **options):
        raise OSError('<urlopen error>')

    pyiqa.create_metric = offline
    perceptual._model.cache_clear()
    metrics = {'lpips': {'type': 'calculate_lpips', 'crop_border': 4}}
    with pytest.raises(
        ValueError, match=r'val\.metrics\.lpips\.type: pyiqa cannot get the weights of LPIPS .*copy .*hub'
    ):
        check_section(Val, {'metrics': metrics}, 'val')
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    with pytest.raises(
        ValueError, match=r'val\.metrics\.lpips\.type: LPIPS needs the package pyiqa.*pip install pyiqa'
    ):
        check_section(Val, {'metrics': metrics}, 'val')
    with pytest.raises(ImportError, match='DISTS needs the package pyiqa'):
        calculate_metric({'img': IMG, 'img2': IMG2}, {'type': 'calculate_dists', 'crop_border': 0})
