"""Faults of files: damaged checkpoints, states and pictures, and numbers that are none."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from basicsr.data.data_util import read_image
from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.runs.training_state import load_training_state
from basicsr.utils.file_client import FileClient
from scripts.benchmark.fault_rows import Bench
from scripts.benchmark.trainings import ROOT, finish, start, weights, write_options

_WRONG = ('4', -1, None, 2.5, [None], {'a': None}, torch.zeros(2))
"""What no field of a training state may be; all but a few are wrong for any."""


def damaged_checkpoints(bench: Bench) -> None:
    """A changed byte or a missing end: refused, or (in padding) without effect."""
    file, count = bench.newest_state(), bench.damages
    content, expected = file.read_bytes(), repr(load_checkpoint(file))
    copy, refused, harmless = bench.folder / 'damaged.state', 0, 0
    for index in tqdm(range(count), desc='damaged checkpoints', disable=None):
        copy.write_bytes(bench.damaged(content, truncated=index % 2 == 0))
        try:
            harmless += repr(load_checkpoint(copy)) == expected
        except ValueError:
            refused += 1
    bench.row(f'damaged checkpoint: {refused} refused, the others read as they were', count, refused + harmless)

    name = 'fallback'
    shutil.copytree(bench.folder / 'experiments/whole1', bench.folder / 'experiments' / name)
    newest = bench.folder / 'experiments' / name / 'training_states' / file.name
    newest.write_bytes(bench.damaged(content, truncated=True))
    text = finish(process := start(write_options(bench.folder, name, path__resume_another_run=True), '--auto_resume'))
    survived = process.returncode == 0 and 'going back to the one before' in text
    same = survived and weights(bench.folder, name) == bench.whole(1)[0]
    bench.row('newest state truncated, --auto_resume', 1, int(survived), f'{int(same)} of 1 runs')


def fuzzed_checkpoints(bench: Bench) -> None:
    """Bits and fields of a checkpoint and a training state: refused by a message that names the file, or unharmed."""
    state = bench.newest_state()
    checkpoint, copy = state.parent.parent / 'models/net_g_latest.pth', bench.folder / 'fuzzed.pth'
    for file, read in ((checkpoint, load_checkpoint), (state, load_training_state)):
        expected, refused, harmless = repr(read(file)), 0, 0
        changes = _changes(bench, file)
        count = bench.fuzzed // 2
        for _ in tqdm(range(count), desc=f'fuzzed {file.name}', disable=None):
            copy.write_bytes(next(changes))
            try:
                harmless += repr(read(copy)) == expected
            except ValueError as error:
                refused += str(copy) in str(error)
        what = 'checkpoint' if file is checkpoint else 'training state'
        bench.row(f'bits and fields of a {what}: {refused} refused, the others harmless', count, refused + harmless)
    _fields_of_a_state(bench, state, copy)


def _changes(bench: Bench, file: Path) -> Iterator[bytes]:
    """Its bytes with a bit changed, one of 16 bits in the directory, or an entry of the archive, in turn."""
    content, draw = file.read_bytes(), bench.random
    directory = content.index(b'PK\x01\x02')
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    structural = [name for name in entries if not name.endswith(('version', 'serialization_id'))]
    while True:
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        yield bytes(changed)
        changed = bytearray(content)
        changed[draw.randrange(directory, len(content))] ^= 1 << draw.randrange(8)
        yield bytes(changed)
        place = draw.randrange(directory, len(content) - 1)
        number = draw.choice((0, 1, 0x7FFF, 0xFFFF))
        yield content[:place] + struct.pack('<H', number) + content[place + 2 :]
        name = draw.choice(structural)
        with zipfile.ZipFile(copy := bench.folder / 'other.zip', 'w') as archive:  # whose checksums are right
            for other, value in entries.items():
                archive.writestr(other, value[: len(value) // 2] if other == name else value)
        yield copy.read_bytes()


def _fields_of_a_state(bench: Bench, state: Path, copy: Path) -> None:
    """Every field of a training state by values of other types: refused, and the field is named."""
    content, refused, count = load_checkpoint(state), 0, 0
    for name in content:
        for value in _WRONG:
            if type(value) is type(content[name]) and value != -1:
                continue  # which may be right
            count += 1
            save_checkpoint({**content, name: value}, copy)
            try:
                load_training_state(copy)
            except ValueError as error:
                refused += f': {name}' in str(error) and str(copy) in str(error)
    bench.row('values of other types in a training state, named', count, refused)


def damaged_pictures(bench: Bench) -> None:
    """A picture that cannot be decoded is an error that names it; one that can must have its size and no NaN."""
    picture = bench.folder / 'train/HR/0.png'
    count = bench.damages
    content, copy, well = picture.read_bytes(), bench.folder / 'damaged.png', 0
    for index in tqdm(range(count), desc='damaged pictures', disable=None):
        copy.write_bytes(bench.damaged(content, truncated=index % 2 == 0))
        try:
            image = read_image(FileClient('disk'), str(copy), 'dataroot_gt')
            well += bool(image.ndim == 3 and np.isfinite(image).all())
        except ValueError as error:
            well += str(copy) in str(error)
    bench.row('damaged picture: named, or decoded', count, well)


def not_finite(bench: Bench) -> None:
    """NaN in weights, a network's output, a TIFF, a training picture, the loss: each named, none scored or written."""
    places: dict[str, Callable[[Bench], bool]] = {
        'weights': _in_weights,
        "a network's output": _in_the_output,
        'a TIFF that is tested': lambda bench: _in_a_picture(bench, 'val', '1.tif'),
        'a training picture': lambda bench: _in_a_picture(bench, 'train', '0.tif'),
        'the loss': _in_the_loss,
    }
    for place, survives in places.items():
        bench.row(f'NaN or infinity in {place}', 1, int(survives(bench)))


