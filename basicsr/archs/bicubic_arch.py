"""Bicubic interpolation as a network: the baseline that every other network has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from basicsr.options.bounds import Scale
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class Bicubic(nn.Module):
    """MATLAB-style bicubic interpolation, (N, C, H, W) -> (N, C, H * upscale, W * upscale). Nothing to train.

    Args:
        upscale: Scale.
    """

    def __init__(self, upscale: Scale = 4) -> None:
        super().__init__()
        self.upscale = upscale

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([imresize(img.cpu(), self.upscale) for img in x]).to(x)
