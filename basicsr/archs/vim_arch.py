"""Vision Mamba (Vim), with the state dict of its authors' weights.

Source: Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
ICML 2024. Tokens are (N, L, C); inside a mixer, sequences are (N, C, L), as the scan reads them.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Len
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm
from torchvision.ops import StochasticDepth

from basicsr.archs.arch_util import to_2tuple
from basicsr.archs.vim_mixer import BidirectionalMixer, MixerOptions, at_least_float32
from basicsr.archs.vim_weights import load_pretrained, options_of
from basicsr.options.bounds import Blocks, Channels, Classes, NonNegative, Positive, Rate, Side
from basicsr.utils.registry import ARCH_REGISTRY, did_you_mean


class Norm(nn.Module):
    """RMSNorm, or with `centred` LayerNorm, of the last dimension; computed and given in float32 at least."""

    def __init__(self, dim: int, eps: float, centred: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if centred else None

    def forward(self, x: Tensor) -> Tensor:
        x, weight = at_least_float32(x), at_least_float32(self.weight)
        if self.bias is None:
            return rms_norm(x, weight.shape, weight, self.eps)
        return layer_norm(x, weight.shape, weight, at_least_float32(self.bias), self.eps)


class Block(nn.Module):
    """A norm and a mixer; `VisionMamba` adds the residual."""

    def __init__(self, norm: Norm, mixer: BidirectionalMixer, drop_path: float) -> None:
        super().__init__()
        self.mixer, self.norm, self.drop_path = mixer, norm, StochasticDepth(drop_path, 'row')

    def forward(self, tokens: Tensor) -> Tensor:
        return self.drop_path(self.mixer(tokens))


class PatchEmbed(nn.Module):
    """(N, channels, H, W) -> (N, M, C): patches, row by row."""

    def __init__(self, channels: int, embed_dim: int, patch_size: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, embed_dim, patch_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


_TRUNCATED = 0.87962566103423978
"""Deviation of a standard normal distribution that is cut off at two deviations."""

_OFF = {
    **dict.fromkeys(('if_rope', 'if_rope_residual', 'if_bidirectional', 'if_bimamba'), (False,)),
    **dict.fromkeys(('use_double_cls_token', 'if_random_cls_token_position', 'if_random_token_rank'), (False,)),
    **{'pt_hw_seq_len': (14,), 'flip_img_sequences_ratio': (-1.0, 0.0)},
    **dict.fromkeys(('ft_seq_len', 'initializer_cfg', 'inference_params', 'device', 'dtype'), ()),
}
"""What the release has and no published network uses: values that, like None, mean that it is off."""


def _not_built(key: str, value: object) -> str | None:
    """Why an argument that `VisionMamba` does not name is refused, or None."""
    if key not in _OFF:
        return f'there is no argument {key!r}{did_you_mean(key, [*_DEFAULTS, *_OFF])} It takes: {", ".join(_DEFAULTS)}'
    if value is None or value in _OFF[key]:
        return None
    off = ' or '.join(str(one).lower() for one in _OFF[key]) or 'null'
    return f'{key} is part of no published Vision Mamba and not built: it is {off} or left out, not {value!r}'


def _broken_rules(given: dict) -> Iterator[tuple[str, str]]:
    """Values that types do not refuse, and incompatible arguments, as (name, message)."""
    if given['pretrained'] is True:
        yield 'pretrained', 'weights of VisionMamba are not fetched: pretrained names their file, or is false'
    if given['bimamba_type'] != 'v2':
        yield 'bimamba_type', f"bimamba_type is 'v2', as published, not {given['bimamba_type']!r}"
    pool = given['final_pool_type']
    if pool not in ('none', 'mean', 'max'):
        yield 'final_pool_type', f"final_pool_type is 'none', 'mean' or 'max', not {pool!r}"
    if pool == 'max' and given['if_cls_token']:
        yield 'final_pool_type', "final_pool_type 'max' is for tokens without a class token; set if_cls_token to false"
    sides = zip(to_2tuple(given['img_size']), to_2tuple(given['patch_size']), strict=True)
    if any(side < patch for side, patch in sides):
        yield 'img_size', f'img_size {given["img_size"]} is smaller than patch_size {given["patch_size"]}'
    mixer = given['ssm_cfg'] or {}
    for key in mixer.keys() - MixerOptions.__annotations__.keys():
        known = list(MixerOptions.__annotations__)
        yield 'ssm_cfg', f'ssm_cfg takes no {key!r}{did_you_mean(key, known)} It takes: {", ".join(known)}'
    if int(mixer.get('expand', 2) * given['embed_dim']) < 1:
        yield 'ssm_cfg', f'expand * embed_dim must be at least 1: {mixer["expand"]} * {given["embed_dim"]}'
    if mixer.get('dt_min', 0.001) > mixer.get('dt_max', 0.1):
        yield 'ssm_cfg', f'dt_min is above dt_max: {mixer.get("dt_min", 0.001)} and {mixer.get("dt_max", 0.1)}'


@ARCH_REGISTRY.register()
class VisionMamba(nn.Module):
    """Classification with a bidirectional state-space model: (N, channels, H, W) -> (N, num_classes).

    The published networks have patches of 16, depth 24, final_pool_type 'mean' and otherwise these defaults;
    embed_dim 192 is tiny, 384 small, 768 base.

    Args:
        img_size: Height and width, or one number for both, of all inputs.
        patch_size: Height and width of a patch, or one number for both.
        stride: Pixels from one patch to the next; it does not follow patch_size.
        depth: Blocks.
        embed_dim: Channels of a token.
        d_state: States per channel of the selective scan.
        channels: Channels of the input.
        num_classes: Classes; 0 for no head, then features come out.
        ssm_cfg: Further arguments of the mixers.
        drop_rate: Dropout after the position embedding.
        drop_path_rate: Stochastic depth of the last block; the rate rises linearly from 0.
        norm_epsilon: Added to the mean square in norms.
        rms_norm: RMSNorm, else LayerNorm.
        fused_add_norm: In mixed precision: norms see the float32 sum, and give the type of what was added; else both
            are of the type of their weights.
        residual_in_fp32: In mixed precision: the residual stream is float32.
        final_pool_type: Without a class token: 'none' for the last token, 'mean', or 'max' over the tokens' logits.
        if_abs_pos_embed: Add a position embedding.
        bimamba_type: 'v2'.
        if_cls_token: Add a class token, whose output is classified.
        if_divide_out: Halve the sum of the two directions.
        use_middle_cls_token: The class token stands in the middle of the patches, else before them.
        init_layer_scale: Initial factor of each channel of a mixer's output; None: there is none.
        scan_backend: Backend of the selective scan; None chooses the best available.
        pretrained: A file of weights to begin with. A head for other classes is initialised anew, and the position
            embedding resized to the grid of `img_size`.
        **off: What the release can do and this class cannot, if it is off: if_rope, if_bidirectional, …

        Raises:
            FileNotFoundError: `pretrained` does not exist.
            ValueError: An unknown argument, incompatible ones, something that is not built, or weights that do not fit.
    """

    head_prefixes = ('head',)
    not_in_weights = ('stride', 'img_size', 'use_middle_cls_token', 'if_divide_out', 'final_pool_type', 'norm_epsilon')
    options_from_weights = staticmethod(options_of)

    @staticmethod
    def task(options: dict) -> str:
        """What a network with these options is for."""
        return f'{options["num_classes"]} classes' if options['num_classes'] else 'features'

    @staticmethod
    def options_to_rebuild(options: dict, checkpoint: str | os.PathLike) -> dict:
        """The file that training began with may be gone."""
        return {**options, 'pretrained': False}

    @staticmethod
    def check_options(given: dict) -> Iterator[tuple[str, str]]:
        """Mistakes that types do not reveal, for the check of option files."""
        for key in given.keys() - _DEFAULTS.keys() - {'type'}:
            if fault := _not_built(key, given[key]):
                yield key, fault
        yield from _broken_rules({**_DEFAULTS, **given})

    def __init__(
        self,
        img_size: Side | Annotated[Sequence[Side], Len(2, 2)] = 224,
        patch_size: Side | Annotated[Sequence[Side], Len(2, 2)] = 16,
        stride: Side = 16,
        depth: Blocks = 24,
        embed_dim: Channels = 192,
        d_state: Channels = 16,
        channels: Channels = 3,
        num_classes: Classes = 1000,
        ssm_cfg: MixerOptions | None = None,
        drop_rate: Rate = 0.0,
        drop_path_rate: Rate = 0.1,
        norm_epsilon: Positive = 1e-5,
        rms_norm: bool = True,
        fused_add_norm: bool = True,
        residual_in_fp32: bool = True,
        final_pool_type: Literal['none', 'mean', 'max'] = 'none',
        if_abs_pos_embed: bool = True,
        bimamba_type: Literal['v2'] = 'v2',
        if_cls_token: bool = True,
        if_divide_out: bool = True,
        use_middle_cls_token: bool = True,
        init_layer_scale: NonNegative | None = None,
        scan_backend: str | None = None,
        pretrained: Literal[False] | Path = False,
        **off: Any,
    ) -> None:
        super().__init__()
        faults = (_not_built(key, value) for key, value in off.items())
        for message in (*filter(None, faults), *(message for _, message in _broken_rules(vars()))):
            raise ValueError(message)
        self.input_size, self.num_classes, self.final_pool_type = to_2tuple(img_size), num_classes, final_pool_type
        self.fused_add_norm, self.residual_in_fp32 = fused_add_norm, residual_in_fp32
        patch = to_2tuple(patch_size)
        self.grid = tuple((side - one) // stride + 1 for side, one in zip(self.input_size, patch, strict=True))
        patches = math.prod(self.grid)
        self.class_place = (patches // 2 if use_middle_cls_token else 0) if if_cls_token else None
        self.patch_embed = PatchEmbed(channels, embed_dim, patch, stride)
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim)) if if_cls_token else None
        places = patches + bool(if_cls_token)
        self.pos_embed = nn.Parameter(torch.empty(1, places, embed_dim)) if if_abs_pos_embed else None
        self.pos_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()[:-1] + [drop_path_rate]
        self.layers = nn.ModuleList(
            Block(
                Norm(embed_dim, norm_epsilon, not rms_norm),
                BidirectionalMixer(
                    embed_dim, d_state, if_divide_out, init_layer_scale, scan_backend, **(ssm_cfg or {})
                ),
                rate,
            )
            for rate in rates
        )
        self.norm_f = Norm(embed_dim, norm_epsilon, not rms_norm)
        self._init_weights()
        if pretrained:
            load_pretrained(self, pretrained)

    @torch.no_grad()
    def _init_weights(self) -> None:
        projection = self.patch_embed.proj.weight
        deviation = projection[0].numel() ** -0.5 / _TRUNCATED
        nn.init.trunc_normal_(projection, std=deviation, a=-2 * deviation, b=2 * deviation)
        nn.init.zeros_(self.patch_embed.proj.bias)
        for name in ('cls_token', 'pos_embed', 'head.weight'):
            if name in (parameters := dict(self.named_parameters())):
                nn.init.normal_(parameters[name], std=0.02)
        if self.num_classes:
            nn.init.zeros_(self.head.bias)
        for layer in self.layers:
            layer.mixer.out_proj.weight.div_(math.sqrt(len(self.layers)))
            for projection in (layer.mixer.in_proj, layer.mixer.out_proj):
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)

    def _embedded(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, L, C)."""
        if x.shape[-2:] != self.input_size:
            sizes = ' x '.join(map(str, x.shape[-2:])), ' x '.join(map(str, self.input_size))
            raise ValueError(f'VisionMamba takes inputs of {sizes[1]} (img_size), not of {sizes[0]}')
        tokens = self.patch_embed(x)
        if self.class_place is not None:
            before, after = tokens.split([self.class_place, tokens.shape[1] - self.class_place], 1)
            tokens = torch.cat([before, self.cls_token.expand(len(tokens), -1, -1), after], 1)
        return self.pos_drop(tokens + self.pos_embed if self.pos_embed is not None else tokens)

    def _add_and_norm(self, norm: Norm, stream: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Add `hidden` to the residual stream: (what the norm gives of the sum, the stream).

        In float32 both ways are the same; they differ in where they round, see the class's arguments.
        """
        kind = hidden.dtype if stream is None else stream.dtype
        if self.fused_add_norm:
            total = at_least_float32(hidden)
            total = total if stream is None else stream + total
            normed = norm(total).to(hidden.dtype)
        else:
            total = hidden if stream is None else stream + hidden
            normed = norm(total.to(norm.weight.dtype)).to(norm.weight.dtype)
        return normed, at_least_float32(total) if self.residual_in_fp32 else total.to(kind)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, C), or (N, L, C) if the largest logits over the tokens count."""
        hidden, stream = self._embedded(x), None
        for layer in self.layers:
            normed, stream = self._add_and_norm(layer.norm, stream, hidden)
            hidden = layer(normed)
        tokens = self._add_and_norm(self.norm_f, stream, hidden)[0]
        if self.class_place is not None:
            return tokens[:, self.class_place]
        if self.final_pool_type == 'max':
            return tokens
        return tokens.mean(1) if self.final_pool_type == 'mean' else tokens[:, -1]

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        """Logits (N, num_classes); or with `return_features` what goes into the head.

        Raises:
            ValueError: `x` is not of `img_size`.
        """
        features = self.forward_features(x)
        if return_features:
            return features
        logits = self.head(features)
        return logits.max(1).values if logits.ndim == 3 else logits


_DEFAULTS = {
    name: argument.default
    for name, argument in inspect.signature(VisionMamba).parameters.items()
    if argument.kind is not argument.VAR_KEYWORD
}
