import logging
import os

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:  # before torch is imported: several processes share the cores
    os.environ.setdefault('OMP_NUM_THREADS', '1')


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def clear(self) -> None:
        self.records.clear()

    def warnings(self) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno == logging.WARNING]


@pytest.fixture
def logged():
    """What the framework's logger says during the test; whether caplog sees it depends on pytest's version."""
    logger, kept = logging.getLogger('basicsr'), _Kept()
    level = logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    yield kept
    logger.removeHandler(kept)
    logger.setLevel(level)
