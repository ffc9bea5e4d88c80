"""Self-ensemble: the mean of what a network makes of a picture's eight flips and turns."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from torch import Tensor


def self_ensemble(network: Callable[[Tensor], Tensor], lq: Tensor) -> Tensor:
    """Run `network` on the eight symmetries of `lq`, one after the other, and average (Timofte et al., 2016).

    Args:
        network: (N, C, h, w) -> (N, C', h * scale, w * scale).
        lq: Pictures, (N, C, H, W).

    Returns:
        (N, C', H * scale, W * scale).
    """
    total = None
    for transpose, *flips in product((False, True), repeat=3):
        axes = [axis for axis, flip in zip((-2, -1), flips, strict=True) if flip]
        seen = (lq.mT if transpose else lq).flip(axes)
        output = network(seen).flip(axes)
        output = output.mT if transpose else output
        total = output if total is None else total + output
    return total / 8
