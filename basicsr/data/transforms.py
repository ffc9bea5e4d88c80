"""Cropping, flipping and rotating pictures. Random choices use Python's `random`, as in BasicSR."""

from __future__ import annotations

import random
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

Picture = TypeVar('Picture', np.ndarray, Tensor)


def mod_crop(img: np.ndarray, scale: int) -> np.ndarray:
    """Crop (h, w[, c]) at the right and bottom so that both sides are multiples of `scale`; returns a copy."""
    if img.ndim not in (2, 3):
        raise ValueError(f'mod_crop takes pictures of shape (h, w) or (h, w, c), not {img.shape}')
    height, width = img.shape[:2]
    return img[: height - height % scale, : width - width % scale].copy()


def paired_random_crop(
    img_gts: Picture | list[Picture],
    img_lqs: Picture | list[Picture],
    gt_patch_size: int,
    scale: int,
    gt_path: str | None = None,
) -> tuple[Picture | list[Picture], Picture | list[Picture]]:
    """Crop the same random region from ground-truth and low-quality pictures.

    Args:
        img_gts: One picture or a list of them, all of one size: numpy (h, w[, c]) or torch (…, h, w).
        img_lqs: Likewise, `scale` times smaller.
        gt_patch_size: Side of the ground-truth patch; the low-quality patch is gt_patch_size // scale wide.
        scale: Ratio of the sizes.
        gt_path: File name for error messages.

    Returns:
        The patches, gt and lq; a list of one picture gives the patch itself.

    Raises:
        ValueError: The sizes do not fit the scale, or the patch is larger than the pictures.
    """
    gts = img_gts if isinstance(img_gts, list) else [img_gts]
    lqs = img_lqs if isinstance(img_lqs, list) else [img_lqs]
    (h_gt, w_gt), (h_lq, w_lq) = _size(gts[0]), _size(lqs[0])
    lq_patch_size = gt_patch_size // scale
    sizes = f'gt {h_gt}x{w_gt}, lq {h_lq}x{w_lq} (height x width), scale {scale}, gt_path {gt_path}'
    if (h_gt, w_gt) != (h_lq * scale, w_lq * scale):
        raise ValueError(f'gt is not {scale} times the size of lq: {sizes}')
    if min(h_lq, w_lq) < lq_patch_size:
        raise ValueError(f'the pictures are smaller than the patch; lower gt_size {gt_patch_size}: {sizes}')

    top = random.randint(0, h_lq - lq_patch_size)
    left = random.randint(0, w_lq - lq_patch_size)
    lqs = [_crop(img, top, left, lq_patch_size) for img in lqs]
    gts = [_crop(img, top * scale, left * scale, gt_patch_size) for img in gts]
    return _bare(gts), _bare(lqs)


def augment(
    imgs: np.ndarray | list[np.ndarray],
    hflip: bool = True,
    rotation: bool = True,
    flows: np.ndarray | list[np.ndarray] | None = None,
    return_status: bool = False,
) -> np.ndarray | list[np.ndarray] | tuple:
    """Flip and rotate pictures at random, all in the same way: one of the eight symmetries of the square.

    Args:
        imgs: One picture or a list of them, (h, w[, c]).
        hflip: Allow horizontal flips.
        rotation: Allow vertical flips and transposition, which together with horizontal flips give all rotations by 90
            degrees.
        flows: One optical flow or a list of them, (h, w, 2) with components x and y, transformed likewise.
        return_status: Also return what was done (not with `flows`).

    Returns:
        The pictures; with `flows`, (pictures, flows); with `return_status`, (pictures, (hflip, vflip, rot90)).
        A list of one gives its element. The arrays are contiguous copies.
    """
    flip_x = hflip and random.random() < 0.5
    flip_y = rotation and random.random() < 0.5
    swap = rotation and random.random() < 0.5

    def transform(img: np.ndarray) -> np.ndarray:
        img = img[:, ::-1] if flip_x else img
        img = img[::-1] if flip_y else img
        return np.array(img.swapaxes(0, 1) if swap else img, order='C')

    def transform_flow(flow: np.ndarray) -> np.ndarray:
        flow = transform(flow)
        flow *= np.array([-1 if flip_x else 1, -1 if flip_y else 1], flow.dtype)
        return np.ascontiguousarray(flow[..., ::-1]) if swap else flow

    done = _bare([transform(img) for img in (imgs if isinstance(imgs, list) else [imgs])])
    if flows is not None:
        return done, _bare([transform_flow(flow) for flow in (flows if isinstance(flows, list) else [flows])])
    return (done, (flip_x, flip_y, swap)) if return_status else done


def img_rotate(
    img: np.ndarray, angle: float, center: tuple[float, float] | None = None, scale: float = 1.0
) -> np.ndarray:
    """Rotate a picture (h, w[, c]) by `angle` degrees counter-clockwise; its size stays, uncovered corners are black.

    Args:
        img: The picture.
        angle: Degrees.
        center: Point (x, y) to rotate about; the picture's centre by default.
        scale: Also enlarge by this factor.
    """
    height, width = img.shape[:2]
    matrix = cv2.getRotationMatrix2D(center or (width // 2, height // 2), angle, scale)
    return cv2.warpAffine(img, matrix, (width, height))


def _size(img: Picture) -> tuple[int, int]:
    height, width = img.shape[-2:] if torch.is_tensor(img) else img.shape[:2]
    return height, width


def _crop(img: Picture, top: int, left: int, size: int) -> Picture:
    rows, columns = slice(top, top + size), slice(left, left + size)
    return img[..., rows, columns] if torch.is_tensor(img) else img[rows, columns]


def _bare(items: list) -> list | np.ndarray | Tensor:
    return items[0] if len(items) == 1 else items
