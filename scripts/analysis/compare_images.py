"""Show where networks differ: crops of the pictures with the largest gain and loss, and box plots of all differences.

    python basicsr/test.py -opt FILE --set val.save_img=true
    python scripts/analysis/compare_images.py results/NAME

Reads `results.json` and the pictures that a test of several networks has left in the folder. Writes `gains.png` and
`losses.png`, with a row a picture: LR, bicubic, each network, truth, at the place where the two networks differ most;
and `differences.png`, the paired differences of each domain's pictures.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'utils' / 'own_copy.py'))['use_own_copy'](ROOT)

import cv2
import numpy as np

from basicsr.utils.img_util import imfrombytes
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.plots import crop_sheet, difference_boxes, most_detailed_crop, most_different_crop
from basicsr.utils.registry import did_you_mean

RESULTS = 'results.json'
BICUBIC = 'bicubic'
Image = tuple[str, str, float]
"""Domain, picture, gain."""


def read_results(folder: Path) -> dict[str, Any]:
    """The `results.json` of a test.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not one, or holds a single network.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f'there is no {str(path)!r}; basicsr/test.py writes it')
    try:
        results = json.loads(path.read_text(encoding='utf-8'))
        missing = {'metrics', 'networks', 'domains', 'scores'} - results.keys()
    except (ValueError, AttributeError) as error:
        raise ValueError(f'{str(path)!r} is damaged ({error}); test again') from error
    if missing:
        raise ValueError(f'{str(path)!r} has no {", ".join(sorted(missing))}; test again')
    if len(results['networks']) < 2 or not results['metrics']:
        raise ValueError(f'{str(path)!r} holds {len(results["networks"])} networks and {len(results["metrics"])} metrics; '
                         'differences need two networks, tested in one run, and a metric')  # fmt: skip
    return results


def choose(option: str, wanted: str | None, known: Sequence[str], default: str) -> str:
    """`wanted`, or `default` where that is None; a ValueError where it is not known."""
    if wanted is not None and wanted not in known:
        raise ValueError(f'{option}: {wanted!r} is none of {", ".join(known)}{did_you_mean(wanted, known)}')
    return wanted or default


def gains(results: Mapping[str, Any], metric: str, network: str, reference: str) -> dict[str, dict[str, float]]:
    """By domain and picture, how much better `network` is than `reference`: positive is better for any metric.

    Pictures that both have a finite value for count; two infinite values, of pictures equal to the truth, do not.
    """
    sign = -1 if results['metrics'][metric] == 'lower' else 1
    found: dict[str, dict[str, float]] = {}
    for domain, images in results['scores'][network].items():
        others = results['scores'][reference].get(domain, {})
        pairs = {image: (scores.get(metric), others.get(image, {}).get(metric)) for image, scores in images.items()}
        values = {image: sign * (one - other) for image, (one, other) in pairs.items() if None not in (one, other)}
        values = {image: value for image, value in values.items() if math.isfinite(value)}
        if values:
            found[domain] = values
    if not found:
        raise ValueError(f'no picture has {metric} of both {network} and {reference}')
    return found


def extremes(differences: Mapping[str, Mapping[str, float]], count: int) -> tuple[list[Image], list[Image]]:
    """The `count` largest gains, largest first, and as many losses, largest first."""
    flat = [(domain, image, value) for domain, images in differences.items() for image, value in images.items()]
    flat.sort(key=lambda item: item[2])
    return [item for item in flat[::-1] if item[2] > 0][:count], [item for item in flat if item[2] < 0][:count]


