"""The scan in plain torch, chunked: about 4 sqrt(length) vectorised steps instead of `length`.

The sequence is cut into K chunks of T steps. All chunks run in parallel, first from a zero state to find their final
states and then, once the K final states have been chained, again from the correct initial state. Every factor is
exp(delta A) or a product of them, never an inverse, so nothing overflows that the plain loop would not. Only the inputs
are kept for backward, which recomputes the states; rows (batch x group) are processed in blocks to bound the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 1 << 21
"""Maximum number of floats in a (T, K, rows, dim, state) tensor of a block, unless a single row has more."""


def kept_shape(delta: Tensor, state: int) -> tuple[int, ...]:
    """Nothing is kept for backward."""
    return (0,)


def forward(u, delta, A, B, C, D, bias, softplus: bool, backwards: int, keep: bool) -> tuple[Tensor, Tensor]:
    """y, (batch, groups, dim, length), and an empty tensor; shapes are those of `operator.py`."""
    y = torch.empty_like(delta)
    if delta.numel():
        inputs = _Inputs.of(u, delta, A, B, C, bias, softplus, backwards)
        for rows in inputs.blocks():
            y.flatten(0, 1)[rows] = _leave(inputs.block(rows).outputs(), y.shape[-1])
        y = _walked(y, backwards)
        if D is not None:
            y = y + D.unsqueeze(-1) * _by_group(u, delta)
    return y, delta.new_empty(0)


def backward(grad, u, delta, A, B, C, D, bias, kept, softplus: bool, backwards: int) -> tuple[Tensor, ...]:
    """Gradients with respect to u, delta, A, B, C, D and bias, in their shapes."""
    inputs = _Inputs.of(u, delta, A, B, C, bias, softplus, backwards)
    parts = [torch.empty_like(tensor) for tensor in (inputs.u, inputs.delta, inputs.A, inputs.B, inputs.C)]
    grad_rows = _walked(grad, backwards).flatten(0, 1)
    for rows in inputs.blocks():
        for whole, part in zip(parts, inputs.block(rows).gradients(grad_rows[rows]), strict=True):
            whole[rows] = part
    grad_u, grad_delta, grad_A, grad_B, grad_C = (part.unflatten(0, delta.shape[:2]) for part in parts)
    grad_u, grad_delta, grad_B, grad_C = (_walked(part, backwards) for part in (grad_u, grad_delta, grad_B, grad_C))
    if softplus:
        raw = delta if bias is None else delta + bias.unsqueeze(-1)
        grad_delta = grad_delta * torch.sigmoid(raw)
    if D is not None:
        grad_u = grad_u + D.unsqueeze(-1) * grad
    grad_D = (grad * _by_group(u, delta)).sum((0, -1))
    grad_u = grad_u.unflatten(1, (-1, u.shape[1])).sum(1)
    return grad_u, grad_delta, grad_A.sum(0), grad_B, grad_C, grad_D, grad_delta.sum((0, -1))


def _by_group(u: Tensor, delta: Tensor) -> Tensor:
    """u repeated so that every group has its own."""
    return u.repeat(1, delta.shape[1] // u.shape[1], 1, 1)


def _walked(tensor: Tensor, backwards: int) -> Tensor:
    """Reverse the last `backwards` groups of (batch, groups, …, length) in time."""
    if not backwards:
        return tensor
    ahead = tensor.shape[1] - backwards
    return torch.cat([tensor[:, :ahead], tensor[:, ahead:].flip(-1)], 1)


@dataclass
class _Inputs:
    """One row per (batch, group): u, delta (rows, dim, length), A (rows, dim, state), B, C (rows, state, length)."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor

    @classmethod
    def of(cls, u, delta, A, B, C, bias, softplus: bool, backwards: int) -> _Inputs:
        step = delta if bias is None else delta + bias.unsqueeze(-1)
        step = F.softplus(step) if softplus else step
        in_time = (_walked(tensor, backwards).flatten(0, 1) for tensor in (_by_group(u, delta), step, B, C))
        u, step, B, C = in_time
        return cls(u, step, A.expand(delta.shape[0], *A.shape).flatten(0, 1), B, C)

    def blocks(self) -> list[slice]:
        per_row = self.u.shape[1] * self.u.shape[2] * self.A.shape[2]
        size = max(1, _BLOCK // max(1, per_row))
        return [slice(start, start + size) for start in range(0, self.u.shape[0], size)]

    def block(self, rows: slice) -> _Block:
        return _Block.of(self.u[rows], self.delta[rows], self.A[rows], self.B[rows], self.C[rows])


def _enter(tensor: Tensor, steps: int) -> Tensor:
    """(rows, features, length) -> (T, K, rows, features), padded with zeros: a step of size zero changes no state."""
    tensor = F.pad(tensor, (0, -tensor.shape[-1] % steps))
    return tensor.unflatten(-1, (-1, steps)).permute(3, 2, 0, 1).contiguous()


def _leave(tensor: Tensor, length: int) -> Tensor:
    """(T, K, rows, features) -> (rows, features, length)."""
    return tensor.permute(2, 3, 1, 0).flatten(2)[..., :length]


@dataclass
class _Block:
    """Some rows, time first: u, delta (T, K, rows, dim), B, C (T, K, rows, state), decay and h (…, dim, state)."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    decay: Tensor
    length: int

    @classmethod
    def of(cls, u, delta, A, B, C) -> _Block:
        length = u.shape[-1]
        steps = math.isqrt(length - 1) + 1
        u, delta, B, C = (_enter(tensor, steps) for tensor in (u, delta, B, C))
        return cls(u, delta, A, B, C, torch.exp_(delta.unsqueeze(-1) * A), length)

    def _chunk_decay(self) -> Tensor:
        """Product of a chunk's decays, (K, rows, dim, state)."""
        return torch.exp_(self.delta.sum(0).unsqueeze(-1) * self.A)

    def states(self) -> tuple[Tensor, Tensor]:
        """h after every step, (T, K, rows, dim, state), and before the first step of each chunk, (K, …)."""
        h = (self.delta * self.u).unsqueeze(-1) * self.B.unsqueeze(-2)
        end = h[0]
        for t in range(1, len(h)):
            end = torch.addcmul(h[t], self.decay[t], end)
        start = torch.zeros_like(end)
        chunk_decay = self._chunk_decay()
        for k in range(1, len(start)):
            torch.addcmul(end[k - 1], chunk_decay[k - 1], start[k - 1], out=start[k])
        h[0].addcmul_(self.decay[0], start)
        for t in range(1, len(h)):
            h[t].addcmul_(self.decay[t], h[t - 1])
        return h, start

    def adjoint_states(self, grad: Tensor) -> Tensor:
        """g_t = C_t grad_t + decay_(t+1) g_(t+1), the gradient with respect to h_t, (T, K, rows, dim, state)."""
        g = grad.unsqueeze(-1) * self.C.unsqueeze(-2)
        first = g[-1]
        for t in range(len(g) - 2, -1, -1):
            first = torch.addcmul(g[t], self.decay[t + 1], first)
        handed = self.decay[0] * first
        after = torch.zeros_like(handed)
        chunk_decay = self._chunk_decay()
        for k in range(len(after) - 2, -1, -1):
            torch.addcmul(handed[k + 1], chunk_decay[k + 1], after[k + 1], out=after[k])
        g[-1].add_(after)
        for t in range(len(g) - 2, -1, -1):
            g[t].addcmul_(self.decay[t + 1], g[t + 1])
        return g

    def outputs(self) -> Tensor:
        """y, (T, K, rows, dim)."""
        return (self.states()[0] @ self.C.unsqueeze(-1)).squeeze(-1)

    def gradients(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of u, delta, A, B, C for this block's rows, given that of y, `grad` (rows, dim, length)."""
        grad = _enter(grad, len(self.u))
        h, start = self.states()
        g = self.adjoint_states(grad)
        grad_C = (grad.unsqueeze(-2) @ h).squeeze(-2)
        grad_B = ((self.delta * self.u).unsqueeze(-2) @ g).squeeze(-2)
        grad_input = (g @ self.B.unsqueeze(-1)).squeeze(-1)
        # Gradient of the exponent delta_t A: g_t decay_t h_(t-1), computed in place in g.
        exponent = g.mul_(self.decay)
        exponent[0].mul_(start)
        exponent[1:].mul_(h[:-1])
        grad_delta = torch.mul(exponent, self.A, out=h).sum(-1) + grad_input * self.u
        grad_A = exponent.mul_(self.delta.unsqueeze(-1)).sum((0, 1))
        by_time = (_leave(part, self.length) for part in (grad_input * self.delta, grad_delta, grad_B, grad_C))
        grad_u, grad_delta, grad_B, grad_C = by_time
        return grad_u, grad_delta, grad_A, grad_B, grad_C
