"""Low-quality pictures made of the ground truth, for denoising and the removal of compression artefacts (CAR)."""

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
    """Whether lq is made of gt; otherwise `dataroot_lq` holds it ready-made.

    Where that is another folder, MambaIR's rules hold: CAR reads its pictures, and `noise` says nothing more; denoising
    reads them only where `noise` is absent.

    Args:
        given: The arguments of a data set: task, noise, dataroot_gt, dataroot_lq.
    """
    task, root_lq = given.get('task', 'SR'), given.get('dataroot_lq')
    if task == 'SR':
        return False
    ready = root_lq is not None and not same_folders(root_lq, given.get('dataroot_gt'))
    return not (ready and (task == 'CAR' or given.get('noise') is None))


def task_mistakes(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with task, scale, noise and dataroot_lq taken together, as (argument, message)."""
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
    """Return `img` plus white Gaussian noise, float32, as denoisers are trained and tested with it.

    `basicsr.data.degradations.add_gaussian_noise` clips, and draws other numbers.

    Args:
        img: Floats in [0, 1], of any shape.
        sigma: Standard deviation in units of 1/255.
        seed: For noise that is always the same, as of `np.random.seed(seed)`; None draws on NumPy's global numbers.
    """
    draw = np.random.normal if seed is None else np.random.RandomState(seed).normal
    return (img + draw(0, sigma / 255.0, img.shape)).astype(np.float32)


def compress_jpeg(img: np.ndarray, quality: int) -> np.ndarray:
    """Return a grey picture (h, w, 1), floats in [0, 1], as OpenCV's JPEG of 8 bits leaves it, float32."""
    levels = (img[..., 0] * 255).round().clip(0, 255).astype(np.uint8)
    content = cv2.imencode('.jpg', levels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)[..., None].astype(np.float32) / np.float32(255)