def read_picture(path: Path | str, hint: str) -> np.ndarray:
    """uint8 BGR (h, w, 3)."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no picture {str(path)!r}; {hint}')
    try:
        return imfrombytes(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f'cannot read the picture {str(path)!r}: {error}') from error


def views(folder: Path, results: Mapping[str, Any], domain: str, image: str) -> dict[str, np.ndarray | None]:
    """A picture's columns, all of the size of the networks' output; truth is None where there is none."""
    files = results['domains'][domain]['images'][image]
    pictures = folder / 'visualization' / domain
    hint = 'test again with --set val.save_img=true'
    made = {name: read_picture(pictures / f'{image}_{name}.png', hint) for name in results['networks']}
    lq = read_picture(files['lq'], f'{RESULTS} names it; has the data been moved?')
    height, width = next(iter(made.values())).shape[:2]
    scale = round(height / lq.shape[0])
    if BICUBIC not in made:
        enlarged = imresize(lq.astype(np.float32) / 255, scale)
        made = {BICUBIC: (enlarged.clip(0, 1) * 255).round().astype(np.uint8), **made}
    lr = cv2.resize(lq, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    truth = read_picture(files['gt'], f'{RESULTS} names it; has the data been moved?') if files.get('gt') else None
    shown = {'LR': lr, BICUBIC: made.pop(BICUBIC), **made, 'truth': truth}
    for name, picture in shown.items():
        if picture is not None and (picture.shape[0] < height or picture.shape[1] < width):
            raise ValueError(f'{image} of {domain}: {name} has {picture.shape[:2]} pixels, not {(height, width)}')
    return {name: picture if picture is None else picture[:height, :width] for name, picture in shown.items()}


def sheet_row(
    shown: Mapping[str, np.ndarray | None], scores: Mapping[str, float], network: str, reference: str, size: int
) -> list[tuple[np.ndarray, str]]:
    """Crops of one place, with each network's value below: where the two differ most, else where detail is."""
    one, other = shown[network], shown[reference]
    size = min(size, *one.shape[:2])
    same = np.array_equal(one, other)
    top, left = most_detailed_crop(one, size) if same else most_different_crop(one, other, size)
    window = (slice(top, top + size), slice(left, left + size))
    blank = np.full((size, size, 3), 255, np.uint8)
    return [
        (blank if picture is None else picture[window], f'{scores[name]:.4g}' if name in scores else '')
        for name, picture in shown.items()
    ]


def write_sheet(
    folder: Path, results: Mapping[str, Any], images: Sequence[Image], args: argparse.Namespace, path: Path
) -> None:
    """A sheet with a row for each of `images`."""
    rows, titles = [], []
    for domain, image, gain in images:
        shown = views(folder, results, domain, image)
        of_networks = {name: domains.get(domain, {}).get(image, {}) for name, domains in results['scores'].items()}
        scores = {name: values[args.metric] for name, values in of_networks.items() if args.metric in values}
        seen = ' (seen)' if domain in results.get('seen', []) else ''
        cells = sheet_row(shown, scores, args.network, args.reference, args.size)
        rows.append((f'{domain}{seen}\n{image}\n{args.metric} {gain:+.3g}', cells))
        titles = list(shown)
    crop_sheet(rows, titles, path)


def compare(args: argparse.Namespace) -> None:
    """Write the sheets and the box plots; fills in the options that were left out."""
    results = read_results(args.folder)
    networks = results['networks']
    args.metric = choose('--metric', args.metric, list(results['metrics']), next(iter(results['metrics'])))
    args.reference = choose('--reference', args.reference, networks, results.get('reference') or networks[0])
    others = [name for name in networks if name != args.reference]
    args.network = choose('--network', args.network, networks, others[-1])
    if args.network == args.reference:
        raise ValueError(f'{args.network} is compared with itself; give --network or --reference one of {others}')
    differences = gains(results, args.metric, args.network, args.reference)
    best, worst = extremes(differences, args.count)
    output = args.output or args.folder / 'comparison'
    label = f'gain in {args.metric} of {args.network} over {args.reference}'
    for name, images in (('gains', best), ('losses', worst)):
        path = output / f'{name}.png'
        if images:
            write_sheet(args.folder, results, images, args, path)
        else:
            path.unlink(missing_ok=True)  # an earlier comparison's
        where = f', {path}' if images else ''
        print(f'{name} in {args.metric}, {args.network} over {args.reference}: {len(images) or "none"}{where}')
        for domain, image, gain in images:
            print(f'  {gain:+.4f}  {domain}/{image}')
    path = output / 'differences.png'
    values = {domain: list(images.values()) for domain, images in differences.items()}
    difference_boxes(values, path, label, results.get('seen', []))
    print(f'differences by domain: {path}')


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', metavar='RESULTS_FOLDER', type=Path, help='results/NAME of a test')
    parser.add_argument('--metric', help="default: the test's first")
    parser.add_argument('--network', help='default: the last that is not the reference')
    parser.add_argument('--reference', help="what to compare with; default: the test's, or its first network")
    parser.add_argument('--count', type=int, default=4, help='gains, and as many losses, to show; default 4')
    parser.add_argument('--size', type=int, default=96, help='side of the crops in pixels; default 96')
    parser.add_argument('--output', type=Path, help='folder to write to; default: RESULTS_FOLDER/comparison')
    args = parser.parse_args(arguments)
    if args.count < 1 or args.size < 1:
        parser.error('--count and --size are at least 1')
    try:
        compare(args)
    except (OSError, ValueError) as error:
        sys.stderr.write(f'error: {error}\n')
        sys.exit(2)


if __name__ == '__main__':
    main()
