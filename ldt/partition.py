"""Which layers are stable, which are unstable, and why."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import nn

from .layers import parameter_names, with_prefixes
from .networks import format_names, unwrapped


@dataclass(frozen=True)
class Partition:
    """A split of a network's layers (names of parameters) into a stable and an unstable group.

    Attributes:
        stable: Names of the stable layers, in ascending score.
        unstable: Names of the unstable layers, in ascending score.
        scores: Score by name, in the network's order; empty for a split by name.
        criterion: What the scores measure, or "prefix".
        unstable_ratio: The share of unstable layers that was asked for or that "auto" chose; None for a split by name.
        layers: For layers of several tensors: parameter names by layer name, see `layers_of`. `stable` and `unstable`
            are still names of parameters, layer after layer, and `scores` has the names of layers. Empty if each
            parameter is a layer.
        samples: After a warm-up, the halves of the samples, by index or by name, and the seed of the split:
            {'seed': …, 'warm_up': […], 'scoring': […]}. Recorded, without effect.

    Raises:
        ValueError: A layer occurs twice in a group or in both groups, or a group is empty.
    """

    stable: list[str]
    unstable: list[str]
    scores: dict[str, float] = field(default_factory=dict)
    criterion: str = 'variance'
    unstable_ratio: float | None = None
    layers: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group, names in (('stable', self.stable), ('unstable', self.unstable)):
            if not names:
                raise ValueError(f'the {group} group is empty: both branches need a layer to train')
        seen: set[str] = set()
        twice = [name for name in [*self.stable, *self.unstable] if name in seen or seen.add(name)]
        if twice:
            raise ValueError(f'layers occur in the partition more than once: {format_names(twice)}')
        if self.layers:
            self._check_layers()

    def _check_layers(self) -> None:
        of_layers = [name for names in self.layers.values() for name in names]
        unexpected = sorted({*of_layers} ^ {*self.stable, *self.unstable})
        if unexpected or len(of_layers) != len({*of_layers}):
            raise ValueError(f'the layers do not have the names of the groups, each once: {format_names(unexpected)}')
        stable = {*self.stable}
        torn = [layer for layer, names in self.layers.items() if 0 < len(stable & {*names}) < len(names)]
        if torn:
            raise ValueError(f'layers are in both groups, with some of their tensors in each: {format_names(torn)}')

    @property
    def stable_layers(self) -> dict[str, list[str]]:
        """The stable layers in ascending score: names of parameters by name of the layer."""
        return self._by_layer(self.stable)

    @property
    def unstable_layers(self) -> dict[str, list[str]]:
        """The unstable layers in ascending score: names of parameters by name of the layer."""
        return self._by_layer(self.unstable)

    def _by_layer(self, names: list[str]) -> dict[str, list[str]]:
        if not self.layers:
            return {name: [name] for name in names}
        layer_of = {name: layer for layer, own in self.layers.items() for name in own}
        return {layer: self.layers[layer] for layer in dict.fromkeys(layer_of[name] for name in names)}

    @classmethod
    def from_scores(
        cls,
        scores: Mapping[str, float],
        unstable_ratio: float | str = 0.5,
        criterion: str = 'variance',
        layers: Mapping[str, list[str]] | None = None,
    ) -> Partition:
        """Call those floor(M * (1 - unstable_ratio)) of M layers with the lowest scores stable, the others unstable.

        Layers of equal score stay in the order of `scores`.

        Args:
            scores: Score by name of the layer, as `score_layers` returns them.
            unstable_ratio: Share of unstable layers, between 0 and 1, both excluded; or "auto": those above Otsu's
                threshold of the log-scores, see `otsu_split`.
            criterion: What the scores measure; recorded in the partition, without effect on it.
            layers: For scores of modules, what `layers_of(model, 'module')` returns.

        Raises:
            ValueError: A ratio outside (0, 1), one that leaves a group empty, a score that is NaN or infinite, or
                scores in which "auto" finds no two groups.
        """
        auto = unstable_ratio == 'auto'
        if not auto and not (isinstance(unstable_ratio, int | float) and 0 < unstable_ratio < 1):
            raise ValueError(
                f'unstable_ratio must lie between 0 and 1, both excluded, or be "auto"; it is {unstable_ratio}'
            )
        broken = [name for name, score in scores.items() if not math.isfinite(score)]
        if broken:
            raise ValueError(f'scores must be finite numbers; NaN or Inf: {format_names(broken)}')
        layers = dict(layers or {})
        unexpected = sorted({*scores} ^ {*layers}) if layers else []
        if unexpected:
            raise ValueError(
                f'`scores` and `layers` must name the same layers; they differ in {format_names(unexpected)}'
            )
        ordered = sorted(scores, key=scores.__getitem__)
        if auto:
            split = otsu_split([scores[name] for name in ordered])
            unstable_ratio = 1 - split / len(ordered)
        else:
            # Decimal reads 0.9 as written: in binary, floor(10 * (1 - 0.9)) would be 0.
            split = math.floor(len(ordered) * (1 - Decimal(str(float(unstable_ratio)))))
        if not 0 < split < len(ordered):
            raise ValueError(
                f'unstable_ratio {unstable_ratio} makes {split} of {len(ordered)} layers stable: '
                'both groups need at least one; choose another ratio'
            )
        stable, unstable = (
            [name for layer in group for name in layers.get(layer, [layer])]
            for group in (ordered[:split], ordered[split:])
        )
        scores = {name: float(score) for name, score in scores.items()}
        return cls(stable, unstable, scores, criterion, float(unstable_ratio), layers)

    @classmethod
    def from_prefixes(cls, layers: nn.Module | Iterable[str], unstable_prefixes: str | Iterable[str]) -> Partition:
        """Call the layers whose names begin with one of the prefixes unstable, as LP-FT and DeFT do with the head.

        A prefix covers whole parts of a name: `head` matches `head.weight`, not `head2.weight`. Within a group, layers
        keep the network's order.

        Args:
            layers: The network (its trainable parameters), or the names of its layers.
            unstable_prefixes: One prefix or several.

        Raises:
            ValueError: A prefix that no layer has, or prefixes that leave a group empty.
        """
        names = parameter_names(layers)
        unstable = {*with_prefixes(names, unstable_prefixes)}
        return cls(
            [name for name in names if name not in unstable], [name for name in names if name in unstable], {}, 'prefix'
        )

    @classmethod
    def random(cls, layers: nn.Module | Iterable[str], unstable_ratio: float = 0.5, seed: int = 0) -> Partition:
        """Split by one seeded random number per layer, without touching the global random state."""
        generator = random.Random(seed)
        scores = {name: generator.random() for name in parameter_names(layers)}
        return cls.from_scores(scores, unstable_ratio, 'random')

    def check(self, model: nn.Module) -> None:
        """Make sure that the partition names exactly the trainable parameters of `model`.

        Raises:
            ValueError: Names that the network lacks, or trainable layers that are in neither group.
        """
        trainable = parameter_names(model)
        known, named = set(trainable), {*self.stable, *self.unstable}
        unknown = [name for name in [*self.stable, *self.unstable] if name not in known]
        missing = [name for name in trainable if name not in named]
        if unknown:
            wrapper = type(model).__name__ if unwrapped(model) is not model else ''
            hint = f' (layers are named as inside {wrapper}, without what it puts before)' if wrapper else ''
            raise ValueError(
                'the partition names layers that are no trainable parameter of the network: '
                f'{format_names(unknown)}{hint}'
            )
        if missing:
            raise ValueError(f'trainable layers are in neither group of the partition: {format_names(missing)}')

    def to_dict(self) -> dict[str, Any]:
        """The attributes; `samples` only where there are some."""
        return {name: value for name, value in asdict(self).items() if name != 'samples' or value}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Partition:
        """Make a partition from what `to_dict` returned.

        Raises:
            ValueError: The mapping is not a partition.
        """
        try:
            return cls(**state)
        except TypeError as error:
            raise ValueError(f'this is not a partition: it has the entries {", ".join(map(str, state))}') from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Partition:
        """Read what `to_json` returned.

        Raises:
            ValueError: The text is not JSON, or not a partition.
        """
        state = json.loads(text)
        if not isinstance(state, dict):
            raise ValueError('this is not a partition: its JSON is not an object')
        return cls.from_dict(state)

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_json()` to `path`, through a temporary file beside it."""
        path = Path(path)
        temporary = path.with_name(path.name + '.tmp')
        try:
            temporary.write_text(self.to_json() + '\n')
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Partition:
        """Read a file written by `save`; a broken one raises a ValueError that names it."""
        if Path(path).exists() and not Path(path).is_file():  # a pipe might never end
            raise ValueError(f'{path} holds no partition: it is no file')
        try:
            return cls.from_json(Path(path).read_text())
        except ValueError as error:
            raise ValueError(f'{path} holds no partition: {error}') from error


