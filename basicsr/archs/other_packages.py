"""Shared by networks of other packages."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ['import_package', 'their_warnings_ignored']


def import_package(name: str, user: str) -> ModuleType:
    """Import an optional package, named like the extra that installs it.

    Args:
        name: The package, or a module of it.
        user: What needs it, for the message.

    Raises:
        ImportError: It is not installed or fails to import; the message says how to install it.
    """
    package = name.partition('.')[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        lacking = (error.name or package).partition('.')[0]
        needed = package if lacking == package else f'{package}, which needs {lacking}'
        raise ImportError(f"{user} needs {needed}: pip install -e '.[{package}]'") from error
    except Exception as error:  # the code that an import runs can fail in any way
        raise ImportError(f'{user} needs {package}, whose import fails: {type(error).__name__}: {error}') from error


@contextmanager
def their_warnings_ignored() -> Iterator[None]:
    """Silence torch's warning about `torch.meshgrid` in window-based networks; users can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', r'torch\.meshgrid', UserWarning)
        yield
