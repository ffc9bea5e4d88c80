import random
import re
from itertools import chain

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.data_util import (
    paired_paths_from_folder,
    paired_paths_from_meta_info_file,
    paths_from_folder,
    scandir,
)
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher, PrefetchDataLoader
from basicsr.data.transforms import augment, img_rotate, mod_crop, paired_random_crop
from basicsr.utils.color_util import bgr2ycbcr

KEYS = ['lq', 'gt']


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'')
    return str(folder)


def stems(pairs):
    return [tuple(pair[f'{key}_path'].rsplit('/', 1)[1] for key in KEYS) for pair in pairs]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path):
    """Three pairs: gt 24x32, lq 12x16, each lq pixel the top left one of the four in gt."""
    for index in range(3):
        gt = noise(24, 32, index)
        for folder, img in (('gt', gt), ('lq', gt[::2, ::2])):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f'{index}.png'), img)
    return tmp_path


def section(root, **changes):
    opt = {
        'name': 'Tiny',
        'type': 'PairedImageDataset',
        'phase': 'train',
        'scale': 2,
        'gt_size': 8,
        'dataroot_gt': str(root / 'gt'),
        'dataroot_lq': str(root / 'lq'),
        'use_hflip': False,
        'use_rot': False,
        'io_backend': {'type': 'disk'},
        'batch_size_per_gpu': 2,
        'num_worker_per_gpu': 0,
    }
    return {key: value for key, value in {**opt, **changes}.items() if value is not ...}


# Finding files


def test_scandir(tmp_path):
    touch(tmp_path, 'b.png', 'a.txt', '.hidden.png', 'sub/c.png', '.cache/d.png')
    assert list(scandir(tmp_path)) == ['a.txt', 'b.png']
    assert list(scandir(tmp_path, suffix=('.png', '.jpg'), recursive=True)) == ['b.png', 'sub/c.png']
    full = list(scandir(tmp_path, '.png', recursive=True, full_path=True))
    assert full == [str(tmp_path / 'b.png'), str(tmp_path / 'sub' / 'c.png')]


def test_only_pictures_count(tmp_path):
    folder = touch(tmp_path, 'b.PNG', 'a.jpeg', 'Thumbs.db', 'notes.txt')
    assert paths_from_folder(folder) == [f'{folder}/a.jpeg', f'{folder}/b.PNG']


@pytest.mark.parametrize('template, lq', [('{}', '{}.png'), ('{}x4', '{}x4.png'), ('{}', '{}.jpg')])
def test_pairs(tmp_path, template, lq):
    gt_folder = touch(tmp_path / 'gt', 'b.png', 'a.png', 'Thumbs.db')
    lq_folder = touch(tmp_path / 'lq', lq.format('a'), lq.format('b'), 'list.txt')
    pairs = paired_paths_from_folder([lq_folder, gt_folder], KEYS, template)
    assert pairs[0] == {'lq_path': f'{lq_folder}/{lq.format("a")}', 'gt_path': f'{gt_folder}/a.png'}
    assert stems(pairs) == [(lq.format('a'), 'a.png'), (lq.format('b'), 'b.png')]


def test_the_exact_name_goes_before_another_extension(tmp_path):
    names = ['a.jpg', 'a.png']
    folders = [touch(tmp_path / 'lq', *names), touch(tmp_path / 'gt', *names)]
    assert stems(paired_paths_from_folder(folders, KEYS)) == [('a.jpg', 'a.jpg'), ('a.png', 'a.png')]


def test_pictures_without_a_partner_are_errors(tmp_path):
    gt = touch(tmp_path / 'gt', *(f'{index}.png' for index in range(9)))
    lq = touch(tmp_path / 'lq', '0.png', 'extra.png')
    with pytest.raises(ValueError) as caught:
        paired_paths_from_folder([lq, gt], KEYS)
    message = str(caught.value)
    assert f"8 files of dataroot_gt '{gt}' without a partner: 1.png, 2.png, 3.png, 4.png, 5.png, …" in message
    assert f"1 files of dataroot_lq '{lq}' without a partner: extra.png" in message
    assert '6.png' not in message
    with pytest.raises(ValueError, match=r"it expects '0x4\.png'"):
        paired_paths_from_folder([lq, gt], KEYS, '{}x4')
    for template in ('x4', '{name}', '{'):
        with pytest.raises(ValueError, match=r'filename_tmpl .* has no place for the name'):
            paired_paths_from_folder([lq, gt], KEYS, template)


