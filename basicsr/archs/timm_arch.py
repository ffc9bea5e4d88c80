"""Networks of timm, mainly for classification, by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from basicsr.archs.arch_util import to_2tuple
from basicsr.archs.classifier_head import with_own_head
from basicsr.archs.other_packages import import_package
from basicsr.runs.checkpoint import differences_to, find_weights, load_checkpoint
from basicsr.utils.registry import ARCH_REGISTRY, did_you_mean

_SHOWN = 5
_COUNTER = 'num_batches_tracked'
_ROLES = {'weight', 'bias', 'running_mean', 'running_var'}
"""What torch's layers call their tensors: two of the same shape must not be taken for each other."""


def _package() -> Any:
    return import_package('timm', 'a network of type timm')


def _refuse_unknown(name: str) -> None:
    timm = _package()
    if name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')):
        return
    base, dot, tag = name.partition('.')
    if not timm.is_model(base):
        raise ValueError(f'timm has no network {name!r}{did_you_mean(base, timm.list_models())}')
    tags = [full.partition('.')[2] for full in timm.list_pretrained(f'{base}.*')]
    if dot and tag not in tags:
        near = did_you_mean(tag, tags)
        raise ValueError(f'{base} of timm has no weights {tag!r}{near} It has: {", ".join(sorted(tags)) or "none"}')


def _create(name: str, arguments: dict[str, Any], **weights: Any) -> nn.Module:
    try:
        return _package().create_model(name, **weights, **arguments)
    except (TypeError, ValueError):
        raise
    except Exception as error:  # incompatible arguments can fail anywhere
        raise ValueError(f'{name} cannot be built from {arguments or "its defaults"}: {error}') from error


def _classifiers(net: nn.Module) -> tuple[str, ...]:
    """Names of the classifier layers, according to timm."""
    names = (getattr(net, 'pretrained_cfg', None) or {}).get('classifier') or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _by_place(weights: dict[str, Tensor], net: nn.Module, path: Path) -> dict[str, Tensor]:
    """`weights`, which stand in the order of `net`, by its names; all shapes but the head's must agree.

    Files of old versions of torch have no counters of batches; the network then keeps its own.

    Raises:
        ValueError: The first place where the two disagree.
    """
    own, layers = net.state_dict(), _classifiers(net)
    counted, theirs = any(name.endswith(_COUNTER) for name in weights), list(weights)
    names = [name for name in own if counted or not name.endswith(_COUNTER)]
    for place, (name, other) in enumerate(zip_longest(names, theirs), 1):
        if other is None or name is None:
            fault = f'the file ends before {name}' if other is None else f'the network ends before {other}'
        elif name.rpartition('.')[0] not in layers and own[name].shape != weights[other].shape:
            fault = f'{other} of {tuple(weights[other].shape)} stands where {name} has {tuple(own[name].shape)}'
        elif len(roles := {one.rpartition('.')[2] for one in (name, other)} & _ROLES) == 2:
            fault = f'{other} stands where {name} should, so the order is another: {" and ".join(sorted(roles))}'
        else:
            continue
        raise ValueError(f'{path}, pretrained_match: order: at place {place} {fault}')
    ours = {name: weights[other] for name, other in zip(names, theirs, strict=True)}
    return {name: ours.get(name, value) for name, value in own.items()}


def _same_order(weights: dict[str, Tensor], net: nn.Module, path: Path) -> bool:
    try:
        return bool(_by_place(weights, net, path))
    except ValueError:
        return False


def _from_file(name: str, arguments: dict[str, Any], path: Path, match: str) -> nn.Module:
    net = _create(name, arguments)
    weights = find_weights(load_checkpoint(path), path)
    if match == 'order':
        weights = _by_place(weights, net, path)
    # timm itself loads them: it can translate the authors' names and adapt the number of channels.
    own, new = with_own_head(weights, net.state_dict(), _classifiers(net), path)
    given = {'state_dict': own, 'num_classes': net.num_classes, 'label_offset': 0}
    try:
        net = _package().create_model(name, pretrained=True, pretrained_cfg_overlay=given, **arguments)
    except Exception as error:  # from torch, or from translating names
        misfits = differences_to(net, weights) or [str(error)]
        more = f'\n  and {len(misfits) - _SHOWN} more' if len(misfits) > _SHOWN else ''
        if match == 'name' and _same_order(weights, net, path):
            more += '\nShapes agree one by one, so the names alone may differ: pretrained_match: order'
        raise ValueError(f'{path} does not fit {name}:\n  ' + '\n  '.join(misfits[:_SHOWN]) + more) from error
    net.new_layers = new
    return net


