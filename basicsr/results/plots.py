"""Figures of runs and tests: the score of every layer, pictures side by side, differences by domain."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:  # imported where figures are drawn: runs go on where that fails
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STABLE_COLOUR, UNSTABLE_COLOUR = '#0072B2', '#D55E00'  # blue and vermilion of Okabe and Ito's colour-blind-safe set
NAMED_LAYERS = 60
GROUP_DEPTH = 2
LABELS_ACROSS = 50
CELL_INCHES = 2.2

Cell = np.ndarray | tuple[np.ndarray, str]


def plot_layer_scores(
    scores: Mapping[str, float], unstable: Collection[str], path: str | os.PathLike, title: str = ''
) -> None:
    """Draws the score of every layer over its place in the network, and writes the figure as a PNG.

    The scores are on a logarithmic axis. Where they are not all positive, it is a symmetric one, linear around zero.
    The threshold between the two groups is drawn where one score separates them.

    Args:
        scores: score by layer name, in network order.
        unstable: names of the unstable layers; the others are stable.
        path: of the PNG file, whose folder is made if need be.
        title: above the figure.

    Raises:
        ValueError: there are no scores, a score is not finite, or an unstable layer has no score.
    """
    names, values = _check_scores(scores, unstable)
    few = len(names) < NAMED_LAYERS
    figure = _figure(figsize=(max(8.0, 0.19 * len(names)) if few else 11.0, 6.0 if few else 4.8), layout='constrained')
    axes = figure.add_subplot(xlabel='layer' if few else 'layer, in network order', ylabel='score')
    position, is_unstable = np.arange(len(names)), np.isin(names, list(unstable))
    for mask, label, colour, marker in (
        (~is_unstable, 'stable', STABLE_COLOUR, 'o'),
        (is_unstable, 'unstable', UNSTABLE_COLOUR, '^'),
    ):
        size = 26 if few else max(6.0, 26 - len(names) / 40)
        axes.scatter(
            position[mask], values[mask], s=size, c=colour, marker=marker, lw=0, label=f'{label}: {mask.sum()} layers'
        )
    scale_scores(axes, values)
    _draw_threshold(axes, values[~is_unstable], values[is_unstable])
    if few:
        axes.set_xticks(position, names, rotation=90, fontsize=8, family='monospace')
    else:
        _label_groups(axes, names)
    axes.set_xlim(-0.01 * len(names) - 0.5, 1.01 * len(names) - 0.5)
    axes.grid(axis='y', color='0.9', lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside upper right', ncols=3, frameon=False, fontsize=9)
    if title:
        axes.set_title(title, loc='left', fontsize=11)
    save_figure(figure, path, dpi=150)


def crop_sheet(
    rows: Sequence[tuple[str, Sequence[Cell]]], column_titles: Sequence[str], path: str | os.PathLike
) -> None:
    """Writes pictures side by side: one row per picture, one column per method.

    Args:
        rows: label of each row, and its cells: uint8 BGR pictures (height, width, 3), each alone or with a caption.
        column_titles: one per cell of a row.
        path: of the PNG file, whose folder is made if need be.

    Raises:
        ValueError: there are no rows, a row has the wrong number of cells, or a cell is not a uint8 BGR picture.
    """
    if not rows or not column_titles:
        raise ValueError('a crop sheet needs at least one row and one column')
    for label, cells in rows:
        if len(cells) != len(column_titles):
            raise ValueError(f'row {label!r} has {len(cells)} cells for {len(column_titles)} columns; give one each')
    grid = [[_picture_and_caption(cell, label) for cell in cells] for label, cells in rows]
    captioned = any(caption for row in grid for _, caption in row)
    aspects = [max(img.shape[0] / img.shape[1] for img, _ in row) for row in grid]
    heights = [CELL_INCHES * aspect + (0.22 if captioned else 0) for aspect in aspects]
    figure = _figure(figsize=(CELL_INCHES * len(column_titles) + 0.3, sum(heights) + 0.25), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), len(column_titles), squeeze=False, height_ratios=heights)
    for axes_row, row, (label, _) in zip(axes, grid, rows, strict=True):
        axes_row[0].set_ylabel(label, fontsize=9, parse_math=False)
        for cell, (img, caption) in zip(axes_row, row, strict=True):
            cell.imshow(cv2.cvtColor(img, cv2.COLOR_BGR2RGB))
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
            cell.set_xlabel(caption, fontsize=8, labelpad=2)
    for cell, title in zip(axes[0], column_titles, strict=True):
        cell.set_title(title, fontsize=10, pad=4, parse_math=False)
    save_figure(figure, path, dpi=200, bbox_inches='tight', pad_inches=0.05)


def difference_boxes(
    differences: Mapping[str, Sequence[float]], path: str | os.PathLike, label: str, seen: Collection[str] = ()
) -> None:
    """Draws the distribution of paired differences in each domain: a box, a point per sample, and the mean.

    Boxes reach from the first to the third quartile and whiskers to the furthest point within 1.5 times that range.

    Args:
        differences: by domain, one number per sample.
        path: of the PNG file, whose folder is made if need be.
        label: label of the axis.
        seen: domains seen in training; drawn in grey.

    Raises:
        ValueError: there are no domains, or one has no samples.
    """
    empty = [domain for domain, values in differences.items() if not len(values)]
    if empty or not differences:
        raise ValueError(f'there are no differences to draw{" of " + ", ".join(empty) if empty else ""}')
    figure = _figure(figsize=(max(4.0, 1.5 * len(differences) + 1), 4.2), layout='constrained')
    axes = figure.add_subplot(ylabel=label)
    axes.axhline(0, color='0.35', lw=1, zorder=0)
    for place, (domain, values) in enumerate(differences.items()):
        colour = '0.55' if domain in seen else STABLE_COLOUR
        axes.boxplot(
            [values], positions=[place], widths=0.55, showfliers=False, manage_ticks=False,
            boxprops={'color': colour}, whiskerprops={'color': colour}, capprops={'color': colour},
            medianprops={'color': colour, 'lw': 2},
        )  # fmt: skip
        offsets = np.random.default_rng(place).uniform(-0.16, 0.16, len(values))  # so that points do not hide others
        axes.scatter(place + offsets, values, s=12, c=colour, alpha=0.6, lw=0)
        axes.scatter(place, np.mean(values), marker='D', s=34, c='white', edgecolors=UNSTABLE_COLOUR, zorder=3)
    names = [
        f'{domain}{" (seen)" if domain in seen else ""}\n{len(values)} samples'
        for domain, values in differences.items()
    ]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis='y', color='0.9', lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_title('line: median, diamond: mean', loc='right', fontsize=8, color='0.35')
    save_figure(figure, path, dpi=150)


def most_detailed_crop(img: np.ndarray, size: int) -> tuple[int, int]:
    """Finds the window with the most local detail, measured as the energy of the gradient of its luma.

    Args:
        img: uint8 or float picture, (height, width) or BGR (height, width, 3).
        size: side of the window, at most the shorter side of the picture.

    Returns:
        Top-left corner (y, x) of the window, multiples of 4.

    Raises:
        ValueError: the window does not fit in the picture.
    """
    return _place_of_most(_window_sums(_gradient_energy(_luma(img)), size))


def most_different_crop(img: np.ndarray, other: np.ndarray, size: int) -> tuple[int, int]:
    """Finds the window with visible detail in which two pictures of equal size differ most.

    It maximises the product of two energies: that of both pictures' gradients, and that of the difference of their
    lumas. The difference is smoothed, since rounding alone makes similar pictures differ everywhere, and shifts of
    brightness are removed. If the pictures are equal, it is the most detailed window. Arguments, return value and
    errors are those of `most_detailed_crop`.
    """
    one, two = _luma(img), _luma(other)
    difference = cv2.GaussianBlur(one - two, (0, 0), 1.5)
    difference -= cv2.GaussianBlur(difference, (0, 0), max(1.0, size / 4))
    differing = _window_sums(difference**2, size)
    if differing.max() < 1e-6 * size**2:
        return most_detailed_crop(img, size)
    return _place_of_most(differing * _window_sums(_gradient_energy(one) + _gradient_energy(two), size))


def _luma(img: np.ndarray) -> np.ndarray:
    luma = img.astype(np.float32)
    return cv2.cvtColor(luma, cv2.COLOR_BGR2GRAY) if luma.ndim == 3 else luma


def _gradient_energy(luma: np.ndarray) -> np.ndarray:
    return cv2.Sobel(luma, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(luma, cv2.CV_32F, 0, 1) ** 2


def _window_sums(energy: np.ndarray, size: int) -> np.ndarray:
    """The sum in each window, by its top-left corner."""
    height, width = energy.shape
    if not 0 < size <= min(height, width):
        raise ValueError(f'a crop of {size} px does not fit in a picture of {height} x {width}; choose a smaller one')
    total = cv2.integral(energy, sdepth=cv2.CV_64F)
    return total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]


def _place_of_most(sums: np.ndarray) -> tuple[int, int]:
    y, x = np.unravel_index(np.argmax(sums[::4, ::4]), sums[::4, ::4].shape)
    return 4 * int(y), 4 * int(x)


def _check_scores(scores: Mapping[str, float], unstable: Collection[str]) -> tuple[list[str], np.ndarray]:
    names, values = list(scores), np.array(list(scores.values()), dtype=float)
    if not names:
        raise ValueError('there are no layer scores to plot; pass the scores that score_layers returned')
    broken = [name for name, value in zip(names, values, strict=True) if not np.isfinite(value)]
    if broken:
        raise ValueError(f'the scores of {broken[:5]} are not finite; the gradients overflowed, so score again')
    unknown = sorted(set(unstable) - set(names))
    if unknown:
        raise ValueError(f'unstable layers {unknown[:5]} have no score; pass the partition made of these scores')
    return names, values


def scale_scores(axes: Axes, values: np.ndarray, axis: str = 'y') -> None:
    """Make an axis logarithmic, or linear around zero where scores are not all positive."""
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return
    set_scale = getattr(axes, f'set_{axis}scale')
    if values.min() > 0:
        set_scale('log')
    else:
        set_scale('symlog', linthresh=10 ** np.floor(np.log10(sizes.min())), linscale=2)


def _draw_threshold(axes: Axes, stable: np.ndarray, unstable: np.ndarray) -> None:
    if not stable.size or not unstable.size or stable.max() > unstable.min():
        return
    low, high = stable.max(), unstable.min()
    threshold = float(np.sqrt(low * high)) if low > 0 else float(low + high) / 2
    axes.axhline(threshold, color='0.35', lw=1, ls='--', zorder=0, label=f'threshold: {threshold:.3g}')


def _label_groups(axes: Axes, names: Sequence[str]) -> None:
    """Labels and separates runs of layers with a common prefix: the longest first, then others where there is room.

    The prefix is the first two components of a name, without its last one: `layers.0`, `conv_first`.
    """
    prefixes = ['.'.join(name.split('.')[:-1][:GROUP_DEPTH]) or name for name in names]
    starts = [i for i, prefix in enumerate(prefixes) if i == 0 or prefix != prefixes[i - 1]]
    groups = list(zip(starts, [*starts[1:], len(names)], strict=True))
    labelled: dict[float, str] = {}
    for start, end in sorted(groups, key=lambda group: group[0] - group[1]):
        centre = (start + end - 1) / 2
        if all(abs(centre - other) >= len(names) / LABELS_ACROSS for other in labelled):
            labelled[centre] = prefixes[start]
            for edge in {start, end} - {0, len(names)}:
                axes.axvline(edge - 0.5, color='0.85', lw=0.6, zorder=0)
    axes.set_xticks(
        list(labelled), list(labelled.values()), rotation=45, ha='right', rotation_mode='anchor', fontsize=8
    )


def _picture_and_caption(cell: Cell, label: str) -> tuple[np.ndarray, str]:
    img, caption = cell if isinstance(cell, tuple) else (cell, '')
    if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
        raise ValueError(f'row {label!r} has a cell of {img.dtype} {img.shape}; give uint8 BGR (height, width, 3)')
    return img, caption


def _figure(**options: Any) -> Figure:
    from matplotlib.figure import Figure

    return Figure(**options)


def save_figure(figure: Figure, path: str | os.PathLike, **options) -> None:
    """Writes a figure as PNG through a temporary file, so that `path` is never half written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # names of files need not be UTF-8
        shown = text.get_text().encode(errors='backslashreplace').decode()
        if shown != text.get_text():
            text.set_text(shown)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        FigureCanvasAgg(figure).print_figure(temporary, format='png', **options)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
