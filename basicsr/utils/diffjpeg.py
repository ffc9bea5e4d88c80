"""Differentiable JPEG compression of batches of tensors.

The steps are those of ITU-T T.81 (JPEG) with JFIF's colours: YCbCr, chroma at half the resolution, discrete cosine
transforms of blocks of 8x8, quantisation, and back. The entropy coding is lossless and therefore left out. For
gradients, a cubic replaces rounding (Shin and Song, "JPEG-resistant Adversarial Images", 2017).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Annex K of T.81. Rows are vertical frequencies there; BasicSR takes the transpose of the luma table, and so does this
# module, to give the same numbers. The chroma table is symmetric: 99 except for its corner.
_LUMA = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMA_CORNER = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# JFIF 1.02: full range, chroma about 128. Rows give Y, Cb, Cr of R, G, B; and R, G, B of Y, Cb, Cr.
_FROM_RGB = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
_TO_RGB = [[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]

_LEAST_FACTOR = 1e-3
"""At quality 100 the tables are multiplied by 0; steps this fine change nothing."""


def diff_round(x: Tensor) -> Tensor:
    """Round, plus the cube of the rounding error: close to the integers, but with a gradient, 3 (x - round(x))²."""
    nearest = torch.round(x)
    return nearest + (x - nearest) ** 3


def quality_to_factor(quality: float | Tensor) -> float | Tensor:
    """Return the factor on the quantisation tables for a quality on the IJG's scale, from 1 (worst) to 100 (factor 0).

    Args:
        quality: A number, or a tensor of any shape.
    """
    if isinstance(quality, Tensor):
        return torch.where(quality < 50, 5000 / quality, 200 - quality * 2) / 100
    return (5000 / quality if quality < 50 else 200 - quality * 2) / 100


class DiffJPEG(nn.Module):
    """Compress and decompress pictures as JPEG does, with chroma at half the resolution (4:2:0).

    The quantisation tables are not rounded to integers. Sizes are padded with black to multiples of 16.

    Args:
        differentiable: Let gradients flow, by `diff_round`; otherwise round, as a file would.
    """

    def __init__(self, differentiable: bool = True) -> None:
        super().__init__()
        self.rounding = diff_round if differentiable else torch.round
        luma = torch.tensor(_LUMA, dtype=torch.float32).T
        chroma = torch.full((8, 8), 99.0)
        chroma[:4, :4] = torch.tensor(_CHROMA_CORNER)
        place, frequency = torch.arange(8, dtype=torch.float64), torch.arange(8, dtype=torch.float64)[:, None]
        cosines = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
        cosines[0] /= math.sqrt(2)
        for name, value in {
            'y_table': luma,
            'c_table': chroma,
            'dct': cosines.float(),  # orthonormal: its transpose is its inverse
            'from_rgb': torch.tensor(_FROM_RGB),
            'to_rgb': torch.tensor(_TO_RGB),
        }.items():
            self.register_buffer(name, value.contiguous(), persistent=False)

    def forward(self, x: Tensor, quality: float | Tensor) -> Tensor:
        """Return the pictures as they are after compression, (b, 3, h, w), in [0, 1].

        Args:
            x: (b, 3, h, w), RGB in [0, 1].
            quality: Above 0 and at most 100; a number, or a tensor (b,) with one for each picture.

        Raises:
            ValueError: A quality is out of range, or there are not as many as pictures.
        """
        factor = self._factor(x, quality)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 16, 0, -height % 16))
        y, chroma = self._to_ycbcr(x * 255).split((1, 2), dim=1)
        y = self._compress(y - 128, self.y_table * factor) + 128
        chroma = F.avg_pool2d(chroma, 2)
        chroma = self._compress(chroma - 128, self.c_table * factor) + 128
        chroma = chroma.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        rgb = self._to_rgb(torch.cat([y, chroma], dim=1)).clamp(0, 255) / 255
        return rgb[..., :height, :width]

    def _factor(self, x: Tensor, quality: float | Tensor) -> Tensor:
        """(b or 1, 1, 1, 1, 1, 1): as many axes as a picture's blocks have."""
        qualities = torch.as_tensor(quality, dtype=x.dtype, device=x.device).reshape(-1)
        if len(qualities) not in (1, len(x)):
            raise ValueError(f'there are {len(qualities)} qualities for {len(x)} pictures')
        if not bool(((qualities > 0) & (qualities <= 100)).all()):
            raise ValueError(f'the quality of JPEG is above 0 and at most 100, not {quality}')
        return quality_to_factor(qualities).clamp(min=_LEAST_FACTOR).view(-1, 1, 1, 1, 1, 1)

    def _to_ycbcr(self, rgb: Tensor) -> Tensor:
        return torch.einsum('oc,bchw->bohw', self.from_rgb, rgb) + rgb.new_tensor([0, 128, 128]).view(3, 1, 1)

    def _to_rgb(self, ycbcr: Tensor) -> Tensor:
        return torch.einsum('oc,bchw->bohw', self.to_rgb, ycbcr - ycbcr.new_tensor([0, 128, 128]).view(3, 1, 1))

    def _compress(self, x: Tensor, table: Tensor) -> Tensor:
        """Quantise the blocks of (b, c, h, w) in the frequency domain.

        Args:
            x: Pictures centred at 0, h and w multiples of 8.
            table: Steps, broadcastable to (b, c, h / 8, w / 8, 8, 8).
        """
        b, c, height, width = x.shape
        blocks = x.view(b, c, height // 8, 8, width // 8, 8).transpose(3, 4)
        frequencies = self.dct @ blocks @ self.dct.T
        blocks = self.dct.T @ (self.rounding(frequencies / table) * table) @ self.dct
        return blocks.transpose(3, 4).reshape(b, c, height, width)
