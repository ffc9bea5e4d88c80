"""Grid files: variants of an option file, each run with several seeds; every pair is a cell."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basicsr.options.check import check_options
from basicsr.options.file import merge, override, value_at, yaml_load
from basicsr.options.resolve import import_modules_of
from basicsr.reproduce.cell import ROOT, Cell, curve_every
from basicsr.reproduce.grid_file import GridSection, check_changes, grid_section
from basicsr.runs.user_modules import import_user_modules, on_command_line

__all__ = ['Cell', 'Grid', 'GridSection', 'check_comparable', 'grid_section', 'read_grid']

PRETRAINING = 'pretraining'
BICUBIC, BEFORE = 'bicubic', 'pre-trained'
_CHECKPOINTS = 10


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked.

    Attributes:
        name, title, kind, baseline, axis: As in the file.
        variants: Labels in the file's order.
        cells: Of the variants, by seed.
        pretraining: The cell that runs first, or None.
        reference: A cell without training: bicubic interpolation, and the network that all variants start from. None
            for tasks without a scale.
        folder: Where all output goes.
        domains: The domains that are held out by turns, or the single sources; none if all cells have the same data.
    """

    name: str
    title: str
    kind: str
    baseline: str
    axis: str | None
    variants: list[str]
    cells: list[Cell]
    pretraining: Cell | None
    reference: Cell | None
    folder: Path
    domains: tuple[str, ...] = ()


def read_grid(
    path: Path,
    section: GridSection,
    folder: Path,
    changes: Iterable[str] = (),
    datasets: dict | None = None,
    seeds: Iterable[int] | None = None,
    imports: Iterable[str] = (),
    splits: Mapping[str, dict] | None = None,
) -> Grid:
    """Build the cells of a grid and check all their options.

    Args:
        path: The grid file.
        section: Its contents, from `grid_section`.
        folder: Where results go.
        changes: `a.b=value` for every cell; those of the network also for the pre-training.
        datasets: Sections for all cells, by name, in place of those of the files; `pretrain` for the pre-training.
        seeds: Seeds in place of the file's.
        imports: User modules in addition to those of the option files, for every cell and the pre-training.
        splits: Such sections by domain, see `domain_splits`, in place of `datasets`.

    Raises:
        FileNotFoundError, ImportError, ValueError: A file is missing; a module cannot be imported; the mistakes of
            every cell.
    """
    changes, more = list(changes), _more_imports(imports)
    check_changes(changes, section)
    seeds = section.seeds if seeds is None else list(seeds)
    if not seeds:
        raise ValueError(f'{path}: seeds: there are none')
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f'{path}: seeds: each runs once, and {twice[0]} is there twice')
    base = merge(yaml_load((path.parent / section.base).resolve()), copy.deepcopy(section.set or {}))
    base = merge(base, more)
    pretraining, cells, mistakes, heeded = None, [], {}, {}
    try:
        pretraining = _pretraining(section, path, folder, changes, datasets, more)
    except ValueError as error:
        mistakes[str(error)] = [f'pretrain ({section.pretrain})']
    for label, own in section.variants.items():
        opt = merge(base, copy.deepcopy(own or {}))
        heeded[label] = [change for change in changes if not _is_left_out(own or {}, change)]
        try:
            for seed in seeds:
                for domain, own_data in (splits or {'': datasets}).items():
                    cells.append(_cell(label, domain, seed, opt, folder, heeded[label], own_data, section))
        except ValueError as error:
            mistakes.setdefault(str(error), []).append(label)
    lines = [f'{", ".join(labels)}: {message}' for message, labels in mistakes.items()]
    lines += [] if mistakes else _same_files(cells)
    for change in changes:
        if not any(change in own for own in heeded.values()):
            lines.append(f'--set {change}: would be ignored: every variant leaves out the section that it is in')
    if lines:
        raise ValueError(f'{path}:\n' + '\n'.join(lines))
    return Grid(
        section.name, section.title or section.name, section.kind, section.baseline or next(iter(section.variants)),
        section.axis, list(section.variants), cells, pretraining, _reference(cells[0]), folder, tuple(splits or ()),
    )  # fmt: skip


