"""Option files: YAML with BasicSR's keys, `_base_` to inherit, and changes from the command line."""

from __future__ import annotations

import argparse
import copy
import random
import re
import shutil
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml

from basicsr.utils.command_line import make_parser
from basicsr.utils.dist_util import broadcast, get_dist_info, init_dist
from basicsr.utils.logger import get_root_logger
from basicsr.utils.misc import set_random_seed
from basicsr.utils.option_check import check_keys

_DATA_PATHS = ('dataroot_gt', 'dataroot_lq', 'meta_info', 'meta_info_file')


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number and a key that stands twice is a mistake."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key {key.value!r} stands twice', key.start_mark
                )
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
)


def ordered_yaml() -> tuple[type, type]:
    """(loader, dumper) of option files; mappings keep their order."""
    return _Loader, yaml.SafeDumper


def _yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f', line {mark.line + 1}' if mark else ''
        raise ValueError(f'{source}{where}: {getattr(error, "problem", None) or error}') from error


def yaml_load(path: str | Path) -> dict:
    """Read an option file; files that it names under `_base_` come first and are overridden.

    A section that names another `type` than the base's replaces it; other sections are merged key by key.

    Raises:
        FileNotFoundError: The file, or a base, is not there.
        ValueError: No valid YAML, no mapping, or bases that inherit from each other.
    """
    return _load(Path(path).resolve(), ())


def _load(path: Path, above: tuple[Path, ...]) -> dict:
    if path in above:
        raise ValueError(f'{path} inherits from itself: {" -> ".join(file.name for file in (*above, path))}')
    if not path.is_file():
        asked = f' (`_base_` of {above[-1]})' if above else ''
        raise FileNotFoundError(f'there is no option file {path}{asked}')
    opt = _yaml(path.read_text(), str(path))
    if not isinstance(opt, dict):
        raise ValueError(f'{path} holds no options: its top level must be `key: value` lines')
    bases = opt.pop('_base_', None) or []
    merged: dict = {}
    for base in [bases] if isinstance(bases, str) else bases:
        merged = _merge(merged, _load((path.parent / base).resolve(), (*above, path)))
    return _merge(merged, opt)


def _merge(base: dict, over: dict) -> dict:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get('type', old.get('type')) == old.get('type'):
            value = _merge(old, value)
        merged[key] = value
    return merged


def override(opt: dict, assignments: Iterable[str]) -> None:
    """Apply `a.b=value` assignments in place; values are read as YAML.

    Raises:
        ValueError: No `=`, a value that is no YAML, or a path through something that is no section.
    """
    for assignment in assignments:
        dotted, sign, text = assignment.partition('=')
        if not sign:
            raise ValueError(f'--set {assignment}: write it as a.b=value')
        *sections, last = dotted.split('.')
        target = opt
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            target = target[section]
            if not isinstance(target, dict):
                raise ValueError(f'--set {assignment}: {section} is no section of the options')
        target[last] = _yaml(text, f'--set {assignment}')


def parse_options(
    root_path: str, is_train: bool = True, args: argparse.Namespace | None = None
) -> tuple[dict, argparse.Namespace]:
    """Read the command line and its option file.

    Args:
        root_path: Folder of the project: relative paths in the file start there.
        is_train: Training, or testing.
        args: A parsed command line; None parses `sys.argv`.

    Returns:
        The resolved options, and the command line with the options as they were written, merged, in `merged`.

    Raises:
        FileNotFoundError, ValueError: The file is missing, broken, or has mistakes; all are named.
    """
    args = args or make_parser(is_train).parse_args()
    root = Path(root_path)
    file = Path(args.opt)
    opt = yaml_load(file if file.exists() or file.is_absolute() else root / file)
    override(opt, args.set)
    # A variant drops a data set of its base by `train: ~`.
    opt['datasets'] = {phase: dataset for phase, dataset in (opt.get('datasets') or {}).items() if dataset is not None}
    check_keys(opt)
    args.merged = copy.deepcopy(opt)
    if args.launcher != 'none':
        init_dist(args.launcher, **(opt.get('dist_params') or {}))
    opt['logger'] = opt.get('logger') or {}
    rank, world_size = get_dist_info()
    opt.update(is_train=is_train, dist=world_size > 1, rank=rank, world_size=world_size)
    opt['auto_resume'] = getattr(args, 'auto_resume', False)
    _resolve_device(opt)
    if opt.get('manual_seed') is None:
        args.merged['manual_seed'] = opt['manual_seed'] = broadcast(random.randint(1, 10000))
    set_random_seed(opt['manual_seed'] + rank)
    resolve_datasets(opt, root)
    _resolve_paths(opt, root)
    return opt, args


def _resolve_device(opt: dict) -> None:
    wanted, there = opt.get('num_gpu', 'auto'), torch.cuda.device_count()
    if wanted != 'auto' and (not isinstance(wanted, int) or wanted < 0):
        raise ValueError(f'num_gpu: must be auto or a number of GPUs, not {wanted!r}')
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
        if 'scale' in opt:
            dataset['scale'] = opt['scale']
        for key in _DATA_PATHS:
            if dataset.get(key):
                dataset[key] = str(root / Path(dataset[key]).expanduser())


def _resolve_paths(opt: dict, root: Path) -> None:
    paths = opt['path'] = opt.get('path') or {}
    for key in ('pretrain_network_g', 'resume_state', 'pretrain_opt'):
        if paths.get(key):
            paths[key] = str(root / Path(paths[key]).expanduser())
    output = root / Path(paths.get('output_root') or '.').expanduser()
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
    """The folders and files of `datasets` that are not there, each with its option."""
    return [
        f'datasets.{phase}.{key}: {dataset[key]}'
        for phase, dataset in opt['datasets'].items()
        for key in _DATA_PATHS
        if dataset.get(key) and not Path(dataset[key]).exists()
    ]


def check_files(opt: dict) -> None:
    """Make sure that data and pre-trained weights are there, before anything is built.

    Raises:
        FileNotFoundError: Names all that is missing, and says how to get it where the options do (`data_hint`).
    """
    missing = missing_data(opt)
    hint = f'\n{opt["data_hint"]}' if missing and opt.get('data_hint') else ''
    weights = opt['path'].get('pretrain_network_g')
    if weights and not Path(weights).is_file():
        missing.append(f'path.pretrain_network_g: {weights}')
        if Path(weights).parent.name == 'pretrained_models':
            hint += '\nWhere to get weights: experiments/pretrained_models/README.md'
    if missing:
        raise FileNotFoundError('not there:\n  ' + '\n  '.join(missing) + hint)


def dict2str(opt: dict, indent_level: int = 0) -> str:
    """Options as YAML text, indented by so many levels."""
    text = yaml.safe_dump(opt, sort_keys=False, default_flow_style=None, width=120)
    return textwrap.indent(text, '  ' * indent_level)


def copy_opt_file(opt_file: dict | str, experiments_root: str) -> None:
    """Keep the options with the experiment: a file under its name, options as `options.yml`, which can be run again."""
    if isinstance(opt_file, dict):
        (Path(experiments_root) / 'options.yml').write_text(dict2str(opt_file))
    else:
        shutil.copy(opt_file, experiments_root)
