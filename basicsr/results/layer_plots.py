"""Figures of `scripts/analysis/score_layers.py`: what scores depend on, and how reliable they are."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from basicsr.results.plots import STABLE_COLOUR, UNSTABLE_COLOUR, save_figure, scale_scores

HEAD_COLOUR = '#009E73'  # bluish green of Okabe and Ito's set
_MARKERS = ((False, 'stable', STABLE_COLOUR, 'o'), (True, 'unstable', UNSTABLE_COLOUR, '^'))


def _figure(width: float, height: float, title: str, **axes: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout='constrained')
    one = figure.add_subplot(**axes)
    one.set_title(title, loc='left', fontsize=11)
    one.grid(color='0.9', lw=0.6)
    one.set_axisbelow(True)
    one.spines[['top', 'right']].set_visible(False)
    return figure, one


def plot_scores_by_kind(
    scores: Mapping[str, float],
    kinds: Mapping[str, str],
    unstable: Collection[str],
    path: str | os.PathLike,
    title: str,
) -> None:
    """Draw the scores by kind of layer, one row per kind, the one with the lowest median at the bottom.

    Args:
        scores: Score by layer.
        kinds: Kind by layer.
        unstable: The unstable layers.
        path: Of the PNG file, whose folder is made if need be.
        title: Above the figure.
    """
    by_kind: dict[str, list[str]] = {}
    for layer in scores:
        by_kind.setdefault(kinds[layer], []).append(layer)
    rows = sorted(by_kind, key=lambda kind: float(np.median([scores[layer] for layer in by_kind[kind]])))
    figure, axes = _figure(9.0, 1.6 + 0.28 * len(rows), title, xlabel='score; the bar is the median')
    jitter = np.random.default_rng(0)
    for row, kind in enumerate(rows):
        values = np.array([scores[layer] for layer in by_kind[kind]])
        is_unstable = np.isin(by_kind[kind], list(unstable))
        heights = row + jitter.uniform(-0.22, 0.22, len(values)) * (len(values) > 1)
        for wanted, _, colour, marker in _MARKERS:
            mask = is_unstable == wanted
            axes.scatter(values[mask], heights[mask], s=12, c=colour, marker=marker, lw=0, alpha=0.7)
        axes.vlines(np.median(values), row - 0.36, row + 0.36, color='0.2', lw=1.5)
    scale_scores(axes, np.array(list(scores.values())), 'x')
    axes.set_yticks(range(len(rows)), [f'{kind} ({len(by_kind[kind])})' for kind in rows], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    for _, label, colour, marker in _MARKERS:
        axes.scatter([], [], s=20, c=colour, marker=marker, lw=0, label=label)
    figure.legend(loc='outside upper right', ncols=2, frameon=False, fontsize=9)
    save_figure(figure, path, dpi=150)


def plot_head_ranks(
    percentiles: Mapping[str, float], heads: Sequence[str], path: str | os.PathLike, title: str
) -> None:
    """Draw where the head's layers rank among all layers, as in figure 2a of the paper.

    Args:
        percentiles: Share of all layers, in percent, whose score is at most the layer's own.
        heads: The layers of the head, at least one.
        path: Of the PNG file.
        title: Above the figure.
    """
    figure, axes = _figure(9.0, 1.5 + 0.26 * len(heads), title, xlabel='percentile of the score among all layers')
    shown = sorted(heads, key=percentiles.__getitem__)
    axes.axvline(50, color='0.35', lw=1, ls='--', zorder=0)
    axes.hlines(range(len(shown)), 0, [percentiles[head] for head in shown], color=HEAD_COLOUR, lw=1.2, alpha=0.5)
    axes.scatter([percentiles[head] for head in shown], range(len(shown)), s=30, c=HEAD_COLOUR, lw=0)
    axes.set_yticks(range(len(shown)), shown, fontsize=8, family='monospace')
    axes.set(xlim=(0, 101), ylim=(-0.7, len(shown) - 0.3))
    save_figure(figure, path, dpi=150)


def plot_halves(
    halves: tuple[Mapping[str, float], Mapping[str, float]],
    unstable: Collection[str],
    correlation: float,
    path: str | os.PathLike,
    title: str,
) -> None:
    """Plot the rank of every layer on one half of the data against its rank on the other.

    Args:
        halves: Score by layer, for each half.
        unstable: The unstable layers, according to all of the data.
        correlation: Spearman's, for the label.
        path: Of the PNG file.
        title: Above the figure.
    """
    names = list(halves[0])
    ranks = [np.argsort(np.argsort([half[name] for name in names])) + 1 for half in halves]
    labels = {'xlabel': 'rank on one half of the samples', 'ylabel': 'rank on the other half'}
    figure, axes = _figure(5.6, 5.6, title, **labels)
    axes.plot([1, len(names)], [1, len(names)], color='0.35', lw=1, ls='--', zorder=0)
    is_unstable = np.isin(names, list(unstable))
    for wanted, label, colour, marker in _MARKERS:
        mask = is_unstable == wanted
        axes.scatter(ranks[0][mask], ranks[1][mask], s=14, c=colour, marker=marker, lw=0, label=label)
    axes.legend(title=f"Spearman's correlation {correlation:.3f}", loc='upper left', frameon=False, fontsize=9)
    axes.set_aspect('equal')
    save_figure(figure, path, dpi=150)


def plot_time_constants(
    groups: Mapping[str, Sequence[float]], total_iter: int, path: str | os.PathLike, title: str
) -> None:
    """Plot the time constant of every layer against its place in its group, with the length of the run for comparison.

    Args:
        groups: For 'stable' and 'unstable', the time constants in iterations, by ascending score.
        total_iter: Iterations of the run.
        path: Of the PNG file.
        title: Above the figure.
    """
    labels = {'xlabel': 'place in the group, by ascending score', 'ylabel': 'time constant, iterations'}
    figure, axes = _figure(9.0, 4.6, title, **labels)
    for _, group, colour, marker in _MARKERS:
        axes.scatter(range(len(groups[group])), groups[group], s=14, c=colour, marker=marker, lw=0, label=group)
    axes.axhline(total_iter, color='0.35', lw=1, ls='--', zorder=0, label=f'the run: {total_iter:,} iterations')
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
    axes.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc='outside upper right', ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path, dpi=150)
