"""Checking option files: every mistake, with its place, before anything is built."""

from __future__ import annotations

import functools
import re
import reprlib
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from basicsr.options import strategies
from basicsr.options.choices import CHOICES, ChosenFrom, check_filled
from basicsr.options.doubts import doubts
from basicsr.options.file import Key, Places, place_of, value_at
from basicsr.options.schema import (
    LABELS_OF_TRAINING,
    NEEDED_BY_OWN_MODELS,
    NEEDED_FOR_TRAINING,
    OWN_MODELS,
    READ_BY_OTHERS,
    losses_of,
    options_section,
)
from basicsr.options.specialised import specialised
from basicsr.options.types import (
    Section,
    as_dict,
    field_called,
    fields_of,
    in_words,
    is_section,
    is_too_large,
    sections_by_name,
)
from basicsr.utils.registry import did_you_mean

Mistakes = dict[Key, str]

_LONGEST = 1000
"""Letters of a mistake, and of its place."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80
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
    section = specialised(options_section(), opt, opt.get('model_type') not in OWN_MODELS)
    checked, mistakes = _check(section, opt)
    if is_train:
        for key, message in _needed_for_training(opt):
            if not _is_known(mistakes, key):
                mistakes[key] = f'missing; {message}'
        for label in LABELS_OF_TRAINING:
            if value_at(opt, ('compare', label)) is not None:
                mistakes['compare', label] = 'is a row of its own at the end of a training; choose another label'
    _raise(mistakes, places or {})
    return checked, [_line(key, message, places or {}) for key, message in doubts(section, opt, is_train)]


def check_section(section: type[Section], written: Any, path: str) -> Section:
    """Check a section that does not come from a file; `path` is its place in the options.

    Raises:
        ValueError: As `check_options`.
    """
    section = specialised(section, written, users=False)
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
    parts = f'{".".join(map(str, key))}: {message}', f' [{place}]' if place else ''
    return ''.join(part if len(part) <= _LONGEST else f'{part[:_LONGEST]}…' for part in parts).replace('\n', '\\n')


def _check(section: type[Section], written: Any) -> tuple[dict, Mistakes]:
    """(converted values, mistakes); with mistakes, the values are what is left without them."""
    if not isinstance(written, dict):
        return {}, {(): f'must be {in_words(section)}, not {_short.repr(written)}'}
    try:
        found: Mistakes = {}
        given = as_dict(section.model_validate(written), written)
    except ValidationError as error:
        for key, message in [*_odd_names(section, written, ()), *_translated(error, section, written)]:
            found.setdefault(key, message)  # of a choice of types, the first knows what is wrong
        given = _without(written, found)
    for key, message in _broken_rules(section, given, (), found):
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


def _broken_rules(section: type[Section], given: dict, above: Key, found: Mistakes) -> Iterator[tuple[Key, str]]:
    """The mistakes that sections find in what is `given`.

    A class that `type:` chooses is not asked about arguments of which one is wrong in itself: it would go by defaults
    in its place.
    """
    left = {key: value for key, value in given.items() if value is not None}
    if not (section.choice and any(key[: len(above)] == above for key in found)):
        for path, message in section.rules(left):
            yield (*above, *path.split('.')), message
    for key, (_, field) in fields_of(section).items():
        if is_section(field.annotation) and isinstance(given.get(key), dict):
            yield from _broken_rules(field.annotation, given[key], (*above, key), found)


def _translated(error: ValidationError, section: type[Section], written: dict) -> Iterator[tuple[Key, str]]:
    """The mistakes that pydantic found, in this project's words."""
    for detail in error.errors(include_url=False):
        key, parent, field = _locate(section, detail['loc'])
        value, kind = value_at(written, key), detail['type']
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
    if is_too_large(value):
        return '; that is too large'
    if get_origin(field.annotation) is not None and isinstance(value, str):
        choices = [text for text in _expected(field).split(' or ') if ' ' not in text]
        return did_you_mean(value, choices).rstrip('.')
    is_scalar = value is not None and not isinstance(value, str | list | dict)
    return '; put it in quotes' if field.annotation is str and is_scalar else ''


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
        if 'train.pixel_opt' not in losses_of(opt['model_type']):
            del needed['train.pixel_opt']
    if value_at(opt, ('train', 'perceptual_opt')) is not None:
        needed.pop('train.pixel_opt', None)
    needed.update(strategies.needed(opt))
    for path, message in needed.items():
        if value_at(opt, tuple(path.split('.'))) is None:
            yield tuple(path.split('.')), message
