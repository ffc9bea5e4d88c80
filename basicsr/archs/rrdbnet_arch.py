"""RRDBNet, the generator of ESRGAN and Real-ESRGAN, with BasicSR's arguments and names of weights."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from basicsr.archs.arch_util import count_numbers, default_init_weights, make_layer, pixel_unshuffle
from basicsr.archs.traits import Traits
from basicsr.options.bounds import Blocks, Channels
from basicsr.utils.registry import ARCH_REGISTRY

_BLOCK_SCALE = 0.2
_WEIGHTS_SCALE = 0.1


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each fed all previous outputs, as a scaled residual: (N, num_feat, H, W) to the same.

    Args:
        num_feat: Channels.
        num_grow_ch: Channels that each of the first four adds.
    """

    def __init__(self, num_feat: int = 64, num_grow_ch: int = 32) -> None:
        super().__init__()
        for index in range(4):
            conv = nn.Conv2d(num_feat + index * num_grow_ch, num_grow_ch, 3, 1, 1)
            self.add_module(f'conv{index + 1}', conv)
        self.conv5 = nn.Conv2d(num_feat + 4 * num_grow_ch, num_feat, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)
        default_init_weights([self.conv1, self.conv2, self.conv3, self.conv4, self.conv5], _WEIGHTS_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            known.append(self.lrelu(conv(torch.cat(known, 1))))
        return x + _BLOCK_SCALE * self.conv5(torch.cat(known, 1))


class RRDB(nn.Module):
    """Residual in residual dense block: three dense blocks as a scaled residual, on (N, num_feat, H, W)."""

    def __init__(self, num_feat: int, num_grow_ch: int = 32) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        return x + _BLOCK_SCALE * self.rdb3(self.rdb2(self.rdb1(x)))


@ARCH_REGISTRY.register()
class RRDBNet(nn.Module):
    """Dense blocks, then nearest-neighbour enlargement and a convolution, twice.

    (N, num_in_ch, H, W) -> (N, num_out_ch, H * scale, W * scale). Wang et al., "ESRGAN: Enhanced Super-Resolution
    Generative Adversarial Networks", ECCV workshops 2018; for scales 1 and 2, pixels are first moved into channels, as
    in Wang et al., "Real-ESRGAN", ICCV workshops 2021, so the layers always enlarge fourfold.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the output.
        scale: 1, 2 or 4. Sides of an input are multiples of 4 / scale.
        num_feat: Channels of the features.
        num_block: Residual in residual dense blocks.
        num_grow_ch: Channels that each convolution of a dense block adds.

    Raises:
        ValueError: Another scale.
    """

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`.

        The input is assumed to have as many channels as the output if the first layer allows it.
        """
        if 'body.0.rdb1.conv1.weight' not in weights:
            return None
        num_feat, first = weights['conv_first.weight'].shape[:2]
        num_out_ch = weights['conv_last.weight'].shape[0]
        factor = math.isqrt(first // num_out_ch)
        scale = 4 // factor if factor in (2, 4) and factor**2 * num_out_ch == first else 4
        return {
            'num_in_ch': first // (4 // scale) ** 2,
            'num_out_ch': num_out_ch,
            'scale': scale,
            'num_feat': num_feat,
            'num_block': count_numbers(weights, r'body\.(\d+)\.'),
            'num_grow_ch': weights['body.0.rdb1.conv1.weight'].shape[0],
        }

    @staticmethod
    def task(options: dict) -> str:
        """What a network with these options is for."""
        return f'super-resolution x{options["scale"]}' if options['scale'] > 1 else 'restoration'

    def __init__(
        self,
        num_in_ch: Channels = 3,
        num_out_ch: Channels = 3,
        scale: Literal[1, 2, 4] = 4,
        num_feat: Channels = 64,
        num_block: Blocks = 23,
        num_grow_ch: Channels = 32,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4):
            raise ValueError(f'scale is 1, 2 or 4, not {scale!r}')
        self.scale, self.unshuffle = scale, 4 // scale
        self.traits = Traits(size_multiple=self.unshuffle)
        self.conv_first = nn.Conv2d(num_in_ch * self.unshuffle**2, num_feat, 3, 1, 1)
        self.body = make_layer(RRDB, num_block, num_feat=num_feat, num_grow_ch=num_grow_ch)
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv_first(pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x)
        features = features + self.conv_body(self.body(features))
        for conv in (self.conv_up1, self.conv_up2):
            features = self.lrelu(conv(interpolate(features, scale_factor=2, mode='nearest')))
        return self.conv_last(self.lrelu(self.conv_hr(features)))
