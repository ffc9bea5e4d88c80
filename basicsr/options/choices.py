"""Sections that choose a class by `type:`: their other keys are the arguments of that class."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, create_model

import ldt
from basicsr.options.types import FolderName, List, Real, Said, Section, Whole, fields_of, option
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    SCHEDULER_REGISTRY,
    Registry,
    did_you_mean,
    is_path,
    parameters_of,
    parameters_passed_on,
)


@dataclass(frozen=True)
class Choice:
    """What a `type:` may name.

    Attributes:
        word: What it is called in messages.
        registry: Where it is looked up.
        given: Arguments that the framework supplies, and that options cannot set.
        more: Keys that the framework itself reads, whichever class is chosen.
        closed: Whether unknown keys are mistakes even though the object accepts and ignores any.
        inherited: Arguments that the framework takes from elsewhere in the options where the section lacks them.
        whole: Whether classes may take their whole section as one argument, see `takes_whole_section`.
        kinds: Types of arguments, by name or `class.name`, that go before those of signatures that are not ours.
    """

    word: str
    registry: Registry
    given: Collection[str] = ()
    more: type[Section] = Section
    closed: bool = False
    inherited: Collection[str] = ()
    whole: bool = False
    kinds: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_OTHER_STEPS = ('Optimizer', 'LBFGS', 'SparseAdam')
"""Optimizers that need more from a training loop than gradients: a closure, sparse gradients."""


_OF_OPTIMIZERS = {
    'betas': List(Real(least=0, below=1), 2, 2),
    'eps': Real(least=0),
    'Adafactor.eps': List(Real(least=0), 2, 2),
    'weight_decay': Real(least=0),
    'momentum': Real(least=0, most=1),
    'dampening': Real(least=0, most=1),
    'alpha': Real(least=0, most=1),
    'rho': Real(least=0, most=1),
    'lambd': Real(least=0),
    't0': Real(least=0),
    'lr_decay': Real(least=0),
    'initial_accumulator_value': Real(least=0),
    'momentum_decay': Real(least=0),
    'beta2_decay': Real(most=0),
    'd': Real(least=1),
    'etas': List(Real(above=0), 2, 2),
    'step_sizes': List(Real(above=0), 2, 2),
    'ns_steps': Whole(1, 99),
    'differentiable': Literal[False],
}
"""Arguments of torch's optimizers, whose signatures name no bounds; a differentiable step needs another loop."""


def _optimizers() -> Registry:
    registry = Registry('optimizer')
    for name, kind in vars(torch.optim).items():
        if inspect.isclass(kind) and name not in _OTHER_STEPS:
            registry.register(kind, name=name)
    return registry


class AnyMetric(Section):
    """Keys that the framework reads in addition to a metric's own arguments."""

    better: Literal['higher', 'lower'] = option(
        None, 'Which values are better. Default: as the metric says of itself; lower for NIQE, LPIPS, DISTS.'
    )


class AnyOptimizer(Section):
    """Keys that the framework reads in addition to an optimizer's own arguments."""

    lr: Real(above=0) = option(..., 'Learning rate.')


class AnyDataset(Section):
    """Keys that the loader and the pipeline read in addition to a data set's own arguments."""

    name: FolderName = option(None, 'Its name in tables and folders. Default: the name of the section.')
    use_shuffle: bool = option(True, 'Training: shuffle, unless a sampler does.')
    batch_size_per_gpu: Whole(1, ceiling=10**6) = option(
        None,
        'Samples per batch in each process. In val and test, for data sets of classes alone; default there 64.',
    )
    num_worker_per_gpu: Whole(0, ceiling=256) = option(None, 'Loading processes per training process.')
    dataset_enlarge_ratio: Whole(1, ceiling=10**6) = option(
        1, 'Training: how many times each sample appears in an epoch.'
    )
    prefetch_mode: Literal['cpu', 'cuda'] = option(None, 'Prefetching: cpu uses a thread, cuda copies to the GPU.')
    num_prefetch_queue: Whole(1, ceiling=1000) = option(1, 'Number of batches that prefetch_mode cpu keeps ready.')
    pin_memory: bool = option(False, 'Use page-locked memory, which is faster to copy to a GPU.')
    persistent_workers: bool = option(False, 'Keep the loading processes alive between epochs.')
    seen: bool = option(False, 'Test set of a domain that is trained on: left out of the mean of the unseen.')


class _Criteria(Registry):
    """The scoring criteria of `ldt`, plus `prefix`, which picks unstable layers by name."""

    def keys(self) -> list[str]:
        return [*ldt.CRITERIA, 'prefix']

    def get(self, name: str, suffix: str = 'basicsr') -> str:
        if name not in self.keys():
            raise KeyError(name)
        return name


