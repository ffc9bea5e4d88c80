"""Parts that several networks share."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate
from torch.nn.init import trunc_normal_
from torchvision.ops import DeformConv2d, deform_conv2d

__all__ = [
    'DCNv2Pack',
    'ResidualBlockNoBN',
    'Upsample',
    'default_init_weights',
    'flow_warp',
    'make_layer',
    'pixel_unshuffle',
    'resize_flow',
    'to_1tuple',
    'to_2tuple',
    'to_3tuple',
    'to_4tuple',
    'to_ntuple',
    'trunc_normal_',
]

_LARGE_OFFSET = 50


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


def default_init_weights(
    module_list: nn.Module | Iterable[nn.Module], scale: float = 1, bias_fill: float = 0, **kwargs
) -> None:
    """Initialise convolutions and linear layers by Kaiming's rule, times `scale`, and norms with ones.

    Args:
        module_list: Modules, including their submodules.
        scale: Factor on the weights; below 1 for residual blocks.
        bias_fill: Value of the biases.
        **kwargs: Further arguments of `torch.nn.init.kaiming_normal_`.
    """
    for root in [module_list] if isinstance(module_list, nn.Module) else module_list:
        for module in root.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, **kwargs)
                module.weight.data *= scale
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.ones_(module.weight)
            else:
                continue
            if module.bias is not None:
                nn.init.constant_(module.bias, bias_fill)


def make_layer(basic_block: type[nn.Module], num_basic_block: int, **kwarg) -> nn.Sequential:
    """A chain of `num_basic_block` blocks, each `basic_block(**kwarg)`."""
    return nn.Sequential(*(basic_block(**kwarg) for _ in range(num_basic_block)))


class ResidualBlockNoBN(nn.Module):
    """x + res_scale * conv(relu(conv(x))) on (N, num_feat, H, W).

    Args:
        num_feat: Channels.
        res_scale: Weight of the branch.
        pytorch_init: Keep torch's initialisation; otherwise Kaiming's, times 0.1.
    """

    def __init__(self, num_feat: int = 64, res_scale: float = 1, pytorch_init: bool = False) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        if not pytorch_init:
            default_init_weights([self.conv1, self.conv2], 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.conv1(x))) * self.res_scale


def pixel_unshuffle(x: Tensor, scale: int) -> Tensor:
    """(N, C, H, W) -> (N, C * scale^2, H / scale, W / scale)."""
    return nn.functional.pixel_unshuffle(x, scale)


def to_ntuple(n: int) -> Callable[[Any], tuple]:
    """A function that makes a tuple: `n` copies of a single value, or the items of a sequence."""

    def to_tuple(value: Any) -> tuple:
        return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,) * n

    return to_tuple


to_1tuple, to_2tuple, to_3tuple, to_4tuple = map(to_ntuple, (1, 2, 3, 4))


def flow_warp(
    x: Tensor, flow: Tensor, interp_mode: str = 'bilinear', padding_mode: str = 'zeros', align_corners: bool = True
) -> Tensor:
    """Sample (N, C, H, W) at the positions to which `flow` points.

    Args:
        x: (N, C, H, W).
        flow: (N, H, W, 2); displacements in pixels, to the right and downwards.
        interp_mode: 'bilinear' or 'nearest'.
        padding_mode: Values outside the picture: 'zeros', 'border' or 'reflection'.
        align_corners: Whether -1 and 1 are the centres of the corner pixels, or the corners of the picture.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: Sizes differ.
    """
    height, width = x.shape[-2:]
    if flow.shape[1:3] != x.shape[-2:]:
        raise ValueError(f'the flow is for pictures of {tuple(flow.shape[1:3])}, not of {(height, width)}')
    rows = torch.arange(height, device=x.device, dtype=x.dtype)
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    places = torch.stack(torch.meshgrid(columns, rows, indexing='xy'), 2) + flow
    grid = 2 * places / places.new_tensor([max(width - 1, 1), max(height - 1, 1)]) - 1
    return grid_sample(x, grid, interp_mode, padding_mode, align_corners)


def resize_flow(
    flow: Tensor,
    size_type: Literal['ratio', 'shape'],
    sizes: Sequence[float],
    interp_mode: str = 'bilinear',
    align_corners: bool = False,
) -> Tensor:
    """Resize a flow and scale its vectors accordingly: (N, 2, H, W) -> (N, 2, H', W').

    Args:
        flow: (N, 2, H, W), to the right and downwards.
        size_type: Whether `sizes` are factors or pixels.
        sizes: Factors or pixels, for height and width.
        interp_mode: A mode of `torch.nn.functional.interpolate`.
        align_corners: As there.

    Raises:
        ValueError: Another `size_type`.
    """
    height, width = flow.shape[-2:]
    if size_type not in ('ratio', 'shape'):
        raise ValueError(f"size_type is 'ratio' or 'shape', not {size_type!r}")
    scaled = (int(height * sizes[0]), int(width * sizes[1])) if size_type == 'ratio' else (int(sizes[0]), int(sizes[1]))
    factors = flow.new_tensor([scaled[1] / width, scaled[0] / height]).view(1, 2, 1, 1)
    return interpolate(flow * factors, scaled, mode=interp_mode, align_corners=align_corners)


class DCNv2Pack(DeformConv2d):
    """Modulated deformable convolution of `x`, with offsets and masks computed from `feat` by a convolution.

    Zhu et al., "Deformable ConvNets v2", CVPR 2019. It starts as a plain convolution at half strength.

    Args:
        in_channels: Channels of `x` and of `feat`.
        out_channels: Channels of the output.
        kernel_size, stride, padding, dilation, groups, bias: As in `torch.nn.Conv2d`.
        deformable_groups: Groups of channels that share offsets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.deformable_groups = deformable_groups
        offsets = 3 * deformable_groups * math.prod(self.kernel_size)
        self.conv_offset = nn.Conv2d(in_channels, offsets, self.kernel_size, stride, padding, dilation)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor, feat: Tensor) -> Tensor:
        first, second, mask = self.conv_offset(feat).chunk(3, 1)
        offset = torch.cat((first, second), 1)
        size = offset.detach().abs().mean().item()
        if size > _LARGE_OFFSET:
            logging.getLogger('basicsr').warning('Offsets of a deformable convolution average %.0f pixels', size)
        return deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask.sigmoid()
        )


def upsample_factor(weights: Mapping[str, Tensor], prefix: str = 'upsample') -> int:
    """Scale of the `Upsample` whose weights' names begin with `prefix`."""
    convs = [weights[name] for name in weights if re.match(rf'{re.escape(prefix)}\.\d+\.weight$', name)]
    return math.prod(math.isqrt(conv.shape[0] // conv.shape[1]) for conv in convs)


def count_numbers(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Count the distinct numbers that the group of `pattern` matches at the start of names: blocks of `body`, say."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})
