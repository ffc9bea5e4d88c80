"""Layer-Decomposition Training (LDT) for any `torch.nn.Module` and any loss.

Score every layer by how much its gradient varies over samples, split the layers into stable and unstable, train the
two groups in two cross-frozen branches that exchange weights through moving averages, and use the averaged half of
each branch as one ordinary network. Where the head starts at random, it trains alone first: `warm_up`.

Source: "LDT: Layer-Decomposition Training Makes Networks More Generalizable", ICLR 2026.

    scores = ldt.score_layers(model, batches, loss_fn)
    partition = ldt.Partition.from_scores(scores, unstable_ratio=0.5)
    net = ldt.LayerDecomposition(model, partition, ldt.dynamic_decay(partition), exchange_every=10)
"""

from .alternating import AlternatingDecomposition
from .base import Decomposition
from .criteria import CRITERIA, Criterion, register_criterion
from .decomposition import LayerDecomposition
from .exchange import (
    MovingAverage,
    Pace,
    TimeConstantStats,
    decay_from_time_constants,
    decay_of,
    dynamic_decay,
    fixed_decay,
    paces,
    time_constant_stats,
    time_constants,
)
from .frozen import freeze_batch_statistics
from .layers import GRANULARITIES, layers_of
from .partition import Partition
from .scores import GradientStatistics, score_layers
from .warmup import split_samples, warm_up

__all__ = [
    'CRITERIA',
    'GRANULARITIES',
    'AlternatingDecomposition',
    'Criterion',
    'Decomposition',
    'GradientStatistics',
    'LayerDecomposition',
    'MovingAverage',
    'Pace',
    'Partition',
    'TimeConstantStats',
    'decay_from_time_constants',
    'decay_of',
    'dynamic_decay',
    'fixed_decay',
    'freeze_batch_statistics',
    'layers_of',
    'paces',
    'register_criterion',
    'score_layers',
    'split_samples',
    'time_constant_stats',
    'time_constants',
    'warm_up',
]
