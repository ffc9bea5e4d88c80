"""The table of a grid: domains and their average, over seeds, with paired differences to the baseline."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from basicsr.reproduce.cells import Cells
from basicsr.reproduce.grid import Grid
from basicsr.reproduce.plot import plot_axis, plot_differences
from basicsr.utils.misc import write_text
from basicsr.utils.result_tables import in_format, number, with_interval
from basicsr.utils.results import Results
from basicsr.utils.statistics import LEVEL, RESAMPLES, Estimate

AVERAGE = 'average'
_NOTE = (
    'Means over seeds, ± their standard deviation. Differences are paired by seed and picture; brackets hold 95 % '
    'bootstrap intervals that resample seeds and, within each camera, pictures. An asterisk marks those that exclude '
    'zero.'
)


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the standard deviation between them, NaN for one seed."""

    mean: float
    deviation: float
    seeds: int


class GridResults:
    """What the finished cells of a grid have measured.

    Args:
        variants: By label and seed.
        baseline: Label of the variant that the others are compared with.
        reference: Of networks that no cell trains, or None.
    """

    def __init__(self, variants: dict[str, dict[int, Results]], baseline: str, reference: Results | None) -> None:
        self.variants = {label: seeds for label, seeds in variants.items() if seeds}
        self.baseline, self.reference = baseline, reference
        first = next(iter(next(iter(self.variants.values())).values()))
        self.domains, self.metrics = first.unseen, first.measured(first.unseen)
        self.pictures = {domain: len(first.domains[domain]['images']) for domain in self.domains}
        self.better = first.metrics

    def columns(self) -> list[tuple[str, list[str]]]:
        """(title, domains) of each column."""
        average = [(AVERAGE, self.domains)] if len(self.domains) > 1 else []
        return [(domain, [domain]) for domain in self.domains] + average

    def spread(self, label: str, domains: Sequence[str], metric: str) -> Spread:
        """A variant's mean over domains, for each seed; of these, mean and standard deviation."""
        means = [
            float(np.mean([seed.values(seed.main, domain, metric).mean() for domain in domains]))
            for seed in self.variants[label].values()
        ]
        deviation = float(np.std(means, ddof=1)) if len(means) > 1 else float('nan')
        return Spread(float(np.mean(means)), deviation, len(means))

    def difference(self, label: str, domains: Sequence[str], metric: str) -> Estimate | None:
        """What a variant has more than the baseline; None for the baseline, or without a seed that both have."""
        base, own = self.variants.get(self.baseline, {}), self.variants[label]
        seeds = [seed for seed in own if seed in base]
        if label == self.baseline or not seeds:
            return None
        pairs = [
            np.stack([own[s].values(own[s].main, d, metric) - base[s].values(base[s].main, d, metric) for s in seeds])
            for d in domains
        ]
        return paired_estimate(pairs)

    def missing(self, grid: Grid) -> list[str]:
        """Names of the cells that have no results."""
        return [cell.name for cell in grid.cells if cell.seed not in self.variants.get(cell.variant, {})]


def paired_estimate(differences: Sequence[np.ndarray]) -> Estimate:
    """The mean over domains, seeds and pictures, with a bootstrap interval that resamples seeds and pictures.

    Seeds are resampled together for all domains, pictures within each. With a single seed its own chance is not in
    the interval; with three it is, roughly.

    Args:
        differences: For each domain, (seeds, pictures).
    """
    rng = np.random.default_rng(0)
    mean = float(np.mean([domain.mean() for domain in differences]))
    seeds, count = len(differences[0]), sum(domain.shape[1] for domain in differences)
    if any(domain.shape[1] < 2 for domain in differences) or not all(np.isfinite(d).all() for d in differences):
        return Estimate(mean, math.nan, math.nan, count)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    means = np.zeros(RESAMPLES)
    for domain in differences:
        pictures = domain.shape[1]
        of_pictures = rng.multinomial(pictures, np.full(pictures, 1 / pictures), RESAMPLES) / pictures
        means += np.einsum('rs,sp,rp->r', of_seeds, domain, of_pictures, optimize=True) / len(differences)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), count)


def collect(grid: Grid, cells: Cells) -> GridResults | None:
    """The results of the cells that are done; None where none is."""
    variants: dict[str, dict[int, Results]] = {label: {} for label in grid.variants}
    for cell in grid.cells:
        if cells.is_done(cell):
            variants[cell.variant][cell.seed] = cells.results(cell)
    try:
        reference = cells.reference()
    except FileNotFoundError:
        reference = None
    return GridResults(variants, grid.baseline, reference) if any(variants.values()) else None


