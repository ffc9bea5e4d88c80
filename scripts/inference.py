"""Run the network of a checkpoint on pictures.

    python scripts/inference.py photo.png photo_x4.png -c net_g_best.pth
    python scripts/inference.py photos/ restored/ -c net_g_best.pth
    python scripts/inference.py 'photos/**/*.jpg' restored/ -c net_g_best.pth --tile 128 --tile-mode blended

The network is determined from the checkpoint: from the options.yml of its experiment, whose `imports` register networks
of your own, or from the names and shapes of its weights, with --import for your own. Pictures may have 8 or 16 bits, be
grey or in colour, and have an alpha channel; JPEG is rotated as its EXIF data say. Folders are processed with their
subfolders, which are recreated in OUTPUT. Pictures that exist in OUTPUT are kept.

The network may be a classifier: OUTPUT is then a table, .csv or .json, of classes and their probabilities.

    python scripts/inference.py photos/ classes.csv -c net_g_best.pth
"""

from __future__ import annotations

import argparse
import glob
import os
import runpy
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

import torch
from tqdm import tqdm

from basicsr.classifier import TABLES, Classifier, predict, write_predictions
from basicsr.data.data_util import IMG_EXTENSIONS, warn_of_other_pictures
from basicsr.data.names import CLASSIFIED_EXTENSIONS
from basicsr.data.prefetch_dataloader import read_ahead
from basicsr.inference import Restorer, read_picture, write_picture
from basicsr.models.tiling import TILE_MODES, Tiling
from basicsr.runs.command_line import add_import_argument, run_from_command_line
from basicsr.runs.user_modules import import_user_modules, on_command_line
from basicsr.utils.logger import get_root_logger
from basicsr.utils.misc import is_out_of_memory, scandir

Job = tuple[Path, Path]
"""(picture to read, picture to write)."""
_SHOWN = 20
_BEHIND = 2
"""Pictures that may wait to be written."""


def find_pictures(
    source: str, output: Path, keep_name: bool = False, extensions: Sequence[str] = IMG_EXTENSIONS
) -> list[tuple[Path, Path]]:
    """The pictures that `source` refers to, each with its path relative to OUTPUT.

    Args:
        source: A picture, a folder, or a wildcard, in which `**` matches any folders.
        output: OUTPUT; its contents are skipped if it is itself inside `source`.
        keep_name: Whether a folder's own name is part of the paths.
        extensions: Of pictures.

    Raises:
        FileNotFoundError, ValueError: Nothing matches, or there are no pictures in it; or a folder is OUTPUT itself.
    """
    path, below = Path(source), _real(output)
    if path.is_file() or (path.is_symlink() and not path.exists()):  # one that leads nowhere is said to
        return [(path, Path(path.name))]
    if path.is_dir():
        if _real(path) == below:
            raise ValueError(f'INPUT and OUTPUT are the same folder, {source}; name another OUTPUT')
        folder, names = path, list(scandir(path, recursive=True))
        if extensions == IMG_EXTENSIONS:
            warn_of_other_pictures(names, repr(source), folder)
        found = [(path / name, Path(path.resolve().name if keep_name else '', name)) for name in names]
    else:
        folder, found = matching(source)
    found = [(file, place) for file, place in found if file.suffix.lower() in extensions]
    if folder.resolve() in below.parents:
        found = [(file, place) for file, place in found if below not in _real(file).parents]
    if not found:
        raise ValueError(f'no picture is in {source!r}; looked for {", ".join(extensions)}')
    return found


