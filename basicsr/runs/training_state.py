"""What a training state is made of, checked when it is read: a damaged one is passed over for the one before."""

from __future__ import annotations

import os
import random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from basicsr.runs.checkpoint import load_checkpoint

_SHOWN = 60
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_File = Annotated[str, Field(pattern=r'^[^/.][^/]*[/\\][^/]+$')]
"""In one of a run's folders."""


def _check_optimizer(saved: dict[str, Any]) -> dict[str, Any]:
    """One of torch; what others keep, they know themselves."""
    groups = saved.get('param_groups', [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise ValueError('its param_groups are no list of dictionaries')
    for numbers in (group.get('params', []) for group in groups):
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise ValueError('the params of a group are no list of numbers')
    for group in groups:
        rate = group.get('lr', 0.0)
        if not isinstance(rate, int | float | Tensor) or not torch.isfinite(torch.as_tensor(rate)).all():
            raise ValueError(f'the lr of a group is {rate!r}, and must be a finite number')
    moments = saved.get('state', {})
    if not isinstance(moments, dict) or not all(isinstance(one, dict) for one in moments.values()):
        raise ValueError('its state is no dictionary of dictionaries')
    for number, one in moments.items():
        overlapping = [name for name, value in one.items() if isinstance(value, Tensor) and _overlaps(value)]
        if overlapping:
            raise ValueError(f'{overlapping[0]} of parameter {number} has several values in one place')
    return saved


def _overlaps(tensor: Tensor) -> bool:
    return any(not step and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))


def _check_random_states(states: list | dict) -> list | dict:
    """Try those of each process on generators of their kinds; states of the first versions have a dictionary."""
    for state in states if isinstance(states, list) else [states]:
        try:
            version, internal, gauss = state['python']
            random.Random().setstate((version, tuple(internal), gauss))
            np.random.RandomState().set_state(tuple(state['numpy']))
            torch.Generator().set_state(state['torch'])
            if not all(isinstance(one, Tensor) for one in state['cuda']):
                raise TypeError('not tensors')
        except Exception as error:  # whatever the generators come up with
            raise ValueError('not states of random generators') from error
    return states


class _Part(BaseModel):
    model_config = ConfigDict(extra='allow', strict=True, arbitrary_types_allowed=True)


class _Place(_Part):
    samples: _Count
    epoch_size: Annotated[int, Field(gt=0)]


class _Strategy(_Part):
    names: list[str]
    state: dict[str, Any]


class _Stepper(_Part):
    bad_steps: _Count
    all_bad_steps: _Count


class _Best(_Part):
    better: Literal['higher', 'lower']
    val: float
    iter: int


class _TrainingState(_Part):
    """BasicSR's training states have the first four alone; defaults stand for what is absent."""

    iter: _Count
    epoch: _Count
    optimizers: list[Annotated[dict[str, Any], AfterValidator(_check_optimizer)]]
    schedulers: list[dict[str, Any]]

    manual_seed: _Count = 0
    options: str = ''
    place: _Place = None
    random: Annotated[list | dict, AfterValidator(_check_random_states)] = []
    validated: bool = True
    log_position: _Count = 0
    strategy: _Strategy = None
    stepper: _Stepper = None
    types: dict[str, list[str]] = {}
    networks: dict[str, dict[str, Any]] = {}
    attributes: dict[str, Any] = {}
    best_metric_results: dict[str, dict[str, _Best]] = {}
    written: dict[int, list[_File]] = {}


def load_training_state(path: str | os.PathLike) -> dict[str, Any]:
    """Read a training state.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It cannot be read, see `load_checkpoint`; it is none; or parts of it are not what they should be,
            which are named.
    """
    state = load_checkpoint(path)
    if not isinstance(state, dict) or 'iter' not in state:
        raise ValueError(f'{path} is no training state; they are called training_states/<iter>.state')
    try:
        _TrainingState.model_validate(state)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        said, place = first['msg'].removeprefix('Value error, '), '.'.join(map(str, first['loc']))
        given = '' if first['type'] == 'missing' else f', not {_shown(first["input"])}'
        raise ValueError(f'{path} is no training state that can be used: {place}: {said}{given}') from error
    return state


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else f'a {type(value).__name__}'
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'
