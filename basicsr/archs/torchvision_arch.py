"""Classification networks of torchvision, by name."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torchvision
from torch import nn

from basicsr.archs.classifier_head import with_own_head
from basicsr.options.bounds import Channels
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights
from basicsr.utils.registry import ARCH_REGISTRY, did_you_mean

_AUXILIARY = {'googlenet': ('aux1.', 'aux2.'), 'inception_v3': ('AuxLogits.',)}
"""Networks that have further heads for training, and how the names of their weights begin."""

_READ_BEFORE = ('width_mult', 'reduced_tail', 'dilated')
"""Arguments of MobileNetV3 that are not its class's."""


def _names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _broken_rules(given: dict) -> Iterator[tuple[str, str]]:
    """Values that types do not refuse, as (name, message)."""
    name, names = given.get('name'), _names()
    if name is not None and name not in names:
        yield 'name', f'torchvision has no classification network {name!r}{did_you_mean(name, names)}'
    if given.get('pretrained') is True:
        yield 'pretrained', 'weights of torchvision are not fetched: pretrained names their file, or is false'
    if name in _AUXILIARY and given.get('aux_logits'):
        yield 'aux_logits', f'{name} is trained by its last head alone; leave aux_logits out'


def _head(net: nn.Module) -> str:
    """Name of the layer that gives the logits: the last one with weights, as everywhere in torchvision."""
    return [name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def _create(name: str, arguments: dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():  # that initialisation will change in future
        warnings.simplefilter('ignore', FutureWarning)
        try:
            net = torchvision.models.get_model(name, weights=None, **arguments)
        except (TypeError, ValueError):
            raise
        except Exception as error:  # incompatible arguments can fail anywhere
            raise ValueError(f'{name} cannot be built from {arguments}: {error}') from error
    known = [*inspect.signature(type(net)).parameters, *_READ_BEFORE]
    for key in arguments.keys() - known:  # its class accepts and ignores it
        raise ValueError(f'{name} of torchvision takes no {key!r}{did_you_mean(key, known)}')
    return net


def _load(net: nn.Module, name: str, path: Path) -> None:
    weights = find_weights(load_checkpoint(path), path)
    unused = _AUXILIARY.get(name, ())
    weights = {key: value for key, value in weights.items() if not (unused and key.startswith(unused))}
    weights, net.new_layers = with_own_head(weights, net.state_dict(), (_head(net),), path)
    load_weights(net, weights, path)


@ARCH_REGISTRY.register(name='torchvision')
def torchvision_network(
    name: str, pretrained: Literal[False] | Path = False, num_classes: Channels = 1000, **arguments: Any
) -> nn.Module:
    """A classification network of torchvision: (N, 3, H, W) -> (N, num_classes).

    Args:
        name: As listed by torchvision: resnet50, vit_b_16, efficientnet_b0, …
        pretrained: A file of weights: one that torchvision publishes, or that a training saved. A head for other
            classes is initialised anew.
        num_classes: Classes.
        **arguments: Arguments of the network: dropout, stochastic_depth_prob, … What torchvision publishes for
            googlenet and inception_v3 belongs to transform_input: true.

    Returns:
        The network; `head_prefixes` names its head, and `input_size` is the (height, width) that it needs, or None.

    Raises:
        FileNotFoundError: There is no such file of weights.
        ValueError: An unknown name or argument, or weights that do not fit.
    """
    for _, message in _broken_rules({'name': name, 'pretrained': pretrained, **arguments}):
        raise ValueError(message)
    auxiliary = {'aux_logits': False} if name in _AUXILIARY else {}
    net = _create(name, {**arguments, **auxiliary, 'num_classes': num_classes})
    if pretrained:
        _load(net, name, Path(pretrained))
    net.head_prefixes, side = (_head(net),), _side(net, arguments)
    net.input_size = side and (side, side)
    return net


def _side(net: nn.Module, arguments: dict[str, Any]) -> int | None:
    """Height and width that a network needs; None if it takes any."""
    if isinstance(net, torchvision.models.MaxVit):
        return arguments.get('input_size', (224, 224))[0]
    return getattr(net, 'image_size', None)


def _options_to_rebuild(options: dict, checkpoint: str | os.PathLike) -> dict:
    """The file that training began with may be gone."""
    return {**options, 'pretrained': False}


torchvision_network.check_options = _broken_rules
torchvision_network.options_to_rebuild = _options_to_rebuild
