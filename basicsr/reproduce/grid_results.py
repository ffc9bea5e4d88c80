"""The measurements of a grid: domains and their average, over seeds, with paired differences to the baseline."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import t as student

from basicsr.reproduce.cells import Cells
from basicsr.reproduce.grid import Grid
from basicsr.results.scores import Results
from basicsr.results.statistics import LEVEL, Estimate
from basicsr.results.tables import number

AVERAGE, SEEN = 'average', 'seen'


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the standard deviation between them, NaN for one seed; both NaN for none."""

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, means: Sequence[float]) -> Spread:
        """Of one number per seed."""
        deviation = float(np.std(means, ddof=1)) if len(means) > 1 else math.nan
        return cls(float(np.mean(means)) if means else math.nan, deviation, len(means))


def spread_text(spread: Spread) -> str:
    """'27.08 ± 0.12', without a deviation for one seed; '-' for none."""
    decimals = 4 if abs(spread.mean) < 2 else 2
    deviation = '' if math.isnan(spread.deviation) else f' ± {number(spread.deviation, decimals=decimals)}'
    return f'{number(spread.mean)}{deviation}'


class GridResults:
    """The measurements of a grid's finished cells.

    Args:
        variants: By label and seed.
        baseline: Label of the variant that the others are compared with.
        reference: Results of networks that no cell trains, or None.
        columns: The domains that make up a column of the tables, by title. Default: a column for each unseen domain.
        targets: The domain of the data by that of the results, where these differ: several results of the same samples
            are averaged before their differences are counted.
        done: Names of the cells.
    """

    def __init__(
        self,
        variants: dict[str, dict[int, Results]],
        baseline: str,
        reference: Results | None,
        columns: Mapping[str, list[str]] | None = None,
        targets: Mapping[str, str] | None = None,
        done: Collection[str] = (),
    ) -> None:
        self.variants = {label: seeds for label, seeds in variants.items() if seeds}
        self.baseline, self.reference, self.targets, self.done = baseline, reference, targets or {}, done
        everything = [results for seeds in self.variants.values() for results in seeds.values()]
        first = everything[0]
        self.samples = {d: len(own.domains[d]['images']) for own in reversed(everything) for d in own.domains}
        columns = columns or {domain: [domain] for domain in first.unseen}
        self._columns = {title: list(domains) for title, domains in columns.items() if domains}
        self.domains = [domain for domains in self._columns.values() for domain in domains]
        self.metrics, self.better = first.measured(first.unseen), first.metrics
        self.has_seen = any(results.seen for results in everything)
        self._values = cache(self._read)

    def columns(self) -> list[tuple[str, list[str]]]:
        """(title, domains) of each column."""
        average = [(AVERAGE, self.domains)] if len(self._columns) > 1 else []
        return [*self._columns.items(), *average]

    def count(self, domains: Sequence[str]) -> int:
        """Number of samples of these domains."""
        return sum(self.samples[domain] for domain in domains)

    def _read(self, label: str, seed: int, domain: str, metric: str) -> np.ndarray:
        """One number per sample, or one for metrics that belong to a set as a whole."""
        results = self.variants[label][seed]
        if results.is_of_sets(metric):
            return np.array([results.value(results.main, domain, metric)])
        return results.values(results.main, domain, metric)

    def seeds(self, label: str, domains: Sequence[str]) -> list[int]:
        """The seeds of a variant whose results have all these domains; of an unfinished grid, some may lack one."""
        return [seed for seed, own in self.variants.get(label, {}).items() if own.domains.keys() >= set(domains)]

    def spread(self, label: str, domains: Sequence[str], metric: str) -> Spread:
        """Mean and standard deviation, over seeds, of a variant's mean over domains."""
        return Spread.of([self._mean(label, seed, domains, metric) for seed in self.seeds(label, domains)])

    def seen(self, label: str, metric: str) -> Spread:
        """The same on the domains that were seen in training."""
        whole = self.seeds(label, self.domains)
        parts = {seed: self.variants[label][seed].seen for seed in whole if self.variants[label][seed].seen}
        return Spread.of([self._mean(label, seed, domains, metric) for seed, domains in parts.items()])

    def _mean(self, label: str, seed: int, domains: Sequence[str], metric: str) -> float:
        return float(np.mean([self._values(label, seed, domain, metric).mean() for domain in domains]))

    def difference(self, label: str, domains: Sequence[str], metric: str) -> Estimate | None:
        """A variant's difference to the baseline; None for the baseline itself, or if they share no seed."""
        base = self.seeds(self.baseline, domains)
        seeds = [seed for seed in self.seeds(label, domains) if seed in base]
        if label == self.baseline or not seeds:
            return None
        pairs: dict[str, list[np.ndarray]] = {}
        for domain in domains:
            own, other = (
                np.stack([self._values(one, seed, domain, metric) for seed in seeds]) for one in (label, self.baseline)
            )
            pairs.setdefault(self.targets.get(domain, domain), []).append(own - other)
        return paired_estimate(
            [np.mean(same, axis=0) for same in pairs.values()], [len(same) for same in pairs.values()]
        )

    def missing(self, grid: Grid) -> list[str]:
        """Names of the cells that have no results."""
        return [cell.name for cell in grid.cells if cell.name not in self.done]

    def perfect(self) -> list[str]:
        """A line for each cell, metric and domain where pictures are perfect, which counts them."""
        return [
            f'{label}, seed {seed}: {line}'
            for label, seeds in self.variants.items()
            for seed, results in seeds.items()
            for line in results.perfect()
        ]


