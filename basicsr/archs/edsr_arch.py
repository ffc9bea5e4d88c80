"""EDSR, the enhanced deep residual network, with BasicSR's arguments and names of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor, nn

from basicsr.archs.arch_util import ResidualBlockNoBN, Upsample, count_numbers, make_layer, upsample_factor
from basicsr.options.bounds import Blocks, Channels, Positive, Scale, Unit
from basicsr.utils.registry import ARCH_REGISTRY


class ResidualSR(nn.Module):
    """A body of residual blocks, added to its own input, then sub-pixel convolutions; what EDSR and RCAN share.

    The layers see pictures with the mean colour subtracted and the values rescaled.

    Args:
        body: (N, num_feat, H, W) -> (N, num_feat, H, W).
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output, to which the same mean is added.
        num_feat: Channels of the features.
        upscale: A power of two, or 3.
        img_range: Factor on the values.
        rgb_mean: Mean of each channel, in [0, 1]; ignored if the input has one channel and there are three means.

    Raises:
        ValueError: Another scale, or the numbers of channels and means differ.
    """

    not_in_weights = ('res_scale', 'img_range', 'rgb_mean')

    @staticmethod
    def check_options(given: dict) -> Iterator[tuple[str, str]]:
        """Mistakes that types do not reveal, for the check of option files."""
        scale = given.get('upscale', 4)
        if scale != 3 and scale & (scale - 1):
            yield 'upscale', f'must be a power of two or 3, not {scale}'

    @staticmethod
    def task(options: dict) -> str:
        """What a network with these options is for."""
        return f'super-resolution x{options["upscale"]}'

    @staticmethod
    def options_of_both_ends(weights: dict[str, Tensor]) -> dict:
        """The arguments that the weights before and behind the body show."""
        num_feat, num_in_ch = weights['conv_first.weight'].shape[:2]
        num_out_ch = weights['conv_last.weight'].shape[0]
        upscale = upsample_factor(weights)
        return {'num_in_ch': num_in_ch, 'num_out_ch': num_out_ch, 'num_feat': num_feat, 'upscale': upscale}

    def __init__(
        self,
        body: nn.Module,
        num_in_ch: int,
        num_out_ch: int,
        num_feat: int,
        upscale: int,
        img_range: float,
        rgb_mean: Sequence[float],
    ) -> None:
        super().__init__()
        if num_in_ch == num_out_ch == 1 and len(rgb_mean) == 3:
            rgb_mean = (0.0,)
        if not num_in_ch == num_out_ch == len(rgb_mean):
            raise ValueError(
                f'rgb_mean has {len(rgb_mean)} values, and num_in_ch is {num_in_ch}, num_out_ch {num_out_ch}: a '
                'value for each channel, of the input as of the output'
            )
        self.img_range, self.upscale = img_range, upscale
        self.register_buffer('mean', torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = body
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean.to(x)
        features = self.conv_first((x - mean) * self.img_range)
        features = self.conv_after_body(self.body(features)) + features
        return self.conv_last(self.upsample(features)) / self.img_range + mean


@ARCH_REGISTRY.register()
class EDSR(ResidualSR):
    """Residual blocks without batch normalisation, then sub-pixel convolutions.

    (N, num_in_ch, H, W) -> (N, num_out_ch, H * upscale, W * upscale). Lim et al., "Enhanced Deep Residual Networks for
    Single Image Super-Resolution", CVPR workshops 2017.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output; as many as in the input.
        num_feat: Channels of the features.
        num_block: Residual blocks.
        upscale: A power of two, or 3.
        res_scale: Weight of a block's branch; 0.1 keeps wide networks (256 channels) stable.
        img_range: Range of values inside the network: 255.0 or 1.0.
        rgb_mean: Mean of each channel, subtracted before and added after.

        Raises:
            ValueError: Another scale, or channels without a mean.
    """

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
        if 'body.0.conv1.weight' not in weights or 'conv_after_body.weight' not in weights:
            return None
        return {**EDSR.options_of_both_ends(weights), 'num_block': count_numbers(weights, r'body\.(\d+)\.conv1\.')}

    def __init__(
        self,
        num_in_ch: Channels = 3,
        num_out_ch: Channels = 3,
        num_feat: Channels = 64,
        num_block: Blocks = 16,
        upscale: Scale = 4,
        res_scale: Positive = 1,
        img_range: Positive = 255.0,
        rgb_mean: Annotated[Sequence[Unit], Len(1)] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat, res_scale=res_scale, pytorch_init=True)
        super().__init__(body, num_in_ch, num_out_ch, num_feat, upscale, img_range, rgb_mean)
