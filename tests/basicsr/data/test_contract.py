"""Data sets of users: with a signature, and of BasicSR's kind, as its users write them."""

import csv
import random
from os import path as osp
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils import data as torch_data
from torchvision.transforms.functional import normalize

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.data_util import paired_paths_from_folder, paths_from_folder
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils import FileClient, imfrombytes, img2tensor
from basicsr.utils.registry import DATASET_REGISTRY


@pytest.fixture
def registered(monkeypatch):
    def register(kind):
        monkeypatch.setitem(DATASET_REGISTRY._objects, kind.__name__, kind)
        return kind.__name__

    return register


@pytest.fixture
def root(tmp_path):
    """Three pairs x2, and a table of them."""
    with open(tmp_path / 'table.csv', 'w', newline='') as table:
        for index in range(3):
            gt = np.random.default_rng(index).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            for folder, img in (('gt', gt), ('lq', gt[::2, ::2])):
                (tmp_path / folder).mkdir(exist_ok=True)
                cv2.imwrite(str(tmp_path / folder / f'{index}.png'), img)
            csv.writer(table).writerow([f'{index}.png', index])
    return tmp_path


def pairs(root, **changes):
    opt = {
        **{'name': 'Tiny', 'phase': 'train', 'scale': 2, 'gt_size': 16, 'io_backend': {'type': 'disk'}},
        **{'dataroot_gt': str(root / 'gt'), 'dataroot_lq': str(root / 'lq'), 'batch_size_per_gpu': 2},
        **{'num_worker_per_gpu': 0, 'use_hflip': True, 'use_rot': True},
    }
    return {key: value for key, value in {**opt, **changes}.items() if value is not ...}


def iterated(opt, epochs=2):
    dataset = build_dataset(opt)
    sampler = EnlargedSampler(dataset, 1, 0, ratio=4, seed=1)
    loader = build_dataloader(dataset, opt, 0, sampler=sampler, seed=1)
    return [batch for _ in range(epochs) for batch in loader]


# Data sets with a signature


class TableDataset(torch_data.Dataset):
    """Rows of a table."""

    def __init__(self, csv: Path, root: 'Path | None' = None, *, phase: str, scale: int = 4, name: str = '', more=None):
        self.rows = [line.split(',') for line in csv.read_text().split()]
        self.root, self.phase, self.scale, self.name, self.more = root, phase, scale, name, more

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {'lq': torch.zeros(1) + float(self.rows[index][1]), 'lq_path': str(self.root / self.rows[index][0])}


def test_a_signature_is_all_that_a_data_set_needs(root, registered):
    kind = registered(TableDataset)
    opt = {'type': kind, 'csv': str(root / 'table.csv'), 'root': str(root / 'gt'), 'phase': 'train', 'name': 'rows'}
    opt.update(scale=2, batch_size_per_gpu=3, num_worker_per_gpu=0, more=None, seen=False, use_shuffle=False)
    dataset = build_dataset(opt)
    assert isinstance(dataset.root, Path) and (dataset.phase, dataset.scale, dataset.name) == ('train', 2, 'rows')
    assert dataset.opt == opt and dataset.opt is not opt
    batch = next(iter(build_dataloader(dataset, opt)))
    assert batch['lq'].flatten().tolist() == [0, 1, 2] and Path(batch['lq_path'][2]).is_file()
    with pytest.raises(ValueError, match=r"TableDataset takes no option 'rot'; did you mean 'root'\? It takes: csv, "):
        build_dataset({**opt, 'rot': 'a'})
    with pytest.raises(ValueError, match='TableDataset needs the option csv'):
        build_dataset({**opt, 'csv': None})