def test_missing_and_empty_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gt, empty = touch(tmp_path / 'gt', 'a.png'), touch(tmp_path / 'empty', 'a.txt')
    absolute = re.escape(str(tmp_path / 'absent'))
    with pytest.raises(FileNotFoundError, match=f"dataroot_lq: there is no folder 'absent' .*{absolute}"):
        paired_paths_from_folder(['absent', gt], KEYS)
    with pytest.raises(FileNotFoundError, match='dataroot_gt'):
        paired_paths_from_meta_info_file([gt, 'absent'], KEYS, 'list.txt', '{}')
    with pytest.raises(ValueError, match=f"dataroot_gt: no image file is in '{re.escape(empty)}'"):
        paired_paths_from_folder([gt, empty], KEYS)


def test_meta_info(tmp_path):
    gt = touch(tmp_path / 'gt', 'a.png', 'b.png', 'sub/c.png', 'd.png')
    lq = touch(tmp_path / 'lq', 'ax2.png', 'bx2.jpg', 'cx2.png')
    listing = tmp_path / 'list.txt'
    listing.write_text('b.png (480,480,3)\n\na.png\nsub/c.png 1\n')
    pairs = paired_paths_from_meta_info_file([lq, gt], KEYS, listing, '{}x2')
    assert stems(pairs) == [('bx2.jpg', 'b.png'), ('ax2.png', 'a.png'), ('cx2.png', 'c.png')]
    assert pairs[2]['gt_path'] == f'{gt}/sub/c.png'

    listing.write_text('a.png\n\nd.png\nz.png\n')
    with pytest.raises(FileNotFoundError) as caught:
        paired_paths_from_meta_info_file([lq, gt], KEYS, listing, '{}x2')
    message = str(caught.value)
    assert f'line 3: {lq}/dx2.png (dataroot_lq)' in message
    assert f'line 4: {gt}/z.png (dataroot_gt)' in message
    assert 'line 1' not in message
    listing.write_text('\n')
    with pytest.raises(ValueError, match='names no files'):
        paired_paths_from_meta_info_file([lq, gt], KEYS, listing, '{}')
    with pytest.raises(FileNotFoundError, match='meta_info_file: there is no file'):
        paired_paths_from_meta_info_file([lq, gt], KEYS, tmp_path / 'absent.txt', '{}')


# Transforms


def test_mod_crop():
    img = noise(7, 9)
    cropped = mod_crop(img, 4)
    np.testing.assert_array_equal(cropped, img[:4, :8])
    cropped[:] = 0
    assert img[:4, :8].any()
    assert mod_crop(img[..., 0], 3).shape == (6, 9)
    with pytest.raises(ValueError, match='mod_crop'):
        mod_crop(img[0, 0], 2)


def test_crops_of_a_pair_show_the_same_place():
    gt = noise(24, 32)
    lq = gt[::2, ::2]
    corners = set()
    for _ in range(40):
        gt_patch, lq_patch = paired_random_crop(gt, lq, 8, 2)
        assert gt_patch.shape == (8, 8, 3)
        np.testing.assert_array_equal(gt_patch[::2, ::2], lq_patch)
        corners.add(gt_patch[0, 0].tobytes())
    assert len(corners) > 10
    chw = [torch.from_numpy(img.transpose(2, 0, 1).copy())[None] for img in (gt, lq)]
    gts, lqs = paired_random_crop([chw[0]] * 2, [chw[1]], 8, 2)
    assert gts[0].shape == (1, 3, 8, 8) and torch.equal(gts[0], gts[1])
    assert torch.equal(gts[0][..., ::2, ::2], lqs)


