"""Publishing a function of the weights that are trained."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.strategies.batch_statistics import BatchStatistics
from basicsr.strategies.strategy import Setting, Strategy, Wrapper


def with_weights(net: nn.Module, weights: Iterable[Tensor]) -> nn.Module:
    """A network like `net`, with buffers of its own, whose parameters are `weights`, in the order of `net`'s."""
    pairs = zip(net.parameters(), weights, strict=True)
    return copy.deepcopy(net, {id(own): nn.Parameter(value, requires_grad=False) for own, value in pairs})


class Average(Wrapper):
    """Publishes a function of the weights that `inner` publishes, and of those that it trained from step to step.

    A new one is a subclass that says `name`, `keys`, `update`, `weights`, `averages` and `load_averages`.

    Args:
        inner: What trains.
        setting: See `Setting`.

    Attributes:
        version: Changes whenever the published weights may have.
    """

    def __init__(self, inner: Strategy, setting: Setting) -> None:
        super().__init__(inner, setting)
        self.statistics = BatchStatistics.of(setting)
        self.version = 0

    def update(self, trained: list[Tensor]) -> None:
        """Called after each step that was taken, with the trained network's parameters. Copy what is to be kept."""
        self.version += 1

    @abstractmethod
    def weights(self, published: list[Tensor]) -> list[Tensor] | None:
        """The weights to publish, on the device of `published`, those that `inner` publishes; None for these."""

    @abstractmethod
    def averages(self) -> dict[str, Any]:
        """What a resumed run needs, beside what `inner` does."""

    @abstractmethod
    def load_averages(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Put back what `averages` returned."""

    def after_step(self, iteration: int) -> None:
        super().after_step(iteration)
        self.update(list(self.network.parameters()))

    def after_validation(self, iteration: int, loss: float) -> None:
        super().after_validation(iteration, loss)
        self.version += 1  # what `inner` publishes may have changed

    @contextmanager
    def published(self) -> Iterator[nn.Module]:
        with self.inner.published() as net:
            weights = self.weights(list(net.parameters()))
            if weights is None:
                yield net
                return
            average = with_weights(net, weights).eval()
            self.statistics.put_into(average, self.version)
            yield average

    def state_dict(self) -> dict[str, Any]:
        return {'inner': self.inner.state_dict(), 'averages': self.averages()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state['inner'])
        self.load_averages(state['averages'], self.setting.device)
        self.version += 1
