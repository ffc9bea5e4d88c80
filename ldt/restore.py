"""Putting a network back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def preserve_modes_and_buffers(model: nn.Module) -> Iterator[None]:
    """On leaving, every module has the mode and the buffers, and every buffer the value, that it had on entering."""
    modules = [(module, module.training, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for module, training, buffers in modules:
            module.training = training
            module._buffers.clear()
            module._buffers.update(buffers)


@contextmanager
def preserve_gradients(model: nn.Module) -> Iterator[None]:
    """Inside, every `.grad` is None; on leaving, `.grad` and `requires_grad` are what they were on entering."""
    parameters = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in parameters:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient, requires_grad in parameters:
            parameter.grad = gradient
            parameter.requires_grad_(requires_grad)


# The names they had before.
modes_and_buffers_restored = preserve_modes_and_buffers
gradients_restored = preserve_gradients