def _is_left_out(variant: dict, change: str) -> bool:
    """Whether a change is in a section that a variant takes out: `train.ldt.criterion=mean`, of `{train: {ldt: ~}}`."""
    below: Any = variant
    for section in change.partition('=')[0].split('.')[:-1]:
        if not isinstance(below, dict) or section not in below:
            return False
        below = below[section]
    return below is None


def _same_files(cells: list[Cell]) -> Iterator[str]:
    """Labels that differ only in signs that file names lack."""
    labels: dict[str, list[str]] = {}
    for cell in cells:
        labels.setdefault(cell.name, []).append(repr(cell.variant))
    for name, own in labels.items():
        if len(own) > 1:
            yield f'two cells would have the files {name}: rename one of {" and ".join(own)}'


def check_comparable(grid: Grid) -> None:
    """Raise a ValueError where there would be nothing to tabulate, or nothing to compare."""
    mistakes, first = [], grid.cells[0]
    if not first.test['datasets']:
        mistakes.append('datasets: a grid needs test sets, test_<name>, on which its variants are compared')
    if not _tests(first)[1]:
        mistakes.append('val.metrics: missing; the variants are compared by them')
    mistakes += [
        f'{cell.variant}: has other test sets, or val.metrics, than {first.variant}; variants are compared by the same '
        'metrics on the same samples'
        for cell in grid.cells
        if (cell.seed, cell.domain) == (first.seed, first.domain) and _tests(cell) != _tests(first)
    ]
    if first.curve and not any(own.get('seen') for own in first.curve_test()['datasets'].values()):
        mistakes.append('curve: needs what was seen, held out: datasets.val, or a test set that says `seen: true`')
    if mistakes:
        raise ValueError(f'{grid.name}: ' + '\n'.join(mistakes))


def _tests(cell: Cell) -> tuple[set[str], dict]:
    """(names of the test sets, metrics) of a cell."""
    names = {own.get('name') or phase for phase, own in cell.test['datasets'].items()}
    return names, (cell.test.get('val') or {}).get('metrics') or {}


def _more_imports(imports: Iterable[str]) -> dict[str, list[str]]:
    """Import the modules that the command line names; options that list them, empty if there are none."""
    spelled, _ = import_user_modules(on_command_line(imports, ROOT), ROOT)
    return {'imports': spelled} if spelled else {}


def _cell(
    label: str,
    domain: str,
    seed: int,
    opt: dict,
    folder: Path,
    changes: list[str],
    datasets: dict | None,
    section: GridSection,
) -> Cell:
    opt = copy.deepcopy(opt)
    if domain:  # whose test sets are read as the validation set is, with its changes
        override(opt, changes)
    if datasets is not None:
        opt['datasets'] = _with_data(opt.get('datasets'), datasets, bool(domain))
    if section.pretrain:
        weights = folder / 'experiments' / PRETRAINING / 'models' / 'net_g_latest.pth'
        opt['path'] = _with(opt.get('path'), pretrain_network_g=str(weights), pretrain_opt=None)
    elif before := value_at(opt, ('path', 'pretrain_opt')):
        raise ValueError(f'path.pretrain_opt: several cells would train {before}; let the grid name it as `pretrain`')
    name = '_'.join(file_name(part) for part in (label, domain, f'seed{seed}') if part)
    return _checked(name, label, seed, opt, folder, changes, domain, section.curve or 0)


def file_name(label: str) -> str:
    """A label without the signs that names of files had better not hold."""
    return re.sub(r'[^0-9A-Za-z.+-]+', '_', label).strip('_')


