"""Denoising, compression artefacts, and picture files of every kind, read from files that the tests write."""

import logging

import cv2
import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import build_model


def pixels(height, width, seed=0, channels=3):
    """Smooth, so that JPEG has something to keep."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, channels)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """gt: three colour pictures of 40x48; ready: the same, darker."""
    folder = tmp_path_factory.mktemp('tasks')
    for index in range(3):
        for name, factor in (('gt', 1.0), ('ready', 0.5)):
            (folder / name).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / name / f'{index}.png'), (pixels(40, 48, index) * factor).astype(np.uint8))
    return folder


def section(root, **changes):
    opt = {
        **{'name': 'Tiny', 'type': 'PairedImageDataset', 'phase': 'train', 'scale': 1, 'gt_size': 32},
        **{'task': 'denoising_color', 'noise': 25, 'dataroot_gt': str(root / 'gt')},
        **{'batch_size_per_gpu': 3, 'num_worker_per_gpu': 0, 'use_hflip': True, 'use_rot': True},
    }
    return {key: value for key, value in {**opt, **changes}.items() if value is not ...}


def batches(root, **changes):
    opt = section(root, **changes)
    dataset = build_dataset(opt)
    loader = build_dataloader(dataset, opt, 0, sampler=EnlargedSampler(dataset, 1, 0, ratio=2), seed=5)
    return [(batch['lq'], batch['gt']) for batch in loader]


def same(first, second):
    return all(torch.equal(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize('task, channels', [('denoising_color', 3), ('denoising_gray', 1)])
def test_training_noise_has_the_sigma_asked_for_and_is_the_samples_own(root, task, channels):
    alone = batches(root, task=task)
    noise = torch.cat([lq - gt for lq, gt in alone])
    assert noise.shape == (6, channels, 32, 32) and noise.dtype == torch.float32
    assert noise.std().item() * 255 == pytest.approx(25, rel=0.03) and abs(noise.mean().item() * 255) < 1
    assert len({patch.numpy().tobytes() for patch in noise}) == 6
    assert same(alone, batches(root, task=task, num_worker_per_gpu=2))
    assert same(alone, batches(root, task=task, dataroot_lq=str(root / 'gt')))
    assert all(gt.min() >= 0 and gt.max() <= 1 for _, gt in alone)


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_noise_in_tests_is_that_of_seed_0_for_each_picture(root, phase):
    dataset = build_dataset(section(root, phase=phase, gt_size=...))
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    for index in (1, 0):
        item = dataset[index]
        gt = pixels(40, 48, index).astype(np.float32) / 255
        expected = gt + np.random.RandomState(0).normal(0, 25 / 255, gt.shape)
        np.testing.assert_allclose(item['gt'].numpy()[::-1].transpose(1, 2, 0), gt, atol=1e-6)
        np.testing.assert_allclose(item['lq'].numpy()[::-1].transpose(1, 2, 0), expected, atol=1e-6)
        assert item['lq_path'] == item['gt_path'] == str(root / 'gt' / f'{index}.png')
    assert np.random.get_state()[1].tolist() == before


def test_compression_artefacts(root):
    item = build_dataset(section(root, task='CAR', noise=10, phase='val'))[0]
    grey = cv2.imread(str(root / 'gt' / '0.png'), cv2.IMREAD_GRAYSCALE)
    decoded = cv2.imdecode(cv2.imencode('.jpg', grey, [cv2.IMWRITE_JPEG_QUALITY, 10])[1], cv2.IMREAD_GRAYSCALE)
    np.testing.assert_allclose(item['gt'][0].numpy() * 255, grey, atol=1e-4)
    np.testing.assert_allclose(item['lq'][0].numpy() * 255, decoded, atol=1e-4)
    better = build_dataset(section(root, task='CAR', noise=90, phase='val'))[0]
    assert (better['lq'] - better['gt']).abs().mean() < 0.5 * (item['lq'] - item['gt']).abs().mean()
    alone = batches(root, task='CAR', noise=10)
    assert same(alone, batches(root, task='CAR', noise=10, num_worker_per_gpu=2))
    assert all(lq.shape == gt.shape == (3, 1, 32, 32) and not torch.equal(lq, gt) for lq, gt in alone)


@pytest.mark.parametrize(
    'task, noise, reads', [('CAR', 40, True), ('CAR', ..., True), ('denoising_color', ..., True),
                           ('denoising_gray', 25, False)],
)  # fmt: skip
def test_ready_made_pictures(root, caplog, task, noise, reads):
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    try:
        opt = section(root, task=task, noise=noise, phase='val', dataroot_lq=str(root / 'ready'))
        item = build_dataset(opt)[1]
    finally:
        logger.removeHandler(caplog.handler)
    assert item['lq'].shape == item['gt'].shape and len(item['gt']) == (3 if task == 'denoising_color' else 1)
    assert item['lq_path'] == str(root / ('ready' if reads else 'gt') / '1.png')
    assert (item['lq'].mean() / item['gt'].mean() < 0.6) == reads
    assert ('is not read: leave noise out to read it' in caplog.text) == (not reads)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'noise': ...}, 'noise: missing; task denoising_color makes lq of gt with it'),
        ({'noise': -1}, 'noise: must be above 0 and at most 255 in task denoising_color, not -1'),
        ({'noise': 'strong'}, "noise: must be above 0 and at most 255 in task denoising_color, not 'strong'"),
        (
            {'task': 'CAR', 'noise': 101},
            'noise: is the JPEG quality of task CAR: a whole number from 1 to 100, not 101',
        ),
        ({'task': 'CAR', 'noise': 9.5}, 'a whole number from 1 to 100, not 9.5'),
        ({'scale': 2}, 'task: denoising_color keeps the size of pictures: scale must be 1, not 2'),
        ({'task': 'SR', 'dataroot_lq': 'x'}, 'noise: has no meaning in task SR: 25'),
        ({'task': 'SR', 'noise': ...}, 'dataroot_lq: missing; task SR reads it'),
        ({'task': 'denoising_gray', 'color': 'y'}, 'color: y does not go with task denoising_gray'),
        ({'dataroot_gt': ...}, 'needs the option dataroot_gt'),
    ],
)
def test_mistakes(root, changes, message):
    with pytest.raises(ValueError, match=message):
        build_dataset(section(root, **changes))


def test_the_quality_of_jpeg_may_be_a_float_that_is_whole(root):
    """As the schema of option files gives it."""
    items = [build_dataset(section(root, task='CAR', noise=noise, phase='val'))[0]['lq'] for noise in (10, 10.0)]
    assert torch.equal(*items)


def test_meta_info_chooses_pictures_of_gt_alone(root, tmp_path):
    (tmp_path / 'list.txt').write_text('2.png (40,48,3)\n')
    dataset = build_dataset(section(root, meta_info_file=str(tmp_path / 'list.txt'), phase='val'))
    assert [dataset[index]['gt_path'] for index in range(len(dataset))] == [str(root / 'gt' / '2.png')]


@pytest.mark.parametrize('task', ['denoising_gray', 'CAR'])
def test_grey_pictures_are_validated_and_written(root, tmp_path, task):
    data = section(root, phase='val', task=task)
    metrics = {name: {'type': f'calculate_{name}', 'crop_border': 0, 'test_y_channel': luma} for name, luma in
               (('psnr', False), ('ssim', True))}  # fmt: skip
    opt = {
        **{'name': 'grey', 'model_type': 'SRModel', 'scale': 1, 'num_gpu': 0, 'is_train': False, 'dist': False},
        **{'rank': 0, 'network_g': {'type': 'Bicubic', 'upscale': 1}, 'val': {'metrics': metrics}},
        'path': {'visualization': str(tmp_path)},
    }
    model = build_model(opt)
    model.validation(build_dataloader(build_dataset(data), data, 0), 'now', None, save_img=True)
    # The network changes nothing, so that the measure is that of lq.
    item = build_dataset(data)[0]
    lq, gt = ((item[key][0].clamp(0, 1) * 255).round() for key in ('lq', 'gt'))
    psnr = 10 * torch.log10(255**2 / (lq - gt).square().mean())
    assert model.image_results[0][1]['psnr'] == pytest.approx(psnr.item(), abs=1e-3)
    assert 0.1 < model.metric_results['ssim'] < 1
    written = cv2.imread(str(tmp_path / 'Tiny' / '0_grey.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, lq.numpy())


# Picture files of every kind


def random(dtype, *shape):
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


FILES = {
    'grey8': random(np.uint8, 40, 48),
    'grey16': random(np.uint16, 40, 48),
    'rgb16': random(np.uint16, 40, 48, 3),
    'rgba8': random(np.uint8, 40, 48, 4),
    'rgba16': random(np.uint16, 40, 48, 4),
}


@pytest.mark.parametrize('kind', FILES)
@pytest.mark.parametrize('task', ['SR', 'denoising_color', 'denoising_gray', 'CAR'])
def test_deep_transparent_and_grey_files(tmp_path, kind, task):
    (tmp_path / 'gt').mkdir()
    stored = FILES[kind]
    cv2.imwrite(str(tmp_path / 'gt' / 'a.png'), stored)
    changes = {'noise': ..., 'dataroot_lq': str(tmp_path / 'gt')} if task == 'SR' else {}
    item = build_dataset(section(tmp_path, task=task, phase='val', **changes))[0]
    unit = stored.astype(np.float64) / np.iinfo(stored.dtype).max
    colour = np.repeat(unit[..., None], 3, 2) if unit.ndim == 2 else unit[..., :3]  # alpha is dropped
    if task in ('SR', 'denoising_color'):
        assert item['lq'].shape == (3, 40, 48)
        np.testing.assert_allclose(item['gt'].numpy()[::-1].transpose(1, 2, 0), colour, atol=1e-6)
    else:
        assert item['lq'].shape == (1, 40, 48)
        grey = colour @ [0.114, 0.587, 0.299]
        np.testing.assert_allclose(item['gt'][0].numpy(), grey, atol=1e-6 if stored.ndim == 2 else 0.004)
    single = build_dataset({'type': 'SingleImageDataset', 'dataroot_lq': str(tmp_path / 'gt'), 'task': task})[0]
    assert torch.equal(single['lq'], item['gt'])
