"""Networks of timm, mainly for classification, by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from basicsr.archs.other_packages import import_package
from basicsr.runs.checkpoint import differences_to, find_weights, load_checkpoint
from basicsr.utils.registry import ARCH_REGISTRY, did_you_mean

_SHOWN = 5


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


def _with_own_head(weights: dict[str, Tensor], net: nn.Module, path: Path) -> dict[str, Tensor]:
    """`weights` with the head of `net` if theirs is missing, superfluous, or has other classes."""
    own = net.state_dict()
    head = {f'{layer}.{kind}' for layer in _classifiers(net) for kind in ('weight', 'bias')}
    lacking = own.keys() - weights.keys()
    replaced = {name for name in head & weights.keys() if name not in own or weights[name].shape != own[name].shape}
    if lacking and lacking <= head:
        replaced |= lacking
    if replaced:
        logging.getLogger('basicsr').info(
            '%s: the head is not loaded, but begins anew, as its classes are others: %s',
            path,
            ', '.join(sorted(replaced)),
        )
    kept = {name: value for name, value in weights.items() if name not in replaced}
    return {**kept, **{name: own[name] for name in replaced & own.keys()}}


def _from_file(name: str, arguments: dict[str, Any], path: Path) -> nn.Module:
    net = _create(name, arguments)
    weights = find_weights(load_checkpoint(path), path)
    # timm itself loads them: it can translate the authors' names and adapt the number of channels.
    given = {'state_dict': _with_own_head(weights, net, path), 'num_classes': net.num_classes, 'label_offset': 0}
    try:
        return _package().create_model(name, pretrained=True, pretrained_cfg_overlay=given, **arguments)
    except Exception as error:  # from torch, or from translating names
        misfits = differences_to(net, weights) or [str(error)]
        more = f'\n  and {len(misfits) - _SHOWN} more' if len(misfits) > _SHOWN else ''
        raise ValueError(f'{path} does not fit {name}:\n  ' + '\n  '.join(misfits[:_SHOWN]) + more) from error


def _fetched(name: str, arguments: dict[str, Any]) -> nn.Module:
    _create(name, arguments)  # so that any failure below is about the weights
    client = logging.getLogger('huggingface_hub')
    level = client.level
    client.setLevel(logging.ERROR)  # it warns about each retry, for most of a minute
    logging.getLogger('basicsr').info('Weights of %s: where timm has put them before, or fetched', name)
    try:
        return _package().create_model(name, pretrained=True, **arguments)
    except Exception as error:  # from the connection, the hub's client or the file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'weights of {name} cannot be had ({reason}). Fetch them on a machine that can, and name the file as '
            'pretrained: path; or begin without, pretrained: false'
        ) from error
    finally:
        client.setLevel(level)


@ARCH_REGISTRY.register(name='timm')
def timm_network(name: str, pretrained: bool | Path = False, **arguments: Any) -> nn.Module:
    """A network of timm: (N, C, H, W) -> (N, classes), unless its arguments say otherwise.

    Args:
        name: As listed by timm: resnet50, vit_small_patch16_224.augreg_in1k, …
        pretrained: true: timm downloads weights, or uses its cache. A path: the weights in that file, .pth or
            .safetensors; a head for other classes is initialised anew.
        **arguments: Arguments of `timm.create_model` and of the network: num_classes, in_chans, drop_path_rate, …

    Returns:
        The network; `head_prefixes` names its head.

    Raises:
        ImportError: timm is not installed.
        FileNotFoundError: There is no such file of weights.
        ValueError: An unknown name or argument, or weights that do not fit or cannot be downloaded.
    """
    _refuse_unknown(name)
    if isinstance(pretrained, bool):
        net = _fetched(name, arguments) if pretrained else _create(name, arguments)
    else:
        net = _from_file(name, arguments, Path(pretrained))
    net.head_prefixes = _classifiers(net)
    return net


def _check_options(given: dict) -> Iterator[tuple[str, str]]:
    """Mistakes that types do not reveal, for the check of option files."""
    try:
        if 'name' in given:
            _refuse_unknown(given['name'])
    except ImportError as error:
        yield 'type', str(error)
    except ValueError as error:
        yield 'name', str(error)


def _options_to_rebuild(options: dict, checkpoint: str | os.PathLike) -> dict:
    """If a checkpoint holds the weights, none need to be downloaded."""
    return {**options, 'pretrained': False}


timm_network.check_options = _check_options
timm_network.options_to_rebuild = _options_to_rebuild
