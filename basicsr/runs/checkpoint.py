"""Checkpoint files: written atomically, read without running code."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.runs.file_kind import other_kind
from basicsr.utils.misc import not_finite, sizeof_fmt

_PREFIXES = ('module.', '_orig_mod.')


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
    """Read a checkpoint with `weights_only=True`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is truncated or damaged, not a checkpoint, or a pickle that would run code; the message
            says what it is, see `other_kind`.
    """
    if not Path(path).is_file():
        folder = ': it is a folder' if Path(path).is_dir() else ''
        raise FileNotFoundError(f'there is no checkpoint {path}{folder}')
    instead = other_kind(path)
    if instead:
        raise ValueError(f'{path} is no readable checkpoint: {instead}')
    try:
        _check_sums(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f'{path} is no checkpoint, or holds more than tensors, which is not loaded') from error
    except Exception as error:  # parsers raise anything for bytes that are not in their format
        raise ValueError(
            f'{path} is no readable checkpoint: it is truncated or damaged, or another kind of file'
        ) from error


def _check_sums(path: str | os.PathLike) -> None:
    """Verify the archive's checksums, which torch writes but does not check."""
    if zipfile.is_zipfile(path):  # otherwise torch's format before 1.6
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f'{damaged} is damaged')


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


def find_weights(checkpoint: Any, path: str | os.PathLike, param_key: str | None = 'params') -> dict[str, Tensor]:
    """The state dict in `checkpoint`: under `param_key`, else `params`, else the checkpoint itself.

    Prefixes added by wrappers (`module.`) are removed.

    Raises:
        ValueError: Nothing in it looks like a state dict.
    """
    if isinstance(checkpoint, dict):
        for key in (param_key, 'params', 'params_ema', 'state_dict'):
            if key is not None and isinstance(checkpoint.get(key), dict):
                if key != param_key:
                    logging.getLogger('basicsr').warning('%s has no %r: reading %r', path, param_key, key)
                checkpoint = checkpoint[key]
                break
    if not _is_state_dict(checkpoint):
        raise ValueError(_no_weights(checkpoint, path, param_key))
    return {_without_prefix(name): value for name, value in checkpoint.items()}


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, Tensor) for item in value.values())


def _no_weights(checkpoint: Any, path: str | os.PathLike, param_key: str | None) -> str:
    if isinstance(checkpoint, dict) and 'optimizers' in checkpoint and 'iter' in checkpoint:
        return (
            f'{path} is the training state of iteration {checkpoint["iter"]}, from which a training goes on; weights '
            f'are in the folder models beside training_states, net_g_{checkpoint["iter"]}.pth'
        )
    if not isinstance(checkpoint, dict):
        return f'{path} holds no weights, but an object of type {type(checkpoint).__name__}; a state dict is needed'
    weights = [str(key) for key, value in checkpoint.items() if _is_state_dict(value)]
    hint = f'; name one of these as the key of the weights (param_key_g): {", ".join(weights)}' if weights else ''
    return f'{path} holds no weights under {param_key!r}; it holds: {", ".join(map(str, list(checkpoint)[:10]))}{hint}'


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def differences_to(net: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """One line for each tensor that only `weights` or only `net` has, or whose shapes differ; empty if they match."""
    own = net.state_dict()
    differences = [f'only in the file: {name}' for name in weights if name not in own]
    differences += [f'only in the network: {name}' for name in own if name not in weights]
    differences += [
        f'{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the network'
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    return differences


def load_weights(net: nn.Module, weights: dict[str, Tensor], path: str | os.PathLike, strict: bool = True) -> list[str]:
    """Load `weights` into `net`; return the differences, one line each.

    Args:
        net: The network.
        weights: A state dict.
        path: Where they came from, for the message.
        strict: Refuse any difference; otherwise load what fits.

    Raises:
        ValueError: `strict`, and names or shapes differ, of which the message lists at most ten; or values are NaN or
            infinite.
    """
    differences = differences_to(net, weights)
    if strict and differences:
        more = f'\n  and {len(differences) - 10} more' if len(differences) > 10 else ''
        raise ValueError(
            f'{path} does not fit the network {type(net).__name__}:\n  ' + '\n  '.join(differences[:10]) + more
        )
    own = net.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    _refuse_not_finite(fitting, own, path)
    net.load_state_dict(fitting, strict=strict)
    return differences


def _refuse_not_finite(weights: dict[str, Tensor], own: dict[str, Tensor], path: str | os.PathLike) -> None:
    """A ValueError for tensors with values that are NaN or infinite; masks are so as built."""
    broken = [f'{name}: {words}' for name, value in weights.items()
              if (words := not_finite(value)) and not not_finite(own[name])]  # fmt: skip
    if broken:
        more = f'\n  and {len(broken) - 10} more' if len(broken) > 10 else ''
        raise ValueError(
            f'{path} holds weights that are not finite, take others:\n  ' + '\n  '.join(broken[:10]) + more
        )
