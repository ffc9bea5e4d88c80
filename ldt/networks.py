"""Which networks can be scored and decomposed, and what is inside their wrappers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

_SHARDED = {'FullyShardedDataParallel', 'FSDPModule'}
"""Classes whose import costs seconds: they are known by name."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel and what torch.compile returns, nested or not.

    Raises:
        ValueError: It is a TorchScript program, whose layers cannot be copied, frozen and averaged one by one.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError('the network is a TorchScript program; give the nn.Module that it was made from')
    while True:
        inner = model.module if isinstance(model, DistributedDataParallel | DataParallel) else None
        inner = inner if inner is not None else vars(model).get('_modules', {}).get('_orig_mod')
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_compiled(branch: object) -> bool:
    """Whether torch.compile runs this, or a part of it."""
    modules = branch.modules() if isinstance(branch, nn.Module) else [branch]
    return any(
        getattr(module, '_compiled_call_impl', None) is not None or getattr(module, '_orig_mod', None) is not None
        for module in modules
    )


def check_loss(loss: Any, trained: str) -> None:
    """Refuse what a loss function returned if it cannot be back-propagated.

    Args:
        loss: The value of `loss_fn(model, batch)`.
        trained: What it must depend on, for the message: "layer of the head".

    Raises:
        ValueError: It is no scalar tensor, or depends on nothing that trains.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f'a tensor of shape {tuple(loss.shape)}' if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f'loss_fn(model, batch) must return a scalar tensor, not {found}')
    if not loss.requires_grad:
        raise ValueError(
            f'loss_fn(model, batch) returned a loss that depends on no {trained}: it must run the model that it is '
            'given, and neither under no_grad nor detached'
        )


def check_network(model: nn.Module, averaging: str) -> None:
    """Refuse a network whose weights or gradients are not there to be looked at.

    Args:
        model: The network.
        averaging: What to do about a DistributedDataParallel, for the message.

    Raises:
        ValueError: Its parameters are sharded, are on the meta device or have no shape yet, or a part of it averages
            gradients over processes. The message names them.
    """
    for name, module in model.named_modules():
        classes = {cls.__name__ for cls in type(module).__mro__}
        where = f'the network{f", in {name}," if name else ""}'
        if classes & _SHARDED or any(hasattr(own, 'placements') for own in module.parameters(recurse=False)):
            raise ValueError(
                f'{where} is sharded over processes ({type(module).__name__}), so that no process has whole layers; '
                'give the network before it is sharded'
            )
        if isinstance(module, DistributedDataParallel):
            raise ValueError(
                f'{where} is a DistributedDataParallel, which averages gradients over processes; {averaging}'
            )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise ValueError(f'{format_names(lazy)} have no shape yet: run the network on one batch before')
    without = [name for name, tensor in tensors if tensor.is_meta]
    if without:
        raise ValueError(
            f'{format_names(without)} are on the meta device, without values: `model.to_empty(device=...)`, then load '
            'or initialise the weights'
        )


def check_memory(model: nn.Module) -> None:
    """Refuse trainable parameters that overlap in memory, in part or in whole, with another tensor of the network.

    One `nn.Parameter` in several places, as weights are tied, is no overlap.

    Raises:
        ValueError: Names each pair.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    by_storage: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.layout == torch.strided and tensor.numel() and not tensor.is_quantized:
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    pairs = [
        f'{one} and {other}'
        for names in by_storage.values()
        for one, other in combinations(names, 2)
        if (tensors[one].requires_grad or tensors[other].requires_grad) and _overlap(tensors[one], tensors[other])
    ]
    if pairs:
        raise ValueError(
            f'tensors share their memory: {format_names(pairs)}. What is trained of one would be averaged in the '
            'other; tie them as one nn.Parameter, `b.weight = a.weight`, or compute one from the other in forward()'
        )


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage have an entry in common."""
    (start, end), (begin, stop) = _extent(one), _extent(other)
    if end <= begin or stop <= start:
        return False
    if one.is_contiguous() and other.is_contiguous():
        return True
    touched = torch.zeros(max(end, stop), dtype=torch.bool)
    bytes_of = (_bytes(tensor) for tensor in (one, other))
    touched[next(bytes_of)] = True
    return bool(touched[next(bytes_of)].any())


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage from the first that the tensor uses to one beyond the last."""
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.storage_offset()
    return start * tensor.element_size(), (start + reach + 1) * tensor.element_size()


def _bytes(tensor: Tensor) -> Tensor:
    """The places in its storage of the first byte of each of its entries."""
    end = _extent(tensor)[1]
    size = tensor.element_size()
    places = torch.arange(end // size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return places.reshape(-1) * size


def format_names(names: list[str], most: int = 10) -> str:
    """Names for a message: the first few, and how many more there are."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
