"""Parts that several networks share."""

from __future__ import annotations

from torch import nn


class Upsample(nn.Sequential):
    """Sub-pixel convolutions: (N, num_feat, H, W) -> (N, num_feat, H * scale, W * scale).

    Args:
        scale: A power of two, or 3.
        num_feat: Channels.

    Raises:
        ValueError: Another scale.
    """

    def __init__(self, scale: int, num_feat: int) -> None:
        if scale == 3:
            factors = [3]
        elif scale >= 1 and scale & (scale - 1) == 0:
            factors = [2] * (scale.bit_length() - 1)
        else:
            raise ValueError(f'Upsample takes a power of two or 3, not scale {scale}')
        layers: list[nn.Module] = []
        for factor in factors:
            layers += [nn.Conv2d(num_feat, factor**2 * num_feat, 3, 1, 1), nn.PixelShuffle(factor)]
        super().__init__(*layers)
