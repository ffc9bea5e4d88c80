"""The scan in plain torch, chunked: about 4 sqrt(length) vectorised steps instead of `length`.

The sequence is cut into K chunks of T steps. All chunks run side by side, first from a zero state to learn where each
one ends, then, after the K ends were chained, once more from the right state. Every factor is exp(delta A) or a product
of them, never its inverse, so nothing overflows that the plain loop would not. Backward keeps the inputs alone and
recomputes the states; rows (batch x group) are worked off in blocks, which bounds the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

_BLOCK = 1 << 21
"""Most floats in one of the (T, K, rows, dim, state) tensors of a block, unless a single row has more."""


def chunked_scan(u, delta, A, B, C, D, delta_bias, delta_softplus: bool) -> Tensor:
    """`selective_scan`, forward and backward, on any device; all inputs of one floating type."""
    batch, channels, length = u.shape
    if length == 0:
        return torch.zeros_like(u)
    groups = B.shape[1]
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = softplus(delta)
    rows = (batch * groups, channels // groups, length)
    A_rows = A.view(1, groups, -1, A.shape[1]).expand(batch, -1, -1, -1).flatten(0, 1)
    y = _Scan.apply(u.reshape(rows), delta.reshape(rows), A_rows, B.flatten(0, 1), C.flatten(0, 1)).view_as(u)
    return y if D is None else y + D[:, None] * u


class _Scan(torch.autograd.Function):
    """y for u, delta (rows, dim, length), A (rows, dim, state), B, C (rows, state, length)."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C):
        ctx.save_for_backward(u, delta, A, B, C)
        y = torch.empty_like(u)
        for rows in _blocks(u, A):
            block = _Block.of(u[rows], delta[rows], A[rows], B[rows], C[rows])
            y[rows] = _leave(block.outputs(), u.shape[-1])
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        inputs = ctx.saved_tensors
        gradients = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in inputs]
        for rows in _blocks(inputs[0], inputs[2]):
            parts = _Block.of(*(tensor[rows] for tensor in inputs)).gradients(grad[rows])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient[rows] = part
        return tuple(gradients)


def _blocks(u: Tensor, A: Tensor) -> list[slice]:
    per_row = u.shape[1] * u.shape[2] * A.shape[2]
    size = max(1, _BLOCK // max(1, per_row))
    return [slice(start, start + size) for start in range(0, u.shape[0], size)]


def _enter(tensor: Tensor, steps: int) -> Tensor:
    """(rows, features, length) -> (T, K, rows, features), padded with zeros: a step of size zero changes no state."""
    tensor = pad(tensor, (0, -tensor.shape[-1] % steps))
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
        """g_t = C_t grad_t + decay_(t+1) g_(t+1), the gradient by h_t, (T, K, rows, dim, state)."""
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
        """Gradients by u, delta, A, B, C of this block's rows, for `grad` by y, (rows, dim, length)."""
        grad = _enter(grad, len(self.u))
        h, start = self.states()
        g = self.adjoint_states(grad)
        grad_C = (grad.unsqueeze(-2) @ h).squeeze(-2)
        grad_B = ((self.delta * self.u).unsqueeze(-2) @ g).squeeze(-2)
        grad_input = (g @ self.B.unsqueeze(-1)).squeeze(-1)
        # By the exponent delta_t A: g_t decay_t h_(t-1), made in the memory of g.
        exponent = g.mul_(self.decay)
        exponent[0].mul_(start)
        exponent[1:].mul_(h[:-1])
        grad_delta = torch.mul(exponent, self.A, out=h).sum(-1) + grad_input * self.u
        grad_A = exponent.mul_(self.delta.unsqueeze(-1)).sum((0, 1))
        by_time = (_leave(part, self.length) for part in (grad_input * self.delta, grad_delta, grad_B, grad_C))
        grad_u, grad_delta, grad_B, grad_C = by_time
        return grad_u, grad_delta, grad_A, grad_B, grad_C
