"""The curve of a grid: each run on seen and unseen domains, at several iterations."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from basicsr.reproduce.cell import Cell
from basicsr.reproduce.cells import Cells
from basicsr.reproduce.grid import Grid
from basicsr.reproduce.grid_results import GridResults, Spread, spread_text
from basicsr.results.scores import Results
from basicsr.results.tables import Rows


@dataclass(frozen=True)
class Point:
    """A run at one iteration.

    Attributes:
        variant, seed, domain, iteration, metric: What was measured; the domain is the one that the run held out, or its
            single source; of a grid without such, an unseen one.
        seen, unseen: Mean over the seen domains, and over the unseen ones of `domain`.
    """

    variant: str
    seed: int
    domain: str
    iteration: int
    metric: str
    seen: float
    unseen: float


@dataclass(frozen=True)
class Curve:
    """The mean of a variant's runs over seeds and domains, by iteration.

    Attributes:
        iterations: Ascending.
        seen, unseen: Means.
        seen_error, unseen_error: Standard errors of these over the seeds; NaN for one seed.
    """

    iterations: list[int]
    seen: np.ndarray
    unseen: np.ndarray
    seen_error: np.ndarray
    unseen_error: np.ndarray


def points_of(grid: Grid, cells: Cells, found: GridResults) -> list[Point]:
    """The points of all finished cells whose curve was measured."""
    points = []
    for cell in grid.cells:
        file = cells.curve_file(cell)
        if cell.curve and cell.name in found.done:
            points += _points(cell, _means(file, file.stat().st_mtime_ns))
    return points


@lru_cache(maxsize=10_000)
def _means(file: Path, changed: int) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """By metric, network, 'seen' or 'unseen', and domain: the mean over samples; a file is read once."""
    results = Results.load(file.parent)
    groups = {'seen': results.seen, 'unseen': results.unseen}
    return {
        metric: {
            network if network != results.main else '': {
                group: {domain: results.value(network, domain, metric) for domain in domains}
                for group, domains in groups.items()
            }
            for network in results.networks
        }
        for metric in results.measured(results.domains)
    }


def _points(cell: Cell, means: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Iterable[Point]:
    for metric, networks in means.items():
        for network, groups in networks.items():
            iteration = int(network or cell.iterations)
            seen = float(np.mean(list(groups['seen'].values())))
            unseen = groups['unseen']
            by_domain = {cell.domain: float(np.mean(list(unseen.values())))} if cell.domain else unseen
            for domain, mean in by_domain.items():
                yield Point(cell.variant, cell.seed, domain, iteration, metric, seen, mean)


def curve_csv(points: Iterable[Point]) -> str:
    """A line for each point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([one.name for one in fields(Point)])
    writer.writerows(map(astuple, points))
    return text.getvalue()


def _runs(points: Iterable[Point], metric: str) -> dict[str, dict[int, dict[str, list[Point]]]]:
    """Points by variant, seed and domain, by iteration; seeds that lack a domain which others have are left out."""
    points = [point for point in points if point.metric == metric]
    domains = {point.domain for point in points}
    runs: dict[str, dict[int, dict[str, list[Point]]]] = {}
    for point in sorted(points, key=lambda point: point.iteration):
        runs.setdefault(point.variant, {}).setdefault(point.seed, {}).setdefault(point.domain, []).append(point)
    order = dict.fromkeys(point.variant for point in points)
    complete = {label: {seed: own for seed, own in runs[label].items() if own.keys() == domains} for label in order}
    return {label: seeds for label, seeds in complete.items() if seeds}


def curves_of(points: Iterable[Point], metric: str) -> dict[str, Curve]:
    """The curve of each variant of which one seed at least has run on all domains."""
    return {label: _curve(seeds) for label, seeds in _runs(points, metric).items()}


def _curve(seeds: dict[int, dict[str, list[Point]]]) -> Curve:
    some_run = next(iter(next(iter(seeds.values())).values()))
    values = np.array(  # (seeds, domains, iterations, 2)
        [[[(one.seen, one.unseen) for one in run] for run in domains.values()] for domains in seeds.values()]
    ).mean(1)
    count = len(values)
    errors = values.std(0, ddof=1) / math.sqrt(count) if count > 1 else np.full(values.shape[1:], np.nan)
    (seen, unseen), (seen_error, unseen_error) = values.mean(0).T, errors.T
    return Curve([point.iteration for point in some_run], seen, unseen, seen_error, unseen_error)


def curve_rows(points: Iterable[Point], metric: str, better: str) -> tuple[list[str], Rows]:
    """A row for each variant: the unseen domains where the seen ones are best, at their own best, and at the end.

    Args:
        points: Of all variants.
        metric: The metric.
        better: Which of its values are better: 'higher' or 'lower'.
    """
    sign = 1 if better == 'higher' else -1
    rows = []
    for label, seeds in _runs(points, metric).items():
        chosen: dict[str, list[float]] = {'at best seen': [], 'best': [], 'end': []}
        for domains in seeds.values():
            runs = domains.values()
            chosen['at best seen'].append(_mean([max(run, key=lambda one: sign * one.seen).unseen for run in runs]))
            chosen['best'].append(_mean([max(run, key=lambda one: sign * one.unseen).unseen for run in runs]))
            chosen['end'].append(_mean([run[-1].unseen for run in runs]))
        rows.append([label, str(len(seeds)), *(spread_text(Spread.of(means)) for means in chosen.values())])
    return [f'{metric}, unseen, on the curve', 'seeds', 'at best seen', 'best', 'end'], rows


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
