"""Checking option files: every mistake, with its place, before anything is built."""

from __future__ import annotations

import copy
import functools
import re
import reprlib
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from basicsr.options import strategies
from basicsr.options.choices import CHOICES, Chosen, ChosenFrom, check_filled, find, section_for, takes_whole_section
from basicsr.options.file import Key, Places, place_of
from basicsr.options.schema import (
    LABELS_OF_TRAINING,
    NEEDED_BY_OWN_MODELS,
    NEEDED_FOR_TRAINING,
    OWN_MODELS,
    READ_BY_OTHERS,
    options_section,
)
from basicsr.options.types import (
    Belongs,
    NotYet,
    Section,
    as_dict,
    field_called,
    fields_of,
    in_words,
    is_section,
    sections_by_name,
    users_key,
)
from basicsr.utils.registry import did_you_mean

Mistakes = dict[Key, str]

_NEAR = 0.8
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxdict = 8
_short.maxlevel = 3


def check_options(opt: dict, places: Places | None = None, is_train: bool = False) -> tuple[dict, list[str]]:
    """Check options and convert their values: 5e3 is a whole number.

    Args:
        opt: The options as they were written, inherited and overridden.
        places: Where each value was written.
        is_train: Also require what training needs.

    Returns:
        The same keys with converted values, in dictionaries of their own; and warnings: what is allowed, and probably
        not what was meant.

    Raises:
        ValueError: Every mistake, a line each: the option, what is expected, what was found, and where.
    """
    check_filled()
    section = _specialised(options_section(), opt, opt.get('model_type') not in OWN_MODELS)
    checked, mistakes = _check(section, opt)
    if is_train:
        for key, message in _needed_for_training(opt):
            if not _is_known(mistakes, key):
                mistakes[key] = f'missing; {message}'
        for label in LABELS_OF_TRAINING:
            if _at(opt, ('compare', label)) is not None:
                mistakes['compare', label] = 'is a row of its own at the end of a training; choose another label'
    _raise(mistakes, places or {})
    return checked, [_line(key, message, places or {}) for key, message in _warnings(section, opt, is_train)]


def check_section(section: type[Section], written: Any, path: str) -> Section:
    """Check a section that does not come from a file; `path` is its place in the options.

    Raises:
        ValueError: As `check_options`.
    """
    section = _specialised(section, written, users=False)
    checked, mistakes = _check(section, written)
    _raise({(*path.split('.'), *key): message for key, message in mistakes.items()}, {})
    return section.model_validate(checked)


def _raise(mistakes: Mistakes, places: Places) -> None:
    if mistakes:
        count = '1 mistake' if len(mistakes) == 1 else f'{len(mistakes)} mistakes'
        lines = (_line(key, message, places) for key, message in mistakes.items())
        raise ValueError(f'the options have {count}:\n  ' + '\n  '.join(lines))


def _line(key: Key, message: str, places: Places) -> str:
    place = place_of(places, key)
    line = f'{".".join(map(str, key))}: {message}' + (f' [{place}]' if place else '')
    return line.replace('\n', '\\n')


def _specialised(section: type[Section], written: Any, users: bool) -> type[Section]:
    """`section` as it is for what was written: `type:` sections have the arguments of the class that they choose.

    Args:
        section: A section of the schema.
        written: What stands there, of any type.
        users: Whether a model of users reads it, which may know more keys. So may a class that is not known at all:
            that it is unknown is the one mistake.
    """
    if not isinstance(written, dict):
        return section
    if section.choice:
        return section_for(section.choice, written)
    changed = {}
    for key, (name, field) in fields_of(section).items():
        items = sections_by_name(field.annotation)
        below = written.get(key)
        if items and isinstance(below, dict):
            kind = _named_sections(items, below, users)
        elif is_section(field.annotation):
            kind = _specialised(field.annotation, below, users)
        else:
            continue
        if kind is not field.annotation:
            changed[name] = (kind, copy.copy(field))  # pydantic 2.5 would change the schema's own
    base = _opened(section) if users and section.open_to_users else section
    if base is not section:
        changed.update(_users_fields(section, written))
    return create_model(section.__name__, __base__=base, **changed) if changed else base


def _users_fields(section: type[Section], written: dict) -> dict[str, Any]:
    """Fields for what was written of the keys that models of users usually read.

    Sections whose `type` says nothing here are left to the model.
    """
    fields = {}
    for index, (key, below) in enumerate(written.items()):
        known = None if field_called(section, key) else users_key(section, key)
        if known is None:
            continue
        kind, description = known
        if is_section(kind):
            name = below.get('type') if isinstance(below, dict) else None
            if find(kind.choice, name) is None:
                continue
            kind = section_for(kind.choice, below)
        fields[f'users_{index}'] = (kind, Field(None, alias=key, description=description))
    return fields


def _named_sections(items: type[Section], written: dict, users: bool) -> type[Section]:
    """A section with one of `items` for each name that was written."""
    fields = {}
    for index, (name, below) in enumerate(written.items()):
        if isinstance(name, str):
            fields[f'section_{index}'] = (_specialised(items, below, users), Field(..., alias=name))
    return create_model('Sections', __base__=Section, **fields)