CHOICES = {
    'criterion': Choice('criterion', _Criteria('criterion')),
    'arch': Choice('network', ARCH_REGISTRY),
    'dataset': Choice('data set', DATASET_REGISTRY, ('phase',), AnyDataset, inherited=('scale',), whole=True),
    'loss': Choice('loss', LOSS_REGISTRY),
    'metric': Choice('metric', METRIC_REGISTRY, ('img', 'img2', 'logits', 'labels'), AnyMetric, closed=True),
    'model': Choice('model', MODEL_REGISTRY),
    'optimizer': Choice(
        'optimizer of torch.optim', _optimizers(), ('params', 'lr'), AnyOptimizer, kinds=_OF_OPTIMIZERS
    ),
    'scheduler': Choice('scheduler', SCHEDULER_REGISTRY, ('optimizer',)),
}

WHOLE_SECTION_PATHS = ('dataroot_gt', 'dataroot_lq', 'meta_info', 'meta_info_file')
"""Keys treated as paths in the section of a data set that takes its whole section."""


def check_filled() -> None:
    """Assert that no registry is empty: the packages that fill them must be imported first."""
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
        near = did_you_mean(name, registry.keys()).rstrip('.')
        raise ValueError(f'{reprlib.repr(name)} is no {word}; there are {known}{near}')
    return name


def NameOf(choice: str) -> Any:
    """The type of text that names one of `CHOICES[choice]`."""
    return Annotated[str, AfterValidator(functools.partial(_known, choice=choice)), ChosenFrom(choice)]


def find(choice: str, name: Any) -> Any:
    """The class or function registered as `name`, or None."""
    try:
        return CHOICES[choice].registry.get(name) if isinstance(name, str) else None
    except KeyError:
        return None


class Chosen(Section):
    """A section with `type:`; its other keys are given by `arguments_of(choice, type)`."""

    model_config = ConfigDict(extra='allow')


@functools.cache
def chosen_section(choice: str) -> type[Section]:
    """The section of which only the kind of choice is known, not the class."""
    more = {name: kind for name, kind in _more(choice) if not kind[1].is_required()}
    section = create_model(f'{choice}Section', __base__=Chosen, type=(NameOf(choice), Field(...)), **more)
    section.choice = choice
    return section


def section_for(choice: str, written: Any) -> type[Section]:
    """The section that `type:` chooses, with the arguments of that class; else `chosen_section(choice)`."""
    factory = find(choice, written.get('type') if isinstance(written, dict) else None)
    return chosen_section(choice) if factory is None else arguments_of(choice, factory)


@functools.cache
def arguments_of(choice: str, factory: Callable) -> type[Section]:
    """A section whose keys are `type` and the arguments of `factory`, taken from its signature and docstring.

    An attribute `check_options` of `factory` finds mistakes that types do not show, see `Section.rules`.
    """
    known = CHOICES[choice]
    fields: dict[str, Any] = {'type': (NameOf(choice), Field(...))}
    is_open = known.whole and takes_whole_section(factory)
    if not is_open:
        arguments, is_open = _arguments(known, factory)
        fields.update(arguments)
    fields.update(_more(choice))
    section = create_model(factory.__name__, __base__=Chosen if is_open else Section, **fields)
    section.choice = choice
    if hasattr(factory, 'check_options') and not known.whole:
        section.rules = staticmethod(factory.check_options)
    return section


def _arguments(known: Choice, factory: Callable) -> tuple[dict[str, Any], bool]:
    """(a field for each argument that options may set, whether other keys are allowed)."""
    fields, described, is_open = {}, described_arguments(factory), False
    for index, parameter in enumerate(parameters_of(factory)):
        name, default = parameter.name, parameter.default
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = not known.closed
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in {*known.given, *fields_of(known.more)}:
            default = None if name in known.inherited else ... if default is parameter.empty else default
            description = described.get(name)
            if name in known.inherited and description:
                description += ' Default: that of the top level.'
            entry = Field(default, alias=name, description=description)
            bounded = known.kinds.get(f'{factory.__name__}.{name}', known.kinds.get(name))
            fields[f'argument_{index}'] = (bounded or simple(parameter.annotation), entry)
    return fields, is_open


