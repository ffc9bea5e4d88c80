"""Several folders, or LMDBs, of one data set."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import build_model
from basicsr.utils.lmdb_util import make_lmdb


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Pairs x2 of two sets: a has 0 and 1, b has 1 and 2; the two pictures called 1 differ."""
    folder = tmp_path_factory.mktemp('several')
    for seed, (part, name) in enumerate([('a', '0'), ('a', '1'), ('b', '1'), ('b', '2')]):
        gt = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for kind, img in (('gt', gt), ('lq', gt[::2, ::2])):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / part / kind / f'{name}.png'), img)
    return folder


def section(root, parts='ab', end='', **changes):
    opt = {
        **{'type': 'PairedImageDataset', 'name': 'Several', 'phase': 'val', 'scale': 2, 'batch_size_per_gpu': 2},
        **{f'dataroot_{kind}': [f'{root}/{part}/{kind}{end}' for part in parts] for kind in ('gt', 'lq')},
        **{'num_worker_per_gpu': 0, **changes},
    }
    return {key: value for key, value in opt.items() if value is not None}


def names(dataset):
    return ['/'.join(Path(pair['gt_path']).parts[-3:]) for pair in dataset.paths]


def test_folders_are_paired_in_their_order(root):
    dataset = build_dataset(section(root))
    assert names(dataset) == ['a/gt/0.png', 'a/gt/1.png', 'b/gt/1.png', 'b/gt/2.png']
    assert dataset.paths[2]['lq_path'] == f'{root}/b/lq/1.png'
    assert dataset.gt_folder == [f'{root}/a/gt', f'{root}/b/gt']
    alone = [build_dataset(section(root, part)) for part in 'ab']
    items = [part[index] for part in alone for index in range(2)]
    for index, item in enumerate(items):
        assert torch.equal(dataset[index]['gt'], item['gt']) and dataset[index]['lq_path'] == item['lq_path']
    assert not torch.equal(dataset[1]['gt'], dataset[2]['gt'])
    assert names(build_dataset(section(root, 'ba'))) == ['b/gt/1.png', 'b/gt/2.png', 'a/gt/0.png', 'a/gt/1.png']


def test_one_folder_in_a_list_is_that_folder(root):
    listed = build_dataset(section(root, 'a'))
    plain = build_dataset(section(root, dataroot_gt=f'{root}/a/gt', dataroot_lq=[f'{root}/a/lq']))
    assert listed.paths == plain.paths


def test_training_draws_from_all_folders_with_and_without_workers(root):
    def batches(workers):
        opt = section(root, phase='train', gt_size=16, num_worker_per_gpu=workers, use_hflip=True)
        dataset = build_dataset(opt)
        return list(build_dataloader(dataset, opt, 0, sampler=EnlargedSampler(dataset, 1, 0, ratio=2), seed=1))

    alone = batches(0)
    assert {path.split('/')[-3] for batch in alone for path in batch['gt_path']} == {'a', 'b'}
    assert all(torch.equal(x['lq'], y['lq']) for x, y in zip(alone, batches(2), strict=True))


def test_lists_of_names(root, tmp_path):
    first, second, both = (tmp_path / name for name in ('first.txt', 'second.txt', 'both.txt'))
    first.write_text('1.png\n')
    second.write_text('2.png\n1.png\n')
    both.write_text('2.png (24,32,3)\n\n0.png\n')
    dataset = build_dataset(section(root, meta_info_file=[str(first), str(second)]))
    assert names(dataset) == ['a/gt/1.png', 'b/gt/2.png', 'b/gt/1.png'], 'a file for each folder'
    assert names(build_dataset(section(root, meta_info_file=str(both)))) == ['a/gt/0.png', 'b/gt/2.png'], 'one for all'
    only = build_dataset(section(root, meta_info=str(both), dataroot_gt=None, type='SingleImageDataset', scale=None))
    assert [path.split('/')[-3:] for path in only.paths] == [['a', 'lq', '0.png'], ['b', 'lq', '2.png']]
    both.write_text('0.png\n1.png\n')
    with pytest.raises(ValueError, match=r'in more than one folder: line 2: 1\.png in dataroot_gt\[0\] and '):
        build_dataset(section(root, meta_info_file=str(both)))
    both.write_text('0.png\n7.png\n')
    with pytest.raises(FileNotFoundError, match=r'in none of dataroot_gt: line 2: 7\.png'):
        build_dataset(section(root, meta_info_file=str(both)))
    with pytest.raises(ValueError, match=r'meta_info_file: must be one file, or as many as .* 2, not 3'):
        build_dataset(section(root, meta_info_file=[str(first)] * 3))