@functools.cache
def _opened(section: type[Section]) -> type[Section]:
    opened = type(section.__name__, (section,), {'model_config': {'extra': 'allow'}, '__module__': section.__module__})
    field = section.model_fields.get('network_g')
    if field is None:
        return opened
    # A model of users may have networks by other names alone.
    own = (field.annotation, Field(None, description=field.description))
    return create_model(section.__name__, __base__=opened, __doc__=section.__doc__, network_g=own)


def _check(section: type[Section], written: Any) -> tuple[dict, Mistakes]:
    """(converted values, mistakes); with mistakes, the values are what is left without them."""
    if not isinstance(written, dict):
        return {}, {(): f'must be {in_words(section)}, not {_short.repr(written)}'}
    try:
        found: Mistakes = {}
        given = as_dict(section.model_validate(written), written)
    except ValidationError as error:
        found = dict([*_odd_names(section, written, ()), *_translated(error, section, written)])
        given = _without(written, found)
    for key, message in _broken_rules(section, given, ()):
        if not _is_known(found, key):
            found[key] = message
    return given, found


def _odd_names(section: type[Section], written: dict, above: Key) -> Iterator[tuple[Key, str]]:
    """Keys that YAML did not parse as text: numbers, yes, no, ~."""
    for key, value in written.items():
        if not isinstance(key, str):
            yield (*above, key), f'unknown option: names are text, not {_short.repr(key)}; put it in quotes'
        elif isinstance(value, dict) and (field := field_called(section, key)) and is_section(field.annotation):
            yield from _odd_names(field.annotation, value, (*above, key))


def _is_known(mistakes: Mistakes, key: Key) -> bool:
    """Whether there is a mistake at `key` or above it."""
    return any(key[:end] in mistakes for end in range(len(key) + 1))


def _without(written: dict, mistakes: Mistakes, above: Key = ()) -> dict:
    """What was written, without invalid values; anything that should be a section and is not becomes empty."""
    given = {}
    for key, value in written.items():
        place = (*above, key)
        if not isinstance(key, str):
            continue
        if isinstance(value, dict) and (*place, 'type') in mistakes:  # of an unknown class nothing else is known
            given[key] = {'type': value.get('type')}
        elif isinstance(value, dict):
            given[key] = {} if place in mistakes else _without(value, mistakes, place)
        elif place not in mistakes:
            given[key] = value
    return given


def _broken_rules(section: type[Section], given: dict, above: Key) -> Iterator[tuple[Key, str]]:
    left = {key: value for key, value in given.items() if value is not None}
    for path, message in section.rules(left):
        yield (*above, *path.split('.')), message
    for key, (_, field) in fields_of(section).items():
        if is_section(field.annotation) and isinstance(given.get(key), dict):
            yield from _broken_rules(field.annotation, given[key], (*above, key))


def _translated(error: ValidationError, section: type[Section], written: dict) -> Iterator[tuple[Key, str]]:
    """The mistakes that pydantic found, in this project's words."""
    for detail in error.errors(include_url=False):
        key, parent, field = _locate(section, detail['loc'])
        value, kind = _at(written, key), detail['type']
        if kind == 'invalid_key':  # pydantic has made text of it
            continue
        if field is None:
            reader = _reader(key)
            if reader:
                yield key, f'is read by {reader}, not by {written.get("model_type")}; see docs/your_modules.md'
            else:
                yield key, f'unknown option{_nearest(key, parent)}'
        elif kind == 'missing' and len(key) == len(detail['loc']):
            yield key, f'missing; it must be {_expected(field)}'
        elif any(value in data for data in field.metadata if isinstance(data, NotYet)):
            yield key, f'not supported yet: {_short.repr(value)}; so far it must be {_expected(field)}'
        elif kind == 'value_error':
            yield key, str(detail['ctx']['error'])
        else:
            yield key, f'must be {_expected(field)}, not {_short.repr(value)}{_hint(field, value)}'


def _locate(section: type[Section], location: tuple) -> tuple[Key, type[Section], FieldInfo | None]:
    """The option that pydantic refers to, the section that contains it, and its field if known."""
    key: Key = ()
    for part in location:
        key = (*key, part)
        field = field_called(section, part)
        if field is None or not is_section(field.annotation):
            return key, section, field
        parent, section = section, field.annotation
    return key, parent, field


def _expected(field: FieldInfo) -> str:
    choice = next((data.choice for data in field.metadata if isinstance(data, ChosenFrom)), None)
    if choice:
        return f'one of {", ".join(sorted(CHOICES[choice].registry.keys()))}'
    return in_words(field.annotation, field.metadata)


def _hint(field: FieldInfo, value: Any) -> str:
    if get_origin(field.annotation) is not None and isinstance(value, str):
        choices = [text for text in _expected(field).split(' or ') if ' ' not in text]
        return did_you_mean(value, choices).rstrip('.')
    return '; put it in quotes' if field.annotation is str and isinstance(value, int | float) else ''


