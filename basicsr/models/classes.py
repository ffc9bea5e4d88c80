"""The classes that a classifier tells apart: from the options and the data sets, before its network is built."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from basicsr.archs.from_weights import options_beside
from basicsr.data import build_dataset
from basicsr.runs.aside import quietly, random_numbers_kept
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, parameters_of

_SHOWN = 5
_PHASES = ('train', 'val', 'test')
_DECODING = ('cache', 'skip_broken')
"""Options of data sets that decode all pictures at the beginning, of which the names of classes need none."""


def classes_of(opt: dict) -> list[str]:
    """The names of the classes, in the order of the labels: those of the data, which all data sets share.

    Raises:
        ValueError: Data sets disagree with each other or with `class_names`, or none of them says its classes.
    """
    _check_together(opt)
    known: dict[str, tuple[str, list[str]]] = {}
    order = sorted(opt.get('datasets') or {}, key=lambda key: _PHASES.index(opt['datasets'][key]['phase']))
    for key in order:
        source = _source(opt['datasets'][key])
        if source in known:
            continue
        section = {name: value for name, value in opt['datasets'][key].items() if name not in _DECODING}
        with quietly(), random_numbers_kept():
            found = getattr(build_dataset(section), 'classes', None)
        if found is not None:
            known[source] = f'datasets.{key}', list(found)
    if opt.get('class_names'):
        known = {'options': ('class_names', list(opt['class_names'])), **known}
    if not known:
        raise ValueError(
            'class_names: missing; no data set has the attribute `classes`, names in the order of the labels'
        )
    (first, classes), *others = known.values()
    for place, found in others:
        if found != classes:
            raise ValueError(f'{place}: its classes are {in_words(found)}, and those of {first} {in_words(classes)}')
    return classes


def _check_together(opt: dict) -> None:
    """Let the class of the training data compare its sections, where it can: `check_together(sections by key)`."""
    sections = opt.get('datasets') or {}
    kind = (sections.get('train') or {}).get('type')
    compare = getattr(DATASET_REGISTRY.get(kind), 'check_together', None) if kind else None
    if compare is not None:
        compare({key: section for key, section in sections.items() if section['type'] == kind})


def _source(section: dict) -> str:
    """Tells data sets with other classes apart: those of one folder have the same."""
    parts = {key: section.get(key) for key in ('type', 'dataroot')}
    return json.dumps(parts if parts['dataroot'] else section, sort_keys=True, default=str)


def check_classes(classes: Sequence[str], checkpoint: str, of_data: str = 'the data') -> None:
    """Compare the classes with those that the options beside a checkpoint name, where there are some.

    Raises:
        ValueError: They are others, or in another order.
    """
    found = options_beside(checkpoint)
    names = found[1].get('class_names') if found else None
    if names and list(names) != list(classes):
        raise ValueError(
            f'{checkpoint}: by {found[0]} its classes are {in_words(names)}, and those of {of_data} are '
            f'{in_words(classes)}'
        )


def in_words(classes: Sequence[str]) -> str:
    """'7 (dog, elephant, giraffe, guitar, horse, …)'."""
    more = ', …' if len(classes) > _SHOWN else ''
    return f'{len(classes)} ({", ".join(classes[:_SHOWN])}{more})'


def with_classes(options: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The section `network_g` with the number of classes, where the network has an argument for it.

    Raises:
        ValueError: It has another number.
    """
    given = options.get('num_classes')
    if given is not None and given != len(classes):
        raise ValueError(
            f'network_g.num_classes: {given}, and the data have {in_words(classes)}; leave it out, it is taken from '
            'the data'
        )
    parameters = parameters_of(ARCH_REGISTRY.get(options['type']))
    takes = any(one.name == 'num_classes' or one.kind is one.VAR_KEYWORD for one in parameters)
    return {**options, 'num_classes': len(classes)} if takes else options