def test_crops_that_cannot_be():
    with pytest.raises(ValueError, match=r'gt 24x31, lq 12x16 .* scale 2, gt_path a\.png'):
        paired_random_crop(noise(24, 31), noise(12, 16), 8, 2, 'a.png')
    with pytest.raises(ValueError, match=r'smaller than the patch; lower gt_size 26: .*gt_path a\.png'):
        paired_random_crop(noise(24, 32), noise(12, 16), 26, 2, 'a.png')
    assert paired_random_crop(noise(24, 32), noise(12, 16), 24, 2)[1].shape == (12, 12, 3)


def test_augment_gives_the_eight_symmetries_to_all_alike():
    img, before = noise(4, 4), noise(4, 4)
    seen = set()
    for _ in range(200):
        (first, second), (hflip, vflip, rot90) = augment([img, img[..., 0]], return_status=True)
        expected = img[:, ::-1] if hflip else img
        expected = expected[::-1] if vflip else expected
        expected = expected.transpose(1, 0, 2) if rot90 else expected
        np.testing.assert_array_equal(first, expected)
        np.testing.assert_array_equal(second, expected[..., 0])
        seen.add(first.tobytes())
    assert len(seen) == 8
    np.testing.assert_array_equal(img, before)
    np.testing.assert_array_equal(augment(img, hflip=False, rotation=False), img)
    only_flips = {augment(img, rotation=False).tobytes() for _ in range(50)}
    assert only_flips == {img.tobytes(), np.ascontiguousarray(img[:, ::-1]).tobytes()}


def test_flows_turn_with_the_picture():
    # Each pixel of the picture holds its own position, each vector of the flow points to the centre.
    y, x = np.mgrid[-2:3, -2:3]
    img, flow = np.dstack([x, y]), -np.dstack([x, y]).astype(np.float32)
    for _ in range(30):
        _, turned = augment(img, flows=flow)
        np.testing.assert_array_equal(turned, flow)


def test_img_rotate():
    img = noise(5, 5)
    np.testing.assert_array_equal(img_rotate(img, 90), np.rot90(img))
    np.testing.assert_array_equal(img_rotate(img, 180, center=(2, 2)), img[::-1, ::-1])


# Datasets


def test_training_pairs(pictures):
    opt = section(pictures, use_hflip=True, use_rot=True)
    dataset = build_dataset(opt)
    assert dataset.opt == opt and dataset.opt['io_backend'] is not opt['io_backend']
    item = dataset[1]
    assert set(item) == {'lq', 'gt', 'lq_path', 'gt_path'}
    assert item['gt_path'] == str(pictures / 'gt' / '1.png')
    assert item['gt'].dtype == torch.float32 and item['gt'].shape == (3, 8, 8) and item['lq'].shape == (3, 4, 4)
    assert item['lq'].min() >= 0 and item['lq'].max() <= 1
    plain = build_dataset(section(pictures))
    random.seed(0)
    first = plain[1]
    random.seed(0)
    assert torch.equal(first['gt'], plain[1]['gt'])
    assert torch.equal(first['gt'][:, ::2, ::2], first['lq'])


