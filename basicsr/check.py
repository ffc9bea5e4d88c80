"""`--check`: everything that can go wrong before a run begins is looked at, and nothing is made."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from typing import Any

import torch

from basicsr.archs.from_weights import outlive_its_first_file
from basicsr.data import build_dataset
from basicsr.data.loaders import loader_beside_the_training, prefetcher, training_loader
from basicsr.data.samples import INPUTS, Sizes, size_of
from basicsr.evaluation import compared
from basicsr.models import build_model
from basicsr.models.in_words import network_in_words
from basicsr.options.blame import described
from basicsr.options.pretraining import untrained, without_data_to_be_made
from basicsr.options.resolve import check_files, dict2str, missing_data, parse_options, trained_first
from basicsr.rehearsal import Rehearsal, loaders_to_try, try_networks, try_pretrainings
from basicsr.runs.aside import quietly, random_numbers_kept
from basicsr.runs.own_folder import refuse_to_move_inputs
from basicsr.runs.resume import load_resume_state, options_of_a_resumed_model
from basicsr.runs.threads import in_threads
from basicsr.utils.logger import check_wandb

_SHOWN = 20


def check_pipeline(root_path: str, args: argparse.Namespace | None = None, is_train: bool = True) -> None:
    """Check what an option file describes as far as the first step and the first tests; print what was tried.

    Args:
        root_path: Folder of the project.
        args: A parsed command line; None parses `sys.argv`.
        is_train: For a training, or for a test.

    Raises:
        FileNotFoundError, ImportError, ValueError: Mistakes in the options; or all that the check found, in one
            message.
    """
    sys.dont_write_bytecode = True  # not even of modules that the options import
    opt, args = parse_options(root_path, is_train, args)
    if opt['dist']:  # one process can look at everything
        torch.distributed.destroy_process_group()
    if opt['rank'] > 0:
        return
    opt.update(dist=False, num_gpu=min(opt['num_gpu'], 1))
    print(f'Options:\n{dict2str(args.merged, 1)}')
    notes = _what_a_run_makes(opt, root_path) if is_train else []
    rehearsal = Rehearsal(without_data_to_be_made(opt, root_path)[0] if is_train else opt)
    lines = [_device(opt), *_check(rehearsal, root_path, args)]
    print('\n'.join([*lines, *notes, *dict.fromkeys(rehearsal.notes)]))
    if getattr(args, 'debug', False):
        for mistake in rehearsal.mistakes:
            traceback.print_exception(mistake)
    if rehearsal.mistakes:
        raise ValueError('the check found:\n' + '\n'.join(dict.fromkeys(map(str, rehearsal.mistakes))))
    print(f'{args.opt}: no mistakes found.')


def _check(rehearsal: Rehearsal, root_path: str, args: argparse.Namespace) -> list[str]:
    """Look at everything; returns what there is to say of it."""
    opt, is_train = rehearsal.opt, rehearsal.opt['is_train']
    state = None
    with rehearsal.trying('logger'):
        check_wandb(opt)
    if is_train:
        try_pretrainings(rehearsal, root_path, args)
        with rehearsal.trying('path.resume_state'):
            state = load_resume_state(opt, args.merged)
            outlive_its_first_file(opt, opt['path'].get('resume_network'))
    if state is None:
        with rehearsal.trying('path'):
            refuse_to_move_inputs(opt)
    with rehearsal.trying(''):
        check_files(untrained(opt) if is_train else opt)
    lines, sizes = _check_data(rehearsal)
    _check_model(rehearsal, untrained(opt, missing=True), sizes, state)
    return [*lines, *rehearsal.networks, *(f'Tried: {tried}' for tried in dict.fromkeys(rehearsal.tried))]


def _device(opt: dict) -> str:
    name = torch.cuda.get_device_name() if opt['num_gpu'] else f'CPU, {torch.get_num_threads()} threads'
    return f'Device: {name}'


def _what_a_run_makes(opt: dict, root_path: str) -> list[str]:
    """A line for each thing that is missing, and that a training makes by itself."""
    notes = [
        f'{name}.pretrain_network_g: {section["pretrain_network_g"]} is not there; a training makes it first, by '
        f'{section["pretrain_opt"]}'
        for name, section in trained_first(opt).items()
    ]
    made = without_data_to_be_made(opt, root_path)[1]
    return [
        *notes,
        *(f'datasets.{key}: not there; a training makes it first, in {opt["quickstart_data"]}' for key in made),
    ]


def _check_data(rehearsal: Rehearsal) -> tuple[list[str], dict[str, Sizes]]:
    """Open every picture of the data sets that are there.

    Returns:
        A line for each set; and by the key of each that is whole the sizes of its pictures, of training data none.
    """
    opt, lines, broken, sizes = rehearsal.opt, [], [], {}
    absent = {line.split('.')[1] for line in missing_data(opt)}
    for key, section in opt['datasets'].items():
        if key in absent or (section['phase'] == 'train' and not opt['is_train']):
            continue
        with rehearsal.trying(f'datasets.{key}'), random_numbers_kept():
            dataset = build_dataset(section)
            if section['phase'] == 'train':
                lines.append(_epochs(opt, section))
            seen, found = _open_all(dataset, key)
            broken += found
            lines.append(f'datasets.{key} ({section["name"]}): {len(dataset)} pictures{_in_words(seen, section)}')
            if not found:
                known = {index: next(one[key] for key in INPUTS if key in one) for index, one in enumerate(seen) if one}
                sizes[key] = {} if section['phase'] == 'train' else known
    if broken:
        more = f'\n  … and {len(broken) - _SHOWN} more' if len(broken) > _SHOWN else ''
        count = '1 picture' if len(broken) == 1 else f'{len(broken)} pictures'
        rehearsal.add(ValueError(f'{count} cannot be used:\n  ' + '\n  '.join(broken[:_SHOWN]) + more))
    return lines, sizes


def _epochs(opt: dict, section: dict) -> str:
    loader, _ = training_loader(opt, section, opt['train'].get('accumulate') or 1)
    total = opt['train']['total_iter']
    return f'Training: {total:,} iterations in {-(-total // len(loader)):,} epochs of {len(loader):,}'


def _open_all(dataset: Any, key: str) -> tuple[list[dict[str, tuple[int, int]]], list[str]]:
    """(height and width of each item's pictures, what is wrong with the others)."""

    def look(index: int) -> dict[str, tuple[int, int]] | str:
        try:
            item = dataset[index]
        except Exception as error:
            return ' '.join(f'datasets.{key}: {described(error)}'.split())
        return {name: size for name in INPUTS if (size := size_of(item, name)) is not None}

    seen = in_threads(look, range(len(dataset)), os.cpu_count() or 1, f'Open {key}')
    return [one for one in seen if isinstance(one, dict)], [one for one in seen if isinstance(one, str)]


def _in_words(sizes: list[dict[str, tuple[int, int]]], section: dict) -> str:
    texts = []
    for name in INPUTS:
        sides = sorted({size[name] for size in sizes if name in size})
        if sides:
            small, large = (f'{height}x{width}' for height, width in (sides[0], sides[-1]))
            texts.append(f', {name} {small}' + (f' to {large}' if large != small else ''))
    return ''.join(texts) + (' (height x width of patches)' if section['phase'] == 'train' else ' (height x width)')


def _check_model(rehearsal: Rehearsal, opt: dict, sizes: dict[str, Sizes], state: dict | None) -> None:
    """Build the models, load their weights where they are there, and try the first step and the first tests.

    Args:
        rehearsal: Notes what comes of it.
        opt: The options, without weights that are not there.
        sizes: Of the pictures of each data set that is whole; the others are left out.
        state: The training state of a run that goes on.
    """
    whole = {key: section for key, section in opt['datasets'].items() if key in sizes}
    model, beside, loaders = None, None, []
    with rehearsal.trying('network_g'), random_numbers_kept(), quietly():
        model = build_model(opt if state is None else options_of_a_resumed_model(opt, state['iter']))
        rehearsal.networks.append(network_in_words(model))
    with rehearsal.trying('datasets'), quietly():
        loaders = loaders_to_try({**opt, 'datasets': whole})
    with rehearsal.trying('datasets.train'), quietly():
        if opt['is_train'] and 'train' in whole:
            beside = loader_beside_the_training(opt)
            prefetcher(beside, opt)
    if model is not None:
        model.train_loader = beside
        with quietly():
            rehearsal.try_model(model, beside, loaders, {key: one for key, one in sizes.items() if one})
    if state is not None and model is not None:
        with rehearsal.trying(f'path.resume_state: {opt["path"]["resume_state"]}'), random_numbers_kept(), quietly():
            model.resume_training(state)
    del model
    try_networks(rehearsal, compared(opt), loaders)
