"""Classes and functions that option files choose by name (`type: MambaIR`)."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

_SHORTEST, _LONGEST = 3, 200
"""Letters of a name for which a near one is looked for."""
_NESTING = (Union, types.UnionType, Annotated, list, tuple, Sequence, Iterable, Collection)


def did_you_mean(name: object, choices: Iterable[str], cutoff: float = 0.7) -> str:
    """Return '; did you mean …?' with the choice nearest to `name`, or '.' if none is near.

    A choice is near if it differs in few letters or in their order, or if `name` abbreviates it: `totl` for
    `total_iter`.
    """
    name, choices = str(name)[:_LONGEST], list(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=cutoff)
    near = near or [choice for choice in choices if sorted(choice) == sorted(name)]
    near = near or [choice for choice in choices if _shortens(name.lower(), choice.lower())]
    return f'; did you mean {near[0]!r}?' if near else '.'


def _shortens(name: str, choice: str) -> bool:
    """Whether `name` starts like `choice` and continues with a subsequence of its letters."""
    rest = iter(choice)
    return len(name) >= _SHORTEST and name[:2] == choice[:2] and all(letter in rest for letter in name)


class AlreadyRegistered(KeyError, AssertionError):
    """A name is taken: an AssertionError as in BasicSR, and a KeyError, which commands report as the user's mistake."""


