"""The surroundings of a cell's processes: locks, environment, signals, and how far a training is."""

from __future__ import annotations

import fcntl
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def environment(slot: int, at_a_time: int) -> dict[str, str]:
    """Environment variables of a process: `at_a_time` of them share the cores, and each has one of the GPUs."""
    env = dict(os.environ)
    if at_a_time > 1:
        env.setdefault('OMP_NUM_THREADS', str(max(1, len(os.sched_getaffinity(0)) // at_a_time)))
    devices = [one for one in env.get('CUDA_VISIBLE_DEVICES', '').split(',') if one]
    devices = devices or [str(index) for index in range(torch.cuda.device_count())]
    if devices:
        env['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
    return env


def iterations_in(log: Path) -> int:
    """The last iteration that a training has logged."""
    try:
        with open(log, 'rb') as file:
            file.seek(max(0, log.stat().st_size - 4096))
            found = re.findall(rb', iter ([\d,]+),', file.read())
    except OSError:
        return 0
    return int(found[-1].replace(b',', b'')) if found else 0


@contextmanager
def locked(path: Path, name: str) -> Iterator[int]:
    """Hold a lock that child processes started inside inherit, so that they keep it if this process is killed.

    So it is not one of `basicsr.runs.lock`, which the trainings take for their own folders, and which must end with
    the process that took it: of a grid that is killed the trainings go on.

    Raises:
        ValueError: Another process has it.
    """
    with open(path, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f'another process is at work on the cell {name} ({path}): wait for it, or end it first'
            ) from error
        yield file.fileno()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM acts like Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
