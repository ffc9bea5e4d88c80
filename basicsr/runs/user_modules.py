"""User modules: importing them registers their networks, data sets, losses, metrics, models, … alongside ours.

An entry of `imports` is a file (`my/net_arch.py`), a package (a folder with `__init__.py`), or the dotted name of a
module that Python finds. A file of a package is imported as part of it, any other under its own name, with its folder
at the end of Python's path: it can import its siblings, data loading processes find it, and nothing of the project is
shadowed.
"""

from __future__ import annotations

import ast
import importlib
import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from basicsr.runs.import_faults import WrongName, describe_fault, nearest_module
from basicsr.utils.registry import all_registered, did_you_mean, forgotten_on_error

ROOT = Path(__file__).resolve().parents[2]
_OWN = ('basicsr', 'ldt')
_NEAR = 0.7
_added: set[str] = set()
"""Folders that this module has put on Python's path; another run must be given the files in them."""


@dataclass(frozen=True)
class Entry:
    """One entry of `imports`.

    Attributes:
        text: The file, folder or dotted name.
        folders: Where a relative path may start, in order of preference.
        option: What named it: `imports` or `--import`.
        place: Where it was written.
    """

    text: str
    folders: tuple[Path, ...]
    option: str = 'imports'
    place: str = ''

    def fault(self, message: str) -> str:
        return f'{self.option}: {message}' + (f' [{self.place}]' if self.place else '')


@dataclass(frozen=True)
class _Found:
    """A module's name, and if it was named by a path, its file and the folder that Python must search."""

    name: str
    file: Path | None = None
    folder: Path | None = None


def on_command_line(names: Iterable[str], root: Path) -> list[Entry]:
    """The entries of `--import`, whose relative paths start in the current folder or else in the project's."""
    return [Entry(name, (Path.cwd(), root), '--import') for name in names]


def import_user_modules(entries: Iterable[Entry], root: Path) -> tuple[list[str], list[str]]:
    """Import each module once, however often and in whatever form it is named.

    Args:
        entries: What to import, in this order.
        root: Folder of the project.

    Returns:
        The entries in a form that is valid from any folder: relative to the project inside it, absolute elsewhere,
        dotted names as they are. And a line for the log for each module that this call imported.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: No such module, or one that cannot be imported; the message names its file, the line, and why.
        ValueError: An entry that is neither a file nor a module's name.
    """
    spelled, lines = [], []
    for entry in entries:
        found = _locate(entry)
        text = _spelled(found, root)
        if text not in spelled:
            spelled.append(text)
        lines += _import(found, entry, text)
    return spelled, lines


def import_remembered(imports: Any, file: Path) -> None:
    """Import what the `options.yml` of an experiment names; failures are warnings, since it may not be needed."""
    logger, lines = logging.getLogger('basicsr'), []
    for text in [imports] if isinstance(imports, str) else imports if isinstance(imports, list) else []:
        try:
            lines += import_user_modules([Entry(str(text), (ROOT,), f'imports of {file}')], ROOT)[1]
        except (OSError, ImportError, ValueError) as error:
            logger.warning('%s', error)
    for line in lines:
        logger.info('%s', line)


def source_files(names: Iterable[str], root: Path) -> list[Path]:
    """The files whose code an entry of `imports` runs: its own, those beside it that it imports, all of a package.

    What else Python finds, such as installed packages that these import, is left out.

    Args:
        names: Entries that can be imported.
        root: Folder of the project.
    """
    files: dict[Path, None] = {}
    for name in names:
        found = _locate(Entry(name, (root,)))
        file = found.file or Path(_file_of_dotted(found.name) or '')
        top, folder = found.name.split('.')[0], found.folder or file
        if found.folder is None:  # up to the folder in which Python searches
            folder = file.parents[found.name.count('.') + (file.name == '__init__.py')]
        if (folder / top).is_dir() and top not in _OWN:
            files.update(dict.fromkeys(sorted((folder / top).rglob('*.py'))))
        elif file.suffix == '.py':
            _add_with_siblings(file, files)
    return list(files)


def _add_with_siblings(file: Path, files: dict[Path, None]) -> None:
    if file in files:
        return
    files[file] = None
    for _, name in _imported_names(file):
        if (file.parent / f'{name}.py').is_file():
            _add_with_siblings(file.parent / f'{name}.py', files)
        elif (file.parent / name / '__init__.py').is_file() and name not in _OWN:
            files.update(dict.fromkeys(sorted((file.parent / name).rglob('*.py'))))


def _spelled(found: _Found, root: Path) -> str:
    if found.file is None:
        return found.name
    path = found.file.parent if found.file.name == '__init__.py' else found.file
    root = root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) and path != root else str(path)


def _locate(entry: Entry) -> _Found:
    text = entry.text.strip()
    if text.endswith('.py') or '/' in text or os.sep in text:
        return _of_path(_existing(entry, text), entry)
    if not all(part.isidentifier() for part in text.split('.')):
        raise ValueError(entry.fault(f'{text!r} is neither a file that ends in .py nor the dotted name of a module'))
    top, folders = text.split('.')[0], entry.folders
    if top in sys.modules or _spec(top) is not None:
        origin = Path(_origin(top))
        folder = origin.parent.parent if origin.name == '__init__.py' else origin.parent
        if str(folder) not in _added:
            return _Found(text)
        folders = (folder,)
    for folder in folders:
        path = folder.joinpath(*text.split('.'))
        for file in (path.with_name(f'{path.name}.py'), path / '__init__.py'):
            if file.is_file():
                return _of_path(file, entry)
    near = nearest_module(text, entry.folders)
    raise ModuleNotFoundError(entry.fault(f'there is no module {text}{near}'), name=text)


