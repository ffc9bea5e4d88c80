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
from scipy.stats import t as student

from basicsr.reproduce.cells import Cells
from basicsr.reproduce.grid import Grid
from basicsr.reproduce.plot import plot_axis, plot_differences
from basicsr.results.scores import Results
from basicsr.results.statistics import LEVEL, Estimate
from basicsr.results.tables import in_format, number, with_interval
from basicsr.utils.misc import write_text

AVERAGE = 'average'
_NOTE = (
    'Means over seeds, ± their standard deviation; the number of images stands behind each camera. Differences are '
    'paired by seed and image; brackets hold 95 % t intervals that count the chance of seeds and of images (of images '
    'alone where there is one seed). An asterisk marks those that exclude zero; of many intervals some do by chance.'
)


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the standard deviation between them, NaN for one seed."""

    mean: float
    deviation: float
    seeds: int


class GridResults:
    """The measurements of a grid's finished cells.

    Args:
        variants: By label and seed.
        baseline: Label of the variant that the others are compared with.
        reference: Results of networks that no cell trains, or None.
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
        """Mean and standard deviation, over seeds, of a variant's mean over domains."""
        means = [
            float(np.mean([seed.values(seed.main, domain, metric).mean() for domain in domains]))
            for seed in self.variants[label].values()
        ]
        deviation = float(np.std(means, ddof=1)) if len(means) > 1 else float('nan')
        return Spread(float(np.mean(means)), deviation, len(means))

    def difference(self, label: str, domains: Sequence[str], metric: str) -> Estimate | None:
        """A variant's difference to the baseline; None for the baseline itself, or if they share no seed."""
        base, own = self.variants.get(self.baseline, {}), self.variants[label]
        seeds = [seed for seed in own if seed in base]
        if label == self.baseline or not seeds:
            return None
        pairs = [
            np.stack([own[s].values(own[s].main, d, metric) - base[s].values(base[s].main, d, metric) for s in seeds])
            for d in domains
        ]
        return paired_estimate(pairs)

    def perfect(self) -> list[str]:
        """A line for each cell, metric and domain where pictures are perfect, which counts them."""
        return [
            f'{label}, seed {seed}: {line}'
            for label, seeds in self.variants.items()
            for seed, results in seeds.items()
            for line in results.perfect()
        ]

    def missing(self, grid: Grid) -> list[str]:
        """Names of the cells that have no results."""
        return [cell.name for cell in grid.cells if cell.seed not in self.variants.get(cell.variant, {})]


def paired_estimate(differences: Sequence[np.ndarray]) -> Estimate:
    """The mean over domains, seeds and pictures of paired differences, with a t interval.

    Its variance is that of the seeds' means plus that of the pictures' means within each domain; with only a few seeds,
    bootstrap intervals over them would be far too narrow. The degrees of freedom are those of Welch and Satterthwaite.
    Seeds are the same in all domains. With one seed, the seeds' part is left out.

    Args:
        differences: For each domain, (seeds, pictures).
    """
    domains = len(differences)
    mean = float(np.mean([domain.mean() for domain in differences]))
    seeds, count = len(differences[0]), sum(domain.shape[1] for domain in differences)
    if any(domain.shape[1] < 2 for domain in differences) or not all(np.isfinite(d).all() for d in differences):
        return Estimate(mean, math.nan, math.nan, count)
    parts = [  # (variance of the mean, degrees of freedom)
        (own.mean(0).var(ddof=1) / own.shape[1] / domains**2, own.shape[1] - 1) for own in differences
    ]
    if seeds > 1:
        by_seed = np.mean([own.mean(1) for own in differences], axis=0)
        parts.append((by_seed.var(ddof=1) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    if not variance:
        return Estimate(mean, mean, mean, count)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    half = float(student.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(variance))
    return Estimate(mean, mean - half, mean + half, count)


def collect(grid: Grid, cells: Cells) -> GridResults | None:
    """The results of the cells that are done and were run with the grid's options; None if there are none."""
    variants: dict[str, dict[int, Results]] = {label: {} for label in grid.variants}
    for cell in grid.cells:
        if cells.is_current(cell):
            variants[cell.variant][cell.seed] = cells.results(cell)
    reference = cells.results(grid.reference) if cells.is_current(grid.reference) else None
    return GridResults(variants, grid.baseline, reference) if any(variants.values()) else None


def mean_rows(found: GridResults, metric: str) -> tuple[list[str], list[list[str]]]:
    """One row per network or variant, one column per domain: the means over seeds."""
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
    """One row per variant except the baseline, one column per domain: paired differences."""
    rows = []
    for label in found.variants:
        cells = [found.difference(label, domains, metric) for _, domains in found.columns()]
        if any(cells):
            decimals = 3 if abs(found.spread(label, found.domains, metric).mean) > 2 else 4
            rows.append([label, *('-' if cell is None else with_interval(cell, True, decimals) for cell in cells)])
    return [f'{metric}: difference to {found.baseline}', *(title for title, _ in found.columns())], rows


def _spread_text(spread: Spread) -> str:
    deviation = (
        '' if math.isnan(spread.deviation) else f' ± {number(spread.deviation, decimals=_decimals(spread.mean))}'
    )
    return f'{number(spread.mean)}{deviation}'


def _decimals(mean: float) -> int:
    return 4 if abs(mean) < 2 else 2


def tables(found: GridResults) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The means and the differences for each metric."""
    for metric in found.metrics:
        yield mean_rows(found, metric)
        differences = difference_rows(found, metric)
        if differences[1]:
            yield differences


def markdown(grid: Grid, found: GridResults, command: str) -> str:
    """The tables, followed by how they were made and which cells are missing."""
    missing = found.missing(grid)
    parts = [f'# {grid.title}', *map(in_format, tables(found)), *found.perfect(), _NOTE, f'    {command}']
    if missing:
        left = f'{len(missing)} of {len(grid.cells)} cells are missing, or were run with other options'
        parts.insert(1, f'{left}: {", ".join(missing)}.')
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
        axis = f'{metric}: difference to {found.baseline}'
        plot_differences(rows, files[-1], axis, grid.title, found.better[metric] == 'lower')
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
