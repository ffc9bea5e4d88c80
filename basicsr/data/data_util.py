"""Finding and reading the files of a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from basicsr.utils.file_client import FileClient
from basicsr.utils.img_util import imfrombytes
from basicsr.utils.lmdb_util import lmdb_keys
from basicsr.utils.misc import scandir

IMG_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
_SHOWN = 5


@dataclass(frozen=True)
class NameList:
    """Names listed in a text file, or some of them.

    Attributes:
        file: The text file, for errors.
        names: Line number and name of each.
    """

    file: str
    names: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        return self.file


def paths_from_folder(folder: str | Path, option: str = 'folder') -> list[str]:
    """Return the paths of the image files in `folder`, sorted.

    Args:
        folder: The folder; subfolders are not searched.
        option: Name of the option that gave it, for errors.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It contains no image files.
    """
    return [os.path.join(folder, name) for name in _image_names(folder, option)]


def paired_paths_from_folder(
    folders: list[str], keys: list[str], filename_tmpl: str = '{}', place: str = ''
) -> list[dict[str, str]]:
    """Pair the image files of two folders by name.

    The ground-truth file `name.ext` belongs to the low-quality file `filename_tmpl.format(name)` with the same
    extension or, where that is absent, with another one.

    Args:
        folders: Of the low-quality and the ground-truth pictures.
        keys: Their names, ['lq', 'gt'].
        filename_tmpl: '{}' where the names are equal, '{}x4' for `0001x4.png` beside `0001.png`.
        place: Index of the pair of folders if there are several, for errors: '[1]'.

        Returns:
            A dictionary `{'lq_path': …, 'gt_path': …}` for each pair, sorted by ground-truth name.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: A folder is empty, a file has no counterpart, or the template has no place for the name.
    """
    _check_pair_arguments(folders, keys, filename_tmpl)
    (lq_folder, gt_folder), (lq_option, gt_option) = folders, [f'dataroot_{key}{place}' for key in keys]
    lq_free = set(_image_names(lq_folder, lq_option))
    gt_names = _image_names(gt_folder, gt_option)

    partner = {}
    for name in gt_names:
        wanted = _lq_name(name, filename_tmpl)
        if wanted in lq_free:
            lq_free.remove(wanted)
            partner[name] = wanted
    by_stem = {os.path.splitext(name)[0]: name for name in sorted(lq_free, reverse=True)}
    for name in gt_names:
        stem = os.path.splitext(_lq_name(name, filename_tmpl))[0]
        if name not in partner and stem in by_stem:
            partner[name] = by_stem.pop(stem)
            lq_free.remove(partner[name])

    problems = [
        listed(f'files of {gt_option} {gt_folder!r} without a partner', [n for n in gt_names if n not in partner]),
        listed(f'files of {lq_option} {lq_folder!r} without a partner', sorted(lq_free)),
    ]
    if any(problems):
        raise ValueError(
            f'{len(partner)} pictures are paired, but not all; {"; ".join(filter(None, problems))}. filename_tmpl '
            f'is {filename_tmpl!r}: for {gt_names[0]!r} it expects {_lq_name(gt_names[0], filename_tmpl)!r}; '
            'mend it, or add or remove files'
        )
    return [
        {f'{keys[0]}_path': os.path.join(lq_folder, partner[name]), f'{keys[1]}_path': os.path.join(gt_folder, name)}
        for name in gt_names
    ]


def paired_paths_from_meta_info_file(
    folders: list[str],
    keys: list[str],
    meta_info_file: str | Path | NameList,
    filename_tmpl: str = '{}',
    place: str = '',
) -> list[dict[str, str]]:
    """Pair the pictures that a text file lists.

    Each line begins with the name of a ground-truth file, within its folder; what follows a space is ignored:
    `0001_s001.png (480,480,3)`. The low-quality file is found as in `paired_paths_from_folder`, first in the
    same subfolder as the ground truth, then directly in its own folder.

    Args:
        folders: Of the low-quality and the ground-truth pictures.
        keys: Their names, ['lq', 'gt'].
        meta_info_file: The text file.
        filename_tmpl, place: As in `paired_paths_from_folder`.

    Returns:
        A dictionary `{'lq_path': …, 'gt_path': …}` for each line.

    Raises:
        FileNotFoundError: The text file or a folder is missing, or lines name files that are not there.
        ValueError: The text file names nothing, or the template has no place for the name.
    """
    _check_pair_arguments(folders, keys, filename_tmpl)
    lq_folder, gt_folder = folders
    for folder, key in zip(folders, keys, strict=True):
        check_folder(folder, f'dataroot_{key}{place}')
    pairs, missing, listings = [], [], {}
    for number, name in read_names(meta_info_file).names:
        gt_path = os.path.join(gt_folder, name)
        wanted = _lq_name(os.path.basename(name), filename_tmpl)
        nested = os.path.join(lq_folder, os.path.dirname(name))
        lq_path = _find(nested, wanted, listings) or _find(lq_folder, wanted, listings)
        pairs.append({f'{keys[0]}_path': lq_path, f'{keys[1]}_path': gt_path})
        if not os.path.isfile(gt_path):
            missing.append(f'line {number}: {gt_path} (dataroot_{keys[1]}{place})')
        if lq_path is None:
            missing.append(f'line {number}: {os.path.join(lq_folder, wanted)} (dataroot_{keys[0]}{place})')
    if missing:
        raise FileNotFoundError(listed(f'meta_info_file {str(meta_info_file)!r} names files that are absent', missing))
    return pairs


def paths_from_meta_info_file(
    folder: str | Path, meta_info_file: str | Path | NameList, option: str = 'dataroot_lq'
) -> list[str]:
    """Return the paths, within `folder`, of the pictures that a text file lists; errors as with pairs."""
    check_folder(folder, option)
    numbered = [(number, os.path.join(folder, name)) for number, name in read_names(meta_info_file).names]
    missing = [f'line {number}: {path} ({option})' for number, path in numbered if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(listed(f'meta_info_file {str(meta_info_file)!r} names files that are absent', missing))
    return [path for _, path in numbered]


def paired_paths_from_lmdb(
    folders: list[str],
    keys: list[str],
    meta_info_file: str | Path | NameList | None = None,
    filename_tmpl: str = '{}',
    place: str = '',
) -> list[dict[str, str]]:
    """Pair the pictures of two LMDBs by key.

    Args:
        folders: Of the low-quality and the ground-truth pictures.
        keys: Their names, ['lq', 'gt'].
        meta_info_file: Text file that names the ground-truth pictures to use; default: all.
        filename_tmpl, place: As in `paired_paths_from_folder`.

        Returns:
            A dictionary `{'lq_path': key, 'gt_path': key}` for each pair.

    Raises:
        ImportError, FileNotFoundError, ValueError: As `basicsr.utils.lmdb_util.lmdb_keys`, or pictures have no partner.
    """
    _check_pair_arguments(folders, keys, filename_tmpl)
    lq_option, gt_option = (f'dataroot_{key}{place}' for key in keys)
    lq_keys = set(lmdb_keys(folders[0], lq_option))
    pairs = {key: filename_tmpl.format(key) for key in paths_from_lmdb(folders[1], meta_info_file, gt_option)}
    alone = [key for key, wanted in pairs.items() if wanted not in lq_keys]
    spare = [] if meta_info_file else sorted(lq_keys - set(pairs.values()))
    problems = [
        listed(f'keys of {gt_option} {folders[1]!r} without a partner', alone),
        listed(f'keys of {lq_option} {folders[0]!r} without a partner', spare),
    ]
    if any(problems):
        raise ValueError(
            f'not all pictures are paired: {"; ".join(filter(None, problems))}; mend filename_tmpl or make the LMDBs '
            'of the same pictures'
        )
    return [{f'{keys[0]}_path': lq_key, f'{keys[1]}_path': gt_key} for gt_key, lq_key in pairs.items()]


def paths_from_lmdb(
    folder: str | Path, meta_info_file: str | Path | NameList | None = None, option: str = 'dataroot_lq'
) -> list[str]:
    """Return the keys of an LMDB, or those that a text file names; errors as with pairs."""
    there = lmdb_keys(folder, option)
    if meta_info_file is None:
        return there
    known = set(there)
    numbered = [(number, os.path.splitext(name)[0]) for number, name in read_names(meta_info_file).names]
    missing = [f'line {number}: {key} ({option})' for number, key in numbered if key not in known]
    if missing:
        raise FileNotFoundError(listed(f'meta_info_file {str(meta_info_file)!r} names keys that are absent', missing))
    return [key for _, key in numbered]


def read_image(file_client: FileClient, path: str, option: str, grey: bool = False) -> np.ndarray:
    """Read a picture: float32 in [0, 1], (h, w, 3) BGR, or (h, w, 1) with `grey`.

    Files of 16 bits keep their precision, an alpha channel is dropped, and a grey file gives three equal channels.
    `grey` converts a colour file to OpenCV's full-range luma, as MambaIR does.

    Raises:
        ValueError: The file is not a picture; the message names it.
    """
    content = file_client.get(path, option.removeprefix('dataroot_'))
    try:
        img = imfrombytes(content, flag='grayscale' if grey else 'color', float32=True)
    except ValueError as error:
        raise ValueError(f'{option}: cannot read the picture {path!r}: {error}') from error
    return img[..., None] if grey else img


def _check_pair_arguments(folders: list[str], keys: list[str], filename_tmpl: str) -> None:
    if len(folders) != 2 or len(keys) != 2:
        raise ValueError(f'pairs are made of two folders and two keys, lq and gt; not of {folders} and {keys}')
    try:
        distinguishes = filename_tmpl.format('a') != filename_tmpl.format('b')
    except (AttributeError, IndexError, KeyError, ValueError):
        distinguishes = False
    if not distinguishes:
        raise ValueError(f"filename_tmpl {filename_tmpl!r} has no place for the name; write '{{}}' or, say, '{{}}x4'")


def check_folder(folder: str | Path, option: str) -> None:
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f'{option}: there is no folder {str(folder)!r} (absolute path: {os.path.abspath(folder)}); '
            'correct the option or put the data there'
        )


def _image_names(folder: str | Path, option: str) -> list[str]:
    check_folder(folder, option)
    names = [name for name in scandir(folder) if name.lower().endswith(IMG_EXTENSIONS)]
    if not names:
        raise ValueError(
            f'{option}: no image file is in {str(folder)!r} (absolute path: {os.path.abspath(folder)}); '
            f'looked for {", ".join(IMG_EXTENSIONS)}, not in subfolders'
        )
    return names


def _lq_name(gt_name: str, filename_tmpl: str) -> str:
    stem, extension = os.path.splitext(gt_name)
    return filename_tmpl.format(stem) + extension


def _find(folder: str, name: str, listings: dict[str, dict[str, str]]) -> str | None:
    """Return the path of image file `name` in `folder`, or of one with its stem; `listings` caches folders."""
    if folder not in listings:
        names = [n for n in scandir(folder) if n.lower().endswith(IMG_EXTENSIONS)] if os.path.isdir(folder) else []
        listings[folder] = {os.path.splitext(n)[0]: n for n in reversed(names)} | {n: n for n in names}
    found = listings[folder].get(name) or listings[folder].get(os.path.splitext(name)[0])
    return found and os.path.join(folder, found)


def read_names(meta_info_file: str | Path | NameList) -> NameList:
    """Read the first word of each non-blank line; a list that was read before is returned as it is.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It names nothing.
    """
    if isinstance(meta_info_file, NameList):
        return meta_info_file
    if not os.path.isfile(meta_info_file):
        raise FileNotFoundError(
            f'meta_info_file: there is no file {str(meta_info_file)!r} '
            f'(absolute path: {os.path.abspath(meta_info_file)}); correct the option or leave it out'
        )
    lines = Path(meta_info_file).read_text(encoding='utf-8').splitlines()
    names = tuple((number, line.split()[0]) for number, line in enumerate(lines, 1) if line.strip())
    if not names:
        raise ValueError(f'meta_info_file {str(meta_info_file)!r} names no files; each line begins with a file name')
    return NameList(str(meta_info_file), names)


def listed(title: str, items: list[str]) -> str:
    """Return '<count> <title>: a, b, …' with at most five items, or '' if there are none."""
    if not items:
        return ''
    more = ', …' if len(items) > _SHOWN else ''
    return f'{len(items)} {title}: {", ".join(items[:_SHOWN])}{more}'