def _existing(entry: Entry, text: str) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # ~user, with an unknown user
        raise ValueError(entry.fault(f'{text}: {error}')) from error
    candidates = list(dict.fromkeys(folder / path for folder in entry.folders))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    beside = [file.name for candidate in candidates for file in candidate.parent.glob('*.py')]
    near = did_you_mean(path.name, beside, _NEAR).rstrip('.')
    raise FileNotFoundError(entry.fault(f'there is no file {" nor ".join(map(str, candidates))}{near}'))


def _of_path(path: Path, entry: Entry) -> _Found:
    """A file as a module of its package, or else as a module of its own."""
    path = path.resolve()
    if path.is_dir():
        if not (path / '__init__.py').is_file():
            raise ValueError(entry.fault(f'{path} is a folder without __init__.py; name its files, or a package'))
        path = path / '__init__.py'
    if path.suffix != '.py':
        raise ValueError(entry.fault(f'{path} is no Python file: its name does not end in .py'))
    parts, folder = [] if path.name == '__init__.py' else [path.stem], path.parent
    while (folder / '__init__.py').is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if parts[0] in _OWN and folder != ROOT:  # a file of another copy of the project works with this one
        if path.name == '__init__.py':
            raise ValueError(entry.fault(f'{path}: another {parts[0]} cannot be imported beside ours; name its files'))
        parts, folder = [path.stem], path.parent
    if any('.' in part for part in parts):
        raise ValueError(entry.fault(f'{path}: modules have no dots in their names; rename it'))
    return _Found('.'.join(parts), path, folder)


def _import(found: _Found, entry: Entry, text: str) -> list[str]:
    """Import the modules that are not loaded yet; return the lines for the log."""
    if found.file is None and found.name in sys.modules:
        return []
    before = set(all_registered())
    try:
        with forgotten_on_error():
            if _is_loaded(_file_of_dotted(found.name) if found.file is None else str(found.file)):
                return []
            if found.file is not None:
                _put_on_path(found)
            importlib.import_module(found.name)
    except (Exception, SystemExit) as error:
        raise ImportError(entry.fault(describe_fault(error, text, found.file, found.folder))) from error
    new = [f'{kind} {name}' for kind, name in all_registered() if (kind, name) not in before]
    return [f'{entry.option}: {text} registers ' + (', '.join(new) or 'nothing')]


def _file_of_dotted(name: str) -> str | None:
    """The file of a module that Python finds; its parent packages are imported.

    Raises:
        ModuleNotFoundError: No such module.
    """
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(name=name)
    return spec.origin


def _is_loaded(file: str | None) -> bool:
    """Whether a module from this file is loaded, under whatever name."""
    if not file or not os.path.isfile(file):
        return False
    file, name = os.path.realpath(file), os.path.basename(file)
    loaded = [getattr(module, '__file__', None) or '' for module in list(sys.modules.values())]
    return any(os.path.basename(one) == name and os.path.realpath(one) == file for one in loaded)


def _put_on_path(found: _Found) -> None:
    """Put the module's folder at the end of Python's path.

    Raises:
        ImportError: Its name, or that of a sibling that it imports, already means another module.
    """
    if str(found.folder) not in map(os.path.realpath, sys.path):
        sys.path.append(str(found.folder))
        _added.add(str(found.folder))
    importlib.invalidate_caches()
    top = found.name.split('.')[0]
    if other := _other_than(top, found.folder):
        kind = 'package' if (found.folder / top).is_dir() else 'file'
        raise ImportError(f'the name {top} is taken, by {other}; rename the {kind}')
    if found.file.parent != found.folder:
        return
    for line, name in _imported_names(found.file):
        beside = any((found.folder / place).is_file() for place in (f'{name}.py', f'{name}/__init__.py'))
        if beside and name not in (*_OWN, *sys.stdlib_module_names) and (other := _other_than(name, found.folder)):
            message = f'`import {name}` leads to {other}, not to the {name} beside this file; rename that'
            raise WrongName(message, found.file, line)


def _other_than(top: str, folder: Path) -> str | None:
    """Where `import top` leads, if not to `folder`."""
    origin = _origin(top)
    if origin in (str(folder / f'{top}.py'), str(folder / top / '__init__.py')):
        return None
    return origin or 'a module of Python itself'


def _origin(top: str) -> str:
    """The file that `import top` would load, or '' if there is none."""
    spec = getattr(sys.modules.get(top), '__spec__', None) or _spec(top)
    origin = getattr(sys.modules.get(top), '__file__', None) or (spec and spec.origin) or ''
    return os.path.realpath(origin) if os.path.isabs(origin) else ''


def _imported_names(file: Path) -> list[tuple[int, str]]:
    """(line, name) of the modules that a file imports; empty if it cannot be parsed."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.split('.')[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module.split('.')[0]))
    return found


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        return None
