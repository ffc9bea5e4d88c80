"""Pictures and options of a classification that takes a second: a small CNN on bright and dark, striped and plain."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from basicsr.check import check_pipeline
from tests import small_run

DOMAINS = {'day': 1.0, 'dusk': 0.7, 'night': 0.5}
"""How bright each domain is."""
CLASSES = ('columns', 'disc', 'rows')
SIDE = 16
PER_CLASS = 10


def drawn(kind: str, brightness: float, rng: np.random.Generator) -> np.ndarray:
    """A picture of a class, (SIDE, SIDE, 3) uint8."""
    y, x = np.mgrid[:SIDE, :SIDE]
    shape = {'columns': x // 2 % 2, 'rows': y // 2 % 2, 'disc': (x - 7.5) ** 2 + (y - 7.5) ** 2 < 30}[kind]
    picture = 200 * brightness * shape[..., None] + rng.normal(20, 12, (SIDE, SIDE, 3))
    return picture.clip(0, 255).astype(np.uint8)


def make_archive(root: Path, per_class: int = PER_CLASS, domains=tuple(DOMAINS)) -> Path:
    """`<root>/<domain>/<class>/<number>.png`."""
    rng = np.random.default_rng(0)
    for domain in domains:
        for kind in CLASSES:
            folder = root / domain / kind
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(per_class):
                Image.fromarray(drawn(kind, DOMAINS[domain], rng)).save(folder / f'{index:02d}.png')
    return root


def options(folder: Path, **changes) -> dict:
    """Options of a training on `folder/archive`; `a__b=value` changes a.b, and None takes it out."""
    common = {'type': 'DomainFolderDataset', 'dataroot': str(folder / 'archive'), 'image_size': SIDE}
    opt = {
        'name': 'classes',
        'model_type': 'ClassificationModel',
        'num_gpu': 0,
        'manual_seed': 1,
        'datasets': {
            'train': {**common, 'test_domains': ['night'], 'batch_size_per_gpu': 6, 'num_worker_per_gpu': 0},
            'val': {**common, 'name': 'seen', 'test_domains': ['night'], 'batch_size_per_gpu': 4},
            'test_0': {**common, 'name': 'night', 'test_domains': ['night'], 'batch_size_per_gpu': 4},
        },
        'network_g': {'type': 'SmallCNN', 'width': 4, 'stages': 2},
        'path': {'output_root': str(folder)},
        'train': {'total_iter': 6, 'optim_g': {'type': 'Adam', 'lr': 1e-2}},
        'val': {
            'val_freq': 3,
            'pbar': False,
            'metrics': {
                'accuracy': {'type': 'accuracy'},
                'balanced': {'type': 'balanced_accuracy'},
                'nll': {'type': 'negative_log_likelihood'},
                'ece': {'type': 'calibration_error'},
            },
        },
        'logger': {'print_freq': 1, 'save_best': 'accuracy', 'save_checkpoint_freq': 2},
    }
    return small_run.changed(opt, changes)


def write(folder: Path, file: str = 'options.yml', **changes) -> Path:
    (folder / file).write_text(yaml.safe_dump(options(folder, **changes), sort_keys=False))
    return folder / file


def train(folder: Path, auto_resume: bool = False, **changes) -> None:
    """A training of `options`."""
    small_run.train_file(folder, write(folder, **changes), auto_resume)


def check(folder: Path, is_train: bool = True, **changes) -> None:
    """`--check` of `options`."""
    check_pipeline(str(folder), small_run.command_line(write(folder, **changes)), is_train)
