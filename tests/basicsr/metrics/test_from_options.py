"""Metrics as option files choose them: each that there is works, and one that cannot is told before a run."""

import math
import sys
import types

import cv2
import numpy as np
import pytest
import torch
import yaml
from skimage import data as photographs

from basicsr.check import check_pipeline
from basicsr.metrics import calculate_psnr, calculate_ssim, check_size, is_of_classes, perceptual
from basicsr.results.scores import Results
from basicsr.test import test_pipeline as run_test
from basicsr.utils.registry import METRIC_REGISTRY
from tests.small_run import command_line, write_picture

OWN = sorted(
    name
    for name, kind in METRIC_REGISTRY
    if kind.__module__.startswith('basicsr.metrics') and not is_of_classes({'type': name})
)
"""Those of pictures."""


class Difference(torch.nn.Module):
    """In place of pyiqa's networks, whose weights are downloaded."""

    def forward(self, first, second):
        if min(first.shape[-2:]) < 16:
            raise RuntimeError('Calculated padded input size per channel: (1 x 1). Kernel size: (3 x 3)')
        return (first - second).abs().mean((1, 2, 3))


@pytest.fixture
def pyiqa(monkeypatch):
    module = types.ModuleType('pyiqa')
    module.create_metric = lambda name, device, **options: Difference()
    monkeypatch.setitem(sys.modules, 'pyiqa', module)
    perceptual._model.cache_clear()
    yield module
    perceptual._model.cache_clear()


def write_options(folder, metrics, sizes):
    """Options of a test of interpolation x2 on crops of a photograph; `sizes` by picture, of gt."""
    photograph = photographs.astronaut()[..., ::-1]
    for name, (height, width) in sizes.items():
        gt = np.ascontiguousarray(photograph[100 : 100 + height, 60 : 60 + width])
        write_picture(folder / 'gt' / f'{name}.png', gt)
        lq = cv2.resize(gt, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        write_picture(folder / 'lq' / f'{name}.png', lq)
    opt = {
        **{'name': 'all', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0, 'path': {'output_root': str(folder)}},
        'network_g': {'type': 'Bicubic', 'upscale': 2},
        'datasets': {'test_1': {'type': 'PairedImageDataset', 'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}},
        'val': {'metrics': metrics, 'save_img': True},
    }
    (folder / 'options.yml').write_text(yaml.safe_dump(opt))
    np.savez(folder / 'pristine.npz', mu_pris_param=np.zeros((1, 36)), cov_pris_param=np.eye(36))
    return command_line(folder / 'options.yml')


def section(name, **arguments):
    more = {'params': 'pristine.npz'} if name == 'calculate_niqe' else {}
    return {'type': name, 'crop_border': 2, **more, **arguments}


def test_every_metric_that_is_offered_works_from_an_option_file(tmp_path, pyiqa):
    assert len(OWN) == 7
    sizes = {'large': (240, 260), 'wide': (120, 300)}
    arguments = write_options(tmp_path, {name: section(name) for name in OWN}, sizes)
    check_pipeline(str(tmp_path), arguments, False)
    run_test(str(tmp_path), arguments)
    scores = Results.load(tmp_path / 'results' / 'all').scores['all']['test_1']
    assert sorted(scores) == sorted(sizes)
    for name, values in scores.items():
        assert sorted(values) == OWN and all(math.isfinite(value) for value in values.values())
        gt = cv2.imread(str(tmp_path / 'gt' / f'{name}.png'))
        made = cv2.imread(str(tmp_path / 'results' / 'all' / 'visualization' / 'test_1' / f'{name}_all.png'))
        psnr, ssim = calculate_psnr(made, gt, 2), calculate_ssim(made, gt, 2)
        assert values['calculate_psnr'] == pytest.approx(psnr) and 15 < psnr < 60
        assert values['calculate_psnr_pt'] == pytest.approx(psnr, rel=1e-4), '1e-8 is added to the error'
        assert values['calculate_ssim'] == pytest.approx(ssim) and 0.5 < ssim < 1
        assert values['calculate_ssim_pt'] == pytest.approx(ssim, rel=1e-6)
        inner = (slice(2, -2), slice(2, -2))
        distance = np.abs(made[inner].astype(float) - gt[inner]).mean() / 255
        assert values['calculate_lpips'] == pytest.approx(distance, rel=1e-5) == values['calculate_dists']


@pytest.mark.parametrize('name', OWN)
def test_a_picture_that_is_too_small_is_named_before_the_run(tmp_path, pyiqa, name):
    """NIQE takes the narrow one, which has the shorter side, and not the square one."""
    small, border = ((150, 150), 2) if name == 'calculate_niqe' else ((24, 40), 12)
    if name in ('calculate_lpips', 'calculate_dists'):
        border = 5
    if 'ssim' in name:
        border = 7
    sizes = {'fine': (240, 260), 'narrow': (102, 300), 'small': small}
    arguments = write_options(tmp_path, {'m': section(name, crop_border=border)}, sizes)
    with pytest.raises(ValueError) as checked:
        check_pipeline(str(tmp_path), arguments, False)
    with pytest.raises(ValueError) as ran:
        run_test(str(tmp_path), arguments)
    assert not (tmp_path / 'results').exists()
    needed = {'niqe': 'two blocks of 96x96', 'psnr': 'crop_border 12 does not fit', 'ssim': 'at least 11x11'}
    needed |= dict.fromkeys(('lpips', 'dists'), 'does not take 14x30 pixels')
    for error in (checked, ran):
        text = str(error.value)
        assert 'val.metrics.m: ' in text and 'small.png' in text and 'datasets.test_1' in text and 'fine' not in text
        assert needed[name.split('_')[1]] in text
        assert f'{small[0] - 2 * border}x{small[1] - 2 * border}' in text or f'{small[0]}x{small[1]}' in text


def test_sizes_are_looked_at_with_the_metrics_own_rule():
    for type_, border, size, fits in (
        *(('calculate_psnr', 4, (9, 9), True), ('calculate_psnr', 4, (8, 9), False)),
        *(('calculate_ssim', 4, (19, 19), True), ('calculate_ssim', 4, (18, 30), False)),
        *(('calculate_niqe', 4, (104, 200), True), ('calculate_niqe', 4, (199, 199), False)),
    ):
        opt = {'type': type_, 'crop_border': border}
        if fits:
            check_size(*size, opt)
        else:
            with pytest.raises(ValueError, match=r'crop_border 4|at least 11x11|two blocks'):
                check_size(*size, opt)
