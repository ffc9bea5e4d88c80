"""Weights in a checkpoint: where they stand in it, by which names, and how they get into a network."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.utils.misc import not_finite, sizeof_fmt

_KEYS = (
    *('params', 'params_ema', 'state_dict', 'model_state_dict', 'model', 'net_g', 'netG', 'generator', 'net'),
    *('weights', 'ema', 'model_ema', 'ema_state_dict', 'state_dict_ema'),
)
"""Where checkpoints keep their weights; the first that is there is read."""
_OUTER = ('net_g', 'netG', 'generator', 'model', 'net', 'network')
"""What a module that holds the network calls it; the first is preferred."""
_WRAPPERS = {'_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}
_COUNTERS = {'n_averaged', 'total_ops', 'total_params', 'num_batches_tracked'}
"""Of `AveragedModel`, thop, and batch normalisation, which other versions of torch do not count."""
_EXTRA_STATE = '_extra_state'
"""How torch calls what a module keeps beside its tensors."""
_INTEGERS = 'integers or truth values'
_LARGEST_REPEATED = 64 * 2**20
_SHOWN = 10


def find_weights(checkpoint: Any, path: str | os.PathLike, param_key: str | None = 'params') -> dict[str, Tensor]:
    """The state dict in `checkpoint`: under `param_key`, else the first of `_KEYS`, else the checkpoint itself.

    What wrappers put into names (`module.`, `_orig_mod.`) is removed; what are no tensors is left out.

    Raises:
        ValueError: Nothing in it looks like a state dict, two tensors have one name, or a tensor is of a kind that no
            network takes (sparse, quantized, without values).
    """
    found, key = _found(checkpoint, param_key)
    if found is None:
        raise ValueError(_no_weights(checkpoint, path, param_key))
    if key is not None and key != param_key:
        others = [other for other in _KEYS if other != key and _found_under(checkpoint, other)]
        log = logging.getLogger('basicsr').warning if param_key or others else logging.getLogger('basicsr').info
        beside = f'; beside it are {", ".join(map(repr, others))}, for which param_key_g asks' if others else ''
        log('%s has no %r: reading %r%s', path, param_key, key, beside)
    entries = {str(name): value for name, value in found.items() if _belongs(str(name), value)}
    weights = {}
    for name, bare in _without_wrappers(entries).items():
        if bare in weights:
            raise ValueError(f'{path} holds two tensors {bare}, one of them as {name}')
        kind = _unusable(entries[name])
        if kind:
            raise ValueError(f'{path}: the tensor {name} {kind}')
        weights[bare] = entries[name]
    return weights


def _belongs(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) or name.endswith(_EXTRA_STATE)


def _found(checkpoint: Any, param_key: str | None) -> tuple[dict | None, str | None]:
    """(state dict, its key; None where it is the checkpoint itself)."""
    for key in (param_key, *_KEYS):
        inner = _found_under(checkpoint, key)
        if inner is not None:
            return inner, key
    return (checkpoint if _is_state_dict(checkpoint) else None), None


def _found_under(checkpoint: Any, key: str | None) -> dict | None:
    inner = checkpoint.get(key) if isinstance(checkpoint, dict) and key is not None else None
    if not isinstance(inner, dict) or _is_state_dict(inner):
        return inner if isinstance(inner, dict) else None
    return next((inner[one] for one in _KEYS if _is_state_dict(inner.get(one))), None)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, Tensor) for item in value.values())


def _no_weights(checkpoint: Any, path: str | os.PathLike, param_key: str | None) -> str:
    if isinstance(checkpoint, dict) and 'optimizers' in checkpoint and 'iter' in checkpoint:
        return (
            f'{path} is the training state of iteration {checkpoint["iter"]}, from which a training goes on; weights '
            f'are in the folder models beside training_states, net_g_{checkpoint["iter"]}.pth'
        )
    if not isinstance(checkpoint, dict):
        return f'{path} holds no weights, but an object of type {type(checkpoint).__name__}; a state dict is needed'
    weights = [str(key) for key, value in checkpoint.items() if _is_state_dict(value)]
    hint = f'; name one of these as the key of the weights (param_key_g): {", ".join(weights)}' if weights else ''
    return f'{path} holds no weights under {param_key!r}; it holds: {", ".join(map(str, list(checkpoint)[:10]))}{hint}'


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Each name without what wrappers put into it: some anywhere, `module.` at the beginning."""
    bare = {name: '.'.join(part for part in name.split('.') if part not in _WRAPPERS) for name in names}
    shorter = {name: re.sub(r'^(module\.)+', '', now) for name, now in bare.items()}
    return shorter if len(set(shorter.values())) == len(shorter) else bare  # where `module` tells two apart, it stays


