"""`--check`: everything that can go wrong before a run begins is looked at, and nothing is made."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from basicsr.data import build_dataset
from basicsr.data.loaders import loader_beside_the_training, prefetcher, training_loader
from basicsr.evaluation import build_loaders, networks_of, with_changes
from basicsr.models import build_model
from basicsr.options.check import check_options
from basicsr.options.file import load_options
from basicsr.options.resolve import check_files, dict2str, missing_data, parse_options, trained_first
from basicsr.rehearsal import rehearse, without_pretrained_weights
from basicsr.runs.threads import in_threads

_SHOWN = 20
_OPTION = re.compile(r'(datasets|network_g|path|scale|train|val|the first)\b[\w.]*\b.*?: ')


def check_pipeline(root_path: str, args: argparse.Namespace | None = None, is_train: bool = True) -> None:
    """Check options, network, weights and every picture of an option file; print what a run would work with.

    Args:
        root_path: Folder of the project.
        args: A parsed command line; None parses `sys.argv`.
        is_train: For a training, or for a test.

    Raises:
        FileNotFoundError, ValueError: Mistakes in the options; or all that the check found, in one message.
    """
    opt, args = parse_options(root_path, is_train, args)
    if opt['rank'] > 0:
        return
    print(f'Options:\n{dict2str(args.merged, 1)}')
    notes, mistakes = _without_what_a_run_makes(opt, root_path) if is_train else [], []
    try:
        check_files(opt)
    except FileNotFoundError as error:
        mistakes.append(str(error))
    lines = _check_data(opt, mistakes)
    for label, changes in networks_of(opt).items():
        lines += _check_model(opt, label, changes, mistakes)
    print('\n'.join([*lines, *notes]))
    if mistakes:
        raise ValueError('the check found:\n' + '\n'.join(dict.fromkeys(mistakes)))
    print(f'{args.opt}: no mistakes found.')


def _without_what_a_run_makes(opt: dict, root_path: str) -> list[str]:
    """Take out of `opt` what is missing and a training would make by itself; a line for each."""
    notes = []
    for name, section in trained_first(opt).items():
        weights, before = section['pretrain_network_g'], section['pretrain_opt']
        check_options(*load_options(before), is_train=True)
        notes.append(f'{name}.pretrain_network_g: {weights} is not there; a training makes it first, by {before}')
        section['pretrain_network_g'] = None
    if opt.get('quickstart_data'):
        folder = str(Path(root_path) / opt['quickstart_data'])
        made = [line.split('.')[1] for line in missing_data(opt) if line.split(': ', 1)[1].startswith(folder + os.sep)]
        for phase in dict.fromkeys(made):
            notes.append(f'datasets.{phase}: not there; a training makes it first, in {folder}')
            del opt['datasets'][phase]
    return notes


def _check_model(opt: dict, label: str, changes: dict, mistakes: list[str]) -> list[str]:
    """Build one of the models, load its weights where they are there, and try its first step and its first tests."""
    main = not changes
    is_train = opt['is_train'] and main
    opt = {**with_changes(opt, changes), 'is_train': is_train}
    if opt['path'].get('pretrain_network_g') and not Path(opt['path']['pretrain_network_g']).is_file():
        opt = without_pretrained_weights({'train': {}, **opt})
    broken = bool(mistakes)
    try:
        model = build_model(opt)
        if not broken:
            if is_train:
                model.train_loader = loader_beside_the_training(opt) if 'train' in opt['datasets'] else None
                prefetcher(model.train_loader, opt)
            rehearse(model, model.train_loader, build_loaders(opt, ['val', 'test']))
    except Exception as error:  # models of users raise anything
        text, where = _in_a_line(error), 'network_g' if main else f'compare.{label}'
        mistakes.append(text if main and _OPTION.match(text) else f'{where}: {text}')
        return []
    count = sum(parameter.numel() for parameter in model.get_bare_model(model.net_g).parameters())
    of = '' if main else f' (compare.{label})'
    tried = '' if broken else f'; {"the first step and " if is_train else ""}the first tests were tried'
    return [f'Network {type(model.get_bare_model(model.net_g)).__name__}: {count:,} parameters{of}{tried}']


def _check_data(opt: dict, mistakes: list[str]) -> list[str]:
    """Open every picture of the data sets that are there."""
    lines, broken = [], []
    absent = {line.split('.')[1] for line in missing_data(opt)}
    for phase, section in opt['datasets'].items():
        if phase in absent or (section['phase'] == 'train' and not opt['is_train']):
            continue
        try:
            dataset = build_dataset(section)
            if section['phase'] == 'train':
                lines.append(_epochs(opt, section))
        except Exception as error:  # data sets of users raise anything
            mistakes.append(f'datasets.{phase}: {_in_a_line(error)}')
            continue
        sizes, found = _open_all(dataset, phase)
        broken += found
        lines.append(f'datasets.{phase} ({section["name"]}): {len(dataset)} pictures{_in_words(sizes, section)}')
    if broken:
        more = f'\n  … and {len(broken) - _SHOWN} more' if len(broken) > _SHOWN else ''
        count = '1 picture' if len(broken) == 1 else f'{len(broken)} pictures'
        mistakes.append(f'{count} cannot be used:\n  ' + '\n  '.join(broken[:_SHOWN]) + more)
    return lines


def _epochs(opt: dict, section: dict) -> str:
    loader, _ = training_loader(opt, section, opt['train'].get('accumulate') or 1)
    total = opt['train']['total_iter']
    return f'Training: {total:,} iterations in {-(-total // len(loader)):,} epochs of {len(loader):,}'


def _open_all(dataset: Any, phase: str) -> tuple[list[dict[str, tuple[int, int]]], list[str]]:
    """(height and width of each item's lq and gt, what is wrong with the others)."""

    def look(index: int) -> dict[str, tuple[int, int]] | str:
        try:
            item = dataset[index]
            return {key: tuple(item[key].shape[-2:]) for key in ('lq', 'gt') if isinstance(item.get(key), Tensor)}
        except Exception as error:
            return f'datasets.{phase}: {_in_a_line(error)}'

    seen = in_threads(look, range(len(dataset)), os.cpu_count() or 1, f'Open {phase}')
    return [one for one in seen if isinstance(one, dict)], [one for one in seen if isinstance(one, str)]


def _in_words(sizes: list[dict[str, tuple[int, int]]], section: dict) -> str:
    texts = []
    for key in ('lq', 'gt'):
        sides = sorted({size[key] for size in sizes if key in size})
        if sides:
            small, large = (f'{height}x{width}' for height, width in (sides[0], sides[-1]))
            texts.append(f', {key} {small}' + (f' to {large}' if large != small else ''))
    return ''.join(texts) + (' (height x width of patches)' if section['phase'] == 'train' else ' (height x width)')


def _in_a_line(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    known = isinstance(error, OSError | ValueError | KeyError)
    return ' '.join((text if known else f'{type(error).__name__}: {text}').split())
