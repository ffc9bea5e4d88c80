"""Tiled inference with MambaIR's cut: equal tiles of about `tile` pixels, each seen with a margin of its neighbours."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import pad


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


def tile_options(val: dict, always: bool) -> tuple[int, float]:
    """Read the tiles from the section `val`.

    Args:
        val: `tile_size`, default 200, `tile_overlap`, default 0.1, and `patchwise_testing`.
        always: Cut pictures whatever `patchwise_testing` says.

    Returns:
        (about the side of a tile, 0 for whole pictures; the margin as a share of it).

    Raises:
        ValueError: A negative tile, an overlap outside [0, 1), or patches that are asked for and have no size.
    """
    tile, overlap = val.get('tile_size', 200), val.get('tile_overlap', 0.1)
    check_tiles(tile, overlap)
    patchwise = bool(val.get('patchwise_testing'))
    if patchwise and tile == 0:
        raise ValueError('val.patchwise_testing is true and val.tile_size 0, which tests pictures whole: drop one')
    return (tile if patchwise or always else 0), overlap


def check_tiles(tile: int, overlap: float) -> None:
    """Raise a ValueError unless `tile` is a whole number of at least 0 and `overlap` lies in [0, 1)."""
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


def tiled(network: Callable[[Tensor], Tensor], lq: Tensor, scale: int, tile: int = 200, overlap: float = 0.1) -> Tensor:
    """Run `network` tile by tile and stitch.

    A side of n pixels is cut into n // tile + 1 equal tiles, after a reflection at its end makes it divisible. Each
    tile is seen with a margin of `overlap` times its size on inner borders; the margin is dropped from the output.

    Args:
        network: (N, C, h, w) -> (N, C', h * scale, w * scale).
        lq: Pictures, (N, C, H, W).
        scale: Scale of the network.
        tile: About the side of a tile in pixels of `lq`; 0 runs the picture whole.
        overlap: Share of a tile's side, in [0, 1).

    Returns:
        (N, C', H * scale, W * scale).

    Raises:
        ValueError: A negative tile, or an overlap outside [0, 1).
    """
    check_tiles(tile, overlap)
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
                output = part.new_empty(*part.shape[:2], lq.shape[-2] * scale, lq.shape[-1] * scale)
            output[..., _scaled(kept_y, scale), _scaled(kept_x, scale)] = part[
                ..., _scaled(inner_y, scale), _scaled(inner_x, scale)
            ]
    return output[..., : height * scale, : width * scale]
