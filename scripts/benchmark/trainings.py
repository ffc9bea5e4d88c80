"""Small real trainings in processes of their own, for the benchmark of faults and for tests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from basicsr.runs.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 180
"""Seconds after which a run is considered hung."""


def make_pictures(folder: Path) -> None:
    """Pairs x2 of 40 x 36 pixels: `train` and `val`, each with `HR` and `LR`."""
    rng = np.random.default_rng(0)
    for part, count in (('train', 5), ('val', 3)):
        for name in ('HR', 'LR'):
            (folder / part / name).mkdir(parents=True)
        for index in range(count):
            noise = rng.integers(0, 256, (10, 11, 3)).astype(np.uint8)
            gt = cv2.resize(noise, (40, 36), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / part / 'HR' / f'{index}.png'), gt)
            lq = cv2.resize(gt, (20, 18), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / part / 'LR' / f'{index}.png'), lq)


def write_options(folder: Path, name: str, model_type: str = 'LDTModel', **changes: Any) -> Path:
    """Options of a run of 30 iterations that uses everything a resumed run must restore; `a__b=value` changes a.b."""
    pair = {'type': 'PairedImageDataset'}
    pairs = {
        part: {**pair, 'dataroot_gt': str(folder / part / 'HR'), 'dataroot_lq': str(folder / part / 'LR')}
        for part in ('train', 'val')
    }
    pairs['train'].update(gt_size=16, use_hflip=True, use_rot=True, dataset_enlarge_ratio=4)
    pairs['train'].update(batch_size_per_gpu=2, num_worker_per_gpu=2)
    ldt = {'scoring_batches': 4, 'exchange_every': 3, 'repartition_every': 7}
    ldt.update(stable_decay=[0.5, 0.4], unstable_decay=[0.6, 0.3])
    network = {'type': 'MambaIR', 'upscale': 2, 'embed_dim': 30, 'depths': [2], 'd_state': 2, 'mlp_ratio': 1.0}
    opt = {
        **{'name': name, 'model_type': model_type, 'scale': 2, 'num_gpu': 0, 'manual_seed': 3, 'datasets': pairs},
        'network_g': {**network, 'upsampler': 'pixelshuffledirect', 'drop_path_rate': 0.2},
        'path': {'output_root': str(folder)},
        'train': {
            'total_iter': 30,
            'optim_g': {'type': 'Adam', 'lr': 1e-3, 'betas': [0, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [10, 20], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss'},
            **({'ldt': ldt} if model_type == 'LDTModel' else {'ema_decay': 0.9}),
        },
        'val': {'val_freq': 6, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 2}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 4, 'save_best': 'psnr'},
    }
    for path, value in changes.items():
        *sections, last = path.split('__')
        target = opt
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    file = folder / f'{name}.yml'
    file.write_text(yaml.safe_dump(opt))
    return file


def start(
    options: Path, *more: str, processes: int = 1, project: Path = ROOT, before: Sequence[str] = (), **popen: Any
) -> subprocess.Popen:
    """Start a training run, by the command `before` where there is one; its output is a text pipe."""
    command = [*before, sys.executable]
    if processes > 1:
        command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    command += [str(project / 'Train_pip.py'), '-opt', str(options), *more]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'offline'}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True, 'errors': 'replace'}
    return subprocess.Popen(command, cwd=options.parent, env=environment, start_new_session=True, **pipes, **popen)


def finish(process: subprocess.Popen) -> str:
    """The output of the run, which is killed if it hangs."""
    try:
        return process.communicate(timeout=LONGEST)[0]
    except subprocess.TimeoutExpired:
        kill_all(process.pid)
        return process.communicate()[0] + '\nHANGS'


def descendants(pid: int) -> list[int]:
    """Process `pid` and all its descendants, on Linux."""
    parents = {}
    for status in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            text = status.read_text()
            parents[int(status.parent.name)] = int(text.rpartition(')')[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found


def workers_of(pid: int) -> list[int]:
    """The processes at the end of each line of descent: of a run that trains, the workers of its data loaders."""
    found = descendants(pid)
    return [one for one in found if one != pid and len(descendants(one)) == 1]


def kill_all(pid: int) -> None:
    """Send SIGKILL to a process and all its descendants, including workers and torchrun's processes."""
    for process in descendants(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def weights(folder: Path, name: str) -> dict[str, str]:
    """A digest of every weight of the run's last and best networks."""
    digests = {}
    for which in ('latest', 'best'):
        state = load_checkpoint(folder / 'experiments' / name / 'models' / f'net_g_{which}.pth')
        content = b''.join(tensor.numpy().tobytes() for key in sorted(state) for tensor in state[key].values())
        digests[which] = hashlib.sha256(content).hexdigest()
    return digests


def unreadable(folder: Path) -> list[Path]:
    """Checkpoints that cannot be read; temporary files left behind by a kill do not count."""
    broken = []
    for file in [*folder.rglob('*.pth'), *folder.rglob('*.state')]:
        try:
            load_checkpoint(file)
        except ValueError:
            broken.append(file)
    return broken
