"""Writes docs/options.schema.json, for editors, and docs/options.md, for people, from the schema of option files.

    python scripts/analysis/options_schema.py [--check]
    python scripts/analysis/options_schema.py --import my/net_arch.py --output my

With --check, nothing is written; the exit code is 1 if a file is not up to date. With --import, the files also cover
networks, data sets, losses, … of your own, and editors complete and check their keys.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import types
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import annotated_types as limits
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

import basicsr.data
import basicsr.models  # noqa: F401  registers what can be chosen
from basicsr.options.choices import CHOICES, ChosenFrom, arguments_of, chosen_section
from basicsr.options.schema import options_section
from basicsr.options.types import Section, fields_of, in_words, is_section, sections_by_name
from basicsr.runs.command_line import add_import_argument, run_from_command_line
from basicsr.runs.user_modules import import_user_modules, on_command_line
from basicsr.utils.registry import all_registered

JSON, PAGE = ROOT / 'docs' / 'options.schema.json', ROOT / 'docs' / 'options.md'

_TYPES = {int: 'integer', float: 'number', str: 'string', bool: 'boolean', type(None): 'null', dict: 'object'}
_LIMITS = {
    limits.Ge: ('minimum', 'ge'),
    limits.Gt: ('exclusiveMinimum', 'gt'),
    limits.Le: ('maximum', 'le'),
    limits.Lt: ('exclusiveMaximum', 'lt'),
}
_INTRO = """# Options

Every key of an option file. Made by `python scripts/analysis/options_schema.py` from `basicsr/options/schema.py`
and from the signatures of what `type:` chooses; edit those. `~` is the same as leaving a key out; `5e3` is a whole
number. `python Train_pip.py --check -opt FILE` looks at a file without running it. Editors with the YAML language
server check and complete while you type, where a file begins with
`# yaml-language-server: $schema=<path to docs/options.schema.json>`.

