"""Networks of spandrel: some forty restoration architectures, by name or from a checkpoint."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from basicsr.archs.other_packages import import_package, their_warnings_ignored
from basicsr.archs.traits import Traits
from basicsr.runs.checkpoint import find_weights, load_checkpoint
from basicsr.utils.registry import ARCH_REGISTRY, call_checked, did_you_mean

_LEAST_PROBE = 16
_PURPOSES = ('SR', 'Restoration')


def _package() -> Any:
    return import_package('spandrel', 'a network of type spandrel')


@cache
def _architectures() -> dict[str, type[nn.Module]]:
    """The network classes by spandrel's names; if an architecture has several, by the names of the classes."""
    found: dict[str, type[nn.Module]] = {}
    for support in _package().MAIN_REGISTRY:
        made = next((arg for base in type(support.architecture).__orig_bases__ for arg in get_args(base)), None)
        if inspect.isclass(made):
            found[support.architecture.id] = made
        else:
            found.update({kind.__name__: kind for kind in get_args(made) if inspect.isclass(kind)})
    return found


def _architecture(name: str) -> type[nn.Module]:
    known = _architectures()
    if name not in known:
        near = did_you_mean(name, known)
        raise ValueError(f'spandrel has no architecture {name!r}{near} It has: {", ".join(sorted(known))}')
    return known[name]


def _recognised(weights: dict[str, Any]) -> Any:
    """spandrel's descriptor of the network with such weights, and an instance of that network.

    Raises:
        LookupError: spandrel knows no such network.
        ValueError: The weights are almost, but not quite, those of one.
    """
    spandrel = _package()
    try:
        with (
            their_warnings_ignored(),
            torch.random.fork_rng(devices=[]),
        ):  # its initial weights are random, and then replaced
            return spandrel.ModelLoader().load_from_state_dict(dict(weights))
    except spandrel.UnsupportedModelError as error:
        raise LookupError('spandrel knows no network with such weights') from error
    except Exception as error:  # parsing unexpected names and shapes can fail in any way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError('; '.join(lines[:2]) or type(error).__name__) from error


