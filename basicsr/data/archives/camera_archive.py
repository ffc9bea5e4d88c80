"""From an unpacked archive to verified pairs."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from basicsr.data.archives.camera_sets import SIDES, SPLITS, CameraSet, Named
from basicsr.data.data_util import IMG_EXTENSIONS
from basicsr.runs.threads import in_threads
from basicsr.utils.img_util import imfrombytes
from basicsr.utils.misc import read_file

FAULTS = {
    'unnamed': "pictures whose names are no known camera's",
    'duplicate': 'names used for different pictures',
    'unpaired': 'pictures without a partner',
    'unreadable': 'files that are not complete pictures',
    'size': 'pairs whose sizes do not fit the scale',
    'leak': 'scenes that are in both train and test',
}
"""What can be wrong with an archive, by the word that excludes such pictures."""


@dataclass(frozen=True)
class Pair:
    """Two pictures of one scene.

    Attributes:
        camera, split, name, scene: See `Named`.
        HR, LR: Absolute paths.
    """

    camera: str
    split: str
    name: str
    scene: str | None
    HR: Path
    LR: Path


@dataclass
class Contents:
    """The contents of an archive.

    Attributes:
        pairs: Those without faults, sorted by camera, split and name.
        faults: By kind, one line each.
        other_scales: Numbers of pictures at other scales.
    """

    pairs: list[Pair] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    other_scales: Counter[int] = field(default_factory=Counter)


def read_archive(
    camera_set: CameraSet,
    roots: Sequence[Path],
    scale: int,
    leave_out: Collection[Path] = (),
    workers: int = 4,
    merges: Mapping[str, str] | None = None,
    allow_leaks: bool = False,
) -> Contents:
    """Find the pairs of `camera_set` below `roots`, and check every picture.

    Args:
        camera_set: How pictures are named.
        roots: Folders into which archives were unpacked; hidden files and folders are skipped.
        scale: Scale of the pairs to take.
        leave_out: Folders to skip: those in which pairs are laid out.
        workers: Threads that read and decode.
        merges: Cameras whose pictures are assigned to another one.
        allow_leaks: Do not look for scenes that are in both train and test.

    Raises:
        FileNotFoundError: A root is missing, or nothing is found.
    """
    contents = Contents()
    sides: dict[Named, list[Path]] = defaultdict(list)
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f'there is no folder {str(root)!r}')
        for path, folders in _pictures(root.resolve(), {folder.resolve() for folder in leave_out}):
            named = camera_set.identify(folders, path.stem, scale)
            if isinstance(named, Named):
                sides[named].append(path)
            elif named == 'unnamed':
                contents.faults['unnamed'].append(str(path))
            elif named != 'outside':
                contents.other_scales[named] += 1
    if not sides:
        _raise_nothing_found(camera_set, roots, scale, contents)
    pairs = _paired(sides, contents.faults, merges or {})
    pairs, digests = _good_pictures(pairs, scale, contents.faults, workers)
    if not allow_leaks:
        pairs = _without_leaks(pairs, digests, contents.faults)
    order = camera_set.cameras.index
    contents.pairs = sorted(pairs, key=lambda pair: (order(pair.camera), SPLITS.index(pair.split), pair.name))
    return contents


def _pictures(root: Path, leave_out: Collection[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Each picture below `root`, sorted, and the names of its folders, from `root` inwards."""
    seen: set[Path] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in seen or real in leave_out:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith('.') and name != '__MACOSX')
        folders = [root.name, *here.relative_to(root).parts]
        for name in sorted(files):
            if not name.startswith('.') and name.lower().endswith(IMG_EXTENSIONS):
                yield here / name, folders


