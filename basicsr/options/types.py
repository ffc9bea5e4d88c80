"""Building blocks of the schema: types of values, their descriptions in words, and `Section`."""

from __future__ import annotations

import copy
import functools
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import annotated_types as limits
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.fields import FieldInfo

_WORDS = {
    int: ('a whole number', 'whole numbers'),
    float: ('a number', 'numbers'),
    str: ('text', 'texts'),
    bool: ('true or false', 'true or false'),
}


LARGEST = 2**63 - 1
"""The largest whole number that the libraries below can count to."""


def is_too_large(value: Any) -> bool:
    """Whether a whole number is more than libraries can count to."""
    return isinstance(value, int) and not -LARGEST <= value <= LARGEST


def _whole(value: Any) -> Any:
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return 'too large' if is_too_large(value) else value


def Ceiling(most: float) -> AfterValidator:
    """An upper bound far above all that is useful, which is mentioned only where a value is above it.

    It is there so that a slip of the finger is called one at once, instead of ending in a machine without memory.
    """
    return AfterValidator(functools.partial(_not_above, most=most))


def _not_above(value: float, most: float) -> float:
    if value > most:
        raise ValueError(f'must be at most {most}, not {value}')
    return value


def Whole(least: int | None = None, most: int | None = None, ceiling: int | None = None) -> Any:
    """Whole numbers from `least` to `most`, or to a `Ceiling`; 5e3 counts as one."""
    last = [] if ceiling is None else [Ceiling(ceiling)]
    return Annotated[(int, BeforeValidator(_whole), *_limits(Ge=least, Le=most), *last)]


def Real(
    least: float | None = None, most: float | None = None, above: float | None = None, below: float | None = None
) -> Any:
    """Finite numbers in an interval."""
    return Annotated[(float, BeforeValidator(_no_more_than_a_float), *_limits(Ge=least, Le=most, Gt=above, Lt=below))]


def _no_more_than_a_float(value: Any) -> Any:
    return 'too large' if isinstance(value, int) and abs(value) > 10**308 else value


def _limits(**values: float | None) -> list[Any]:
    return [getattr(limits, name)(value) for name, value in values.items() if value is not None]


def List(item: Any, least: int | None = None, most: int | None = None) -> Any:
    """Lists with a given number of items."""
    return Annotated[list[item], limits.Len(least or 0, most)] if least or most else list[item]


_LONGEST_NAME = 200
"""Bytes; file systems allow 255, and a file's name has more parts than one."""


def name_fault(name: str) -> str | None:
    """Why a name cannot be part of the name of a file or folder: it would lie elsewhere, or nowhere. Else None."""
    if '/' in name or '\\' in name:
        return f'is part of the names of files and folders, so it cannot hold a slash: {name!r}'
    if not name.isprintable():
        return f'is part of the names of files and folders, so it cannot hold control characters: {name!r}'
    if not 0 < len(name.encode()) <= _LONGEST_NAME:
        length = f'longer than {_LONGEST_NAME} bytes' if name else 'empty'
        return f'is part of the names of files and folders, so it cannot be {length}: {name[:40]!r}'
    return None


def _name_part(name: str) -> str:
    if name and (fault := name_fault(name)):
        raise ValueError(fault)
    return name


def _folder_name(name: str) -> str:
    if fault := name_fault(name):
        raise ValueError(fault.replace('is part of the names of files and folders', 'names a folder'))
    if name.strip() in ('', '.', '..'):
        raise ValueError(f'names a folder, so it cannot be blank or dots: {name!r}')
    return name


NamePart = Annotated[str, AfterValidator(_name_part)]
"""Part of the name of a file; it may be empty."""
FolderName = Annotated[str, AfterValidator(_folder_name)]
"""Name of a folder."""


@dataclass(frozen=True)
class Said:
    """Gives a type a better name than `in_words` would find for it."""

    one: str
    several: str


_PERCENT = r'^([0-9]{0,6}[1-9][0-9]{0,6}(\.[0-9]{1,9})?|[0-9]{1,6}\.[0-9]{0,9}[1-9][0-9]{0,9}) ?%$'
Share = Annotated[
    str,
    StringConstraints(pattern=_PERCENT),
    Said('a share of train.total_iter such as 5%', 'shares of train.total_iter such as 5%'),
]
Time = Real(least=1) | Share
"""A length of time: a number of iterations, or a share of the run. `iterations` converts it to a number."""


def iterations(time: float | str, total_iter: int) -> float:
    """A `Time` in iterations, which need not be whole: 5% of 10 is 0.5."""
    return float(time.removesuffix('%')) / 100 * total_iter if isinstance(time, str) else float(time)


@dataclass(frozen=True)
class Belongs:
    """Marks a key that some files have at the wrong level; `to` is the right one."""

    to: str


