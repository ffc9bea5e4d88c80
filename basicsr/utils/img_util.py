"""Pictures as files, numpy arrays (HWC, BGR, as in OpenCV) and torch tensors (CHW, RGB)."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from basicsr.utils.misc import is_out_of_memory, not_finite

_READ_FLAGS = {
    'color': cv2.IMREAD_COLOR,
    'grayscale': cv2.IMREAD_GRAYSCALE,
    'unchanged': cv2.IMREAD_UNCHANGED,
    'upright': cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH,
}
_OVERSHOOT = 0.5
"""How far values of a picture of floats may lie outside of [0, 1], where resampling sharp edges leaves them."""
_ANIMATED = (b'\x89PNG\r\n\x1a\n', b'RIFF', b'GIF8')
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_NO_PAGE = 1 | 4
"""Bits of a TIFF's tag 254: a reduced copy, a mask."""


def img2tensor(
    imgs: np.ndarray | list[np.ndarray], bgr2rgb: bool = True, float32: bool = True
) -> Tensor | list[Tensor]:
    """Convert HWC pictures to CHW tensors; values are not scaled.

    Args:
        imgs: One picture or a list of them, (h, w, c).
        bgr2rgb: Reverse the channels of three-channel pictures.
        float32: Convert to float32; otherwise the type stays.

    Returns:
        A tensor (c, h, w), or a list of them for a list.
    """
    if isinstance(imgs, list):
        return [img2tensor(img, bgr2rgb, float32) for img in imgs]
    if imgs.ndim != 3:
        raise ValueError(f'img2tensor takes pictures of shape (h, w, c), not {imgs.shape}; add the channel axis')
    img = imgs[..., ::-1] if bgr2rgb and imgs.shape[2] == 3 else imgs
    tensor = torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1)))
    return tensor.float() if float32 else tensor


def tensor2img(
    tensor: Tensor | Sequence[Tensor],
    rgb2bgr: bool = True,
    out_type: type = np.uint8,
    min_max: tuple[float, float] = (0, 1),
) -> np.ndarray | list[np.ndarray]:
    """Convert tensors to pictures, clamping them to `min_max` and scaling that range to the type's.

    Args:
        tensor: One tensor or a list of them: (n, c, h, w), where n > 1 pictures are tiled into a near-square grid;
            (c, h, w) with 1 or 3 channels, RGB; or (h, w).
        rgb2bgr: Reverse the channels of three-channel pictures.
        out_type: An unsigned integer type gives rounded values from 0 to its maximum, 255 for `np.uint8`; a floating
            type gives values in [0, 1].
        min_max: Values that become black and white.

    Returns:
        (h, w, 3), or (h, w) for a single-channel picture. A list gives a list, except that a list of
        one gives the picture itself, which code written for BasicSR relies on.

        Raises:
            ValueError: A tensor has a different number of axes, or values that are NaN or infinite.
    """
    if not isinstance(tensor, Tensor):
        imgs = [_to_picture(item, rgb2bgr, out_type, min_max) for item in tensor]
        return imgs[0] if len(imgs) == 1 else imgs
    return _to_picture(tensor, rgb2bgr, out_type, min_max)


def _to_picture(tensor: Tensor, rgb2bgr: bool, out_type: type, min_max: tuple[float, float]) -> np.ndarray:
    if broken := not_finite(tensor):
        raise ValueError(f'{broken} in a tensor of shape {tuple(tensor.shape)}, of which there is no picture')
    low, high = min_max
    scaled = (tensor.detach().float().cpu().clamp(low, high) - low) / (high - low)
    if scaled.ndim == 4:
        count = len(scaled)
        scaled = scaled[0] if count == 1 else make_grid(scaled, nrow=math.isqrt(count), normalize=False)
    if scaled.ndim == 3:
        img = scaled.numpy().transpose(1, 2, 0)
        if img.shape[2] == 1:
            img = img[..., 0]
        elif img.shape[2] == 3 and rgb2bgr:
            img = img[..., ::-1]
    elif scaled.ndim == 2:
        img = scaled.numpy()
    else:
        raise ValueError(f'tensor2img takes tensors of 2, 3 or 4 axes, not one of shape {tuple(tensor.shape)}')
    if np.issubdtype(out_type, np.integer):
        img = (img * float(np.iinfo(out_type).max)).round()
    return np.ascontiguousarray(img.astype(out_type))


def imfrombytes(content: bytes, flag: str = 'color', float32: bool = False) -> np.ndarray:
    """Decode the bytes of a picture file.

    Args:
        content: The whole file.
        flag: 'color' (h, w, 3) BGR; 'grayscale' (h, w); 'unchanged', which keeps an alpha channel and the bit depth and
            ignores EXIF orientation; 'upright', which keeps the bit depth, drops alpha, and applies EXIF orientation.
        float32: Return float32 in [0, 1], see `unit_floats`; 16-bit files are then read at full depth.

        Raises:
            ValueError: The flag is unknown, the bytes are not a picture that OpenCV can decode, or several; or, with
                `float32`, as `unit_floats`.
    """
    if flag not in _READ_FLAGS:
        raise ValueError(f'unknown flag {flag!r} for reading a picture; choose one of {", ".join(_READ_FLAGS)}')
    frames = frames_in(content)
    if frames > 1:
        raise ValueError(f'it holds {frames} pictures (frames or pages), of which one would be read: split it up')
    mode = _READ_FLAGS[flag]
    if float32 and flag in ('color', 'grayscale'):
        mode |= cv2.IMREAD_ANYDEPTH
    img = _decoded(content, mode)
    if img is None and float32:
        img = _decoded(content, cv2.IMREAD_UNCHANGED)  # floats, say, which it does not convert to colour or to grey
    if img is None:
        raise ValueError(
            f'{len(content)} bytes that are no complete picture; make the file again, as PNG, JPEG or another '
            'format that OpenCV reads'
        )
    return _with_channels(unit_floats(img), flag) if float32 else img


