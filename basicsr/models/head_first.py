"""LP-FT: the head alone trains first, then everything (Kumar et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from basicsr.options.types import iterations
from basicsr.utils.logger import get_root_logger
from ldt import Partition


def head_of(net: nn.Module, section: Mapping[str, Any]) -> list[str]:
    """Names of the layers (parameter tensors) that `train.head_first` trains first.

    Raises:
        ValueError: A prefix that no layer has, or prefixes that leave nothing to train later.
    """
    try:
        return Partition.from_prefixes(net, section['prefixes']).unstable
    except ValueError as error:
        message = 'all layers have one of them' if 'group is empty' in str(error) else str(error)
        raise ValueError(f'train.head_first.prefixes: {message}') from error


class HeadFirst:
    """Freezes all but the head in the first iterations. Which those are does not depend on where a run was resumed.

    An optimizer over all parameters passes over frozen ones, which have no gradient; the head's moments go on at the
    switch, and the others' begin there. Batch statistics of the frozen layers follow the training's batches throughout.

    Args:
        section: `train.head_first`.
        total_iter: Iterations of the run.
        net: The network, which has something to train beside the head.

    Attributes:
        last: The last iteration in which the head trains alone.

    Raises:
        ValueError: See `head_of`.
    """

    def __init__(self, section: Mapping[str, Any], total_iter: int, net: nn.Module) -> None:
        self.last = round(iterations(section['iter'], total_iter))
        head = {*head_of(net, section)}
        trainable = {name: value for name, value in net.named_parameters() if value.requires_grad}
        self._later = [value for name, value in trainable.items() if name not in head]
        self._all_train = True
        get_root_logger().info(
            'LP-FT: %d of %d layers are the head, which trains alone for %d iterations',
            len(head),
            len(trainable),
            self.last,
        )

    def choose(self, current_iter: int) -> bool:
        """Freeze or free layers for this iteration; returns whether that changed anything, so that wrappers must."""
        if self._all_train == (current_iter > self.last):
            return False
        self._all_train = not self._all_train
        for parameter in self._later:
            parameter.requires_grad_(self._all_train)
        return True
