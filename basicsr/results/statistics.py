"""Means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % confidence interval.

    Attributes:
        mean: The mean.
        low, high: Ends of the interval; NaN if it is undefined: a group with one value, or an infinite value.
        count: Number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def estimate(*groups: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of the groups' means, with its percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).

    Each group is resampled separately: the domains are fixed, not draws from a population of domains. The resampling is
    seeded, so the same values give the same interval.

    Args:
        groups: Values, one sequence per group; a single group for the mean of a domain.

    Raises:
        ValueError: No groups, or an empty one.
    """
    if not groups or not all(len(group) for group in groups):
        raise ValueError('a mean needs at least one value in every group')
    return _estimate(tuple(tuple(map(float, group)) for group in groups))


@lru_cache(maxsize=4096)  # tables in several formats need the same intervals
def _estimate(groups: tuple[tuple[float, ...], ...]) -> Estimate:
    from scipy.stats import bootstrap  # takes a second, which a training need not wait for

    values = [np.array(group) for group in groups]
    mean = float(np.mean([group.mean() for group in values]))
    count = sum(group.size for group in values)
    if any(group.size < 2 or not np.isfinite(group).all() for group in values):
        return Estimate(mean, float('nan'), float('nan'), count)
    if all(np.ptp(group) == 0 for group in values):  # nothing to resample; scipy would warn
        return Estimate(mean, mean, mean, count)

    def mean_of_means(*resamples: np.ndarray, axis: int) -> np.ndarray:
        return np.mean([group.mean(axis=axis) for group in resamples], axis=0)

    interval = bootstrap(
        values, mean_of_means, vectorized=True, paired=False, n_resamples=RESAMPLES, batch=1000,
        confidence_level=LEVEL, method='percentile', rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(mean, float(interval.low), float(interval.high), count)
