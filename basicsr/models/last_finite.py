"""A copy of what gave a finite loss last, for the case that the step after it makes weights that give none."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Copy(NamedTuple):
    source: Tensor
    version: int
    copy: Tensor


class LastFinite:
    """Keeps a state in CPU memory. Tensors that the state still holds, and that have not changed, are not copied again.

    Attributes:
        iteration: The iteration after which the state was as it is here; None before the first `keep`.
    """

    def __init__(self) -> None:
        self.iteration: int | None = None
        self._state: Any = None
        self._copies: dict[tuple, _Copy] = {}

    @torch.no_grad()
    def keep(self, state: Any, iteration: int) -> None:
        """Keep nested dictionaries, lists and tuples with tensors as they are now."""
        before, self._copies = self._copies, {}
        self._state, self.iteration = self._kept(state, (), before), iteration

    def state(self) -> Any:
        """What was kept."""
        return self._state

    def _kept(self, value: Any, path: tuple, before: dict[tuple, _Copy]) -> Any:
        if isinstance(value, Tensor):
            copy = _copied(value, before.get(path))
            self._copies[path] = _Copy(value, value._version, copy)
            return copy
        if isinstance(value, dict):
            return {key: self._kept(item, (*path, key), before) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._kept(item, (*path, index), before) for index, item in enumerate(value))
        return value


def _copied(tensor: Tensor, known: _Copy | None) -> Tensor:
    if known is None or known.copy.shape != tensor.shape or known.copy.dtype != tensor.dtype:
        return tensor.detach().to('cpu', copy=True)
    # Fused optimizers do not count their steps as changes; but parameters are new tensors in each `state_dict`.
    same = known.source is tensor and known.version == tensor._version and not tensor.requires_grad
    return known.copy if same else known.copy.copy_(tensor)