def _refused(bench: Bench, name: str, *named: str, **options: Any) -> bool:
    """Whether a run ends by a mistake that says all of `named`, before it begins or once it is saved."""
    text = finish(run := start(write_options(bench.folder, name, **options)))
    nothing_lost = not (bench.folder / 'experiments' / name).exists() or 'Saved at iteration ' in text
    return run.returncode == 2 and nothing_lost and 'Traceback' not in text and all(part in text for part in named)


def _weights_times(bench: Bench, factor: float) -> Path:
    bench.whole(1)
    content = load_checkpoint(bench.folder / 'experiments/whole1/models/net_g_latest.pth')
    for name in ('conv_first.weight', 'upsample.0.weight'):
        content['params'][name] *= factor
    save_checkpoint(content, file := bench.folder / f'times_{factor}.pth')
    return file


def _in_weights(bench: Bench) -> bool:
    file = _weights_times(bench, float('nan'))
    return _refused(bench, 'nan_weights', file.name, 'NaN or infinite', path__pretrain_network_g=str(file))


def _in_the_output(bench: Bench) -> bool:
    """Finite weights whose output overflows: no picture is written."""
    output = bench.folder / 'restored'
    command = [sys.executable, str(ROOT / 'scripts/inference.py'), str(bench.folder / 'val/LR'), str(output)]
    done = subprocess.run([*command, '-c', str(_weights_times(bench, 1e30))], capture_output=True, text=True)
    said = done.stdout + done.stderr
    return done.returncode == 2 and not list(output.rglob('*.png')) and 'NaN or infinite' in said and '0.png' in said


def _in_a_picture(bench: Bench, part: str, name: str) -> bool:
    folder = bench.folder / f'nan_{part}'
    shutil.copytree(bench.folder / part, folder)
    old = folder / 'HR' / f'{Path(name).stem}.png'
    values = cv2.imread(str(old)).astype(np.float32) / 255
    values[3, 4] = np.nan
    old.unlink()
    cv2.imwrite(str(folder / 'HR' / name), values)
    roots = {f'datasets__{part}__dataroot_{kind}': str(folder / sub) for kind, sub in (('gt', 'HR'), ('lq', 'LR'))}
    return _refused(bench, f'nan_in_{part}', name, '3 of ', 'NaN or infinite', **roots)


def _in_the_loss(bench: Bench) -> bool:
    """The weights that gave a finite loss last are saved."""
    options = {'train__optim_g': {'type': 'SGD', 'lr': 1e30}, 'train__max_bad_steps': 3}
    text = finish(run := start(write_options(bench.folder, 'nan_loss', **options)))
    files = list((bench.folder / 'experiments/nan_loss/models').glob('net_g_*.pth'))
    finite = files and all(
        value.isfinite().all() for file in files for value in load_checkpoint(file)['params'].values()
    )
    return run.returncode == 2 and bool(finite) and 'Traceback' not in text and 'Step skipped' in text