def _raise_nothing_found(camera_set: CameraSet, roots: Sequence[Path], scale: int, contents: Contents) -> None:
    where = ' and '.join(repr(str(root)) for root in roots)
    if contents.other_scales:
        found = ', '.join(f'{count} of x{other}' for other, count in sorted(contents.other_scales.items()))
        raise FileNotFoundError(f'below {where} are no pictures of scale {scale}, but {found}; give --scale')
    unnamed = contents.faults['unnamed']
    if unnamed:
        raise FileNotFoundError(f'below {where} no picture is named as {camera_set.name} does, such as {unnamed[0]}')
    raise FileNotFoundError(
        f'below {where} are no pictures in folders like {camera_set.folders}; unpack the archives of '
        f'{camera_set.name} there'
    )


def _paired(sides: dict[Named, list[Path]], faults: dict[str, list[str]], merges: Mapping[str, str]) -> list[Pair]:
    found: dict[tuple, dict[str, Path | None]] = defaultdict(dict)
    for named, paths in sides.items():
        paths = sorted(paths)
        others = [path for path in paths[1:] if not filecmp.cmp(paths[0], path, shallow=False)]
        if others:
            faults['duplicate'].append(f'{paths[0]} and {others[0]}')
        camera = merges.get(named.camera, named.camera)
        found[camera, named.split, named.name, named.scene][named.side] = None if others else paths[0]
    pairs = []
    for key, files in found.items():
        alone = [path for path in files.values() if path]
        if len(alone) == 2:
            pairs.append(Pair(*key, files['HR'], files['LR']))
        elif len(files) == 1 and alone:
            faults['unpaired'].append(f'{alone[0]} (no {SIDES[1 - SIDES.index(next(iter(files)))]})')
    faults['unpaired'].sort()
    return pairs


def _good_pictures(
    pairs: list[Pair], scale: int, faults: dict[str, list[str]], workers: int
) -> tuple[list[Pair], dict[Pair, str]]:
    """The pairs that are readable and consistent, and a digest of each one's HR file."""
    results = in_threads(lambda pair: _look_at(pair, scale), pairs, workers, 'Looking at pairs')
    digests = {}
    for pair, (kind, text) in zip(pairs, results, strict=True):
        if kind:
            faults[kind].append(text)
        else:
            digests[pair] = text
    return list(digests), digests


def _look_at(pair: Pair, scale: int) -> tuple[str, str]:
    """('', digest of HR), or (kind of fault, its description)."""
    shapes, digest = [], ''
    for path in (pair.LR, pair.HR):
        try:
            content = read_file(path)
            shapes.append(imfrombytes(content, 'unchanged').shape[:2])
        except (OSError, ValueError) as error:
            return 'unreadable', f'{path}: {error}'
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    spare = [high - scale * low for low, high in zip(*shapes, strict=True)]
    allowed = 0 if pair.split == 'train' else scale - 1  # tests crop a remainder, see PairedImageDataset
    if all(0 <= pixels <= allowed for pixels in spare):
        return '', digest
    (low_height, low_width), (height, width) = shapes
    hint = '; LR was enlarged to the size of HR' if shapes[0] == shapes[1] else ''
    return 'size', f'{pair.HR} of {height}x{width}, {pair.LR} of {low_height}x{low_width}{hint}'


def _without_leaks(pairs: list[Pair], digests: dict[Pair, str], faults: dict[str, list[str]]) -> list[Pair]:
    """Remove from train what is also in test: the same scene of the same camera, or the same file."""
    tested = {(pair.camera, pair.scene): pair for pair in pairs if pair.split == 'test' and pair.scene}
    tested_files = {digests[pair]: pair for pair in pairs if pair.split == 'test'}
    kept, leaks = [], defaultdict(list)
    for pair in pairs:
        same = tested.get((pair.camera, pair.scene)) or tested_files.get(digests[pair])
        if pair.split == 'test' or same is None:
            kept.append(pair)
        else:
            leaks[same].append(pair)
    for test, trained in sorted(leaks.items(), key=lambda leak: leak[0].name):
        count = '1 train picture' if len(trained) == 1 else f'{len(trained)} train pictures'
        faults['leak'].append(f'{test.HR} and {count}, such as {trained[0].HR}')
    return kept
