"""Sections that choose a class by `type:`: their other keys are the arguments of that class."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from pydantic import AfterValidator, ConfigDict, Field, create_model

from basicsr.options.types import List, NotRead, Real, Section, Whole
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    SCHEDULER_REGISTRY,
    Registry,
    did_you_mean,
)


@dataclass(frozen=True)
class Choice:
    """What a `type:` may name.

    Attributes:
        word: What it is called in messages.
        registry: Where it is looked up.
        given: Arguments that the framework gives, and options cannot.
        more: Keys that the framework itself reads: type, default, description.
        closed: Whether keys beyond the arguments are mistakes although the object takes any, and ignores them.
    """

    word: str
    registry: Registry
    given: Collection[str] = ()
    more: tuple[tuple[str, Any, Any, str], ...] = ()
    closed: bool = False


_OTHER_STEPS = ('Optimizer', 'LBFGS', 'SparseAdam')
"""What wants more of a training loop than gradients: a closure, sparse gradients."""


def _optimizers() -> Registry:
    registry = Registry('optimizer')
    for name, kind in vars(torch.optim).items():
        if inspect.isclass(kind) and name not in _OTHER_STEPS:
            registry.register(kind, name=name)
    return registry


_BETTER = (
    *('better', Literal['higher', 'lower'], None),
    'Which values are better. Default: lower for NIQE, LPIPS and DISTS, else higher.',
)
_RATE = ('lr', Real(above=0), ..., 'Learning rate.')

CHOICES = {
    'arch': Choice('network', ARCH_REGISTRY),
    'dataset': Choice('data set', DATASET_REGISTRY),
    'loss': Choice('loss', LOSS_REGISTRY),
    'metric': Choice('metric', METRIC_REGISTRY, ('img', 'img2'), (_BETTER,), closed=True),
    'model': Choice('model', MODEL_REGISTRY),
    'optimizer': Choice('optimizer of torch.optim', _optimizers(), ('params', 'lr'), (_RATE,)),
    'scheduler': Choice('scheduler', SCHEDULER_REGISTRY, ('optimizer',)),
}

_NOT_READ = {'MambaIR': ('window_size', 'num_heads', 'interval')}
"""Keys that MambaIR's option files inherited from those of other networks, and that its class takes and forgets."""


def check_filled() -> None:
    """What can be chosen is known once the packages that define it are imported; an empty registry is a bug."""
    for choice in CHOICES.values():
        assert choice.registry.keys(), (
            f'the {choice.registry.name} registry is empty: import basicsr.data and basicsr.models before options '
            'are checked'
        )


@dataclass(frozen=True)
class ChosenFrom:
    """Marks text that names one of `CHOICES`."""

    choice: str


def _known(name: str, choice: str) -> str:
    word, registry = CHOICES[choice].word, CHOICES[choice].registry
    if find(choice, name) is None:
        known = ', '.join(sorted(registry.keys()))
        raise ValueError(f'{name!r} is no {word}; there are {known}{did_you_mean(name, registry.keys()).rstrip(".")}')
    return name


def NameOf(choice: str) -> Any:
    """Text that names one of `CHOICES[choice]`."""
    return Annotated[str, AfterValidator(functools.partial(_known, choice=choice)), ChosenFrom(choice)]


def find(choice: str, name: Any) -> Any:
    """What is called `name`, or None."""
    try:
        return CHOICES[choice].registry.get(name) if isinstance(name, str) else None
    except KeyError:
        return None


class Chosen(Section):
    """A section with `type:`; what else may stand there is in `arguments_of(choice, type)`."""

    model_config = ConfigDict(extra='allow')


@functools.cache
def chosen_section(choice: str) -> type[Section]:
    """The section of which no more is known than what it chooses from."""
    section = create_model(f'{choice}Section', __base__=Chosen, type=(NameOf(choice), Field(...)))
    section.choice = choice
    return section


def section_for(choice: str, written: Any) -> type[Section]:
    """The section that `type:` chooses, with the arguments of that class; else `chosen_section(choice)`."""
    factory = find(choice, written.get('type') if isinstance(written, dict) else None)
    return chosen_section(choice) if factory is None else arguments_of(choice, factory)


@functools.cache
def arguments_of(choice: str, factory: Callable) -> type[Section]:
    """A section whose keys are `type` and the arguments of `factory`, as its signature and docstring have them.

    An attribute `check_options` of `factory` finds mistakes that types do not show, see `Section.rules`.
    """
    known = CHOICES[choice]
    fields: dict[str, Any] = {'type': (NameOf(choice), Field(...))}
    described, is_open = described_arguments(factory), False
    for index, parameter in enumerate(_parameters(factory)):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = not known.closed
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and parameter.name not in known.given:
            default = ... if parameter.default is parameter.empty else parameter.default
            field = Field(default, alias=parameter.name, description=described.get(parameter.name))
            fields[f'argument_{index}'] = (simple(parameter.annotation), field)
    for name in _NOT_READ.get(factory.__name__, ()):
        fields.setdefault(name, (Annotated[Any, NotRead()], Field(None, description='Not read.')))
    for name, kind, default, description in known.more:
        fields[name] = (kind, Field(default, description=description))
    section = create_model(factory.__name__, __base__=Chosen if is_open else Section, **fields)
    section.choice = choice
    if hasattr(factory, 'check_options'):
        section.rules = staticmethod(factory.check_options)
    return section


def _parameters(factory: Callable) -> Iterable[inspect.Parameter]:
    """Parameters with annotations that are types where their names can be found, and text elsewhere."""
    try:
        return inspect.signature(factory, eval_str=True).parameters.values()
    except Exception:  # names that only type checkers import, or whatever else a user's annotation does
        return inspect.signature(factory).parameters.values()


def simple(annotation: Any) -> Any:
    """The type of the values that YAML can give to an argument with this annotation; `Any` where that is not known."""
    plain = {int: Whole(), float: Real(), bool: bool, str: str, list: list, tuple: list, dict: dict}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        members = [None if one is type(None) else simple(one) for one in arguments if one is not torch.Tensor]
        return Any if Any in members or not members else Union[tuple(members)]  # noqa: UP007
    if origin is Literal:
        return annotation
    if origin in (list, tuple, Sequence, Iterable, Collection):
        items = [simple(one) for one in arguments if one is not Ellipsis]
        fixed = len(items) if origin is tuple and Ellipsis not in arguments else None
        return List(Any if Any in items else Union[tuple(items)], fixed, fixed)  # noqa: UP007
    if origin is dict:
        return dict
    try:
        return plain.get(annotation, Any)
    except TypeError:  # no hashable annotation
        return Any


def described_arguments(factory: Callable) -> dict[str, str]:
    """The descriptions of a Google docstring's `Args:`, by argument."""
    text = inspect.cleandoc(factory.__doc__ or '')
    section = re.search(r'^Args:\n((?: +.*\n?|\n)*)', text, re.M)
    found: dict[str, str] = {}
    for entry in re.findall(r'^    (\S[^:]*): (.*(?:\n {5,}.*)*)', section[1] if section else '', re.M):
        words = re.sub(r'\s+', ' ', entry[1]).strip()
        found.update({name.strip(' *'): words for name in entry[0].split(',')})
    return found