def test_mistakes_name_the_folder_by_its_place(root):
    gt = [f'{root}/a/gt', f'{root}/nowhere']
    with pytest.raises(FileNotFoundError, match=r"dataroot_gt\[1\]: there is no folder '.*nowhere'"):
        build_dataset(section(root, dataroot_gt=gt))
    with pytest.raises(ValueError, match=r'dataroot_lq: must name as many folders as dataroot_gt, 2, not 1'):
        build_dataset(section(root, dataroot_lq=f'{root}/a/lq'))
    with pytest.raises(ValueError, match=r'dataroot_gt: must name a folder, or several; the list is empty'):
        build_dataset(section(root, dataroot_gt=[], dataroot_lq=[]))
    with pytest.raises(ValueError, match=r"1 files of dataroot_gt\[0\] '.*a/gt' without a partner: 0\.png"):
        build_dataset(section(root, dataroot_lq=[f'{root}/b/lq', f'{root}/a/lq']))


def test_noise_is_added_to_all_folders(root):
    dataset = build_dataset(section(root, dataroot_lq=None, scale=1, task='denoising_color', noise=10))
    assert len(dataset) == 4 and dataset.makes_lq
    assert build_dataset(section(root, 'ab', scale=1, task='CAR', noise=10, dataroot_lq=dataset.gt_folder)).makes_lq


def test_pictures_of_the_same_name_are_scored_and_written_apart(root, tmp_path):
    data = section(root)
    opt = {
        **{'name': 'x2', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0, 'is_train': False, 'dist': False},
        **{'rank': 0, 'network_g': {'type': 'Bicubic', 'upscale': 2}, 'path': {'visualization': str(tmp_path)}},
        'val': {'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
    }
    model = build_model(opt)
    model.validation(build_dataloader(build_dataset(data), data), 'now', None, save_img=True)
    assert [name for name, _ in model.image_results] == ['0', '1', '1 (2)', '2']
    written = {path.name: path.read_bytes() for path in (tmp_path / 'Several').iterdir()}
    assert sorted(written) == ['0_x2.png', '1 (2)_x2.png', '1_x2.png', '2_x2.png']
    assert len(set(written.values())) == 4


def test_lmdbs(root):
    pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
    for part in 'ab':
        for kind in ('gt', 'lq'):
            files = {path.stem: path for path in sorted((root / part / kind).iterdir())}
            make_lmdb(files, root / part / f'{kind}.lmdb')
    lmdb = build_dataset(section(root, end='.lmdb', io_backend={'type': 'lmdb'}))
    disk = build_dataset(section(root))
    assert [pair['gt_path'] for pair in lmdb.paths] == [
        f'{root}/{part}/gt.lmdb/{key}' for part, key in (('a', 0), ('a', 1), ('b', 1), ('b', 2))
    ]
    for index in range(4):
        assert torch.equal(lmdb[index]['lq'], disk[index]['lq']) and torch.equal(lmdb[index]['gt'], disk[index]['gt'])
    assert lmdb.io_backend_opt == {
        **{'type': 'lmdb', 'client_keys': ['lq', 'gt']},
        'db_paths': [[f'{root}/{part}/{kind}.lmdb' for part in 'ab'] for kind in ('lq', 'gt')],
    }
    with pytest.raises(FileNotFoundError, match=r'dataroot_gt\[1\]: there is no folder .*nowhere\.lmdb'):
        gt = [f'{root}/a/gt.lmdb', f'{root}/nowhere.lmdb']
        build_dataset(section(root, end='.lmdb', io_backend={'type': 'lmdb'}, dataroot_gt=gt))
