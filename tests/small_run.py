"""Pictures and options of a run that takes a second: a small network x2 on pairs of noise."""

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np
import yaml

from basicsr.check import check_pipeline
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.train import train_pipeline

LDT = {'scoring_batches': 2, 'exchange_every': 1, 'stable_decay': [0.5, 0.4], 'unstable_decay': [0.6, 0.3]}
"""`train.ldt` for a run of a few iterations."""
SIDES = {'train': (32, 36, 48), 'val': (28, 40), 'test_0': (26, 30)}
"""Sides in pixels of the ground truth."""


def make_pictures(folder: Path, sides: dict = SIDES, channels: int = 3) -> Path:
    """Pairs x2 in `<part>/HR` and `<part>/LR`: `0.png`, `1.png`, …, of these sides."""
    rng = np.random.default_rng(0)
    for part, lengths in sides.items():
        for index, side in enumerate(lengths):
            gt = rng.integers(0, 256, (side, side + 2, channels)).astype(np.uint8)
            write_picture(folder / part / 'HR' / f'{index}.png', gt)
            lq = cv2.resize(gt, (side // 2 + 1, side // 2), interpolation=cv2.INTER_AREA)
            write_picture(folder / part / 'LR' / f'{index}.png', lq)
    return folder


def write_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


def options(folder: Path, **changes) -> dict:
    """Options of a training; `a__b=value` changes a.b, and None takes it out."""
    pairs = {
        key: {'type': 'PairedImageDataset', 'dataroot_gt': f'{key}/HR', 'dataroot_lq': f'{key}/LR'}
        for key in ('train', 'val', 'test_0')
    }
    pairs['train'].update(gt_size=16, batch_size_per_gpu=2, num_worker_per_gpu=0, dataset_enlarge_ratio=2)
    metrics = {name: {'type': f'calculate_{name}', 'crop_border': 2} for name in ('psnr', 'ssim')}
    opt = {
        **{'name': 'small', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 1, 'datasets': pairs},
        'network_g': {'type': 'MSRResNet', 'num_feat': 8, 'num_block': 1, 'upscale': 2},
        'path': {'output_root': str(folder)},
        'train': {
            'total_iter': 3,
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'pixel_opt': {'type': 'L1Loss'},
        },
        'val': {'val_freq': 3, 'metrics': metrics, 'pbar': False},
        'logger': {'print_freq': 1, 'save_best': 'psnr', 'save_checkpoint_freq': 2},
    }
    return changed(opt, changes)


def changed(opt: dict, changes: dict) -> dict:
    """`opt` with `a__b=value` for a.b; None takes it out."""
    for path, value in changes.items():
        *sections, last = path.split('__')
        target = opt
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            target = target[section]
        target[last] = value
        if value is None:
            del target[last]
    return opt


def write(folder: Path, file: str = 'options.yml', **changes) -> Path:
    (folder / file).write_text(yaml.safe_dump(options(folder, **changes), sort_keys=False))
    return folder / file


def command_line(file: Path, **more) -> argparse.Namespace:
    return argparse.Namespace(**{'opt': str(file), 'set': [], 'launcher': 'none', 'imports': [], **more})


def check(folder: Path, is_train: bool = True, **changes) -> None:
    """`--check` of `options`."""
    check_pipeline(str(folder), command_line(write(folder, **changes)), is_train)


def train(folder: Path, auto_resume: bool = False, **changes) -> None:
    """A training of `options`."""
    train_file(folder, write(folder, **changes), auto_resume)


def train_file(folder: Path, file: Path, auto_resume: bool = False) -> None:
    """A training of an option file; its log file is closed at the end."""
    logger = logging.getLogger('basicsr')
    try:
        train_pipeline(str(folder), command_line(file, auto_resume=auto_resume))
    finally:
        for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
            logger.removeHandler(handler)


def weights(folder: Path, name: str) -> dict:
    """The last weights of a run."""
    return load_checkpoint(folder / 'experiments' / name / 'models' / 'net_g_latest.pth')['params']


def everything(folder: Path) -> dict[str, int]:
    """Every file and when it was changed, and every folder; without the option files, which tests write."""
    return {
        str(path.relative_to(folder)): 0 if path.is_dir() else path.lstat().st_mtime_ns
        for path in folder.rglob('*')
        if path.suffix not in ('.yml', '.py') and path != folder
    }
