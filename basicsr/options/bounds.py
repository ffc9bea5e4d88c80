"""Types of numbers for signatures: their bounds are what the check of option files holds values against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len, Lt

from basicsr.options.types import Ceiling

Channels = Annotated[int, Ge(1), Ceiling(65536)]
"""Channels, heads, states: what a layer has side by side."""
Blocks = Annotated[int, Ge(1), Ceiling(10000)]
"""Layers that follow one another."""
Depths = Annotated[Sequence[Blocks], Len(1)]
"""Blocks of each group."""
Side = Annotated[int, Ge(1), Ceiling(65536)]
"""Height or width, in pixels."""
Scale = Annotated[int, Ge(1), Ceiling(64)]
"""Output pixels per input pixel along a side."""
Classes = Annotated[int, Ge(0), Ceiling(10**6)]
"""Outputs of a classifier; 0 for none."""
Border = Annotated[int, Ge(0), Ceiling(65536)]
"""Pixels that are cut off along each side."""
Ratio = Annotated[float, Gt(0), Ceiling(1000)]
"""A number of channels in proportion to another."""
Rate = Annotated[float, Ge(0), Lt(1)]
"""Probability with which something is dropped: never all of it."""
Unit = Annotated[float, Ge(0), Le(1)]
"""A part of the whole."""
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Steps = Annotated[int, Ge(1)]
"""Iterations."""
