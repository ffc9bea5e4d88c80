"""Work beside a run, of which the run notices nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from basicsr.utils.logger import get_root_logger
from basicsr.utils.misc import get_random_state, set_random_state


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """On leaving, random numbers go on as if the block had not been."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, the log has errors alone: what is built is built again for the run, which logs it."""

    def is_error(record: Any) -> bool:
        return record.levelname in ('ERROR', 'CRITICAL')

    logger = get_root_logger()
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)
