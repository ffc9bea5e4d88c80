"""Seeds, folders and small text helpers."""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.utils.dist_util import master_only
from basicsr.utils.logger import not_essential, tensorboard_of


def set_random_seed(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_random_state() -> dict[str, Any]:
    """The global random states, in types that `torch.load(weights_only=True)` accepts."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        'python': random.getstate(),
        'numpy': [kind, keys.tolist(), position, has_gauss, gauss],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `get_random_state` returned."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state['numpy']))
    torch.set_rng_state(state['torch'])
    if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])


def get_time_str() -> str:
    return time.strftime('%Y%m%d_%H%M%S')


def mkdir_and_rename(path: str) -> None:
    """Make the folder `path`; an existing one is kept as `path_archived_<time>`."""
    if os.path.lexists(path):  # a link that leads nowhere, too
        kept = f'{path}_archived_{get_time_str()}'
        number = 1
        while os.path.lexists(kept):
            number += 1
            kept = f'{path}_archived_{get_time_str()}_{number}'
        os.rename(path, kept)
        logging.getLogger('basicsr').info(
            'The previous %s is kept as %s', os.path.relpath(path), os.path.basename(kept)
        )
    os.makedirs(path)


@master_only
def make_exp_dirs(opt: dict) -> None:
    """Make the folders of an experiment, or of a test's results."""
    mkdir_and_rename(opt['path']['experiments_root' if opt['is_train'] else 'results_root'])
    if opt['is_train']:
        with not_essential(tensorboard_of(opt['path']['tb_logger'])):
            mkdir_and_rename(opt['path']['tb_logger'])
    make_sub_dirs(opt)


@master_only
def make_sub_dirs(opt: dict) -> None:
    """Make the missing folders of an experiment."""
    for key in ('models', 'training_states', 'log', 'visualization'):
        if key in opt['path']:
            os.makedirs(opt['path'][key], exist_ok=True)


def scandir(
    dir_path: str | Path, suffix: str | tuple[str, ...] | None = None, recursive: bool = False, full_path: bool = False
) -> Iterator[str]:
    """Yield the files of a folder in sorted order, hidden ones left out.

    Links that lead nowhere count as files, so that whoever opens them learns of it. Folders that link back to one that
    they lie in are not searched again; the log names them.

    Args:
        dir_path: The folder.
        suffix: Ending, or endings, that file names must have.
        recursive: Descend into folders that are not hidden.
        full_path: Yield paths that begin with `dir_path` instead of paths relative to it.
    """
    root = os.fspath(dir_path)
    for name in _scan(root, recursive, ()):
        if suffix is None or name.endswith(suffix):
            yield os.path.join(root, name) if full_path else name


def _scan(folder: str, recursive: bool, above: tuple[str, ...]) -> Iterator[str]:
    """The files of a folder; `above` are the real paths of those that it lies in."""
    above = (*above, os.path.realpath(folder)) if recursive else above
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith('.'):
            continue
        if not _holds(entry.is_dir):
            yield entry.name
        elif recursive and entry.is_symlink() and os.path.realpath(entry.path) in above:
            logging.getLogger('basicsr').warning('%s links to a folder that it lies in: not searched again', entry.path)
        elif recursive:
            for name in _scan(entry.path, True, above):
                yield os.path.join(entry.name, name)


def _holds(question: Callable[[], bool]) -> bool:
    """The answer of a directory's entry; False of a link to itself, for which it raises."""
    try:
        return question()
    except OSError:
        return False


def file_fault(path: str | os.PathLike) -> str:
    """Why there is no file to read at `path`, in a few words; '' where there is one."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        is_link = os.path.islink(path)
        return f'a link to {os.readlink(path)}, which is not there' if is_link else 'absent'
    except OSError as error:
        is_loop = error.errno == errno.ELOOP and os.path.islink(path)
        return (
            f'a link to {os.readlink(path)}, which leads back to itself'
            if is_loop
            else f'out of reach: {error.strerror}'
        )
    except ValueError:  # a NUL, or letters that the system's encoding does not have
        return 'absent: no file can have this name'
    if stat.S_ISREG(mode):
        return ''
    return 'a folder' if stat.S_ISDIR(mode) else 'no file, but a pipe, a socket or a device'


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a file. A pipe or a device, which might never end, is refused.

    Raises:
        FileNotFoundError: There is no file.
        OSError: It cannot be read.
    """
    if fault := file_fault(path):
        raise FileNotFoundError(f'{str(path)!r} is {fault}')
    return Path(path).read_bytes()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file via a temporary one beside it, so that it is never incomplete."""
    path = Path(path)
    temporary = path.with_name(path.name + '.tmp')
    try:
        temporary.write_text(text, encoding='utf-8', errors='backslashreplace')  # names of files need not be UTF-8
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sizeof_fmt(size: float, suffix: str = 'B') -> str:
    """A human-readable size: 1536 -> '1.5 KB'."""
    for unit in ('', 'K', 'M', 'G', 'T', 'P'):
        if abs(size) < 1024:
            return f'{size:.1f} {unit}{suffix}'
        size /= 1024
    return f'{size:.1f} E{suffix}'


def not_finite(values: Tensor | np.ndarray) -> str:
    """'3 of 1,200 values are NaN or infinite', or '' where all are finite."""
    if isinstance(values, Tensor) and values.is_floating_point() and values.element_size() == 1:
        values = values.float()  # torch asks no float8 whether it is finite
    finite = np.isfinite(values) if isinstance(values, np.ndarray) else torch.isfinite(values)
    if finite.all():
        return ''
    total = finite.size if isinstance(finite, np.ndarray) else finite.numel()
    return f'{total - int(finite.sum()):,} of {total:,} values are NaN or infinite'


_NO_MEMORY = (
    *("can't allocate memory", 'Cannot allocate memory', 'Insufficient memory', 'backend out of memory'),
    *('CUDA error: out of memory', 'CUDA driver error: out of memory'),
    *('CUBLAS_STATUS_ALLOC_FAILED', 'CUDNN_STATUS_ALLOC_FAILED'),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is about memory, of a GPU or of the machine, that has run out, here or in a loader's worker."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if not isinstance(error, RuntimeError | OSError | cv2.error):
        return False
    text = str(error)
    in_worker = re.match(r'Caught \w*MemoryError in ', text)
    said = any(part in (told_by_worker(error) or text) for part in _NO_MEMORY)
    return bool(in_worker) or said or getattr(error, 'errno', None) == errno.ENOMEM


def told_by_worker(error: BaseException) -> str:
    """What an error says that torch raises in place of one in a data loader's worker; '' for others.

    torch's message is the traceback in the worker; the error begins with the line, not indented, after the last place.
    """
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if 'Original Traceback' not in text:
        return ''
    said = text.rpartition('\n  File "')[2]
    found = re.search(r'^([\w.]+)(?:: |$)', said[said.find('\n') + 1 :], re.MULTILINE)
    return (found.string[found.end() :].strip() or found[1]) if found else ''


def check_resume(opt: dict[str, Any], resume_iter: int) -> None:
    """Point `path.pretrain_network_*` at the weights that a run saved, as BasicSR does for a resumed run.

    Each `network_*` of the options, unless `path.ignore_resume_networks` names it, gets `models/net_*_<iter>.pth`; a
    `param_key_*` of `params_ema` becomes `params`. Without `path.resume_state` nothing happens.

    Args:
        opt: The options, changed in place.
        resume_iter: Iteration of the training state.
    """
    paths = opt['path']
    if not paths.get('resume_state'):
        return
    ignored = paths.get('ignore_resume_networks') or []
    for key in [key for key in opt if key.startswith('network_')]:
        label = key.removeprefix('network_')
        if key not in ([ignored] if isinstance(ignored, str) else ignored):
            paths[f'pretrain_network_{label}'] = os.path.join(paths['models'], f'net_{label}_{resume_iter}.pth')
    for key in [key for key in paths if key.startswith('param_key_')]:
        if paths[key] == 'params_ema':
            paths[key] = 'params'
