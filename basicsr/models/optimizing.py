"""Optimizers and learning rates of a model."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from basicsr.models import lr_scheduler  # noqa: F401  registers its schedulers
from basicsr.utils.registry import SCHEDULER_REGISTRY, call_checked, did_you_mean


class UnknownOptimizer(ValueError, NotImplementedError):
    """No optimizer of that name; BasicSR raises a NotImplementedError."""


def _tensors(params: list[Any]) -> list[torch.Tensor]:
    """The parameters of an optimizer, which may be given as groups or with their names."""
    groups = [list(entry['params']) if isinstance(entry, dict) else [entry] for entry in params]
    return [entry[1] if isinstance(entry, tuple) else entry for group in groups for entry in group]


class Optimizing:
    """What a model does with `train.optim_*` and `train.scheduler`.

    Attributes:
        optimizers, schedulers: Those of all its networks; a scheduler for each optimizer, or none.
    """

    opt: dict
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[torch.optim.lr_scheduler.LRScheduler]

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs) -> torch.optim.Optimizer:
        """An optimizer of `torch.optim` by name.

        Raises:
            UnknownOptimizer: No such optimizer.
            ValueError: An option that it does not take.
        """
        factory = getattr(torch.optim, str(optim_type), None)
        known = [name for name, obj in vars(torch.optim).items() if inspect.isclass(obj)]
        if optim_type not in known:
            message = f'train.optim_g.type: torch.optim has no {optim_type!r}{did_you_mean(optim_type, known)}'
            raise UnknownOptimizer(message)
        if 'betas' in kwargs:
            betas = kwargs['betas']
            if not isinstance(betas, list | tuple) or not all(isinstance(beta, int | float) for beta in betas):
                raise ValueError(f'train.optim_g.betas: must be a list of numbers, not {betas!r}')
            kwargs['betas'] = tuple(map(float, betas))  # torch wants all of them of one type
        takes = inspect.signature(factory).parameters
        params = list(params)
        if kwargs.get('capturable') and not any(tensor.is_cuda for tensor in _tensors(params)):
            raise ValueError('train.optim_g.capturable: needs a GPU; leave it out')
        if not any(kwargs.get(key) for key in ('fused', 'foreach', 'capturable', 'differentiable')):
            for key in ('fused', 'foreach'):  # the faster ones, where the optimizer has them
                if key in takes and key not in kwargs:
                    kwargs[key] = True
                    break
        return call_checked(factory, f'train.optim_g: {optim_type}', params, lr=lr, **kwargs)

    def setup_schedulers(self) -> None:
        """A scheduler for each optimizer; without `train.scheduler` the rate stays.

        Raises:
            ValueError: Another type than those that there are.
        """
        options = dict(self.opt['train'].get('scheduler') or {})
        if not options:
            return
        kind = options.pop('type', None)
        if kind not in SCHEDULER_REGISTRY:
            raise ValueError(f'train.scheduler.type: {kind!r} is none of {", ".join(SCHEDULER_REGISTRY.keys())}')
        what = f'train.scheduler: {kind}'
        self.schedulers += [
            call_checked(SCHEDULER_REGISTRY.get(kind), what, optimizer, **options) for optimizer in self.optimizers
        ]

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Step the schedulers; in the first `warmup_iter` iterations the rate rises linearly from zero."""
        if current_iter > 1:
            for scheduler in self.schedulers:
                scheduler.step()
        if current_iter <= warmup_iter:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    if current_iter == 1:
                        group.setdefault('initial_lr', group['lr'])
                    rate = group['initial_lr'] if 'initial_lr' in group else self.opt['train']['optim_g']['lr']
                    group['lr'] = rate * current_iter / warmup_iter

    def get_current_learning_rate(self) -> list[float]:
        return [group['lr'] for group in self.optimizers[0].param_groups]