def test_validation_pairs_are_whole_and_rgb(pictures):
    item = build_dataset(section(pictures, phase='val', gt_size=..., color=None))[2]
    expected = noise(24, 32, 2)[..., ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(item['gt'].numpy(), expected, atol=1e-7)
    np.testing.assert_allclose(item['lq'].numpy(), expected[:, ::2, ::2], atol=1e-7)


@pytest.mark.parametrize('phase', ['train', 'val'])
def test_luma(pictures, phase):
    item = build_dataset(section(pictures, phase=phase, color='y', gt_size=24))[0]
    assert item['gt'].shape[0] == item['lq'].shape[0] == 1
    if phase == 'val':
        luma = bgr2ycbcr(noise(24, 32).astype(np.float32) / 255, y_only=True)
        np.testing.assert_allclose(item['gt'][0].numpy(), luma, atol=1e-6)


def test_normalisation(pictures):
    mean, std = [0.1, 0.2, 0.3], [2, 4, 5]
    plain = build_dataset(section(pictures, phase='val'))[0]
    normed = build_dataset(section(pictures, phase='val', mean=mean, std=std))[0]
    for key in KEYS:
        expected = (plain[key] - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(normed[key], expected)


def test_a_remainder_of_gt_is_cut_in_validation_only(pictures):
    cv2.imwrite(str(pictures / 'gt' / '0.png'), noise(25, 33))
    item = build_dataset(section(pictures, phase='val'))[0]
    np.testing.assert_allclose(item['gt'].numpy()[::-1].transpose(1, 2, 0), noise(25, 33)[:24, :32] / 255, atol=1e-7)
    with pytest.raises(ValueError, match=r'gt .*0\.png of 25x33 is not scale 2 times lq .*0\.png of 12x16'):
        build_dataset(section(pictures))[0]


@pytest.mark.parametrize('size', [(26, 32), (24, 34), (23, 32), (48, 64)])
def test_sizes_that_do_not_fit_the_scale(pictures, size):
    cv2.imwrite(str(pictures / 'gt' / '0.png'), noise(*size))
    with pytest.raises(ValueError, match=rf'gt .*0\.png of {size[0]}x{size[1]} is not scale 2 times lq'):
        build_dataset(section(pictures, phase='test'))[0]


def test_broken_pictures_are_named(pictures):
    (pictures / 'lq' / '1.png').write_bytes((pictures / 'gt' / '1.png').read_bytes()[:100])
    (pictures / 'gt' / '2.png').write_bytes(b'')
    dataset = build_dataset(section(pictures))
    with pytest.raises(ValueError, match=r"dataroot_lq: cannot read the picture '.*/lq/1\.png': 100 bytes"):
        dataset[1]
    with pytest.raises(ValueError, match=r"dataroot_gt: cannot read the picture '.*/gt/2\.png': 0 bytes"):
        dataset[2]


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'gt_size': 9}, 'gt_size: must be a multiple of scale 2, not 9'),
        ({'gt_size': ...}, 'PairedImageDataset: gt_size: missing; training needs it'),
        ({'dataroot_gt': ...}, 'PairedImageDataset needs the option dataroot_gt'),
        ({'scale': None}, 'PairedImageDataset needs the option scale'),
        ({'use_hflp': True}, "PairedImageDataset takes no option 'use_hflp'; did you mean 'use_hflip'"),
        ({'task': 'deblurring'}, "task: must be one of SR, denoising_color, denoising_gray, CAR, not 'deblurring'"),
        ({'color': 'gray'}, "color: must be y or rgb, not 'gray'"),
        ({'mean': [0, 0, 0]}, 'std: missing; mean and std belong together'),
        ({'io_backend': {'type': 'memcached'}}, "'memcached' is not supported; it is disk or lmdb"),
        ({'type': ...}, 'needs `type`, one of .*DomainFolderDataset, .*PairedImageDataset, .*SingleImageDataset'),
    ],
)
def test_wrong_options(pictures, changes, message):
    with pytest.raises(ValueError, match=message):
        build_dataset(section(pictures, **changes))


@pytest.mark.parametrize('key', ['meta_info_file', 'meta_info'])
@pytest.mark.parametrize('kind', ['PairedImageDataset', 'SingleImageDataset'])
def test_datasets_take_a_list_of_names(pictures, key, kind):
    (pictures / 'list.txt').write_text('2.png (24,32,3)\n0.png\n')
    opt = section(pictures, type=kind, **{key: str(pictures / 'list.txt')})
    if kind == 'SingleImageDataset':
        opt = {name: opt[name] for name in ('type', 'name', 'phase', 'scale', 'dataroot_lq', 'batch_size_per_gpu', key)}
    dataset = build_dataset(opt)
    assert [dataset[index]['lq_path'] for index in range(len(dataset))] == [
        str(pictures / 'lq' / '2.png'),
        str(pictures / 'lq' / '0.png'),
    ]


def test_single_images(pictures):
    opt = {'type': 'SingleImageDataset', 'dataroot_lq': str(pictures / 'lq'), 'phase': 'test'}
    dataset = build_dataset(opt)
    assert len(dataset) == 3 and set(dataset[0]) == {'lq', 'lq_path'}
    expected = noise(24, 32)[::2, ::2, ::-1].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(dataset[0]['lq'].numpy(), expected, atol=1e-7)
    normed = build_dataset({**opt, 'color': 'y', 'mean': [0.5], 'std': [2]})[0]['lq']
    assert normed.shape == (1, 12, 16) and normed.max() < 0.25
    (pictures / 'list.txt').write_text('0.png\n7.png\n')
    with pytest.raises(FileNotFoundError, match=r'line 2: .*7\.png'):
        build_dataset({**opt, 'meta_info_file': str(pictures / 'list.txt')})


