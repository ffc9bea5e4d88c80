"""Grid files: variants of an option file, each run with several seeds; every pair is a cell."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from basicsr.options.check import check_options, check_section
from basicsr.options.file import load_options, merge, override, yaml_load
from basicsr.options.resolve import import_modules_of, missing_data, resolve_datasets
from basicsr.options.types import FolderName, List, NamePart, Section, Whole, option
from basicsr.runs.user_modules import import_user_modules, on_command_line
from basicsr.utils.registry import did_you_mean

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder, to which paths in option files are relative."""
PRETRAINING = 'pretraining'
BICUBIC, BEFORE = 'bicubic', 'pre-trained'
_FREE = ('num_gpu', 'data_hint', 'logger.print_freq', 'logger.use_tb_logger', 'logger.wandb', 'logger.keep_checkpoints')
"""Options that do not affect results, and so may differ when a cell is reused."""
_CHECKPOINTS = 10


class CamerasSection(Section):
    """cameras"""

    source: str = option(None, 'The camera to train on: a folder in the data.')
    selection: Whole(1) = option(10, "Number of the source camera's pictures that select the best network.")


class GridSection(Section):
    """A grid file."""

    name: FolderName = option(..., 'Name of the grid and of its folder.')
    title: str = option(None, 'Heading of the tables.')
    base: str = option(..., 'Option file that every variant is based on, relative to the grid file.')
    pretrain: str = option(None, 'Option file that is trained once, before all others, and that they start from.')
    cameras: CamerasSection = option(
        None, 'Use the data of --data, folders <camera>/{LR,HR}, instead of that of the base.'
    )
    kind: Literal['quality', 'cost'] = option('quality', 'quality trains and tests; cost measures steps.')
    seeds: List(Whole(0), 1) = option([0, 1, 2], 'Seeds; each variant runs with each.')
    baseline: str = option(None, 'Variant to compare the others with. Default: the first.')
    variants: dict[str, Any] = option(..., 'The changes that each variant makes to the base, by label.')
    axis: NamePart = option(None, 'Name of the quantity whose values are the labels, for a plot against it.')
    set: dict[str, Any] = option(None, 'Changes to the base that all variants share.')


@dataclass(frozen=True)
class Cell:
    """One training and its test.

    Attributes:
        name: Name of its files.
        variant, seed: What identifies it in the grid.
        train: Options of the training, without the unseen cameras; empty if nothing is trained.
        test: Options of the test, but for the checkpoint.
    """

    name: str
    variant: str
    seed: int
    train: dict = field(hash=False)
    test: dict = field(hash=False)

    @property
    def iterations(self) -> int:
        return self.train['train']['total_iter'] if self.train else 0

    def missing(self) -> list[str]:
        """Missing folders and files that the options name, each with its option."""
        opt = copy.deepcopy({**self.test, 'datasets': {**self.train.get('datasets', {}), **self.test['datasets']}})
        resolve_datasets(opt, ROOT)
        weights = opt['path'].get('pretrain_network_g')
        absent = [f'path.pretrain_network_g: {weights}'] if weights and not (ROOT / weights).is_file() else []
        return [*missing_data(opt), *absent]

    def record(self) -> dict[str, Any]:
        """What must not change if the cell is to be reused, as JSON would return it."""
        kept = json.loads(json.dumps({'train': _without_free(self.train), 'test': _without_free(self.test)}))
        kept['files'] = {path: _content(Path(path)) for opt in (self.train, self.test) for path in _files(opt)}
        return kept


def _files(opt: dict) -> Iterator[str]:
    """Files named in the options whose content affects results: weights and lists of pictures."""
    for section in (opt.get('path') or {}, *(opt.get('datasets') or {}).values()):
        for key in ('pretrain_network_g', 'meta_info_file', 'meta_info'):
            files = section.get(key) or []
            yield from [files] if isinstance(files, str) else files  # one list of names per folder


def _content(path: Path) -> str | None:
    path = ROOT / path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked.

    Attributes:
        name, title, kind, baseline, axis: As in the file.
        variants: Labels in the file's order.
        cells: Of the variants, by seed.
        pretraining: The cell that runs first, or None.
        reference: A cell without training: bicubic interpolation, and the network that all variants start from.
        folder: Where all output goes.
    """

    name: str
    title: str
    kind: str
    baseline: str
    axis: str | None
    variants: list[str]
    cells: list[Cell]
    pretraining: Cell | None
    reference: Cell
    folder: Path


def grid_section(path: Path, name: str | None = None) -> tuple[GridSection, Path]:
    """(the contents of the grid file, its base file); `name` replaces the file's own.

    Raises:
        FileNotFoundError, ValueError: There is no such file, or it has mistakes, all of which are named.
    """
    written, _ = load_options(path)
    if name is not None:
        written['name'] = name
    section = check_section(GridSection, written, path.stem)
    if section.baseline and section.baseline not in section.variants:
        known = did_you_mean(section.baseline, section.variants)
        raise ValueError(f'{path}: baseline: no variant is called {section.baseline!r}{known}')
    return section, (path.parent / section.base).resolve()


def read_grid(
    path: Path,
    section: GridSection,
    folder: Path,
    changes: Iterable[str] = (),
    datasets: dict | None = None,
    seeds: Iterable[int] | None = None,
    imports: Iterable[str] = (),
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

    Raises:
        FileNotFoundError, ImportError, ValueError: A file is missing; a module cannot be imported; the mistakes of
            every cell.
    """
    changes, more = list(changes), _more_imports(imports)
    base = merge(yaml_load((path.parent / section.base).resolve()), copy.deepcopy(section.set or {}))
    base = merge(base, more)
    pretraining = _pretraining(section, path, folder, changes, datasets, more)
    mistakes, cells = [], []
    for label, own in section.variants.items():
        opt = merge(base, copy.deepcopy(own or {}))
        try:
            chosen = section.seeds if seeds is None else seeds
            cells += [_cell(label, seed, opt, folder, changes, datasets, pretraining) for seed in chosen]
        except ValueError as error:
            mistakes.append(f'{label}: {error}')
    names = [cell.name for cell in cells]
    mistakes += [f'two cells would have the files {name}' for name in sorted({n for n in names if names.count(n) > 1})]
    if mistakes:
        raise ValueError(f'{path}:\n' + '\n'.join(mistakes))
    return Grid(
        section.name, section.title or section.name, section.kind, section.baseline or next(iter(section.variants)),
        section.axis, list(section.variants), cells, pretraining, _reference(cells[0]), folder,
    )  # fmt: skip


