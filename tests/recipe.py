"""Weights and data that anyone can make again: each value is a function of a seed and a parameter's name.

The golden numbers in `tests/golden` were made by an independent implementation filled by the same rule.
"""

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def _value(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    noise = rng.standard_normal(shape)
    leaf = name.rpartition('.')[2]
    match leaf:
        case 'A_logs' | 'A_log' | 'A_b_log':  # (channels, state)
            return np.log(np.arange(1, shape[1] + 1))[None] + 0.1 * noise
        case 'Ds' | 'D' | 'D_b' | 'gamma' | 'skip_scale' | 'skip_scale2':
            return 1 + 0.1 * noise
        case 'dt_projs_bias':
            return rng.uniform(-6, -2, shape)
        case 'pos_embed' | 'cls_token':
            return 0.2 * noise
        case 'x_proj_weight' | 'dt_projs_weight':  # (directions, out, in)
            return noise / np.sqrt(shape[2])
    if name.endswith(('.dt_proj.bias', '.dt_proj_b.bias')):
        return rng.uniform(-6, -2, shape)
    if len(shape) == 1:
        return 1 + 0.1 * noise if leaf == 'weight' else 0.02 * noise
    return noise / np.sqrt(np.prod(shape[1:]))


@torch.no_grad()
def fill(net: nn.Module, seed: int) -> nn.Module:
    """Overwrite every parameter of `net` in place; return `net`."""
    for name, parameter in net.named_parameters():
        parameter.copy_(torch.from_numpy(_value(name, tuple(parameter.shape), seed).astype(np.float32)))
    return net


def batch(seed: int, size: int, height: int, width: int, scale: int) -> tuple[Tensor, Tensor]:
    """(lq, gt) in [0, 1]: (size, 3, height, width) and (size, 3, height * scale, width * scale)."""
    rng = np.random.Generator(np.random.PCG64([seed, 7]))
    lq = rng.random((size, 3, height, width), dtype=np.float32)
    gt = rng.random((size, 3, height * scale, width * scale), dtype=np.float32)
    return torch.from_numpy(lq), torch.from_numpy(gt)


def images(seed: int, shape: list[int], classes: int) -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1], (size, channels, height, width) = `shape`, and their classes, (size,)."""
    rng = np.random.Generator(np.random.PCG64([seed, 7]))
    pictures = rng.random(shape, dtype=np.float32)
    labels = np.random.Generator(np.random.PCG64([seed, 8])).integers(0, classes, shape[0])
    return torch.from_numpy(pictures), torch.from_numpy(labels)


class FourConvs(nn.Module):
    """The network of `tests/golden/ldt.json`: four convolutions, x2."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body1 = nn.Conv2d(8, 8, 3, padding=1)
        self.body2 = nn.Conv2d(8, 8, 3, padding=1)
        self.tail = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x).relu()
        x = x + self.body2(self.body1(x).relu())
        return nn.functional.pixel_shuffle(self.tail(x), 2)


def l1_loss(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.l1_loss(model(pair[0]), pair[1])


def scoring_batches(count: int = 12, seed: int = 3) -> list[tuple[Tensor, Tensor]]:
    """The scoring batches of `tests/golden/ldt.json`."""
    return [batch(seed * 1000 + index, 4, 8, 8, 2) for index in range(count)]
