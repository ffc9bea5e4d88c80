"""Text log, TensorBoard, and the line that a training run prints every `print_freq` iterations."""

from __future__ import annotations

import datetime
import importlib.util
import logging
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import torch
import torchvision

from basicsr.utils.dist_util import get_dist_info, master_only


class AvgTimer:
    """Mean time between the last `window` calls of `record`."""

    def __init__(self, window: int = 200) -> None:
        self.window = window
        self.start()

    def start(self) -> None:
        self._last = time.perf_counter()
        self._total = self._current = 0.0
        self._count = 0

    def restart(self) -> None:
        """Start the next interval now, and keep the mean."""
        self._last = time.perf_counter()

    def record(self) -> None:
        now = time.perf_counter()
        self._current, self._last = now - self._last, now
        if self._count >= self.window:
            self._total, self._count = 0.0, 0
        self._total += self._current
        self._count += 1

    def get_current_time(self) -> float:
        return self._current

    def get_avg_time(self) -> float:
        return self._total / max(1, self._count)


class MessageLogger:
    """Logs losses, learning rates, speed and time left.

    Args:
        opt: The resolved options: `name`, `logger.print_freq`, `logger.use_tb_logger`, `train.total_iter`.
        start_iter: First iteration: 1, or that at which a resumed run continues.
        tb_logger: A TensorBoard writer, or None.
    """

    def __init__(self, opt: dict, start_iter: int = 1, tb_logger: Any = None) -> None:
        self.exp_name = opt['name']
        self.max_iters = opt['train']['total_iter']
        self.start_iter = start_iter
        self.tb_logger = tb_logger
        self.logger = get_root_logger()
        self.reset_start_time()

    def reset_start_time(self) -> None:
        self.start_time = time.time()

    @master_only
    def __call__(self, log_vars: dict[str, Any]) -> None:
        """Log one line.

        Args:
            log_vars: `epoch`, `iter`, `lrs`, `time` and `data_time` (seconds per iteration); all others are losses.
        """
        log_vars = dict(log_vars)
        epoch, current_iter, lrs = log_vars.pop('epoch'), log_vars.pop('iter'), log_vars.pop('lrs')
        parts = [f'epoch {epoch}, iter {current_iter:,}, lr {", ".join(f"{lr:.3e}" for lr in lrs)}']
        if 'time' in log_vars:
            iter_time, data_time = log_vars.pop('time'), log_vars.pop('data_time')
            done = current_iter - self.start_iter + 1
            left = (time.time() - self.start_time) / max(1, done) * (self.max_iters - current_iter)
            left_text = datetime.timedelta(seconds=int(left))
            parts.append(f'{iter_time:.3f} s/iter (data {data_time:.3f} s), time left {left_text}')
        parts += [f'{name} {value:.4e}' for name, value in log_vars.items()]
        self.logger.info('[%s] %s', self.exp_name, ' | '.join(parts))
        if self.tb_logger:
            for name, value in log_vars.items():
                group = 'losses/' if name.startswith('l_') else ''
                self.tb_logger.add_scalar(group + name, value, current_iter)
            self.tb_logger.add_scalar('lr', lrs[0], current_iter)


_not_written: dict[str, str] = {}
"""What a run could not write beside its checkpoints, and why."""


@contextmanager
def not_essential(what: str | Path) -> Iterator[None]:
    """A block that writes something beside the checkpoints. Where it fails, that is said once, and the run goes on.

    Args:
        what: What it writes, a file or whatever else has a name.
    """
    try:
        yield
    except Exception as error:  # disks, fonts, servers and what talks to them fail in many ways
        _note_not_written(str(what), error)


def _note_not_written(what: str, error: BaseException) -> None:
    if what in _not_written:
        return
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    _not_written[what] = (said.strip() or type(error).__name__).splitlines()[0]
    get_root_logger().warning('%s could not be written: %s. The run goes on without it', what, _not_written[what])


def say_what_was_not_written() -> None:
    """At the end of a run: say again what `not_essential` has passed over, and forget it."""
    if _not_written:
        lines = [f'  {what}: {why}' for what, why in _not_written.items()]
        get_root_logger().warning('Not, or not completely, written:\n%s', '\n'.join(lines))
        _not_written.clear()


class _LogFile(WatchedFileHandler):
    """The text log, which is made again where it was deleted, and which need not be written."""

    def __init__(self, file: str) -> None:
        super().__init__(file, 'a', encoding='utf-8', delay=True, errors='backslashreplace')

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # of opening it
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        _note_not_written(self.baseFilename, sys.exc_info()[1])


