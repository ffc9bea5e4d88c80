"""Checkpoint files: written atomically, read without running code."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.runs.archive import check_archive
from basicsr.runs.file_kind import is_safetensors, other_kind
from basicsr.runs.weights import differences_to, find_weights, load_weights
from basicsr.utils.misc import file_fault, is_out_of_memory, sizeof_fmt

__all__ = [
    'differences_to', 'find_weights', 'load_checkpoint', 'load_weights', 'prune_checkpoints', 'save_checkpoint',
    'set_aside',
]  # fmt: skip


def save_checkpoint(state: Any, path: str | os.PathLike) -> None:
    """Save `state` to `path` via a temporary file that is flushed to disk and renamed.

    Raises:
        OSError: The disk is full or fails; an existing file at `path` stays intact.
    """
    path = Path(path)
    temporary = path.with_name(path.name + '.tmp')
    needed, free = _bytes(state), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f'{path} needs {sizeof_fmt(needed)}, and {sizeof_fmt(free)} are free there: make room, or lower '
            'logger.keep_checkpoints'
        )
    try:
        with open(temporary, 'wb') as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps the system's error
        raise OSError(f'could not save {path}: {error.__cause__ or error.__context__ or error}') from error
    finally:
        temporary.unlink(missing_ok=True)


def _bytes(state: Any) -> int:
    """Size of the tensors in nested dictionaries and lists; a shared storage counts each time it occurs."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(_bytes, children))


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: str | os.PathLike, map_location: Any = 'cpu') -> Any:
    """Read a checkpoint of torch or a safetensors file; no code in it runs, and no byte is trusted.

    Returns:
        What was saved. Every tensor in it lies within its storage.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file cannot be read, is truncated or damaged, not a checkpoint, or a pickle that would run code;
            the message says what it is, see `other_kind`.
        ImportError: It is a safetensors file, and the package that reads these is not installed.
    """
    try:
        if fault := file_fault(path):
            raise FileNotFoundError(
                f'there is no checkpoint {path}' + (f': it is {fault}' if fault != 'absent' else '')
            )
        instead = other_kind(path)
        content = None if instead else _read(path, map_location)
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:  # parsers raise anything for bytes that are not in their format
        raise ValueError(f'{path} {_reason(error, path)}') from error
    if instead:
        raise ValueError(f'{path} is no readable checkpoint: {instead}')
    return content


def _read(path: str | os.PathLike, map_location: Any) -> Any:
    if is_safetensors(path):
        return _read_safetensors(Path(path))
    with open(path, 'rb') as file:
        if zipfile.is_zipfile(file):  # otherwise torch's format before 1.6, which has no checksums
            check_archive(file)
        file.seek(0)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the command line of a training, beside weights
            content = torch.load(file, map_location=map_location, weights_only=True)
    _check_tensors(content)
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise ImportError(f'{path} is a safetensors file, and reading it needs: pip install safetensors') from error
    return load(path.read_bytes())


def _check_tensors(content: Any) -> None:
    """Refuse tensors that reach beyond their storage: torch's own check can overflow."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.layout == torch.strided and not value.is_nested and value.device.type != 'meta':
                _check_strides(value)
        elif isinstance(value, dict | argparse.Namespace):
            waiting += (value if isinstance(value, dict) else vars(value)).values()
        elif isinstance(value, list | tuple | set):
            waiting += value


def _check_strides(tensor: Tensor) -> None:
    if 0 in tensor.shape:
        return
    reach = sum((side - 1) * step for side, step in zip(tensor.shape, tensor.stride(), strict=True))
    last = tensor.storage_offset() + reach + 1
    if min(*tensor.stride(), tensor.storage_offset(), 0) < 0 or (
        last * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise ValueError('a tensor reaches beyond its storage')


def _reason(error: Exception, path: str | os.PathLike) -> str:
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # for which a damaged archive's offsets are enough
        return f'cannot be read: {error.strerror or error}'
    if is_out_of_memory(error):
        size = sizeof_fmt(Path(path).stat().st_size)
        return f'is no readable checkpoint: it asks for more memory than there is, and the file has {size}'
    named = re.search(r'GLOBAL (\S+) was not an allowed global', str(error))
    if isinstance(error, pickle.UnpicklingError) and named:
        return (
            f'is no checkpoint, or holds more than tensors, which is not loaded: {named[1]}. Where you trust it, save '
            'its weights alone: torch.save(torch.load(…, weights_only=False)["…"], …)'
        )
    return 'is no readable checkpoint: it is truncated or damaged, or another kind of file'


def prune_checkpoints(folder: str | os.PathLike, written: dict[int, set[str]], keep: int) -> None:
    """Delete what a run wrote at its older iterations.

    Args:
        folder: Of the run.
        written: By iteration, the files that the run wrote, relative to `folder`. Iterations whose files are deleted
            are taken out.
        keep: Number of iterations to keep, the newest.
    """
    for iteration in sorted(written)[:-keep]:
        for name in written.pop(iteration):
            file = Path(folder, name)
            try:
                file.unlink(missing_ok=True)
            except OSError as error:  # no reason to end the run
                message = 'logger.keep_checkpoints: %s could not be deleted: %s'
                logging.getLogger('basicsr').warning(message, file, error.strerror)


def set_aside(folder: str | os.PathLike, written: dict[int, set[str]], after: int) -> None:
    """Rename what a run wrote after an iteration to `<file>.not_finite`, so that nothing takes it up again.

    Args:
        folder: Of the run.
        written: By iteration, the files that the run wrote, relative to `folder`; those renamed are taken out.
        after: The iteration.
    """
    for iteration in [one for one in written if one > after]:
        for name in written.pop(iteration):
            file = Path(folder, name)
            if file.exists():
                file.replace(file.with_name(f'{file.name}.not_finite'))
