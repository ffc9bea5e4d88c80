import logging
import os
from collections.abc import Generator

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:  # before torch is imported: several processes share the cores
    os.environ.setdefault('OMP_NUM_THREADS', '1')


_LONG = (
    *('test_entry', 'test_runs', 'test_rehearsal_processes', 'test_your_modules_page', 'test_selective_scan'),
    *('test_basicsr_models', 'test_batch_statistics', 'test_dist_train', 'test_triton_scan', 'test_reproduce'),
)
"""Files that take minutes, for the processes that they start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that none of them is left alone at the end while the other workers are idle."""
    items.sort(key=lambda item: _LONG.index(item.path.stem) if item.path.stem in _LONG else len(_LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what tests of names that are not UTF-8 have printed reach the main process of pytest-xdist, as escapes."""
    report = yield
    report.sections = [(title, _in_utf8(text)) for title, text in report.sections]
    return report


def _in_utf8(text: str) -> str:
    return text.encode('utf-8', 'backslashreplace').decode('utf-8')


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