def matching(source: str) -> tuple[Path, list[tuple[Path, Path]]]:
    """What a wildcard matches: (the folder before its first wildcard, files with their paths from there).

    Raises:
        FileNotFoundError: Nothing matches.
    """
    parts = Path(source).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    folder = Path(*parts[:fixed])
    if '**' in parts:  # which `glob` would take around links that lead back
        names = scandir(folder, recursive=True) if folder.is_dir() else ()
        places = [Path(name) for name in names if _matches(Path(name).parts, parts[fixed:])]
    else:
        places = [Path(match).relative_to(folder) for match in glob.glob(source) if not Path(match).is_dir()]
    if not places:
        raise FileNotFoundError(f'there is no picture, no folder and nothing that matches {source!r}')
    return folder, [(folder / place, place) for place in sorted(places)]


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a wildcard, in which `**` stands for any folders."""
    if not patterns:
        return not parts
    if patterns[0] == '**':
        return _matches(parts, patterns[1:]) or (bool(parts) and _matches(parts[1:], patterns))
    return bool(parts) and fnmatch(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def _real(path: Path) -> Path:
    """`Path.resolve`, also of links that lead back to themselves."""
    return Path(os.path.realpath(path))


def plan(inputs: list[str], output: Path, suffix: str = '', ext: str = 'png') -> list[Job]:
    """The pictures to read, and where to write each.

    Args:
        inputs: Pictures, folders and wildcards.
        output: A folder; or, for one picture, a file.
        suffix: Suffix of the new files' names.
        ext: Extension of the new files, or 'same'.

    Raises:
        FileNotFoundError, ValueError: An input is missing; or two pictures would go to one file, or replace an input.
    """
    found = [one for source in inputs for one in find_pictures(source, output, len(inputs) > 1)]
    if output.suffix.lower() in IMG_EXTENSIONS and not output.is_dir():
        if len(found) > 1 or any(Path(source).is_dir() for source in inputs):
            raise ValueError(f'{output} is the name of one picture, and {len(found)} are to be written: name a folder')
        jobs = [(found[0][0], output)]
    else:
        if output.exists() and not output.is_dir():
            raise ValueError(f'{output} is a file, and no picture; name a folder, or a file that ends in .png')
        jobs = [
            (file, output / place.with_name(place.stem + suffix + (place.suffix if ext == 'same' else f'.{ext}')))
            for file, place in found
        ]
    sources, taken = {_real(file) for file, _ in jobs}, {}
    for file, target in jobs:
        if _real(target) in sources:
            raise ValueError(f'OUTPUT would replace the input {target}; name another one')
        if taken.setdefault(target, file) is not file:
            raise ValueError(f'{taken[target]} and {file} would both become {target}; rename one, or see --ext same')
    return jobs


def restore_all(restorer: Callable, jobs: list[Job]) -> list[str]:
    """Read, restore and write; reading and writing run in the background. Returns the errors, one line per picture."""
    failures: list[str] = []
    behind: deque[tuple[Path, Future]] = deque()

    def attempt(file: Path, step: Callable, *arguments: Any) -> Any:
        """The result of `step`, or None if a picture, the disk or memory makes it fail."""
        try:
            return step(*arguments)
        except Exception as error:
            if not isinstance(error, OSError | ValueError) and not is_out_of_memory(error):
                raise
            failures.append(f'{file}: {str(error) or "out of memory"}'.splitlines()[0])
            return None

    readings = read_ahead(attempt(file, read_picture, file) for file, _ in jobs)
    with ThreadPoolExecutor(1) as writer:
        for (file, target), img in zip(tqdm(jobs, 'Restore', unit='image', disable=None), readings, strict=True):
            result = None if img is None else attempt(file, restorer, img)
            if result is not None:
                behind.append((file, writer.submit(write_picture, result, target)))
            while len(behind) > _BEHIND:
                done, writing = behind.popleft()
                attempt(done, writing.result)
        for file, writing in behind:
            attempt(file, writing.result)
    return failures


def device_of(name: str | None) -> torch.device:
    """The device called `name`, by default a GPU if there is one.

    Raises:
        ValueError: There is no such device.
    """
    try:
        device = torch.device(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f'--device {name}: {str(error).splitlines()[0]}') from error
    return device


def restore(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        FileNotFoundError, ImportError, ValueError: A mistake in the command line; or, once all others are done,
            pictures that could not be read, restored or written.
    """
    output = Path(args.output)
    jobs = plan(args.input, output, args.suffix, args.ext)
    todo = [job for job in jobs if args.overwrite or not job[1].exists()]
    if len(todo) < len(jobs):
        print(f'{len(jobs) - len(todo)} of {len(jobs)} are in {output} already and stay; --overwrite makes them anew')
    if not todo:
        return
    logger = get_root_logger()
    for line in import_user_modules(on_command_line(args.imports, ROOT), ROOT)[1]:
        logger.info('%s', line)
    tiling = Tiling(args.tile, args.tile_overlap, args.tile_mode)
    restorer = Restorer(args.checkpoint, device_of(args.device), tiling, args.self_ensemble, args.param_key)
    failures = restore_all(restorer, todo)
    done = len(todo) - len(failures)
    print(f'{done} {"picture" if done == 1 else "pictures"} x{restorer.scale} written to {output}')
    _raise_failures(failures, len(todo), 'restored')