# Samplers and loaders


class Numbers(Dataset):
    """Gives index, Python's and NumPy's next random number, as a batch's dictionary."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {'index': index, 'python': random.random(), 'numpy': np.random.rand()}


def test_enlarged_sampler_shares_a_permutation():
    samplers = [EnlargedSampler(range(5), 2, rank, ratio=3) for rank in range(2)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers] == [8, 8]
    counts = np.bincount(shares[0] + shares[1])
    assert len(counts) == 5 and set(counts) <= {3, 4}
    assert list(samplers[0]) == shares[0] != list(range(8))
    samplers[0].set_epoch(1)
    assert list(samplers[0]) != shares[0]
    samplers[0].set_epoch(0)
    assert list(samplers[0]) == shares[0]
    generator = torch.Generator().manual_seed(0)
    assert shares[1] == [index % 5 for index in torch.randperm(16, generator=generator).tolist()[1::2]]
    assert len(EnlargedSampler(range(10), 1, 0, ratio=0.5)) == 5
    with pytest.raises(ValueError, match='empty dataset'):
        EnlargedSampler([], 1, 0)
    with pytest.raises(ValueError, match='dataset_enlarge_ratio must be above 0, not 0'):
        EnlargedSampler(range(3), 1, 0, ratio=0)


TRAIN = {'phase': 'train', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}


def indices(loader):
    return [batch['index'].tolist() for batch in loader]


def test_training_loader_drops_the_rest_and_shuffles():
    loader = build_dataloader(Numbers(21), TRAIN)
    order = list(chain(*indices(loader)))
    assert len(loader) == 10 and len(set(order)) == 20 and sorted(order) != order
    ordered = build_dataloader(Numbers(5), {**TRAIN, 'use_shuffle': False})
    assert indices(ordered) == [[0, 1], [2, 3]]
    sampled = build_dataloader(Numbers(5), {**TRAIN, 'use_shuffle': True}, sampler=EnlargedSampler(range(5), 1, 0))
    assert list(chain(*indices(sampled))) == list(EnlargedSampler(range(5), 1, 0))[:4]


def test_batches_grow_with_the_gpus_of_one_process():
    assert build_dataloader(Numbers(20), TRAIN, num_gpu=4).batch_size == 8
    assert build_dataloader(Numbers(20), {**TRAIN, 'num_worker_per_gpu': 1}, num_gpu=2).num_workers == 2
    assert build_dataloader(Numbers(20), TRAIN, num_gpu=4, dist=True).batch_size == 2
    assert build_dataloader(Numbers(20), TRAIN, num_gpu=0).batch_size == 2


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_validation_loader_gives_single_pictures_in_order(phase):
    opt = {**TRAIN, 'phase': phase, 'use_shuffle': True, 'persistent_workers': True}
    assert indices(build_dataloader(Numbers(3), opt, num_gpu=2)) == [[0], [1], [2]]
    assert build_dataloader(Numbers(3), {'phase': phase}).num_workers == 0
    assert build_dataloader(Numbers(3), {**opt, 'num_worker_per_gpu': 1}).num_workers == 1


@pytest.mark.parametrize(
    'changes, length, message',
    [
        ({}, 1, 'has 1 samples, fewer than one batch of 2; lower batch_size_per_gpu'),
        ({'phase': 'training'}, 9, "train, val or test, not 'training'"),
        ({'prefetch_mode': 'gpu'}, 9, "prefetch_mode is cpu, cuda or left out, not 'gpu'"),
        ({'prefetch_mode': 'cpu', 'num_prefetch_queue': 0}, 9, 'num_prefetch_queue must be at least 1'),
        ({'batch_size_per_gpu': None}, 9, 'the training dataset needs batch_size_per_gpu'),
    ],
)
def test_wrong_loader_options(changes, length, message):
    with pytest.raises(ValueError, match=message):
        build_dataloader(Numbers(length), {**TRAIN, **changes})


def test_an_enlarged_dataset_may_be_smaller_than_a_batch():
    assert len(build_dataloader(Numbers(1), TRAIN, sampler=EnlargedSampler(range(1), 1, 0, ratio=4))) == 2


def drawn(epochs=2, seed=7, start=0, rank=0, world=1, **opt):
    """Every sample's index and random numbers, epoch by epoch, loaded as the options say."""
    sampler = EnlargedSampler(range(4), world, rank, ratio=2)
    loader = build_dataloader(Numbers(4), {**TRAIN, **opt}, sampler=sampler, seed=seed)
    for epoch in range(epochs):
        sampler.set_epoch(epoch, start)
        yield [
            row
            for batch in loader
            for row in zip(batch['index'].tolist(), batch['python'].tolist(), batch['numpy'].tolist(), strict=True)
        ]