def _fetched(name: str, arguments: dict[str, Any]) -> nn.Module:
    _create(name, arguments)  # so that any failure below is about the weights
    client = logging.getLogger('huggingface_hub')
    level = client.level
    client.setLevel(logging.ERROR)  # it warns about each retry, for most of a minute
    logging.getLogger('basicsr').info('Weights of %s: where timm has put them before, or fetched', name)
    try:
        net = _package().create_model(name, pretrained=True, **arguments)
    except Exception as error:  # from the connection, the hub's client or the file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'weights of {name} cannot be had ({reason}). Fetch them on a machine that can, and name the file as '
            'pretrained: path; or begin without, pretrained: false'
        ) from error
    finally:
        client.setLevel(level)
    if net.num_classes != net.pretrained_cfg.get('num_classes'):
        own, layers = net.state_dict(), _classifiers(net)
        fetched = {key: value for key, value in own.items() if key.rpartition('.')[0] not in layers}
        weights, net.new_layers = with_own_head(fetched, own, layers, name)
        net.load_state_dict(weights)
    return net


def _input_size(net: nn.Module, arguments: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width that a network needs, according to timm; None if it takes any."""
    known, patches = getattr(net, 'pretrained_cfg', None) or {}, getattr(net, 'patch_embed', None)
    if not known.get('fixed_input_size') or getattr(patches, 'strict_img_size', None) is False:
        return None
    return to_2tuple(getattr(patches, 'img_size', None) or arguments.get('img_size') or tuple(known['input_size'][1:]))


@ARCH_REGISTRY.register(name='timm')
def timm_network(
    name: str,
    pretrained: bool | Path = False,
    pretrained_match: Literal['name', 'order'] = 'name',
    **arguments: Any,
) -> nn.Module:
    """A network of timm: (N, C, H, W) -> (N, classes), unless its arguments say otherwise.

    Args:
        name: As listed by timm: resnet50, vit_small_patch16_224.augreg_in1k, …
        pretrained: true: timm downloads weights, or uses its cache. A path: the weights in that file, .pth or
            .safetensors; a head for other classes is initialised anew.
        pretrained_match: How the tensors of that file are assigned: by name, or where the file holds the same network
            under other names in their order, in which all shapes but the head's must agree.
        **arguments: Arguments of `timm.create_model` and of the network: num_classes, in_chans, drop_path_rate, …

    Returns:
        The network; `head_prefixes` names its head, and `input_size` is the (height, width) that it needs, or None.

    Raises:
        ImportError: timm is not installed.
        FileNotFoundError: There is no such file of weights.
        ValueError: An unknown name or argument, or weights that do not fit or cannot be downloaded.
    """
    for _, message in _broken_rules({'pretrained': pretrained, 'pretrained_match': pretrained_match}):
        raise ValueError(message)
    _refuse_unknown(name)
    if isinstance(pretrained, bool):
        net = _fetched(name, arguments) if pretrained else _create(name, arguments)
    else:
        net = _from_file(name, arguments, Path(pretrained), pretrained_match)
    net.head_prefixes, net.input_size = _classifiers(net), _input_size(net, arguments)
    return net


def _broken_rules(given: dict) -> Iterator[tuple[str, str]]:
    """Values that types do not refuse, and incompatible arguments, as (name, message)."""
    match = given.get('pretrained_match', 'name')
    if match not in ('name', 'order'):
        yield 'pretrained_match', f"pretrained_match is 'name' or 'order', not {match!r}"
    elif match == 'order' and isinstance(given.get('pretrained', False), bool):
        yield (
            'pretrained_match',
            'pretrained_match: order is for the file that pretrained names; name one, or leave it out',
        )


def _check_options(given: dict) -> Iterator[tuple[str, str]]:
    """Mistakes that types do not reveal, for the check of option files."""
    yield from _broken_rules(given)
    try:
        if 'name' in given:
            _refuse_unknown(given['name'])
    except ImportError as error:
        yield 'type', str(error)
    except ValueError as error:
        yield 'name', str(error)


def _options_to_rebuild(options: dict, checkpoint: str | os.PathLike) -> dict:
    """If a checkpoint holds the weights, none need to be downloaded."""
    return {**{key: value for key, value in options.items() if key != 'pretrained_match'}, 'pretrained': False}


timm_network.check_options = _check_options
timm_network.options_to_rebuild = _options_to_rebuild