def mean_rows(found: GridResults, metric: str) -> tuple[list[str], list[list[str]]]:
    """A row a network or variant, a column a domain: the means over seeds."""
    rows = []
    if found.reference:
        for network in found.reference.networks:
            means = (found.reference.mean(network, domains, metric).mean for _, domains in found.columns())
            rows.append([network, '-', *map(number, means)])
    for label, seeds in found.variants.items():
        spreads = (found.spread(label, domains, metric) for _, domains in found.columns())
        rows.append([label, str(len(seeds)), *map(_spread_text, spreads)])
    titles = [
        f'{title} ({found.pictures[title]})' if title in found.pictures else title for title, _ in found.columns()
    ]
    return [metric, 'seeds', *titles], rows


def difference_rows(found: GridResults, metric: str) -> tuple[list[str], list[list[str]]]:
    """A row a variant but the baseline, a column a domain: paired differences."""
    rows = []
    for label in found.variants:
        cells = [found.difference(label, domains, metric) for _, domains in found.columns()]
        if any(cells):
            decimals = 3 if abs(found.spread(label, found.domains, metric).mean) > 2 else 4
            rows.append([label, *('-' if cell is None else with_interval(cell, True, decimals) for cell in cells)])
    return [f'{metric} − {found.baseline}', *(title for title, _ in found.columns())], rows


def _spread_text(spread: Spread) -> str:
    deviation = (
        '' if math.isnan(spread.deviation) else f' ± {number(spread.deviation, decimals=_decimals(spread.mean))}'
    )
    return f'{number(spread.mean)}{deviation}'


def _decimals(mean: float) -> int:
    return 4 if abs(mean) < 2 else 2


def tables(found: GridResults) -> Iterator[tuple[list[str], list[list[str]]]]:
    """For each metric, the means and the differences."""
    for metric in found.metrics:
        yield mean_rows(found, metric)
        differences = difference_rows(found, metric)
        if differences[1]:
            yield differences


def markdown(grid: Grid, found: GridResults, command: str) -> str:
    """The tables, and below them how they were made and which cells are missing."""
    missing = found.missing(grid)
    parts = [f'# {grid.title}', *map(in_format, tables(found)), _NOTE, f'    {command}']
    if missing:
        parts.insert(1, f'{len(missing)} of {len(grid.cells)} cells are missing: {", ".join(missing)}.')
    return '\n\n'.join(parts) + '\n'


def write_report(grid: Grid, cells: Cells, command: str) -> list[Path]:
    """Write `table.md`, `table.csv`, `table.tex` and the plots into the grid's folder; returns their paths."""
    found = collect(grid, cells)
    if found is None:
        return []
    files = [grid.folder / name for name in ('table.md', 'table.csv', 'table.tex')]
    write_text(files[0], markdown(grid, found, command))
    write_text(files[1], _csv(found))
    write_text(files[2], '\n\n'.join(in_format(table, 'latex_booktabs') for table in tables(found)) + '\n')
    for metric in found.metrics:
        files += _plots(grid, found, metric)
    return files


def _plots(grid: Grid, found: GridResults, metric: str) -> list[Path]:
    difference = cache(lambda label, domains: found.difference(label, domains, metric))
    rows = {
        label: {title: difference(label, tuple(domains)) for title, domains in found.columns()}
        for label in found.variants
        if difference(label, tuple(found.domains)) is not None
    }
    files = []
    if rows:
        files.append(grid.folder / f'differences_{metric}.png')
        plot_differences(rows, files[-1], f'{metric}: difference to {found.baseline}', grid.title)
    if grid.axis:
        files.append(grid.folder / f'{metric}_by_{grid.axis}.png')
        spreads = {label: found.spread(label, found.domains, metric) for label in found.variants}
        plot_axis(spreads, grid.axis, metric, files[-1], grid.title)
    return files


def _csv(found: GridResults) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(
        ['metric', 'camera', 'images', 'variant', 'seeds', 'mean', 'deviation', 'difference', 'low', 'high']
    )
    for metric in found.metrics:
        for title, domains in found.columns():
            count = sum(found.pictures[domain] for domain in domains)
            for network in found.reference.networks if found.reference else ():
                mean = found.reference.mean(network, domains, metric).mean
                writer.writerow([metric, title, count, network, 0, mean, '', '', '', ''])
            for label in found.variants:
                own, other = found.spread(label, domains, metric), found.difference(label, domains, metric)
                ends = ['', '', ''] if other is None else [other.mean, other.low, other.high]
                writer.writerow([metric, title, count, label, own.seeds, own.mean, own.deviation, *ends])
    return text.getvalue()
