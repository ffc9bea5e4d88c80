"""The scan in C++, built on first use for the machine's instruction set and cached with torch's extensions."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.ops.selective_scan.library_cache import is_intact, keep, private_folder
from basicsr.runs.lock import locked

SOURCE = Path(__file__).with_name('csrc') / 'scan.cpp'
TILE = 32  # T of the source
_WAIT_SECONDS = 300
"""For another process that compiles; a build takes about 15 s, and longer on a busy machine."""

_INSTRUCTIONS = {
    'AVX512': ['-mavx512f', '-mavx512dq', '-mavx512vl', '-mavx512bw', '-mavx2', '-mfma', '-mf16c'],
    'AVX2': ['-mavx2', '-mfma', '-mf16c'],
}


def _flags() -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in _INSTRUCTIONS:
        return ['-O3', '-fopenmp', '-DCPU_CAPABILITY=DEFAULT']
    names = [f'-DCPU_CAPABILITY={capability}', f'-DCPU_CAPABILITY_{capability}']
    return ['-O3', '-fopenmp', *names, *_INSTRUCTIONS[capability]]


def _build(library: Path, about: dict[str, Any]) -> None:
    """Compile into a temporary folder beside `library`, and rename."""
    from torch.utils import cpp_extension

    logging.getLogger('basicsr').info('Compiling the selective scan for this machine, once (about 15 s)')
    try:
        import ninja

        os.environ['PATH'] = os.pathsep.join([ninja.BIN_DIR, os.environ.get('PATH', '')])
    except ImportError:
        pass  # the system may provide one
    for left in library.parent.glob('build-*'):  # by a process that was killed: whoever builds has the lock
        shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(dir=library.parent, prefix='build-')
    try:
        # Not linked to an OpenMP library: torch has loaded one already, and two in a process would conflict.
        cpp_extension.load(
            'basicsr_scan',
            [str(SOURCE)],
            extra_cflags=_flags(),
            build_directory=folder,
            is_python_module=False,
        )
        keep(next(Path(folder).glob('*.so')), library, {**about, 'compiler': cpp_extension.get_cxx_compiler()})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ingredients() -> dict[str, Any]:
    """What a build depends on: its name is a digest of it."""
    return {
        'source': hashlib.sha256(SOURCE.read_bytes()).hexdigest(),
        'flags': _flags(),
        'torch': [torch.__version__, torch.version.git_version, torch.compiled_with_cxx11_abi()],
        'machine': [platform.machine(), *platform.libc_ver()],
    }


def _library(about: dict[str, Any]) -> Path:
    """The place of the build, in torch's own folder for extensions."""
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    # Without the import of torch's builder, which takes a second.
    caches = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
    folder = Path(os.environ.get('TORCH_EXTENSIONS_DIR') or caches / 'torch_extensions')
    return private_folder(folder / 'basicsr_scan') / f'scan-{key}.so'


@cache
def load() -> None:
    """Load the operators, building them first if there is no intact build for this source, torch and machine yet.

    Raises:
        Exception: There is no compiler, or the build fails; or another process has not ended one for minutes.
    """
    about = _ingredients()
    library = _library(about)
    if not is_intact(library):
        lock = library.with_suffix('.lock')
        if lock.is_symlink():  # the folder was open to others once
            lock.unlink()
        with locked(lock, 'the compiler of the selective scan', _WAIT_SECONDS, _say_waiting):
            if not is_intact(library):
                if os.path.lexists(library):
                    logging.getLogger('basicsr').warning('%s is not what was built: building it again', library)
                _build(library, about)
                return  # the build loads it as well
    torch.ops.load_library(str(library))


def _say_waiting(text: str) -> None:
    logging.getLogger('basicsr').warning('Waiting up to %d s: %s', _WAIT_SECONDS, text)


def kept_shape(delta: Tensor, state: int) -> tuple[int, ...]:
    """Shape of what `forward` keeps for `backward`: the states at the start of every tile."""
    batch, groups, dim, length = delta.shape
    lanes = 16 if torch.backends.cpu.get_cpu_capability() == 'AVX512' else 8
    return batch, groups, -(-length // TILE), -(-dim // lanes), state, lanes


def forward(u, delta, A, B, C, D, bias, softplus: bool, backwards: int, keep: bool) -> tuple[Tensor, Tensor]:
    """y, (batch, groups, dim, length), and the kept states, empty unless `keep`; shapes are in `csrc/scan.cpp`."""
    load()
    y, kept = torch.ops.basicsr_cpu.scan_forward(u, delta, A, B, C, D, bias, softplus, backwards, keep)
    return y, kept if keep else kept.new_empty(0)


def backward(grad, u, delta, A, B, C, D, bias, kept, softplus: bool, backwards: int) -> tuple[Tensor, ...]:
    """Gradients with respect to u, delta, A, B, C, D and bias, in their shapes."""
    load()
    grads = torch.ops.basicsr_cpu.scan_backward(grad, u, delta, A, B, C, D, bias, kept, softplus, backwards)
    grad_u, grad_delta, *summed = grads
    grad_u = grad_u.unflatten(1, (-1, u.shape[1])).sum(1)
    return grad_u, grad_delta, *(part.sum(0) for part in summed)
