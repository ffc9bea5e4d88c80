"""A model, its parts and its batches in words, for messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn


def network_in_words(model: Any) -> str:
    """The network of a model, or its networks, and how many parameters they have."""
    nets = {name: model.get_bare_model(net) for name, net in vars(model).items() if isinstance(net, nn.Module)}
    nets = {'net_g': nets['net_g']} if 'net_g' in nets else nets
    count = sum(parameter.numel() for net in nets.values() for parameter in net.parameters())
    return f'Network {" and ".join(type(net).__name__ for net in nets.values())}: {count:,} parameters'


def options_by_part(model: Any) -> dict[int, str]:
    """Options by the `id` of the network or criterion that a model has of each."""
    owners, train = {}, model.opt.get('train') or {}
    for name, value in vars(model).items():
        kind, _, label = name.partition('_')
        if isinstance(value, nn.Module) and kind == 'net':
            owners[id(model.get_bare_model(value))] = f'network_{label}'
        elif isinstance(value, nn.Module) and kind == 'cri':
            option = next((key for key in train if key.startswith(label) and key.endswith('_opt')), None)
            owners[id(value)] = f'train.{option}' if option else 'train'
    return owners


def name_of(data: Any, index: int) -> str:
    """The name of a batch of one item: of its file, or else its index."""
    path = (data.get('lq_path') or data.get('path')) if isinstance(data, dict) else None
    path = path[0] if isinstance(path, list | tuple) and path else path
    return Path(path).name if isinstance(path, str) else f'item {index}'


def shapes_in_words(batch: Any) -> str:
    """The keys of a batch, and the shapes of its tensors."""
    if isinstance(batch, Tensor):
        return 'x'.join(map(str, batch.shape))
    if not isinstance(batch, dict):
        return f'a {type(batch).__name__}'
    texts = {
        key: 'x'.join(map(str, value.shape)) or 'no axes' if isinstance(value, Tensor) else ''
        for key, value in batch.items()
        if not key.endswith('path')
    }
    return ', '.join(f'{key} of {shape}' if shape else key for key, shape in texts.items()) or 'nothing'
