"""Pairs of low-quality and ground-truth pictures."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize

from basicsr.data.data_util import (
    check_image_options,
    make_file_client,
    paired_paths_from_folder,
    paired_paths_from_meta_info_file,
    read_image,
)
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils.color_util import bgr2ycbcr
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class PairedImageDataset(Dataset):
    """Pictures in two folders, paired by name or by a list of names.

    Args:
        opt: The dataset's section of the options:
            dataroot_gt, dataroot_lq: The folders.
            scale: Ratio of their sizes.
            phase: train, val or test. Training cuts random patches and augments them; otherwise pictures are whole.
            meta_info_file (or meta_info): Text file that names the pictures to use, default all.
            filename_tmpl: Makes a low-quality name of a ground-truth name, default '{}'.
            gt_size: Side of the ground-truth patches; needed for training.
            use_hflip, use_rot: Augment with flips and with turns; default false.
            color: y for the luma channel alone, in training as well as in validation; default rgb.
            mean, std: Normalise the channels with these numbers, default not.
            io_backend: {type: disk}.
            task: SR, the default and only one.

    Items are dictionaries: lq (c, h, w) and gt (c, h * scale, w * scale), float32, RGB or Y in [0, 1] before
    normalisation; lq_path, gt_path.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: An option is wrong, or files cannot be paired.
    """

    def __init__(self, opt: dict) -> None:
        check_image_options(opt, ('dataroot_gt', 'dataroot_lq', 'scale', 'phase'))
        if (opt.get('task') or 'SR') != 'SR':
            raise ValueError(f'task {opt["task"]!r} is not supported yet; PairedImageDataset does task SR only')
        self.opt = opt
        self.scale = opt['scale']
        self.training = opt['phase'] == 'train'
        if self.training and not opt.get('gt_size'):
            raise ValueError('PairedImageDataset needs gt_size in phase train')
        if (opt.get('gt_size') or 0) % self.scale:
            raise ValueError(f'gt_size {opt["gt_size"]} is no multiple of scale {self.scale}; change gt_size')
        self.file_client = make_file_client(opt)

        folders, keys = [opt['dataroot_lq'], opt['dataroot_gt']], ['lq', 'gt']
        template = opt.get('filename_tmpl') or '{}'
        meta_info = opt.get('meta_info_file') or opt.get('meta_info')
        if meta_info:
            self.paths = paired_paths_from_meta_info_file(folders, keys, meta_info, template)
        else:
            self.paths = paired_paths_from_folder(folders, keys, template)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        lq_path, gt_path = self.paths[index]['lq_path'], self.paths[index]['gt_path']
        lq = read_image(self.file_client, lq_path, 'dataroot_lq')
        gt = self._fit(read_image(self.file_client, gt_path, 'dataroot_gt'), lq, gt_path, lq_path)
        if self.training:
            gt, lq = paired_random_crop(gt, lq, self.opt['gt_size'], self.scale, gt_path)
            gt, lq = augment([gt, lq], bool(self.opt.get('use_hflip')), bool(self.opt.get('use_rot')))
        if self.opt.get('color') == 'y':
            gt, lq = bgr2ycbcr(gt, y_only=True)[..., None], bgr2ycbcr(lq, y_only=True)[..., None]
        gt, lq = img2tensor([gt, lq])
        if self.opt.get('mean') is not None:
            gt, lq = (normalize(img, self.opt['mean'], self.opt['std']) for img in (gt, lq))
        return {'lq': lq, 'gt': gt, 'lq_path': lq_path, 'gt_path': gt_path}

    def _fit(self, gt: np.ndarray, lq: np.ndarray, gt_path: str, lq_path: str) -> np.ndarray:
        """Return gt with `scale` times the size of lq; outside training, a remainder of the division is cut off."""
        height, width = lq.shape[0] * self.scale, lq.shape[1] * self.scale
        spare = (gt.shape[0] - height, gt.shape[1] - width)
        allowed = 0 if self.training else self.scale - 1
        if not all(0 <= pixels <= allowed for pixels in spare):
            raise ValueError(
                f'gt {gt_path} of {gt.shape[0]}x{gt.shape[1]} is not scale {self.scale} times lq {lq_path} of '
                f'{lq.shape[0]}x{lq.shape[1]} (height x width); check scale, the pairing and how lq was made'
            )
        return gt[:height, :width]