def paired_estimate(differences: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> Estimate:
    """The mean over domains, seeds and samples of paired differences, with a t interval.

    Its variance is that of the seeds' means plus that of the samples' means within each domain; with only a few seeds,
    bootstrap intervals over them would be far too narrow. The degrees of freedom are those of Welch and Satterthwaite.
    Seeds are the same in all domains. With one seed, the seeds' part is left out.

    Args:
        differences: For each domain, (seeds, samples).
        weights: Of each domain in the mean. Default: all alike.
    """
    shares = np.array(weights if weights is not None else [1] * len(differences), dtype=float)
    shares /= shares.sum()
    mean = float(np.sum([share * domain.mean() for share, domain in zip(shares, differences, strict=True)]))
    seeds, count = len(differences[0]), sum(domain.shape[1] for domain in differences)
    if any(domain.shape[1] < 2 for domain in differences) or not all(np.isfinite(d).all() for d in differences):
        return Estimate(mean, math.nan, math.nan, count)
    parts = [  # (variance of the mean, degrees of freedom)
        (own.mean(0).var(ddof=1) / own.shape[1] * share**2, own.shape[1] - 1)
        for share, own in zip(shares, differences, strict=True)
    ]
    if seeds > 1:
        by_seed = np.average([own.mean(1) for own in differences], axis=0, weights=shares)
        parts.append((by_seed.var(ddof=1) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    if not variance:
        return Estimate(mean, mean, mean, count)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    half = float(student.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(variance))
    return Estimate(mean, mean - half, mean + half, count)


def merged(parts: Mapping[str, Results], label: str) -> Results:
    """The results of one variant and seed on all domains, of which each cell has its own.

    A domain that was held out keeps its name. What else a cell was tested on is called after the cell's domain as well:
    `photo: sketch` is the domain sketch of the network that was trained on photo, say.

    Args:
        parts: Results of cells by their domain; of the empty name, those of a grid whose cells share their data.
        label: Name of the network in what is returned.
    """
    if '' in parts:
        return parts['']
    first = next(iter(parts.values()))
    found = Results(label, first.metrics, {label: {}}, main=label, most=first.most, of_sets={label: {}})
    for split, own in parts.items():
        for domain in own.domains:
            name = column_part(split, domain)
            found.scores[label][name] = own.scores[own.main][domain]
            found.of_sets[label][name] = own.of_sets.get(own.main, {}).get(domain, {})
            found.domains[name] = own.domains[domain]
            found.seen += [name] if domain in own.seen else []
    return found


def column_part(split: str, domain: str) -> str:
    """What `merged` calls a domain of a cell."""
    return domain if domain == split else f'{split}: {domain}'


def collect(grid: Grid, cells: Cells) -> GridResults | None:
    """The results of the cells that are done and were run with the grid's options; None if there are none."""
    parts: dict[str, dict[int, dict[str, Results]]] = {label: {} for label in grid.variants}
    done = [cell for cell in grid.cells if cells.is_current(cell)]
    for cell in done:
        parts[cell.variant].setdefault(cell.seed, {})[cell.domain] = cells.results(cell)
    variants = {
        label: {seed: merged(own, label) for seed, own in seeds.items()} for label, seeds in parts.items() if seeds
    }
    if not done:
        return None
    reference = cells.results(grid.reference) if grid.reference and cells.is_current(grid.reference) else None
    columns: dict[str, list[str]] = {domain: [] for domain in grid.domains}
    targets = {}
    for seeds in parts.values():
        for own in seeds.values():
            for split, results in own.items():
                for domain in results.unseen if split else ():
                    targets[column_part(split, domain)] = domain
                    columns[split] = [column_part(split, one) for one in results.unseen]
    return GridResults(variants, grid.baseline, reference, columns, targets, {cell.name for cell in done})
