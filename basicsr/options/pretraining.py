"""Trainings that make the weights of others first (`pretrain_opt`)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.options.resolve import missing_data, trained_first
from basicsr.options.schema import OWN_MODELS
from basicsr.options.strategies import asked_strategies, train_options


def command_line_of(section: Mapping[str, Any], args: argparse.Namespace) -> argparse.Namespace:
    """The command line of the training that makes the weights of a section.

    Args:
        section: With `pretrain_opt`, from `trained_first`.
        args: The command line of the training that needs them, whose network and devices count here, too.
    """
    shared = [text for text in args.set if text.startswith(('network_g.', 'num_gpu='))]
    return argparse.Namespace(**{**vars(args), 'opt': section['pretrain_opt'], 'set': shared, 'auto_resume': True})


def option_file(file: str, root_path: str | os.PathLike) -> Path:
    """The path by which an option file is known, however it is written."""
    path = Path(file)
    return (path if path.exists() or path.is_absolute() else Path(root_path) / path).resolve()


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, by whatever links."""
    return one == other or (one.exists() and other.exists() and one.samefile(other))


def check_product(option: str, section: Mapping[str, Any], before: Mapping[str, Any], opt: Mapping[str, Any]) -> None:
    """Make sure that a training makes the weights that it is there for.

    Args:
        option: Of the section: `path`, or `compare.<label>`.
        section: With `pretrain_network_g` and `pretrain_opt`.
        before: The resolved options of that training.
        opt: Those of the training that needs the weights.

    Raises:
        ValueError: It makes others, makes them under another key, or writes into the same folder.
    """
    wanted, models = Path(section['pretrain_network_g']), Path(before['path']['models'])
    made, numbers = _made(before)
    number = wanted.stem.removeprefix('net_g_')
    is_number = number.isascii() and number.isdecimal() and str(int(number)) == number and int(number) in numbers
    if wanted.parent.resolve() != models.resolve() or not (
        wanted.name in made or (wanted.name == f'net_g_{number}.pth' and is_number)
    ):
        kept = f', of which the last {len(numbers)} stay,' if before['logger'].get('keep_checkpoints') else ''
        numbered = f', and net_g_<iteration>.pth every {numbers.step}{kept}' if numbers else ''
        raise ValueError(
            f'{option}.pretrain_network_g: {wanted} is not what {section["pretrain_opt"]} makes, which is '
            f'{" and ".join(made)}{numbered} in {models}'
        )
    folder, own = before['path']['experiments_root'], opt['path'].get('experiments_root')
    if own is not None and Path(folder).resolve() == Path(own).resolve():
        raise ValueError(
            f'{option}.pretrain_opt: {section["pretrain_opt"]} writes into {own}, which is the folder of this run; '
            'give one of them another name'
        )
    key, keys = section.get('param_key_g') or 'params', _keys(before)
    if keys and key not in keys:
        raise ValueError(
            f'{option}.param_key_g: {section["pretrain_opt"]} makes no weights under {key!r}, but {", ".join(keys)}'
        )


def _made(before: Mapping[str, Any]) -> tuple[list[str], range]:
    """(files, iterations of numbered files) that a training leaves when it ends."""
    every, total = before['logger'].get('save_checkpoint_freq') or 0, int(before['train']['total_iter'])
    validated = (before.get('val') or {}).get('val_freq') and any(
        section['phase'] == 'val' for section in before['datasets'].values()
    )
    made = ['net_g_latest.pth']
    if before['logger'].get('save_best') and validated:
        made.insert(0, 'net_g_best.pth')
    numbers = range(every, total + 1, every) if every else range(0)
    keep = before['logger'].get('keep_checkpoints')
    return made, numbers[-keep:] if keep else numbers


def _keys(before: Mapping[str, Any]) -> list[str]:
    """Under which a training saves networks; none if only its model knows, which is one of users."""
    if before['model_type'] not in OWN_MODELS:
        return []
    strategies = asked_strategies(train_options(before)).values()
    return [*dict.fromkeys(['params', *(one.published_key for one in strategies)])]


def untrained(opt: dict, missing: bool = False) -> dict:
    """The options of a run without weights that are still to be made, and without strategies that need them.

    Args:
        opt: The resolved options.
        missing: Leave out all weights that are not there.
    """
    changed = {**opt, 'path': dict(opt['path']), 'train': dict(opt.get('train') or {})}
    to_make = trained_first(opt)

    def is_left_out(name: str, section: Mapping[str, Any]) -> bool:
        weights = section.get('pretrain_network_g')
        return name in to_make or (missing and bool(weights) and not Path(weights).is_file())

    if opt.get('compare'):
        changed['compare'] = {
            label: {**section, 'pretrain_network_g': None} if is_left_out(f'compare.{label}', section) else section
            for label, section in opt['compare'].items()
        }
    if is_left_out('path', opt['path']):
        changed['path']['pretrain_network_g'] = None
        for key, strategy in asked_strategies(changed['train']).items():
            if 'path.pretrain_network_g' in dict(strategy.needs({})):
                del changed['train'][key]
    return changed


def without_data_to_be_made(opt: dict, root_path: str | os.PathLike) -> tuple[dict, list[str]]:
    """(the options without data sets that a training makes before it begins, the keys of these data sets)."""
    if not opt.get('quickstart_data'):
        return opt, []
    folder = str(Path(root_path) / opt['quickstart_data']) + os.sep
    lines = [line for line in missing_data(opt) if line.split(': ', 1)[1].startswith(folder)]
    keys = list(dict.fromkeys(line.split('.')[1] for line in lines))
    return {**opt, 'datasets': {key: one for key, one in opt['datasets'].items() if key not in keys}}, keys
