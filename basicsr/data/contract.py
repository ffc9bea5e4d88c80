"""How a data set is built from its section of the options.

A data set declares its arguments in its signature, as a network does, and gets each by name. One in BasicSR's manner
takes the whole section, as its one required argument `opt`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch.utils.data import Dataset

from basicsr.options.choices import CHOICES, takes_whole_section
from basicsr.options.types import fields_of
from basicsr.utils.registry import call_checked, parameters_passed_on

Kind = TypeVar('Kind', bound=type)


def from_section(factory: Callable[..., Dataset], section: dict[str, Any]) -> Dataset:
    """Call a data set's class or function with the values of its section; the result's `opt` is the section.

    Of the keys that the loader and the pipeline read, such as phase, scale and name, it gets those that it asks for.

    Raises:
        ValueError: An unknown key, a missing one, or a value that the class refuses.
    """
    if takes_whole_section(factory):
        dataset = factory(section)
        if not hasattr(dataset, 'opt'):
            dataset.opt = section
        return dataset
    known = CHOICES['dataset']
    asked = {parameter.name: parameter for parameter in parameters_passed_on(factory)}
    frameworks = {'type', *known.given, *known.inherited, *fields_of(known.more)}
    arguments = {
        key: value
        for key, value in section.items()
        if (key in asked or key not in frameworks) and not (value is None and _is_left_out(asked.get(key)))
    }
    _check_complete(section['type'], factory, arguments)
    dataset = call_checked(factory, section['type'], **arguments)
    dataset.opt = section
    return dataset


def accepts_opt(kind: Kind) -> Kind:
    """Decorate a data set with a signature so that BasicSR's call `kind(opt)` works as well.

    The arguments are then taken from the section `opt`; other keys are left to subclasses, in `self.opt`. However it is
    called, `kind.check_options`, if it has one, checks the arguments, and the first mistake is raised.
    """
    plain = kind.__init__
    parameters = dict(list(inspect.signature(plain).parameters.items())[1:])

    @functools.wraps(plain)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        opt = kwargs.get('opt', args[0] if len(args) == 1 else None)
        if isinstance(opt, Mapping) and len(args) + len(kwargs) == 1:
            args, kwargs = (), {key: opt[key] for key in parameters if opt.get(key) is not None}
            _check_complete(type(self).__name__, plain, kwargs, skipped=1)
        given = inspect.signature(plain).bind(self, *args, **kwargs)
        given.apply_defaults()
        arguments = {key: value for key, value in given.arguments.items() if key in parameters and value is not None}
        for key, message in getattr(kind, 'check_options', lambda given: ())(arguments):
            raise ValueError(f'{key}: {message}')
        self.opt = opt if isinstance(opt, Mapping) else arguments
        plain(self, *args, **kwargs)

    kind.__init__ = __init__
    return kind


def _is_left_out(parameter: inspect.Parameter | None) -> bool:
    """Whether None, `~` in a file, counts as left out."""
    if parameter is None:
        return False
    kinds = getattr(parameter.annotation, '__args__', ())
    return parameter.default is not None and type(None) not in kinds


def _check_complete(name: str, factory: Callable, arguments: Mapping[str, Any], skipped: int = 0) -> None:
    for parameter in list(inspect.signature(factory).parameters.values())[skipped:]:
        needed = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if needed and parameter.name not in arguments:
            raise ValueError(f'{name} needs the option {parameter.name}')
