"""A grid over three domains whose processes leave made-up results, for tests of what is made of them."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import yaml

from basicsr.reproduce.cells import Cells
from basicsr.reproduce.domains import domain_splits
from basicsr.reproduce.grid import Grid, grid_section, read_grid
from basicsr.results.scores import Results

DOMAINS = ('art', 'photo', 'sketch')
GAINS = {'art': 0.1, 'photo': 0.2, 'sketch': 0.6}


def write_pictures(root: Path, domains: tuple[str, ...] = DOMAINS, count: int = 5) -> Path:
    rng = np.random.default_rng(0)
    for domain in domains:
        for name in ('cat', 'dog'):
            (root / domain / name).mkdir(parents=True)
            for index in range(count):
                picture = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                cv2.imwrite(str(root / domain / name / f'{index}.png'), picture)
    return root


def write_files(folder: Path, **grid: object) -> Path:
    """Pictures, a base and a grid file, with the entries `grid`; returns the grid file."""
    batches = {'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    base = {
        **{'name': 'base', 'model_type': 'SRModel', 'num_gpu': 0},
        'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2},
        'datasets': {
            'train': {'type': 'DomainFolderDataset', 'dataroot': 'x', 'image_size': 16, **batches},
            'val': {'type': 'DomainFolderDataset', 'dataroot': 'x', 'image_size': 24},
        },
        'train': {'total_iter': 12, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
        'val': {'val_freq': 2, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
    }
    written = {
        **{'name': 'trial', 'base': 'base.yml', 'domains': {}, 'seeds': [0, 1]},
        'variants': {'fine-tuning': {}, 'LDT': {'model_type': 'LDTModel'}},
        **grid,
    }
    if not (folder / 'data').exists():
        write_pictures(folder / 'data')
    for name, content in (('base', base), ('grid', written)):
        (folder / f'{name}.yml').write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / 'grid.yml'


def load(folder: Path, *changes: str, single: bool = False, chosen: list[str] | None = None, **grid: object) -> Grid:
    file = write_files(folder, **grid)
    splits = domain_splits(folder / 'data', single, chosen)
    return read_grid(file, grid_section(file)[0], folder / 'out', changes, splits=splits)


def made_up(network: str, variant: str, domain: str, seen: bool, end: int) -> float:
    """The mean on a domain: LDT is better on unseen ones, everything rises to iteration 6 and falls on unseen ones."""
    iteration = int(network) if network.isdigit() else end
    gain = GAINS.get(domain, 0) * (variant == 'LDT') if not seen else 0
    return 0.5 + gain + (iteration if seen else 6 - abs(iteration - 6)) / 100


class Stub(Cells):
    """Cells whose processes leave the files of a training and a test, and train nothing."""

    def _process(self, name, slot, lock, script, *arguments):
        opt = yaml.safe_load(Path(arguments[1]).read_text())
        if script == 'Train_pip.py':
            folder = self.grid.folder / 'experiments' / name
            (folder / 'models').mkdir(parents=True)
            (folder / 'training_states').mkdir()
            every, total = opt['logger']['save_checkpoint_freq'], opt['train']['total_iter']
            for iteration in (*range(every, total + 1, every), 'latest'):
                (folder / 'models' / f'net_g_{iteration}.pth').write_bytes(b'')
                (folder / 'training_states' / f'{iteration}.state').write_bytes(b'')
            return
        for weights in (opt['path'], *opt.get('compare', {}).values()):
            assert Path(weights['pretrain_network_g']).is_file(), weights
        variant, seed = name.split('_')[0], int(name.split('seed')[1][0])
        networks = [*opt.get('compare', {}), opt['name']]
        scores: dict = {network: {} for network in networks}
        for network in networks:
            for section in opt['datasets'].values():
                domain, seen = section['name'], section.get('seen', False)
                rng = np.random.default_rng([seed, *domain.encode()])
                mean = made_up(network, variant, domain, seen, 12)
                scores[network][domain] = {f'{n}': {'psnr': mean + rng.normal(0, 0.01)} for n in range(6)}
        images = {domain: {'images': {one: {} for one in own}} for domain, own in scores[networks[0]].items()}
        seen = [section['name'] for section in opt['datasets'].values() if section.get('seen')]
        shutil.rmtree(folder := self.grid.folder / 'results' / opt['name'], ignore_errors=True)
        folder.mkdir(parents=True)
        Results(opt['name'], {'psnr': 'higher'}, scores, seen, images).save(folder)
