"""Parts that several networks share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.init import trunc_normal_

__all__ = [
    'ResidualBlockNoBN',
    'Upsample',
    'default_init_weights',
    'make_layer',
    'pixel_unshuffle',
    'to_2tuple',
    'trunc_normal_',
]


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
    """Initialise convolutions and linear layers by Kaiming's rule, times `scale`, and norms by one.

    Args:
        module_list: Modules, with all that is in them.
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


def to_2tuple(value: Any) -> tuple:
    """A pair: `value` twice, unless it is a sequence."""
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value, value)
