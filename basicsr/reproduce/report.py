"""The report of a grid: tables of domains and their average over seeds, with paired differences; the curve; plots."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from basicsr.reproduce.cells import Cells
from basicsr.reproduce.curve import curve_csv, curve_rows, curves_of, points_of
from basicsr.reproduce.grid import Grid
from basicsr.reproduce.grid_results import AVERAGE, SEEN, GridResults, collect, paired_estimate, spread_text
from basicsr.reproduce.plot import plot_axis, plot_curves, plot_differences, plot_unseen_against_seen
from basicsr.results.tables import Rows, in_format, number, with_interval
from basicsr.utils.misc import write_text

__all__ = ['collect', 'paired_estimate', 'write_report', 'write_summary']

_NOTE = (
    'Means over seeds, ± their standard deviation; the number of samples stands behind each domain. Differences are '
    'paired by seed and sample; brackets hold 95 % t intervals that count the chance of seeds and of samples (of '
    'samples alone where there is one seed); what belongs to a domain as a whole has none. An asterisk marks those '
    'that exclude zero; of many intervals some do by chance.'
)
_OF_HELD_OUT = 'A column is a domain that was held out; the networks of that column were trained on all others.'
_OF_SOURCES = 'A column is a domain that the networks were trained on alone; it holds the mean over the other domains.'
_OF_SEEN = f'The column "{SEEN}" is the mean on what was held out of the domains that were trained on.'
_OF_THE_CURVE = (
    'The curve: each run was tested at {} evenly spaced iterations. "At best seen" is on the unseen domains at the '
    'iteration at which the run is best on the seen ones; "best" at the one at which it is best on the unseen ones, '
    'which nobody can choose; "end" at its end. Means over domains and seeds, ± the standard deviation over seeds.'
)
Table = tuple[list[str], Rows]


def mean_rows(found: GridResults, metric: str) -> Table:
    """One row per network or variant, one column per domain, their average, and what was seen: the means over seeds."""
    rows = []
    if reference := found.reference:
        groups = [*(domains for _, domains in found.columns()), *([reference.seen] if found.has_seen else [])]
        for network in reference.networks:
            means = (reference.mean(network, domains, metric).mean if domains else math.nan for domains in groups)
            rows.append([network, '-', *map(number, means)])
    for label, seeds in found.variants.items():
        spreads = [found.spread(label, domains, metric) for _, domains in found.columns()]
        spreads += [found.seen(label, metric)] if found.has_seen else []
        rows.append([label, str(len(seeds)), *map(spread_text, spreads)])
    titles = [title if title == AVERAGE else f'{title} ({found.count(domains)})' for title, domains in found.columns()]
    return [metric, 'seeds', *titles, *([SEEN] if found.has_seen else [])], rows


def difference_rows(found: GridResults, metric: str) -> Table:
    """One row per variant except the baseline, one column per domain: paired differences."""
    rows = []
    for label in found.variants:
        cells = [found.difference(label, domains, metric) for _, domains in found.columns()]
        if any(cells):
            sizes = [abs(found.spread(label, domains, metric).mean) for _, domains in found.columns()]
            decimals = 3 if max(size for size in sizes if not math.isnan(size)) > 2 else 4
            rows.append([label, *('-' if cell is None else with_interval(cell, True, decimals) for cell in cells)])
    return [f'{metric}: difference to {found.baseline}', *(title for title, _ in found.columns())], rows


def tables(found: GridResults) -> Iterator[Table]:
    """The means and the differences for each metric."""
    for metric in found.metrics:
        yield mean_rows(found, metric)
        differences = difference_rows(found, metric)
        if differences[1]:
            yield differences


def markdown(grid: Grid, found: GridResults, curve: Iterable[Table], command: str) -> str:
    """The tables, followed by how they were made and which cells are missing."""
    missing, curve = found.missing(grid), list(curve)
    parts = [f'# {grid.title}', *map(in_format, tables(found)), *found.perfect(), _NOTE]
    if missing:
        left = f'{len(missing)} of {len(grid.cells)} cells are missing, or were run with other options'
        parts.insert(1, f'{left}: {", ".join(missing)}.')
    if grid.domains:
        parts.append(_OF_SOURCES if found.targets.keys() - set(grid.domains) else _OF_HELD_OUT)
    parts += [_OF_SEEN] if found.has_seen else []
    if curve:
        parts += [*map(in_format, curve), _OF_THE_CURVE.format(len(grid.cells[0].points))]
    return '\n\n'.join([*parts, f'    {command}']) + '\n'


def write_report(grid: Grid, cells: Cells, command: str) -> list[Path]:
    """Write `table.md`, `table.csv`, `table.tex`, the plots, and those of the curve into the grid's folder.

    Returns:
        Their paths; none if no cell is finished.
    """
    found = collect(grid, cells)
    if found is None:
        return []
    points = points_of(grid, cells, found)
    curves = {metric: curves_of(points, metric) for metric in found.metrics if points}
    curve_tables = [curve_rows(points, metric, found.better[metric]) for metric in curves]
    files = {
        'table.md': markdown(grid, found, curve_tables, command),
        'table.csv': _csv(found),
        'table.tex': _latex([*tables(found), *curve_tables]),
        **({'curve.csv': curve_csv(points)} if points else {}),
    }
    for name, text in files.items():
        write_text(grid.folder / name, text)
    written = [grid.folder / name for name in files]
    for metric in found.metrics:
        written += _plots(grid, found, metric)
    for metric, curve in curves.items():
        if curve:
            written += [grid.folder / f'curve_{metric}.png', grid.folder / f'unseen_against_seen_{metric}.png']
            plot_curves(curve, metric, written[-2], grid.title)
            plot_unseen_against_seen(curve, metric, written[-1], grid.title)
    return written


def write_summary(title: str, grids: Mapping[str, tuple[Grid, Cells]], folder: Path, command: str) -> list[Path]:
    """Write `networks.md`, `networks.csv` and `networks.tex`: a row for each network and variant, by metric.

    Args:
        title: Heading.
        grids: By network.
        folder: Where to write.
        command: Printed below the tables.

    Returns:
        Their paths; none if no cell of any is finished.
    """
    found = {network: collect(*own) for network, own in grids.items()}
    found = {network: own for network, own in found.items() if own}
    if not found:
        return []
    summaries = []
    for metric in next(iter(found.values())).metrics:
        parts = {network: mean_rows(own, metric) for network, own in found.items() if metric in own.metrics}
        titles = next(iter(parts.values()))[0]
        rows = [
            [network, *(dict(zip(own, row, strict=True)).get(title, '-') for title in titles)]
            for network, (own, network_rows) in parts.items()
            for row in network_rows
        ]
        summaries.append((['network', *titles], rows))
    files = {
        'networks.md': '\n\n'.join([f'# {title}', *map(in_format, summaries), _NOTE, f'    {command}']) + '\n',
        'networks.csv': ''.join(
            [_csv(own, network, heading=not place) for place, (network, own) in enumerate(found.items())]
        ),
        'networks.tex': _latex(summaries),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def _latex(every: Iterable[Table]) -> str:
    return '\n\n'.join(in_format(table, 'latex_booktabs') for table in every) + '\n'


def _plots(grid: Grid, found: GridResults, metric: str) -> list[Path]:
    difference = cache(lambda label, domains: found.difference(label, domains, metric))
    rows = {
        label: {title: difference(label, tuple(domains)) for title, domains in found.columns()}
        for label in found.variants
        if any(difference(label, tuple(domains)) is not None for _, domains in found.columns())
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


def _csv(found: GridResults, network: str = '', heading: bool = True) -> str:
    """The table as CSV; `network` is a first column of its own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    titles = ['metric', 'domain', 'samples', 'variant', 'seeds', 'mean', 'deviation', 'difference', 'low', 'high']
    first = [network] if network else []
    if heading:
        writer.writerow([*(['network'] if network else []), *titles])
    for metric in found.metrics:
        for title, domains in found.columns():
            start = [*first, metric, title, found.count(domains)]
            for other in found.reference.networks if found.reference else ():
                mean = found.reference.mean(other, domains, metric).mean
                writer.writerow([*start, other, 0, mean, '', '', '', ''])
            for label in found.variants:
                own, other = found.spread(label, domains, metric), found.difference(label, domains, metric)
                ends = ['', '', ''] if other is None else [other.mean, other.low, other.high]
                writer.writerow([*start, label, own.seeds, own.mean, own.deviation, *ends])
        for label in found.variants if found.has_seen else ():
            own = found.seen(label, metric)
            writer.writerow([*first, metric, SEEN, '', label, own.seeds, own.mean, own.deviation, '', '', ''])
    return text.getvalue()
