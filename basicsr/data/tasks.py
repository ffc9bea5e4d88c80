"""Low-quality pictures made of the ground truth, for denoising and the removal of compression artefacts (CAR)."""

from __future__ import annotations

import logging
import os

import cv2
import numpy as np

GREY_TASKS = ('denoising_gray', 'CAR')
TASKS = ('SR', 'denoising_color', *GREY_TASKS)


def makes_lq(opt: dict) -> bool:
    """Whether the task of a dataset's section makes lq of gt; otherwise `dataroot_lq` holds it ready-made.

    Raises:
        ValueError: An unknown task, a scale that is not 1, or a `noise` that is missing or out of range.
    """
    task, noise = opt.get('task') or 'SR', opt.get('noise')
    if task not in TASKS:
        raise ValueError(f'task is one of {", ".join(TASKS)}, not {task!r}')
    if task == 'SR':
        if noise:
            raise ValueError(f'noise {noise!r} has no meaning in task SR; the tasks are {", ".join(TASKS)}')
        return False
    if opt.get('scale', 1) != 1:
        raise ValueError(f'task {task} keeps the size of pictures: scale must be 1, not {opt["scale"]!r}')
    root_lq, root_gt = opt.get('dataroot_lq'), opt.get('dataroot_gt')
    ready = root_lq is not None and os.path.abspath(root_lq) != os.path.abspath(str(root_gt))
    if ready and (task == 'CAR' or noise is None):
        return False
    _check_noise(task, noise)
    if ready:
        logging.getLogger('basicsr').warning(
            'task %s with noise %s adds noise to dataroot_gt; dataroot_lq %r is not read: leave noise out to read it',
            *(task, noise, root_lq),
        )
    return True


def _check_noise(task: str, noise: object) -> None:
    if task == 'CAR':
        what, right = 'the JPEG quality, a whole number from 1 to 100', isinstance(noise, int) and 1 <= noise <= 100
    else:
        what, right = "the noise's sigma, above 0 and at most 255", isinstance(noise, int | float) and 0 < noise <= 255
    if not right or isinstance(noise, bool):
        given = 'it is missing' if noise is None else f'it is {noise!r}'
        raise ValueError(f'task {task} needs noise, {what}; {given}. Or let dataroot_lq name ready-made pictures')


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
