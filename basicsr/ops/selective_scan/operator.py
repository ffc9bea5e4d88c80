"""The scan as one operator of `torch.library`, so that torch.compile does not look inside.

Shapes: u (batch, u_groups, dim, length), delta (batch, groups, dim, length), A (groups, dim, state), B, C (batch,
groups, state, length), D, bias (groups, dim). Group g reads u of group g % u_groups; the last `backwards` groups are
scanned from the end of the sequence to its start. A backend is a module with `forward`, `backward` and `kept_shape`.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from . import chunked, cpu_scan


def backend_module(backend: str) -> ModuleType:
    if backend == 'triton':
        from . import triton_scan

        return triton_scan
    return {'torch': chunked, 'cpu': cpu_scan}[backend]


@torch.library.custom_op('basicsr::selective_scan', mutates_args=())
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    backwards: int,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """y, (batch, groups, dim, length), and what the backend keeps for backward where `keep` asks for it."""
    return backend_module(backend).forward(u, delta, A, B, C, D, bias, softplus, backwards, keep)


@scan.register_fake
def _(u, delta, A, B, C, D, bias, softplus, backwards, keep, backend):
    kept = backend_module(backend).kept_shape(delta, A.shape[-1]) if keep else (0,)
    return torch.empty_like(delta), delta.new_empty(kept)


@torch.library.custom_op('basicsr::selective_scan_backward', mutates_args=())
def scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    kept: Tensor,
    softplus: bool,
    backwards: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to u, delta, A, B, C, D and bias; tensors for the last two even if they are absent."""
    grad = grad.contiguous()
    return tuple(backend_module(backend).backward(grad, u, delta, A, B, C, D, bias, kept, softplus, backwards))


@scan_backward.register_fake
def _(grad, u, delta, A, B, C, D, bias, kept, softplus, backwards, backend):
    like = [torch.empty_like(tensor) for tensor in (u, delta, A, B, C)]
    return *like, A.new_empty(A.shape[:2]), A.new_empty(A.shape[:2])


def _setup_context(ctx, inputs, output):
    *tensors, softplus, backwards, _, backend = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.settings = (softplus, backwards, backend)
    ctx.set_materialize_grads(False)


def _autograd(ctx, grad, _):
    *tensors, kept = ctx.saved_tensors
    if grad is None:
        return (None,) * 11
    grads = scan_backward(grad, *tensors, kept, *ctx.settings)
    return *(None if tensor is None else part for tensor, part in zip(tensors, grads, strict=True)), *((None,) * 4)


scan.register_autograd(_autograd, setup_context=_setup_context)