def test_random_numbers_are_those_of_the_sample_whoever_loads_it():
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    alone = list(drawn())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[:2]
    assert torch.equal(torch.get_rng_state(), state[2])
    numbers = [number for epoch in alone for _, *pair in epoch for number in pair]
    assert len(set(numbers)) == len(numbers) == 32, 'every sample of every epoch has its own'
    for opt in (
        {'num_worker_per_gpu': 1},
        {'num_worker_per_gpu': 2},
        {'num_worker_per_gpu': 2, 'persistent_workers': True},
        {'prefetch_mode': 'cpu'},
        {'batch_size_per_gpu': 4},
    ):
        assert list(drawn(**opt)) == alone, opt
    assert list(drawn(seed=8)) != alone
    shares = [next(drawn(1, rank=rank, world=2)) for rank in range(2)]
    assert [row for pair in zip(*shares, strict=True) for row in pair] == alone[0]


def test_a_resumed_epoch_leaves_out_what_was_done():
    whole = next(drawn(1))
    assert next(drawn(1, start=4)) == whole[4:]
    assert next(drawn(1, start=4, num_worker_per_gpu=2)) == whole[4:]
    assert next(drawn(1, start=8)) == []
    second = next(drawn(1, rank=1, world=2))
    assert next(drawn(1, rank=1, world=2, start=2)) == second[2:]


def test_accumulated_batches_are_loaded_as_one():
    loader = build_dataloader(Numbers(9), TRAIN, sampler=EnlargedSampler(range(9), 1, 0), accumulate=3)
    assert loader.batch_size == 6 and len(loader) == 1


def test_prefetching_gives_the_same_batches():
    opt = {**TRAIN, 'prefetch_mode': 'cpu', 'num_prefetch_queue': 3, 'use_shuffle': False}
    loader = build_dataloader(Numbers(10), opt)
    assert isinstance(loader, PrefetchDataLoader)
    for _ in range(2):
        assert indices(loader) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert next(iter(loader))['index'].tolist() == [0, 1]

    prefetcher = CPUPrefetcher(loader)
    batches = list(iter(prefetcher.next, None))
    assert len(batches) == 5 and prefetcher.next() is None
    prefetcher.reset()
    assert prefetcher.next()['index'].tolist() == [0, 1]


def test_prefetching_passes_errors_on(pictures):
    (pictures / 'lq' / '2.png').write_bytes(b'broken')
    opt = section(pictures, prefetch_mode='cpu', batch_size_per_gpu=1, use_shuffle=False)
    batches = iter(build_dataloader(build_dataset(opt), opt))
    next(batches), next(batches)
    with pytest.raises(ValueError, match=r'lq/2\.png'):
        next(batches)


def test_cuda_prefetching_without_a_gpu_is_an_error():
    loader = build_dataloader(Numbers(4), {**TRAIN, 'prefetch_mode': 'cuda'})
    with pytest.raises(ValueError, match='prefetch_mode: cuda needs a GPU'):
        CUDAPrefetcher(loader, {'num_gpu': 0})


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_prefetching():
    prefetcher = CUDAPrefetcher(build_dataloader(Numbers(6), {**TRAIN, 'use_shuffle': False}), {'num_gpu': 1})
    for _ in range(2):
        prefetcher.reset()
        batches = list(iter(prefetcher.next, None))
        assert all(batch['index'].is_cuda for batch in batches)
        assert [batch['index'].tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
