"""Why a user's module cannot be imported: the file, the line, and the reason in a few words."""

from __future__ import annotations

import os
import pkgutil
import sys
import traceback
from pathlib import Path

from basicsr.utils.registry import AlreadyRegistered, did_you_mean

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = tuple(str(ROOT / name) + os.sep for name in ('basicsr', 'ldt'))
_NEAR = 0.7


class WrongName(ImportError):
    """A line of a user's file imports a different module than the one next to it."""

    def __init__(self, message: str, file: Path, line: int) -> None:
        super().__init__(message)
        self.file, self.line = str(file), line


def describe_fault(error: BaseException, named: str, file: Path | None, folder: Path | None) -> str:
    """One line about an import that failed.

    Args:
        error: The exception.
        named: The module as the user wrote it.
        file: Its file, if it was named by a path.
        folder: The folder of its modules.

    Returns:
        `users/net_arch.py, line 3: NameError: name 'nn' is not defined`. If the error is in a module that
            the named one imports, both are mentioned.
    """
    where, line = _where(error, str(folder) + os.sep if folder else None)
    if where is None:
        return f'{named}: {_reason(error)}'
    relative = os.path.relpath(where)
    shown = where if relative.startswith('..') else relative
    shown = shown if file and os.path.realpath(where) == str(file) else f'{named}: {shown}'
    return f'{shown}, line {line}: {_reason(error)}' if line else f'{shown}: {_reason(error)}'


def _where(error: BaseException, folder: str | None) -> tuple[str | None, int | None]:
    """The place in the user's own code nearest to where the error was raised."""
    if isinstance(error, WrongName):
        return error.file, error.line
    if isinstance(error, SyntaxError) and error.filename and os.path.isfile(error.filename):
        return error.filename, error.lineno
    frames = [(os.path.realpath(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    frames = [(name, line) for name, line in frames if os.path.isfile(name) and not _is_machinery(name)]
    own = [frame for frame in frames if folder and frame[0].startswith(folder) and not _is_installed(frame[0])]
    return next(reversed(own or frames), (None, None))


def _is_machinery(file: str) -> bool:
    return file.startswith(_PACKAGES[0] + 'runs') or os.path.basename(os.path.dirname(file)) == 'importlib'


def _is_installed(file: str) -> bool:
    return file.startswith(_PACKAGES) or f'{os.sep}site-packages{os.sep}' in file


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "ends Python when it is imported (sys.exit); keep that below `if __name__ == '__main__':`"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f'there is no module {error.name}{nearest_module(error.name)}'
    if isinstance(error, ImportError) and 'relative import' in str(error):
        return f'{error}: its folder is not a package; write `import sibling`, or give it an __init__.py'
    if isinstance(error, SyntaxError):
        return f'{type(error).__name__}: {error.msg}'
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    first = text.splitlines()[0] if text else ''
    if isinstance(error, AlreadyRegistered | WrongName) or type(error) is ImportError:
        return first
    return f'{type(error).__name__}: {first}' if first else type(error).__name__


def nearest_module(name: str, folders: tuple[Path, ...] = ()) -> str:
    """'; did you mean …?' for the name of a module that does not exist, or ''.

    Args:
        name: The dotted name.
        folders: Where to look in addition to Python's path.
    """
    top = name.partition('.')[0]
    parent, _, last = name.rpartition('.')
    if not parent or top not in sys.modules:
        last = top
        known = [*pkgutil.iter_modules(), *pkgutil.iter_modules([str(folder) for folder in folders])]
    else:
        known = pkgutil.iter_modules(getattr(sys.modules.get(parent), '__path__', []))
    return did_you_mean(last, sorted({module.name for module in known}), _NEAR).rstrip('.')