class Registry:
    """Maps a name to a class or function.

    Used as a decorator, `@ARCH_REGISTRY.register()`, or as a call, `ARCH_REGISTRY.register(MyNet)`.
    """

    _all: weakref.WeakSet[Registry] = weakref.WeakSet()

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects: dict[str, Any] = {}
        Registry._all.add(self)

    def register(self, obj: Any = None, suffix: str | None = None, name: str | None = None) -> Any:
        """Add `obj` under `name`, by default its own (plus `_suffix`); without `obj`, return a decorator that does.

        Raises:
            AlreadyRegistered: The name is taken by another object.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, suffix, name)
        name = name or obj.__name__
        name = name if suffix is None else f'{name}_{suffix}'
        if self._objects.get(name, obj) is not obj:
            raise AlreadyRegistered(
                f'{name!r} is already registered in the {self.name} registry, by {_origin(self._objects[name])}; '
                'choose another name'
            )
        self._objects[name] = obj
        return obj

    def get(self, name: str, suffix: str = 'basicsr') -> Any:
        """Return the object called `name`, or else `name_suffix`.

        Raises:
            KeyError: Nothing has that name; the message lists the choices and the nearest one.
        """
        for key in (name, f'{name}_{suffix}'):
            if key in self._objects:
                return self._objects[key]
        choices = ', '.join(sorted(self._objects)) or 'none'
        raise KeyError(f'no {self.name} is called {name!r}{did_you_mean(name, self._objects)} Choices: {choices}')

    def __contains__(self, name: str) -> bool:
        return name in self._objects

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._objects.items())

    def keys(self):
        return self._objects.keys()


def _origin(thing: Any) -> str:
    """A class or function and its file, for a message."""
    try:
        return f'{thing.__qualname__} of {inspect.getsourcefile(thing)}'
    except (TypeError, AttributeError):
        return repr(thing)


def all_registered() -> list[tuple[str, str]]:
    """(registry, name) of everything that is registered."""
    registries = sorted(Registry._all, key=lambda registry: registry.name)
    return [(registry.name, name) for registry in registries for name in registry.keys()]  # noqa: SIM118  a registry yields pairs


@contextmanager
def forgotten_on_error() -> Iterator[None]:
    """If an exception leaves the block, undo registrations made inside, except by modules that stay imported."""
    before = {registry: dict(iter(registry)) for registry in Registry._all}
    try:
        yield
    except BaseException:
        for registry, kept in before.items():
            for name, thing in list(registry):
                if name not in kept and getattr(thing, '__module__', None) not in sys.modules:
                    del registry._objects[name]
        raise


def import_modules(package_file: str, package: str, suffix: str) -> None:
    """Import each `*{suffix}.py` beside `package_file`, so that its decorators register what it defines.

    Args:
        package_file: `__file__` of the package's `__init__`.
        package: The package's dotted name, `__name__` of its `__init__`.
        suffix: End of the file names without `.py`, for example `_arch`.
    """
    for path in sorted(Path(package_file).parent.glob(f'*{suffix}.py')):
        importlib.import_module(f'{package}.{path.stem}')


def build(registry: Registry, opt: dict, *args: Any) -> Any:
    """Call what `opt['type']` names in `registry` with `args` and, as keyword arguments, the other entries of `opt`.

    Raises:
        KeyError: `type` is unknown.
        ValueError: `opt` has no `type`, or an entry that is not an argument of the class.
    """
    opt = dict(opt)
    if 'type' not in opt:
        raise ValueError(
            f'a section of the options that chooses a {registry.name} needs `type`; it has {", ".join(opt)}'
        )
    kind = opt.pop('type')
    return call_checked(registry.get(kind), kind, *args, **opt)


def call_checked(factory: Any, what: str, *args: Any, **options: Any) -> Any:
    """Call `factory` with keyword arguments from an option file; arguments annotated as `Path` are converted.

    Raises:
        ValueError: It takes no such option, or rejects a value; the message begins with `what`.
    """
    parameters = inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in options:
            if key not in parameters:
                known = ', '.join(parameters)
                raise ValueError(f'{what} takes no option {key!r}{did_you_mean(key, parameters)} It takes: {known}')
    for parameter in parameters_passed_on(factory):
        if parameter.name in options and is_path(parameter.annotation):
            options[parameter.name] = _as_path(options[parameter.name], parameter.annotation)
    try:
        return factory(*args, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{what}: {error}') from error


def parameters_of(factory: Callable) -> list[inspect.Parameter]:
    """Parameters whose annotations are types if their names can be resolved, and text otherwise."""
    try:
        return list(inspect.signature(factory, eval_str=True).parameters.values())
    except Exception:  # names that only type checkers import, or anything else in a user's annotation
        return list(inspect.signature(factory).parameters.values())


def parameters_passed_on(factory: Callable) -> list[inspect.Parameter]:
    """Named parameters; for a class that takes `**kwargs`, also those of its base classes."""
    makers = [factory]
    if inspect.isclass(factory):
        makers = [vars(kind)['__init__'] for kind in factory.__mro__[:-1] if '__init__' in vars(kind)]
    found: dict[str, inspect.Parameter] = {}
    for maker in makers:
        own = parameters_of(maker)[1 if inspect.isclass(factory) else 0 :]
        for one in own:
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                found.setdefault(one.name, one)
        if not any(one.kind is one.VAR_KEYWORD for one in own):
            break
    return list(found.values())


def is_path(annotation: Any) -> bool:
    """Whether an argument with this annotation may be a path or a list of paths; plain text does not count."""
    return any(inspect.isclass(kind) and issubclass(kind, os.PathLike) for kind in _leaves(annotation))


def _as_path(value: Any, annotation: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_as_path(item, annotation) for item in value)
    return Path(value) if isinstance(value, str) and str not in _leaves(annotation) else value


def _leaves(annotation: Any) -> list[Any]:
    """The parts of an annotation: `str` and `Path` for `list[str | Path]`."""
    origin = get_origin(annotation)
    if origin in _NESTING:
        return [kind for one in get_args(annotation) for kind in _leaves(one)]
    return [origin or annotation]


DATASET_REGISTRY = Registry('dataset')
ARCH_REGISTRY = Registry('arch')
MODEL_REGISTRY = Registry('model')
LOSS_REGISTRY = Registry('loss')
METRIC_REGISTRY = Registry('metric')
SCHEDULER_REGISTRY = Registry('scheduler')
STRATEGY_REGISTRY = Registry('strategy')
