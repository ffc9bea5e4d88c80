"""Reading option files: YAML, inheritance by `_base_`, overrides from the command line; and where each value is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from basicsr.options.loader import LONGEST, Dumper, Key, Loader, in_short, read

Places = dict[Key, str]
"""Where each value was written: `file.yml, line 12` or `--set train.total_iter=5`."""

_MOST_FILES = 30
"""Files of a chain of `_base_`."""
_MOST_SECTIONS = 20
"""Sections of a path on the command line."""


def ordered_yaml() -> tuple[type, type]:
    """(loader, dumper) of option files; mappings keep their order."""
    return Loader, Dumper


def yaml_load(f: str | Path) -> Any:
    """Read an option file, or YAML text; it overrides the files that it names under `_base_`.

    A section that names another `type` than the base's replaces it; other sections are merged key by key, and a base's
    `imports` come before those of the file.

    Args:
        f: The file; or YAML text, which must be more than a single word, lest it be taken for a file name.

    Returns:
        The options of a file; of a text, whatever it holds. A text's bases are relative to the current folder.

    Raises:
        FileNotFoundError: The file, or a base, is not there.
        ValueError: Invalid YAML, a file without a mapping, or bases that inherit from each other.
    """
    if isinstance(f, Path) or os.path.isfile(f):
        return load_options(f)[0]
    value, lines = read(f, 'the YAML text')
    if isinstance(value, str) and '\n' not in f.strip():  # a file's name is YAML, too
        return load_options(f)[0]
    return _inherited(value, lines, Path.cwd() / 'the YAML text', (), {})[0] if isinstance(value, dict) else value


def load_options(path: str | Path) -> tuple[dict, Places]:
    """Like `yaml_load`, but also returns where each value was written."""
    return _load(resolved_file(path), (), {})


def resolved_file(path: str | Path) -> Path:
    """The file that a path leads to.

    Raises:
        ValueError: No file can have that name.
    """
    try:
        return Path(path).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a NUL, too long, links that lead to themselves
        raise ValueError(f'{in_short(path)} names no file: {error}') from error


_Known = dict[Path, tuple[dict, Places]]
"""Files that were read already."""


def _load(path: Path, above: tuple[Path, ...], known: _Known) -> tuple[dict, Places]:
    if path in above:
        raise ValueError(f'{path} inherits from itself: {" -> ".join(file.name for file in (*above, path))}')
    if len(above) > _MOST_FILES:
        raise ValueError(f'{above[0]} inherits through more than {_MOST_FILES} files')
    if path in known:
        return known[path]
    asked = f' (`_base_` of {above[-1]})' if above else ''
    try:
        there, is_folder = path.is_file(), path.is_dir()
    except OSError as error:  # too long a name
        raise ValueError(f'{in_short(path)} names no option file{asked}: {error.strerror}') from error
    if not there:
        what = 'is a folder, not an option file' if is_folder else 'there is no option file'
        raise FileNotFoundError(f'{path} {what}{asked}' if is_folder else f'{what} {path}{asked}')
    if path.stat().st_size > 4 * LONGEST:
        raise ValueError(f'{path} is no option file: it has {path.stat().st_size:,} bytes{asked}')
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text in UTF-8') from error
    opt, lines = read(text, str(path))
    if not isinstance(opt, dict):
        raise ValueError(f'{path} holds no options: its top level must be `key: value` lines')
    known[path] = _inherited(opt, lines, path, above, known)
    return known[path]


def _inherited(
    opt: dict, lines: dict[Key, int], path: Path, above: tuple[Path, ...], known: _Known
) -> tuple[dict, Places]:
    """The options of a file, merged with those that it inherits."""
    bases = opt.pop('_base_', None)
    bases = [] if bases is None else bases
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f'{path}, line {lines[("_base_",)]}: _base_ must be a file, or a list of files')
    merged, places = {}, {}
    for base in bases:
        inherited, base_places = _load(resolved_file(path.parent / base), (*above, path), known)
        merged = merge(merged, inherited)
        _add_places(places, base_places, inherited, merged)
    shown = _shown(path)
    merged = merge(merged, opt)
    _add_places(places, {key: f'{shown}, line {line}' for key, line in lines.items()}, opt, merged)
    places[()] = shown
    return merged, places


def _add_places(places: Places, new: Places, written: dict, merged: dict) -> None:
    """Record where the values were written; their `imports` may come after others in `merged`."""
    own, imports = _as_list(written.get('imports')), _as_list(merged.get('imports'))
    for key, place in new.items():
        if key[:1] == ('imports',) and isinstance(own, list) and isinstance(imports, list):
            index = key[1] if len(key) > 1 else 0
            places[('imports', imports.index(own[index]), *key[2:])] = place
            key = key[:1]
        places[key] = place


def _shown(path: Path) -> str:
    """The path relative to the current folder if it lies inside, else as it is."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith('..') else relative


def merge(base: dict, over: dict) -> dict:
    """The options of `base` overridden by those of `over`; the `imports` of both are kept."""
    merged = _merge(base, over)
    first, then = _as_list(base.get('imports')), _as_list(over.get('imports'))
    if isinstance(first, list) and isinstance(then, list):
        merged['imports'] = [*first, *(entry for entry in then if entry not in first)]
    return merged


def _as_list(imports: Any) -> Any:
    return [imports] if isinstance(imports, str) else imports


def _merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get('type', old.get('type')) == old.get('type'):
            value = _merge(old, value)
        merged[key] = value
    return merged


def override(opt: dict, assignments: Iterable[str], places: Places | None = None) -> None:
    """Apply `a.b=value` assignments in place; values are read as YAML.

    Args:
        opt: The options.
        assignments: Each of the form `a.b=value`.
        places: Updated with where the values come from.

    Raises:
        ValueError: No `=`, a value that is not valid YAML, or a path through something that is not a section.
    """
    places = {} if places is None else places
    for assignment in assignments:
        source = f'--set {assignment}'
        dotted, sign, text = assignment.partition('=')
        *sections, last = dotted.split('.')
        if not sign or not all((*sections, last)):
            raise ValueError(f'{source}: write it as a.b=value')
        if dotted == '_base_':
            raise ValueError(f'{source}: a file inherits, the command line does not; name the base in the file')
        if len(sections) > _MOST_SECTIONS:
            raise ValueError(f'{source[:200]}: there are no sections so deep')
        target = opt
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            else:  # sections that YAML aliases share are changed here alone
                target[section] = dict(target[section]) if isinstance(target[section], dict) else target[section]
            target = target[section]
            if not isinstance(target, dict):
                raise ValueError(f'{source}: {section} is no section of the options')
        target[last], lines = read(text, source)
        key = (*sections, last)
        places.update({(*key, *below): source for below in lines})
        places.update({key[:end]: source for end in range(1, len(key)) if key[:end] not in places})
        places[key] = source


def place_of(places: Places, key: Key) -> str:
    """Where the value at `key` was written, or else its nearest parent; '' if unknown."""
    return next((places[key[:end]] for end in range(len(key), -1, -1) if key[:end] in places), '')


def value_at(opt: Any, key: Key) -> Any:
    """The value at `key`, or None where there is none, or something on the way is no section."""
    for part in key:
        opt = opt.get(part) if isinstance(opt, dict) else None
    return opt
