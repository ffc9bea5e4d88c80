"""Kills real training runs, fills a disk, damages checkpoints and pictures, and prints the outcome.

python scripts/benchmark/faults.py [--kills 20] [--processes 1] [--damages 200] [--seed 0]

Everything happens in a temporary folder; runs are killed after three minutes. The disk is a tmpfs, which only root can
mount; otherwise a limit on file sizes replaces it. libpng's complaints about the pictures go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import cv2
import numpy as np
import torch
import yaml
from tqdm import tqdm

from basicsr.data.data_util import read_image
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.runs.measuring import line, machine
from basicsr.utils.file_client import FileClient

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
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
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


class Faults:
    """Runs the faults in `folder` and collects rows of (fault, faults, survived, bit-identical, files lost)."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.rows = folder, random.Random(seed), []
        make_pictures(folder)

    def row(self, fault: str, faults: int, survived: int, identical: str, lost: int) -> None:
        self.rows.append((fault, str(faults), str(survived), identical, str(lost)))
        print(line(list(self.rows[-1])), flush=True)

    def kills(self, count: int, processes: int) -> None:
        """SIGKILL at random moments until `count` is reached; every run must end as if uninterrupted."""
        whole = f'whole{processes}'
        before = time.monotonic()
        text = finish(run := start(write_options(self.folder, whole), processes=processes))
        assert run.returncode == 0, text
        taken, expected = time.monotonic() - before, weights(self.folder, whole)
        done = survived = identical = runs = lost = 0
        progress = tqdm(total=count, desc=f'SIGKILL, {processes} processes', disable=None)
        while done < count:
            name, runs, went_on = f'killed{processes}_{runs}', runs + 1, True
            options = write_options(self.folder, name)
            while went_on:
                process = start(options, '--auto_resume', processes=processes)
                if done < count:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(self.random.uniform(0.2, 1.0) * taken)
                        went_on = False
                    if went_on:
                        kill_all(process.pid)
                        process.communicate()
                        done += 1
                        progress.update()
                        lost += len(unreadable(self.folder / 'experiments' / name))
                        continue
                text, went_on = finish(process), False
                survived += process.returncode == 0
                if process.returncode:
                    print(text, file=sys.stderr)
                else:
                    identical += weights(self.folder, name) == expected
        what = f'SIGKILL at a random moment, {processes} process{"es" * (processes > 1)}'
        self.row(what, done, done if survived == runs else 0, f'{identical} of {runs} runs', lost)

    def signals(self) -> None:
        """SIGINT and SIGTERM: the run finishes the iteration, saves, and exits with the matching code."""
        expected = weights(self.folder, 'whole1')
        for number in (signal.SIGINT, signal.SIGTERM):
            name = number.name
            options = write_options(self.folder, name, logger__save_checkpoint_freq=100)
            process = start(options)
            for text in process.stdout:
                if 'iter 9,' in text:
                    break
            for process_id in descendants(process.pid):  # as a terminal and a cluster do
                os.kill(process_id, number)
            finish(process)
            stopped = process.returncode == 128 + number
            finish(again := start(options, '--auto_resume'))
            same = again.returncode == 0 and weights(self.folder, name) == expected
            self.row(f'{name} to all processes', 1, int(stopped), f'{int(same)} of 1 runs', 0)

    def killed_workers(self, count: int) -> None:
        """SIGKILL of a worker: the run is saved and ends with code 3, and goes on to the weights of a whole one."""
        expected, survived, identical = weights(self.folder, 'whole1'), 0, 0
        for index in tqdm(range(count), desc='killed workers', disable=None):
            name = f'workerless_{index}'
            options = write_options(self.folder, name, logger__save_checkpoint_freq=100)
            process, at = start(options), 10 * self.random.randrange(3) + self.random.randrange(1, 7)
            for text in process.stdout:  # the last of the ten batches of an epoch need no worker any more
                if f'iter {at},' in text:
                    os.kill(self.random.choice(workers_of(process.pid)), signal.SIGKILL)
                    break
            saved = 'Saved at iteration ' in finish(process)
            survived += saved and process.returncode == 3
            finish(again := start(options, '--auto_resume'))
            identical += again.returncode == 0 and weights(self.folder, name) == expected
        self.row('SIGKILL of a worker of a data loader', count, survived, f'{identical} of {count} runs', 0)

    def full_shared_memory(self) -> None:
        """A /dev/shm of 32 KB, which only root can give a process: the run is saved and ends with code 3."""
        small = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=32k tmpfs /dev/shm && exec "$@"', 'sh']
        if subprocess.run([*small, 'true'], capture_output=True).returncode:
            return
        options = write_options(self.folder, 'cramped', datasets__train__batch_size_per_gpu=8)
        text = finish(process := start(options, before=small))
        survived = process.returncode == 3 and '--shm-size' in text and 'Traceback' not in text
        self.row('full /dev/shm', 1, int(survived), '-', len(unreadable(self.folder / 'experiments/cramped')))

    def full_disk(self) -> None:
        """A disk with room for few checkpoints: the run reports it and continues, and earlier files stay intact.

        All that is written beside checkpoints is on, and must not end the run.
        """
        disk = self.folder / 'disk'
        disk.mkdir()
        mounted = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(disk)], stderr=subprocess.DEVNULL
        ).returncode == 0  # fmt: skip
        try:
            beside = {'logger__use_tb_logger': True, 'val__save_img': True}
            options = write_options(self.folder, 'full', path__output_root=str(disk), **beside)
            limit = {} if mounted else {'preexec_fn': lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2)}
            text = finish(process := start(options, **limit))
            said = text.count('The run goes on; what was saved before is as it was')
            went_on = 'iter 30,' in text and process.returncode in (0, 2) and 'Traceback' not in text
            what = 'full tmpfs' if mounted else 'limited file size'
            self.row(f'{what}, checkpoints that did not fit', said, said * went_on, '-', len(unreadable(disk)))
            beside = text.count('The run goes on without it')
            self.row(f'{what}, others that did not fit', beside, beside * went_on, '-', 0)
        finally:
            if mounted:
                subprocess.run(['umount', str(disk)], check=True)

    def damaged_checkpoints(self, count: int) -> None:
        """A changed byte or a missing end: refused, or (in padding) without effect."""
        file = max((self.folder / 'experiments/whole1/training_states').glob('*.state'), key=lambda f: int(f.stem))
        content, expected = file.read_bytes(), repr(load_checkpoint(file))
        copy, refused, harmless = self.folder / 'damaged.state', 0, 0
        for index in tqdm(range(count), desc='damaged checkpoints', disable=None):
            copy.write_bytes(self._damaged(content, truncated=index % 2 == 0))
            try:
                harmless += repr(load_checkpoint(copy)) == expected
            except ValueError:
                refused += 1
        self.row(
            f'damaged checkpoint: {refused} refused, the others read as they were', count, refused + harmless, '-', 0
        )

        name = 'fallback'
        shutil.copytree(self.folder / 'experiments/whole1', self.folder / 'experiments' / name)
        newest = self.folder / 'experiments' / name / 'training_states' / file.name
        newest.write_bytes(self._damaged(content, truncated=True))
        text = finish(process := start(write_options(self.folder, name), '--auto_resume'))
        survived = process.returncode == 0 and 'going back to the one before' in text
        same = survived and weights(self.folder, name) == weights(self.folder, 'whole1')
        self.row('newest state truncated, --auto_resume', 1, int(survived), f'{int(same)} of 1 runs', 0)

    def damaged_pictures(self, count: int) -> None:
        """A picture that cannot be decoded is an error that names it; one that can must have its size and no NaN."""
        picture = self.folder / 'train/HR/0.png'
        content, copy, well = picture.read_bytes(), self.folder / 'damaged.png', 0
        for index in tqdm(range(count), desc='damaged pictures', disable=None):
            copy.write_bytes(self._damaged(content, truncated=index % 2 == 0))
            try:
                image = read_image(FileClient('disk'), str(copy), 'dataroot_gt')
                well += bool(image.ndim == 3 and np.isfinite(image).all())
            except ValueError as error:
                well += str(copy) in str(error)
        self.row('damaged picture: named, or decoded', count, well, '-', 0)

    def _damaged(self, content: bytes, truncated: bool) -> bytes:
        place = self.random.randrange(len(content))
        if truncated:
            return content[:place]
        return content[:place] + bytes([content[place] ^ self.random.randrange(1, 256)]) + content[place + 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20, help='in runs of one process; half as many with two')
    parser.add_argument('--damages', type=int, default=200, help='damaged checkpoints, and as many damaged pictures')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random moments and places')
    args = parser.parse_args()
    print(machine('cpu'))
    print(line(['fault', 'faults', 'survived', 'bit-identical', 'files lost']))
    print(line(['---'] * 5))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix='faults_') as folder:
        faults = Faults(Path(folder), args.seed)
        faults.kills(args.kills, 1)
        faults.kills(args.kills // 2, 2)
        faults.signals()
        faults.killed_workers(max(1, args.kills // 4))
        faults.full_shared_memory()
        faults.full_disk()
        faults.damaged_checkpoints(args.damages)
        faults.damaged_pictures(args.damages)


if __name__ == '__main__':
    main()
