"""Pairs of low-quality and ground-truth pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize

from basicsr.data.contract import accepts_opt
from basicsr.data.data_util import read_image
from basicsr.data.folders import (
    IOBackend,
    Paths,
    find_pairs,
    find_pictures,
    folder_mistakes,
    io_backend_options,
    make_file_client,
    same_folders,
)
from basicsr.data.pictures import Deviations, Means, Noise, Size, picture_mistakes
from basicsr.data.tasks import GREY_TASKS, Task, add_unclipped_noise, compress_jpeg, makes_lq, task_mistakes
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils.color_util import bgr2ycbcr
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
@accepts_opt
class PairedImageDataset(Dataset):
    """Pictures in two folders or LMDBs, paired by name or by a list of names; or in one, degraded on the fly.

    Items are dictionaries: lq (c, h, w) and gt (c, h * scale, w * scale), float32, RGB, Y or grey, in [0, 1] before
    normalisation, a range that noise may exceed; lq_path and gt_path, which are keys for an LMDB, and `<LMDB>/<key>`
    for several. Training uses random, augmented patches; otherwise pictures are whole.

    BasicSR's call `PairedImageDataset(opt)`, with a section of the options, works as well.

    Args:
        dataroot_gt: Folder of the ground-truth pictures, or several; with io_backend lmdb, LMDBs.
        dataroot_lq: Folder of the low-quality pictures, or as many as for the ground truth, paired in order. If the
            task makes lq from gt, it is left out or the same.
        scale: Ratio of the sizes of gt and lq.
        phase: train, val or test.
        gt_size: Training: side of the ground-truth patches in pixels, a multiple of scale.
        meta_info_file: Text file that names the pictures to use, one per line; default: all. With several folders, one
            file for each, or a single one whose names are looked up in all of them.
        meta_info: Another name for meta_info_file.
        filename_tmpl: Template that turns a ground-truth file's name into the low-quality one's: '{}x4'.
        use_hflip: Training: random horizontal flips.
        use_rot: Training: random rotations by 90 degrees.
        color: y reads the luma channel alone, in training as well as in validation.
        mean: Subtracted from each channel; needs std.
        std: Divides each channel; needs mean.
        io_backend: How files are read.
        task: What the pairs are for: SR reads both folders; denoising_color, denoising_gray and CAR (compression
            artefacts) make lq from gt, by noise or by JPEG, at scale 1. denoising_gray and CAR read one grey channel.
        noise: For denoising, the standard deviation of the noise in [0, 255]; the noise is random for each training
            patch and fixed in val and test. For CAR, the JPEG quality, 1 to 100, of the whole picture. If dataroot_lq
            is a different folder, CAR reads it, and so does denoising if noise is left out.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ImportError: The package lmdb is needed but not installed.
        ValueError: An option is wrong, or files cannot be paired.
    """

    def __init__(
        self,
        dataroot_gt: Paths,
        dataroot_lq: Paths | None = None,
        *,
        scale: Size,
        phase: Literal['train', 'val', 'test'],
        gt_size: Size | None = None,
        meta_info_file: Paths | None = None,
        meta_info: Paths | None = None,
        filename_tmpl: str = '{}',
        use_hflip: bool = False,
        use_rot: bool = False,
        color: Literal['y', 'rgb'] = 'rgb',
        mean: Means | None = None,
        std: Deviations | None = None,
        io_backend: IOBackend | None = None,
        task: Task = 'SR',
        noise: Noise | None = None,
    ) -> None:
        self.gt_folder, self.lq_folder = dataroot_gt, dataroot_lq
        self.filename_tmpl, self.mean, self.std = filename_tmpl, mean, std
        self.task, self.noise, self.color = task, noise, color
        self.scale, self.gt_size = scale, gt_size
        self.use_hflip, self.use_rot = use_hflip, use_rot
        self.training, self.grey = phase == 'train', task in GREY_TASKS
        given = {'task': task, 'noise': noise, 'dataroot_gt': dataroot_gt, 'dataroot_lq': dataroot_lq}
        self.makes_lq = makes_lq(given)
        roots = {'gt': dataroot_gt} if self.makes_lq else {'lq': dataroot_lq, 'gt': dataroot_gt}
        self.io_backend_opt = io_backend_options(io_backend, roots)
        names, lmdb = meta_info_file or meta_info, self.io_backend_opt['type'] == 'lmdb'
        if self.makes_lq:
            self._warn_of_unread_lq()
            self.paths = [{'lq_path': p, 'gt_path': p} for p in find_pictures(dataroot_gt, 'dataroot_gt', names, lmdb)]
        else:
            self.paths = find_pairs(dataroot_lq, dataroot_gt, filename_tmpl, names, lmdb)
        self.file_client = make_file_client(self.io_backend_opt)

    @staticmethod
    def check_options(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Mistakes that involve more than one argument, as (argument, message)."""
        yield from picture_mistakes(given)
        yield from task_mistakes(given)
        yield from folder_mistakes(given, ['dataroot_gt'] if makes_lq(given) else ['dataroot_gt', 'dataroot_lq'])
        size, scale = given.get('gt_size'), given.get('scale', 1)
        if size is None and given.get('phase') == 'train':
            yield 'gt_size', 'missing; training needs it'
        elif size is not None and size % scale:
            yield 'gt_size', f'must be a multiple of scale {scale}, not {size}'

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        lq_path, gt_path = self.paths[index]['lq_path'], self.paths[index]['gt_path']
        gt, lq = self._read(lq_path, gt_path)
        if self.training:
            gt, lq = paired_random_crop(gt, lq, self.gt_size, self.scale, gt_path)
            gt, lq = augment([gt, lq], self.use_hflip, self.use_rot)
        if self.makes_lq and self.task != 'CAR':  # after the crop: noise on a patch is cheaper
            lq = add_unclipped_noise(gt, self.noise, None if self.training else 0)
        if self.color == 'y':
            gt, lq = bgr2ycbcr(gt, y_only=True)[..., None], bgr2ycbcr(lq, y_only=True)[..., None]
        gt, lq = img2tensor([gt, lq])
        if self.mean is not None:
            gt, lq = (normalize(img, self.mean, self.std) for img in (gt, lq))
        return {'lq': lq, 'gt': gt, 'lq_path': lq_path, 'gt_path': gt_path}

    def _read(self, lq_path: str, gt_path: str) -> tuple[np.ndarray, np.ndarray]:
        """(gt, lq); until noise is added later, lq is gt."""
        gt = read_image(self.file_client, gt_path, 'dataroot_gt', self.grey)
        if self.makes_lq:
            return gt, compress_jpeg(gt, int(self.noise)) if self.task == 'CAR' else gt
        lq = read_image(self.file_client, lq_path, 'dataroot_lq', self.grey)
        return self._fit(gt, lq, gt_path, lq_path), lq

    def _fit(self, gt: np.ndarray, lq: np.ndarray, gt_path: str, lq_path: str) -> np.ndarray:
        """Return gt with `scale` times the size of lq; outside training, a remainder of the division is cropped."""
        height, width = lq.shape[0] * self.scale, lq.shape[1] * self.scale
        spare = (gt.shape[0] - height, gt.shape[1] - width)
        allowed = 0 if self.training else self.scale - 1
        if not all(0 <= pixels <= allowed for pixels in spare):
            raise ValueError(
                f'gt {gt_path} of {gt.shape[0]}x{gt.shape[1]} is not scale {self.scale} times lq {lq_path} of '
                f'{lq.shape[0]}x{lq.shape[1]} (height x width); check scale, the pairing and how lq was made'
            )
        return gt[:height, :width]

    def _warn_of_unread_lq(self) -> None:
        if self.lq_folder is not None and not same_folders(self.lq_folder, self.gt_folder):
            logging.getLogger('basicsr').warning(
                'task %s with noise %s adds noise to dataroot_gt; dataroot_lq %r is not read: leave noise out to '
                'read it',
                *(self.task, self.noise, self.lq_folder),
            )
