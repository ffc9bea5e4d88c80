"""A folder of links to, or copies of, files elsewhere, which a second run brings up to date."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from basicsr.runs.threads import in_threads

MANIFEST = 'prepared.json'
_STAGING = '.preparing'


@dataclass
class Changes:
    """What it takes to bring a tree up to date: files by their path in it.

    Attributes:
        made: Do not exist yet.
        renewed: Have another source, or it has changed, or a link becomes a copy or vice versa.
        removed: Were made earlier from files that are no longer wanted.
        kept: Are up to date.
    """

    made: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def lay_out(
    files: Mapping[str, Path], output: Path, roots: Collection[Path], copy: bool = False, workers: int = 4
) -> Changes:
    """Make `output` hold these files. Other files in it stay; those that are in the way are an error.

    Links are absolute: archives are often on another disk, and a tree that is moved still finds them. Everything is
    made in a temporary folder first, so that an error or Ctrl-C changes nothing; what was made is recorded in
    `prepared.json`, and only that is ever replaced or removed.

    Args:
        files: Absolute paths of the sources, by the path in `output`, with `/`.
        output: The folder, created if necessary.
        roots: Files made earlier from sources below these folders, and no longer wanted, are removed.
        copy: Make copies instead of links.
        workers: Threads that copy.

    Returns:
        What was done.

    Raises:
        FileExistsError: Files that are not the tree's own are in the way; nothing is changed.
        OSError: A file cannot be read or written; nothing is changed.
        ValueError: The manifest is damaged, or it or a link leads out of the folder; nothing is changed.
    """
    output = output.absolute()
    manifest = _read_manifest(output)
    for name in {**manifest, **files}:
        _check_inside(output, name)
    changes = _plan(files, output, roots, copy, manifest)
    todo = [*changes.made, *changes.renewed]
    if not todo and not changes.removed:
        return changes
    new_folders = [folder for folder in (output, *output.parents) if not folder.exists()]
    staging = output / _STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
        staging.mkdir(parents=True)
        jobs = [(files[name], staging / str(place)) for place, name in enumerate(todo)]
        entries = in_threads(lambda job: _make(*job, copy), jobs, workers, 'Copying' if copy else 'Linking')
        with _not_interrupted():
            _commit(output, dict(zip(todo, (made for _, made in jobs), strict=True)), changes.removed,
                    manifest, dict(zip(todo, entries, strict=True)))  # fmt: skip
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in new_folders:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return changes


def _check_inside(output: Path, name: str) -> None:
    """Raise a ValueError if a name, or a link on the way, leads out of `output`, or to what is not the tree's."""
    parts = PurePosixPath(name).parts
    if '\0' in name or '/'.join(parts) != name or not parts or '..' in parts or parts[0] in ('/', MANIFEST, _STAGING):
        raise ValueError(
            f'{str(output / MANIFEST)!r} lists {name!r}, which is no file of that folder; nothing was changed. Take '
            'the entry out, or prepare another folder'
        )
    folder = (output / name).parent
    if folder != output and not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(output)):
        raise ValueError(
            f'{str(folder)!r}, the folder of {name!r}, leads by a link to {os.path.realpath(folder)!r}, outside '
            f'{str(output)!r}; nothing was changed. Remove the link, or prepare that folder itself'
        )


def _plan(
    files: Mapping[str, Path], output: Path, roots: Collection[Path], copy: bool, manifest: Mapping[str, Any]
) -> Changes:
    changes, in_the_way = Changes(), []
    folders = {parent for name in files for parent in (output / name).parents if parent.is_relative_to(output)}
    in_the_way += [str(folder) for folder in sorted(folders) if os.path.lexists(folder) and not folder.is_dir()]
    for name, source in files.items():
        path, entry = output / name, manifest.get(name)
        if not os.path.lexists(path):
            changes.made.append(name)
        elif _is_current(path, source, copy, entry):
            changes.kept.append(name)
        elif entry and _is_own(path, entry):
            changes.renewed.append(name)
        else:
            in_the_way.append(str(path))
    if in_the_way:
        raise FileExistsError(
            f'{len(in_the_way)} file(s) in {str(output)!r} were not made from here, or were changed since, and stand '
            f'in the way, such as {in_the_way[0]}; move or delete them, or choose another folder'
        )
    for name, entry in manifest.items():
        of_these = any(Path(entry['source']).is_relative_to(root) for root in roots)
        if name not in files and of_these and _is_own(output / name, entry):
            changes.removed.append(name)
    return changes


def _is_current(path: Path, source: Path, copy: bool, entry: Mapping[str, Any] | None) -> bool:
    if not copy:
        return path.is_symlink() and os.readlink(path) == str(source)
    unchanged = entry and entry['source'] == str(source) and entry.get('source_state') == _state(source)
    return bool(unchanged) and _is_as_made(path, entry)


def _is_own(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether the file is still the one made here, or the one that a killed run was about to replace."""
    before = entry.get('before')
    return _is_as_made(path, entry) or bool(before and _is_as_made(path, before))


def _is_as_made(path: Path, entry: Mapping[str, Any]) -> bool:
    if path.is_symlink():
        return 'state' not in entry and os.readlink(path) == entry['source']
    return path.is_file() and entry.get('state') == _state(path)


def _state(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _make(source: Path, path: Path, copy: bool) -> dict[str, Any]:
    """Make the file and return its entry for the manifest."""
    if copy:
        source_state = _state(source)
        shutil.copyfile(source, path)
        return {'source': str(source), 'source_state': source_state, 'state': _state(path)}
    try:
        path.symlink_to(source)
    except OSError as error:
        raise OSError(f'cannot make links in {str(path.parent.parent)!r} ({error}); make copies: --copy') from error
    return {'source': str(source)}


def _commit(
    output: Path, made: Mapping[str, Path], removed: Collection[str], before: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Move everything into place. The manifest comes first, so that a later run finishes what a killed one began."""
    _write_manifest(output, {**before, **{name: {**entry, 'before': before.get(name)} for name, entry in new.items()}})
    for name, path in made.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, output / name)
    for name in removed:
        (output / name).unlink()
        for folder in (output / name).parents:
            if folder == output or any(folder.iterdir()):
                break
            folder.rmdir()
    _write_manifest(output, {name: entry for name, entry in {**before, **new}.items() if name not in removed})


def _read_manifest(output: Path) -> dict[str, dict[str, Any]]:
    path = output / MANIFEST
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_text(encoding='utf-8'))['files']
        for entry in files.values():
            for one in (entry, entry.get('before')):
                if one is not None and not isinstance(one['source'], str):
                    raise TypeError(f'source: {one["source"]!r}')
        return dict(files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{str(path)!r} is damaged ({error!r}); delete it, and links that it lists with it') from error


def _write_manifest(output: Path, files: Mapping[str, Any]) -> None:
    temporary = output / _STAGING / MANIFEST
    temporary.write_text(json.dumps({'files': dict(sorted(files.items()))}, indent=0) + '\n', encoding='utf-8')
    os.replace(temporary, output / MANIFEST)


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Ignore Ctrl-C inside: what it would interrupt takes a moment only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
