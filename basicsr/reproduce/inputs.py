"""What a cell's results depend on: its options, and the contents of every file that these name.

A file is read once. It is read again only where its size, times or inode are no longer those that it had then; what
counts is the content, so that a copy of the same data, or a file that was touched, is no change. The system sets the
time of a file's last change (ctime) itself, so that a picture replaced by one of equal size and date is noticed.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from basicsr.data.contract import from_section
from basicsr.data.domain_folder_dataset import DomainFolderDataset
from basicsr.data.domains import choose_domains, read_domains
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.options.choices import find
from basicsr.options.paths import arguments_with_paths, resolved
from basicsr.options.resolve import resolve_datasets
from basicsr.reproduce.cell import ROOT, Cell
from basicsr.runs.agreement import databases_of, files_of
from basicsr.runs.identity import differences
from basicsr.runs.threads import in_threads
from basicsr.runs.user_modules import source_files
from basicsr.utils.misc import write_text

_FREE = (
    'num_gpu', 'data_hint', 'logger.print_freq', 'logger.use_tb_logger', 'logger.wandb', 'logger.keep_checkpoints',
    'logger.save_checkpoint_freq',
)  # fmt: skip
"""Options that do not affect results, and so may differ when a cell is reused."""
_OF_AN_LMDB = ('data.mdb', 'meta_info.txt')
_JUST_NOW = 2.0
"""Seconds in which a file may change twice and keep its times, as coarse as those of some file systems are."""
_READERS = 8
_SHOWN = 3


class Inputs:
    """Records of what cells depend on.

    A data set stands in a record as one digest; `<digest>.json` in the folder lists its files with their own digests,
    so that what changed can be named. `files.json` there holds the digests of files by their state.

    Args:
        folder: Where lists and digests are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._known: dict[str, list] = {}  # by path: [state, digest]
        self._seen: dict[str, str] = {}  # by section: digest
        self._has_read = False
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads((folder / 'files.json').read_text(encoding='utf-8'))
            self._known = found if isinstance(found, dict) else {}

    def record(self, cell: Cell, again: bool = False) -> dict[str, Any]:
        """What must not change if the cell is to be reused, as JSON would return it.

        Args:
            cell: The cell.
            again: Look at the files of its data sets again, even if that was done before.
        """
        with self._lock:
            kept = json.loads(json.dumps({part: _without_free(getattr(cell, part)) for part in ('train', 'test')}))
            if cell.curve:
                kept['curve'] = cell.points
            kept['files'] = {}
            for opt in (cell.train, cell.test):
                for name, path in _files(opt):
                    kept['files'][name] = self._digest(path) if path.is_file() else None
            kept['data'] = {
                f'{part}.datasets.{phase}': self._of_data_set(section, again)
                for part in ('train', 'test')
                for phase, section in _data_sets(getattr(cell, part)).items()
            }
            if self._has_read:
                self._keep('files', self._known)
                self._has_read = False
            return kept

    def changes(self, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
        """In which options and files two records differ, in words."""
        before, now = dict(before), dict(now)
        if 'curve' not in now:  # which changes no other result
            before.pop('curve', None)
        old, new = before.pop('data', None), now.pop('data')
        lines = differences(before, now)
        if old is None:
            return [*lines, 'pictures and modules: an earlier version ran it, which did not record them']
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                lines.append(f'{name.split(".", 1)[1]}: {self._named(old.get(name), new.get(name))}')
        return list(dict.fromkeys(lines))

    def _named(self, old: str | None, new: str | None) -> str:
        """The files that differ in two lists."""
        lists = [self._listed(old), self._listed(new)]
        if None in lists:
            return f'other files ({old}, now {new})'
        before, now = lists
        kinds = {
            'changed': [file for file in now if file in before and now[file] != before[file]],
            'new': [file for file in now if file not in before],
            'gone': [file for file in before if file not in now],
        }
        parts = []
        for kind, files in kinds.items():
            if files:
                more = f' and {len(files) - _SHOWN} more' if len(files) > _SHOWN else ''
                parts.append(f'{len(files)} {"file is" if len(files) == 1 else "files are"} {kind}: '
                             f'{", ".join(files[:_SHOWN])}{more}')  # fmt: skip
        return '; '.join(parts) or 'its files come in another order'

    def _listed(self, digest: str | None) -> dict[str, str] | None:
        try:
            found = json.loads((self.folder / f'{digest}.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _of_data_set(self, section: dict, again: bool) -> str:
        key = json.dumps(section, default=str)
        if again or key not in self._seen:
            try:
                self._seen[key] = self._list(dict.fromkeys(_files_of_data_set(section)))
            except (OSError, ValueError) as error:
                return f'cannot be read: {error}'
        return self._seen[key]

    def _list(self, files: Iterable[Path]) -> str:
        """Keep the list of these files and their digests; returns its own digest."""
        files = list(files)
        unread = [file for file in files if self._state(file) is None]
        if unread:
            in_threads(self._read, unread, _READERS, 'Reading data')
        listed = {_shown(file): self._digest(file) for file in files}
        digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
        if not (self.folder / f'{digest}.json').exists():
            self._keep(digest, listed)
        return digest

    def _keep(self, name: str, content: dict) -> None:
        """Write a file of the folder, without which everything is read again, and less is named."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / f'{name}.json', json.dumps(content, indent=0))

    def _digest(self, file: Path) -> str:
        return self._state(file) or self._read(file)

    def _state(self, file: Path) -> str | None:
        """The digest of a file that is as it was when it was read."""
        match self._known.get(str(file)):
            case [state, str(digest)] if state == _state_of(file):
                return digest
        return None

    def _read(self, file: Path) -> str:
        state = _state_of(file)
        content = hashlib.sha256()
        with open(file, 'rb') as opened:
            while chunk := opened.read(1 << 20):
                content.update(chunk)
        self._known.pop(str(file), None)
        self._has_read = True
        if time.time() - state[2] / 1e9 > _JUST_NOW:
            self._known[str(file)] = [state, content.hexdigest()]
        return content.hexdigest()


def _state_of(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _shown(file: Path) -> str:
    """A path, relative to the project inside it."""
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)


def _files(opt: dict) -> Iterator[tuple[str, Path]]:
    """Files that the options name, as they name them: weights, lists of pictures, user modules, …"""
    for section in (opt.get('path') or {}, *(opt.get('compare') or {}).values()):
        for key, path in section.items():
            if isinstance(path, str) and (key == 'resume_state' or key.startswith('pretrain_network_')):
                yield path, Path(resolved(ROOT, path, key))
    for option, section, key in arguments_with_paths(opt):
        values = section[key] if isinstance(section[key], list | tuple) else [section[key]]
        for path in values:
            place = Path(resolved(ROOT, path, option)) if isinstance(path, str) else None
            if place is not None and place.is_file():
                yield path, place
            elif place is not None and place.is_dir() and not option.startswith('datasets.'):
                yield from ((_shown(file), file) for file in _below(place))
    imports = opt.get('imports') or []
    for file in source_files([imports] if isinstance(imports, str) else imports, ROOT):
        yield _shown(file), file


def _data_sets(opt: dict) -> dict[str, dict]:
    opt = {**opt, 'datasets': copy.deepcopy(opt.get('datasets') or {})}
    resolve_datasets(opt, ROOT)
    return opt['datasets']


def _files_of_data_set(section: dict) -> Iterator[Path]:
    """The pictures that a data set reads; of one that is not this project's, every file in its folders.

    Raises:
        OSError, ValueError: Its folders or lists are missing or wrong.
    """
    kind = find('dataset', section['type'])
    if isinstance(kind, type) and issubclass(kind, PairedImageDataset | SingleImageDataset):
        dataset = from_section(kind, section)
        databases = databases_of(dataset)
        yield from (Path(folder) / name for folder in databases for name in _OF_AN_LMDB)
        if not databases:
            yield from (Path(file) for entry in dataset.paths for file in files_of(entry))
        return
    if isinstance(kind, type) and issubclass(kind, DomainFolderDataset):
        yield from _pictures_of_domains(section)
        return
    for _, below, key in arguments_with_paths({'datasets': {'it': section}}):
        for path in below[key] if isinstance(below[key], list | tuple) else [below[key]]:
            if isinstance(path, str) and Path(path).is_dir():
                yield from _below(Path(path))


def _pictures_of_domains(section: dict) -> Iterator[Path]:
    """All pictures of the domains that a data set has a part of: how a domain is split depends on each of them."""
    archive = read_domains(section['dataroot'])
    chosen = choose_domains(archive, section.get('train_domains'), section.get('test_domains'))
    for domain in chosen.test if section['phase'] == 'test' and chosen.test else chosen.train:
        yield from (Path(picture.path) for pictures in archive.domains[domain].values() for picture in pictures)


def _below(folder: Path) -> Iterator[Path]:
    """All files in a folder and its folders, sorted; hidden ones are left out, and links are followed once."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith('.'))
        if real not in seen:
            yield from (Path(place) / name for name in sorted(files) if not name.startswith('.'))
        seen.add(real)


def _without_free(opt: dict) -> dict:
    opt = copy.deepcopy(opt)
    for path in _FREE:
        *sections, last = path.split('.')
        below = opt
        for section in sections:
            below = below.get(section) or {}
        below.pop(last, None)
    return opt
