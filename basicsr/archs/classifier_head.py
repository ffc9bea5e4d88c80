"""A classifier's head, where a file of weights has one for other classes, or none."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

import torch
from torch import Tensor

__all__ = ['with_own_head']


def with_own_head(
    weights: dict[str, Tensor], own: dict[str, Tensor], layers: Collection[str], path: str | os.PathLike
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """`weights` with a new head if theirs is missing, superfluous, or has other classes; which is logged.

    It begins as `nn.Linear` does, uniform within fan_in ** -0.5, as DomainBed's heads. What some networks choose for a
    training from scratch is larger: logits of many units, whose first gradients damage pre-trained layers.

    Args:
        weights: A state dict, of the file `path`.
        own: That of the network.
        layers: Names of the layers of its head.
        path: For the log.

    Returns:
        The weights, and the names of those that are new.
    """
    head = {name for name in {*weights, *own} if name.rpartition('.')[0] in layers}
    lacking = own.keys() - weights.keys()
    replaced = {name for name in head & weights.keys() if name not in own or weights[name].shape != own[name].shape}
    if lacking and lacking <= head:
        replaced |= lacking
    if replaced:
        logging.getLogger('basicsr').info(
            '%s: the head is initialised anew, since the file has another number of classes: %s',
            path,
            ', '.join(sorted(replaced)),
        )
    kept = {name: value for name, value in weights.items() if name not in replaced}
    new = tuple(sorted(replaced & own.keys()))
    return {**kept, **{name: _initialised(name, own) for name in new}}, new


def _initialised(name: str, own: dict[str, Tensor]) -> Tensor:
    weight = own.get(f'{name.rpartition(".")[0]}.weight')
    if weight is None or weight.ndim < 2 or weight.is_meta:
        return own[name]
    bound = weight[0].numel() ** -0.5
    return torch.empty_like(own[name]).uniform_(-bound, bound)
