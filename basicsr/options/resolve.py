"""From a command line and its option file to a run's options: read, checked, with paths and device resolved."""

from __future__ import annotations

import argparse
import copy
import random
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml

from basicsr.options.check import check_options
from basicsr.options.file import Places, load_options, ordered_yaml, override, place_of, yaml_load
from basicsr.options.loader import Dumper
from basicsr.options.paths import missing_arguments, resolve_arguments, resolved
from basicsr.runs.command_line import make_parser
from basicsr.runs.user_modules import Entry, import_user_modules, on_command_line
from basicsr.utils.dist_util import broadcast, get_dist_info, init_dist
from basicsr.utils.logger import get_root_logger
from basicsr.utils.misc import set_random_seed, write_text

__all__ = [
    'check_files',
    'copy_opt_file',
    'dict2str',
    'import_modules_of',
    'missing_data',
    'ordered_yaml',
    'override',
    'parse',
    'parse_options',
    'read_options',
    'resolve_datasets',
    'trained_first',
    'yaml_load',
]


def parse_options(
    root_path: str, is_train: bool = True, args: argparse.Namespace | None = None
) -> tuple[dict, argparse.Namespace]:
    """Read the command line and its option file, and check them.

    Networks, data sets and all else that files name by `type:` must be registered before, save by the modules that the
    options name under `imports`, and the command line by `--import`.

    Args:
        root_path: Folder of the project: relative paths in the file start there.
        is_train: Training, or testing.
        args: A parsed command line; None parses `sys.argv`.

    Returns:
        The resolved options, and the command line with the options as they were written, merged, in `merged`.

    Raises:
        FileNotFoundError, ImportError, ValueError: The file is missing, broken, or has mistakes; all are named.
    """
    args = args or make_parser(is_train).parse_args()
    root = Path(root_path)
    imports, compare = getattr(args, 'imports', []), [] if is_train else getattr(args, 'compare', [])
    opt, notes, warnings = read_options(args.opt, root, is_train, args.set, imports, compare)
    args.merged = copy.deepcopy(opt)
    if args.launcher != 'none':
        init_dist(args.launcher, **(opt.get('dist_params') or {}))
    for note in notes:  # by the first process alone, now that it is known which that is
        get_root_logger().info('%s', note)
    for warning in warnings:
        get_root_logger().warning('%s', warning)
    opt['auto_resume'] = getattr(args, 'auto_resume', False)
    opt['seed_is_drawn'] = opt.get('manual_seed') is None
    if opt['seed_is_drawn']:
        args.merged['manual_seed'] = opt['manual_seed'] = broadcast(random.randint(1, 10000))
    _resolve(opt, root, is_train)
    set_random_seed(opt['manual_seed'] + opt['rank'])
    return opt, args


def parse(opt_path: str, root_path: str, is_train: bool = True) -> dict:
    """Read and check an option file, with paths and device resolved, as BasicSR 1.3 called it: no seed is set.

    Args:
        opt_path: The file.
        root_path: Folder of the project: relative paths in the file start there.
        is_train: Training, or testing.

    Raises:
        FileNotFoundError, ImportError, ValueError: As `parse_options`.
    """
    opt, notes, warnings = read_options(opt_path, Path(root_path), is_train)
    for note in notes:
        get_root_logger().info('%s', note)
    for warning in warnings:
        get_root_logger().warning('%s', warning)
    _resolve(opt, Path(root_path), is_train)
    return opt


