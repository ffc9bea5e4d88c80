"""Data of a grid from any folder of `<camera>/{LR,HR}`: train on one camera, test on the others."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from basicsr.data.data_util import paired_paths_from_folder
from basicsr.runs.threads import in_threads
from basicsr.utils.img_util import imfrombytes, imwrite
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.misc import write_text


def find_cameras(data: Path) -> list[str]:
    """The folders in `data` that contain `LR` and `HR`, sorted.

    Raises:
        FileNotFoundError: There is no such folder, or it has no cameras.
    """
    if not data.is_dir():
        raise FileNotFoundError(f'--data: there is no folder {data}')
    cameras = sorted(one.name for one in data.iterdir() if (one / 'LR').is_dir() and (one / 'HR').is_dir())
    if len(cameras) < 2:
        found = ', '.join(cameras) or 'none'
        raise FileNotFoundError(
            f'--data: {data} needs two cameras or more, folders that hold LR and HR, to train on one and test on the '
            f'others; found: {found}'
        )
    return cameras


def prepare_cameras(
    data: Path, source: str, selection: int, scale: int, folder: Path, write: bool = True
) -> dict[str, dict]:
    """Data sets of a grid. Evenly spaced pictures of the source camera select the checkpoint; the others train.

    Bicubically reduced copies of the training pictures are made for pre-training. They and the lists of pictures go to
    `folder`.

    Args:
        data: Folder of `<camera>/{LR,HR}`, pairs with equal names.
        source: The camera to train on.
        selection: Number of its pictures that select the checkpoint.
        scale: Scale of the pairs.
        folder: Where to write.
        write: Write the files; otherwise only check the data.

    Returns:
        Sections by name: `pretrain`, `train`, `val`, and `test_<camera>` for each of the others.

    Raises:
        FileNotFoundError: There are no cameras.
        ValueError: The source is not one of them or has too few pictures, or pictures are unpaired or not to scale.
    """
    cameras = find_cameras(data)
    if source not in cameras:
        raise ValueError(f'--source: {data} has no camera {source!r}; there are {", ".join(cameras)}')
    names = {camera: _pictures(data / camera) for camera in cameras}
    own = names[source]
    if len(own) < 2 * selection:
        raise ValueError(f'{source} has {len(own)} pairs; half of them at most can select, not {selection}')
    step = len(own) / selection
    chosen = [own[int((index + 0.5) * step)] for index in range(selection)]
    training = [name for name in own if name not in chosen]
    stems = Counter(Path(name).stem for name in own)
    if twice := [stem for stem, count in stems.items() if count > 1]:
        raise ValueError(f'{data / source / "HR"} has two pictures called {twice[0]!r}; rename one')
    # Files made for one source, scale and selection are never mistaken for those of another.
    folder = folder / f'{source}_x{scale}_{selection}_{_digest([data / source / "HR" / name for name in own])}'
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        for part, part_names in (('train', training), ('selection', chosen)):
            write_text(folder / f'{part}.txt', '\n'.join(part_names) + '\n')
        _reduce(data / source / 'HR', training, scale, folder / 'bicubic')
    roots = {camera: _roots(data / camera) for camera in cameras}
    train = {**roots[source], 'meta_info_file': str(folder / 'train.txt')}
    return {
        'pretrain': {**train, 'name': f'{source}_bicubic', 'dataroot_lq': str(folder / 'bicubic')},
        'train': {**train, 'name': source},
        'val': {**roots[source], 'meta_info_file': str(folder / 'selection.txt'), 'name': source},
        **{f'test_{camera}': {**roots[camera], 'name': camera} for camera in cameras if camera != source},
    }


def _digest(files: Iterable[Path]) -> str:
    """Eight letters that depend on the files' names and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b'\0' + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:8]


def _roots(camera: Path) -> dict[str, str]:
    return {'dataroot_gt': str(camera / 'HR'), 'dataroot_lq': str(camera / 'LR')}


def _pictures(camera: Path) -> list[str]:
    pairs = paired_paths_from_folder([str(camera / 'LR'), str(camera / 'HR')], ['lq', 'gt'])
    return [Path(pair['gt_path']).name for pair in pairs]


def _reduce(folder: Path, names: list[str], scale: int, output: Path) -> None:
    """Write bicubically reduced pictures, unless they exist already."""

    def reduce(name: str) -> None:
        file, made = folder / name, (output / name).with_suffix('.png')
        if made.is_file():
            return
        gt = imfrombytes(file.read_bytes(), float32=True)
        if any(side % scale for side in gt.shape[:2]):
            raise ValueError(f'{file} of {gt.shape[0]}x{gt.shape[1]} (height x width) is no multiple of scale {scale}')
        lq = np.clip(imresize(gt, 1 / scale), 0, 1)
        temporary = made.with_name(f'.{made.name}')
        imwrite((lq * 255).round().astype(np.uint8), temporary, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        temporary.replace(made)

    in_threads(reduce, names, os.cpu_count() or 1, 'Reduce')
