"""Networks on domains: what a test measures, and pictures side by side."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import cv2

from basicsr.data import build_dataloader, build_dataset
from basicsr.metrics import better_is, most_of
from basicsr.models import build_model
from basicsr.models.contract import is_of_users
from basicsr.options.blame import names_option
from basicsr.results.plots import crop_sheet, most_detailed_crop
from basicsr.results.scores import Results, Scores
from basicsr.results.tables import result_files, summary
from basicsr.utils.img_util import imfrombytes, tensor2img
from basicsr.utils.logger import get_root_logger, not_essential
from basicsr.utils.misc import read_file
from basicsr.utils.registry import MODEL_REGISTRY

_CROP = 96
_MOST_ROWS = 6
_MEAN = 'mean of {}'
_PATH_KEYS = ('pretrain_network_g', 'param_key_g', 'strict_load_g')


def build_loaders(opt: dict, phases: Iterable[str]) -> list[Any]:
    """Loaders of the data sets whose phase is one of `phases`, in the options' order.

    Raises:
        ValueError: Two data sets have the same name, under which their results would stand.
    """
    sections = [dataset_opt for dataset_opt in opt['datasets'].values() if dataset_opt['phase'] in phases]
    twice = [name for name, count in Counter(section['name'] for section in sections).items() if count > 1]
    if twice:
        raise ValueError(f'datasets: more than one is called {", ".join(twice)}; give each a name of its own')
    return [build_dataloader(build_dataset(section), section, num_gpu=opt['num_gpu']) for section in sections]


def networks_of(opt: dict) -> dict[str, dict]:
    """The networks of a test by label, the main one last: the options that differ from `opt`."""
    return {**compared(opt), opt['name']: {}}


def compared(opt: dict) -> dict[str, dict]:
    """The networks of `compare` by label: the options that differ from `opt`."""
    networks = {}
    for label, section in (opt.get('compare') or {}).items():
        path = {key: section[key] for key in _PATH_KEYS if key in section}
        networks[label] = {'path': {'pretrain_network_g': None, **path}}
        if section.get('network_g'):
            networks[label]['network_g'] = section['network_g']
    return networks


def bicubic(opt: dict) -> dict[str, dict]:
    """The options of interpolation by the label `bicubic`; none where there is no scale, or the data has no lq.

    A model of users may build its networks by itself, so that SRModel takes its place.
    """
    kind = MODEL_REGISTRY.get(opt['model_type'])
    scale = None if 'scale' in getattr(kind, 'ignored_options', ()) else opt.get('scale')
    changes = {'network_g': {'type': 'Bicubic', 'upscale': scale}, 'path': {'pretrain_network_g': None}}
    if scale and is_of_users(kind):
        changes['model_type'] = 'SRModel'
        samples = (loader.dataset[0] for loader in build_loaders(opt, ['test']))
        scale = all(isinstance(sample, dict) and {'lq', 'lq_path'} <= sample.keys() for sample in samples)
    return {'bicubic': changes} if scale else {}


def with_changes(opt: dict, changes: dict) -> dict:
    """`opt` with the options of one network, of which those in `path` join the others there."""
    return {**opt, **changes, 'path': {**opt['path'], **changes.get('path', {})}}


def build_networks(opt: dict, networks: dict[str, dict], pictures: str, save_img: bool) -> dict[str, Any]:
    """A model for each network, with its weights, so that a file that does not fit is known before a test begins.

    Args:
        opt: The resolved options of a training or a test.
        networks: By label, the options that differ from `opt` (`network_g`, `path`).
        pictures: Folder for the networks' pictures: `<data set>/<picture>_<label>.png`.
        save_img: Whether pictures are written.

    Raises:
        FileNotFoundError, ValueError: A checkpoint is missing, broken or of another network; the message has the label.
    """
    models = {}
    for label, changes in networks.items():
        test_opt = {**with_changes(opt, changes), 'is_train': False, 'dist': False, 'of_training': opt.get('is_train')}
        test_opt['path']['visualization'] = pictures
        test_opt['val'] = {**(opt.get('val') or {}), 'save_img': save_img}
        if len(networks) > 1:  # one alone may be called by val.suffix
            test_opt['val']['suffix'] = label
        try:
            models[label] = build_model(test_opt)
        except (FileNotFoundError, ValueError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(_with_label(str(error), label, opt)) from error
    return models


def _with_label(text: str, label: str, opt: dict) -> str:
    """A message about one of several networks, with the option that it stands under."""
    if label in (opt.get('compare') or {}):
        place = f'compare.{label}'
        return f'{place}.{text.removeprefix("path.")}' if text.startswith('path.') else f'{place}: {text}'
    return text if label == opt['name'] and names_option(text, opt) else f'{label}: {text}'


def evaluate(opt: dict, models: dict[str, Any], loaders: list[Any]) -> Results:
    """Test each model on every loader.

    Args:
        opt: The resolved options of a training or a test.
        models: By label, from `build_networks`; the last is the main one.
        loaders: From `build_loaders`.

    Raises:
        ValueError: A sample cannot be measured: a network makes NaN of it, say; the message has the label.
    """
    metrics = (opt.get('val') or {}).get('metrics') or {}
    better = {name: better_is(section) for name, section in metrics.items()}
    most = {name: most_of(section) for name, section in metrics.items() if most_of(section) < math.inf}
    results = Results(opt['name'], better, most=most)
    by_themselves = set()
    for label, model in models.items():
        results.scores[label], results.of_sets[label] = {}, {}
        for loader in loaders:
            name = loader.dataset.opt['name']
            try:
                images = _validated(model, loader, label)
            except ValueError as error:
                raise ValueError(_with_label(str(error), label, opt)) from error
            results.scores[label][name], results.of_sets[label][name] = dict(images), dict(model.set_results)
            if not model.image_results:
                by_themselves.add(name)
    for loader in loaders:
        name = loader.dataset.opt['name']
        if name in by_themselves:  # of one network there are means alone, and so the others have no more
            for scores in results.scores.values():
                scores[name] = _means(scores[name], len(loader.dataset))
        images = list(next(iter(results.scores.values()))[name])
        paths = _paths(loader) if len(images) == len(loader.dataset) else [{} for _ in images]
        results.domains[name] = {'images': dict(zip(images, paths, strict=True))}
    results.main = results.networks[-1]
    results.seen = [loader.dataset.opt['name'] for loader in loaders if _is_seen(loader.dataset)]
    return results


def _is_seen(dataset: Any) -> bool:
    section = dataset.opt
    return bool(section.get('seen')) or section['phase'] == 'val' or getattr(dataset, 'is_held_out_part', False)


def _validated(model: Any, loader: Any, label: str) -> list[tuple[str, dict[str, float]]]:
    """(name, scores) of each sample; of samples with the same name, the second is called `name (2)`.

    A model that validates by itself, as those of BasicSR do, has one entry for all: the means.

    Raises:
        ValueError: A sample cannot be measured, or a mean is NaN or infinite.
    """
    model.image_results, model.set_results = [], {}
    vars(model).pop('metric_results', None)  # of the set before
    model.validation(loader, label, None, model.opt['val']['save_img'])
    if not model.image_results:
        get_root_logger().info('%s validates by itself: of %s there are means alone', type(model).__name__, label)
        means = dict(getattr(model, 'metric_results', {}))
        for metric, mean in means.items():
            if not math.isfinite(mean):
                raise ValueError(f'{loader.dataset.opt["name"]}: the mean of {metric} is {mean}')
        return [(_MEAN.format(len(loader.dataset)), means)]
    seen: Counter[str] = Counter()
    images = []
    for name, scores in model.image_results:
        seen[name] += 1
        images.append((name if seen[name] == 1 else f'{name} ({seen[name]})', scores))
    return images


def _means(scores: Scores, count: int) -> Scores:
    """One entry for all samples, where there is not one alone already."""
    if list(scores) == [_MEAN.format(count)]:
        return scores
    measured = next(iter(scores.values()), {})
    return {_MEAN.format(count): {key: sum(one[key] for one in scores.values()) / len(scores) for key in measured}}


def _paths(loader: Any) -> list[dict[str, str]]:
    """Of each sample, the paths `lq` and `gt`, or `path`, where the data set says them."""
    paths = getattr(loader.dataset, 'paths', [None] * len(loader.dataset))
    alone = 'path' if hasattr(loader.dataset, 'classes') else 'lq_path'
    pairs = (path if isinstance(path, dict) else {alone: path} if isinstance(path, str) else {} for path in paths)
    return [{key.removesuffix('_path'): path for key, path in pair.items()} for pair in pairs]


def compare(opt: dict, networks: dict[str, dict], folder: str) -> tuple[str, dict[str, str]]:
    """Test several networks on the `test_*` data sets; write tables, `results.json` and `crops.png` into `folder`.

    Args:
        opt: The resolved options of a training.
        networks: By label, the options that differ from `opt` (`network_g`, `path`), in the table's order.
        folder: Where to write.

    Returns:
        The table of the means (Markdown), and the paths of what was written.
    """
    loaders = build_loaders(opt, ['test'])
    pictures = os.path.join(folder, 'visualization')
    results = evaluate(opt, build_networks(opt, networks, pictures, save_img=True), loaders)
    for name, write in result_files(results).items():
        with not_essential(os.path.join(folder, name)):
            write(folder)
    sheet = os.path.join(folder, 'crops.png')
    files = {'table': os.path.join(folder, 'table.md')}
    with not_essential(sheet):
        if _crops(results, loaders, pictures, sheet):
            files['crops'] = sheet
    for domain in results.unseen:  # of classifiers
        files[f'confusion, {domain}'] = os.path.join(pictures, domain, f'confusion_{results.main}.png')
    return summary(results), files


def _crops(results: Results, loaders: list[Any], pictures: str, path: str) -> bool:
    """Write a sheet with a row a domain: the most detailed crop of a picture, each domain another one."""
    rows = []
    for place, loader in enumerate(loaders[:_MOST_ROWS]):
        domain, pairs = loader.dataset.opt['name'], getattr(loader.dataset, 'paths', [])
        if not pairs or not isinstance(pairs[0], dict):
            continue
        index = place % len(pairs)
        names = [os.path.splitext(os.path.basename(pair['lq_path']))[0] for pair in pairs[: index + 1]]
        name = names[-1] if names.count(names[-1]) == 1 else f'{names[-1]} ({names.count(names[-1])})'
        gt = tensor2img(loader.dataset[index]['gt'])
        gt = cv2.cvtColor(gt, cv2.COLOR_GRAY2BGR) if gt.ndim == 2 else gt
        top, left = most_detailed_crop(gt, min(_CROP, *gt.shape[:2]))
        window = (slice(top, top + _CROP), slice(left, left + _CROP))
        cells = []
        for label in results.networks:
            scores = results.scores[label][domain].get(name, {})
            file = os.path.join(pictures, domain, f'{name}_{label}.png')
            if not os.path.isfile(file):  # of a model that writes its pictures elsewhere, or none
                break
            picture = imfrombytes(read_file(file))
            cells.append((picture[window], ', '.join(f'{metric} {value:.2f}' for metric, value in scores.items())))
        if len(cells) == len(results.networks):
            rows.append((f'{domain}\n{name}', [*cells, (gt[window], '')]))
    if rows:
        crop_sheet(rows, [*results.networks, 'truth'], path)
    return bool(rows)
