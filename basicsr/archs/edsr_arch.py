"""EDSR, the enhanced deep residual network, with BasicSR's arguments and names of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from basicsr.archs.arch_util import ResidualBlockNoBN, Upsample, count_numbers, make_layer, upsample_factor
from basicsr.utils.registry import ARCH_REGISTRY


class MeanShifted(nn.Module):
    """Base of networks that work on pictures with the mean colour subtracted and the values rescaled.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output, to which the same mean is added.
        img_range: Factor on the values.
        rgb_mean: Mean of each channel, in [0, 1]; ignored if the input has one channel and there are three means.

        Raises:
            ValueError: The numbers of channels and means differ.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, img_range: float, rgb_mean: Sequence[float]) -> None:
        super().__init__()
        if num_in_ch == num_out_ch == 1 and len(rgb_mean) == 3:
            rgb_mean = (0.0,)
        if not num_in_ch == num_out_ch == len(rgb_mean):
            raise ValueError(
                f'rgb_mean has {len(rgb_mean)} values, and num_in_ch is {num_in_ch}, num_out_ch {num_out_ch}: a '
                'value for each channel, of the input as of the output'
            )
        self.img_range = img_range
        self.register_buffer('mean', torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)

    def shifted(self, x: Tensor) -> Tensor:
        """Convert values in [0, 1] to the range of the layers."""
        return (x - self.mean.to(x)) * self.img_range

    def unshifted(self, x: Tensor) -> Tensor:
        """The way back."""
        return x / self.img_range + self.mean.to(x)


@ARCH_REGISTRY.register()
class EDSR(MeanShifted):
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

    not_in_weights = ('res_scale', 'img_range', 'rgb_mean')

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
        if 'body.0.conv1.weight' not in weights or 'conv_after_body.weight' not in weights:
            return None
        num_feat, num_in_ch = weights['conv_first.weight'].shape[:2]
        return {
            'num_in_ch': num_in_ch,
            'num_out_ch': weights['conv_last.weight'].shape[0],
            'num_feat': num_feat,
            'num_block': count_numbers(weights, r'body\.(\d+)\.conv1\.'),
            'upscale': upsample_factor(weights),
        }

    @staticmethod
    def task(options: dict) -> str:
        """What a network with these options is for."""
        return f'super-resolution x{options["upscale"]}'

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        upscale: int = 4,
        res_scale: float = 1,
        img_range: float = 255.0,
        rgb_mean: Sequence[float] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        super().__init__(num_in_ch, num_out_ch, img_range, rgb_mean)
        self.upscale = upscale
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat, res_scale=res_scale, pytorch_init=True)
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv_first(self.shifted(x))
        features = self.conv_after_body(self.body(features)) + features
        return self.unshifted(self.conv_last(self.upsample(features)))
