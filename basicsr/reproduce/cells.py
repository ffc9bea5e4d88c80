"""Running the cells of a grid: each in its own processes, resumable, never twice at the same time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from basicsr.options.resolve import dict2str
from basicsr.reproduce.cell import ROOT, Cell, curve_every
from basicsr.reproduce.grid import Grid
from basicsr.reproduce.inputs import Inputs
from basicsr.reproduce.processes import environment, iterations_in, locked, terminated_as_interrupted
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
        self._has_bar, self._began = False, (0.0, 0)

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell has been trained and tested; pre-training is not tested."""
        if not cell.test['datasets']:
            return self._is_trained(cell)
        return (self._results(cell.name) / FILE).is_file() and (not cell.curve or self.curve_file(cell).is_file())

    def _is_trained(self, cell: Cell) -> bool:
        return (self._weights(cell) / 'net_g_latest.pth').is_file()

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

        Where the output is no terminal, a line says when a cell begins and ends.

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
            terminated_as_interrupted(),
            ThreadPoolExecutor(self.jobs) as pool,
            tqdm(total=total, desc=self.grid.name, unit='it', disable=None) as bar,
        ):
            self._has_bar, self._began = not bar.disable, (time.monotonic(), self._show(bar, left))
            futures = {pool.submit(self._run_cell, cell): cell for cell in left}
            waiting = set(futures)
            try:
                while waiting:
                    done, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                    iterations = self._show(bar, left)
                    for future in done:
                        error, cell = future.exception(), futures[future]
                        if error is None:
                            on_done(cell)
                        elif isinstance(error, CellFailed | OSError | ValueError):
                            failed[cell.name] = str(error)
                        else:
                            raise error
                        self._say(f'{cell.name} {"has failed" if error else "is done"}', total, iterations)
            except BaseException:
                self._stop()
                raise
        return failed

    def _say(self, what: str, total: int = 0, done: int = 0) -> None:
        """Where there is no bar, a line, and how long the rest of all iterations will take at the pace so far."""
        if self._has_bar:
            return
        begin, before = self._began
        left = ''
        if before < done < total:
            seconds = (time.monotonic() - begin) * (total - done) / (done - before)
            left = f'; {timedelta(seconds=round(seconds))} left'
        tqdm.write(f'{self.grid.name}: {what}{left}', file=sys.stderr)

    def _show(self, bar: tqdm, cells: list[Cell]) -> int:
        """Move the bar; returns how many iterations are done."""
        done = 0
        for cell in cells:
            log, trained = self.folder / f'{cell.name}.log', self._is_trained(cell)
            done += cell.iterations if trained else min(cell.iterations, iterations_in(log))
        with self._lock:
            bar.set_postfix_str(', '.join(self._running), refresh=False)
        bar.update(done - bar.n)
        return done

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
                self._say(f'{cell.name} begins')
                write_text(self.folder / f'{cell.name}.json', json.dumps(record, indent=1) + '\n')
                if cell.train and not self._is_trained(cell):
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
        return locked(self.folder / f'{cell.name}.lock', cell.name)

    def _process(self, name: str, slot: int, lock: int, script: str, *arguments: str) -> None:
        log = self.folder / f'{name}.log'
        with open(log, 'ab') as output:
            begin = output.tell()
            with self._lock:
                if self._stopping:
                    raise CellFailed('stopped')
                process = subprocess.Popen(
                    [sys.executable, str(ROOT / script), *arguments],
                    stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment(slot, self._at_a_time),
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
