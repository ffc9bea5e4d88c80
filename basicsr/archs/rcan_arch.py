"""RCAN, the residual channel attention network, with BasicSR's arguments and names of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Len
from torch import Tensor, nn

from basicsr.archs.arch_util import count_numbers, make_layer
from basicsr.archs.edsr_arch import ResidualSR
from basicsr.options.bounds import Blocks, Channels, Positive, Scale, Unit
from basicsr.utils.registry import ARCH_REGISTRY


class ChannelAttention(nn.Module):
    """Scale each channel of (N, C, H, W) by a function of the channels' means (section 3.3, equations 5 to 9).

    Args:
        num_feat: Channels C.
        squeeze_factor: Factor by which the bottleneck reduces the channels.
    """

    def __init__(self, num_feat: int, squeeze_factor: int = 16) -> None:
        super().__init__()
        squeezed = num_feat // squeeze_factor
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(num_feat, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, num_feat, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class RCAB(nn.Module):
    """Residual channel attention block: x + res_scale * attention(conv(relu(conv(x)))) on (N, num_feat, H, W)."""

    def __init__(self, num_feat: int, squeeze_factor: int = 16, res_scale: float = 1) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.rcab = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, 1, 1),
            ChannelAttention(num_feat, squeeze_factor),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.rcab(x) * self.res_scale + x


class ResidualGroup(nn.Module):
    """`num_block` blocks and a convolution, with a skip around them, on (N, num_feat, H, W)."""

    def __init__(self, num_feat: int, num_block: int, squeeze_factor: int = 16, res_scale: float = 1) -> None:
        super().__init__()
        self.residual_group = make_layer(
            RCAB, num_block, num_feat=num_feat, squeeze_factor=squeeze_factor, res_scale=res_scale
        )
        self.conv = nn.Conv2d(num_feat, num_feat, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.residual_group(x)) + x


@ARCH_REGISTRY.register()
class RCAN(ResidualSR):
    """Residual groups of blocks with channel attention, then sub-pixel convolutions.

    (N, num_in_ch, H, W) -> (N, num_out_ch, H * upscale, W * upscale). Zhang et al., "Image Super-Resolution Using Very
    Deep Residual Channel Attention Networks", ECCV 2018.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output; as many as in the input.
        num_feat: Channels of the features.
        num_group: Residual groups.
        num_block: Blocks per group.
        squeeze_factor: Factor by which the attention's bottleneck reduces the channels.
        upscale: A power of two, or 3.
        res_scale: Weight of a block's branch.
        img_range: Range of values inside the network: 255.0 or 1.0.
        rgb_mean: Mean of each channel, subtracted before and added after.

        Raises:
            ValueError: Another scale, channels without a mean, or fewer features than `squeeze_factor`.
    """

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
        squeeze = weights.get('body.0.residual_group.0.rcab.3.attention.1.weight')
        if squeeze is None:
            return None
        ends = RCAN.options_of_both_ends(weights)
        return {
            **ends,
            'num_group': count_numbers(weights, r'body\.(\d+)\.'),
            'num_block': count_numbers(weights, r'body\.0\.residual_group\.(\d+)\.'),
            'squeeze_factor': ends['num_feat'] // squeeze.shape[0],
        }

    def __init__(
        self,
        num_in_ch: Channels = 3,
        num_out_ch: Channels = 3,
        num_feat: Channels = 64,
        num_group: Blocks = 10,
        num_block: Blocks = 16,
        squeeze_factor: Channels = 16,
        upscale: Scale = 4,
        res_scale: Positive = 1,
        img_range: Positive = 255.0,
        rgb_mean: Annotated[Sequence[Unit], Len(1)] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        if not 1 <= squeeze_factor <= num_feat:
            raise ValueError(f'squeeze_factor is 1 to num_feat, which is {num_feat}; not {squeeze_factor}')
        block = {'num_feat': num_feat, 'num_block': num_block, 'squeeze_factor': squeeze_factor, 'res_scale': res_scale}
        body = make_layer(ResidualGroup, num_group, **block)
        super().__init__(body, num_in_ch, num_out_ch, num_feat, upscale, img_range, rgb_mean)
