"""BasicSR's contract with models of users, which replace methods without calling those that they replace."""

from __future__ import annotations

from typing import Any

from basicsr.options.strategies import asked_strategies

_STEP_OPTIONS = ('amp', 'accumulate', 'grad_clip_norm', 'compile')


def is_replaced(model: Any, method: str) -> bool:
    """Whether a class outside this project has replaced a method of the model's."""
    owner = next(kind for kind in type(model).__mro__ if method in vars(kind))
    return not owner.__module__.startswith('basicsr.models.')


def refuse_what_is_replaced(model: Any) -> None:
    """Refuse what the options ask for and a model of users, which does it in its own way, would ignore.

    Raises:
        ValueError: Names the option, the model, and the method that stands in the way.
    """
    kind, train = type(model).__name__, model.opt['train']
    own_step = is_replaced(model, 'optimize_parameters')
    own_test = next((name for name in ('nondist_validation', 'test') if is_replaced(model, name)), None)
    for key, strategy in asked_strategies(train).items():
        if strategy.model_can_keep_it:
            continue
        if own_step:
            raise ValueError(f'train.{key}: {kind} has a step of its own, which does not know it; leave it out')
        if own_test:
            raise ValueError(
                f'train.{key}: {kind} tests by itself ({own_test}), and would not test what {key} publishes; leave it '
                'out, or let SRModel test'
            )
    for key in _STEP_OPTIONS if own_step else ():
        if train.get(key) not in (None, False, 1):
            raise ValueError(f'train.{key}: {kind} has a step of its own, which does not know it; leave it out')


def refuse_what_was_not_made(model: Any) -> None:
    """Refuse strategies that a model of users has not taken up in its own training settings.

    Raises:
        ValueError: Names the option, the model, and what is missing.
    """
    kind = type(model).__name__
    for key, strategy in asked_strategies(model.opt['train']).items():
        if strategy.model_can_keep_it and model.strategy.shadow is None:
            raise ValueError(f'train.{key}: {kind} has training settings of its own, which make no net_g_ema')
        if not strategy.model_can_keep_it and not model.has_strategy_of_options:
            raise ValueError(
                f'train.{key}: {kind} has training settings of its own, which do not know it; leave it out'
            )
        if model.strategy.has_own_parameters and is_replaced(model, 'setup_optimizers'):
            raise ValueError(f'train.{key}: {kind} sets up its optimizers by itself, over other weights than these')