def tensorboard_of(folder: str) -> str:
    """What TensorBoard's files in a folder are called in messages."""
    return f'TensorBoard, {folder},'


class _Follower:
    """A writer for TensorBoard by whose failures no training ends; after the first, it writes no more.

    Args:
        writer: torch's `SummaryWriter`, some of which runs in a thread.
        folder: Where it writes.
    """

    def __init__(self, writer: Any, folder: str) -> None:
        self._writer, self._what = writer, tensorboard_of(folder)
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed

    def _thread_failed(self, failed: threading.ExceptHookArgs) -> None:
        if type(failed.thread).__module__.startswith('tensorboard'):
            _note_not_written(self._what, failed.exc_value)
        else:
            self._hook(failed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or not callable(found := getattr(self._writer, name)):
            raise AttributeError(name)

        def call(*arguments: Any, **more: Any) -> Any:
            if self._what in _not_written:
                return None
            with not_essential(self._what):
                return found(*arguments, **more)

        return call

    def close(self) -> None:
        """Write what is left."""
        with not_essential(self._what):
            self._writer.close()
        threading.excepthook = self._hook


@master_only
def init_tb_logger(log_dir: str, first_iter: int | None = None) -> Any:
    """A TensorBoard writer to `log_dir`; a run resumed at `first_iter` discards what was logged from there on.

    None where there can be none, which is logged.
    """
    what = tensorboard_of(log_dir)
    if what in _not_written:  # its folder could not be made
        return None
    with not_essential(what):
        from torch.utils.tensorboard import SummaryWriter

        return _Follower(SummaryWriter(log_dir=log_dir, purge_step=first_iter), log_dir)
    return None


def check_wandb(opt: dict) -> None:
    """Make sure, before a run writes anything, that `logger.wandb.project` can be used.

    Raises:
        ValueError: wandb is not installed.
    """
    if (opt['logger'].get('wandb') or {}).get('project') and importlib.util.find_spec('wandb') is None:
        raise ValueError('logger.wandb.project: the package wandb is not installed: pip install wandb, or leave it out')


@master_only
def init_wandb_logger(opt: dict) -> None:
    """Let Weights & Biases mirror what goes to TensorBoard, if `logger.wandb.project` is given.

    Where it cannot (no key, no network), that is logged.
    """
    options = opt['logger'].get('wandb') or {}
    if not options.get('project'):
        return
    with not_essential(f'Weights & Biases, project {options["project"]},'):
        import wandb

        run = wandb.init(
            id=options.get('resume_id'),
            resume='allow',
            name=opt['name'],
            config=opt,
            project=options['project'],
            sync_tensorboard=True,
            dir=opt['path']['log'],
        )
        get_root_logger().info('Weights & Biases follows as run %s; logger.wandb.resume_id takes it up again', run.id)


def get_root_logger(
    logger_name: str = 'basicsr', log_level: int = logging.INFO, log_file: str | None = None
) -> logging.Logger:
    """The framework's logger. The first call adds the console; a call with `log_file` adds or changes the file.

    Ranks above 0 log errors only.
    """
    logger = logging.getLogger(logger_name)
    form = logging.Formatter('%(asctime)s %(levelname)s: %(message)s')
    if all(isinstance(handler, logging.FileHandler) for handler in logger.handlers):
        console = logging.StreamHandler()
        console.setFormatter(form)
        logger.addHandler(console)
        logger.propagate = False
    rank, _ = get_dist_info()
    logger.setLevel(log_level if rank == 0 else logging.ERROR)
    if log_file is not None and rank == 0:
        for handler in [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]:
            logger.removeHandler(handler)
            handler.close()
        to_file = _LogFile(log_file)
        to_file.setFormatter(form)
        logger.addHandler(to_file)
    return logger


def get_env_info() -> str:
    """Versions, the device and the project's commit, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {torch.get_num_threads()} threads'
    versions = f'PyTorch {torch.__version__}, TorchVision {torchvision.__version__}'
    return f'Python {platform.python_version()}, {versions}, {device}, {_commit()}'


def _commit() -> str:
    folder = Path(__file__).resolve().parent
    try:
        commit, changes = (
            subprocess.run(['git', '-C', str(folder), *command], capture_output=True, text=True, check=True).stdout
            for command in (['rev-parse', '--short', 'HEAD'], ['status', '--porcelain', '--untracked-files=no'])
        )
    except (OSError, subprocess.CalledProcessError):
        return 'no git checkout'
    return f'commit {commit.strip()}{" with changes" if changes else ""}'
