"""Arguments that published option files pass to a network, and that its authors' class accepts and ignores."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Iterator, Mapping
from functools import cache

from torch import nn

from basicsr.utils.registry import did_you_mean

__all__ = ['near_misses', 'warn_of_ignored']

_NEAR = 0.8
"""Similarity of a key to an argument above which it must be a typo, see `did_you_mean`."""


def near_misses(network: type[nn.Module], given: Collection[str]) -> Iterator[tuple[str, str]]:
    """Keys that are almost an argument of `network`, as (key, message): typos, not something to ignore."""
    known = [name for name in inspect.signature(network).parameters if name != 'kwargs']
    for key in given:
        if key not in (*known, 'type') and (near := did_you_mean(key, known, _NEAR)) != '.':
            yield key, f'unknown option{near}'


def warn_of_ignored(network: type[nn.Module], ignored: Mapping[str, object]) -> None:
    """Log, once per process, which arguments are ignored.

    Raises:
        ValueError: One is almost an argument of `network`.
    """
    for key, _ in near_misses(network, ignored):
        known = [name for name in inspect.signature(network).parameters if name != 'kwargs']
        raise ValueError(f'there is no argument {key!r}{did_you_mean(key, known, _NEAR)} It takes: {", ".join(known)}')
    if ignored:
        _warn(network.__name__, tuple(sorted(ignored)))


@cache
def _warn(network: str, ignored: tuple[str, ...]) -> None:
    logging.getLogger('basicsr').warning('%s ignores what it has no use for: %s', network, ', '.join(ignored))
