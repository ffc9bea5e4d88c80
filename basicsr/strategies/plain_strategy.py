"""Fine-tuning as it is: every weight trains, and the trained network is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from basicsr.runs.checkpoint import load_weights
from basicsr.strategies.strategy import Setting, Strategy


class Plain(Strategy):
    """One network, all of which trains.

    Args:
        net: The network.
        setting: None where nothing is trained, as in a test.
    """

    name = 'plain'

    def __init__(self, net: nn.Module, setting: Setting | None = None) -> None:
        self.network, self.setting = net, setting
        self.running: Callable = net if setting is None else setting.wrap(net)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def networks(self) -> Iterator[tuple[str, Callable]]:
        yield '', self.running

    @contextmanager
    def published(self) -> Iterator[nn.Module]:
        with self.trained() as net:
            yield net

    def state_dict(self) -> dict[str, Any]:
        return {'network': self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_weights(self.network, state['network'], 'the training state')
