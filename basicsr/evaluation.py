"""Checkpoints on domains: a table with a row a domain, and pictures side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import cv2

from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils.img_util import tensor2img
from basicsr.utils.plots import crop_sheet, most_detailed_crop

ImageResults = list[tuple[str, dict[str, float]]]
"""(picture's name, its metrics), a data set's pictures in order."""

UNSEEN_MEAN = 'mean of the unseen'
_CROP = 96
_MOST_ROWS = 6


def build_loaders(opt: dict, phases: Iterable[str]) -> list[Any]:
    """Loaders of the data sets whose phase is one of `phases`, in the options' order."""
    return [
        build_dataloader(build_dataset(dataset_opt), dataset_opt, num_gpu=opt['num_gpu'])
        for dataset_opt in opt['datasets'].values()
        if dataset_opt['phase'] in phases
    ]


def score(model: Any, loaders: Iterable[Any], label: str, save_img: bool = False) -> dict[str, ImageResults]:
    """Validate `model` on every loader; the results by the data set's name."""
    results = {}
    for loader in loaders:
        model.validation(loader, label, None, save_img)
        results[loader.dataset.opt['name']] = model.image_results
    return results


def compare(opt: dict, networks: dict[str, dict], folder: str) -> tuple[str, str]:
    """Test several networks on the `test_*` data sets; write `table.md` and `crops.png` into `folder`.

    Pictures go to `folder`/visualization/<data set>/<picture>_<network>.png.

    Args:
        opt: The resolved options of a training or a test.
        networks: By label, the options that differ from `opt` (`network_g`, `path`), in the table's order.
        folder: Where to write.

    Returns:
        The table (Markdown), and the path of the sheet of crops, or '' where the data has no ground truth.
    """
    loaders = build_loaders(opt, ['test'])
    pictures = os.path.join(folder, 'visualization')
    results = {}
    for label, changes in networks.items():
        test_opt = {**opt, **changes, 'is_train': False, 'dist': False}
        test_opt['path'] = {**opt['path'], **changes.get('path', {}), 'visualization': pictures}
        test_opt['val'] = {**(opt.get('val') or {}), 'suffix': label}
        results[label] = score(build_model(test_opt), loaders, label, save_img=True)
    seen = {loader.dataset.opt['name'] for loader in loaders if loader.dataset.opt.get('seen')}
    table = domain_table(results, seen)
    with open(os.path.join(folder, 'table.md'), 'w') as file:
        file.write(table + '\n')
    sheet = os.path.join(folder, 'crops.png')
    return table, sheet if _crops(results, loaders, pictures, sheet) else ''


def means(images: ImageResults) -> dict[str, float]:
    """Each metric, averaged over the pictures."""
    metrics = images[0][1] if images else {}
    return {name: sum(scores[name] for _, scores in images) / len(images) for name in metrics}


def domain_table(results: dict[str, dict[str, ImageResults]], seen: Iterable[str] = ()) -> str:
    """A Markdown table: a row a domain, a column a network; cells hold the metrics' means.

    Args:
        results: By network, then by domain.
        seen: Domains that are marked as the training camera's, and left out of the mean of the unseen.
    """
    labels, seen = list(results), set(seen)
    domains = list(results[labels[0]])
    by_domain = {domain: [means(results[label][domain]) for label in labels] for domain in domains}
    metrics = list(dict.fromkeys(name for cells in by_domain.values() for values in cells for name in values))
    rows = [
        [f'{domain} (seen)' if domain in seen else domain, str(len(results[labels[0]][domain])), *map(_cell, cells)]
        for domain, cells in by_domain.items()
    ]
    unseen = [domain for domain in domains if domain not in seen]
    if len(unseen) > 1:
        cells = [
            {name: _mean([by_domain[domain][column].get(name) for domain in unseen]) for name in metrics}
            for column in range(len(labels))
        ]
        rows.append([UNSEEN_MEAN, str(sum(len(results[labels[0]][d]) for d in unseen)), *map(_cell, cells)])
    title = ['camera', 'images', *(f'{label} {"/".join(metrics)}' for label in labels)]
    widths = [max(len(row[column]) for row in [title, *rows]) for column in range(len(title))]

    def line(cells: list[str]) -> str:
        return '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + ' |'

    return '\n'.join([line(title), line(['-' * width for width in widths]), *map(line, rows)])


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else sum(values) / len(values)


def _cell(values: dict[str, float | None]) -> str:
    texts = [
        '-' if value is None else f'{value:.4f}' if abs(value) < 2 else f'{value:.2f}' for value in values.values()
    ]
    return ' / '.join(texts) or 'not measured'


def _crops(results: dict[str, dict[str, ImageResults]], loaders: list[Any], pictures: str, path: str) -> bool:
    """Write a sheet with a row a domain: the most detailed crop of a picture, each domain another one."""
    rows = []
    for place, loader in enumerate(loaders[:_MOST_ROWS]):
        domain, pairs = loader.dataset.opt['name'], getattr(loader.dataset, 'paths', [])
        if not pairs or not isinstance(pairs[0], dict):
            continue
        index = place % len(pairs)
        name = os.path.splitext(os.path.basename(pairs[index]['lq_path']))[0]
        gt = tensor2img(loader.dataset[index]['gt'])
        gt = cv2.cvtColor(gt, cv2.COLOR_GRAY2BGR) if gt.ndim == 2 else gt
        top, left = most_detailed_crop(gt, min(_CROP, *gt.shape[:2]))
        window = (slice(top, top + _CROP), slice(left, left + _CROP))
        cells = []
        for label, domains in results.items():
            scores = dict(domains[domain]).get(name, {})
            picture = cv2.imread(os.path.join(pictures, domain, f'{name}_{label}.png'))
            cells.append((picture[window], ', '.join(f'{metric} {value:.2f}' for metric, value in scores.items())))
        rows.append((f'{domain}\n{name}', [*cells, (gt[window], '')]))
    if rows:
        crop_sheet(rows, [*results, 'truth'], path)
    return bool(rows)
