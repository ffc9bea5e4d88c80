"""Shared by networks of other packages: importing the package on use, and reading its formats of weights."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from basicsr.runs.checkpoint import load_checkpoint

__all__ = ['import_package', 'read_weights_file', 'their_warnings_ignored']


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


def read_weights_file(path: str | os.PathLike) -> Any:
    """Read a checkpoint, or a safetensors file, without running code.

    Raises:
        FileNotFoundError, ValueError: As `load_checkpoint`; also a damaged safetensors file.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != '.safetensors' or not path.is_file():
        return load_checkpoint(path)
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f'reading {path} needs safetensors: pip install safetensors') from error
    try:
        return load_file(path)
    except Exception as error:  # it raises its own error class and the system's
        raise ValueError(f'{path} is no readable safetensors file: {error}') from error