def test_one_that_adds_to_another_passes_the_rest_on(root, registered):
    class Darker(PairedImageDataset):
        """Pairs, darkened."""

        def __init__(self, factor: float = 0.5, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def __getitem__(self, index):
            return {**super().__getitem__(index), 'lq': super().__getitem__(index)['lq'] * self.factor}

    opt = pairs(root, type=registered(Darker), factor=0.25, phase='val')
    dataset = build_dataset(opt)
    plain = build_dataset({**{key: opt[key] for key in opt if key != 'factor'}, 'type': 'PairedImageDataset'})
    assert torch.equal(dataset[1]['lq'], plain[1]['lq'] * 0.25) and dataset.opt == opt
    with pytest.raises(ValueError, match=r'Darker: .*use_hflp'):
        build_dataset({**opt, 'use_hflp': True})
    with pytest.raises(ValueError, match='Darker: gt_size: must be a multiple of scale 2, not 15'):
        build_dataset({**opt, 'gt_size': 15})


# BasicSR's kind


def test_basicsrs_call_and_attributes(root):
    opt = pairs(root, mean=[0.5] * 3, std=[0.5] * 3, filename_tmpl='{}', colour_jitter=3)
    for dataset in (PairedImageDataset(opt), PairedImageDataset(opt=opt)):
        assert dataset.opt is opt
        assert (dataset.gt_folder, dataset.lq_folder) == (opt['dataroot_gt'], opt['dataroot_lq'])
        assert (dataset.mean, dataset.std, dataset.filename_tmpl) == (opt['mean'], opt['std'], '{}')
        assert dataset.io_backend_opt == {'type': 'disk'} and dataset.io_backend_opt is not opt['io_backend']
        assert (dataset.task, dataset.noise) == ('SR', None)
        assert dataset.paths[1] == {'lq_path': f'{root}/lq/1.png', 'gt_path': f'{root}/gt/1.png'}
    single = SingleImageDataset({'dataroot_lq': str(root / 'lq'), 'phase': 'test', 'name': 'a'})
    assert single.lq_folder == str(root / 'lq') and single.mean is single.std is None
    assert single.io_backend_opt == {'type': 'disk'} and single.paths[0] == f'{root}/lq/0.png'
    by_name = PairedImageDataset(root / 'gt', root / 'lq', scale=2, phase='val')
    assert by_name.opt['scale'] == 2 and by_name.opt['filename_tmpl'] == '{}' and 'gt_size' not in by_name.opt
    with pytest.raises(ValueError, match='PairedImageDataset needs the option phase'):
        PairedImageDataset(pairs(root, phase=...))
    with pytest.raises(ValueError, match='gt_size: missing; training needs it'):
        PairedImageDataset(root / 'gt', root / 'lq', scale=2, phase='train')


class OwnItems(PairedImageDataset):
    """Overrides what an item is, in BasicSR's words."""

    def __init__(self, opt):
        super().__init__(opt)
        self.factor = opt['factor']

    def __getitem__(self, index):
        if self.file_client is None:
            self.file_client = FileClient(self.io_backend_opt.pop('type'), **self.io_backend_opt)
        scale = self.opt['scale']
        gt_path, lq_path = self.paths[index]['gt_path'], self.paths[index]['lq_path']
        img_gt = imfrombytes(self.file_client.get(gt_path, 'gt'), float32=True)
        img_lq = imfrombytes(self.file_client.get(lq_path, 'lq'), float32=True)
        if self.opt['phase'] == 'train':
            img_gt, img_lq = paired_random_crop(img_gt, img_lq, self.opt['gt_size'], scale, gt_path)
            img_gt, img_lq = augment([img_gt, img_lq], self.opt['use_hflip'], self.opt['use_rot'])
        img_gt, img_lq = img2tensor([img_gt, img_lq], bgr2rgb=True, float32=True)
        if self.mean is not None or self.std is not None:
            normalize(img_lq, self.mean, self.std, inplace=True)
            normalize(img_gt, self.mean, self.std, inplace=True)
        return {'lq': img_lq * self.factor, 'gt': img_gt, 'lq_path': lq_path, 'gt_path': gt_path}


@pytest.mark.parametrize('workers', [0, 2])
def test_a_subclass_of_ours_with_items_of_its_own(root, registered, workers):
    opt = pairs(root, type=registered(OwnItems), factor=0.5, mean=[0.1] * 3, std=[2.0] * 3)
    own = iterated({**opt, 'num_worker_per_gpu': workers})
    plain = iterated({**pairs(root, mean=[0.1] * 3, std=[2.0] * 3), 'type': 'PairedImageDataset'})
    assert len(own) == len(plain) == 12
    for first, second in zip(own, plain, strict=True):
        assert torch.equal(first['gt'], second['gt']) and torch.equal(first['lq'], second['lq'] * 0.5)


class RealWorldDataset(torch_data.Dataset):
    """Ground truth alone, with the kernel that a model degrades it by."""

    def __init__(self, opt):
        super().__init__()
        self.opt = opt
        self.file_client = None
        self.io_backend_opt = opt['io_backend']
        self.gt_folder = opt['dataroot_gt']
        if 'meta_info' in opt:
            with open(self.opt['meta_info']) as fin:
                names = [line.strip().split(' ')[0] for line in fin]
                self.paths = [osp.join(self.gt_folder, name) for name in names]
        else:
            self.paths = paths_from_folder(self.gt_folder)
        self.blur_kernel_size = opt['blur_kernel_size']

    def __getitem__(self, index):
        if self.file_client is None:
            self.file_client = FileClient(self.io_backend_opt.pop('type'), **self.io_backend_opt)
        gt_path = self.paths[index]
        img_gt = imfrombytes(self.file_client.get(gt_path, 'gt'), float32=True)
        img_gt = augment(img_gt, self.opt['use_hflip'], self.opt['use_rot'])[:24, :24]
        kernel = np.full((self.blur_kernel_size,) * 2, random.random(), np.float32)
        img_gt = img2tensor([img_gt], bgr2rgb=True, float32=True)[0]
        return {'gt': img_gt, 'kernel1': torch.from_numpy(kernel / kernel.sum()), 'gt_path': gt_path}

    def __len__(self):
        return len(self.paths)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('listed', [False, True])
def test_a_data_set_of_real_world_super_resolution(root, registered, workers, listed):
    (root / 'list.txt').write_text('2.png (24,32,3)\n0.png (24,32,3)\n')
    opt = pairs(root, type=registered(RealWorldDataset), dataroot_lq=..., blur_kernel_size=21)
    opt.update({'meta_info': str(root / 'list.txt')} if listed else {}, num_worker_per_gpu=workers)
    opt.update(use_rot=False)
    batches = iterated(opt)
    assert len(batches) == (8 if listed else 12) and opt['io_backend'] == {'type': 'disk'}, 'it worked on a copy'
    assert batches[0]['gt'].shape == (2, 3, 24, 24) and batches[0]['kernel1'].shape == (2, 21, 21)
    names = {osp.basename(path) for batch in batches for path in batch['gt_path']}
    assert names == ({'0.png', '2.png'} if listed else {'0.png', '1.png', '2.png'})


def test_a_data_set_without_opt_gets_one(root, registered):
    class Forgetful(torch_data.Dataset):
        def __init__(self, opt):
            self.paths = paired_paths_from_folder([opt['dataroot_lq'], opt['dataroot_gt']], ['lq', 'gt'])

        def __len__(self):
            return len(self.paths)

    opt = pairs(root, type=registered(Forgetful))
    assert build_dataset(opt).opt == opt, 'whose name stands in tables'