def classify(args: argparse.Namespace) -> None:
    """Write a table of classes.

    Raises:
        ValueError: Pictures could not be read; the others are in the table.
    """
    output, defaults = Path(args.output), make_parser().parse_args(['input', 'output', '-c', 'file'])
    for name in ('tile', 'tile_overlap', 'tile_mode', 'self_ensemble', 'suffix', 'ext'):
        if getattr(args, name) != getattr(defaults, name):
            raise ValueError(f'--{name.replace("_", "-")} is for networks that make pictures, and {output} is a table')
    kinds = CLASSIFIED_EXTENSIONS
    found = [one for source in args.input for one in find_pictures(source, output, len(args.input) > 1, kinds)]
    if output.exists() and not args.overwrite:
        raise ValueError(f'{output} exists; --overwrite replaces it')
    output.parent.mkdir(parents=True, exist_ok=True)
    for line in import_user_modules(on_command_line(args.imports, ROOT), ROOT)[1]:
        get_root_logger().info('%s', line)
    classifier = Classifier(args.checkpoint, device_of(args.device), args.param_key)
    predictions, failures = predict(classifier, [file for file, _ in found])
    write_predictions(predictions, classifier.classes, output)
    print(f'the classes of {len(predictions)} {"picture" if len(predictions) == 1 else "pictures"} written to {output}')
    _raise_failures(failures, len(found), 'classified')


def _raise_failures(failures: list[str], count: int, done: str) -> None:
    if failures:
        more = f'\n  and {len(failures) - _SHOWN} more' if len(failures) > _SHOWN else ''
        shown = '\n  '.join(failures[:_SHOWN]) + more
        raise ValueError(f'{len(failures)} of {count} pictures could not be {done}:\n  {shown}')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('input', nargs='+', metavar='INPUT', help='pictures, folders, or wildcards in quotes')
    parser.add_argument(
        'output', metavar='OUTPUT', help='a folder; or, for one picture, a file; of classes .csv or .json'
    )
    parser.add_argument('-c', '--checkpoint', required=True, metavar='FILE', help='weights, for example net_g_best.pth')
    parser.add_argument(
        '--tile', type=int, default=200, help='approximate side of the tiles in pixels of INPUT; 0: no tiles'
    )
    parser.add_argument(
        '--tile-overlap', type=float, default=0.1, help='margin of a tile, as a fraction of its side (0.1)'
    )
    parser.add_argument(
        '--tile-mode',
        choices=TILE_MODES,
        default='official',
        help='blended fades tiles into each other, over half their margins',
    )
    parser.add_argument(
        '--self-ensemble', action='store_true', help='average over flips and rotations; 8 times the work'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1, …; default: a GPU if there is one')
    parser.add_argument('--suffix', default='', help="suffix of the new files' names, for example _x4")
    parser.add_argument(
        '--ext', default='png', choices=['same', *(ext[1:] for ext in IMG_EXTENSIONS)],
        help='format of the new files (png); some support only 8 bits and no alpha channel',
    )  # fmt: skip
    parser.add_argument(
        '--param-key', help='key of the weights in the file; default: params_ema if present, else params'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace pictures that exist in OUTPUT')
    add_import_argument(parser)
    parser.add_argument('--debug', action='store_true', help='show tracebacks of errors')
    return parser


def main() -> None:
    args = make_parser().parse_args()
    run = classify if Path(args.output).suffix.lower() in TABLES else restore
    run_from_command_line(lambda: run(args), args.debug)


if __name__ == '__main__':
    main()
