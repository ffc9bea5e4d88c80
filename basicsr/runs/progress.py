"""What a training shows of its progress."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from basicsr.utils.logger import AvgTimer, MessageLogger, get_root_logger


class Progress:
    """The bar, the lines of the log, and the times in them."""

    def __init__(self, opt: dict, start: int, total: int, print_freq: int, tb_logger: Any) -> None:
        self.message = MessageLogger(opt, start + 1, tb_logger)
        self.data_timer, self.iter_timer = AvgTimer(print_freq), AvgTimer(print_freq)
        self.print_freq, self._stack = print_freq, ExitStack()
        quiet = None if opt['rank'] == 0 else True  # None: where the output is no terminal
        self.bar = tqdm(total=total, initial=start, desc=opt['name'], unit='it', disable=quiet)

    def __enter__(self) -> Progress:
        self._stack.enter_context(logging_redirect_tqdm([get_root_logger()]))
        self._stack.enter_context(self.bar)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def batch_is_there(self) -> None:
        self.data_timer.record()

    def step_is_done(self, epoch: int, current_iter: int, model: Any) -> None:
        self.iter_timer.record()
        losses = model.get_current_log()
        shown = [f'{name} {value:.4f}' for name, value in losses.items()]
        self.bar.set_postfix_str(', '.join([*shown, f'data {self.data_timer.get_avg_time():.3f} s']), False)
        self.bar.update()
        if current_iter % self.print_freq == 0:
            times = {'time': self.iter_timer.get_avg_time(), 'data_time': self.data_timer.get_avg_time()}
            lrs = model.get_current_learning_rate()
            self.message({'epoch': epoch, 'iter': current_iter, 'lrs': lrs, **times, **losses})

    def restart(self) -> None:
        self.data_timer.restart()
        self.iter_timer.restart()