def _decoded(content: bytes, mode: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), mode) if len(content) else None
    except cv2.error as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f'OpenCV refuses to decode the picture of {len(content)} bytes: {error.err}') from error


def _with_channels(img: np.ndarray, flag: str) -> np.ndarray:
    """A picture of float32 in colour or grey, where `flag` says that."""
    if flag == 'color' and img.ndim == 2:
        return cv2.cvtColor(img, cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(img, cv2.COLOR_BGR2GRAY) if flag == 'grayscale' and img.ndim == 3 else img


def unit_floats(img: np.ndarray) -> np.ndarray:
    """A picture's values in [0, 1], float32.

    Args:
        img: uint8 or uint16, of which the type's maximum becomes 1; or floats, which are in [0, 1] but for what
            resampling overshoots, and stay as they are.

    Raises:
        ValueError: Another type, floats in another range, or some that are NaN or infinite.
    """
    if img.dtype in (np.uint8, np.uint16):
        return img.astype(np.float32) / np.float32(np.iinfo(img.dtype).max)
    if not np.issubdtype(img.dtype, np.floating):
        raise ValueError(f'its values are of type {img.dtype}; pictures have 8 or 16 bits, or floats in [0, 1]')
    if broken := not_finite(img):
        raise ValueError(f'{broken}; make the file again')
    low, high = img.min(), img.max()
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ValueError(f'its floats go from {low:.4g} to {high:.4g}, and must be in [0, 1]: scale them')
    return img.astype(np.float32)


def imwrite(
    img: np.ndarray, file_path: str | Path, params: Sequence[int] | None = None, auto_mkdir: bool = True
) -> None:
    """Write a picture; the extension chooses the format.

    Args:
        img: (h, w) or (h, w, c) in BGR order, uint8 or another type that the format supports.
        file_path: File to write.
        params: OpenCV's `cv2.imwrite` parameters, for example `[cv2.IMWRITE_JPEG_QUALITY, 90]`.
        auto_mkdir: Create the folder if it is missing.

    Raises:
        OSError: It could not be encoded or written.
    """
    path = Path(file_path)
    try:  # not cv2.imwrite, which a name that is not UTF-8 kills
        encoded, content = cv2.imencode(path.suffix, img, list(params or []))
    except cv2.error as error:
        raise OSError(f'could not write the picture {str(path)!r}: {error.err}') from error
    if not encoded:
        raise OSError(f'could not write the picture {str(path)!r}: OpenCV cannot encode it')
    try:
        if auto_mkdir:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise OSError(f'could not write the picture {str(path)!r}: {reason}') from error


def crop_border(imgs: np.ndarray | list[np.ndarray], crop_border: int) -> np.ndarray | list[np.ndarray]:
    """Crop `crop_border` pixels from each side of a picture (h, w[, c]), or of each picture in a list.

    Raises:
        ValueError: The border is negative or leaves nothing of a picture.
    """
    if isinstance(imgs, list):
        return [_crop_one(img, crop_border) for img in imgs]
    return _crop_one(imgs, crop_border)


def _crop_one(img: np.ndarray, border: int) -> np.ndarray:
    height, width = img.shape[:2]
    if not 0 <= 2 * border < min(height, width):
        raise ValueError(f'crop_border {border} does not fit a picture of {height}x{width} pixels')
    return img[border : height - border, border : width - border]


def frames_in(content: bytes) -> int:
    """Frames of an animated PNG, WebP or GIF, or pages of a TIFF; 1 for other files, and for damaged ones.

    Not counted are reduced copies of a TIFF's page, and what cameras put behind a JPEG: previews and gain maps.
    """
    if content.startswith(_TIFF):  # Pillow opens none whose colours are floats
        try:
            return max(1, _pages(content))
        except (struct.error, IndexError):  # truncated, which decoding tells
            return 1
    if content.startswith(_ANIMATED):
        with suppress(Exception), Image.open(io.BytesIO(content)) as picture:  # parsers raise anything for other bytes
            return picture.n_frames
    return 1


def _pages(content: bytes) -> int:
    """By the chain of directories."""
    order = '<' if content[:2] == b'II' else '>'
    big = struct.unpack_from(f'{order}H', content, 2)[0] == 43
    offset, count, size = ('Q', 'Q', 20) if big else ('I', 'H', 12)
    place, frames, seen = struct.unpack_from(order + offset, content, 8 if big else 4)[0], 0, {0}
    while place not in seen:
        seen.add(place)
        entries = struct.unpack_from(order + count, content, place)[0]
        first = place + struct.calcsize(count)
        tags = (struct.unpack_from(f'{order}HH{offset}{offset}', content, first + size * n) for n in range(entries))
        frames += not any(tag == 254 and _value(order, kind, value, big) & _NO_PAGE for tag, kind, _, value in tags)
        place = struct.unpack_from(order + offset, content, first + size * entries)[0]
    return frames


def _value(order: str, kind: int, value: int, big: bool) -> int:
    """A number that stands in an entry, at the beginning of a field of four or eight bytes."""
    unused = (8 if big else 4) - {3: 2, 4: 4}.get(kind, 0)
    return value >> 8 * unused if order == '>' else value
