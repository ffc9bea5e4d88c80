"""Pairs of low-quality and ground-truth pictures."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import normalize

from basicsr.data.data_util import check_image_options, find_pairs, find_pictures, make_file_client, read_image
from basicsr.data.tasks import GREY_TASKS, add_unclipped_noise, compress_jpeg, makes_lq
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils.color_util import bgr2ycbcr
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import DATASET_REGISTRY


@DATASET_REGISTRY.register()
class PairedImageDataset(Dataset):
    """Pictures in two folders or LMDBs, paired by name or by a list of names; or of one, degraded here.

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
            io_backend: {type: disk}, or {type: lmdb}, for which the dataroots end in .lmdb.
            task: SR, the default, or one of these, whose scale is 1:
                denoising_color: lq is gt plus Gaussian noise of sigma `noise` / 255. In training it is drawn anew for
                    each patch; a picture's noise in val and test is always the same, `np.random.seed(0)`'s.
                denoising_gray: As that, with pictures that are read as one grey channel.
                CAR: Compression artefacts: gt is read as one grey channel, and lq is its JPEG of quality `noise`. The
                    whole picture is compressed, so that patches meet JPEG's grid anywhere.
            noise: Sigma in (0, 255], or JPEG quality, 1 to 100.

    `dataroot_lq` may be absent or the same as `dataroot_gt` where lq is made of gt. Where it is another folder,
    MambaIR's rules hold: CAR reads its pictures, and `noise` says nothing more; denoising reads them only where `noise`
    is absent.

    Items are dictionaries: lq (c, h, w) and gt (c, h * scale, w * scale), float32, RGB, Y or grey in [0, 1] before
    normalisation, save that noise exceeds that range; lq_path, gt_path, which are keys for LMDBs.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ImportError: The package lmdb is needed and absent.
        ValueError: An option is wrong, or files cannot be paired.
    """

    def __init__(self, opt: dict) -> None:
        self.makes_lq = makes_lq(opt)
        roots = ['dataroot_gt'] if self.makes_lq else ['dataroot_lq', 'dataroot_gt']
        check_image_options(opt, (*roots, 'scale', 'phase'))
        self.opt = opt
        self.scale = opt['scale']
        self.grey = opt.get('task') in GREY_TASKS
        self.training = opt['phase'] == 'train'
        if self.training and not opt.get('gt_size'):
            raise ValueError('PairedImageDataset needs gt_size in phase train')
        if (opt.get('gt_size') or 0) % self.scale:
            raise ValueError(f'gt_size {opt["gt_size"]} is no multiple of scale {self.scale}; change gt_size')
        if self.makes_lq:
            self.paths = [{'lq_path': path, 'gt_path': path} for path in find_pictures(opt, 'dataroot_gt')]
        else:
            self.paths = find_pairs(opt)
        self.file_client = make_file_client(opt, roots)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        lq_path, gt_path = self.paths[index]['lq_path'], self.paths[index]['gt_path']
        gt, lq = self._read(lq_path, gt_path)
        if self.training:
            gt, lq = paired_random_crop(gt, lq, self.opt['gt_size'], self.scale, gt_path)
            gt, lq = augment([gt, lq], bool(self.opt.get('use_hflip')), bool(self.opt.get('use_rot')))
        if self.makes_lq and self.opt['task'] != 'CAR':  # after the crop: noise of a patch costs less
            lq = add_unclipped_noise(gt, self.opt['noise'], None if self.training else 0)
        if self.opt.get('color') == 'y':
            gt, lq = bgr2ycbcr(gt, y_only=True)[..., None], bgr2ycbcr(lq, y_only=True)[..., None]
        gt, lq = img2tensor([gt, lq])
        if self.opt.get('mean') is not None:
            gt, lq = (normalize(img, self.opt['mean'], self.opt['std']) for img in (gt, lq))
        return {'lq': lq, 'gt': gt, 'lq_path': lq_path, 'gt_path': gt_path}

    def _read(self, lq_path: str, gt_path: str) -> tuple[np.ndarray, np.ndarray]:
        """(gt, lq); noise comes later, until when lq is gt."""
        gt = read_image(self.file_client, gt_path, 'dataroot_gt', self.grey)
        if self.makes_lq:
            return gt, compress_jpeg(gt, self.opt['noise']) if self.opt['task'] == 'CAR' else gt
        lq = read_image(self.file_client, lq_path, 'dataroot_lq', self.grey)
        return self._fit(gt, lq, gt_path, lq_path), lq

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
