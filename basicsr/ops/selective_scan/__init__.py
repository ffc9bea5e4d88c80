"""The selective scan of Mamba (S6): one operator, several backends.

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t        y_t = C_t . h_t + D u_t

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3 and algorithm 2.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from . import cpu_scan
from .operator import backend_module, scan
from .reference import reference_scan

__all__ = ['BACKENDS', 'available_backends', 'chosen_backend', 'selective_scan']

BACKENDS = ('mamba_ssm', 'triton', 'cpu', 'torch', 'reference')
"""All backends, in order of preference."""

ENVIRONMENT = 'LDT_SELECTIVE_SCAN'
"""Environment variable that chooses the backend."""


def _log() -> logging.Logger:
    return logging.getLogger('basicsr')


@cache
def _mamba_ssm() -> Callable | None:
    """mamba-ssm's CUDA operator, or None where it is not installed or does not import."""
    if importlib.util.find_spec('mamba_ssm') is None:
        return None
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception as error:  # its own extension, or one of its many dependencies
        _log().warning(
            'mamba-ssm is installed but does not import (%s); it is left aside. To use it, build its extension: '
            'MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --force-reinstall --no-deps mamba-ssm; to '
            'silence this: pip uninstall mamba-ssm',
            error,
        )
        return None
    return selective_scan_fn


@cache
def _cpu_works() -> bool:
    try:
        cpu_scan.load()
    except Exception as error:  # compilers, linkers and loaders fail in many ways
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        _log().warning('The selective scan could not be compiled (%s); using the slower backend "torch"', cause)
        return False
    return True


@cache
def _triton_works() -> bool:
    """Whether Triton's kernels compile for this GPU and agree with plain torch in a small case."""
    if importlib.util.find_spec('triton') is None:
        _log().warning('Triton is not installed; using the slower selective scan "torch": pip install triton')
        return False
    try:
        results = []
        for backend in ('triton', 'torch'):
            generator = torch.Generator().manual_seed(0)
            shapes = [(1, 2, 5, 70), (1, 2, 5, 70), (2, 5, 4), (1, 2, 4, 70), (1, 2, 4, 70), (2, 5), (2, 5)]
            tensors = [torch.randn(shape, generator=generator).cuda() for shape in shapes]
            tensors[2] = -tensors[2].abs()
            module = backend_module(backend)
            y, kept = module.forward(*tensors, True, 1, True)
            results.append([y, *module.backward(y, *tensors, kept, True, 1)])
        for own, expected in zip(*results, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-3)
    except Exception as error:  # compilers and drivers fail in many ways
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        _log().warning('Triton\'s selective scan does not work on this GPU (%s); using the slower "torch"', cause)
        return False
    return True


@cache
def available_backends(device_type: str) -> tuple[str, ...]:
    """Names of the backends that work for tensors on a device of this type, best first."""
    works = {
        'mamba_ssm': lambda: device_type == 'cuda' and _mamba_ssm() is not None,
        'triton': lambda: device_type == 'cuda' and _triton_works(),
        'cpu': lambda: device_type == 'cpu' and _cpu_works(),
    }
    return tuple(name for name in BACKENDS if name not in works or works[name]())


@torch.compiler.assume_constant_result
def _choose(device_type: str, double: bool, asked: str | None) -> str:
    return _cached_choice(device_type, double, asked or os.environ.get(ENVIRONMENT) or None)


@cache
def _cached_choice(device_type: str, double: bool, asked: str | None) -> str:
    """The backend to use, logged once.

    Raises:
        ValueError: `asked` is unknown, or does not work here.
    """
    if asked is not None and asked not in BACKENDS:
        raise ValueError(f'no selective scan backend is called {asked!r}; choose from {", ".join(BACKENDS)}')
    # Only these two compute in float64; no compiler needs to be tried.
    usable = ('torch', 'reference') if double or asked in ('torch', 'reference') else available_backends(device_type)
    if asked is not None and asked not in usable:
        kind = f'float64 on {device_type}' if double else device_type
        raise ValueError(
            f'the selective scan backend {asked!r} does not work for {kind}; here work: {", ".join(usable)}'
        )
    backend = asked or usable[0]
    _log().info('Selective scan on %s: backend %s', device_type, backend)
    return backend


