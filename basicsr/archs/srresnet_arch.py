"""SRResNet without batch normalisation, the residual network that BasicSR calls MSRResNet."""

from __future__ import annotations

import math
import re
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import interpolate

from basicsr.archs.arch_util import ResidualBlockNoBN, default_init_weights, make_layer
from basicsr.options.bounds import Blocks, Channels
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class MSRResNet(nn.Module):
    """Residual blocks, then sub-pixel convolutions, added to the bilinear enlargement of the input.

    (N, num_in_ch, H, W) -> (N, num_out_ch, H * upscale, W * upscale). After Ledig et al., "Photo-Realistic Single Image
    Super-Resolution Using a Generative Adversarial Network", CVPR 2017, with the changes of ESRGAN's authors. Weights
    have BasicSR's names.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output; as many as in the input, or any number if that has one.
        num_feat: Channels of the features.
        num_block: Residual blocks.
        upscale: 2, 3 or 4.

    Raises:
        ValueError: Another scale, or channels that cannot be added.
    """

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
        if not {'upconv1.weight', 'conv_hr.weight'} <= weights.keys():
            return None
        num_feat, num_in_ch = weights['conv_first.weight'].shape[:2]
        factor = math.isqrt(weights['upconv1.weight'].shape[0] // num_feat)
        return {
            'num_in_ch': num_in_ch,
            'num_out_ch': weights['conv_last.weight'].shape[0],
            'num_feat': num_feat,
            'num_block': sum(re.match(r'body\.\d+\.conv1\.weight$', name) is not None for name in weights),
            'upscale': 4 if 'upconv2.weight' in weights else factor,
        }

    @staticmethod
    def task(options: dict) -> str:
        """What a network with these options is for."""
        return f'super-resolution x{options["upscale"]}'

    def __init__(
        self,
        num_in_ch: Channels = 3,
        num_out_ch: Channels = 3,
        num_feat: Channels = 64,
        num_block: Blocks = 16,
        upscale: Literal[2, 3, 4] = 4,
    ) -> None:
        super().__init__()
        if upscale not in (2, 3, 4):
            raise ValueError(f'upscale is 2, 3 or 4, not {upscale!r}')
        if num_in_ch not in (1, num_out_ch):
            raise ValueError(f'an input of {num_in_ch} channels cannot be added to an output of {num_out_ch}')
        self.upscale = upscale
        factor = 2 if upscale == 4 else upscale
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat)
        self.upconv1 = nn.Conv2d(num_feat, num_feat * factor**2, 3, 1, 1)
        if upscale == 4:
            self.upconv2 = nn.Conv2d(num_feat, num_feat * 4, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(factor)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)
        default_init_weights((module for name, module in self.named_children() if name != 'body'), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(self.lrelu(self.conv_first(x)))
        out = self.lrelu(self.shuffle(self.upconv1(out)))
        if self.upscale == 4:
            out = self.lrelu(self.shuffle(self.upconv2(out)))
        out = self.conv_last(self.lrelu(self.conv_hr(out)))
        return out + interpolate(x, scale_factor=self.upscale, mode='bilinear', align_corners=False)
