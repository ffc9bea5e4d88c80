"""Batch statistics of averaged weights: no batch was trained with them, so they are computed over some.

`BatchNorm` and its like keep running statistics of what enters them in training, and normalize by these in evaluation.
The composite's weights are averages: what enters its normalizations is not what entered the trained network's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .networks import format_names

_ADVICE = (
    'compute them anew, with the batches and the loss of the training: `with net.composite(batches, loss_fn) as model` '
    '(or, for BatchNorm alone, torch.optim.swa_utils.update_bn(loader, model) within the block), and evaluate and save '
    'within the block'
)


def normalizations(net: nn.Module) -> list[_NormBase]:
    """The modules that normalize by running statistics in evaluation mode.

    These are torch's `BatchNorm1d` to `3d`, `SyncBatchNorm`, `InstanceNorm1d` to `3d` with `track_running_stats`, and
    their subclasses.
    """
    return [module for module in net.modules() if isinstance(module, _NormBase) and module.running_mean is not None]


@contextmanager
def cumulative_means(modules: Iterable[_NormBase]) -> Iterator[None]:
    """Let running statistics be the means over the calls in training mode.

    `torch.optim.swa_utils.update_bn` leaves out `InstanceNorm`, for which `momentum = None` is no mean, and forgets the
    statistics of modules that stay in evaluation mode.
    """
    momenta = [(module, module.momentum) for module in modules]
    calls = {module: 0 for module, _ in momenta}

    def before_call(module: _NormBase, inputs: Any) -> None:
        if module.training:
            if not calls[module]:
                module.reset_running_stats()
            calls[module] += 1
            module.momentum = 1 / calls[module]

    hooks = [module.register_forward_pre_hook(before_call) for module in calls]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, momentum in momenta:
            module.momentum = momentum


class RunningStatistics:
    """The buffers `running_*` and `moving_*` of a network, as of when it still had the statistics of its own weights.

    Those that training has changed since are stale in a network of averages; those that it did not, such as of frozen
    normalizations, are right in both.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
        self.start = {name: buffer.detach().clone() for name, buffer in _running(net).items()}

    def stale(self, net: nn.Module) -> dict[str, Tensor]:
        """Those of `net` that have changed since, by name."""
        return {name: buffer for name, buffer in _running(net).items() if not _same(buffer, self.start.get(name))}

    def load(self, net: nn.Module, start: dict[str, Tensor] | None) -> None:
        """Put back `start`; None, of a state of an earlier version: any that changes in training is stale."""
        if start is None:
            modes = dict(net.named_modules())
            start = {
                name: buffer.detach().clone()
                for name, buffer in _running(net).items()
                if not modes[name.rpartition('.')[0]].training
            }
        self.start = dict(start)


class StaleStatistics:
    """Keeps a lent network from being used with statistics of other weights.

    As long as a module of `net` has the stale statistics, calling it in evaluation mode and taking its state dict are
    errors that say what to do.
    """

    def __init__(self, net: nn.Module, stale: dict[str, Tensor]) -> None:
        self._guards = [
            _Guard(
                net.get_submodule(owner), owner, [name.rpartition('.')[2] for name in stale if _owner(name) == owner]
            )
            for owner in dict.fromkeys(map(_owner, stale))
        ]

    def check(self) -> None:
        """Raise a ValueError if there are stale statistics still."""
        stale = [guard.owner for guard in self._guards if guard.is_stale()]
        if stale:
            raise _error(stale)

    def remove(self) -> None:
        for guard in self._guards:
            guard.remove()

    @torch.no_grad()
    def recompute(self, net: nn.Module, batches: Iterable[Any], loss_fn: Callable[[nn.Module, Any], Any]) -> None:
        """Let the stale ones be the means over these batches, in training mode; modes and other buffers stay.

        Raises:
            ValueError: There is no batch.
        """
        if not self._guards:
            return
        stale = {id(guard.module) for guard in self._guards}
        others = [module for module in net.modules() if id(module) not in stale]
        frozen = [net.get_submodule(owner) for owner in map(_owner, _running(net))]
        buffers = [(buffer, buffer.clone()) for module in others for buffer in module.buffers(recurse=False)]
        modes = [(module, module.training) for module in net.modules()]
        count = 0
        try:
            net.train()
            for module in frozen:
                module.training = id(module) in stale
            with cumulative_means(module for module in normalizations(net) if id(module) in stale):
                for batch in batches:
                    loss_fn(net, batch)
                    count += 1
        finally:
            for module, training in modes:
                module.training = training
            for buffer, value in buffers:
                buffer.copy_(value)
        if not count:
            raise ValueError('there was no batch to compute batch statistics over: `batches` is empty or exhausted')
        self.remove()
        self._guards = []


class _Guard:
    """Two hooks of one module, which compare its statistics with those that are stale.

    By their values, so that a copy of the module is guarded like the module itself.
    """

    def __init__(self, module: nn.Module, owner: str, names: list[str]) -> None:
        self.module, self.owner = module, owner
        self._values = {name: module._buffers[name].detach().clone() for name in names}
        module.register_forward_pre_hook(self)
        module.register_state_dict_pre_hook(self)

    def is_stale(self) -> bool:
        return all(_same(value, self.module._buffers.get(name)) for name, value in self._values.items())

    def __call__(self, module: nn.Module, *call: Any) -> None:
        """Before the forward pass, with its inputs, or before the state dict is taken, with its prefix."""
        forward = len(call) == 1
        if (forward and module.training) or torch.compiler.is_compiling():
            return
        if self.is_stale():
            raise _error([self.owner])
        if forward:  # torch allows no removal while a state dict is taken
            self.remove()

    def remove(self) -> None:
        for hooks in (self.module._forward_pre_hooks, self.module._state_dict_pre_hooks):
            for key in [key for key, hook in hooks.items() if hook is self]:
                del hooks[key]


def _error(owners: list[str]) -> ValueError:
    return ValueError(
        f'the batch statistics of {format_names(owners)} are those of the trained weights, not of the composite, whose '
        f'weights are averages; {_ADVICE}'
    )


def _owner(name: str) -> str:
    return name.rpartition('.')[0]


def _running(net: nn.Module) -> dict[str, Tensor]:
    names = ('running_', 'moving_')  # torch's, and what normalizations of one's own are fond of
    return {name: buffer for name, buffer in net.named_buffers() if name.rpartition('.')[2].startswith(names)}


def _same(one: Tensor, other: Tensor | None) -> bool:
    """Whether they are equal, NaN included."""
    if other is None or one.shape != other.shape:
        return False
    return torch.allclose(one, other.to(one.device, one.dtype), rtol=0, atol=0, equal_nan=True)