def _tried(descriptor: Any, name: str) -> bool:
    """Run a network on a small picture: to be trained, it must map pictures in [0, 1] to pictures in [0, 1].

    Returns:
        Whether it leaves its input unchanged.

    Raises:
        ValueError: spandrel prepares the input or selects from the output; or the network is for something else, or
            does not run.
    """
    if descriptor.purpose not in _PURPOSES:
        raise ValueError(f'{name} of spandrel is for {descriptor.purpose}; those for SR and Restoration can be trained')
    sizes = descriptor.size_requirements
    side = -(-max(_LEAST_PROBE, sizes.minimum) // sizes.multiple_of) * sizes.multiple_of
    x = torch.rand(1, descriptor.input_channels, side, side, generator=torch.Generator().manual_seed(0))
    given = x.clone()
    try:
        with torch.inference_mode():
            through_spandrel, bare = descriptor(x.clone()), descriptor.model(given)
    except Exception as error:  # incompatible arguments may only show when it runs
        raise ValueError(f'{name} of spandrel does not run on a picture of {side} x {side}: {error}') from error
    if not isinstance(bare, Tensor) or not torch.equal(through_spandrel.nan_to_num(), bare.clamp(0, 1).nan_to_num()):
        raise ValueError(
            f'{name} of spandrel cannot be trained: it takes or gives something else than pictures in [0, 1]'
        )
    return torch.equal(given, x)


def _copied(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(one.clone() for one in inputs)


def _prepare(net: nn.Module, descriptor: Any, name: str) -> None:
    """Try out `net` by way of the descriptor's identical network, and set its traits."""
    if not _tried(descriptor, name):
        net.register_forward_pre_hook(_copied)  # both branches, and the next epoch, get the same picture
    net.traits = _traits(descriptor)


def _traits(descriptor: Any) -> Traits:
    sizes = descriptor.size_requirements
    return Traits(
        size_multiple=sizes.multiple_of,
        smallest_side=max(sizes.minimum, 1),
        square=sizes.square,
        scale=descriptor.scale,
    )


def _from_checkpoint(path: str | os.PathLike) -> nn.Module:
    content = load_checkpoint(path)
    weights = content if isinstance(content, dict) else find_weights(content, path)
    try:
        descriptor = _recognised(weights)
    except LookupError as error:
        names = ', '.join(list(find_weights(content, path))[:5])
        raise ValueError(f'{path}: {error}, which begin: {names}') from error
    except ValueError as error:
        raise ValueError(f'{path} holds no weights that spandrel can load: {error}') from error
    net = copy.deepcopy(descriptor.model)  # before the trial below, from which it may retain something
    _prepare(net, descriptor, f'{descriptor.architecture.id} in {path}')
    logging.getLogger('basicsr').info('%s: %s x%d, by its weights', path, descriptor.architecture.id, descriptor.scale)
    return net.train()


def _from_name(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    kind = _architecture(architecture)
    try:
        with their_warnings_ignored():
            net = call_checked(kind, architecture, **arguments)
    except ValueError:
        raise
    except Exception as error:  # incompatible arguments can fail anywhere
        raise ValueError(f'{architecture} cannot be built from {arguments or "its defaults"}: {error}') from error
    logger = logging.getLogger('basicsr')
    try:
        descriptor = _recognised(net.state_dict())
    except (LookupError, ValueError) as error:
        logger.warning(
            'spandrel does not know %s with these arguments by its weights: what is saved will not load there, and '
            'sizes that it needs are unknown (%s)',
            architecture,
            error,
        )
        return net
    _prepare(net, descriptor, architecture)
    own, taken = getattr(net, 'hyperparameters', {}), getattr(descriptor.model, 'hyperparameters', {})
    unseen = [f'{key} {own[key]!r}' for key in arguments if key in taken and own[key] != taken[key]]
    if unseen:
        logger.info(
            'What weights of %s do not show, and spandrel takes differently: %s', architecture, ', '.join(unseen)
        )
    return net


@ARCH_REGISTRY.register(name='spandrel')
def spandrel_network(architecture: str | None = None, checkpoint: Path | None = None, **arguments: Any) -> nn.Module:
    """A trainable network of spandrel: (N, C, H, W) -> (N, C, H * scale, W * scale).

    It is the plain module with spandrel's names of weights, so saved weights load in spandrel again.

    Args:
        architecture: One of spandrel's architectures: DCTLSA, HAT, PLKSR, …
        checkpoint: Instead of `architecture`: a file of weights that determines the network and is loaded into it.
        **arguments: Arguments of the architecture's class.

    Returns:
        The network, with `traits`.

    Raises:
        ImportError: spandrel is not installed.
        FileNotFoundError: There is no such checkpoint.
        ValueError: An unknown architecture or argument, a file that is not a checkpoint of any architecture, or a
            network that does not produce pictures by itself.
    """
    if (architecture is None) == (checkpoint is None):
        raise ValueError('either architecture, with its arguments, or checkpoint says which network it is')
    if checkpoint is None:
        return _from_name(architecture, arguments)
    if arguments:
        raise ValueError(f'checkpoint says what the network is; drop {", ".join(arguments)}')
    return _from_checkpoint(checkpoint)


def _check_options(given: dict) -> Iterator[tuple[str, str]]:
    """Mistakes that types do not reveal, for the check of option files."""
    arguments = [key for key in given if key not in ('type', 'architecture', 'checkpoint')]
    if 'checkpoint' in given:
        for key in (*(['architecture'] if 'architecture' in given else ()), *arguments):
            yield key, 'checkpoint says what the network is; drop one of them'
        return
    try:
        kind = _architecture(given['architecture'])
    except KeyError:
        yield 'architecture', 'missing, and so is checkpoint: one of them says which network it is'
    except ImportError as error:
        yield 'type', str(error)
    except ValueError as error:
        yield 'architecture', str(error)
    else:
        known = inspect.signature(kind).parameters
        for key in arguments:
            if key not in known:
                near = did_you_mean(key, known)
                yield key, f'{given["architecture"]} has no such argument{near} It takes: {", ".join(known)}'


def _options_from_weights(weights: dict[str, Tensor]) -> dict | None:
    """Arguments that yield weights with these names and shapes, see `basicsr.archs.from_weights`."""
    try:
        net = _recognised(weights).model
        name = next(name for name, kind in _architectures().items() if type(net) is kind)
    except (ImportError, LookupError, ValueError, StopIteration):
        return None
    defaults = {key: argument.default for key, argument in inspect.signature(type(net)).parameters.items()}
    found = getattr(net, 'hyperparameters', {})
    return {
        'architecture': name,
        **{key: found[key] for key in defaults if key in found and found[key] != defaults[key]},
    }


def _options_to_rebuild(options: dict, checkpoint: str | os.PathLike) -> dict:
    """Read the network from the trained weights; the file that training started from may be gone."""
    return {'type': 'spandrel', 'checkpoint': str(checkpoint)} if options.get('checkpoint') else options


spandrel_network.check_options = _check_options
spandrel_network.options_from_weights = _options_from_weights
spandrel_network.options_to_rebuild = _options_to_rebuild
spandrel_network.last_resort = True
