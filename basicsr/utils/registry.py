"""Classes and functions that option files choose by name (`type: MambaIR`)."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def did_you_mean(name: object, choices: Iterable[str], cutoff: float = 0.5) -> str:
    """Return '; did you mean …?' with the choice nearest to `name`, or '.' where none is near."""
    near = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=cutoff)
    return f'; did you mean {near[0]!r}?' if near else '.'


class Registry:
    """Maps a name to a class or function.

    Used as a decorator, `@ARCH_REGISTRY.register()`, or as a call, `ARCH_REGISTRY.register(MyNet)`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._objects: dict[str, Any] = {}

    def register(self, obj: Any = None, suffix: str | None = None, name: str | None = None) -> Any:
        """Add `obj` under `name`, by default its own (plus `_suffix`); without `obj`, return a decorator that does.

        Raises:
            KeyError: The name is taken by another object.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, suffix, name)
        name = name or obj.__name__
        name = name if suffix is None else f'{name}_{suffix}'
        if self._objects.get(name, obj) is not obj:
            raise KeyError(f'{name!r} is already registered in the {self.name} registry, by {self._objects[name]!r}')
        self._objects[name] = obj
        return obj

    def get(self, name: str, suffix: str = 'basicsr') -> Any:
        """Return the object called `name`, or else `name_suffix`.

        Raises:
            KeyError: Nothing of that name; the message lists the choices and the nearest one.
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
        ValueError: `opt` has no `type`, or an entry that is no argument of the class.
    """
    opt = dict(opt)
    if 'type' not in opt:
        raise ValueError(
            f'a section of the options that chooses a {registry.name} needs `type`; it has {", ".join(opt)}'
        )
    kind = opt.pop('type')
    return call_checked(registry.get(kind), kind, *args, **opt)


def call_checked(factory: Any, what: str, *args: Any, **options: Any) -> Any:
    """Call `factory`, whose keyword arguments come from an option file.

    Raises:
        ValueError: It takes no such option, or rejects a value; the message begins with `what`.
    """
    parameters = inspect.signature(factory).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for key in options:
            if key not in parameters:
                known = ', '.join(parameters)
                raise ValueError(f'{what} takes no option {key!r}{did_you_mean(key, parameters)} It takes: {known}')
    try:
        return factory(*args, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{what}: {error}') from error


DATASET_REGISTRY = Registry('dataset')
ARCH_REGISTRY = Registry('arch')
MODEL_REGISTRY = Registry('model')
LOSS_REGISTRY = Registry('loss')
METRIC_REGISTRY = Registry('metric')
SCHEDULER_REGISTRY = Registry('scheduler')
