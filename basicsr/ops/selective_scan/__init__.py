"""The selective scan of Mamba (S6): one operator, several backends.

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t        y_t = C_t . h_t + D u_t

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3 and algorithm 2.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .chunked import chunked_scan
from .reference import reference_scan

__all__ = ['available_backends', 'selective_scan']


@cache
def _mamba_ssm() -> Callable | None:
    """mamba-ssm's CUDA operator, or None where it is not installed or does not import."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ModuleNotFoundError as error:
        if error.name == 'mamba_ssm':
            return None
        _log().warning('mamba-ssm is installed but does not import (%s); build it for this torch and CUDA', error)
        return None
    except ImportError as error:
        _log().warning('mamba-ssm is installed but does not import (%s); build it for this torch and CUDA', error)
        return None
    return selective_scan_fn


def _mamba_ssm_scan(u, delta, A, B, C, D, delta_bias, delta_softplus) -> Tensor:
    return _mamba_ssm()(u, delta, A, B, C, D, None, delta_bias, delta_softplus)


_BACKENDS: dict[str, Callable[..., Tensor]] = {
    'reference': reference_scan,
    'torch': chunked_scan,
    'mamba_ssm': _mamba_ssm_scan,
}


def available_backends(device: torch.device | str) -> list[str]:
    """Names of the backends that work for tensors on `device`, the best one first."""
    native = ['mamba_ssm'] if torch.device(device).type == 'cuda' and _mamba_ssm() is not None else []
    return [*native, 'torch', 'reference']


@cache
def _chosen(device_type: str) -> str:
    backend = available_backends(device_type)[0]
    _log().info('Selective scan on %s: backend %s', device_type, backend)
    return backend


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
) -> Tensor:
    """Scan each channel of `u` with input-dependent step, input and output matrices.

    Args:
        u: Input, (batch, groups * dim, length).
        delta: Step, (batch, groups * dim, length), before bias and softplus.
        A: State matrix (diagonal), (groups * dim, state), negative where the state is to decay.
        B: Input matrix, (batch, groups, state, length), shared by the `dim` channels of a group.
        C: Output matrix, (batch, groups, state, length).
        D: Skip weight, (groups * dim).
        delta_bias: Added to `delta`, (groups * dim).
        delta_softplus: Whether delta, after the bias, goes through softplus.
        backend: `reference` (plain loop), `torch` (chunked, any device), `mamba_ssm` (CUDA); None chooses the best.

    Returns:
        y, (batch, groups * dim, length), of the type of `u`; computed in float32, or float64 where `u` is.

    Raises:
        ValueError: Shapes that do not fit, or a backend that is unknown or does not work on this device.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    if backend is None:
        backend = _chosen(u.device.type)
    elif backend not in _BACKENDS:
        raise ValueError(f'no selective scan backend is called {backend!r}; choose from {", ".join(_BACKENDS)}')
    elif backend not in (usable := available_backends(u.device)):
        raise ValueError(f'the backend {backend!r} does not work on {u.device.type}; here work: {", ".join(usable)}')
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    tensors = [None if tensor is None else tensor.to(dtype) for tensor in (u, delta, A, B, C, D, delta_bias)]
    with torch.autocast(u.device.type, enabled=False):
        return _BACKENDS[backend](*tensors, delta_softplus).to(u.dtype)


def _check(u, delta, A, B, C, D, delta_bias) -> None:
    if u.dim() != 3 or A.dim() != 2 or B.dim() != 4:
        raise ValueError(
            'selective_scan needs u (batch, channels, length), A (channels, state), B (batch, groups, state, length); '
            f'found {tuple(u.shape)}, {tuple(A.shape)}, {tuple(B.shape)}'
        )
    batch, channels, length = u.shape
    groups, state = B.shape[1], A.shape[1]
    if channels % groups:
        raise ValueError(f'{channels} channels cannot be shared out among the {groups} groups of B')
    matrix = (batch, groups, state, length)
    for name, tensor, shape in (
        ('delta', delta, (batch, channels, length)),
        ('A', A, (channels, state)),
        ('B', B, matrix),
        ('C', C, matrix),
        ('D', D, (channels,)),
        ('delta_bias', delta_bias, (channels,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f'{name} must have the shape {shape} beside u {tuple(u.shape)}, not {tuple(tensor.shape)}')


def _log() -> logging.Logger:
    return logging.getLogger('basicsr')
