"""Do the gradients of the first step reach the layers that are trained?

`copy.deepcopy` copies modules and bound methods, but keeps plain functions as they are: a lambda over `self` in a copy
of a network still calls the original, whose layers then get the gradients. And a checkpoint with `use_reentrant=True`
passes no gradient on if none of its inputs needs one, as above frozen layers.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from .networks import format_names
from .partition import Partition

_MEND = (
    'copy.deepcopy keeps lambdas and functions as they are, so that one over `self` still refers to the original. '
    'Make it a method or a module, or use AlternatingDecomposition, which copies nothing'
)

_CHECKPOINTS = (
    'in a checkpoint with use_reentrant=True whose inputs need no gradient (the layers before it are frozen), set '
    'use_reentrant=False'
)


class GradientWatch:
    """Looks at the first step of each group, and then no more.

    Args:
        partition: Layers that it scored as zero are not missed: scoring has warned of them.
        original: The network that was copied into the branches, or None. Kept by weak references.
        branches: The copies.
    """

    def __init__(self, partition: Partition, original: nn.Module | None = None, *branches: nn.Module) -> None:
        zero = {layer for layer, score in partition.scores.items() if score == 0}
        layers = {**partition.stable_layers, **partition.unstable_layers}
        self._waiting = {*partition.stable, *partition.unstable}
        self._not_missed = {name for layer in zero for name in layers.get(layer, [])}
        self._arrived: set[str] = set()
        named = dict(original.named_parameters()) if original is not None else {}
        self._originals = {name: (weakref.ref(parameter), _version(parameter)) for name, parameter in named.items()}
        self._functions = functions_over(original, branches[0]) if original is not None else []
        if self._functions:
            warnings.warn(
                f'the copies of the network call the original through {format_names(self._functions)}: {_MEND}',
                stacklevel=4,
            )

    @property
    def done(self) -> bool:
        return not self._waiting

    def note(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Note which layers have a gradient now."""
        self._arrived |= {name for name in self._waiting & trained.keys() if trained[name].grad is not None}

    def judge(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Called after a step in which these layers should have been trained.

        Raises:
            ValueError: The gradients of layers went to the original network instead.

        Warns:
            UserWarning: Layers have got no gradient, or others and the original have.
        """
        self.note(trained)
        watched = [name for name in trained if name in self._waiting]
        misled = [name for name, (known, before) in self._originals.items() if _version(known()) not in (None, before)]
        if not watched or not (self._arrived or misled):
            return  # the gradients were removed before anyone could see them
        missing = [name for name in watched if name not in self._arrived and trained[name].numel()]
        lost = [name for name in missing if name in misled]
        through = f', through {format_names(self._functions)}' if self._functions else ''
        if lost:
            raise ValueError(
                f'{format_names(lost)} of the branches get no gradient and would never be trained: it goes to the '
                f'network that was given{through}. {_MEND}; and loss_fn must run the branch that it is given'
            )
        unexplained = [name for name in missing if name not in self._not_missed]
        if unexplained:
            warnings.warn(
                f'no gradient has reached {format_names(unexplained)} in the first step of training. If it is not '
                f'this batch alone that leaves them out: {_CHECKPOINTS}; a function of the network that refers to '
                'another network is to be a method',
                stacklevel=3,
            )
        if misled:
            warnings.warn(
                f'the network that was given gets gradients ({format_names(misled)}). Unless its weights are part of '
                f'the loss on purpose, something in the branches still refers to it{through}: {_MEND}',
                stacklevel=3,
            )
        self._waiting -= {*watched}


class OutputWatch:
    """A forward hook of a branch: says why there is nothing to back-propagate, before torch's error does.

    A warning, since a loop may leave such a batch out. It is there until the first step of each group is over.
    """

    def __init__(self, branch: nn.Module) -> None:
        self.hook = branch.register_forward_hook(self)

    def __call__(self, branch: nn.Module, inputs: Any, output: Any) -> None:
        if branch.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            tensors = list(_tensors(output))
            trained = [name for name, parameter in branch.named_parameters() if parameter.requires_grad]
            if tensors and trained and not any(tensor.requires_grad for tensor in tensors):
                warnings.warn(
                    f'the output of a branch needs no gradient, although {format_names(trained)} are trained in it: '
                    f'there is nothing to back-propagate: {_CHECKPOINTS}',
                    stacklevel=2,
                )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def functions_over(original: nn.Module, branch: nn.Module) -> list[str]:
    """The attributes of a deep copy, hooks included, that hold functions whose closures reach the original network."""
    theirs = {id(module) for module in original.modules()} - {id(module) for module in branch.modules()}
    theirs |= {id(parameter) for parameter in original.parameters()}
    found = []
    for name, module in branch.named_modules():
        for key, value in vars(module).items():
            if key not in ('_modules', '_parameters', '_buffers') and _reaches(value, theirs, set()):
                found.append(f'{name}.{key}' if name else key)
    return found


def _reaches(value: Any, targets: set[int], seen: set[int]) -> bool:
    """Whether functions in `value` hold one of the targets in their closures, arguments or defaults."""
    if id(value) in targets:
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    return any(_reaches(part, targets, seen) for part in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if _filled(cell))
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _version(parameter: torch.Tensor | None) -> tuple[int, int] | None:
    """What changes when a gradient is added to this parameter; None without a gradient."""
    gradient = None if parameter is None else parameter.grad
    if gradient is None:
        return None
    return (gradient.data_ptr() if gradient.layout == torch.strided else 0), gradient._version