def read_options(
    file: str | Path,
    root: Path,
    is_train: bool,
    changes: Iterable[str] = (),
    imports: Iterable[str] = (),
    compare: Iterable[str] = (),
) -> tuple[dict, list[str], list[str]]:
    """Read an option file, import the modules that it names, and check it.

    Args:
        file: The file; relative to the current folder, or else to `root`.
        root: Folder of the project.
        is_train: Also ask for what a training needs.
        changes: `a.b=value` each.
        imports: Modules beside those of the file, as on the command line.
        compare: Networks beside those of the file, as on the command line.

    Returns:
        The options with converted values; lines for the log; and warnings.

    Raises:
        FileNotFoundError, ImportError, ValueError: The file is missing, broken, or has mistakes; all are named.
    """
    file = Path(file)
    opt, places = load_options(file if file.exists() or file.is_absolute() else root / file)
    override(opt, changes, places)
    add_networks(opt, compare)
    if isinstance(opt.get('datasets'), dict):  # a variant drops a data set of its base by `train: ~`
        opt['datasets'] = {phase: dataset for phase, dataset in opt['datasets'].items() if dataset is not None}
    notes = import_modules_of(opt, root, imports, places)
    checked, warnings = check_options(opt, places, is_train)
    return checked, notes, warnings


def import_modules_of(
    opt: dict, root: Path, more: Iterable[str] = (), places: Places | None = None, option: str = 'imports'
) -> list[str]:
    """Import what stands under `imports` in the options, and `more`; `imports` becomes what another run can read.

    What is no list of texts is left to `check_options`.

    Args:
        opt: The options.
        root: Folder of the project, where relative paths start.
        more: Modules that the command line names; their relative paths start in the current folder.
        places: Where each value was written.
        option: What the options' `imports` are called in messages.

    Returns:
        Lines for the log.

    Raises:
        FileNotFoundError, ImportError, ValueError: As `import_user_modules`.
    """
    written = opt.get('imports')
    written = [written] if isinstance(written, str) else written if written is not None else []
    if not isinstance(written, list) or not all(isinstance(text, str) for text in written):
        return []
    entries = [
        Entry(text, (root,), option, place_of(places or {}, ('imports', index))) for index, text in enumerate(written)
    ]
    spelled, lines = import_user_modules([*entries, *on_command_line(more, root)], root)
    if spelled:
        opt['imports'] = spelled
    return lines


def add_networks(opt: dict, networks: Iterable[str]) -> None:
    """Put what `--compare` names into the section `compare`: `bicubic`, or `label=checkpoint` each.

    Raises:
        ValueError: One is neither.
    """
    for text in networks:
        label, sign, checkpoint = text.partition('=')
        if text == 'bicubic':
            section = {'network_g': {'type': 'Bicubic', 'upscale': opt.get('scale') or 1}}
        elif sign and label and checkpoint:
            section = {'pretrain_network_g': checkpoint}
        else:
            raise ValueError(f'--compare {text}: write it as label=checkpoint, or bicubic')
        opt['compare'] = {**(opt.get('compare') or {}), label: section}


def _resolve(opt: dict, root: Path, is_train: bool) -> None:
    """Fill in what a run needs: processes, device, paths."""
    opt['logger'] = opt.get('logger') or {}
    rank, world_size = get_dist_info()
    opt.update(is_train=is_train, dist=world_size > 1, rank=rank, world_size=world_size)
    _resolve_device(opt)
    resolve_datasets(opt, root)
    resolve_arguments({key: value for key, value in opt.items() if key != 'datasets'}, root)
    _resolve_paths(opt, root)


def _resolve_device(opt: dict) -> None:
    wanted, there = opt.get('num_gpu', 'auto'), torch.cuda.device_count()
    opt['num_gpu'] = there if wanted == 'auto' else min(wanted, there)
    if wanted != 'auto' and wanted > there:
        get_root_logger().warning('num_gpu is %d, and this machine has %d: using %s', wanted, there, there or 'the CPU')
    if opt['num_gpu'] > 1 and not opt['dist']:
        get_root_logger().info(
            'One process uses one of %d GPUs; torchrun --nproc_per_node=%d uses them all', there, there
        )
        opt['num_gpu'] = 1


def resolve_datasets(opt: dict, root: Path) -> None:
    """Fill in phase, name and scale of each data set, and let its relative paths start at `root`."""
    for phase, dataset in opt['datasets'].items():
        dataset['phase'] = phase.split('_')[0]
        dataset.setdefault('name', phase)
        if opt.get('scale') is not None:
            dataset['scale'] = opt['scale']
    resolve_arguments({'datasets': opt['datasets']}, root)


