"""Show where networks differ: crops of the pictures with the largest gain and loss, and box plots of all differences.

    python basicsr/test.py -opt FILE --set val.save_img=true
    python scripts/analysis/compare_images.py results/NAME

Reads `results.json` and the pictures that a test of several networks has saved in the folder. Writes `gains.png` and
`losses.png`, one row per picture: LR, bicubic, each network and the ground truth, cropped where the two networks differ
most; and `differences.png`, the paired differences of each domain's pictures.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

import cv2
import numpy as np

from basicsr.results.plots import crop_sheet, difference_boxes, most_different_crop
from basicsr.results.scores import FILE, Results
from basicsr.results.tables import number
from basicsr.utils.img_util import imfrombytes
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import did_you_mean

BICUBIC = 'bicubic'
Image = tuple[str, str, float]
"""Domain, picture, gain."""


def choose(option: str, wanted: str | None, known: Sequence[str], default: str) -> str:
    """`wanted`, or `default` if that is None; a ValueError if it is not known."""
    if wanted is not None and wanted not in known:
        raise ValueError(f'{option}: {wanted!r} is none of {", ".join(known)}{did_you_mean(wanted, known)}')
    return wanted or default


def gains(results: Results, metric: str, network: str, reference: str) -> dict[str, dict[str, float]]:
    """By domain and picture, how much better `network` is than `reference`: positive is better for any metric.

    Pictures that both networks have values for are included; a PSNR counts at most 100 dB.
    """
    sign = -1 if results.metrics[metric] == 'lower' else 1
    found: dict[str, dict[str, float]] = {}
    for domain, pictures in results.scores[network].items():
        others = results.scores[reference][domain]
        values = {
            picture: sign * (scores[metric] - others[picture][metric])
            for picture, scores in pictures.items()
            if metric in scores and metric in others[picture]
        }
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


def views(folder: Path, results: Results, domain: str, image: str) -> dict[str, np.ndarray | None]:
    """A picture's columns, all with the size of the networks' output; truth is None if unknown."""
    files = results.domains[domain]['images'][image]
    pictures = folder / 'visualization' / domain
    hint = 'test again with --set val.save_img=true'
    made = {name: read_picture(pictures / f'{image}_{name}.png', hint) for name in results.networks}
    there = f'{FILE} names it; was the data moved, or is it an LMDB?'
    lq = read_picture(files.get('lq', ''), there)
    height, width = next(iter(made.values())).shape[:2]
    scale = round(height / lq.shape[0])
    if BICUBIC not in made:
        enlarged = imresize(lq.astype(np.float32) / 255, scale)
        made = {BICUBIC: (enlarged.clip(0, 1) * 255).round().astype(np.uint8), **made}
    lr = cv2.resize(lq, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    truth = read_picture(files['gt'], there) if files.get('gt') else None
    shown = {'LR': lr, BICUBIC: made.pop(BICUBIC), **made, 'truth': truth}
    for name, picture in shown.items():
        if picture is not None and (picture.shape[0] < height or picture.shape[1] < width):
            raise ValueError(f'{image} of {domain}: {name} has {picture.shape[:2]} pixels, not {(height, width)}')
    return {name: picture if picture is None else picture[:height, :width] for name, picture in shown.items()}


def sheet_row(
    shown: Mapping[str, np.ndarray | None], scores: Mapping[str, float], network: str, reference: str, size: int
) -> list[tuple[np.ndarray, str]]:
    """Crops of the region where the two networks differ most, with each network's score below."""
    size = min(size, *shown[network].shape[:2])
    top, left = most_different_crop(shown[network], shown[reference], size)
    window = (slice(top, top + size), slice(left, left + size))
    blank = np.full((size, size, 3), 255, np.uint8)
    return [
        (blank if picture is None else picture[window], number(scores[name]) if name in scores else '')
        for name, picture in shown.items()
    ]


def sheet(
    results: Results, images: Sequence[Image], args: argparse.Namespace
) -> tuple[list[tuple[str, list[tuple[np.ndarray, str]]]], list[str]]:
    """Rows and titles of a sheet of `images`, in the form that `crop_sheet` takes."""
    rows, titles = [], []
    for domain, image, gain in images:
        shown = views(args.folder, results, domain, image)
        of_networks = {name: domains[domain][image] for name, domains in results.scores.items()}
        scores = {name: values[args.metric] for name, values in of_networks.items() if args.metric in values}
        seen = ' (seen)' if domain in results.seen else ''
        cells = sheet_row(shown, scores, args.network, args.reference, args.size)
        rows.append((f'{domain}{seen}\n{image}\n{args.metric} {number(gain, signed=True)}', cells))
        titles = list(shown)
    return rows, titles


def compare(args: argparse.Namespace) -> None:
    """Write the sheets and the box plots, filling in the options that were left out."""
    results = Results.load(args.folder)
    networks, others = results.networks, results.others
    if not others or not results.metrics:
        raise ValueError(
            f'{str(args.folder / FILE)!r} holds {len(networks)} networks and {len(results.metrics)} metrics; '
            'differences need two networks, tested in one run, and a metric'
        )
    args.metric = choose('--metric', args.metric, list(results.metrics), next(iter(results.metrics)))
    args.network = choose('--network', args.network, networks, results.main)
    likely = [name for name in networks if name not in (args.network, BICUBIC)] + [BICUBIC]
    args.reference = choose('--reference', args.reference, networks, likely[0])
    if args.network == args.reference:
        raise ValueError(f'{args.network} is compared with itself; name another --network or --reference')
    differences = gains(results, args.metric, args.network, args.reference)
    shown = dict(zip(('gains', 'losses'), extremes(differences, args.count), strict=True))
    sheets = {name: sheet(results, images, args) for name, images in shown.items()}
    output = args.output or args.folder / 'comparison'
    for name, images in shown.items():
        path = output / f'{name}.png'
        if images:
            crop_sheet(*sheets[name], path)
        else:
            path.unlink(missing_ok=True)  # left by an earlier comparison
        where = f', {path}' if images else ''
        print(f'{name} in {args.metric}, {args.network} over {args.reference}: {len(images) or "none"}{where}')
        for domain, image, gain in images:
            print(f'  {gain:+.4f}  {domain}/{image}')
    path = output / 'differences.png'
    values = {domain: list(images.values()) for domain, images in differences.items()}
    difference_boxes(values, path, f'gain in {args.metric} of {args.network} over {args.reference}', results.seen)
    print(f'differences by domain: {path}')


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', metavar='RESULTS_FOLDER', type=Path, help='results/NAME of a test')
    parser.add_argument('--metric', help="default: the test's first")
    parser.add_argument('--network', help='default: the main network of the test')
    parser.add_argument(
        '--reference', help='network to compare it with; default: the first of the others, bicubic last'
    )
    parser.add_argument('--count', type=int, default=4, help='number of gains, and of losses, to show; default 4')
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
