"""The scan in C++, built on first use for the machine's instruction set and cached with torch's extensions."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows: torch's own lock has to suffice
    fcntl = None

SOURCE = Path(__file__).with_name('csrc') / 'scan.cpp'
TILE = 32  # T of the source

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


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the system releases it when the process ends, however that happens."""
    with open(path, 'w') as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(library: Path) -> None:
    """Compile into a temporary folder beside `library`, and rename."""
    from torch.utils import cpp_extension

    logging.getLogger('basicsr').info('Compiling the selective scan for this machine, once (about 15 s)')
    try:
        import ninja

        os.environ['PATH'] = os.pathsep.join([ninja.BIN_DIR, os.environ.get('PATH', '')])
    except ImportError:
        pass  # the system may provide one
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
        os.replace(next(Path(folder).glob('*.so')), library)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def load() -> None:
    """Load the operators, building them first if this source, torch and instruction set have no build yet.

    Raises:
        Exception: There is no compiler, or the build fails.
    """
    key = hashlib.sha256('\n'.join([SOURCE.read_text(), torch.__version__, *_flags()]).encode()).hexdigest()[:16]
    # Torch's own folder for extensions, without the import of its builder, which takes a second.
    caches = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
    folder = Path(os.environ.get('TORCH_EXTENSIONS_DIR') or caches / 'torch_extensions') / 'basicsr_scan'
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f'scan-{key}.so'
    if not library.is_file():
        with _locked(folder / f'scan-{key}.lock'):
            if not library.is_file():
                _build(library)
                return  # the build loads it as well
    torch.ops.load_library(str(library))


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
