"""What is allowed in an option file, and probably not what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from basicsr.options import strategies
from basicsr.options.choices import CHOICES, Chosen, find, takes_whole_section
from basicsr.options.file import Key, value_at
from basicsr.options.types import Belongs, Section, fields_of, is_section, users_key
from basicsr.utils.registry import did_you_mean

_NEAR = 0.8


def doubts(section: type[Section], opt: dict, is_train: bool) -> Iterator[tuple[Key, str]]:
    """What is allowed, and probably not what was meant."""
    if is_train:
        yield from _without_effect(opt)
    for path in getattr(find('model', opt.get('model_type')), 'ignored_options', ()):
        if value_at(opt, tuple(path.split('.'))) is not None:
            yield tuple(path.split('.')), f'without effect: {opt["model_type"]} has no use for it'
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
    every = value_at(opt, ('val', 'val_freq'))
    validation_sets = [name for name in opt['datasets'] if str(name).split('_')[0] == 'val']
    if value_at(opt, ('logger', 'save_best')) and not (every and validation_sets):
        missing = 'datasets.val' if every else 'val.val_freq'
        yield ('logger', 'save_best'), f'without effect: nothing is validated without {missing}'
    if value_at(opt, ('logger', 'keep_checkpoints')) and not value_at(opt, ('logger', 'save_checkpoint_freq')):
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
