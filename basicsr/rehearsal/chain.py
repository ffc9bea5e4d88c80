"""Trying what stands around a training: trainings that come first, networks that it is compared with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from basicsr.archs import build_network
from basicsr.data.loaders import loader_beside_the_training, prefetcher
from basicsr.evaluation import build_loaders, build_networks, compared
from basicsr.models import build_model
from basicsr.models.in_words import network_in_words
from basicsr.options.blame import blamed, described, raised_by
from basicsr.options.pretraining import (
    check_product,
    command_line_of,
    is_same_file,
    option_file,
    untrained,
    without_data_to_be_made,
)
from basicsr.options.resolve import check_files, parse_options, trained_first
from basicsr.options.schema import OWN_MODELS
from basicsr.rehearsal.trial import READERS, Rehearsal
from basicsr.runs.aside import quietly, random_numbers_kept
from basicsr.runs.checkpoint import differences_to
from basicsr.runs.shortages import shortage_of


def loaders_to_try(opt: dict) -> list[Any]:
    """Loaders of the data sets of a run that validate and test; in a training one of each may have the same name."""
    groups = [['val'], ['test']] if opt['is_train'] else [['val', 'test']]
    return [loader for phases in groups for loader in build_loaders(opt, phases)]


def build(opt: dict) -> Any:
    """`build_model`, whose errors name the option to blame.

    Raises:
        FileNotFoundError, ImportError: A file or package is missing.
        ValueError: All else.
    """
    try:
        return build_model(opt)
    except (OSError, ImportError):
        raise
    except Exception as error:  # models of users raise anything
        if shortage_of(error) or isinstance(error, torch.distributed.DistError):
            raise
        raise blamed(error, raised_by(error, {}, READERS) or 'network_g', opt=opt) from error


def try_networks(rehearsal: Rehearsal, networks: Mapping[str, dict], loaders: Sequence[Any]) -> None:
    """Build the networks that stand beside the main one, one after the other, and try each on `loaders`.

    Args:
        rehearsal: Notes what comes of it.
        networks: By label, the options that differ from those of the run.
        loaders: Of the data sets that test them.
    """
    opt = rehearsal.opt
    for label, changes in networks.items():
        of = f'compare.{label}' if label in (opt.get('compare') or {}) else label
        beside = Rehearsal(opt, of)
        with rehearsal.trying(of), random_numbers_kept(), quietly():
            model = build_networks(opt, {label: changes}, '', save_img=False)[label]
            beside.networks.append(network_in_words(model))
            beside.try_model(model, None, loaders)
        rehearsal.take(beside)


def try_pretrainings(
    rehearsal: Rehearsal, root_path: str, args: argparse.Namespace, above: tuple[Path, ...] = ()
) -> None:
    """Try the trainings that make weights first.

    Args:
        rehearsal: Of the training that needs them; notes what comes of it.
        root_path: Folder of the project.
        args: The command line of that training.
        above: The option files that led there.
    """
    above, tried = (*above, option_file(args.opt, root_path)), set()
    for option, section in trained_first(rehearsal.opt).items():
        before = command_line_of(section, args)
        file, here = option_file(before.opt, root_path), f'{option}.pretrain_opt: {before.opt}'
        again = next((index for index, path in enumerate(above) if is_same_file(path, file)), None)
        if again is not None:
            way = ' → '.join(path.name for path in (*above[again:], file))
            rehearsal.add(ValueError(f'{here} leads to itself, so that nothing can be trained first: {way}'))
            continue
        with rehearsal.trying(here), random_numbers_kept(), quietly():
            try:
                opt, _ = parse_options(root_path, True, before)
            except (ValueError, OSError, ImportError) as error:
                raise ValueError(f'{here}: {described(error)}') from error
            check_product(option, section, opt, rehearsal.opt)
            if file not in tried:
                tried.add(file)
                first = Rehearsal(without_data_to_be_made(opt, root_path)[0], here)
                try_pretrainings(first, root_path, before, above)
                try_from_scratch(first)
                rehearsal.take(first)
                if not first.mistakes:
                    _check_fit(option, section, opt, rehearsal.opt)


def _check_fit(option: str, section: Mapping[str, Any], before: dict, opt: dict) -> None:
    """Make sure that a network can load what a training makes for it.

    Args:
        option: Of the section: `path`, or `compare.<label>`.
        section: What stands there.
        before: The options of that training.
        opt: Those of the run that needs its weights.

    Raises:
        ValueError: Names or shapes differ.
    """
    own = section.get('network_g') or opt['network_g']
    ours = before['model_type'] in OWN_MODELS and opt['model_type'] in OWN_MODELS
    if not ours or own == before['network_g'] or not section.get('strict_load_g', True):
        return
    differences = differences_to(build_network(own), build_network(before['network_g']).state_dict())
    if differences:
        more = f' and {len(differences) - 3} more' if len(differences) > 3 else ''
        raise ValueError(
            f'{option}.pretrain_opt: {section["pretrain_opt"]} trains a network whose weights do not fit: '
            f'{"; ".join(differences[:3])}{more}'
        )


def try_from_scratch(rehearsal: Rehearsal) -> None:
    """Build what a training is made of, with weights at random in place of those that are to be made, and try it."""
    opt, model, beside = untrained(rehearsal.opt), None, None
    count, loaders = len(rehearsal.mistakes), []
    with random_numbers_kept(), quietly():
        with rehearsal.trying(''):
            check_files(opt)
            with rehearsal.trying('network_g'):
                model = build_model(opt)
            with rehearsal.trying('datasets'):
                loaders = loaders_to_try(opt)
                if 'train' in opt['datasets']:
                    beside = loader_beside_the_training(opt)
                    prefetcher(beside, opt)
        if model is not None and len(rehearsal.mistakes) == count:
            model.train_loader = beside
            rehearsal.try_model(model, beside, loaders)
            del model
            try_networks(rehearsal, compared(opt), tests_of(loaders))


def tests_of(loaders: Sequence[Any]) -> list[Any]:
    """Those of the loaders whose data sets are for tests."""
    return [loader for loader in loaders if loader.dataset.opt.get('phase') == 'test']
