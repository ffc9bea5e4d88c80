"""From weights to the network that they belong to.

A network says by a static method `options_from_weights(weights)` with which arguments it has weights of these names and
shapes (None: never), lists in `not_in_weights` the arguments that change what it computes and nothing of that, and may
say by `task(options)` in a few words what it is for. Where building it reads or fetches weights of its own,
`options_to_rebuild(options, checkpoint)` gives options that need none but `checkpoint`. `last_resort` marks a rule that
is asked after all others.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from basicsr.options.file import yaml_load
from basicsr.options.paths import missing_arguments
from basicsr.runs.checkpoint import differences_to, find_weights, load_checkpoint, load_weights
from basicsr.runs.user_modules import import_remembered
from basicsr.runs.weights import without_outer_module
from basicsr.utils.registry import ARCH_REGISTRY, build

_SHOWN = 5
_OTHER_NETWORKS = {'HAT': r'\.overlap_attn\.', "EDSR, by its authors' names": r'^tail\.0\.0\.weight$'}
"""Networks whose weights may be given and that none here is, and what a name of these matches."""


def network_options(weights: dict[str, Tensor], path: str | os.PathLike) -> dict:
    """The section `network_g` of the network that `weights` belong to.

    It is that of the `options.yml` of the experiment that `path` lies in, where there is one and it fits; otherwise it
    is read from names and shapes. The network is built and compared in either case.

    Args:
        weights: A state dict.
        path: Where it came from.

    Returns:
        `type`, and arguments that differ from nothing but defaults.

    Raises:
        ValueError: No network here has such weights; the message says what they are instead.
    """
    logger = logging.getLogger('basicsr')
    saved = _saved_options(path)
    if saved:
        file, options = saved
        misfits = _misfits(options, weights)
        if not misfits:
            logger.info('The network is that of %s: %s', file, _listed(options))
            return options
        logger.warning('The network of %s does not fit %s, whose shapes are looked at: %s', file, path, misfits[0])
    nearest, named = None, weights
    while named:
        for options in _candidates(named):
            misfits = _misfits(options, named)
            if not misfits:
                _log_what_is_taken(options, path)
                return options
            nearest = nearest or (options, misfits)
        named = without_outer_module(named)
    raise ValueError(f'{path} fits no network that is known here: it holds {_what_they_are(weights, nearest)}')


def load_network_weights(
    net: nn.Module, path: str | os.PathLike, param_key: str | None = 'params', strict: bool = True
) -> list[str]:
    """Read the checkpoint `path` into `net`; returns what differed, a line each.

    Raises:
        FileNotFoundError, ValueError: No file, no checkpoint, weights that are not finite, or (`strict`) those of
            another network: which one, and by which arguments it differs.
    """
    weights = find_weights(load_checkpoint(path), path, param_key)
    try:
        return load_weights(net, weights, path, strict)
    except ValueError as error:
        if not strict or not differences_to(net, weights):
            raise
        found = next(_candidates(weights), None)
        if found and not _misfits(found, weights):
            beside = f'{path} does not fit the network {type(net).__name__} of network_g'
            raise ValueError(f'{beside}: the file holds {_compared(net, found)}') from error
        nearest = found and (found, _misfits(found, weights))
        raise ValueError(f'{error}\nThe file holds {_what_they_are(weights, nearest)}') from error


def describe(options: dict) -> str:
    """A network in words: 'MambaIR for classical super-resolution x4'."""
    task = getattr(ARCH_REGISTRY.get(options['type']), 'task', None)
    return options['type'] + (f' for {task(options)}' if task else '')


def options_to_rebuild(options: dict, checkpoint: str | os.PathLike) -> dict:
    """A section `network_g` for a network that will have the weights of `checkpoint`: it needs no other file."""
    try:
        rule = getattr(ARCH_REGISTRY.get(options['type']), 'options_to_rebuild', None)
    except KeyError:  # said elsewhere, where the network is built
        rule = None
    return rule(options, checkpoint) if rule else options


def outlive_its_first_file(opt: dict, weights: str | None) -> None:
    """Where the file that `network_g` was first built from is gone, let trained weights say what it is.

    Args:
        opt: The resolved options, changed in place.
        weights: A checkpoint of the network, where there is one.
    """
    if weights and Path(weights).is_file() and missing_arguments({'network_g': opt['network_g']}):
        opt['network_g'] = options_to_rebuild(opt['network_g'], weights)


def _listed(options: dict) -> str:
    return ', '.join(f'{key} {value!r}' for key, value in options.items() if key != 'type')


def _candidates(weights: dict[str, Tensor]) -> Iterator[dict]:
    """Options of the networks that take `weights` for theirs."""
    for name, network in sorted(ARCH_REGISTRY, key=lambda entry: getattr(entry[1], 'last_resort', False)):
        rule = getattr(network, 'options_from_weights', None)
        try:
            options = rule(weights) if rule else None
        except (LookupError, ValueError, ArithmeticError):  # a weight of all such networks is missing or has no values
            continue
        if options is not None:
            yield {'type': name, **options}


def _misfits(options: dict, weights: dict[str, Tensor]) -> list[str]:
    try:
        return differences_to(build(ARCH_REGISTRY, options), weights)
    except (LookupError, ValueError, OSError, ImportError, ArithmeticError, RuntimeError, MemoryError) as error:
        return [str(error)]


def options_beside(path: str | os.PathLike) -> tuple[Path, dict] | None:
    """(`options.yml`, what is in it) of the experiment whose folder `models` holds the checkpoint."""
    folder = Path(path).absolute().parent
    file = folder.parent / 'options.yml'
    if folder.name != 'models' or not file.is_file():
        return None
    try:
        return file, yaml_load(file)
    except (OSError, ValueError) as error:
        logging.getLogger('basicsr').warning('%s cannot be read: %s', file, error)
        return None


def _saved_options(path: str | os.PathLike) -> tuple[Path, dict] | None:
    """(`options.yml`, its `network_g`) of the experiment whose folder `models` holds the checkpoint."""
    found = options_beside(path)
    if found is None:
        return None
    file, saved = found
    import_remembered(saved.get('imports'), file)
    section = saved.get('network_g')
    return (file, options_to_rebuild(dict(section), path)) if isinstance(section, dict) and 'type' in section else None


def _log_what_is_taken(options: dict, path: str | os.PathLike) -> None:
    logger = logging.getLogger('basicsr')
    logger.info('By its names and shapes %s holds %s (%s)', path, describe(options), _listed(options))
    unseen = getattr(ARCH_REGISTRY.get(options['type']), 'not_in_weights', ())
    if unseen:
        logger.info('What shapes do not show has its default: %s', ', '.join(unseen))


def _what_they_are(weights: dict[str, Tensor], nearest: tuple[dict, list[str]] | None) -> str:
    """For an error: the nearest network of here, or one known by name; and some of what differs, or is there."""
    if nearest:
        options, misfits = nearest
        more = f'\n  and {len(misfits) - _SHOWN} more' if len(misfits) > _SHOWN else ''
        return (
            f'weights whose nearest network is {describe(options)} ({_listed(options)}), but\n  '
            + '\n  '.join(misfits[:_SHOWN])
            + more
        )
    names = list(weights)
    known = next((one for one, part in _OTHER_NETWORKS.items() if any(re.search(part, name) for name in names)), None)
    shapes = ', '.join(f'{name} {tuple(weights[name].shape)}' for name in names[:_SHOWN])
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    hint = (
        '' if find_spec('spandrel') else "; spandrel, which is not installed, knows more: pip install -e '.[spandrel]'"
    )
    return (f'weights of {known}: ' if known else 'weights of an unknown network: ') + shapes + more + hint


def _compared(net: nn.Module, found: dict) -> str:
    """The network of the options `found` in words, with the entries by which `net` differs where it is of its type."""
    own = next((one for one in _candidates(net.state_dict()) if one['type'] == type(net).__name__), {})
    if own.get('type') != found['type']:
        return f'{describe(found)} ({_listed(found)})'
    differing = [f'{key} {found[key]!r}, not {own.get(key)!r}' for key in found if found[key] != own.get(key)]
    return f'{describe(found)} ({"; ".join(differing)})'
