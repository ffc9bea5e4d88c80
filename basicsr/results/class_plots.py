"""Figures of classification: which classes are taken for which, and pictures with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # imported where figures are drawn: runs go on where that fails
    from matplotlib.figure import Figure

_NAMED = 40
"""Classes whose names a figure has room for."""
_NUMBERED = 16
"""Classes for which the counts are written into the cells."""


def confusion_counts(labels: np.ndarray, named: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (row) was taken for each (column), (classes, classes) int64."""
    return np.bincount(labels * classes + named, minlength=classes * classes).reshape(classes, classes)


def confusion_figure(counts: np.ndarray, classes: Sequence[str], title: str = '') -> Figure:
    """Draw a confusion matrix: a row a class of the data, coloured by the share of its samples.

    Args:
        counts: From `confusion_counts`.
        classes: Names of the classes.
        title: Above the figure.
    """
    from matplotlib.figure import Figure

    side = float(np.clip(0.45 * len(classes) + 2, 4, 14))
    figure = Figure(figsize=(side, side), layout='constrained')
    axes = figure.add_subplot(xlabel='predicted', ylabel='true')
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    if len(classes) <= _NAMED:
        places = range(len(classes))
        axes.set_xticks(places, classes, rotation=45, ha='right', rotation_mode='anchor', fontsize=8)
        axes.set_yticks(places, classes, fontsize=8)
    if len(classes) <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = 'white' if shares[row, column] > 0.5 else '0.15'
                axes.text(column, row, str(count), ha='center', va='center', fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc='left', fontsize=11)
    return figure


def labelled_figure(pictures: Sequence[np.ndarray], captions: Sequence[tuple[str, bool]]) -> Figure:
    """Draw pictures in a row, each below its caption; those that were taken for another class in red.

    Args:
        pictures: (height, width, 3) RGB in [0, 1].
        captions: Of each, the text, and whether the answer is right.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.0 * len(pictures), 2.4), layout='constrained')
    for picture, (text, right), axes in zip(
        pictures, captions, figure.subplots(1, len(pictures), squeeze=False)[0], strict=True
    ):
        axes.imshow(picture, interpolation='nearest')
        axes.set_axis_off()
        axes.set_title(text, fontsize=8, color='0.15' if right else '#D55E00')
    return figure