def _more(choice: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """The keys that the framework itself reads, as fields of another section."""
    for name, (_, field) in fields_of(CHOICES[choice].more).items():
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        yield name, (kind, Field(field.default, description=field.description))


def takes_whole_section(factory: Callable) -> bool:
    """Whether a class takes its whole section as its one required argument `opt`, as BasicSR's data sets do."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [one.name for one in parameters_of(factory) if one.default is one.empty and one.kind not in kinds]
    return required == ['opt']


def is_needed(factory: Callable, name: str) -> bool:
    """Whether a class has an argument of this name, without a default."""
    return any(one.name == name and one.default is one.empty for one in parameters_of(factory))


def path_arguments(choice: str, factory: Callable) -> tuple[str, ...]:
    """The arguments that may be paths by their annotations: `Path`, `str | os.PathLike`, and lists of these.

    Relative ones start at the project's folder, and those of a data set must be there before a run begins. Of a class
    that takes its whole section they are `WHOLE_SECTION_PATHS`.
    """
    if CHOICES[choice].whole and takes_whole_section(factory):
        return WHOLE_SECTION_PATHS
    return tuple(one.name for one in parameters_passed_on(factory) if is_path(one.annotation))


def _no_bool(value: Any) -> Any:
    return str(value) if isinstance(value, bool) else value  # True == 1


def _no_class(value: Any) -> Any:
    raise ValueError(
        f'must be a class of Python, which option files cannot name, not {reprlib.repr(value)}; leave it out'
    )


_Class = Annotated[Any, AfterValidator(_no_class)]
_PathText = Annotated[str, Said('a path', 'paths')]


def simple(annotation: Any) -> Any:
    """The type of the values that YAML can give to an argument with this annotation; `Any` if unknown."""
    plain = {int: Whole(), float: Real(), bool: bool, str: str, list: list, tuple: list, dict: dict}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = simple(arguments[0])
        return inner if inner is Any else Annotated[(inner, *arguments[1:])]
    if origin in (Union, types.UnionType):
        return _simple_union(arguments)
    if origin is Literal:
        whole = all(type(one) is int for one in arguments)
        return Annotated[annotation, BeforeValidator(_no_bool)] if whole else annotation
    if origin in (list, tuple, Sequence, Iterable, Collection):
        items = [simple(one) for one in arguments if one is not Ellipsis]
        fixed = len(items) if origin is tuple and Ellipsis not in arguments else None
        return List(Any if Any in items else Union[tuple(items)], fixed, fixed)  # noqa: UP007
    if inspect.isclass(origin or annotation) and issubclass(origin or annotation, os.PathLike):
        return _PathText
    if typing.is_typeddict(annotation):
        return _typed_section(annotation)
    if origin is dict:
        kinds = [simple(one) for one in arguments]
        return dict if Any in kinds else dict[tuple(kinds)]
    if origin is type:
        return _Class
    try:
        return plain.get(annotation, Any)
    except TypeError:  # no hashable annotation
        return Any


def _simple_union(kinds: Iterable[Any]) -> Any:
    members = [None if one is type(None) else simple(one) for one in kinds if one is not torch.Tensor]
    if Any in members or not members:
        return Any
    if _PathText in members:
        members = [one for one in members if one is not str]
    sections = [one for one in members if inspect.isclass(one) and issubclass(one, Section)]
    if sections and set(members) <= {None, *sections}:  # `~` leaves a key out, so None need not be mentioned
        return sections[0] if len(sections) == 1 else dict
    return Union[tuple(members)]  # noqa: UP007


@functools.cache
def _typed_section(kind: type) -> type[Section]:
    """A TypedDict as a section; the descriptions of its keys come from `Attributes:`."""
    described, hints = described_arguments(kind, 'Attributes'), typing.get_type_hints(kind, include_extras=True)
    defaults = {key: ... if key in kind.__required_keys__ else None for key in hints}
    fields = {
        f'key_{index}': (simple(hint), Field(defaults[key], alias=key, description=described.get(key)))
        for index, (key, hint) in enumerate(hints.items())
    }
    return create_model(kind.__name__, __base__=Section, **fields)


def described_arguments(factory: Callable, part: str = 'Args') -> dict[str, str]:
    """The descriptions of a Google docstring's `Args:`, or of another part, by argument."""
    text = inspect.cleandoc(factory.__doc__ or '')
    section = re.search(rf'^{part}:\n((?: +.*\n?|\n)*)', text, re.M)
    found: dict[str, str] = {}
    for entry in re.findall(r'^    (\S[^:]*): (.*(?:\n {5,}.*)*)', section[1] if section else '', re.M):
        words = re.sub(r'\s+', ' ', entry[1]).strip()
        found.update({name.strip(' *'): words for name in entry[0].split(',')})
    return found
