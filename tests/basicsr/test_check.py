"""`--check`: what it finds, and that it makes nothing."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from basicsr.check import check_pipeline
from basicsr.utils.registry import DATASET_REGISTRY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    """Pairs x2: 5 to train on and 24 to validate with, and options of a small network."""
    rng = np.random.default_rng(0)
    for part, count in (('train', 5), ('val', 24)):
        for name, side in (('HR', 32), ('LR', 16)):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                picture = rng.integers(0, 256, (side, side + (index % 2) * side, 3)).astype(np.uint8)
                cv2.imwrite(str(tmp_path / part / name / f'{index}.png'), picture)
    return tmp_path


def write(folder, **changes):
    pairs = {
        part: {'type': 'PairedImageDataset', 'dataroot_gt': f'{part}/HR', 'dataroot_lq': f'{part}/LR'}
        for part in ('train', 'val')
    }
    pairs['train'].update(gt_size=16, batch_size_per_gpu=2, num_worker_per_gpu=0, dataset_enlarge_ratio=4)
    network = {'type': 'MambaIR', 'upscale': 2, 'embed_dim': 30, 'depths': [1], 'd_state': 2}
    opt = {
        **{'name': 'looked_at', 'model_type': 'MambaIRModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 1},
        'datasets': pairs,
        'network_g': {**network, 'upsampler': 'pixelshuffledirect'},
        'train': {'total_iter': 25, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
        **changes,
    }
    file = folder / 'options.yml'
    file.write_text(yaml.safe_dump(opt))
    return file


def check(folder, is_train=True, changes=(), **sections):
    args = argparse.Namespace(opt=str(write(folder, **sections)), set=list(changes), launcher='none')
    check_pipeline(str(folder), args, is_train)


def everything(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob('*'))


def command(folder, *arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        **{'cwd': folder, 'env': {**os.environ, 'PYTHONPATH': str(ROOT)}},
        **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, 'timeout': 120},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('script', ['Train_pip.py', 'basicsr/test.py'])
def test_commands(folder, script):
    options = write(folder, path={'output_root': str(folder)})
    assert options.exists()
    here = [f'datasets.{part}.dataroot_{key}={folder}/{part}/{name}' for part in ('train', 'val')
            for key, name in (('gt', 'HR'), ('lq', 'LR'))]  # fmt: skip
    before = everything(folder)
    code, printed, errors = command(folder, ROOT / script, '--check', '-opt', options, '--set', *here)
    assert code == 0, errors
    assert 'datasets.val (val): 24 pictures, lq 16x16 to 16x32, gt 32x32 to 32x64 (height x width)' in printed
    assert printed.splitlines()[-1].endswith('options.yml: no mistakes found.')
    (folder / 'val' / 'HR' / '3.png').write_bytes(b'no picture')
    code, _, errors = command(folder, ROOT / script, '--check', '-opt', options, '--set', *here)
    assert code == 2
    assert '1 picture cannot be used:\n  datasets.val: dataroot_gt: cannot read the picture' in errors
    assert 'Traceback' not in errors and errors.count('error:') == 1
    assert everything(folder) == before, 'nothing is made'


def test_summary(folder, capsys):
    check(folder)
    printed = capsys.readouterr().out
    for line in (
        '  scale: 2',
        'Training: 25 iterations in 3 epochs of 10',
        'datasets.train (train): 5 pictures, lq 8x8, gt 16x16 (height x width of patches)',
    ):
        assert line in printed.splitlines()
    assert 'Network MambaIR: ' in printed and ' parameters' in printed
    check(folder, changes=['train.accumulate=2'])
    assert 'Training: 25 iterations in 5 epochs of 5' in capsys.readouterr().out


def test_all_broken_pictures_are_counted_and_twenty_are_named(folder):
    for index in range(22):
        (folder / 'val' / 'LR' / f'{index}.png').write_bytes(b'')
    cv2.imwrite(str(folder / 'val' / 'LR' / '22.png'), np.zeros((9, 9, 3), np.uint8))
    cv2.imwrite(str(folder / 'train' / 'HR' / '0.png'), np.zeros((12, 12, 3), np.uint8))
    cv2.imwrite(str(folder / 'train' / 'LR' / '0.png'), np.zeros((6, 6, 3), np.uint8))
    with pytest.raises(ValueError) as error:
        check(folder)
    lines = str(error.value).splitlines()
    assert lines[1] == '24 pictures cannot be used:'
    assert len(lines) == 2 + 20 + 1 and lines[-1] == '  … and 4 more'
    assert lines[2].startswith('  datasets.train: ') and '12x12' in lines[2], 'smaller than gt_size'
    for index in range(22):
        cv2.imwrite(str(folder / 'val' / 'LR' / f'{index}.png'), np.zeros((16, 16 + index % 2 * 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r'2 pictures cannot be used') as error:
        check(folder)
    assert 'is not scale 2 times lq' in str(error.value)


def test_mistakes_of_network_weights_and_data_come_together(folder):
    torch.save({'params': {'w': torch.zeros(1)}}, folder / 'w.pth')
    (folder / 'val' / 'LR' / '0.png').unlink()
    with pytest.raises(ValueError) as error:
        check(folder, path={'pretrain_network_g': 'w.pth'}, changes=['datasets.train.dataroot_gt=nowhere'])
    text = str(error.value)
    for part in (f'datasets.train.dataroot_gt: {folder}/nowhere', 'network_g: ', 'w.pth', 'without a partner: 0.png'):
        assert part in text
    with pytest.raises(ValueError, match=r'network_g\.embed_dim: must be a whole number of at least 30, not 3'):
        check(folder, changes=['network_g.embed_dim=3'])
    with pytest.raises(
        ValueError, match=r"head_first\.prefixes: no layer has the prefix 'upsampel'; near it: upsample"
    ):
        check(folder, changes=['train.head_first={iter: 20%, prefixes: upsampel}'])
    for section, option in (
        ('train.head_first={iter: 20%}', 'train.head_first.prefixes'),
        ('train.ldt={criterion: prefix}', 'train.ldt.unstable_prefixes'),
        ('train.ldt={warmup_iter: 2}', 'train.ldt.head_prefixes'),
    ):
        with pytest.raises(ValueError, match=rf'{re.escape(option)}: missing, and the network \(\w+\) has no head_pre'):
            check(folder, changes=[section])
    few = ['datasets.train.dataset_enlarge_ratio=1', 'datasets.train.batch_size_per_gpu=3']
    with pytest.raises(ValueError, match=r'train\.ldt\.warmup_iter: 2 of 5 training samples are for the scores'):
        check(folder, changes=['train.ldt={warmup_iter: 2, head_prefixes: upsample}', *few])
    with pytest.raises(ValueError, match=r'fewer than one batch of 200'):
        check(folder, changes=['datasets.train.batch_size_per_gpu=200'])


def test_networks_to_compare_with_are_not_those_that_train(folder, capsys):
    bicubic = {'network_g': {'type': 'Bicubic', 'upscale': 2}}
    check(folder, compare={'plain': bicubic}, changes=['train.head_first={iter: 20%, prefixes: upsample}'])
    assert 'Network Bicubic: 0 parameters (compare.plain)' in capsys.readouterr().out
    for label in ('bicubic', 'before', 'after'):
        with pytest.raises(ValueError, match=rf'compare\.{label}: is a row of its own at the end of a training'):
            check(folder, compare={label: bicubic})
        check(folder, is_train=False, compare={label: bicubic})


def test_missing_weights_are_named_unless_a_training_makes_them(folder, capsys):
    path = {'pretrain_network_g': 'experiments/before/models/net_g_latest.pth'}
    with pytest.raises(ValueError, match=r'path\.pretrain_network_g: .*net_g_latest\.pth'):
        check(folder, path=path)
    before = write(folder, name='before').rename(folder / 'before.yml')
    check(folder, path={**path, 'pretrain_opt': str(before)})
    assert 'net_g_latest.pth is not there; a training makes it first, by' in capsys.readouterr().out
    before.write_text(before.read_text().replace('total_iter', 'total_itre'))
    with pytest.raises(ValueError, match=r"train\.total_itre: unknown option; did you mean 'total_iter'\?"):
        check(folder, path={**path, 'pretrain_opt': str(before)})


def test_data_that_a_training_makes_is_not_missing(folder, capsys):
    changes = [f'datasets.val.dataroot_{key}=made/val' for key in ('gt', 'lq')]
    check(folder, quickstart_data='made', changes=changes)
    assert 'datasets.val: not there; a training makes it first, in ' in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'datasets\.val\.dataroot_gt'):
        check(folder, quickstart_data='other', changes=changes)
    with pytest.raises(ValueError, match=r'datasets\.val\.dataroot_gt'):
        check(folder, quickstart_data='made', changes=changes, is_train=False)


class Crashing:
    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {'lq': torch.zeros(3, 4, 5)} if index else 1 / 0


def test_data_sets_of_users_may_raise_anything(folder, monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._objects, 'Crashing', Crashing)
    with pytest.raises(ValueError, match=r'1 picture cannot be used:\n  datasets\.val: ZeroDivisionError: division'):
        check(folder, datasets={'val': {'type': 'Crashing'}}, is_train=False)
