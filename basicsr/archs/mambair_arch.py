"""MambaIR, with the state dict of its authors' weights.

Source: Guo et al., "MambaIR: A Simple Baseline for Image Restoration with State-Space Model", ECCV 2024. Features are
kept as (N, H, W, C) throughout; a permuted view of that is what convolutions call channels_last.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Len
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from basicsr.archs.arch_util import Upsample, upsample_factor
from basicsr.archs.ignored import near_misses, warn_of_ignored
from basicsr.archs.rcan_arch import ChannelAttention
from basicsr.archs.traits import Traits
from basicsr.ops.selective_scan import selective_scan
from basicsr.options.bounds import Channels, Depths, Positive, Rate, Ratio, Scale, Side
from basicsr.options.types import Ceiling
from basicsr.utils.registry import ARCH_REGISTRY


class CAB(nn.Module):
    """Channel attention block on (N, C, H, W): a bottleneck of convolutions, then channel attention."""

    def __init__(
        self, num_feat: int, is_light_sr: bool = False, compress_ratio: int = 3, squeeze_factor: int = 30
    ) -> None:
        super().__init__()
        if is_light_sr:
            narrow = num_feat // 2
            convolutions = [
                nn.Conv2d(num_feat, narrow, 1),
                nn.Conv2d(narrow, narrow, 3, 1, 1, groups=narrow),
                nn.GELU(),
                nn.Conv2d(narrow, num_feat, 1),
                nn.Conv2d(num_feat, num_feat, 3, 1, padding=2, dilation=2, groups=num_feat),
            ]
        else:
            narrow = num_feat // compress_ratio
            convolutions = [nn.Conv2d(num_feat, narrow, 3, 1, 1), nn.GELU(), nn.Conv2d(narrow, num_feat, 3, 1, 1)]
        self.cab = nn.Sequential(*convolutions, ChannelAttention(num_feat, squeeze_factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.cab(x)


class SS2D(nn.Module):
    """2D selective scan: the picture is scanned along four paths (rows, columns, and both backwards), which are summed.

    Args:
        d_model: Channels C.
        d_state: States per channel.
        d_conv: Kernel size of the depthwise convolution.
        expand: Inner channels per channel.
        dt_rank: Rank of the step's projection, or 'auto' for ceil(C / 16).
        dt_min, dt_max: Range of the initial steps.
        dt_init_floor: Smallest initial step.
        scan_backend: Backend of the selective scan; None chooses the best available.
    """

    directions = 4

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 3,
        expand: float = 2.0,
        dt_rank: int | str = 'auto',
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        inner = int(expand * d_model)
        self.d_state, self.scan_backend = d_state, scan_backend
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == 'auto' else int(dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, d_conv, padding=(d_conv - 1) // 2, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.empty(self.directions, self.dt_rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(self.directions, inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(self.directions, inner))
        self.A_logs = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(self.directions * inner, 1))
        self.Ds = nn.Parameter(torch.ones(self.directions * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self._init_projections(dt_min, dt_max, dt_init_floor)

    @torch.no_grad()
    def _init_projections(self, dt_min: float, dt_max: float, dt_init_floor: float) -> None:
        bound = self.x_proj_weight.shape[-1] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        bound = self.dt_rank**-0.5
        self.dt_projs_weight.uniform_(-bound, bound)
        # softplus(bias) is log-uniform in [dt_min, dt_max].
        self.dt_projs_bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=dt_init_floor)
        self.dt_projs_bias.add_(torch.log(-torch.expm1(-self.dt_projs_bias)))

    def _scan(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H, W, C).

        The picture is laid out twice, by rows and by columns; the scan walks each forwards and, for its last two
        groups, backwards. Projections are pointwise in time, so they see no direction.
        """
        height, width = x.shape[2:]
        paths = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)
        weight = self.x_proj_weight.unflatten(0, (2, 2))
        projected = torch.einsum('bpdl,qpcd->bqpcl', paths, weight).flatten(1, 2)
        dts, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], 2)
        dts = torch.einsum('bkrl,kdr->bkdl', dts, self.dt_projs_weight)
        y = selective_scan(
            paths.flatten(1, 2),
            dts.flatten(1, 2),
            -torch.exp(self.A_logs if self.A_logs.dtype == torch.float64 else self.A_logs.float()),
            B,
            C,
            self.Ds,
            self.dt_projs_bias.flatten(),
            delta_softplus=True,
            backend=self.scan_backend,
            reverse_groups=2,
        )
        rows, columns = y.unflatten(1, (2, 2, -1)).sum(1).unbind(1)
        rows = rows.unflatten(-1, (height, width)).permute(0, 2, 3, 1)
        return rows + columns.unflatten(-1, (width, height)).permute(0, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        x, gate = self.in_proj(x).chunk(2, -1)
        y = self._scan(silu(self.conv2d(x.permute(0, 3, 1, 2))))
        return self.out_proj(self.out_norm(y) * silu(gate))


class VSSBlock(nn.Module):
    """Residual state-space block on (N, H, W, C): 2D selective scan, then channel attention, both with scaled skips."""

    def __init__(
        self,
        hidden_dim: int,
        drop_path: float = 0.0,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        d_state: int = 16,
        expand: float = 2.0,
        is_light_sr: bool = False,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        self.ln_1 = norm_layer(hidden_dim)
        self.self_attention = SS2D(hidden_dim, d_state=d_state, expand=expand, scan_backend=scan_backend)
        self.drop_path = StochasticDepth(drop_path, 'row')
        self.skip_scale = nn.Parameter(torch.ones(hidden_dim))
        self.conv_blk = CAB(hidden_dim, is_light_sr)
        self.ln_2 = nn.LayerNorm(hidden_dim)
        self.skip_scale2 = nn.Parameter(torch.ones(hidden_dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.skip_scale + self.drop_path(self.self_attention(self.ln_1(x)))
        return x * self.skip_scale2 + self.conv_blk(self.ln_2(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class BasicLayer(nn.Module):
    """`blocks` in sequence, each recomputed in backward if `use_checkpoint` is set."""

    def __init__(self, blocks: Sequence[nn.Module], use_checkpoint: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x


class ResidualGroup(nn.Module):
    """Residual state-space group on (N, H, W, C): blocks, a convolution, a skip."""

    def __init__(self, layer: BasicLayer, dim: int, resi_connection: str) -> None:
        super().__init__()
        self.residual_group = layer
        self.conv = _residual_conv(dim, resi_connection)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """(N, C, H, W) -> (N, H, W, C), normalised if `norm_layer` is given. A patch is a pixel."""

    def __init__(self, embed_dim: int, norm_layer: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1))


def _residual_conv(dim: int, resi_connection: str) -> nn.Module:
    if resi_connection == '1conv':
        return nn.Conv2d(dim, dim, 3, 1, 1)
    if resi_connection == '3conv':
        return nn.Sequential(
            nn.Conv2d(dim, dim // 4, 3, 1, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(dim // 4, dim // 4, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(dim // 4, dim, 3, 1, 1),
        )
    raise ValueError(f'resi_connection is 1conv or 3conv, not {resi_connection!r}')


def _upsampling(weights: dict[str, Tensor], in_chans: int) -> tuple[str, int]:
    """Upsampler and scale that yield weights with these names and shapes."""
    if 'conv_before_upsample.0.weight' in weights:
        return 'pixelshuffle', upsample_factor(weights)
    if 'upsample.0.weight' in weights:
        return 'pixelshuffledirect', math.isqrt(weights['upsample.0.weight'].shape[0] // in_chans)
    return '', 1


def _broken_rules(given: dict) -> Iterator[tuple[str, str]]:
    """Values that types do not refuse, and incompatible arguments, as (name, message)."""
    upsampler, connection, upscale = given['upsampler'], given['resi_connection'], given['upscale']
    width = given['embed_dim']
    if upsampler not in ('pixelshuffle', 'pixelshuffledirect', '', None):
        yield 'upsampler', f"upsampler is 'pixelshuffle', 'pixelshuffledirect' or '' (denoising), not {upsampler!r}"
    if connection not in ('1conv', '3conv'):
        yield 'resi_connection', f'resi_connection is 1conv or 3conv, not {connection!r}'
    if upsampler == 'pixelshuffle' and upscale != 3 and (upscale < 1 or upscale & (upscale - 1)):
        yield 'upscale', f"upscale is a power of two or 3 with upsampler 'pixelshuffle', not {upscale}"
    if width < 30:
        yield 'embed_dim', f'embed_dim must be at least 30, which channel attention divides by; it is {width}'
    elif int(given['mlp_ratio'] * width) < 1:
        yield 'mlp_ratio', f'mlp_ratio * embed_dim must be at least 1: {given["mlp_ratio"]} * {width}'


@ARCH_REGISTRY.register()
class MambaIR(nn.Module):
    """Image restoration with a state-space model: (N, in_chans, H, W) -> (N, in_chans, H * upscale, W * upscale).

    Args:
        img_size: Side of the training patches; accepted since option files have it, any size runs.
        patch_size: Ignored, as by the authors' class, with a warning unless it is 1: a patch is a pixel.
        in_chans: Channels of input and output.
        embed_dim: Channels C of the features; at least 30, since channel attention divides them by 30.
        depths: Blocks of each residual group.
        drop_rate: Dropout of the embedded features.
        d_state: States per channel of the selective scan.
        mlp_ratio: Inner channels per channel of the selective scan.
        drop_path_rate: Stochastic depth of the last block; the rate rises linearly from 0.
        norm_layer: Normalisation of the last dimension.
        patch_norm: Normalise the embedded features.
        use_checkpoint: Recompute blocks in backward: less memory, more time.
        upscale: Scale; 1 for denoising.
        img_range: 1.0 or 255.0.
        upsampler: 'pixelshuffle' (classical SR), 'pixelshuffledirect' (lightweight SR), or '' (denoising).
        resi_connection: '1conv' or '3conv'.
        scan_backend: Backend of the selective scan; None chooses the best available.
        **kwargs: Accepted and ignored, with a warning, as by the authors' class: window_size, num_heads, interval.

        Raises:
            ValueError: An unknown upsampler or residual connection, too few channels, or a misspelt argument.
    """

    not_in_weights = ('img_range',)
    traits = Traits(tile_size=200, tile_overlap=0.1)

    @staticmethod
    def options_from_weights(weights: dict[str, Tensor]) -> dict | None:
        """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
        pattern = re.compile(r'layers\.(\d+)\.residual_group\.blocks\.\d+\.self_attention\.A_logs$')
        blocks = {name: int(block[1]) for name in weights if (block := pattern.match(name))}
        if not blocks:
            return None
        layers = list(blocks.values())
        if max(layers) >= len(layers):  # some have no block
            return None
        embed_dim, in_chans = weights['conv_first.weight'].shape[:2]
        channels, d_state = weights[next(iter(blocks))].shape
        inner = channels // SS2D.directions
        ratio = inner / embed_dim
        upsampler, upscale = _upsampling(weights, in_chans)
        return {
            'upscale': upscale,
            'in_chans': in_chans,
            'embed_dim': embed_dim,
            'depths': [layers.count(layer) for layer in range(max(layers) + 1)],
            'd_state': d_state,
            # The network truncates to an integer.
            'mlp_ratio': ratio if int(ratio * embed_dim) == inner else (inner + 0.5) / embed_dim,
            'patch_norm': 'patch_embed.norm.weight' in weights,
            'upsampler': upsampler,
            'resi_connection': '1conv' if 'conv_after_body.weight' in weights else '3conv',
        }

    @staticmethod
    def task(options: dict) -> str:
        """What a network with these options is for."""
        kinds = {'pixelshuffle': 'classical', 'pixelshuffledirect': 'lightweight'}
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
        embed_dim: Annotated[int, Ge(30), Ceiling(65536)] = 96,
        depths: Depths = (6, 6, 6, 6),
        drop_rate: Rate = 0.0,
        d_state: Channels = 16,
        mlp_ratio: Ratio = 2.0,
        drop_path_rate: Rate = 0.1,
        norm_layer: type[nn.Module] = nn.LayerNorm,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: Scale = 2,
        img_range: Positive = 1.0,
        upsampler: str = '',
        resi_connection: str = '1conv',
        scan_backend: str | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__()
        warn_of_ignored(MambaIR, {**kwargs, **({'patch_size': patch_size} if patch_size != 1 else {})})
        for _, message in _broken_rules(vars()):
            raise ValueError(message)
        self.img_size, self.upscale, self.img_range, self.upsampler = img_size, upscale, img_range, upsampler
        mean = (0.4488, 0.4371, 0.4040) if in_chans == 3 else (0.0,) * in_chans
        self.register_buffer('mean', torch.tensor(mean).view(1, -1, 1, 1), persistent=False)

        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, 1, 1)
        self.patch_embed = PatchEmbed(embed_dim, norm_layer if patch_norm else None)
        self.pos_drop = nn.Dropout(drop_rate)
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist())
        light = upsampler == 'pixelshuffledirect'
        self.layers = nn.ModuleList()
        for depth in depths:
            blocks = [
                VSSBlock(embed_dim, next(rates), norm_layer, d_state, mlp_ratio, light, scan_backend)
                for _ in range(depth)
            ]
            self.layers.append(ResidualGroup(BasicLayer(blocks, use_checkpoint), embed_dim, resi_connection))
        self.norm = norm_layer(embed_dim)
        self.conv_after_body = _residual_conv(embed_dim, resi_connection)

        if upsampler == 'pixelshuffle':
            num_feat = 64
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(embed_dim, num_feat, 3, 1, 1), nn.LeakyReLU(inplace=True)
            )
            self.upsample = Upsample(upscale, num_feat)
            self.conv_last = nn.Conv2d(num_feat, in_chans, 3, 1, 1)
        elif upsampler == 'pixelshuffledirect':
            self.upsample = nn.Sequential(
                nn.Conv2d(embed_dim, upscale**2 * in_chans, 3, 1, 1), nn.PixelShuffle(upscale)
            )
        else:
            self.conv_last = nn.Conv2d(embed_dim, in_chans, 3, 1, 1)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W): the residual groups."""
        x = self.pos_drop(self.patch_embed(x))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean.to(x)
        x = (x - mean) * self.img_range
        features = self.conv_first(x)
        features = self.conv_after_body(self.forward_features(features)) + features
        if self.upsampler == 'pixelshuffle':
            x = self.conv_last(self.upsample(self.conv_before_upsample(features)))
        elif self.upsampler == 'pixelshuffledirect':
            x = self.upsample(features)
        else:
            x = x + self.conv_last(features)
        return x / self.img_range + mean


_DEFAULTS = {name: argument.default for name, argument in inspect.signature(MambaIR).parameters.items()}
