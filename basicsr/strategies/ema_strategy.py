"""A moving average of the trained weights, as BasicSR keeps it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from basicsr.options.types import Real, Time, iterations, option
from basicsr.runs.checkpoint import load_weights
from basicsr.strategies.batch_statistics import BatchStatistics
from basicsr.strategies.strategy import Setting, Strategy, Wrapper
from basicsr.utils.registry import STRATEGY_REGISTRY
from ldt.restore import preserve_modes_and_buffers


@STRATEGY_REGISTRY.register()
class EMA(Wrapper):
    """Publishes average <- decay * average + (1 - decay) * weights, updated after each step.

    A checkpoint holds it under `params_ema`, beside the trained weights under `params`. The average begins with the
    pre-trained weights, where their file has a `params_ema` with that.

    Args:
        inner: What trains.
        setting: See `Setting`; reads `train.ema_decay` or `train.ema_time`.
        average: The network that becomes the average; None: a copy of the trained one.
    """

    name = 'ema'
    keys = {
        'ema_decay': (
            Real(least=0, below=1),
            option(0, 'Decay of a moving average of the weights, which is then what is tested; 0: none.'),
        ),
        'ema_time': (
            Time,
            option(None, 'The same by its time constant, above 1 iteration: ema_decay = 1 - 1 / ema_time.'),
        ),
    }
    not_with = {'ldt': 'the composite of LDT is a moving average already; leave it out'}
    published_key = 'params_ema'
    model_can_keep_it = True

    def __init__(self, inner: Strategy, setting: Setting, average: nn.Module | None = None) -> None:
        super().__init__(inner, setting)
        self.decay = setting.options.get('ema_decay') or 0.0
        if setting.options.get('ema_time'):
            self.decay = 1 - 1 / iterations(setting.options['ema_time'], setting.total_iter)
        self._counts = average is None
        if average is None:
            average = copy.deepcopy(inner.network)
            setting.load(average, 'params_ema')
        self.average = average.requires_grad_(False).eval()
        self.statistics = BatchStatistics.of(setting)
        self.updates = 0

    @classmethod
    def asked_by(cls, train: Mapping[str, Any]) -> str | None:
        if train.get('ema_decay'):
            return 'ema_decay'
        return 'ema_time' if train.get('ema_time') is not None else None

    @classmethod
    def check_train(cls, train: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        time, total = train.get('ema_time'), train.get('total_iter')
        if time is None:
            return
        if train.get('ema_decay'):
            yield 'ema_time', 'not with ema_decay: both say the same in different ways; drop one of them'
        if total and iterations(time, total) <= 1:
            yield 'ema_time', f'must be above 1 iteration, and is {iterations(time, total):g}'

    @property
    def shadow(self) -> nn.Module:
        return self.average

    @property
    def shadow_decay(self) -> float:
        return self.decay

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average towards the trained weights; buffers are the trained network's."""
        self.updates += 1
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)
        for average, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            average.copy_(buffer)

    def after_step(self, iteration: int) -> None:
        super().after_step(iteration)
        self.follow(self.decay)

    @contextmanager
    def published(self) -> Iterator[nn.Module]:
        with preserve_modes_and_buffers(self.average):
            # A model that keeps the average by itself need not call `follow`.
            self.statistics.put_into(self.average.eval(), self.updates if self._counts else None)
            yield self.average

    def saved_beside(self) -> dict[str, nn.Module]:
        return {'params': self.network}

    def state_dict(self) -> dict[str, Any]:
        return {'inner': self.inner.state_dict(), 'average': self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state['inner'])
        load_weights(self.average, state['average'], 'the training state')
        self.updates += 1
