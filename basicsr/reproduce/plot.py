"""Figures of a grid."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from basicsr.reproduce.curve import Curve
from basicsr.results.plots import STABLE_COLOUR, UNSTABLE_COLOUR, save_figure
from basicsr.results.statistics import Estimate

_ROW_INCHES, _COLUMN_INCHES, _LEGEND_INCHES = 0.32, 2.3, 0.2
_LEGEND_COLUMNS = 4
_COLOURS = ('#000000', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#8C6D31')
"""Okabe and Ito's colours, with a brown in place of their yellow, which is faint as a line."""
_MARKERS = ('o', '^', 's', 'D', 'v', 'P', 'X')


def plot_differences(
    rows: Mapping[str, Mapping[str, Estimate | None]],
    path: str | os.PathLike,
    axis: str,
    title: str = '',
    lower_is_better: bool = False,
) -> None:
    """Plot intervals of the differences to a baseline: one row per variant, one panel per domain.

    Intervals that exclude zero are highlighted.

    Args:
        rows: By variant and domain.
        path: Of the PNG file.
        axis: What the horizontal axes show.
        title: Above the figure.
        lower_is_better: Whether a negative difference counts as a gain, and is coloured as one.
    """
    panels = list(next(iter(rows.values())))
    size = (_COLUMN_INCHES * len(panels) + 1.6, _ROW_INCHES * len(rows) + 1.3)
    figure = Figure(figsize=size, layout='constrained')
    for column, (panel, axes) in enumerate(
        zip(panels, figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], strict=True)
    ):
        for row, found in enumerate(cells[panel] for cells in rows.values()):
            if found is None:
                continue
            gained = (found.mean < 0) == lower_is_better
            colour = (STABLE_COLOUR if gained else UNSTABLE_COLOUR) if found.excludes_zero else '0.45'
            if not math.isnan(found.low):
                axes.plot([found.low, found.high], [row, row], color=colour, lw=2, solid_capstyle='round')
            axes.plot(found.mean, row, 'o', color=colour, ms=5)
        axes.axvline(0, color='0.2', lw=0.8, zorder=0)
        axes.set_title(panel, fontsize=10)
        axes.grid(axis='x', color='0.9', lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[['top', 'right', 'left']].set_visible(False)
        axes.tick_params(labelsize=8)
        if not column:
            axes.set_yticks(range(len(rows)), list(rows), fontsize=9)
            axes.set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(axis, fontsize=9)
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path, dpi=150)


def plot_axis(spreads: Mapping[str, Any], axis: str, metric: str, path: str | os.PathLike, title: str = '') -> None:
    """Plot a metric against the quantity whose values are the labels; other labels become horizontal lines.

    Args:
        spreads: `mean` and `deviation` by label.
        axis: Name of the quantity.
        metric: Name of the metric.
        path: Of the PNG file.
        title: Above the figure.
    """
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.add_subplot(xlabel=axis, ylabel=f'{metric}, average of the unseen domains')
    numbers = {float(label): spread for label, spread in spreads.items() if _is_number(label)}
    places = sorted(numbers)
    if places:
        errors = [0 if math.isnan(numbers[x].deviation) else numbers[x].deviation for x in places]
        means = [numbers[x].mean for x in places]
        axes.errorbar(places, means, errors, color=STABLE_COLOUR, marker='o', capsize=3, label=f'by {axis}')
        if places[0] > 0 and places[-1] / places[0] >= 20:
            axes.set_xscale('log')
    for index, (label, spread) in enumerate((one, own) for one, own in spreads.items() if not _is_number(one)):
        axes.axhline(spread.mean, color=UNSTABLE_COLOUR, ls=('--', ':', '-.')[index % 3], lw=1.2, label=label)
    axes.grid(color='0.92', lw=0.6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(title, loc='left', fontsize=11)
    save_figure(figure, path, dpi=150)


def plot_curves(curves: Mapping[str, Curve], metric: str, path: str | os.PathLike, title: str = '') -> None:
    """Plot a metric over iterations, on the unseen and on the seen domains: a line per variant.

    Bands are one standard error to either side.

    Args:
        curves: By variant.
        metric: Name of the metric.
        path: Of the PNG file.
        title: Above the figure.
    """
    figure = Figure(figsize=(9.6, 4.2 + _LEGEND_INCHES * -(-len(curves) // _LEGEND_COLUMNS)), layout='constrained')
    for place, (axes, part) in enumerate(zip(figure.subplots(1, 2), ('unseen', 'seen'), strict=True)):
        for number, (label, curve) in enumerate(curves.items()):
            means, errors = getattr(curve, part), getattr(curve, f'{part}_error')
            style = _line_style(number)
            axes.plot(curve.iterations, means, **style, ms=4, lw=1.6, label=None if place else label)
            axes.fill_between(curve.iterations, means - errors, means + errors, color=style['color'], alpha=0.15, lw=0)
        axes.set(xlabel='iteration', ylabel=f'{metric}, {part} domains')
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axes)
    figure.suptitle(title, fontsize=11)
    _legend_below(figure)
    save_figure(figure, path, dpi=150)


def plot_unseen_against_seen(
    curves: Mapping[str, Curve], metric: str, path: str | os.PathLike, title: str = ''
) -> None:
    """Plot the unseen domains against the seen ones: a line per variant, a point per iteration.

    Of two variants, the one above is better at equal results on what was seen. The first point of a line is hollow, and
    the last one is large.

    Args:
        curves: By variant.
        metric: Name of the metric.
        path: Of the PNG file.
        title: Above the figure.
    """
    figure = Figure(figsize=(6.4, 5.6 + _LEGEND_INCHES * -(-len(curves) // _LEGEND_COLUMNS)), layout='constrained')
    seen = f'{metric}, seen domains\n(hollow: the first point; large: the end)'
    axes = figure.add_subplot(xlabel=seen, ylabel=f'{metric}, unseen domains')
    for number, (label, curve) in enumerate(curves.items()):
        style = _line_style(number)
        axes.plot(curve.seen, curve.unseen, **style, ms=3.5, lw=1.3, label=label)
        first, last = ({'x': curve.seen[end], 'y': curve.unseen[end]} for end in (0, -1))
        axes.scatter(**first, s=46, marker=style['marker'], facecolors='white', edgecolors=style['color'], zorder=3)
        axes.scatter(**last, s=90, marker=style['marker'], color=style['color'], edgecolors='white', zorder=4)
    _plain(axes)
    axes.set_title(title, loc='left', fontsize=11)
    _legend_below(figure)
    save_figure(figure, path, dpi=150)


def _line_style(number: int) -> dict[str, str]:
    """Colour, marker and dashes of the n-th line."""
    turn = number // len(_COLOURS)
    return {
        'color': _COLOURS[number % len(_COLOURS)],
        'marker': _MARKERS[number % len(_MARKERS)],
        'ls': ('-', '--', ':', '-.')[turn % 4],
    }


def _plain(axes: Axes) -> None:
    axes.grid(color='0.92', lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend_below(figure: Figure) -> None:
    figure.legend(loc='outside lower center', ncols=_LEGEND_COLUMNS, frameon=False, fontsize=8)


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False
