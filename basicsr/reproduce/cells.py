"""Running the cells of a grid: each in its own processes, resumable, never twice at the same time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from tqdm import tqdm

from basicsr.options.resolve import dict2str
from basicsr.reproduce.cell import ROOT, Cell, curve_every
from basicsr.reproduce.grid import Grid
from basicsr.reproduce.inputs import Inputs
from basicsr.results.scores import FILE, Results
from basicsr.utils.misc import write_text

_LAST_LINES = 15
_POLL_SECONDS = 1.0
_KEPT = 2
"""Checkpoints that stay of a training whose curve is drawn."""


class CellFailed(Exception):
    """A process of a cell ended with an error; the message quotes its last lines."""


class Cells:
    """The cells of a grid and their files in its folder.

    `cells/<name>.json` records what a cell was run with, see `Inputs`; `<name>.yml` and `<name>_test.yml` are its
    option files, and `<name>.log` is the output of its processes. They write to `experiments/<name>/` and
    `results/<name>/`; the test for the curve, whose files are called `<name>_curve`, to `results/<name>_curve/`.

    Args:
        grid: The grid.
        jobs: Number of cells that run at a time. They share the processor's cores and the GPUs, if there are any.
    """

    def __init__(self, grid: Grid, jobs: int = 1) -> None:
        self.grid, self.jobs = grid, jobs
        self.folder = grid.folder / 'cells'
        self.inputs = Inputs(self.folder / 'inputs')
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(jobs):
            self._slots.put(slot)
        self._running: dict[str, subprocess.Popen] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._at_a_time = 1

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell has been trained and tested; pre-training is not tested."""
        if not cell.test['datasets']:
            return (self._weights(cell) / 'net_g_latest.pth').is_file()
        return (self._results(cell.name) / FILE).is_file() and (not cell.curve or self.curve_file(cell).is_file())

    def is_current(self, cell: Cell) -> bool:
        """Whether the cell is done and was run with its current options and files."""
        try:
            self.check(cell)
        except ValueError:
            return False
        return self.is_done(cell)

    def results(self, cell: Cell) -> Results:
        return Results.load(self._results(cell.name))

    def curve_file(self, cell: Cell) -> Path:
        """The results of a cell on its curve: networks called by their iterations, the main one at the end."""
        return self._results(cell.curve_name) / FILE

    def _results(self, name: str) -> Path:
        return self.grid.folder / 'results' / name

    def _weights(self, cell: Cell) -> Path:
        return self.grid.folder / 'experiments' / cell.name / 'models'

    def check(self, cell: Cell, again: bool = False) -> dict[str, Any]:
        """Refuse a cell that was started with other options or files.

        Args:
            cell: The cell.
            again: Look at the files of its data sets again, even if that was done before.

        Returns:
            The record of what it depends on now.

        Raises:
            ValueError: The options or files differ; the message names them and says what to do.
        """
        file, now = self.folder / f'{cell.name}.json', self.inputs.record(cell, again)
        if not file.is_file():
            there = [path for path in (self._results(cell.name), self._weights(cell).parent) if path.exists()]
            if there:
                raise ValueError(f'{there[0]} has no record {file} of what it was made of; --redo runs the cell again')
            return now
        try:
            before = json.loads(file.read_text())
            changed = self.inputs.changes(before, now)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f'{file} is broken ({error}); --redo runs the cell again') from error
        if changed:
            shown = '\n  '.join(changed[:8] + ([f'and {len(changed) - 8} more'] if len(changed) > 8 else []))
            raise ValueError(
                f'the cell {cell.name} was run with other options or files:\n  {shown}\nGive the grid another --name, '
                'undo the change, or pass --redo: the old files are kept under another name, and the cell runs again'
            )
        return now

    def forget(self, cell: Cell) -> None:
        """Move the files of a cell aside, so that it runs again.

        Raises:
            ValueError: Another process is at work on it.
        """
        log, record = (self.folder / f'{cell.name}.{kind}' for kind in ('log', 'json'))
        results = [self._results(name) for name in (cell.name, cell.curve_name)]
        with self._own(cell):
            # The record goes last: until then the rest is known to be of other options.
            for path in (*results, self._weights(cell).parent, log, record):
                if path.exists():
                    number = 1
                    while (kept := path.with_name(f'{path.name}.before_{number}')).exists():
                        number += 1
                    path.rename(kept)

    def run(self, cells: list[Cell], on_done: Callable[[Cell], None] = lambda cell: None) -> dict[str, str]:
        """Run the cells that are not done, several at a time; a progress bar counts the iterations of all.

        Args:
            cells: The cells, which have been checked.
            on_done: Called after each, in the main thread.

        Returns:
            The error of each cell that failed; the others are done.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trainings have saved their state.
        """
        for cell in cells:
            self._delete_points(cell)  # of a grid that was killed before it could
        left = [cell for cell in cells if not self.is_done(cell)]
        failed: dict[str, str] = {}
        self._at_a_time = min(self.jobs, len(left))
        total = sum(cell.iterations for cell in left)
        with (
            _terminated_as_interrupted(),
            ThreadPoolExecutor(self.jobs) as pool,
            tqdm(total=total, desc=self.grid.name, unit='it', disable=None) as bar,
        ):
            futures = {pool.submit(self._run_cell, cell): cell for cell in left}
            waiting = set(futures)
            try:
                while waiting:
                    done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                    self._show(bar, left)
                    for future in done:
                        error = future.exception()
                        if error is None:
                            on_done(futures[future])
                        elif isinstance(error, CellFailed | OSError | ValueError):
                            failed[futures[future].name] = str(error)
                        else:
                            raise error
            except BaseException:
                self._stop()
                raise
        return failed

    def _show(self, bar: tqdm, cells: list[Cell]) -> None:
        done = 0
        for cell in cells:
            log = self.folder / f'{cell.name}.log'
            done += cell.iterations if self.is_done(cell) else min(cell.iterations, _iterations(log))
        with self._lock:
            bar.set_postfix_str(', '.join(self._running), refresh=False)
        bar.update(done - bar.n)

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running.values():
                process.send_signal(signal.SIGINT)

    def _run_cell(self, cell: Cell) -> None:
        slot = self._slots.get()
        try:
            with self._own(cell) as lock:
                if self.is_done(cell):  # another run of the grid was quicker
                    return
                if self._stopping:
                    raise CellFailed('stopped')
                record = self.check(cell, again=True)  # it may have waited for days
                write_text(self.folder / f'{cell.name}.json', json.dumps(record, indent=1) + '\n')
                if cell.train and not (self._weights(cell) / 'net_g_latest.pth').is_file():
                    train = self._option_file(cell.name, cell.train)
                    self._process(cell.name, slot, lock, 'Train_pip.py', '-opt', train, '--auto_resume')
                if cell.test['datasets'] and not (self._results(cell.name) / FILE).is_file():
                    path = {**cell.test['path'], **(self.published(cell) if cell.train else {})}
                    test = self._option_file(f'{cell.name}_test', {**cell.test, 'path': path})
                    self._process(cell.name, slot, lock, 'basicsr/test.py', '-opt', test)
                if cell.curve and not self.curve_file(cell).is_file():
                    test = self._option_file(cell.curve_name, self._curve_options(cell))
                    self._process(cell.name, slot, lock, 'basicsr/test.py', '-opt', test)
                self._delete_points(cell)
        finally:
            self._slots.put(slot)

    def published(self, cell: Cell) -> dict[str, str]:
        """The section `path` of a test: the checkpoint that training selected, or else the last one."""
        best = self._weights(cell) / 'net_g_best.pth'
        return self._checkpoint(cell, 'best' if best.is_file() else 'latest')

    def _checkpoint(self, cell: Cell, which: int | str) -> dict[str, str]:
        averaged = cell.train['train'].get('ema_decay') or cell.train['train'].get('ema_time')
        file = self._weights(cell) / f'net_g_{which}.pth'
        return {'pretrain_network_g': str(file), 'param_key_g': 'params_ema' if averaged else 'params'}

    def _curve_options(self, cell: Cell) -> dict:
        """Options of one test of the networks at all points of the curve, called by their iterations."""
        test, (*points, _) = cell.curve_test(), cell.points
        compare = {str(point): self._checkpoint(cell, point) for point in points}
        path = {**cell.test['path'], **self._checkpoint(cell, 'latest')}
        return {**test, 'path': path, **({'compare': compare} if compare else {})}

    def _delete_points(self, cell: Cell) -> None:
        """Delete the checkpoints and states that were kept for the curve alone, once it is there."""
        if not cell.curve or not self.is_done(cell):
            return
        every = curve_every(cell.iterations, cell.curve)
        for iteration in range(every, cell.iterations + 1, every)[:-_KEPT]:
            states = self._weights(cell).parent / 'training_states'
            for file in (*self._weights(cell).glob(f'net_*_{iteration}.pth'), states / f'{iteration}.state'):
                file.unlink(missing_ok=True)

    def _option_file(self, name: str, opt: dict) -> str:
        file = self.folder / f'{name}.yml'
        write_text(file, dict2str(opt))
        return str(file)

    def _own(self, cell: Cell):
        self.folder.mkdir(parents=True, exist_ok=True)
        return _locked(self.folder / f'{cell.name}.lock', cell.name)

    def _process(self, name: str, slot: int, lock: int, script: str, *arguments: str) -> None:
        log = self.folder / f'{name}.log'
        with open(log, 'ab') as output:
            begin = output.tell()
            with self._lock:
                if self._stopping:
                    raise CellFailed('stopped')
                process = subprocess.Popen(
                    [sys.executable, str(ROOT / script), *arguments],
                    stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self._environment(slot),
                    start_new_session=True,  # Ctrl-C is passed on once, by _stop
                    pass_fds=[lock],  # held as long as the process lives, even if this one is killed
                )  # fmt: skip
                self._running[name] = process
        try:
            code = process.wait()
        finally:
            with self._lock:
                del self._running[name]
        if code:
            with open(log, 'rb') as output:
                output.seek(begin)
                lines = output.read().decode(errors='replace').splitlines()[-_LAST_LINES:]
            raise CellFailed(f'{script} ended with code {code}; the end of {log}:\n    ' + '\n    '.join(lines))

    def _environment(self, slot: int) -> dict[str, str]:
        env = dict(os.environ)
        if self._at_a_time > 1:
            env.setdefault('OMP_NUM_THREADS', str(max(1, len(os.sched_getaffinity(0)) // self._at_a_time)))
        devices = [one for one in env.get('CUDA_VISIBLE_DEVICES', '').split(',') if one]
        devices = devices or [str(index) for index in range(torch.cuda.device_count())]
        if devices:
            env['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
        return env


def _iterations(log: Path) -> int:
    """The last iteration that a training has logged."""
    try:
        with open(log, 'rb') as file:
            file.seek(max(0, log.stat().st_size - 4096))
            found = re.findall(rb', iter ([\d,]+),', file.read())
    except OSError:
        return 0
    return int(found[-1].replace(b',', b'')) if found else 0


@contextmanager
def _locked(path: Path, name: str) -> Iterator[int]:
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
def _terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM acts like Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
