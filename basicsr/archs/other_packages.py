"""What networks of other packages need: the package when it is used, and weights in the formats that it has."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from basicsr.runs.checkpoint import load_checkpoint

__all__ = ['import_package', 'read_weights_file']


def import_package(name: str, user: str) -> ModuleType:
    """Import an optional package, whose extra has its name.

    Args:
        name: The package.
        user: What needs it, for the message.

    Raises:
        ImportError: It is not installed, or does not work; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] != name:
            raise ImportError(f"{user} needs {name}, which needs {error.name}: pip install -e '.[{name}]'") from error
        raise ImportError(f"{user} needs {name}: pip install -e '.[{name}]'") from error
    except Exception as error:  # what an import runs can fail in any way
        raise ImportError(f'{user} needs {name}, whose import fails: {type(error).__name__}: {error}') from error


def read_weights_file(path: str | os.PathLike) -> Any:
    """Read a checkpoint without running code, a safetensors file too.

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
    except Exception as error:  # its errors are of a class of its own, and of the system's
        raise ValueError(f'{path} is no readable safetensors file: {error}') from error