def option(default: Any, description: str, alias: str | None = None) -> Any:
    """A key of a section.

    Args:
        default: The value if the key is left out; `...` for a required key.
        description: For people, one or two sentences: what it does, unit, range.
        alias: The key, if it is not a valid Python name.
    """
    return Field(default, description=description, alias=alias)


class Section(BaseModel):
    """A section of an option file, with its keys as fields. Other keys are mistakes; `~` means left out."""

    model_config = ConfigDict(extra='forbid', strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
    open_to_users: ClassVar[bool] = False
    """Whether users' models may read keys here that the schema does not know."""
    users_keys: ClassVar[dict[str, tuple[Any, str]]] = {}
    """Keys that users' models commonly read, by pattern: type and description. They are checked if such a model is
    chosen."""
    choice: ClassVar[str | None] = None
    """The entry of `CHOICES` that `type:` chooses from, if the section has one."""

    @model_validator(mode='before')
    @classmethod
    def _leave_out(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        return {key: value for key, value in section.items() if value is not None or field_called(cls, key) is None}

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Mistakes that involve more than one key, as (dotted key within the section, message).

        Args:
            given: The keys that are set and valid on their own.
        """
        return iter(())


def fields_of(section: type[Section]) -> dict[str, tuple[str, FieldInfo]]:
    """(attribute, field) of each key."""
    return {field.alias or name: (name, field) for name, field in section.model_fields.items()}


def field_called(section: type[Section], key: Any) -> FieldInfo | None:
    return fields_of(section).get(key, (None, None))[1]


def users_key(section: type[Section], key: Any) -> tuple[Any, str] | None:
    """Type and description of a key of `Section.users_keys`."""
    matches = (entry for pattern, entry in section.users_keys.items() if re.fullmatch(pattern, str(key)))
    return next(matches, None)


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def sections_by_name(annotation: Any) -> type[Section] | None:
    """X if the annotation is dict[str, X] and X is a section."""
    arguments = get_args(annotation)
    return arguments[1] if get_origin(annotation) is dict and is_section(arguments[1]) else None


def takes_nothing(field: FieldInfo) -> bool:
    """Whether None is a valid value, or the default anyway."""
    whole = get_args(field.annotation) if get_origin(field.annotation) in (Union, types.UnionType) else ()
    return not field.is_required() and (field.default is None or field.annotation is Any or type(None) in whole)


def as_dict(section: Section, written: dict) -> dict:
    """`section` as a plain dictionary with the keys that were written, in their order, and values converted.

    A key that was written as `~` stays where its default is None, and goes where its default is something else.
    """
    fields, result = fields_of(type(section)), {}
    for key, value in written.items():
        if key not in fields:
            result[key] = copy.deepcopy(value)
        elif value is not None:
            result[key] = _plain(getattr(section, fields[key][0]), value)
        elif takes_nothing(fields[key][1]):
            result[key] = None
    return result


def _plain(value: Any, written: Any) -> Any:
    if isinstance(value, Section):
        return as_dict(value, written)
    if isinstance(value, dict):
        return {key: _plain(item, written[key]) for key, item in value.items()}
    return copy.deepcopy(value)


def in_words(annotation: Any, metadata: Iterable[Any] = (), many: bool = False) -> str:
    """A type in words, for example 'a whole number of at least 1'; plural with `many`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0], arguments[1:], many)
    if origin in (Union, types.UnionType):
        return ' or '.join(in_words(one, many=many) for one in arguments if one is not type(None))
    if origin is Literal:
        return ' or '.join('true' if one is True else 'false' if one is False else str(one) for one in arguments)
    if origin is list or annotation is list:
        return _list_in_words(arguments[0] if arguments else Any, metadata)
    if is_section(annotation) or sections_by_name(annotation) or dict in (annotation, origin):
        return 'a section (`key: value` lines)'
    said = next((data for data in metadata if isinstance(data, Said)), None)
    one, several = (said.one, said.several) if said else _WORDS.get(annotation, ('anything', 'values'))
    return (several if many else one) + _interval(metadata)


def _list_in_words(item: Any, metadata: Iterable[Any]) -> str:
    items = in_words(item, many=True)
    length = next((data for data in metadata if isinstance(data, limits.Len)), limits.Len())
    if length.min_length and length.min_length == length.max_length:
        return f'a list of {length.min_length} {items}'
    return f'a list of {length.min_length} or more {items}' if length.min_length else f'a list of {items}'


def _interval(metadata: Iterable[Any]) -> str:
    words = {limits.Ge: ('of at least', 'ge'), limits.Gt: ('above', 'gt')}
    words |= {limits.Le: ('at most', 'le'), limits.Lt: ('below', 'lt')}
    bounds = [(words[type(data)], data) for data in metadata if type(data) in words]
    text = ' and '.join(f'{word} {getattr(data, name)}' for (word, name), data in bounds)
    return f' {text}' if text else ''
