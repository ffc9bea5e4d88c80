"""The scan by its definition, one step after another: the reference that the other backends are tested against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def reference_scan(u, delta, A, B, C, D, delta_bias, delta_softplus: bool) -> Tensor:
    """`selective_scan` in the type of its inputs; memory and autograd graph grow with length times state."""
    batch, channels, _ = u.shape
    groups, state = B.shape[1], A.shape[1]
    shape = (batch, groups, channels // groups)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = softplus(delta)
    A = A.view(1, groups, -1, state)
    h = u.new_zeros(*shape, state)
    outputs = []
    steps = zip((delta * u).unbind(-1), delta.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True)
    for input_t, delta_t, B_t, C_t in steps:
        decay = torch.exp(delta_t.view(*shape, 1) * A)
        h = decay * h + input_t.view(*shape, 1) * B_t[:, :, None]
        outputs.append((h * C_t[:, :, None]).sum(-1).view(batch, channels))
    y = torch.stack(outputs, -1) if outputs else torch.zeros_like(u)
    return y if D is None else y + D[:, None] * u
