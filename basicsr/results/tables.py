"""Tables of a test's measurements, as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path

from tabulate import tabulate

from basicsr.results.scores import Results
from basicsr.results.statistics import Estimate
from basicsr.utils.misc import write_text

UNSEEN_MEAN = 'mean of the unseen'
INTERVALS = 'Brackets hold 95 % bootstrap intervals over the samples; those of a mean resample within each domain.'
MARK = 'An asterisk marks differences whose interval excludes zero.'

Rows = list[list[str]]


def number(value: float, signed: bool = False, decimals: int | None = None) -> str:
    """A measurement as text: by default two decimals, four for values below 2; '-' for NaN."""
    if math.isnan(value):
        return '-'
    if decimals is None:
        decimals = 4 if abs(value) < 2 else 2
    return f'{value:+.{decimals}f}' if signed else f'{value:.{decimals}f}'


def with_interval(found: Estimate, signed: bool = False, decimals: int | None = None) -> str:
    """'27.08 [26.50, 27.70]', without brackets if there is no interval; `signed` also marks intervals without zero."""
    texts = [number(value, signed, decimals) for value in (found.mean, found.low, found.high)]
    bracket = '' if math.isnan(found.low) else f' [{texts[1]}, {texts[2]}]'
    return f'{texts[0]}{bracket}' + (' *' if signed and found.excludes_zero else '')


def rows_of_domains(results: Results) -> Iterator[tuple[str, list[str]]]:
    """(label, domains) of each row: every domain, and the mean of the unseen where there are several."""
    for domain in results.domains:
        yield f'{domain} (seen)' if domain in results.seen else domain, [domain]
    if len(results.unseen) > 1:
        yield UNSEEN_MEAN, results.unseen


def summary_rows(results: Results) -> tuple[list[str], Rows]:
    """One row per domain, one column per network; cells hold the metrics' means."""
    metrics = results.measured(results.domains, everywhere=False)
    rows = []
    for label, domains in rows_of_domains(results):
        there = results.measured(domains)
        cells = [
            [number(results.mean(network, domains, metric).mean) if metric in there else '-' for metric in metrics]
            for network in results.networks
        ]
        texts = [' / '.join(cell) if there else 'not measured' for cell in cells]
        rows.append([label, _count(results, domains), *texts])
    return ['domain', 'samples', *(f'{network} {"/".join(metrics)}'.strip() for network in results.networks)], rows


def interval_rows(results: Results) -> tuple[list[str], Rows]:
    """One row per domain and network, one column per metric; cells hold means with intervals."""
    metrics = results.measured(results.domains, everywhere=False)
    rows = [
        [label, _count(results, domains), network, *_estimates(results, domains, metrics, network)]
        for label, domains in rows_of_domains(results)
        for network in results.networks
    ]
    return ['domain', 'samples', 'network', *metrics], rows


def difference_rows(results: Results) -> tuple[list[str], Rows]:
    """One row per domain and other network: the main network's paired differences to it."""
    metrics = results.measured(results.domains, everywhere=False)
    rows = [
        [label, _count(results, domains), f'to {other}', *_estimates(results, domains, metrics, results.main, other)]
        for label, domains in rows_of_domains(results)
        for other in results.others
    ]
    return ['domain', 'samples', 'difference', *metrics], rows


def _count(results: Results, domains: Iterable[str]) -> str:
    return str(sum(len(results.scores[results.networks[0]][domain]) for domain in domains))


def _estimates(
    results: Results, domains: list[str], metrics: Iterable[str], network: str, reference: str = ''
) -> list[str]:
    there, cells = results.measured(domains), []
    for metric in metrics:
        if metric not in there:
            cells.append('-')
        elif reference:
            decimals = 3 if results.mean(network, domains, metric).mean > 2 else 4
            cells.append(with_interval(results.difference(network, reference, domains, metric), True, decimals))
        else:
            cells.append(with_interval(results.mean(network, domains, metric)))
    return cells


def in_format(table: tuple[list[str], Rows], style: str = 'github') -> str:
    """A table as text; `style` is a format of tabulate, such as 'github', 'simple' or 'latex_booktabs'."""
    titles, rows = table
    return tabulate(rows, titles, tablefmt=style, disable_numparse=True)


def summary(results: Results, style: str = 'github') -> str:
    """The means alone, one row per domain."""
    return in_format(summary_rows(results), style)


def report(results: Results, style: str = 'github') -> str:
    """All tables of a test, one after the other, with notes on how to read them."""
    parts = [summary(results, style), *results.perfect()]
    if results.measured(results.domains, everywhere=False):
        parts += [INTERVALS, in_format(interval_rows(results), style)]
        if results.others:
            parts += [f'What {results.main} has more, paired by sample. {MARK}']
            parts += [in_format(difference_rows(results), style)]
    return '\n\n'.join(parts)


def write_results(results: Results, folder: str | os.PathLike) -> dict[str, str]:
    """Write `table.md`, `table.txt`, `table.csv`, `images.csv` and `results.json`; returns their paths."""
    files = result_files(results)
    for write in files.values():
        write(folder)
    return {name: str(Path(folder) / name) for name in files}


def result_files(results: Results) -> dict[str, Callable[[str | os.PathLike], None]]:
    """The files of a test by name, each with what writes it into a folder."""
    texts = {
        'table.md': lambda: report(results) + '\n',
        'table.txt': lambda: report(results, 'simple') + '\n',
        'table.csv': lambda: _csv(_estimates_in_full(results)),
        'images.csv': lambda: _csv(_samples_in_full(results)),
    }
    written = {name: partial(_write, name, text) for name, text in texts.items()}
    return {'results.json': results.save, **written}


def _write(name: str, text: Callable[[], str], folder: str | os.PathLike) -> None:
    write_text(Path(folder) / name, text())


def _estimates_in_full(results: Results) -> Iterator[list[object]]:
    yield ['domain', 'seen', 'network', 'reference', 'metric', 'mean', 'low', 'high', 'samples']
    for label, domains in rows_of_domains(results):
        name, seen = (domains[0], domains[0] in results.seen) if len(domains) == 1 else (label, False)
        for metric in results.measured(domains):
            for network in results.networks:
                found = results.mean(network, domains, metric)
                yield [name, seen, network, '', metric, *astuple(found)]
            for other in results.others:
                found = results.difference(results.main, other, domains, metric)
                yield [name, seen, results.main, other, metric, *astuple(found)]


def _samples_in_full(results: Results) -> Iterator[list[object]]:
    yield ['domain', 'seen', 'sample', 'network', 'metric', 'value']
    for domain in results.domains:
        for network in results.networks:
            for sample, scores in results.scores[network][domain].items():
                for metric, value in scores.items():
                    yield [domain, domain in results.seen, sample, network, metric, value]


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue()
