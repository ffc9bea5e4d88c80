"""What a network declares about itself: the sizes it accepts, its default tiling, the range of its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ['Traits', 'scale_of', 'traits_of']


@dataclass(frozen=True)
class Traits:
    """Traits of a network. A class or an instance declares them in its attribute `traits`.

    Args:
        size_multiple: Height and width of an input must be multiples of it; inputs are padded by reflection and the
            output is cut off again.
        smallest_side: The smallest height or width that the network accepts; padded likewise.
        square: Whether height and width must be equal; padded likewise.
        tile_size: Side of the default tiles in pixels of the input; 0 for whole pictures.
        tile_overlap: Overlap of the default tiles, as a part of their side.
        pixel_range: Values of the darkest and the brightest pixel.
        scale: Output pixels per input pixel along a side, if no attribute of the network says so.

        Raises:
            ValueError: A size below 1, a negative tile size, or an overlap that leaves nothing of a tile.
    """

    size_multiple: int = 1
    smallest_side: int = 1
    square: bool = False
    tile_size: int = 0
    tile_overlap: float = 0.1
    pixel_range: tuple[float, float] = (0.0, 1.0)
    scale: int | None = None

    def __post_init__(self) -> None:
        if self.size_multiple < 1 or self.smallest_side < 1:
            raise ValueError(
                f'size_multiple and smallest_side are at least 1, not {self.size_multiple} and {self.smallest_side}'
            )
        if self.tile_size < 0 or not 0 <= self.tile_overlap < 1:
            raise ValueError(
                f'tile_size is 0 or more and tile_overlap in [0, 1), not {self.tile_size} and {self.tile_overlap}'
            )

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """The padding that an input of this size needs, as (rows at the bottom, columns on the right)."""
        sides = [
            -(-max(side, self.smallest_side) // self.size_multiple) * self.size_multiple for side in (height, width)
        ]
        if self.square:
            sides = [max(sides)] * 2
        return sides[0] - height, sides[1] - width


def traits_of(net: nn.Module, options: Mapping | None = None) -> Traits:
    """Traits of `net`: its own, or those implied by its windows, or the defaults.

    Window-based networks written for BasicSR (SwinIR, HAT, DAT) do not declare a multiple; their tests read
    `window_size` from the options.

    Args:
        net: A network.
        options: Its section `network_g`, read if the network has no attribute `window_size`.

        Raises:
            TypeError: The attribute `traits` is not a `Traits`.
            ValueError: `window_size` is neither a positive integer nor a sequence of them.
    """
    traits = getattr(net, 'traits', None)
    if isinstance(traits, Traits):
        return traits
    if traits is not None:
        raise TypeError(f'{type(net).__name__}.traits is a basicsr.archs.traits.Traits, not {traits!r}')
    window = getattr(net, 'window_size', None)
    if window is None:
        window = (options or {}).get('window_size')
    return Traits() if window is None else Traits(size_multiple=_largest(window))


def scale_of(net: nn.Module) -> int | None:
    """Output pixels per input pixel along a side, from the traits or an attribute `upscale` or `scale`; or None."""
    said = (getattr(net, 'traits', None), getattr(net, 'upscale', None), getattr(net, 'scale', None))
    numbers = [getattr(said[0], 'scale', None), *said[1:]]
    return next((number for number in numbers if isinstance(number, int) and not isinstance(number, bool)), None)


def _largest(window: Any) -> int:
    sides = window if isinstance(window, Sequence) and not isinstance(window, str) else [window]
    if not sides or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise ValueError(f'window_size is a positive integer or a sequence of such, not {window!r}')
    return max(sides)
