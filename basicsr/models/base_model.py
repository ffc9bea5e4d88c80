"""What every model has: device, optimizers, schedulers, checkpoints, best results."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.archs.from_weights import load_network_weights
from basicsr.metrics import better_is
from basicsr.models import lr_scheduler  # noqa: F401  registers its schedulers
from basicsr.models.contract import is_of_users, is_replaced, refuse_what_is_replaced
from basicsr.models.users_state import load_attributes, state_of_attributes
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights, save_checkpoint
from basicsr.utils.dist_util import master_only
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import SCHEDULER_REGISTRY, call_checked, did_you_mean


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


class UnknownOptimizer(ValueError, NotImplementedError):
    """No optimizer of that name; BasicSR raises a NotImplementedError."""


class BaseModel:
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
        """After a validation: (picture's name, its metrics); empty where the model keeps means alone."""
        self.best_metric_results: dict[str, dict[str, dict]] = {}
        self.train_loader: Any = None
        """Training batches beside those of the training loop, which the pipeline provides; for scores, statistics."""
        self.tb_logger: Any = None
        """The TensorBoard writer, in the process that has it; the pipeline sets it."""
        self.run_state: dict[str, Any] = {}
        """What the pipeline wants to find again in the training state: its place in the data, random states."""
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
        self.image_results, self.best_metric_results = [], {}
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

    def save(self, epoch: int, current_iter: int | str) -> None:
        """Write networks and training state; `current_iter` -1 is the end of the run, which has no state.

        Called in all processes; a failing disk is an OSError in the one that writes.
        """
        raise NotImplementedError(f'{type(self).__name__} has no save()')

    def save_weights(self, current_iter: int | str) -> None:
        """Write the network that is validated; a model that has no such method of its own writes all that it saves."""
        self.save(-1, current_iter)

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
        raise NotImplementedError(f'{type(self).__name__} has no nondist_validation()')

    def note_loss(self, batch: Any, dataset_name: str) -> None:
        """Called after each tested sample, for models that want to know more of it."""

    @property
    def param_key(self) -> str:
        """The network that is validated, in the checkpoints that `save_weights` writes."""
        return 'params_ema' if 'net_g_ema' in self._networks() else 'params'

    def _networks(self) -> dict[str, nn.Module]:
        """The networks whose weights are part of the training state: all that an optimizer steps, or that say so.

        By their names, `net_<...>` and `<...>_ema`, others say so. A network by two names is there once.
        """
        groups = (group for optimizer in self.optimizers for group in optimizer.param_groups)
        stepped = {id(parameter) for group in groups for parameter in group['params']}
        networks: dict[str, nn.Module] = {}
        for name, net in sorted(vars(self).items(), key=lambda entry: not entry[0].startswith('net_')):
            if not isinstance(net, nn.Module) or any(net is other for other in networks.values()):
                continue
            named = name.startswith('net_') or name.endswith('_ema')
            if named or any(id(parameter) in stepped for parameter in net.parameters()):
                networks[name] = net
        return networks

    def _initialize_best_metric_results(self, dataset_name: str) -> None:
        if dataset_name in self.best_metric_results:
            return
        self.best_metric_results[dataset_name] = {
            metric: {
                'better': better_is(content),
                'val': float('-inf') if better_is(content) == 'higher' else float('inf'),
                'iter': -1,
            }
            for metric, content in self.opt['val']['metrics'].items()
        }

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        best = self.best_metric_results[dataset_name][metric]
        if val >= best['val'] if best['better'] == 'higher' else val <= best['val']:
            best['val'], best['iter'] = val, current_iter

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

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs) -> torch.optim.Optimizer:
        """An optimizer of `torch.optim` by name.

        Raises:
            UnknownOptimizer: No such optimizer.
            ValueError: An option that it does not take.
        """
        factory = getattr(torch.optim, str(optim_type), None)
        known = [name for name, obj in vars(torch.optim).items() if inspect.isclass(obj)]
        if optim_type not in known:
            message = f'train.optim_g.type: torch.optim has no {optim_type!r}{did_you_mean(optim_type, known)}'
            raise UnknownOptimizer(message)
        if 'betas' in kwargs:
            betas = kwargs['betas']
            if not isinstance(betas, list | tuple) or not all(isinstance(beta, int | float) for beta in betas):
                raise ValueError(f'train.optim_g.betas: must be a list of numbers, not {betas!r}')
            kwargs['betas'] = tuple(map(float, betas))  # torch wants all of them of one type
        takes = inspect.signature(factory).parameters
        if not any(kwargs.get(key) for key in ('fused', 'foreach', 'capturable', 'differentiable')):
            for key in ('fused', 'foreach'):  # the faster ones, where the optimizer has them
                if key in takes and key not in kwargs:
                    kwargs[key] = True
                    break
        return call_checked(factory, f'train.optim_g: {optim_type}', params, lr=lr, **kwargs)

    def setup_schedulers(self) -> None:
        """A scheduler for each optimizer; without `train.scheduler` the rate stays.

        Raises:
            ValueError: Another type than those that there are.
        """
        options = dict(self.opt['train'].get('scheduler') or {})
        if not options:
            return
        kind = options.pop('type', None)
        if kind not in SCHEDULER_REGISTRY:
            raise ValueError(f'train.scheduler.type: {kind!r} is none of {", ".join(SCHEDULER_REGISTRY.keys())}')
        what = f'train.scheduler: {kind}'
        self.schedulers += [
            call_checked(SCHEDULER_REGISTRY.get(kind), what, optimizer, **options) for optimizer in self.optimizers
        ]

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Step the schedulers; in the first `warmup_iter` iterations the rate rises linearly from zero."""
        if current_iter > 1:
            for scheduler in self.schedulers:
                scheduler.step()
        if current_iter <= warmup_iter:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    if current_iter == 1:
                        group.setdefault('initial_lr', group['lr'])
                    rate = group['initial_lr'] if 'initial_lr' in group else self.opt['train']['optim_g']['lr']
                    group['lr'] = rate * current_iter / warmup_iter

    def get_current_learning_rate(self) -> list[float]:
        return [group['lr'] for group in self.optimizers[0].param_groups]

    @master_only
    def save_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int | str,
        param_key: str | list = 'params',
    ) -> None:
        """Write `models/<net_label>_<current_iter>.pth`: one state dict under each key.

        Args:
            net: Network, or networks.
            net_label: For example `net_g`.
            current_iter: Iteration, or a word; -1 is `latest`.
            param_key: Key, or as many keys.
        """
        nets, keys = (net, param_key) if isinstance(net, list) else ([net], [param_key])
        self._save_weights(
            {key: self.get_bare_model(one).state_dict() for one, key in zip(nets, keys, strict=True)},
            net_label,
            current_iter,
        )

    @master_only
    def _save_weights(self, weights: dict[str, dict[str, Tensor]], net_label: str, current_iter: int | str) -> None:
        name = f'{net_label}_{"latest" if current_iter == -1 else current_iter}.pth'
        on_cpu = {key: {name: value.cpu() for name, value in state.items()} for key, state in weights.items()}
        save_checkpoint(on_cpu, os.path.join(self.opt['path']['models'], name))

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        """Load weights from a checkpoint of this framework, of BasicSR or MambaIR, or from a bare state dict.

        Raises:
            FileNotFoundError, ValueError: No file, no checkpoint, or one of another network; the message says of which.
        """
        differences = load_network_weights(self.get_bare_model(net), load_path, param_key, strict)
        logger = get_root_logger()
        logger.info('Loaded %s from %s.', type(self.get_bare_model(net)).__name__, load_path)
        for line in differences[:10]:
            logger.warning('  %s', line)

    @master_only
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Write `training_states/<current_iter>.state`: all that goes on where this leaves off."""
        if isinstance(current_iter, int) and current_iter != -1:
            state = {'epoch': epoch, 'iter': current_iter, **self.run_state, **self.training_state()}
            save_checkpoint(state, os.path.join(self.opt['path']['training_states'], f'{current_iter}.state'))

    def training_state(self) -> dict[str, Any]:
        return {
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'types': self._types(),
            'networks': {name: self.get_bare_model(net).state_dict() for name, net in self._networks().items()},
            'best_metric_results': copy.deepcopy(self.best_metric_results),
            **({'attributes': attributes} if (attributes := state_of_attributes(self)) else {}),
        }

    def _types(self) -> dict[str, list[str]]:
        return {
            'train.optim_g.type': [type(optimizer).__name__ for optimizer in self.optimizers],
            'train.scheduler.type': [type(scheduler).__name__ for scheduler in self.schedulers],
        }

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Put back what `training_state` returned.

        Raises:
            ValueError: The state was saved with other optimizers or schedulers.
        """
        for option, saved in resume_state.get('types', {}).items():
            asked = self._types()[option]
            if saved != asked:
                saved, asked = (', '.join(types) or 'none' for types in (saved, asked))
                raise ValueError(
                    f'{option}: the training state was saved with {saved}, and the options ask for {asked}; a run goes '
                    'on with what it began with. For another one start anew, with path.pretrain_network_g'
                )
        for own, saved in ((self.optimizers, 'optimizers'), (self.schedulers, 'schedulers')):
            states = resume_state[saved]
            if len(states) != len(own):
                raise ValueError(f'the training state holds {len(states)} {saved}, the options ask for {len(own)}')
            for one, state in zip(own, states, strict=True):
                one.load_state_dict(state)
        self._resume_networks(resume_state)
        load_attributes(self, resume_state.get('attributes', {}))
        self.best_metric_results = resume_state.get('best_metric_results', {})

    def _resume_networks(self, state: dict[str, Any]) -> None:
        """Load the networks of a training state, or those saved beside one that holds none, as BasicSR's."""
        for name, net in self._networks().items():
            if 'networks' not in state:
                if not name.startswith('net_'):  # the model has found it by itself
                    continue
                load_weights(self.get_bare_model(net), self._weights_beside_the_state('params', name), 'the checkpoint')
            elif name in state['networks']:
                load_weights(self.get_bare_model(net), state['networks'][name], 'the training state')
            elif name.startswith('net_'):
                raise ValueError(f'the training state holds no {name}: it was saved with other options')

    def _weights_beside_the_state(self, param_key: str, name: str = 'net_g') -> dict[str, Tensor]:
        """The weights of a network in the checkpoint that was saved with the training state."""
        path = self.opt['path']['resume_network'].replace('net_g_', f'{name}_')
        return find_weights(load_checkpoint(path), path, param_key)

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
