"""The mixer of Vision Mamba: selective scans of a sequence of tokens from either end.

Source: Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
ICML 2024, section 3.3. Names of weights are those of the authors; `_b` is backwards.
"""

from __future__ import annotations

import math
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from basicsr.ops.causal_conv1d import two_way_causal_conv1d
from basicsr.ops.selective_scan import selective_scan
from basicsr.options.bounds import Channels, Positive, Ratio

__all__ = ['BidirectionalMixer', 'MixerOptions', 'at_least_float32']


class MixerOptions(TypedDict, total=False):
    """Further arguments of a mixer, with their defaults.

    Attributes:
        d_conv: Kernel size of the depth-wise convolutions; 4.
        expand: Inner channels per channel; 2.
        dt_rank: Rank of the step's projection; auto, ceil(embed_dim / 16).
        dt_min: Smallest initial step of the forward direction; 0.001.
        dt_max: Largest initial step of the forward direction; 0.1.
        dt_init_floor: Lower bound of the initial steps; 1e-4.
        conv_bias: Whether the convolutions have a bias; true.
        bias: Whether in_proj and out_proj have one; false.
    """

    d_conv: Channels
    expand: Ratio
    dt_rank: Literal['auto'] | Channels
    dt_min: Positive
    dt_max: Positive
    dt_init_floor: Positive
    conv_bias: bool
    bias: bool


def at_least_float32(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or in float64 if it is so."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class BidirectionalMixer(nn.Module):
    """Selective scans of a sequence from either end, gated alike: (N, L, C) -> (N, L, C).

    Args:
        d_model: Channels C.
        d_state: States per channel.
        halved: Whether the sum of the two directions is divided by two.
        layer_scale: Initial factor of each channel of the output; None: there is no such factor.
        scan_backend: Backend of the selective scan; None chooses the best available.
        d_conv, expand, dt_rank, dt_min, dt_max, dt_init_floor, conv_bias, bias: See `MixerOptions`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        halved: bool = True,
        layer_scale: float | None = None,
        scan_backend: str | None = None,
        *,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | Literal['auto'] = 'auto',
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == 'auto' else dt_rank
        self.d_state, self.halved, self.scan_backend = d_state, halved, scan_backend
        self.gamma = None if layer_scale is None else nn.Parameter(torch.full((d_model,), float(layer_scale)))
        for way in ('', '_b'):
            setattr(self, f'A{way}_log', nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1)))
            setattr(self, f'D{way}', nn.Parameter(torch.ones(inner)))
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias)
        for way in ('', '_b'):
            setattr(self, f'conv1d{way}', nn.Conv1d(inner, inner, d_conv, groups=inner, bias=conv_bias))
            setattr(self, f'x_proj{way}', nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False))
            setattr(self, f'dt_proj{way}', nn.Linear(self.dt_rank, inner))
        self.out_proj = nn.Linear(inner, d_model, bias=bias)
        self._init_steps(dt_min, dt_max, dt_init_floor)

    @torch.no_grad()
    def _init_steps(self, dt_min: float, dt_max: float, dt_init_floor: float) -> None:
        for layer in (self.dt_proj, self.dt_proj_b):
            nn.init.uniform_(layer.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        # softplus(bias) is log-uniform in [dt_min, dt_max]; backwards, as released, it starts near softplus(0) = 0.69.
        nn.init.zeros_(self.dt_proj_b.bias)
        steps = self.dt_proj.bias
        steps.uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=dt_init_floor)
        steps.add_(torch.log(-torch.expm1(-steps)))

    def _scan(self, x: Tensor) -> Tensor:
        """(N, E, L) -> (N, E, L): the sum of both directions, each of which ends at its own place."""
        kernels, biases = zip(*((one.weight, one.bias) for one in (self.conv1d, self.conv1d_b)), strict=True)
        x = two_way_causal_conv1d(x, kernels, biases)
        weight = torch.stack([self.x_proj.weight, self.x_proj_b.weight])
        projected = torch.einsum('nwel,wce->nwcl', x.unflatten(1, (2, -1)), weight)
        steps, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], 2)
        steps = torch.einsum('nwrl,wer->nwel', steps, torch.stack([self.dt_proj.weight, self.dt_proj_b.weight]))
        y = selective_scan(
            x,
            steps.flatten(1, 2),
            -torch.exp(at_least_float32(torch.cat([self.A_log, self.A_b_log]))),
            B,
            C,
            torch.cat([self.D, self.D_b]),
            torch.cat([self.dt_proj.bias, self.dt_proj_b.bias]),
            delta_softplus=True,
            backend=self.scan_backend,
            reverse_groups=1,
        )
        return y.unflatten(1, (2, -1)).sum(1)

    def forward(self, tokens: Tensor) -> Tensor:
        x, gate = self.in_proj(tokens).transpose(1, 2).chunk(2, 1)
        y = self._scan(x) * silu(gate)
        out = self.out_proj((y / 2 if self.halved else y).transpose(1, 2))
        return out if self.gamma is None else out * self.gamma
