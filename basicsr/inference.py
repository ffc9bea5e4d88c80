"""Applying a checkpoint to pictures, without an option file."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import rgb_to_grayscale

import basicsr.models  # noqa: F401  registers networks
from basicsr.archs import build_network
from basicsr.archs.from_weights import network_options
from basicsr.archs.traits import traits_of
from basicsr.models.self_ensemble import self_ensemble
from basicsr.models.tiling import Tiling, fitted
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights
from basicsr.utils.img_util import imfrombytes, img2tensor, imwrite, tensor2img, unit_floats
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.misc import file_fault, not_finite

_EIGHT_BITS = ('.jpg', '.jpeg', '.bmp', '.webp')
_NO_ALPHA = ('.jpg', '.jpeg', '.ppm', '.pgm')
_PROBE = 16


class Restorer:
    """Restores pictures with the network of a checkpoint.

    Args:
        checkpoint: The file. The network is determined from it, see `network_options`.
        device: Where it runs.
        tiling: How pictures are tiled; None: the network's default, or tiles of about 200 pixels.
        ensemble: Average over a picture's eight flips and rotations.
        param_key: Key of the weights in the file; None: `params_ema`, the moving average, if present, else `params`.

    Attributes:
        net: The network.
        scale: Its scale.

    Raises:
        FileNotFoundError, ValueError: No such file, not a checkpoint, or not a known network for pictures.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        device: torch.device | str = 'cpu',
        tiling: Tiling | None = None,
        ensemble: bool = False,
        param_key: str | None = None,
    ) -> None:
        content = load_checkpoint(checkpoint)
        averaged = isinstance(content, dict) and 'params_ema' in content
        weights = find_weights(content, checkpoint, param_key or ('params_ema' if averaged else 'params'))
        self.device, self.ensemble = torch.device(device), ensemble
        options = network_options(weights, checkpoint)
        if 'num_classes' in options:
            raise ValueError(
                f'{checkpoint}: the network is a classifier, which makes no pictures; scripts/inference.py writes '
                'classes to an OUTPUT that ends in .csv or .json'
            )
        self.net = build_network(options).eval()
        self.traits = traits_of(self.net, options)
        self.tiling = tiling or Tiling(self.traits.tile_size or 200, self.traits.tile_overlap)
        load_weights(self.net, weights, checkpoint)
        self.net.to(self.device)
        self.channels = next((one.in_channels for one in self.net.modules() if isinstance(one, nn.Conv2d)), 3)
        with torch.inference_mode():
            side = _PROBE + self.traits.padding(_PROBE, _PROBE)[0]
            given = self.net(torch.zeros(1, self.channels, side, side, device=self.device)).shape
        self.scale = given[-1] // side
        if self.channels not in (1, 3) or given[1] != self.channels:
            raise ValueError(
                f'{checkpoint}: the network makes {given[1]} channels of {self.channels}; it must be 3 of 3, or 1 of 1'
            )

    def __call__(self, img: np.ndarray) -> np.ndarray:
        """Restore a picture.

        A grey picture stays grey, even if the network takes colours; a network for grey pictures gets each channel
        separately. An alpha channel is enlarged by bicubic interpolation.

        Args:
            img: (h, w), (h, w, 3) BGR or (h, w, 4) BGRA; uint8, uint16, or floats in [0, 1].

        Returns:
            (h * scale, w * scale[, 3 or 4]) of the same type; uint16 for floats.

        Raises:
            ValueError: Another type, range of values or number of channels; or the network's output is not finite.
        """
        planes = img[..., None] if img.ndim == 2 else img
        if planes.shape[2] not in (1, 3, 4):
            raise ValueError(f'pictures have 1, 3 or 4 channels, not {planes.shape[2]}')
        values = unit_floats(planes)
        dtype = np.uint16 if np.issubdtype(img.dtype, np.floating) else img.dtype.type
        output = self._restore(img2tensor(values[..., :3]))
        if broken := not_finite(output):
            raise ValueError(f'of what the network makes of it, {broken}')
        result = tensor2img(output, out_type=dtype)
        if planes.shape[2] < 4:
            return result
        alpha = tensor2img(imresize(img2tensor(values[..., 3:]), self.scale), out_type=dtype)
        return np.dstack([result, alpha])

    @torch.inference_mode()
    def _restore(self, lq: Tensor) -> Tensor:
        """(c, h, w) in [0, 1] -> (c, h * scale, w * scale), for c = 1 or 3, whatever the network takes."""
        grey = len(lq) == 1
        batch = lq[:, None] if self.channels == 1 else lq.expand(3, -1, -1)[None]
        infer = partial(self.tiling.run, partial(fitted, self.net, self.traits, scale=self.scale), scale=self.scale)
        batch = batch.to(self.device)
        output = (self_ensemble(infer, batch) if self.ensemble else infer(batch)).float().cpu()
        if self.channels == 1:
            return output[:, 0]
        return rgb_to_grayscale(output)[0] if grey else output[0]


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """Read a picture at its own bit depth: (h, w), (h, w, 3) BGR or (h, w, 4) BGRA.

    A picture without alpha is rotated as its EXIF data say.

    Raises:
        OSError, ValueError: It cannot be read, or is not a picture.
    """
    if fault := file_fault(path):
        raise OSError(f'it is {fault}')
    content = Path(path).read_bytes()
    img = imfrombytes(content, 'unchanged')
    return img if img.ndim == 3 and img.shape[2] not in (1, 3) else imfrombytes(content, 'upright')


def write_picture(img: np.ndarray, path: str | os.PathLike) -> None:
    """Write a picture atomically, with 8 bits if the format has no more.

    Raises:
        OSError, ValueError: It cannot be written, or the format has no alpha channel for it.
    """
    path = Path(path)
    extension = path.suffix.lower()
    if img.ndim == 3 and img.shape[2] == 4 and extension in _NO_ALPHA:
        raise ValueError(f'it has an alpha channel, and {extension} has none; write it as .png')
    if img.dtype == np.uint16 and extension in _EIGHT_BITS:
        img = cv2.convertScaleAbs(img, alpha=1 / 257)
    temporary = path.with_name(f'.{path.stem}.partial{path.suffix}')
    try:
        imwrite(img, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
