"""The selective scan on a GPU: launches the kernels of `triton_kernels.py`.

Shapes: u (batch, u_groups, dim, length), delta (batch, groups, dim, length), A (groups, dim, state), B, C (batch,
groups, state, length), D, bias (groups, dim); all float32 and contiguous. Group g reads u of group g % u_groups. The
last `backwards` groups are walked from the end of the sequence to its start.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.nn.functional import pad

from .triton_kernels import LONG, SHORT, SPAN, STEPS, adjoint_kernel, backward_kernel, forward_kernel

# Rows per backward program. One needs 140 registers, but loads B and C, and sums their gradients, twice as often.
BACKWARD_ROWS = 2


def kept_shape(delta: Tensor, state: int) -> tuple[int, ...]:
    """Shape of what `forward` keeps for `backward`: the states before every short tile."""
    batch, groups, dim, length = delta.shape
    steps = SHORT.value * STEPS.value
    return batch, groups, (length + steps - 1) // steps, state, dim


def _padded(tensor: Tensor) -> Tensor:
    """Zeros after the end, so that rows begin where vectors of 4 may; they change neither y nor a gradient."""
    return pad(tensor, (0, -tensor.shape[-1] % 4)) if tensor.shape[-1] % 4 else tensor


def forward(
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
) -> tuple[Tensor, Tensor]:
    """Scans.

    Args:
        u: (batch, u_groups, dim, length).
        delta: (batch, groups, dim, length).
        A: (groups, dim, state).
        B: (batch, groups, state, length).
        C: (batch, groups, state, length).
        D: (groups, dim).
        bias: Added to delta, (groups, dim).
        softplus: Whether delta, after the bias, goes through softplus.
        backwards: Number of groups, the last ones, that are scanned from the end of the sequence to its start.
        keep: Whether `backward` follows.

    Returns:
        y (batch, groups, dim, length), and what `backward` needs, empty unless `keep`.
    """
    batch, groups, dim, length = delta.shape
    state = A.shape[-1]
    u, delta, B, C = (_padded(tensor) for tensor in (u, delta, B, C))
    y = torch.empty_like(delta)
    slots = triton.cdiv(length, SHORT.value * STEPS.value) if keep else 2
    states = delta.new_empty(batch, groups, slots, state, dim)
    if y.numel():
        with torch.cuda.device_of(delta):
            rows = _rows(batch * groups * dim, delta.device)
            forward_kernel[triton.cdiv(dim, SPAN.value // LONG.value * rows), batch * groups](
                u, delta, A, B, C, D, bias, y, states, delta.shape[-1] // 4, dim, state, slots, groups, u.shape[1],
                backwards, softplus, keep, rows, num_warps=1,
            )  # fmt: skip
    return y[..., :length].contiguous(), states if keep else delta.new_empty(0)


def backward(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to u, delta, A, B, C, D and bias, in their shapes, of the sum of y times `grad`.

    Args:
        grad: (batch, groups, dim, length).
        u: As given to `forward`, as are the others.
        delta: See u.
        A: See u.
        B: See u.
        C: See u.
        D: See u.
        bias: See u.
        kept: What `forward` returned in addition to y.
        softplus: See u.
        backwards: See u.
    """
    if not delta.numel():
        D, bias = (delta.new_zeros(delta.shape[1:3]) for _ in range(2))
        return tuple(torch.zeros_like(tensor) for tensor in (u, delta, A, B, C, D, bias))
    batch, groups, dim, length = delta.shape
    u_groups, state, pairs = u.shape[1], A.shape[-1], batch * groups
    grad, u, delta, B, C = (_padded(tensor) for tensor in (grad, u, delta, B, C))
    slots, quarter = kept.shape[2], delta.shape[-1] // 4
    part = _part(slots * pairs, dim, state, delta.device)
    parts = triton.cdiv(dim, part)
    by_u, by_delta = torch.empty_like(delta), torch.empty_like(delta)
    adjoints, by_A = torch.empty_like(kept), torch.empty_like(kept)
    by_B, by_C = B.new_zeros(parts, *B.shape), C.new_zeros(parts, *C.shape)
    by_D, by_bias = delta.new_empty(2, batch, groups, slots, dim)
    with torch.cuda.device_of(delta):
        rows = _rows(pairs * dim, delta.device)
        adjoint_kernel[triton.cdiv(dim, SPAN.value // LONG.value * rows), pairs](
            grad, delta, A, C, bias, adjoints, quarter, dim, state, slots, groups, backwards, softplus, rows,
            num_warps=1,
        )  # fmt: skip
        backward_kernel[slots, pairs, parts](
            grad, u, delta, A, B, C, D, bias, kept, adjoints, by_u, by_delta, by_A, by_B, by_C, by_D, by_bias,
            quarter, dim, state, slots, groups, u_groups, backwards, pairs, part, softplus, BACKWARD_ROWS, num_warps=1,
        )  # fmt: skip
    if u_groups < groups:
        by_u = by_u.view(batch, groups // u_groups, u_groups, dim, -1).sum(1)
    by_B, by_C = (x.sum(0) if parts > 1 else x[0] for x in (by_B, by_C))
    by_u, by_delta, by_B, by_C = (x[..., :length].contiguous() for x in (by_u, by_delta, by_B, by_C))
    return by_u, by_delta, by_A.sum((0, 2)).mT.contiguous(), by_B, by_C, by_D.sum((0, 2)), by_bias.sum((0, 2))


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == 'cuda' else 1


def _rows(channels: int, device: torch.device) -> int:
    """Rows per program of the kernels that are sequential in time: two if 8 warps per multiprocessor remain, else one.

    Two rows halve the traffic of B and C, which with one row loads the L1 cache as fully as the exponentials load
    the arithmetic units.
    """
    return 2 if channels >= 16 * _multiprocessors(device) else 1


def _part(programs: int, dim: int, state: int, device: torch.device) -> int:
    """Channels of a group that a backward program sums over; each part has its own gradients of B and C.

    Few enough that the 8 programs that fit on a multiprocessor are replaced four times, but not so few that these
    gradients become larger than that of delta.
    """
    parts = max(1, min(triton.cdiv(32 * _multiprocessors(device), programs), dim // (2 * state)))
    step = SPAN.value // SHORT.value * BACKWARD_ROWS
    return triton.cdiv(triton.cdiv(dim, parts), step) * step
