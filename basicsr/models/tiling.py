"""Tiled inference with MambaIR's cut: equal tiles of about `tile` pixels, each seen with a margin of its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from basicsr.archs.traits import Traits
from basicsr.utils.logger import get_root_logger
from basicsr.utils.misc import is_out_of_memory

TILE_MODES = ('official', 'blended')
_SMALLEST_TILE = 32
"""Memory that is short at smaller tiles is short of something else."""


def _cuts(length: int, parts: int, overlap: float) -> list[tuple[slice, slice, slice]]:
    """For each of `parts` equal tiles of `length` pixels: what is seen, what is kept, and where in the seen it lies."""
    size = length // parts
    margin = int(size * overlap)
    cuts = []
    for start in range(0, length, size):
        seen = slice(max(0, start - margin), min(length, start + size + margin))
        cuts.append((seen, slice(start, start + size), slice(start - seen.start, start - seen.start + size)))
    return cuts


def _scaled(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)


def check_tiles(tile: int, overlap: float, mode: str) -> None:
    """Raise a ValueError unless `tile` is a whole number of at least 0, `overlap` in [0, 1) and `mode` known."""
    if mode not in TILE_MODES:
        raise ValueError(f'val.tile_mode must be {" or ".join(TILE_MODES)}, not {mode!r}')
    if not isinstance(tile, int) or not isinstance(overlap, int | float) or tile < 0 or not 0 <= overlap < 1:
        raise ValueError(
            'val.tile_size must be a whole number, 0 or more, and val.tile_overlap lie in [0, 1); '
            f'they are {tile!r} and {overlap!r}'
        )


def pad_mirrored(lq: Tensor, right: int, bottom: int) -> Tensor:
    """Extend pictures (N, C, H, W) by reflection, again and again where a side is shorter than what it lacks."""
    while right or bottom:
        height, width = lq.shape[-2:]
        # A side of one pixel has nothing to reflect but itself.
        step_x, step_y = (min(lacks, max(side - 1, 1)) for lacks, side in ((right, width), (bottom, height)))
        lq = pad(lq, (0, step_x, 0, 0), 'reflect' if width > 1 else 'replicate')
        lq = pad(lq, (0, 0, 0, step_y), 'reflect' if height > 1 else 'replicate')
        right, bottom = right - step_x, bottom - step_y
    return lq


def fitted(network: Callable[[Tensor], Tensor], traits: Traits, lq: Tensor, scale: int) -> Tensor:
    """Run `network` at sizes and values that it takes: padded by reflection, scaled to its range, cut and scaled back.

    Args:
        network: (N, C, h, w) -> (N, C', h * scale, w * scale), for the sizes and values that `traits` allows.
        traits: What the network says of itself.
        lq: Pictures of any size, (N, C, H, W) in [0, 1].
        scale: Scale of the network.

    Returns:
        (N, C', H * scale, W * scale), in [0, 1] but for what the network overshoots.
    """
    height, width = lq.shape[-2:]
    below, right = traits.padding(height, width)
    padded, (low, high) = pad_mirrored(lq, right, below), traits.pixel_range
    output = network(padded) if (low, high) == (0, 1) else (network(padded * (high - low) + low) - low) / (high - low)
    return output[..., : height * scale, : width * scale] if right or below else output


def _share(seen: slice, kept: slice, length: int, scale: int) -> Tensor:
    """How much the tile counts in each pixel of its output along one side: 1 within, half a cosine at inner borders.

    The ramps are as wide as the margin and have their middle where official tiles end. So the outer half of a margin
    does not count, where the network saw least of the surroundings; and as a margin is less than a tile, the shares of
    neighbours add up to 1.
    """
    margin = max(kept.start - seen.start, seen.stop - kept.stop)
    places = (torch.arange(seen.start * scale, seen.stop * scale, dtype=torch.float64) + 0.5) / scale
    share = torch.ones_like(places)
    for border, sign in ((kept.start, 1), (kept.stop, -1)):
        if 0 < border < length:
            ramp = (sign * (places - border) / margin + 0.5).clamp(0, 1)  # a step where there is no margin
            share *= 0.5 - 0.5 * torch.cos(torch.pi * ramp)
    return share.float()


def tiled(
    network: Callable[[Tensor], Tensor],
    lq: Tensor,
    scale: int,
    tile: int = 200,
    overlap: float = 0.1,
    mode: str = 'official',
) -> Tensor:
    """Run `network` tile by tile and stitch.

    A side of n pixels is cut into n // tile + 1 equal tiles, after a reflection at its end makes it divisible. Each
    tile is seen with a margin of `overlap` times its size on inner borders. In the mode `official` the margin is
    dropped from the output; in `blended` neighbours fade into each other over its inner half, in place of a seam.
    What a network computes from no further away than half a margin is then the same as for the whole picture.

    Args:
        network: (N, C, h, w) -> (N, C', h * scale, w * scale).
        lq: Pictures, (N, C, H, W).
        scale: Scale of the network.
        tile: About the side of a tile in pixels of `lq`; 0 runs the picture whole.
        overlap: Share of a tile's side, in [0, 1).
        mode: 'official' or 'blended'.

    Returns:
        (N, C', H * scale, W * scale).

    Raises:
        ValueError: A negative tile, an overlap outside [0, 1), or another mode.
    """
    check_tiles(tile, overlap, mode)
    if tile == 0:
        return network(lq)
    height, width = lq.shape[-2:]
    rows, columns = height // tile + 1, width // tile + 1
    lq = pad_mirrored(lq, -width % columns, -height % rows)
    output = None
    for seen_y, kept_y, inner_y in _cuts(lq.shape[-2], rows, overlap):
        for seen_x, kept_x, inner_x in _cuts(lq.shape[-1], columns, overlap):
            part = network(lq[..., seen_y, seen_x])
            if output is None:
                output = part.new_zeros(*part.shape[:2], lq.shape[-2] * scale, lq.shape[-1] * scale)
            if mode == 'blended':
                share_y, share_x = (
                    _share(seen_y, kept_y, lq.shape[-2], scale),
                    _share(seen_x, kept_x, lq.shape[-1], scale),
                )
                output[..., _scaled(seen_y, scale), _scaled(seen_x, scale)] += part * torch.outer(share_y, share_x).to(
                    part
                )
            else:
                output[..., _scaled(kept_y, scale), _scaled(kept_x, scale)] = part[
                    ..., _scaled(inner_y, scale), _scaled(inner_x, scale)
                ]
    return output[..., : height * scale, : width * scale]


@dataclass
class Tiling:
    """How pictures are cut: `tiled` with its arguments, and with tiles that become smaller where memory runs out.

    Attributes:
        tile: About the side of a tile, 0 for whole pictures; the smaller one once memory has run out.
        overlap: Margin as a share of it, in [0, 1).
        mode: 'official' or 'blended'.

    Raises:
        ValueError: As `tiled`.
    """

    tile: int = 200
    overlap: float = 0.1
    mode: str = 'official'

    def __post_init__(self) -> None:
        check_tiles(self.tile, self.overlap, self.mode)

    @classmethod
    def from_options(cls, val: dict, default: int) -> Tiling:
        """Read `tile_size`, `tile_overlap`, `tile_mode` and `patchwise_testing` from the section `val`.

        Args:
            val: The section.
            default: About the side of the tiles that the network or the model wants; 0: none, unless
                `patchwise_testing` asks for them.

        Raises:
            ValueError: As `tiled`, or patches that are asked for and have no size.
        """
        tile = val.get('tile_size', default or 200)
        tiling = cls(tile, val.get('tile_overlap', 0.1), val.get('tile_mode', 'official'))
        patchwise = bool(val.get('patchwise_testing'))
        if patchwise and tiling.tile == 0:
            raise ValueError('val.patchwise_testing is true and val.tile_size 0, which tests pictures whole: drop one')
        if not (patchwise or default):
            tiling.tile = 0
        return tiling

    def run(self, network: Callable[[Tensor], Tensor], lq: Tensor, scale: int) -> Tensor:
        """`tiled`; where memory runs out the tile is halved, here and for all pictures to come, and tried again.

        Raises:
            RuntimeError, MemoryError: Memory runs out at the smallest tile, too; or whatever `network` raises.
        """
        while True:
            try:
                return tiled(network, lq, scale, self.tile, self.overlap, self.mode)
            except (RuntimeError, MemoryError) as error:
                in_use = min(self.tile or max(lq.shape[-2:]), max(lq.shape[-2:]))
                if not is_out_of_memory(error) or in_use // 2 < _SMALLEST_TILE:
                    raise
            # Out here the error is gone, and with it what its traceback kept alive.
            if lq.is_cuda:
                torch.cuda.empty_cache()
            self.tile = in_use // 2
            get_root_logger().warning(
                'Out of memory: pictures are cut into tiles of about %d pixels from now on, not %d; a tile size (in '
                'option files val.tile_size) of %d avoids the failed try',
                self.tile, in_use, self.tile,
            )  # fmt: skip
