"""Paths among the arguments of the classes that `type:` chooses: resolving relative ones, finding missing ones."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basicsr.options.choices import find, path_arguments
from basicsr.options.schema import options_section
from basicsr.options.types import Section, fields_of, is_section, sections_by_name, users_key

_LONGEST_PATH, _LONGEST_PART = 4000, 255


def resolved(root: Path, path: str, option: str) -> str:
    """`path`, relative to `root` unless it is absolute.

    Raises:
        ValueError: No file can have that name, or it begins with `~user`, and there is no such user; the message names
            `option`.
    """
    if '\0' in path or len(path) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_PART for part in path.split('/')):
        raise ValueError(f'{option}: {reprlib.repr(path)} is too long, or holds a NUL, and so names no file')
    try:
        return str(root / Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(f'{option}: {path!r}: {error}') from error


def resolve_arguments(opt: dict, root: Path) -> None:
    """Resolve the relative paths of every section with a `type` against `root`, in place."""
    for option, section, key in arguments_with_paths(opt):
        value = section[key]
        if isinstance(value, str):
            section[key] = resolved(root, value, option)
        elif isinstance(value, list | tuple):
            places = (f'{option}[{index}]' for index in range(len(value)))
            section[key] = [
                resolved(root, item, place) if isinstance(item, str) else item
                for item, place in zip(value, places, strict=True)
            ]


def missing_arguments(opt: dict) -> list[str]:
    """The missing files and folders that sections with a `type` name: `network_g.checkpoint: <path>`."""
    missing = []
    for option, section, key in arguments_with_paths(opt):
        several = isinstance(section[key], list | tuple)
        for index, path in enumerate(section[key] if several else [section[key]]):
            if isinstance(path, str) and not Path(path).exists():
                missing.append(f'{option}{f"[{index}]" if several else ""}: {path}')
    return missing


def arguments_with_paths(opt: dict) -> Iterator[tuple[str, dict, str]]:
    """(option, section, key) of each argument that is set and may be a path."""
    for name, choice, section in _chosen(options_section(), opt, ''):
        factory = find(choice, section.get('type'))
        for key in path_arguments(choice, factory) if factory else ():
            if section.get(key):
                yield f'{name}.{key}', section, key


def _chosen(kind: type[Section], written: dict, above: str) -> Iterator[tuple[str, str, dict]]:
    """(option, choice, section) of each section with a `type`."""
    fields = fields_of(kind)
    for key, below in written.items():
        if isinstance(below, dict):
            known: Any = fields[key][1].annotation if key in fields else (users_key(kind, key) or [None])[0]
            items = sections_by_name(known)
            for name, section in below.items() if items else [(None, below)]:
                place = f'{above}{key}' if name is None else f'{above}{key}.{name}'
                if is_section(items or known) and isinstance(section, dict):
                    yield from _look(items or known, section, place)


def _look(kind: type[Section], section: dict, place: str) -> Iterator[tuple[str, str, dict]]:
    if kind.choice:
        yield place, kind.choice, section
    else:
        yield from _chosen(kind, section, f'{place}.')
