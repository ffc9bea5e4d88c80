"""Finding and reading the files of a data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from basicsr.data.names import IMG_EXTENSIONS, OTHER_PICTURES, RULES, NameList, Spellings, read_names
from basicsr.utils.file_client import FileClient
from basicsr.utils.img_util import imfrombytes
from basicsr.utils.lmdb_util import lmdb_keys
from basicsr.utils.misc import file_fault, scandir

_SHOWN = 5


def paths_from_folder(folder: str | Path, option: str = 'folder') -> list[str]:
    """Return the paths of the image files in `folder`, sorted.

    Args:
        folder: The folder; subfolders are not searched.
        option: Name of the option that gave it, for errors.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: It contains no image files, or some that cannot be opened, as links that lead nowhere.
    """
    return [os.path.join(folder, name) for name in _image_names(folder, option)]


def paired_paths_from_folder(
    folders: list[str], keys: list[str], filename_tmpl: str = '{}', place: str = ''
) -> list[dict[str, str]]:
    """Pair the image files of two folders by name.

    The ground-truth file `name.ext` belongs to the low-quality file `filename_tmpl.format(name)` with the same
    extension or, where that is absent, with another one. Names may be in different Unicode normalisations.

    Args:
        folders: Of the low-quality and the ground-truth pictures.
        keys: Their names, ['lq', 'gt'].
        filename_tmpl: '{}' where the names are equal, '{}x4' for `0001x4.png` beside `0001.png`.
        place: Index of the pair of folders if there are several, for errors: '[1]'.

        Returns:
            A dictionary `{'lq_path': …, 'gt_path': …}` for each pair, sorted by ground-truth name.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: A folder is empty, a file has no counterpart or cannot be opened, or the template has no place for
            the name.
    """
    _check_pair_arguments(folders, keys, filename_tmpl)
    (lq_folder, gt_folder), (lq_option, gt_option) = folders, [f'dataroot_{key}{place}' for key in keys]
    lq_free = set(_image_names(lq_folder, lq_option))
    gt_names = _image_names(gt_folder, gt_option)

    partner: dict[str, str] = {}
    for rule in RULES:
        free = {rule(name): name for name in sorted(lq_free, reverse=True)}
        for name in gt_names:
            if name not in partner and rule(_lq_name(name, filename_tmpl)) in free:
                partner[name] = free.pop(rule(_lq_name(name, filename_tmpl)))
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

    Each line begins with the name of a ground-truth file, within its folder: `0001_s001.png (480,480,3)`, see
    `read_names`. The low-quality file is found as in `paired_paths_from_folder`, first in the same subfolder as the
    ground truth, then directly in its own folder.

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
        gt_path = find_listed(gt_folder, name, listings)
        wanted = _lq_name(os.path.basename(name), filename_tmpl)
        nested = os.path.join(lq_folder, os.path.dirname(name))
        lq_path = _find(nested, wanted, listings, True) or _find(lq_folder, wanted, listings, True)
        pairs.append({f'{keys[0]}_path': lq_path, f'{keys[1]}_path': gt_path})
        for key, path, there in ((keys[1], os.path.join(gt_folder, name), gt_path),
                                 (keys[0], os.path.join(lq_folder, wanted), lq_path)):  # fmt: skip
            if fault := file_fault(there or path):
                missing.append(f'line {number}: {path} (dataroot_{key}{place}){_unless_absent(fault)}')
    if missing:
        raise FileNotFoundError(listed(f'meta_info_file {str(meta_info_file)!r} names files that are absent', missing))
    return pairs


def paths_from_meta_info_file(
    folder: str | Path, meta_info_file: str | Path | NameList, option: str = 'dataroot_lq'
) -> list[str]:
    """Return the paths, within `folder`, of the pictures that a text file lists; errors as with pairs."""
    check_folder(folder, option)
    paths, missing, listings = [], [], {}
    for number, name in read_names(meta_info_file).names:
        paths.append(find_listed(folder, name, listings))
        if fault := file_fault(paths[-1] or os.path.join(folder, name)):
            missing.append(f'line {number}: {os.path.join(folder, name)} ({option}){_unless_absent(fault)}')
    if missing:
        raise FileNotFoundError(listed(f'meta_info_file {str(meta_info_file)!r} names files that are absent', missing))
    return paths


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
    lq_keys = lmdb_keys(folders[0], lq_option)
    there = Spellings(lq_keys)
    gt_keys = paths_from_lmdb(folders[1], meta_info_file, gt_option)
    pairs = {key: there.find(filename_tmpl.format(key)) for key in gt_keys}
    alone = [key for key, partner in pairs.items() if partner is None]
    spare = [] if meta_info_file else sorted(set(lq_keys) - set(pairs.values()))
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
    known = Spellings(there)
    numbered = [(number, os.path.splitext(name)[0]) for number, name in read_names(meta_info_file).names]
    missing = [f'line {number}: {key} ({option})' for number, key in numbered if known.find(key) is None]
    if missing:
        raise FileNotFoundError(listed(f'meta_info_file {str(meta_info_file)!r} names keys that are absent', missing))
    return [known.find(key) for _, key in numbered]


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
    there = list(scandir(folder))
    names = [name for name in there if name.lower().endswith(IMG_EXTENSIONS)]
    if not names:
        raise ValueError(
            f'{option}: no image file is in {str(folder)!r} (absolute path: {os.path.abspath(folder)}); '
            f'looked for {", ".join(IMG_EXTENSIONS)}, not in subfolders'
        )
    with os.scandir(folder) as entries:
        not_plain = {entry.name for entry in entries if not entry.is_file(follow_symlinks=False)}
    inside = sorted(
        name for name in not_plain if not name.startswith('.') and os.path.isdir(os.path.join(folder, name))
    )
    if inside:
        said = listed(f'folders in {option} {str(folder)!r} are not searched', inside)
        logging.getLogger('basicsr').warning('%s; list them as further dataroots if their pictures belong here', said)
    check_files_open(folder, [name for name in names if name in not_plain], f'{option} {str(folder)!r}')
    warn_of_other_pictures(there, f'{option} {str(folder)!r}', folder)
    return names


def check_files_open(folder: str | Path, names: Iterable[str], place: str) -> None:
    """Make sure that listed pictures are files, and not links that lead nowhere.

    Args:
        folder: The folder.
        names: Files in it, or below it.
        place: What the folder is, for the message.

    Raises:
        ValueError: Some are not; the message counts and names them.
    """
    faults = [f'{name} is {fault}' for name in names if (fault := file_fault(os.path.join(folder, name)))]
    if faults:
        raise ValueError(f'{listed(f"files of {place} cannot be opened", faults)}; mend or remove them')


def warn_of_other_pictures(names: Sequence[str], place: str, folder: str | Path) -> None:
    """Log which files are pictures of formats that are not read, and which links lead nowhere: to a folder, maybe.

    Args:
        names: Files in `folder`, or below it.
        place: What the folder is, for the message.
        folder: The folder.
    """
    lost = [name for name in names if not name.lower().endswith(IMG_EXTENSIONS) and not _exists(folder, name)]
    if lost:
        logging.getLogger('basicsr').warning('%s', listed(f'links in {place} lead nowhere', lost))
    others = [name for name in names if name.lower().endswith(OTHER_PICTURES)]
    if others:
        left_out = listed(f'files of {place} are left out, whose formats are not read', others)
        logging.getLogger('basicsr').warning('%s; make PNG files of them', left_out)


def _exists(folder: str | Path, name: str) -> bool:
    return os.path.exists(os.path.join(folder, name))


def _lq_name(gt_name: str, filename_tmpl: str) -> str:
    stem, extension = os.path.splitext(gt_name)
    return filename_tmpl.format(stem) + extension


def find_listed(folder: str | Path, name: str, listings: dict[str, Spellings]) -> str | None:
    """The path of the file that a list calls `name`, in whatever Unicode normalisation; None if there is none."""
    path = os.path.join(folder, name)
    return path if os.path.isfile(path) else _find(os.path.dirname(path), os.path.basename(path), listings)


def _find(folder: str, name: str, listings: dict[str, Spellings], any_extension: bool = False) -> str | None:
    """The path of image file `name` in `folder`; `listings` caches folders."""
    if folder not in listings:
        names = [n for n in scandir(folder) if n.lower().endswith(IMG_EXTENSIONS)] if os.path.isdir(folder) else []
        listings[folder] = Spellings(names)
    found = listings[folder].find(name, any_extension)
    return found and os.path.join(folder, found)


def _unless_absent(fault: str) -> str:
    return '' if fault == 'absent' else f' is {fault}'


def listed(title: str, items: list[str]) -> str:
    """Return '<count> <title>: a, b, …' with at most five items, or '' if there are none."""
    if not items:
        return ''
    more = ', …' if len(items) > _SHOWN else ''
    return f'{len(items)} {title}: {", ".join(items[:_SHOWN])}{more}'