def _pretraining(
    section: GridSection, path: Path, folder: Path, changes: list[str], datasets: dict | None, more: dict
) -> Cell | None:
    if not section.pretrain:
        return None
    opt = merge(yaml_load((path.parent / section.pretrain).resolve()), more)
    if datasets is not None:
        written = opt.get('datasets')
        written = {'train': written.get('train')} if isinstance(written, dict) else written
        opt['datasets'] = _with_data(written, {'train': datasets['pretrain']})
    shared = [text for text in changes if text.startswith(('network_g.', 'num_gpu='))]
    return _checked(PRETRAINING, PRETRAINING, opt.get('manual_seed') or 0, opt, folder, shared)


def _with(section: Any, **changes: Any) -> Any:
    """A section with changes; what is none is left for the check to name."""
    return {**(section or {}), **changes} if section is None or isinstance(section, dict) else section


def _with_data(written: Any, datasets: dict, domains: bool = False) -> Any:
    """The data sets of a file with their pictures replaced; keys that concern training stay.

    Test sets of domains are read as the validation set is: at the same size, with the same split.
    """
    if not (written is None or isinstance(written, dict)):
        return written
    kept: dict[str, Any] = {'type': 'DomainFolderDataset' if domains else 'PairedImageDataset'}
    written = {phase: own for phase, own in (written or {}).items() if own and phase in ('train', 'val')}
    of_tests = written.get('val', kept) if domains else kept
    train = written.get('train')
    split = {key: train[key] for key in ('held_out', 'split_seed') if key in train} if isinstance(train, dict) else {}
    return {
        phase: _with(written.get(phase, of_tests), **section, **(split if domains else {}))
        for phase, section in datasets.items()
        if phase != 'pretrain'
    }


def _checked(
    name: str,
    label: str,
    seed: int,
    opt: dict,
    folder: Path,
    changes: list[str],
    domain: str = '',
    curve: int = 0,
) -> Cell:
    override(opt, changes)
    import_modules_of(opt, ROOT)
    opt.update(name=name, manual_seed=seed)
    opt.pop('compare', None)  # the grid's table compares
    opt['path'] = _with(opt.get('path'), output_root=str(folder))
    if isinstance(opt.get('datasets'), dict):
        opt['datasets'] = {phase: own for phase, own in opt['datasets'].items() if own is not None}
    checked, _ = check_options(opt, is_train=True)
    logger = checked['logger'] = dict(checked.get('logger') or {})
    if not logger.get('save_checkpoint_freq'):
        logger['save_checkpoint_freq'] = max(1, checked['train']['total_iter'] // _CHECKPOINTS)
    logger.setdefault('keep_checkpoints', 2)
    if curve:  # every point is kept until it is tested
        logger.update(save_checkpoint_freq=curve_every(checked['train']['total_iter'], curve), keep_checkpoints=None)
    unseen = {phase: own for phase, own in checked['datasets'].items() if phase.startswith('test')}
    train = {**checked, 'datasets': {phase: own for phase, own in checked['datasets'].items() if phase not in unseen}}
    left_out = ('train', 'logger', 'datasets', 'dist_params', 'quickstart_data')
    test = {**{key: value for key, value in checked.items() if key not in left_out}, 'datasets': unseen}
    return Cell(name, label, seed, train, test, domain, curve)


def _reference(cell: Cell) -> Cell | None:
    """A test of bicubic interpolation, and of the network that training starts from, if there is one.

    None for tasks without a scale, which have nothing to interpolate.
    """
    opt = copy.deepcopy(cell.test)
    if not opt.get('scale'):
        return None
    bicubic = {'type': 'Bicubic', 'upscale': opt['scale']}
    if opt['path'].get('pretrain_network_g'):
        opt.update(name=BEFORE, compare={BICUBIC: {'network_g': bicubic}})
    else:
        opt.update(name=BICUBIC, network_g=bicubic)
    return Cell(opt['name'], opt['name'], 0, {}, opt)