def otsu_split(scores: Sequence[float]) -> int:
    """How many of the scores, in ascending order, lie below Otsu's threshold of their logs.

    Scores of gradients spread over many decades, so it is the distribution of their logs that has a shape. The
    threshold maximizes the variance between the two classes, w0 w1 (m0 - m1)^2 with the classes' shares w and mean
    logs m, and so minimizes the variance within them: N. Otsu, "A Threshold Selection Method from Gray-Level
    Histograms", IEEE Transactions on Systems, Man, and Cybernetics 9 (1), 1979, applied to the sorted values instead of
    a histogram. Scores of zero lie below and take no part; equal scores are not separated; of equally good thresholds
    the lowest is taken.

    Raises:
        ValueError: A score below zero, or fewer than two different ones above it.
    """
    if scores and scores[0] < 0:
        raise ValueError(f'unstable_ratio "auto" takes logs, so scores must be at least 0; the lowest is {scores[0]}')
    logs = [math.log(score) for score in scores if score > 0]
    zeros, count = len(scores) - len(logs), len(logs)
    places = [place for place in range(1, count) if logs[place - 1] < logs[place]]
    if not places:
        raise ValueError(
            'unstable_ratio "auto" finds no two groups: it needs two different scores above zero; give a number'
        )
    centre = math.fsum(logs) / count
    below = [0.0, *accumulate(value - centre for value in logs)]  # sums; the two classes' are each other's negative

    def between(place: int) -> float:
        return below[place] ** 2 / (place * (count - place))

    return zeros + max(places, key=between)