def _resolve_paths(opt: dict, root: Path) -> None:
    paths = opt['path'] = opt.get('path') or {}
    for key in [*paths]:
        if paths[key] and (key in ('resume_state', 'pretrain_opt') or key.startswith('pretrain_network_')):
            paths[key] = resolved(root, paths[key], f'path.{key}')
    for label, section in (opt.get('compare') or {}).items():
        for key in ('pretrain_network_g', 'pretrain_opt'):
            if section.get(key):
                section[key] = resolved(root, section[key], f'compare.{label}.{key}')
    output = Path(resolved(root, paths.get('output_root') or '.', 'path.output_root'))
    if opt['is_train']:
        folder = output / 'experiments' / opt['name']
        paths.update(
            experiments_root=str(folder),
            models=str(folder / 'models'),
            training_states=str(folder / 'training_states'),
            tb_logger=str(output / 'tb_logger' / opt['name']),
        )
    else:
        folder = output / 'results' / opt['name']
        paths['results_root'] = str(folder)
    paths.update(log=str(folder), visualization=str(folder / 'visualization'))


def missing_data(opt: dict) -> list[str]:
    """The missing folders and files of `datasets`, each with its option."""
    return missing_arguments({'datasets': opt['datasets']})


def _sections_with_weights(opt: dict) -> dict[str, dict]:
    """By option: `path`, and what stands in `compare`."""
    compare = (opt.get('compare') or {}).items()
    return {'path': opt['path'], **{f'compare.{label}': section for label, section in compare}}


def trained_first(opt: dict) -> dict[str, dict]:
    """By option, the sections whose weights are missing, and whose `pretrain_opt` says how to train them."""
    return {
        name: section
        for name, section in _sections_with_weights(opt).items()
        if section.get('pretrain_opt') and section.get('pretrain_network_g')
        and not _is_trained(Path(section['pretrain_network_g']))
    }  # fmt: skip


def _is_trained(weights: Path) -> bool:
    """Whether weights are there, and are not those of a training that has not ended: its best so far comes early."""
    of_a_run = weights.parent.name == 'models' and (weights.parents[1] / 'training_states').is_dir()
    return weights.is_file() and (not of_a_run or weights.with_name('net_g_latest.pth').is_file())


def check_files(opt: dict) -> None:
    """Make sure that data and pre-trained weights are there, before anything is built.

    Raises:
        FileNotFoundError: Names all that is missing, and says how to get it where the options do (`data_hint`).
    """
    missing = missing_data(opt)
    elsewhere = missing_arguments({key: value for key, value in opt.items() if key != 'datasets'})
    hint = f'\n{opt["data_hint"]}' if missing and opt.get('data_hint') else ''
    for name, section in _sections_with_weights(opt).items():
        weights = section.get('pretrain_network_g')
        if weights and not Path(weights).is_file():
            missing.append(f'{name}.pretrain_network_g: {weights}')
            if Path(weights).parent.name == 'pretrained_models':
                hint += '\nWhere to get weights: experiments/pretrained_models/README.md'
    for key, weights in opt['path'].items():
        if key.startswith('pretrain_network_') and key != 'pretrain_network_g' and weights:
            missing += [] if Path(weights).is_file() else [f'path.{key}: {weights}']
    missing += elsewhere
    if missing:
        raise FileNotFoundError('not there:\n  ' + '\n  '.join(missing) + hint)


def dict2str(opt: dict, indent_level: int = 0) -> str:
    """Options as YAML text, indented by a number of levels."""
    text = yaml.dump(opt, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120)
    return textwrap.indent(text, '  ' * indent_level)


def copy_opt_file(opt_file: dict | str, experiments_root: str) -> None:
    """Keep the options with the experiment: a file under its name, options as `options.yml`, which can be run again."""
    if isinstance(opt_file, dict):
        write_text(Path(experiments_root) / 'options.yml', dict2str(opt_file))
    else:
        shutil.copy(opt_file, experiments_root)
