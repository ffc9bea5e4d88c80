"""`train.freeze_batch_statistics`: normalizations that stay in evaluation mode while a network trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from basicsr.utils.logger import get_root_logger
from ldt import freeze_batch_statistics


def freeze_if_asked(net: nn.Module, options: Mapping[str, Any]) -> None:
    """Freeze the batch statistics of `net` where the section `train` says so, and warn where it has none."""
    if options.get('freeze_batch_statistics') and not freeze_batch_statistics(net):
        get_root_logger().warning(
            'train.freeze_batch_statistics: without effect: the network (%s) has no normalization with running '
            'statistics',
            type(net).__name__,
        )
