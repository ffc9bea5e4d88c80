"""Converting pictures to the form that metrics compare."""

from __future__ import annotations

import numpy as np

from basicsr.utils.color_util import bgr2ycbcr
from basicsr.utils.img_util import crop_border as crop_picture


class NoValue(ValueError):
    """A metric has no value for a picture that it can take otherwise: a flat one, say."""


def cropped_size(height: int, width: int, crop_border: int) -> tuple[int, int]:
    """The size of a picture without `crop_border` pixels at each side.

    Raises:
        ValueError: Nothing is left.
    """
    return crop_picture(np.broadcast_to(np.uint8(0), (height, width)), crop_border).shape


def reorder_image(img: np.ndarray, input_order: str = 'HWC') -> np.ndarray:
    """Return the picture as (h, w, c).

    Args:
        img: (h, w), or three axes in `input_order`.
        input_order: 'HWC' or 'CHW'.

    Raises:
        ValueError: The order is unknown.
    """
    if input_order not in ('HWC', 'CHW'):
        raise ValueError(f'input_order is HWC or CHW, not {input_order!r}')
    if img.ndim == 2:
        return img[..., None]
    return img.transpose(1, 2, 0) if input_order == 'CHW' else img


def to_y_channel(img: np.ndarray) -> np.ndarray:
    """Return the BT.601 luma of a BGR picture (h, w, 3) in [0, 255] as float32 (h, w, 1) in [0, 255], not rounded.

    A single channel is taken to be luma and returned as it is.
    """
    unit = img.astype(np.float32) / 255.0
    if img.ndim == 3 and img.shape[2] == 3:
        unit = bgr2ycbcr(unit, y_only=True)[..., None]
    return unit * 255.0
