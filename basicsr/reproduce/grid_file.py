"""What may stand in a grid file, and what its cells would ignore."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from basicsr.options.check import check_section
from basicsr.options.file import load_options, override, value_at
from basicsr.options.types import FolderName, List, NamePart, Section, Whole, option
from basicsr.utils.registry import did_you_mean

_OF_THE_GRID = {
    'name': 'a grid names its cells after their labels and seeds',
    'manual_seed': 'the seeds of a grid are its `seeds`',
    'compare': "the grid's own table compares the variants",
    '_base_': 'all variants have the base that the grid names as `base`',
    'path.output_root': 'the folder of a grid is chosen by --output',
}
"""Options that a grid sets itself, so that it would ignore them: what to do instead."""
_REPLACED = {
    'cameras': ('name', 'dataroot_gt', 'dataroot_lq', 'meta_info_file'),
    'domains': ('name', 'dataroot', 'train_domains', 'test_domains'),
}
"""Options of data sets that a grid fills in."""
_LONGEST_LABEL = 100


class CamerasSection(Section):
    """cameras"""

    source: str = option(None, 'The camera to train on: a folder in the data.')
    selection: Whole(1) = option(10, "Number of the source camera's pictures that select the best network.")


class DomainsSection(Section):
    """domains"""

    single_source: bool = option(
        False, 'Train on one domain and test on each of the others; otherwise train on all but one and test on that.'
    )


class GridSection(Section):
    """A grid file."""

    name: FolderName = option(..., 'Name of the grid and of its folder.')
    title: str = option(None, 'Heading of the tables.')
    base: str = option(..., 'Option file that every variant is based on, relative to the grid file.')
    pretrain: str = option(None, 'Option file that is trained once, before all others, and that they start from.')
    cameras: CamerasSection = option(
        None, 'Use the data of --data, folders <camera>/{LR,HR}, instead of that of the base.'
    )
    domains: DomainsSection = option(
        None,
        'Use the data of --data, folders <domain>/<class>/*, instead of that of the base: each variant and seed runs '
        'once for every domain that is held out.',
    )
    networks: dict = option(
        None, 'The changes that each network makes to the base, by label; --networks chooses. Default: the first.'
    )
    curve: Whole(1, ceiling=1000) = option(
        None, 'Points of each run, evenly spaced, at which it is tested on seen and unseen domains. Default: none.'
    )
    kind: Literal['quality', 'cost'] = option('quality', 'quality trains and tests; cost measures steps.')
    seeds: List(Whole(0, 2**31 - 1), 1) = option([0, 1, 2], 'Seeds; each variant runs with each.')
    baseline: str = option(None, 'Variant to compare the others with. Default: the first.')
    variants: dict = option(..., 'The changes that each variant makes to the base, by label.')
    axis: NamePart = option(None, 'Name of the quantity whose values are the labels, for a plot against it.')
    set: dict = option(None, 'Changes to the base that all variants share.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        variants = given.get('variants')
        for key in ('variants', 'networks'):
            yield from _labelled(key, given)
        yield from _ignored(given.get('set') or {}, given, 'set.')
        if given.get('cameras') is not None and given.get('domains') is not None:
            yield 'domains', 'the data is that of `cameras` already; drop one of them'
        if given.get('domains') is not None and given.get('kind') == 'cost':
            yield 'kind', 'cost measures steps on pictures of gt_size, which data of `domains` has not'
        if variants and given.get('baseline', next(iter(variants))) not in variants:
            near = did_you_mean(given['baseline'], [label for label in variants if isinstance(label, str)])
            yield 'baseline', f'no variant is called {given["baseline"]!r}{near}'.rstrip('.')


def _labelled(key: str, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The mistakes in `variants` or `networks`: sections of changes by label."""
    if given.get(key) is not None and not given[key]:
        yield key, f'must have one {key[:-1]} at least: a label, and what it changes; {{}} changes nothing'
    for label, own in (given.get(key) or {}).items():
        if not isinstance(label, str) or not label.strip() or not label.isprintable() or len(label) > _LONGEST_LABEL:
            labels = f'labels are text of 1 to {_LONGEST_LABEL} letters in one line; put numbers in quotes'
            yield f'{key}.{str(label)[:20]!r}', labels
        elif own is not None and not isinstance(own, dict):
            yield f'{key}.{label}', f'must be a section (`key: value` lines) of what it changes, not {own!r:.80}'
        else:
            yield from _ignored(own or {}, given, f'{key}.{label}.')


def _ignored(opt: dict, grid: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Options that the grid overwrites, as mistakes."""
    reasons = dict(_OF_THE_GRID)
    if grid.get('pretrain'):
        reasons['path.pretrain_network_g'] = reasons['path.pretrain_opt'] = (
            'all cells start from `pretrain` of the grid'
        )
    for data, replaced in _REPLACED.items():
        for phase in (
            opt.get('datasets') if grid.get(data) is not None and isinstance(opt.get('datasets'), dict) else ()
        ):
            for key in replaced if phase in ('train', 'val') else ('',):
                reason = f'the data of a grid with `{data}` is that of --data'
                reasons[f'datasets.{phase}.{key}'.rstrip('.')] = reason
    for path, reason in reasons.items():
        if value_at(opt, tuple(path.split('.'))) is not None:
            yield f'{place}{path}', f'would be ignored: {reason}'


def grid_section(path: Path, name: str | None = None) -> tuple[GridSection, Path]:
    """(the contents of the grid file, its base file); `name` replaces the file's own.

    Raises:
        FileNotFoundError, ValueError: There is no such file, or it has mistakes, all of which are named.
    """
    written, _ = load_options(path)
    if name is not None:
        written['name'] = name
    return check_section(GridSection, written, path.stem), (path.parent / written['base']).resolve()


def check_changes(changes: Iterable[str], section: GridSection) -> None:
    """Check the form of `a.b=value`, and that a grid heeds them.

    Args:
        changes: Of every cell.
        section: The grid file.

    Raises:
        ValueError: The first that is wrong.
    """
    for text in changes:
        opt: dict = {}
        override(opt, [text])
        for path, message in _ignored(opt, {'domains': section.domains}, ''):
            raise ValueError(f'--set {text}: {path} {message}')
