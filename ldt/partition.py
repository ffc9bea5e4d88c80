"""Who is stable, who is unstable, and why."""

from __future__ import annotations

import difflib
import json
import math
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from torch import nn

from .scores import _listing


@dataclass(frozen=True)
class Partition:
    """A split of a network's layers (parameter names) into a stable and an unstable group.

    Attributes:
        stable: Names of the stable layers, in ascending score.
        unstable: Names of the unstable layers, in ascending score.
        scores: Score by name in the network's order; empty where the split was made by name.
        criterion: What the scores measure, or "prefix".
        unstable_ratio: The share of unstable layers asked for; None where the split was made by name.

    Raises:
        ValueError: A layer stands in a group twice or in both, or a group is empty.
    """

    stable: list[str]
    unstable: list[str]
    scores: dict[str, float] = field(default_factory=dict)
    criterion: str = 'variance'
    unstable_ratio: float | None = None

    def __post_init__(self) -> None:
        for group, names in (('stable', self.stable), ('unstable', self.unstable)):
            if not names:
                raise ValueError(f'the {group} group is empty: both branches need a layer to train')
        seen: set[str] = set()
        twice = [name for name in [*self.stable, *self.unstable] if name in seen or seen.add(name)]
        if twice:
            raise ValueError(f'layers stand in the partition more than once: {_listing(twice)}')

    @classmethod
    def from_scores(
        cls, scores: Mapping[str, float], unstable_ratio: float = 0.5, criterion: str = 'variance'
    ) -> Partition:
        """Call the floor(M * (1 - unstable_ratio)) layers with the lowest score of M stable, the others unstable.

        Layers of equal score stay in the order of `scores`.

        Args:
            scores: Score by name, as `score_layers` returns them.
            unstable_ratio: Share of unstable layers, between 0 and 1, both excluded.
            criterion: What the scores measure; kept with the partition, changes nothing.

        Raises:
            ValueError: A ratio outside (0, 1), one that leaves a group empty, or a score that is NaN or infinite.
        """
        if not 0 < unstable_ratio < 1:
            raise ValueError(f'unstable_ratio must lie between 0 and 1, both excluded; it is {unstable_ratio}')
        broken = [name for name, score in scores.items() if not math.isfinite(score)]
        if broken:
            raise ValueError(f'scores must be finite numbers; NaN or Inf: {_listing(broken)}')
        names = sorted(scores, key=scores.__getitem__)
        # Decimal reads 0.9 as written: in binary, floor(10 * (1 - 0.9)) would be 0.
        split = math.floor(len(names) * (1 - Decimal(str(float(unstable_ratio)))))
        if not 0 < split < len(names):
            raise ValueError(
                f'unstable_ratio {unstable_ratio} makes {split} of {len(names)} layers stable: '
                'both groups need at least one; choose another ratio'
            )
        scores = {name: float(score) for name, score in scores.items()}
        return cls(names[:split], names[split:], scores, criterion, float(unstable_ratio))

    @classmethod
    def from_prefixes(cls, layers: nn.Module | Iterable[str], unstable_prefixes: str | Iterable[str]) -> Partition:
        """Call the layers whose name begins with one of the prefixes unstable, as LP-FT and DeFT do with the head.

        A prefix ends where a part of the name ends: `head` is `head.weight`, not `head2.weight`. Within a group, layers
        keep the network's order.

        Args:
            layers: The network (its trainable parameters), or the names of its layers.
            unstable_prefixes: One prefix or several.

        Raises:
            ValueError: A prefix that no layer has, or prefixes that leave a group empty.
        """
        names = _names(layers)
        prefixes = [unstable_prefixes] if isinstance(unstable_prefixes, str) else list(unstable_prefixes)
        unstable: set[str] = set()
        for prefix in prefixes:
            stem = prefix.rstrip('.')
            matches = [name for name in names if name == stem or name.startswith(stem + '.')]
            if not matches:
                parts = {name[:end] for name in names for end in range(len(name)) if name[end] == '.'}
                near = difflib.get_close_matches(stem, sorted(parts | set(names)), n=3)
                hint = f'; near it: {", ".join(near)}' if near else ''
                raise ValueError(f'no layer has the prefix {prefix!r}{hint}')
            unstable.update(matches)
        return cls(
            [name for name in names if name not in unstable], [name for name in names if name in unstable], {}, 'prefix'
        )

    @classmethod
    def random(cls, layers: nn.Module | Iterable[str], unstable_ratio: float = 0.5, seed: int = 0) -> Partition:
        """Split by a seeded random number a layer, which does not touch the global random state."""
        generator = random.Random(seed)
        scores = {name: generator.random() for name in _names(layers)}
        return cls.from_scores(scores, unstable_ratio, 'random')

    def check(self, model: nn.Module) -> None:
        """Make sure that the partition names exactly the trainable parameters of `model`.

        Raises:
            ValueError: Names that the network lacks, or trainable layers that stand in neither group.
        """
        trainable = _names(model)
        known, named = set(trainable), {*self.stable, *self.unstable}
        unknown = [name for name in [*self.stable, *self.unstable] if name not in known]
        missing = [name for name in trainable if name not in named]
        if unknown:
            raise ValueError(
                f'the partition names layers that are no trainable parameter of the network: {_listing(unknown)}'
            )
        if missing:
            raise ValueError(f'trainable layers stand in neither group of the partition: {_listing(missing)}')

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Partition:
        """Make a partition of what `to_dict` returned.

        Raises:
            ValueError: The mapping is no partition.
        """
        try:
            return cls(**state)
        except TypeError as error:
            raise ValueError(f'this is no partition: it has the entries {", ".join(map(str, state))}') from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Partition:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is no JSON, or no partition.
        """
        state = json.loads(text)
        if not isinstance(state, dict):
            raise ValueError('this is no partition: its JSON is no object')
        return cls.from_dict(state)

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_json()` to `path`, by way of a temporary file beside it."""
        path = Path(path)
        temporary = path.with_name(path.name + '.tmp')
        temporary.write_text(self.to_json() + '\n')
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Partition:
        """Read a file that `save` wrote; a broken one raises a ValueError that names it."""
        try:
            return cls.from_json(Path(path).read_text())
        except ValueError as error:
            raise ValueError(f'{path} holds no partition: {error}') from error


def _names(layers: nn.Module | Iterable[str]) -> list[str]:
    if isinstance(layers, nn.Module):
        return [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
    return list(layers)