def _more_imports(imports: Iterable[str]) -> dict[str, list[str]]:
    """Import the modules that the command line names; options that list them, empty if there are none."""
    spelled, _ = import_user_modules(on_command_line(imports, ROOT), ROOT)
    return {'imports': spelled} if spelled else {}


def _cell(
    label: str, seed: int, opt: dict, folder: Path, changes: list[str], datasets: dict | None, pretraining: Cell | None
) -> Cell:
    opt = copy.deepcopy(opt)
    if datasets is not None:
        opt['datasets'] = _with_data(opt['datasets'], datasets)
    if pretraining:
        weights = folder / 'experiments' / PRETRAINING / 'models' / 'net_g_latest.pth'
        opt['path'] = {**(opt.get('path') or {}), 'pretrain_network_g': str(weights), 'pretrain_opt': None}
    elif (opt.get('path') or {}).get('pretrain_opt'):
        before = opt['path']['pretrain_opt']
        raise ValueError(f'path.pretrain_opt: several cells would train {before}; let the grid name it as `pretrain`')
    name = f'{re.sub(r"[^0-9A-Za-z.+-]+", "_", label).strip("_")}_seed{seed}'
    return _checked(name, label, seed, opt, folder, changes)


def _pretraining(
    section: GridSection, path: Path, folder: Path, changes: list[str], datasets: dict | None, more: dict
) -> Cell | None:
    if not section.pretrain:
        return None
    opt = merge(yaml_load((path.parent / section.pretrain).resolve()), more)
    if datasets is not None:
        opt['datasets'] = _with_data({'train': opt['datasets']['train']}, {'train': datasets['pretrain']})
    shared = [text for text in changes if text.startswith(('network_g.', 'num_gpu='))]
    return _checked(PRETRAINING, PRETRAINING, opt.get('manual_seed') or 0, opt, folder, shared)


def _with_data(written: dict, datasets: dict) -> dict:
    """The data sets of a file with their pictures replaced; keys that concern training stay."""
    kept = {'type': 'PairedImageDataset'}
    return {
        phase: {**(written.get(phase.split('_')[0]) or kept), **section}
        if phase in ('train', 'val')
        else {**kept, **section}
        for phase, section in datasets.items()
        if phase != 'pretrain'
    }


def _checked(name: str, label: str, seed: int, opt: dict, folder: Path, changes: list[str]) -> Cell:
    override(opt, changes)
    import_modules_of(opt, ROOT)
    opt.update(name=name, manual_seed=seed)
    opt.pop('compare', None)  # the grid's table compares
    opt['path'] = {**(opt.get('path') or {}), 'output_root': str(folder)}
    total = (opt.get('train') or {}).get('total_iter')
    logger = opt['logger'] = dict(opt.get('logger') or {})
    if isinstance(total, int | float) and not logger.get('save_checkpoint_freq'):
        logger['save_checkpoint_freq'] = max(1, int(total) // _CHECKPOINTS)
    logger.setdefault('keep_checkpoints', 2)
    opt['datasets'] = {phase: own for phase, own in opt['datasets'].items() if own is not None}
    checked, _ = check_options(opt, is_train=True)
    unseen = {phase: own for phase, own in checked['datasets'].items() if phase.startswith('test')}
    train = {**checked, 'datasets': {phase: own for phase, own in checked['datasets'].items() if phase not in unseen}}
    left_out = ('train', 'logger', 'datasets', 'dist_params', 'quickstart_data')
    test = {**{key: value for key, value in checked.items() if key not in left_out}, 'datasets': unseen}
    return Cell(name, label, seed, train, test)


def _reference(cell: Cell) -> Cell:
    """A test of bicubic interpolation, and of the network that training starts from, if there is one."""
    opt = copy.deepcopy(cell.test)
    bicubic = {'type': 'Bicubic', 'upscale': opt.get('scale') or 1}
    if opt['path'].get('pretrain_network_g'):
        opt.update(name=BEFORE, compare={BICUBIC: {'network_g': bicubic}})
    else:
        opt.update(name=BICUBIC, network_g=bicubic)
    return Cell(opt['name'], opt['name'], 0, {}, opt)


def _without_free(opt: dict) -> dict:
    opt = copy.deepcopy(opt)
    for path in _FREE:
        *sections, last = path.split('.')
        below = opt
        for section in sections:
            below = below.get(section) or {}
        below.pop(last, None)
    return opt


def differences(before: Any, now: Any, path: str = '') -> Iterator[str]:
    """The dotted keys of the options in which two records differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from differences(before.get(key), now.get(key), f'{path}.{key}' if path else str(key))
    elif before != now:
        yield f'{path}: {before!r}, now {now!r}'