def _reader(key: Key) -> str | None:
    """Which models read a key that BasicSR's option files have, and that no model here reads."""
    section, name = '.'.join(map(str, key[:-1])), str(key[-1])
    patterns = READ_BY_OTHERS.get(section, {}).items()
    return next((reader for pattern, reader in patterns if re.fullmatch(pattern, name)), None)


def _nearest(key: Key, parent: type[Section]) -> str:
    """For an unknown key: the section that it belongs to, or the most similar known key."""
    near = did_you_mean(key[-1], fields_of(parent))
    elsewhere = [place for place in _sections_with(str(key[-1])) if place]
    return f'; it belongs to {elsewhere[0]}' if near == '.' and elsewhere else near.rstrip('.')


@functools.cache
def _sections_with(key: str) -> list[str]:
    """The sections of the schema that have a key."""

    def look(section: type[Section], path: str) -> Iterator[str]:
        if field_called(section, key):
            yield path
        for name, (_, field) in fields_of(section).items():
            items = sections_by_name(field.annotation)
            if items or is_section(field.annotation):
                below = f'{path}.{name}'.lstrip('.') + ('.<name>' if items else '')
                yield from look(items or field.annotation, below)

    return list(look(options_section(), ''))


def _needed_for_training(opt: dict) -> Iterator[tuple[Key, str]]:
    """What is missing for a training."""
    needed = dict(NEEDED_FOR_TRAINING)
    if opt.get('model_type') in OWN_MODELS:
        needed.update(NEEDED_BY_OWN_MODELS)
    needed.update(strategies.needed(opt))
    for path, message in needed.items():
        if _at(opt, tuple(path.split('.'))) is None:
            yield tuple(path.split('.')), message


def _validation_sets(opt: dict) -> list[str]:
    return [name for name in _at(opt, ('datasets',)) or {} if str(name).split('_')[0] == 'val']


def _at(opt: Any, key: Key) -> Any:
    for part in key:
        opt = opt.get(part) if isinstance(opt, dict) else None
    return opt


def _warnings(section: type[Section], opt: dict, is_train: bool) -> Iterator[tuple[Key, str]]:
    """What is allowed, and probably not what was meant."""
    if is_train:
        yield from _without_effect(opt)
    yield from _doubtful(section, opt, ())
    yield from _unchecked_datasets(opt)


def _unchecked_datasets(opt: dict) -> Iterator[tuple[Key, str]]:
    """For each class that takes its whole section, the data sets that it makes; none of them is checked."""
    sections: dict[str, list[str]] = {}
    for phase, section in opt['datasets'].items():
        if takes_whole_section(find('dataset', section['type'])):
            sections.setdefault(section['type'], []).append(phase)
    for name, (first, *others) in sections.items():
        also = f' (and {", ".join(f"datasets.{phase}" for phase in others)})' if others else ''
        reason = f'{name} takes its whole section as `opt`, so that misspelt keys go unnoticed'
        yield ('datasets', first), f'not checked beyond what every data set has{also}: {reason}'


def _without_effect(opt: dict) -> Iterator[tuple[Key, str]]:
    """Training keys that have no effect without others."""
    every = _at(opt, ('val', 'val_freq'))
    if _at(opt, ('logger', 'save_best')) and not (every and _validation_sets(opt)):
        missing = 'datasets.val' if every else 'val.val_freq'
        yield ('logger', 'save_best'), f'without effect: nothing is validated without {missing}'
    if _at(opt, ('logger', 'keep_checkpoints')) and not _at(opt, ('logger', 'save_checkpoint_freq')):
        yield ('logger', 'keep_checkpoints'), 'without effect: no checkpoints are made without save_checkpoint_freq'
    for path, message in strategies.without_effect(opt):
        yield tuple(path.split('.')), message


def _doubtful(section: type[Section], written: dict, above: Key) -> Iterator[tuple[Key, str]]:
    """Keys that are read by nothing, or that only a user's class can know and are almost those that everybody knows."""
    fields = fields_of(section)
    for key, value in written.items():
        if key in fields:
            field = fields[key][1]
            for data in field.metadata:
                if isinstance(data, Belongs):
                    yield (*above, key), f'ignored here; it belongs to {data.to}'
            if is_section(field.annotation) and isinstance(value, dict):
                yield from _doubtful(field.annotation, value, (*above, key))
        elif known := users_key(section, key):
            yield from _unknown_type(known[0], value, (*above, key))
        elif not issubclass(section, Chosen) and (near := did_you_mean(key, fields, _NEAR)) != '.':
            yield (*above, key), f'read by nothing here{near}'


def _unknown_type(kind: Any, value: Any, key: Key) -> Iterator[tuple[Key, str]]:
    """A `type` that is registered nowhere, where a model of a user may yet know what it means."""
    name = value.get('type') if isinstance(value, dict) and is_section(kind) else None
    if isinstance(name, str) and find(kind.choice, name) is None:
        known = CHOICES[kind.choice]
        near = did_you_mean(name, known.registry.keys()).rstrip('.')
        yield (*key, 'type'), f'{name!r} is no {known.word} that is known here{near}'
