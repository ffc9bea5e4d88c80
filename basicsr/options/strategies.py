"""The declarations of registered strategies, as the schema, `--check` and messages need them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from pydantic import create_model

from basicsr.options.types import Section
from basicsr.utils.registry import MODEL_REGISTRY, STRATEGY_REGISTRY


def with_strategies(train: type[Section]) -> type[Section]:
    """The section `train` with the keys of every registered strategy."""
    fields = {}
    for _, strategy in STRATEGY_REGISTRY:
        fields.update(strategy.keys)
    return create_model(train.__name__, __base__=train, __doc__=train.__doc__, **fields)


def train_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The section `train` with what the model adds by default: `LDTModel` has a `train.ldt`."""
    section = opt.get('train')
    written = {key: value for key, value in section.items() if value is not None} if isinstance(section, dict) else {}
    name = opt.get('model_type')
    model = MODEL_REGISTRY.get(name) if isinstance(name, str) and name in MODEL_REGISTRY else None
    return {**getattr(model, 'train_defaults', {}), **written}


def asked_strategies(train: Mapping[str, Any]) -> dict[str, type]:
    """The strategies that the section `train` selects, by the key that selects them, in registry order."""
    asked = {}
    for _, strategy in STRATEGY_REGISTRY:
        key = strategy.asked_by(train)
        if key is not None:
            asked[key] = strategy
    return asked


def conflicts(train: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Incompatible strategies, as (key within `train`, reason)."""
    for (key, one), (other_key, other) in combinations(asked_strategies(train).items(), 2):
        if other.name in one.not_with:
            yield key, f'not with {other_key}: {one.not_with[other.name]}'
        elif one.name in other.not_with:
            yield other_key, f'not with {key}: {other.not_with[one.name]}'
        elif not (one.on_top or other.on_top):
            yield other_key, f'not with {key}: each of them decides what trains; drop one of them'


def mistakes(train: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """All mistakes in the strategies of the section `train`, as (key within it, message)."""
    yield from conflicts(train)
    for strategy in asked_strategies(train).values():
        yield from strategy.check_train(train)


def needed(opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options that the strategies of a training need and do not find, as (dotted key, why)."""
    sections = {key: opt[key] for key in ('path', 'val', 'datasets', 'network_g') if isinstance(opt.get(key), dict)}
    for strategy in asked_strategies(train_options(opt)).values():
        yield from strategy.needs(sections)


def without_effect(opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys that have no effect, given the other options, as (dotted key, message)."""
    train = train_options(opt)
    for strategy in asked_strategies(train).values():
        yield from strategy.without_effect({**opt, 'train': train})
