"""Shared code of the commands that lay out data sets, scripts/data_preparation/prepare_*.py: by camera, above all."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from basicsr.data.archives.camera_archive import FAULTS, Contents, read_archive
from basicsr.data.archives.camera_sets import SIDES, SPLITS, CameraSet
from basicsr.data.archives.linked_tree import lay_out

_SHOWN = 10
_PROJECT = Path(__file__).resolve().parents[3]


def main(camera_set: CameraSet, description: str, arguments: Sequence[str] | None = None) -> None:
    """Run the command for this data set; mistakes end in one message and exit code 2, Ctrl-C in 130."""
    args = _parser(camera_set, description).parse_args(arguments)
    with ending_in_one_line():
        _prepare(camera_set, args)


@contextmanager
def ending_in_one_line() -> Iterator[None]:
    """End the program with one message where the block fails: with exit code 2 for a mistake, 130 for Ctrl-C."""
    try:
        yield
    except (OSError, ValueError) as error:
        sys.stderr.write(f'error: {error}\n')
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write('\ninterrupted; nothing was changed\n')
        sys.exit(130)


def _parser(camera_set: CameraSet, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = '; '.join(f'{kind}: {text}' for kind, text in FAULTS.items())
    parser.add_argument('roots', metavar='ROOT', type=Path, nargs='+', help='where the archives were unpacked')
    parser.add_argument(
        '--output',
        type=Path,
        default=_PROJECT / 'datasets' / camera_set.name,
        help=f"default: datasets/{camera_set.name} in the project's folder",
    )
    parser.add_argument('--scale', type=int, choices=(2, 3, 4), default=4, help='default 4')
    parser.add_argument('--copy', action='store_true', help='copy the files; default: absolute symbolic links')
    parser.add_argument('--check', action='store_true', help='check everything, and write nothing')
    parser.add_argument(
        '--skip',
        nargs='+',
        action='extend',
        default=[],
        choices=[*FAULTS, 'all'],
        metavar='FAULT',
        help=f'leave out what has such a fault, and go on. {kinds} (left out of train). Or all',
    )
    parser.add_argument('--allow-leaks', action='store_true', help='keep scenes that are in train and in test in both')
    if camera_set.merges:
        joined = ', '.join(f'{one} goes to {other}' for one, other in camera_set.merges.items())
        parser.add_argument('--merge-canon', action='store_true', help=f'make one camera of two: {joined}')
    parser.add_argument(
        '--workers',
        type=int,
        default=max(4, os.cpu_count() or 1),
        help='threads for reading and copying; default %(default)s',
    )
    return parser


def _prepare(camera_set: CameraSet, args: argparse.Namespace) -> None:
    laid_out = [args.output / camera / split for camera in camera_set.cameras for split in SPLITS]
    merges = camera_set.merges if getattr(args, 'merge_canon', False) else {}
    contents = read_archive(
        camera_set, args.roots, args.scale, laid_out, args.workers, merges=merges, allow_leaks=args.allow_leaks
    )
    for line in _table(camera_set, contents, args.scale, merges):
        print(line)
    _report(contents, FAULTS if 'all' in args.skip else args.skip)
    if not contents.pairs:
        raise ValueError('no pairs are left; nothing is made')
    if args.check:
        print(f'{len(contents.pairs)} pairs are good; nothing is made (--check)')
        return
    files = {
        f'{pair.camera}/{pair.split}/{side}/{pair.name}{getattr(pair, side).suffix.lower()}': getattr(pair, side)
        for pair in contents.pairs
        for side in SIDES
    }
    changes = lay_out(files, args.output, [root.resolve() for root in args.roots], args.copy, args.workers)
    counts = {name: len(getattr(changes, name)) for name in ('made', 'renewed', 'removed', 'kept')}
    print(f'{args.output}: ' + ', '.join(f'{count} files {name}' for name, count in counts.items()))


def _report(contents: Contents, skip: Collection[str]) -> None:
    """Report what is wrong; raise a ValueError unless it is to be left out."""
    refused = [kind for kind in FAULTS if contents.faults.get(kind) and kind not in skip]
    for kind, text in FAULTS.items():
        found = contents.faults.get(kind)
        if found:
            sys.stderr.write(f'{"refused" if kind in refused else "left out"}: {len(found)} {text} ({kind}):\n')
            sys.stderr.writelines(f'  {line}\n' for line in found[:_SHOWN])
            if len(found) > _SHOWN:
                sys.stderr.write(f'  … and {len(found) - _SHOWN} more\n')
    for scale, count in sorted(contents.other_scales.items()):
        sys.stderr.write(f'not taken: {count} pictures of scale {scale}\n')
    if refused:
        raise ValueError(
            f'the archive has faults, and nothing is made; mend it, or leave such pictures out: '
            f'--skip {" ".join(refused)}' + (', or keep them: --allow-leaks' if 'leak' in refused else '')
        )


def _table(camera_set: CameraSet, contents: Contents, scale: int, merges: Mapping[str, str]) -> list[str]:
    """Print the numbers of pairs next to the known ones, and a warning for each that differs."""
    found = Counter((pair.split, pair.camera) for pair in contents.pairs)
    known: Counter[tuple[str, str]] = Counter()
    for split, numbers in camera_set.known.get(scale, {}).items():
        for camera, number in numbers.items():
            known[split, merges.get(camera, camera)] += number
    cameras = [camera for camera in camera_set.cameras if camera not in merges]
    rows, warnings = [['camera', *(text for split in SPLITS for text in (split, 'known'))]], []
    for camera in cameras:
        row = [camera]
        for split in SPLITS:
            count, expected = found[split, camera], known.get((split, camera))
            row += [str(count), '-' if expected is None else str(expected)]
            if expected not in (None, count) and any(found[split, other] for other in cameras):
                warnings.append(f'warning: {camera}/{split} has {count} pairs; the known number is {expected}')
        rows.append(row)
    for split in SPLITS:
        if not any(found[split, camera] for camera in cameras):
            warnings.append(f'warning: no {split} pictures are there')
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return lines + warnings