def _is_no_counter(name: str) -> bool:
    return name.rpartition('.')[2] not in _COUNTERS


def _unusable(value: Any) -> str | None:
    """Why no network can take a tensor, or None."""
    if not isinstance(value, Tensor):
        return None
    if value.is_quantized:
        return 'is quantized; save .dequantize() of it'
    if value.is_nested:
        return 'is nested; networks take dense tensors'
    if value.device.type == 'meta':
        return 'has no values: it was saved on the device meta'
    if value.layout != torch.strided:
        return f'is sparse ({value.layout}); save .to_dense() of it'
    # An expanded tensor repeats what its storage holds; one without elements can have any shape.
    claimed = math.prod(max(side, 1) for side in value.shape) * value.element_size()
    if claimed > max(value.untyped_storage().nbytes(), _LARGEST_REPEATED):
        held = sizeof_fmt(value.untyped_storage().nbytes())
        return f'has the shape {tuple(value.shape)}, {sizeof_fmt(claimed)}, of which the file holds {held}'
    return None


def without_outer_module(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the first of `_OUTER` that names begin with, by their names in it; empty if there is none."""
    prefix = next((f'{one}.' for one in _OUTER if any(name.startswith(f'{one}.') for name in weights)), None)
    inner = {name: name.removeprefix(prefix) for name in weights if prefix and name.startswith(prefix)}
    return {bare: weights[f'{prefix}{name}'] for name, bare in _without_wrappers(inner.values()).items()}


def _by_own_names(own: dict[str, Tensor], weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`weights` by the names of a network whose state dict is `own`; and what precedes them in the file.

    Names are compared without what wrappers put into them, on either side. A module that holds the network may have
    saved them, as `net_g.conv.weight`: then the others of its tensors are left out. Further prefixes that fit as well
    follow the first.
    """
    theirs = {bare: name for name, bare in _without_wrappers(own).items()}
    fitting = Counter(
        name[:at]
        for name, value in weights.items()
        for at in (0, *(place + 1 for place, letter in enumerate(name) if letter == '.'))
        if name[at:] in theirs and value.shape == own[theirs[name[at:]]].shape
    )
    all_own = sum(map(_is_no_counter, own))
    prefixes = [one for one in fitting if one == '' or _place(one) < len(_OUTER) or fitting[one] >= all_own]
    prefixes.sort(key=lambda one: (-fitting[one], one != '', _place(one)))
    prefix = prefixes[0] if prefixes else ''
    named = {
        theirs.get(name.removeprefix(prefix), name.removeprefix(prefix)): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    kept = {name: value for name, value in named.items() if name in own or _is_no_counter(name)}
    uncounted = {} if not kept else {name: own[name] for name in own if not _is_no_counter(name)}
    return {**uncounted, **kept}, [one for one in prefixes if one and fitting[one] == fitting[prefix]]


def _place(prefix: str) -> int:
    last = [part for part in prefix.split('.') if part not in ('', 'module')][-1:]
    return _OUTER.index(last[0]) if last and last[0] in _OUTER else len(_OUTER)


def differences_to(net: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """One line for each tensor that only `weights` or only `net` has, or whose shapes differ; empty if they match.

    Counters, which have no part in what a network computes, make no difference.
    """
    own = _tensors_of(net)
    return _differences(own, _by_own_names(own, weights)[0])


def _tensors_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in net.state_dict().items() if isinstance(value, Tensor)}


def _differences(own: dict[str, Tensor], weights: dict[str, Tensor]) -> list[str]:
    differences = [f'only in the file: {name}' for name in weights if name not in own]
    differences += [f'only in the network: {name}' for name in own if name not in weights]
    differences += [
        f'{name}: {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the network'
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    return differences


def load_weights(net: nn.Module, weights: dict[str, Tensor], path: str | os.PathLike, strict: bool = True) -> list[str]:
    """Load `weights` into `net`; return the differences, one line each.

    Args:
        net: The network.
        weights: A state dict.
        path: Where they came from, for messages.
        strict: Refuse any difference; otherwise load what fits, and log how much that is.

    Raises:
        ValueError: `strict`, and names or shapes differ; the message lists at most ten. Otherwise nothing fits. Or a
            tensor holds what the network cannot take: values that are not finite, or of another kind of number.
    """
    own = _tensors_of(net)
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    named, prefixes = _by_own_names(own, tensors)
    differences = _differences(own, named)
    fitting = {name: value for name, value in named.items() if name in own and value.shape == own[name].shape}
    if strict and differences:
        raise ValueError(f'{path} does not fit the network {type(net).__name__}:\n  ' + _listed(differences))
    if prefixes:
        also = f'; {", ".join(prefixes[1:])} would fit, too' if prefixes[1:] else ''
        logging.getLogger('basicsr').info('%s: the tensors %s* are read%s', path, prefixes[0], also)
    if not strict:
        _say_how_many(fitting, own, tensors, differences, f'{path} holds nothing for {type(net).__name__}')
    values = {name: _as_own(value, own[name], f'{path}: the tensor {name}') for name, value in fitting.items()}
    _refuse_not_finite(values, own, path)
    extra = {name: value for name, value in weights.items() if name.endswith(_EXTRA_STATE)}
    before = net.state_dict()
    try:
        net.load_state_dict({**before, **values, **{name: extra[name] for name in extra.keys() & before.keys()}})
    except RuntimeError as error:  # from a network that loads in a way of its own
        raise ValueError(f'{path} does not fit the network {type(net).__name__}: {error}') from error
    return differences


def _say_how_many(
    fitting: dict[str, Tensor], own: dict[str, Tensor], given: dict[str, Tensor], differences: list[str], none: str
) -> None:
    """Log how many tensors fit.

    Raises:
        ValueError: None does; the message begins with `none`.
    """
    fit, needed, held = (sum(map(_is_no_counter, names)) for names in (fitting, own, given))
    if not fit:
        raise ValueError(
            f'{none}: of its {held} tensors, none has the name and shape of one of the {needed} there\n  '
            + _listed(differences)
        )
    logging.getLogger('basicsr').log(
        logging.WARNING if differences else logging.INFO,
        'Not strict: %d of the %d tensors of the network are loaded, and %d of the %d in the file are used',
        *(fit, needed, fit, held),
    )


def _listed(differences: list[str]) -> str:
    more = f'\n  and {len(differences) - _SHOWN} more' if len(differences) > _SHOWN else ''
    return '\n  '.join(differences[:_SHOWN]) + more


def _as_own(value: Tensor, own: Tensor, what: str) -> Tensor:
    """`value` as numbers of the network's type.

    Raises:
        ValueError: They are of another kind, as integers for floats, or the network's type has no such integers.
    """
    number, needed = (_kind_of_number(tensor) for tensor in (value, own))
    if number == needed != _INTEGERS:
        return value.to(own.dtype)
    if needed == _INTEGERS and not value.is_complex() and torch.equal(value.to(own.dtype).to(value.dtype), value):
        return value
    raise ValueError(f'{what} holds {number} ({value.dtype}), and the network takes {needed} ({own.dtype})')


def _refuse_not_finite(values: dict[str, Tensor], own: dict[str, Tensor], path: str | os.PathLike) -> None:
    """A ValueError for tensors with values that are NaN or infinite; masks are so as built."""
    broken = [f'{name}: {words}' for name, value in values.items()
              if (words := not_finite(value)) and (own[name].is_meta or not not_finite(own[name]))]  # fmt: skip
    if broken:
        raise ValueError(f'{path} holds weights that are not finite, take others:\n  ' + _listed(broken))


def _kind_of_number(tensor: Tensor) -> str:
    if tensor.is_complex():
        return 'complex numbers'
    return 'floats' if tensor.is_floating_point() else _INTEGERS