def chosen_backend(device_type: str, backend: str | None = None) -> str:
    """Name of the backend that `selective_scan(…, backend=backend)` uses for float32 on a device of this type.

    Raises:
        ValueError: `backend` is unknown, or does not work there.
    """
    return _choose(device_type, False, backend)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str | None = None,
    *,
    reverse_groups: int = 0,
) -> Tensor:
    """Scan each channel with input-dependent step sizes, input and output matrices.

    Args:
        u: Input, (batch, groups * dim, length); or (batch, u_groups * dim, length) with u_groups a divisor of groups,
            where group g reads the input of group g % u_groups.
        delta: Step, (batch, groups * dim, length), before bias and softplus.
        A: State matrix (diagonal), (groups * dim, state); negative entries make the state decay.
        B: Input matrix, (batch, groups, state, length), shared by the `dim` channels of a group.
        C: Output matrix, (batch, groups, state, length).
        D: Skip weight, (groups * dim).
        delta_bias: Added to `delta`, (groups * dim).
        delta_softplus: Whether delta, after the bias, goes through softplus.
        backend: One of `BACKENDS`; None takes that of the environment variable LDT_SELECTIVE_SCAN, or else the best.
        reverse_groups: Number of groups, the last ones, that are scanned from the end of the sequence to its start.

    Returns:
        y, (batch, groups * dim, length), of the type of `u`; computed in float32, or in float64 if `u` is.

    Raises:
        ValueError: Shapes that do not fit, or a backend that is unknown or does not work on this device.
    """
    groups = _check(u, delta, A, B, C, D, delta_bias, reverse_groups)
    double = u.dtype == torch.float64
    backend = _choose(u.device.type, double, backend)
    dtype = torch.float64 if double else torch.float32
    tensors = [None if tensor is None else tensor.to(dtype) for tensor in (u, delta, A, B, C, D, delta_bias)]
    with torch.autocast(u.device.type, enabled=False):
        if backend in ('reference', 'mamba_ssm'):
            y = _without_groups(backend, tensors, delta_softplus, reverse_groups)
        else:
            y = _with_groups(backend, tensors, delta_softplus, groups, reverse_groups)
        return y.to(u.dtype)


def _with_groups(backend: str, tensors: list, softplus: bool, groups: int, reverse_groups: int) -> Tensor:
    u, delta, A, B, C, D, bias = (None if tensor is None else tensor.contiguous() for tensor in tensors)
    dim = A.shape[0] // groups
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    y, _ = scan(
        u.unflatten(1, (-1, dim)),
        delta.unflatten(1, (groups, dim)),
        A.unflatten(0, (groups, dim)),
        B,
        C,
        None if D is None else D.view(groups, dim),
        None if bias is None else bias.view(groups, dim),
        softplus,
        reverse_groups,
        keep,
        backend,
    )
    return y.flatten(1, 2)


def _without_groups(backend: str, tensors: list, softplus: bool, reverse_groups: int) -> Tensor:
    """For operators without shared inputs or directions: inputs are repeated, and reversed groups flipped."""
    u, delta, A, B, C, D, bias = tensors
    groups = B.shape[1]

    def walked(tensor: Tensor) -> Tensor:
        if not reverse_groups:
            return tensor
        by_group = tensor.unflatten(1, (groups, -1))
        ahead = groups - reverse_groups
        return torch.cat([by_group[:, :ahead], by_group[:, ahead:].flip(-1)], 1).flatten(1, 2)

    u = walked(u.repeat(1, delta.shape[1] // u.shape[1], 1))
    B, C = (walked(tensor.flatten(1, 2)).unflatten(1, (groups, -1)) for tensor in (B, C))
    if backend == 'mamba_ssm':
        return walked(_mamba_ssm()(u, walked(delta), A, B, C, D, None, bias, softplus))
    return walked(reference_scan(u, walked(delta), A, B, C, D, bias, softplus))


def _check(u, delta, A, B, C, D, delta_bias, reverse_groups: int) -> int:
    """Check the shapes; return the number of groups."""
    if u.dim() != 3 or delta.dim() != 3 or A.dim() != 2 or B.dim() != 4:
        raise ValueError(
            'selective_scan needs u and delta (batch, channels, length), A (channels, state), B (batch, groups, state, '
            f'length); found {tuple(u.shape)}, {tuple(delta.shape)}, {tuple(A.shape)}, {tuple(B.shape)}'
        )
    batch, _, length = u.shape
    groups, (channels, state) = B.shape[1], A.shape
    if channels % groups:
        raise ValueError(f'{channels} channels cannot be shared out among the {groups} groups of B')
    if not u.shape[1] or channels % u.shape[1] or u.shape[1] % (channels // groups):
        raise ValueError(f'u has {u.shape[1]} channels beside the {channels} of A in {groups} groups')
    if not 0 <= reverse_groups <= groups:
        raise ValueError(f'reverse_groups must lie between 0 and the {groups} groups, not be {reverse_groups}')
    matrix = (batch, groups, state, length)
    for name, tensor, shape in (
        ('delta', delta, (batch, channels, length)),
        ('B', B, matrix),
        ('C', C, matrix),
        ('D', D, (channels,)),
        ('delta_bias', delta_bias, (channels,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f'{name} must have the shape {shape} beside u {tuple(u.shape)}, not {tuple(tensor.shape)}')
    return groups
