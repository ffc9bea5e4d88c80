"""Low-quality pictures made from the ground truth, for denoising and compression artefact removal (CAR)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import cv2
import numpy as np

from basicsr.data.folders import same_folders

Task = Literal['SR', 'denoising_color', 'denoising_gray', 'CAR']
TASKS = get_args(Task)
GREY_TASKS = ('denoising_gray', 'CAR')


def makes_lq(given: Mapping[str, Any]) -> bool:
    """Whether lq is made from gt; otherwise it is read from `dataroot_lq`.

    If that is a different folder, MambaIR's rules apply: CAR reads its pictures and ignores `noise`; denoising reads
    them only if `noise` is left out.

    Args:
        given: The arguments of a data set: task, noise, dataroot_gt, dataroot_lq.
    """
    task, root_lq = given.get('task', 'SR'), given.get('dataroot_lq')
    if task == 'SR':
        return False
    ready = root_lq is not None and not same_folders(root_lq, given.get('dataroot_gt'))
    return not (ready and (task == 'CAR' or given.get('noise') is None))


def task_mistakes(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Mistakes in the combination of task, scale, noise and dataroot_lq, as (argument, message)."""
    task, noise = given.get('task', 'SR'), given.get('noise')
    if task == 'SR':
        if given.get('dataroot_lq') is None:
            yield 'dataroot_lq', 'missing; task SR reads it'
        if noise:
            yield 'noise', f'has no meaning in task SR: {noise!r}; name a task, or leave it out'
        return
    if given.get('scale', 1) != 1:
        yield 'task', f'{task} keeps the size of pictures: scale must be 1, not {given["scale"]!r}'
    if noise is None:
        if makes_lq(given):
            yield 'noise', f'missing; task {task} makes lq of gt with it, or reads lq from a folder of its own'
    elif task == 'CAR':
        if not (_is_number(noise) and 1 <= noise <= 100 and float(noise).is_integer()):
            yield 'noise', f'is the JPEG quality of task CAR: a whole number from 1 to 100, not {noise!r}'
    elif not (_is_number(noise) and 0 < noise <= 255):
        yield 'noise', f'must be above 0 and at most 255 in task {task}, not {noise!r}'


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def add_unclipped_noise(img: np.ndarray, sigma: float, seed: int | None = None) -> np.ndarray:
    """Return `img` plus white Gaussian noise, float32, in the way denoisers are trained and tested.

    `basicsr.data.degradations.add_gaussian_noise` clips, and draws different numbers.

    Args:
        img: Floats in [0, 1], of any shape.
        sigma: Standard deviation in units of 1/255.
        seed: Makes the noise reproducible, as `np.random.seed(seed)` would; None uses NumPy's global generator.
    """
    draw = np.random.normal if seed is None else np.random.RandomState(seed).normal
    return (img + draw(0, sigma / 255.0, img.shape)).astype(np.float32)


def compress_jpeg(img: np.ndarray, quality: int) -> np.ndarray:
    """Return a grey picture (h, w, 1), floats in [0, 1], after 8-bit JPEG compression by OpenCV, float32."""
    levels = (img[..., 0] * 255).round().clip(0, 255).astype(np.uint8)
    content = cv2.imencode('.jpg', levels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)[..., None].astype(np.float32) / np.float32(255)
