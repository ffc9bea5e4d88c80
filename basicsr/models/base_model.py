"""What every model has: device, networks, validation, best results; and BasicSR's names for all of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.models.contract import is_of_users, is_replaced, refuse_what_is_replaced
from basicsr.models.metric_results import MetricResults
from basicsr.models.optimizing import Optimizing
from basicsr.models.saving import Saving
from basicsr.utils.dist_util import master_only
from basicsr.utils.logger import get_root_logger


class _OneSample(list):
    """A data loader that gives one batch, of which a validation may ask what it asks of any."""

    num_workers = 0

    def __init__(self, data: Any, section: dict) -> None:
        super().__init__([data])
        self.dataset = self
        self.opt = section


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class BaseModel(Optimizing, Saving, MetricResults):
    """Base of all models.

    Args:
        opt: The resolved options.
    """

    def __init__(self, opt: dict) -> None:
        self.opt = opt
        self.device = torch.device('cuda' if opt['num_gpu'] != 0 else 'cpu')
        self.is_train = opt['is_train']
        self.schedulers: list[torch.optim.lr_scheduler.LRScheduler] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.log_dict: dict[str, float] = {}
        self.image_results: list[tuple[str, dict[str, float]]] = []
        """After a validation: (sample's name, its metrics); empty where the model keeps means alone."""
        self.set_results: dict[str, float] = {}
        self.best_metric_results: dict[str, dict[str, dict]] = {}
        self.train_loader: Any = None
        """Training batches beside those of the training loop, which the pipeline provides; for scores, statistics."""
        self.tb_logger: Any = None
        """The TensorBoard writer, in the process that has it; the pipeline sets it."""
        self.run_state: dict[str, Any] = {}
        """What the pipeline wants to find again in the training state: its place in the data, random states."""
        self.written: dict[int, set[str]] = {}
        """By iteration, the checkpoints and the training state that the run wrote, as `models/net_g_10.pth`."""
        self.as_built: dict[str, Any] = {}
        """What tells whether attributes of a model of users have changed since it was built, see `users_state`."""
        if self.is_train and is_of_users(type(self)):
            refuse_what_is_replaced(self)

    def before_training(self, train_loader: Any) -> None:
        """Called once before the first iteration, not when a run is resumed."""

    def before_going_on(self) -> None:
        """Called once before the first iteration of a resumed run, whose training state is loaded."""

    def train_step(self, data: Any, current_iter: int) -> bool | None:
        """Train on a batch as the data loader gives it; False where the step was not taken.

        Models that were written for BasicSR say `feed_data` and `optimize_parameters`.
        """
        self.feed_data(data)
        return self.optimize_parameters(current_iter)

    def back_to_finite(self) -> int | None:
        """Put back the weights that gave a finite loss last, to be saved and no more, once a run cannot go on.

        Returns:
            The iteration after which the weights were these; None where there are none, as in models with a step of
            their own, which then stay as they are.
        """
        return None

    def rehearse_step(self, data: Any) -> None:
        """Take the first step. A model that can does it without a trace; others are built anew for the training."""
        self.train_step(data, 1)

    @contextmanager
    def rehearsed(self) -> Iterator[None]:
        """What a rehearsal does to the network is undone."""
        yield

    def why_not(self, data: Any, key: str) -> str | None:
        """Why the network cannot take a batch of `datasets.<key>` that it failed on, as a try with another may show.

        The answer begins with the option to blame, as messages do.
        """
        return None

    def rehearse_test(self, data: Any, key: str) -> dict[str, Exception]:
        """Test a sample of `datasets.<key>` as a validation would, and measure it; with a trace where `rehearse_step`
        leaves one.

        Returns:
            What measuring raised, by the option of the metric.
        """
        if not is_replaced(self, 'nondist_validation') and not is_replaced(self, 'validation'):
            self.feed_data(data)
            self.test()
            return {}
        section = self.opt['datasets'][key]
        with _silent(get_root_logger()), self.rehearsed():
            self.validation(_OneSample(data, section), 0, None, False)
        results, best = vars(self).pop('metric_results', {}), (self.opt.get('logger') or {}).get('save_best')
        self.image_results, self.set_results, self.best_metric_results = [], {}, {}
        measured = self.is_train and section['phase'] == 'val' and self.opt['rank'] == 0
        if measured and best and best not in results and (not isinstance(data, dict) or 'gt' in data):
            raise ValueError(
                f'logger.save_best: {type(self).__name__} validates by itself, and leaves no {best!r} in '
                f'metric_results, but {", ".join(results) or "nothing"}'
            )
        return {}

    def feed_data(self, data: Any) -> None:
        """BasicSR's: take a batch."""
        raise NotImplementedError(f'{type(self).__name__} has no feed_data()')

    def optimize_parameters(self, current_iter: int) -> bool | None:
        """BasicSR's: train on the batch that was taken."""
        raise NotImplementedError(f'{type(self).__name__} has no optimize_parameters()')

    def found_options(self) -> dict[str, Any]:
        """Options that the data decided, which the `options.yml` beside the checkpoints holds as well."""
        return {}

    def artifacts(self) -> dict[str, str]:
        """Files beside the checkpoints that the end of a training points to, by what they are."""
        return {}

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """Validate on `dataloader`, whose dataset carries the options' `name`.

        Args:
            dataloader: Yields one picture a batch.
            current_iter: Iteration, or a word that names the run.
            tb_logger: A TensorBoard writer, or None.
            save_img: Write the network's pictures.
        """
        if self.opt['dist']:
            with self._buffers_left_alone():
                self.dist_validation(dataloader, current_iter, tb_logger, save_img)
        else:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    @contextmanager
    def _buffers_left_alone(self) -> Iterator[None]:
        """A wrapped network runs in one process without waiting for the others, to which it would send its buffers."""
        wrapped = [net for net in vars(self).values() if isinstance(net, DistributedDataParallel)]
        before = [(net.broadcast_buffers, net.require_forward_param_sync) for net in wrapped]
        for net in wrapped:
            net.broadcast_buffers = False
        try:
            yield
        finally:
            for net, (buffers, sync) in zip(wrapped, before, strict=True):
                net.broadcast_buffers, net.require_forward_param_sync = buffers, sync

    def after_validation(self, current_iter: int) -> None:
        """Called in all processes once all sets were validated, and the best network kept."""

    def dist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """Validate in a distributed run; as in BasicSR the first process does it, unless a subclass knows better."""
        if self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def test(self) -> None:
        """BasicSR's: run the network on the batch that was taken."""
        raise NotImplementedError(f'{type(self).__name__} has no test()')

    def nondist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """BasicSR's: test every sample of a data set in this process, measure it, and log the means."""
        raise NotImplementedError(f'{type(self).__name__} has no nondist_validation()')

    def note_loss(self, batch: Any, dataset_name: str) -> None:
        """Called after each tested sample, for models that want to know more of it."""

    def get_current_log(self) -> dict[str, float]:
        return self.log_dict

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move to the device; in a distributed run, wrap what has something to train."""
        net = net.to(self.device)
        if self.opt['dist'] and any(parameter.requires_grad for parameter in net.parameters()):
            net = DistributedDataParallel(
                net,
                device_ids=[torch.cuda.current_device()] if self.device.type == 'cuda' else None,
                find_unused_parameters=self.opt.get('find_unused_parameters', False),
            )
        return net

    def get_bare_model(self, net: nn.Module) -> nn.Module:
        return net.module if isinstance(net, DistributedDataParallel) else net

    @master_only
    def print_network(self, net: nn.Module) -> None:
        bare = self.get_bare_model(net)
        count = sum(parameter.numel() for parameter in bare.parameters())
        get_root_logger().info('Network %s: %s parameters', type(bare).__name__, f'{count:,}')

    def reduce_loss_dict(self, loss_dict: dict[str, Tensor]) -> dict[str, float]:
        """Losses as numbers, averaged over the processes, in all of them."""
        with torch.no_grad():
            if not loss_dict:
                return {}
            losses = torch.stack([value.detach().mean().float() for value in loss_dict.values()])
            if self.opt['dist']:
                torch.distributed.all_reduce(losses)
                losses /= self.opt['world_size']
            return dict(zip(loss_dict, losses.tolist(), strict=True))
