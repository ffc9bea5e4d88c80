"""The schema of one option file: its sections, with the arguments of the classes that the file chooses."""

from __future__ import annotations

import copy
import functools
from typing import Any

from pydantic import Field, create_model

from basicsr.options.choices import find, section_for
from basicsr.options.types import Section, field_called, fields_of, is_section, sections_by_name, users_key


def specialised(section: type[Section], written: Any, users: bool) -> type[Section]:
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
            kind = specialised(field.annotation, below, users)
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
            fields[f'section_{index}'] = (specialised(items, below, users), Field(..., alias=name))
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