Keys marked with * are needed. A model of your own may read more keys of the top level, `path`, `train` and `val`; a
data set that takes its whole section, as one argument `opt`, any key of that.
"""


_imported: set[tuple[str, str]] = set()
"""(registry, name) of what `--import` has registered."""


def own(choice: str) -> dict[str, Any]:
    """The choices that this project or `--import` defines; the rest depend on the version of torch."""
    registry = CHOICES[choice].registry
    return {name: registry.get(name) for name in sorted(registry.keys())
            if (registry.name, name) in _imported
            or getattr(registry.get(name), '__module__', 'basicsr.').startswith('basicsr.')}  # fmt: skip


def json_type(annotation: Any, metadata: Any = ()) -> dict[str, Any]:
    """JSON schema of a type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return json_type(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return {'anyOf': [json_type(one) for one in arguments]}
    if origin is Literal:
        return {'enum': list(arguments)}
    if sections_by_name(annotation):
        return {'type': 'object', 'additionalProperties': _or_null(json_section(arguments[1]))}
    if is_section(annotation):
        return json_section(annotation)
    if origin is list or annotation is list:
        length = next((data for data in metadata if isinstance(data, limits.Len)), limits.Len())
        array = {'type': 'array', 'items': json_type(arguments[0]) if arguments else {}}
        array.update({'minItems': length.min_length} if length.min_length else {})
        return array | ({'maxItems': length.max_length} if length.max_length else {})
    chosen = next((data.choice for data in metadata if isinstance(data, ChosenFrom)), None)
    if chosen:
        return {'type': 'string', 'examples': list(own(chosen))}
    pattern = next((data.pattern for data in metadata if isinstance(data, StringConstraints)), None)
    if pattern:
        return {'type': 'string', 'pattern': pattern}
    interval = {_LIMITS[type(data)][0]: getattr(data, _LIMITS[type(data)][1]) for data in metadata
                if type(data) in _LIMITS}  # fmt: skip
    return {'type': _TYPES[annotation], **interval} if annotation in _TYPES else {}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow null as well: a file may leave a key out with `~`."""
    if 'anyOf' in schema:
        return {**schema, 'anyOf': [*schema['anyOf'], {'type': 'null'}]}
    if 'enum' in schema:
        return {**schema, 'enum': [*schema['enum'], None]}
    return {**schema, 'type': [schema['type'], 'null']} if schema else {}


def json_section(section: type[Section]) -> dict[str, Any]:
    """JSON schema of a section. No key is required, since a base file may have it."""
    properties = {}
    for key, (_, field) in fields_of(section).items():
        properties[key] = _or_null(json_type(field.annotation, field.metadata))
        properties[key].update({'description': field.description} if field.description else {})
        properties[key].update({'default': field.default} if _has_default(field) else {})
    if section.choice and section is chosen_section(section.choice):
        branches = [
            {'if': {'properties': {'type': {'const': name}}, 'required': ['type']}, 'then': json_section(arguments)}
            for name, arguments in _arguments(section.choice)
        ]
        return {'type': 'object', 'properties': properties, **({'allOf': branches} if branches else {})}
    patterns = {
        f'^({pattern})$': {
            **_or_null({'type': 'object'} if is_section(kind) else json_type(kind)),
            'description': description,
        }
        for pattern, (kind, description) in section.users_keys.items()
    }
    return {
        'type': 'object',
        'properties': properties,
        **({'patternProperties': patterns} if patterns else {}),
        'additionalProperties': section.model_config['extra'] == 'allow',
    }


def _arguments(choice: str) -> Iterator[tuple[str, type[Section]]]:
    for name, factory in own(choice).items():
        yield name, arguments_of(choice, factory)


def _has_default(field: FieldInfo) -> bool:
    simple = field.default is None or isinstance(field.default, int | float | str | list | tuple)
    return not field.is_required() and field.default is not None and simple


def json_schema() -> str:
    """docs/options.schema.json."""
    needed = [key for key, (_, field) in fields_of(options_section()).items() if field.is_required()]
    schema = {
        '$schema': 'http://json-schema.org/draft-07/schema#',
        'title': 'Options of a training or a test',
        **json_section(options_section()),
        'anyOf': [{'required': ['_base_']}, {'required': needed}],
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + '\n'


def page() -> str:
    """docs/options.md."""
    parts = [_INTRO, *(f'## {title}\n\n{table}' for title, table in _sections(options_section(), ''))]
    for choice, known in CHOICES.items():
        if choice in ('model', 'criterion'):
            continue
        parts.append(f'## `type:` – {known.word}\n')
        if fields_of(known.more):
            parts.append(f'Beside the arguments of whatever is chosen:\n\n{_table(known.more)}')
        if choice == 'optimizer':
            parts.append('Any class of `torch.optim`, with its arguments as torch documents them.\n')
        for name, arguments in _arguments(choice):
            parts.append(f'### {name}\n\n{_table(arguments, fields_of(known.more))}')
            parts += [f'#### {title} of {name}\n\n{table}' for title, table in list(_sections(arguments, ''))[1:]]
        others = sorted(set(CHOICES[choice].registry.keys()) - set(own(choice)))
        if others and choice != 'optimizer':
            parts.append(f'{", ".join(others)}: a class of torch; its arguments are in the documentation of torch.\n')
    return '\n'.join(parts)


def _sections(section: type[Section], path: str) -> Iterator[tuple[str, str]]:
    yield f'`{path}`' if path else 'Top level', _table(section)
    for key, (_, field) in fields_of(section).items():
        items = sections_by_name(field.annotation)
        below = items or field.annotation
        if is_section(below) and not below.choice:
            yield from _sections(below, f'{path}.{key}'.lstrip('.') + ('.<name>' if items else ''))


def _table(section: type[Section], told: Collection[str] = ()) -> str:
    """The table of a section's keys, without those listed before."""
    rows = ['| key | value | default | |', '| --- | --- | --- | --- |']
    rows_of_users = [
        f'| `{pattern.replace(chr(92) + "w+", "*")}`, of models of your own | '
        f'{"section" if is_section(kind) else in_words(kind)} | | {description} |'
        for pattern, (kind, description) in section.users_keys.items()
    ]
    for key, (_, field) in fields_of(section).items():
        if key in told or (key == 'type' and section.choice):
            continue
        default = f'`{_yaml(field.default)}`' if _has_default(field) else ''
        cells = [f'`{key}`{"*" if field.is_required() else ""}', _value(field), default, field.description or '']
        rows.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    rows += rows_of_users
    return '\n'.join(rows) + '\n' if len(rows) > 2 else 'No arguments.\n'


def _value(field: FieldInfo) -> str:
    chosen = next((data.choice for data in field.metadata if isinstance(data, ChosenFrom)), None)
    if chosen:
        return ', '.join(own(chosen))
    if sections_by_name(field.annotation):
        return 'sections'
    return 'section' if is_section(field.annotation) else in_words(field.annotation, field.metadata)


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list | tuple) or value == '' else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; exit with 1 if a file is stale')
    parser.add_argument('--output', type=Path, metavar='FOLDER', help='where to write; default: docs/')
    add_import_argument(parser)
    parser.add_argument('--debug', action='store_true', help='show tracebacks of errors')
    args = parser.parse_args()
    run_from_command_line(lambda: write(args), args.debug)


def write(args: argparse.Namespace) -> None:
    if args.imports and not args.output:
        raise ValueError('--import: name another folder with --output; docs/ is for what the project itself has')
    before = set(all_registered())
    import_user_modules(on_command_line(args.imports, ROOT), ROOT)
    _imported.update(set(all_registered()) - before)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    json_file, page_file = (args.output / file.name if args.output else file for file in (JSON, PAGE))
    files = {json_file: json_schema(), page_file: page()}
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding='utf-8') != text]
    for path in stale:
        if args.check:
            print(f'{os.path.relpath(path, ROOT)} is stale: python scripts/analysis/options_schema.py')
        else:
            path.write_text(files[path], encoding='utf-8')
            print(f'written: {os.path.relpath(path)}')
    sys.exit(bool(args.check and stale))


if __name__ == '__main__':
    main()
