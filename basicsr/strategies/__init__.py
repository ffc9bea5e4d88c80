"""Strategies: how a network is trained, and what of it is published. One `*_strategy.py` each, chosen by `train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from basicsr.options.strategies import asked_strategies, conflicts
from basicsr.strategies.plain_strategy import Plain
from basicsr.strategies.strategy import Setting, Strategy, Wrapper
from basicsr.utils.registry import import_modules

__all__ = ['Setting', 'Strategy', 'Wrapper', 'build_strategy', 'load_strategy', 'save_strategy']

import_modules(__file__, __name__, '_strategy')


def build_strategy(net: nn.Module, setting: Setting) -> Strategy:
    """The strategy that `setting.options`, the section `train`, asks for: what trains, and the wrappers around it.

    Args:
        net: The network as the training begins, with its pre-trained weights.
        setting: See `Setting`.

    Raises:
        ValueError: Strategies that do not go together, or mistakes in their options.
    """
    for key, reason in conflicts(setting.options):
        raise ValueError(f'train.{key}: {reason}')
    asked = asked_strategies(setting.options).values()
    wrappers = sorted((kind for kind in asked if kind.on_top), key=lambda kind: kind.outermost)
    strategy: Strategy = next((kind for kind in asked if not kind.on_top), Plain)(net, setting)
    for kind in wrappers:
        strategy = kind(strategy, setting)
    return strategy


def save_strategy(strategy: Strategy) -> dict[str, Any]:
    """What a training state holds of a strategy."""
    return {'names': strategy.names(), 'state': strategy.state_dict()}


def load_strategy(strategy: Strategy, saved: Mapping[str, Any]) -> None:
    """Put back what `save_strategy` returned.

    Raises:
        ValueError: It was saved by another strategy, or does not fit the options or the network.
    """
    if saved['names'] != strategy.names():
        was, now = (' + '.join(names) for names in (saved['names'], strategy.names()))
        raise ValueError(
            f'the training state was saved by the strategy {was}, and the options ask for {now}; a run goes on with '
            'what it began with. For another one start anew, with path.pretrain_network_g'
        )
    strategy.load_state_dict(saved['state'])
