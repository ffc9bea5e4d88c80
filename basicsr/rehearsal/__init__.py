"""What a run does first, tried before it makes or renames anything: the first step, a few pictures of each data set."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from basicsr.models.contract import is_of_users
from basicsr.options.pretraining import untrained
from basicsr.options.resolve import check_files
from basicsr.rehearsal.chain import build, loaders_to_try, tests_of, try_from_scratch, try_networks, try_pretrainings
from basicsr.rehearsal.trial import Rehearsal

__all__ = [
    'Rehearsal',
    'build',
    'loaders_to_try',
    'rehearse',
    'rehearse_tests',
    'rehearse_untrained',
    'try_networks',
    'try_pretrainings',
]


def rehearse(
    opt: dict, model: Any, train_loader: Any, loaders: list[Any], networks: Mapping[str, dict] | None = None
) -> None:
    """Try the first step and the first tests of a run, see `Rehearsal.try_model`.

    Args:
        opt: The resolved options of the training.
        model: The model, built for it.
        train_loader: The training batches.
        loaders: Of the data sets that validate and test.
        networks: By label, those that stand beside the model's in the test at the end.

    Raises:
        ValueError: What fails, a line each, with the option that is to blame.
    """
    rehearsal = Rehearsal(opt)
    rehearsal.try_model(model, train_loader, loaders)
    if networks and not rehearsal.mistakes:
        try_networks(rehearsal, networks, tests_of(loaders))
    rehearsal.end(in_earnest=is_of_users(type(model)))


def rehearse_tests(opt: dict, models: Mapping[str, Any], loaders: list[Any]) -> None:
    """Try each network of a test on pictures of each data set.

    Args:
        opt: The resolved options of the test.
        models: By label, from `build_networks`; the last is the main one.
        loaders: From `build_loaders`.

    Raises:
        ValueError: What fails, a line each.
    """
    rehearsal = Rehearsal(opt)
    for label, model in models.items():
        one = Rehearsal(opt, '' if label == opt['name'] else f'compare.{label}')
        one.try_model(model, None, loaders)
        rehearsal.take(one)
    rehearsal.end()


def rehearse_untrained(root_path: str, opt: dict, args: argparse.Namespace) -> None:
    """Try a training whose weights are not there yet, and those that make them, before the first of them begins.

    Raises:
        FileNotFoundError: Data is missing.
        ValueError: What fails, a line each.
    """
    check_files(untrained(opt))
    rehearsal = Rehearsal(opt)
    try_pretrainings(rehearsal, root_path, args)
    try_from_scratch(rehearsal)
    rehearsal.end(in_earnest=True)
