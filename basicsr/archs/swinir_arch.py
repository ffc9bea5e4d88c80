"""SwinIR with BasicSR's arguments and names of weights; its layers are spandrel's, imported on first use."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated

from annotated_types import Len
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from basicsr.archs.arch_util import count_numbers, to_2tuple, upsample_factor
from basicsr.archs.ignored import near_misses, warn_of_ignored
from basicsr.archs.other_packages import import_package, their_warnings_ignored
from basicsr.options.bounds import Channels, Depths, Positive, Rate, Ratio, Scale, Side
from basicsr.utils.registry import ARCH_REGISTRY

_UPSAMPLERS = ('pixelshuffle', 'pixelshuffledirect', 'nearest+conv', '', None)
_BLOCK = 'layers.0.residual_group.blocks.0.'


def _spandrels() -> type[nn.Module]:
    return import_package('spandrel.architectures.SwinIR', 'SwinIR').SwinIR


def _upsampling(weights: dict[str, Tensor], in_chans: int) -> tuple[str, int]:
    """Upsampler and scale that yield weights with these names and shapes."""
    if 'conv_up1.weight' in weights:
        return 'nearest+conv', 2 ** count_numbers(weights, r'conv_up(\d)\.')
    if 'conv_before_upsample.0.weight' in weights:
        return 'pixelshuffle', upsample_factor(weights)
    if 'upsample.0.weight' in weights:
        return 'pixelshuffledirect', math.isqrt(weights['upsample.0.weight'].shape[0] // in_chans)
    return '', 1


def _training_side(weights: dict[str, Tensor], window_size: int) -> int:
    """Side of the training patches, from the size of window masks or absolute positions."""
    if 'absolute_pos_embed' in weights:
        return math.isqrt(weights['absolute_pos_embed'].shape[1])
    masks = [value for name, value in weights.items() if name.endswith('.attn_mask')]
    return math.isqrt(masks[0].shape[0]) * window_size if masks else window_size


def _broken_rules(given: dict) -> Iterator[tuple[str, str]]:
    """Incompatible arguments, as (name, message)."""
    if given['upsampler'] not in _UPSAMPLERS:
        yield 'upsampler', f'upsampler is one of {", ".join(map(repr, _UPSAMPLERS[:-1]))}, not {given["upsampler"]!r}'
    if given['resi_connection'] not in ('1conv', '3conv'):
        yield 'resi_connection', f"resi_connection is '1conv' or '3conv', not {given['resi_connection']!r}"
    if given['upsampler'] == 'nearest+conv' and given['upscale'] not in (2, 4, 8):
        yield 'upscale', f"upscale is 2, 4 or 8 with upsampler 'nearest+conv', not {given['upscale']}"
    if given['patch_size'] != 1:
        yield 'patch_size', f'patch_size must be 1, not {given["patch_size"]}: a patch is a pixel'
    window = given['window_size']
    if any(side % window for side in to_2tuple(given['img_size'])):
        yield 'img_size', f'img_size must be a multiple of window_size, which is {window}; it is {given["img_size"]}'
    if len(given['depths']) != len(given['num_heads']):
        yield (
            'num_heads',
            f'depths and num_heads give the number of groups: {len(given["depths"])}, or {len(given["num_heads"])}?',
        )
    if given['upsampler'] == 'pixelshuffle' and given['upscale'] != 3 and given['upscale'] & (given['upscale'] - 1):
        yield 'upscale', f"upscale is a power of two or 3 with upsampler 'pixelshuffle', not {given['upscale']}"
    if int(given['mlp_ratio'] * given['embed_dim']) < 1:
        yield 'mlp_ratio', f'mlp_ratio * embed_dim must be at least 1: {given["mlp_ratio"]} * {given["embed_dim"]}'
    for heads in given['num_heads']:
        if given['embed_dim'] % heads:
            yield (
                'embed_dim',
                f'embed_dim must be a multiple of num_heads, which is {heads}; it is {given["embed_dim"]}',
            )
            return


@ARCH_REGISTRY.register()
class SwinIR(nn.Module):
    """Image restoration with shifted windows: (N, in_chans, H, W) -> (N, in_chans, H * upscale, W * upscale).

    Liang et al., "SwinIR: Image Restoration Using Swin Transformer", ICCV workshops 2021. Inputs are padded to whole
    windows by reflection, and outputs cropped.

    Args:
        img_size: Side of the training patches, whose masks are cached; other sizes run as well. A multiple of
            `window_size`.
        patch_size: 1; a patch is a pixel.
        in_chans: Channels of input and output.
        embed_dim: Channels of the features; a multiple of each of `num_heads`.
        depths: Blocks of each residual group.
        num_heads: Attention heads of each residual group.
        window_size: Side of a window.
        mlp_ratio: Inner channels per channel of a block's two linear layers.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Factor on queries; None: 1 / sqrt(channels of a head).
        drop_rate: Dropout of features.
        attn_drop_rate: Dropout of attention.
        drop_path_rate: Stochastic depth of the last block; the rate rises linearly from 0.
        norm_layer: Normalisation of the last dimension.
        ape: Add absolute positions; then only inputs of `img_size` run.
        patch_norm: Normalise the embedded features.
        use_checkpoint: Recompute blocks in backward: less memory, more time.
        upscale: Scale; 1 for denoising.
        img_range: 1.0 or 255.0.
        upsampler: 'pixelshuffle' (classical SR), 'pixelshuffledirect' (lightweight SR), 'nearest+conv' (real-world SR),
            or '' (denoising).
        resi_connection: '1conv' or '3conv'.
        **kwargs: Accepted and ignored, with a warning, as by the authors' class.

    Raises:
        ImportError: spandrel is not installed.
        ValueError: An invalid or misspelt argument; the message names it.
    """

    not_in_weights = ('img_range', 'qk_scale')

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
        index = weights.get(f'{_BLOCK}attn.relative_position_index')
        if index is None:
            return None
        embed_dim, in_chans = weights['conv_first.weight'].shape[:2]
        groups = range(count_numbers(weights, r'layers\.(\d+)\.'))
        blocks = [rf'layers\.{group}\.residual_group\.blocks\.(\d+)\.' for group in groups]
        tables = [f'layers.{group}.residual_group.blocks.0.attn.relative_position_bias_table' for group in groups]
        window_size = math.isqrt(index.shape[0])
        inner = weights[f'{_BLOCK}mlp.fc1.bias'].shape[0]
        ratio = inner / embed_dim
        upsampler, upscale = _upsampling(weights, in_chans)
        return {
            'img_size': _training_side(weights, window_size),
            'in_chans': in_chans,
            'embed_dim': embed_dim,
            'depths': [count_numbers(weights, pattern) for pattern in blocks],
            'num_heads': [weights[table].shape[1] for table in tables],
            'window_size': window_size,
            # The network truncates to an integer.
            'mlp_ratio': ratio if int(ratio * embed_dim) == inner else (inner + 0.5) / embed_dim,
            'qkv_bias': f'{_BLOCK}attn.qkv.bias' in weights,
            'ape': 'absolute_pos_embed' in weights,
            'patch_norm': 'patch_embed.norm.weight' in weights,
            'upscale': upscale,
            'upsampler': upsampler,
            'resi_connection': '1conv' if 'conv_after_body.weight' in weights else '3conv',
        }

    @staticmethod
    def task(options: dict) -> str:
        """What a network with these options is for."""
        kinds = {'pixelshuffle': 'classical', 'pixelshuffledirect': 'lightweight', 'nearest+conv': 'real-world'}
        kind = kinds.get(options.get('upsampler') or '')
        return f'{kind} super-resolution x{options["upscale"]}' if kind else 'denoising or compression artefacts'

    @classmethod
    def check_options(cls, given: dict) -> Iterator[tuple[str, str]]:
        """Mistakes that types do not reveal, for the check of option files."""
        misspelt = [*near_misses(cls, given)]
        yield from misspelt or _broken_rules({**_DEFAULTS, **given})

    def __init__(
        self,
        img_size: Side | Annotated[Sequence[Side], Len(2, 2)] = 64,
        patch_size: Side = 1,
        in_chans: Channels = 3,
        embed_dim: Channels = 96,
        depths: Depths = (6, 6, 6, 6),
        num_heads: Annotated[Sequence[Channels], Len(1)] = (6, 6, 6, 6),
        window_size: Side = 7,
        mlp_ratio: Ratio = 4.0,
        qkv_bias: bool = True,
        qk_scale: Positive | None = None,
        drop_rate: Rate = 0.0,
        attn_drop_rate: Rate = 0.0,
        drop_path_rate: Rate = 0.1,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: Scale = 2,
        img_range: Positive = 1.0,
        upsampler: str = '',
        resi_connection: str = '1conv',
        **kwargs: object,
    ) -> None:
        super().__init__()
        for _, message in _broken_rules(vars()):
            raise ValueError(message)
        warn_of_ignored(SwinIR, kwargs)
        with their_warnings_ignored():
            net = _spandrels()(
                img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depths=list(depths),
                num_heads=list(num_heads), window_size=window_size, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
                qk_scale=qk_scale, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate,
                norm_layer=norm_layer, ape=ape, patch_norm=patch_norm, upscale=upscale, img_range=img_range,
                upsampler=upsampler, resi_connection=resi_connection,
            )  # fmt: skip
        # Take over that network's layers and attributes, so that its methods run on `self`.
        mean = vars(net).pop('mean')
        vars(self).update(vars(net))
        self.register_buffer('mean', mean, persistent=False)
        self.upscale = upscale if upsampler else 1
        for block in (block for layer in self.layers for block in layer.residual_group.blocks if use_checkpoint):
            # Not spandrel's own checkpointing, which loses the gradients behind frozen layers.
            block.forward = partial(checkpoint, partial(type(block).forward, block), use_reentrant=False)

    def check_image_size(self, x: Tensor) -> Tensor:
        """(N, C, H, W), padded to whole windows by reflection."""
        return _spandrels().check_image_size(self, x)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W): the residual groups."""
        return _spandrels().forward_features(self, x)

    def forward(self, x: Tensor) -> Tensor:
        return _spandrels().forward(self, x)


_DEFAULTS = {name: argument.default for name, argument in inspect.signature(SwinIR).parameters.items()}
