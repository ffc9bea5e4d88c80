"""YAML of option files: what says one thing to people and another to YAML is a mistake, and so is what explodes."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import yaml

Key = tuple[Any, ...]
"""Place of a value in the options: ('train', 'optim_g', 'lr'), with a number for an item of a list."""

LONGEST = 2**18
"""Letters of a text."""
_DEEPEST = 40
_MOST = 100_000
"""Values of a text, with those that aliases repeat."""
_DIGITS = 1000
_TAG = 'tag:yaml.org,2002:'


class Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number and 2024-01-01 is text.

    Mistakes are duplicate keys, sections that contain themselves, and numbers that are not what they look like: 020,
    which is 16 in YAML, 1:30, which is 90, and those that are too large or too small for a number.
    """

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _error(f'duplicate key {in_short(key.value)}', key)
                seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, OverflowError, KeyError, IndexError, AttributeError) as error:
            kind = node.tag.rpartition(':')[2].replace('str', 'text')
            raise _error(f'{in_short(node.value)} is no {kind}', node) from error

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        digits = text.lstrip('+-').replace('_', '')
        if len(digits) > _DIGITS:
            raise _error(f'{in_short(text)} is too large a number', node)
        value = super().construct_yaml_int(node)
        if ':' in digits:
            raise _error(f'{text} is {value} in YAML, which counts it in sixties: {_write(value, text)}', node)
        if re.match('0[0-9]', digits):
            plain = text.replace(digits, digits.lstrip('0') or '0')
            raise _error(f'{text} is {value} in YAML, which takes it for octal: {_write(plain, text)}', node)
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        text, value = self.construct_scalar(node), super().construct_yaml_float(node)
        if ':' in text:
            raise _error(f'{text} is {value} in YAML, which counts it in sixties: {_write(value, text)}', node)
        if math.isinf(value) and 'inf' not in text.lower():
            raise _error(f'{in_short(text)} is too large a number', node)
        if value == 0 and re.search('[1-9]', re.split('[eE]', text)[0]):
            raise _error(f'{in_short(text)} is too small a number: it would be 0', node)
        return value

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = super().construct_yaml_str(node)
        text.encode()  # half a character, which can be written to no file
        return text


def _write(value: float | str, text: str) -> str:
    return f'write {value}, or "{text}" if it is a text'


def in_short(value: Any) -> str:
    """A value for a message, of which not more than 60 letters are shown."""
    text = str(value)
    return repr(text if len(text) <= 60 else f'{text[:50]}…')


def _error(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


Loader.add_constructor(f'{_TAG}int', Loader.construct_yaml_int)
Loader.add_constructor(f'{_TAG}float', Loader.construct_yaml_float)
Loader.add_constructor(f'{_TAG}str', Loader.construct_yaml_str)
Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in known if tag != f'{_TAG}timestamp']
    for letter, known in Loader.yaml_implicit_resolvers.items()
}


class Dumper(yaml.SafeDumper):
    """Safe YAML that writes an OrderedDict as any other mapping."""


for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver(
        f'{_TAG}float', re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
    )
Dumper.add_representer(OrderedDict, lambda dumper, mapping: dumper.represent_dict(mapping.items()))


def read(text: str, source: str) -> tuple[Any, dict[Key, int]]:
    """The value of a YAML text, and the line of each of its parts.

    Raises:
        ValueError: It is not valid YAML; the message begins with `source` and the line.
    """
    if len(text) > LONGEST:
        raise ValueError(f'{source[:200]}: {len(text):,} letters are too many for options')
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        for count, _ in enumerate(_lines(loader, node, ())):  # before constructing, which may not end
            if count > _MOST:
                raise _error(f'more than {_MOST:,} values; aliases repeat too much', node)
        value = loader.construct_document(node)
        return value, dict(_lines(loader, node, ()))  # once more: constructing has merged `<<`
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f', line {mark.line + 1}' if mark else ''
        problem = getattr(error, 'problem', None) or str(error).splitlines()[0]
        raise ValueError(f'{source}{where}: {problem}') from error
    except RecursionError as error:
        raise ValueError(f'{source}: sections are nested too deeply, more than {_DEEPEST} levels') from error


def _lines(loader: Loader, node: yaml.Node, key: Key, above: tuple[int, ...] = ()) -> Iterator[tuple[Key, int]]:
    """The line of each value below `node`."""
    if id(node) in above:
        raise _error('a section cannot hold itself', node)
    if len(above) > _DEEPEST:
        raise _error(f'sections are nested too deeply, more than {_DEEPEST} levels', node)
    above = (*above, id(node))
    if isinstance(node, yaml.ScalarNode) and key:
        _construct(loader, node, key)
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


def _construct(loader: Loader, node: yaml.ScalarNode, key: Key) -> None:
    """Make sure that a value is one; what is wrong is said with its place, which YAML does not know."""
    try:
        loader.construct_object(node)
    except yaml.constructor.ConstructorError as error:
        raise _error(f'{".".join(map(str, key))}: {error.problem}', node) from error
