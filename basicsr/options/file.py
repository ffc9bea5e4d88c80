"""Reading option files: YAML, inheritance by `_base_`, overrides from the command line; and where each value is."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

Key = tuple[Any, ...]
"""Place of a value in the options: ('train', 'optim_g', 'lr'), with a number for an item of a list."""
Places = dict[Key, str]
"""Where each value was written: `file.yml, line 12` or `--set train.total_iter=5`."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, and duplicate keys and sections that contain themselves are mistakes."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _error(f'duplicate key {key.value!r}', key)
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, OverflowError, KeyError, IndexError, AttributeError) as error:
            kind = node.tag.rpartition(':')[2]
            raise _error(f'{str(node.value)[:60]!r} is no {kind}', node) from error


def _error(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that writes an OrderedDict as any other mapping."""


_Dumper.add_representer(OrderedDict, lambda dumper, mapping: dumper.represent_dict(mapping.items()))


def ordered_yaml() -> tuple[type, type]:
    """(loader, dumper) of option files; mappings keep their order."""
    return _Loader, _Dumper


def _lines(loader: _Loader, node: yaml.Node, key: Key, above: tuple[int, ...] = ()) -> Iterator[tuple[Key, int]]:
    """The line of each value below `node`."""
    if id(node) in above:
        raise _error('a section cannot hold itself', node)
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode):
                is_merge = name.tag.endswith(':merge')
                below = (*key, name.value if is_merge else loader.construct_object(name))
                yield below, name.start_mark.line + 1
                yield from _lines(loader, value, below, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1
            yield from _lines(loader, value, (*key, index), above)


def _read(text: str, source: str) -> tuple[Any, dict[Key, int]]:
    """The value of a YAML text, and the line of each of its parts.

    Raises:
        ValueError: It is not valid YAML; the message begins with `source` and the line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        dict(_lines(loader, node, ()))  # before constructing, which may not end where a section holds itself
        value = loader.construct_document(node)
        return value, dict(_lines(loader, node, ()))  # once more: constructing has merged `<<`
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f', line {mark.line + 1}' if mark else ''
        problem = getattr(error, 'problem', None) or str(error).splitlines()[0]
        raise ValueError(f'{source}{where}: {problem}') from error
    except RecursionError as error:
        raise ValueError(f'{source}: sections are nested too deeply') from error


def yaml_load(f: str | Path) -> Any:
    """Read an option file, or YAML text; it overrides the files that it names under `_base_`.

    A section that names another `type` than the base's replaces it; other sections are merged key by key, and a base's
    `imports` come before those of the file.

    Args:
        f: The file; or YAML text, which must be more than a single word, lest it be taken for a file name.

    Returns:
        The options of a file; of a text, whatever it holds. A text's bases are relative to the current folder.

    Raises:
        FileNotFoundError: The file, or a base, is not there.
        ValueError: Invalid YAML, a file without a mapping, or bases that inherit from each other.
    """
    if isinstance(f, Path) or os.path.isfile(f):
        return load_options(f)[0]
    value, lines = _read(f, 'the YAML text')
    if isinstance(value, str) and '\n' not in f.strip():  # a file's name is YAML, too
        return load_options(f)[0]
    return _inherited(value, lines, Path.cwd() / 'the YAML text', ())[0] if isinstance(value, dict) else value


def load_options(path: str | Path) -> tuple[dict, Places]:
    """Like `yaml_load`, but also returns where each value was written."""
    return _load(Path(path).resolve(), ())


def _load(path: Path, above: tuple[Path, ...]) -> tuple[dict, Places]:
    if path in above:
        raise ValueError(f'{path} inherits from itself: {" -> ".join(file.name for file in (*above, path))}')
    if not path.is_file():
        asked = f' (`_base_` of {above[-1]})' if above else ''
        raise FileNotFoundError(f'there is no option file {path}{asked}')
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text in UTF-8') from error
    opt, lines = _read(text, str(path))
    if not isinstance(opt, dict):
        raise ValueError(f'{path} holds no options: its top level must be `key: value` lines')
    return _inherited(opt, lines, path, above)


def _inherited(opt: dict, lines: dict[Key, int], path: Path, above: tuple[Path, ...]) -> tuple[dict, Places]:
    """The options of a file, merged with those that it inherits."""
    bases = opt.pop('_base_', None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f'{path}, line {lines[("_base_",)]}: _base_ must be a file, or a list of files')
    merged, places = {}, {}
    for base in bases:
        inherited, base_places = _load((path.parent / base).resolve(), (*above, path))
        merged = merge(merged, inherited)
        _add_places(places, base_places, inherited, merged)
    shown = _shown(path)
    merged = merge(merged, opt)
    _add_places(places, {key: f'{shown}, line {line}' for key, line in lines.items()}, opt, merged)
    places[()] = shown
    return merged, places


def _add_places(places: Places, new: Places, written: dict, merged: dict) -> None:
    """Record where the values were written; their `imports` may come after others in `merged`."""
    own, imports = _as_list(written.get('imports')), _as_list(merged.get('imports'))
    for key, place in new.items():
        if key[:1] == ('imports',) and isinstance(own, list) and isinstance(imports, list):
            index = key[1] if len(key) > 1 else 0
            places[('imports', imports.index(own[index]), *key[2:])] = place
            key = key[:1]
        places[key] = place


def _shown(path: Path) -> str:
    """The path relative to the current folder if it lies inside, else as it is."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith('..') else relative


def merge(base: dict, over: dict) -> dict:
    """The options of `base` overridden by those of `over`; the `imports` of both are kept."""
    merged = _merge(base, over)
    first, then = _as_list(base.get('imports')), _as_list(over.get('imports'))
    if isinstance(first, list) and isinstance(then, list):
        merged['imports'] = [*first, *(entry for entry in then if entry not in first)]
    return merged


def _as_list(imports: Any) -> Any:
    return [imports] if isinstance(imports, str) else imports


def _merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get('type', old.get('type')) == old.get('type'):
            value = _merge(old, value)
        merged[key] = value
    return merged


def override(opt: dict, assignments: Iterable[str], places: Places | None = None) -> None:
    """Apply `a.b=value` assignments in place; values are read as YAML.

    Args:
        opt: The options.
        assignments: Each of the form `a.b=value`.
        places: Updated with where the values come from.

    Raises:
        ValueError: No `=`, a value that is not valid YAML, or a path through something that is not a section.
    """
    places = {} if places is None else places
    for assignment in assignments:
        source = f'--set {assignment}'
        dotted, sign, text = assignment.partition('=')
        *sections, last = dotted.split('.')
        if not sign or not all((*sections, last)):
            raise ValueError(f'{source}: write it as a.b=value')
        if dotted == '_base_':
            raise ValueError(f'{source}: a file inherits, the command line does not; name the base in the file')
        target = opt
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            else:  # sections that YAML aliases share are changed here alone
                target[section] = dict(target[section]) if isinstance(target[section], dict) else target[section]
            target = target[section]
            if not isinstance(target, dict):
                raise ValueError(f'{source}: {section} is no section of the options')
        target[last], lines = _read(text, source)
        key = (*sections, last)
        places.update({(*key, *below): source for below in lines})
        places.update({key[:end]: source for end in range(1, len(key)) if key[:end] not in places})
        places[key] = source


def place_of(places: Places, key: Key) -> str:
    """Where the value at `key` was written, or else its nearest parent; '' if unknown."""
    return next((places[key[:end]] for end in range(len(key), -1, -1) if key[:end] in places), '')


def value_at(opt: Any, key: Key) -> Any:
    """The value at `key`, or None where there is none, or something on the way is no section."""
    for part in key:
        opt = opt.get(part) if isinstance(opt, dict) else None
    return opt
