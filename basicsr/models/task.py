"""A task: what a batch is and what its loss is, for one network that a strategy trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.archs.frozen_statistics import freeze_if_asked
from basicsr.data.loaders import loader_of_some
from basicsr.models.base_model import BaseModel
from basicsr.models.compiling import check_compiler
from basicsr.models.contract import is_replaced, refuse_what_was_not_made
from basicsr.models.last_finite import LastFinite
from basicsr.models.stepping import Stepper, parts_of
from basicsr.options.strategies import train_options
from basicsr.runs.checkpoint import find_weights, load_checkpoint
from basicsr.strategies import Setting, Strategy, build_strategy, load_strategy, save_strategy
from basicsr.strategies.ema_strategy import EMA
from basicsr.strategies.old_states import strategy_of_old_state
from basicsr.strategies.plain_strategy import Plain
from basicsr.utils.dist_util import all_gather
from ldt.restore import preserve_gradients, preserve_modes_and_buffers


class Task(BaseModel):
    """A network, a loss, and the strategy that the options ask for.

    A subclass says what a batch is (`batch_on_device`), what its loss is (`init_losses`, `losses`), and how it is
    tested (`validation`). `step` is what all of them share.

    Attributes:
        net_g: The network, as it runs in training: in a distributed run wrapped.
        strategy: What trains and publishes it.
    """

    train_defaults: dict[str, Any] = {}
    """What this model has in the section `train` where the options do not say otherwise."""

    loss_options: dict[str, str] = {}
    """By the name of a term of the loss, the option that it is made of, for messages."""

    ignored_options: tuple[str, ...] = ()
    """Options of other tasks, which do nothing here."""

    has_strategy_of_options = False
    """Whether `strategy` is what the options ask for, and not what a model of users trains by itself."""

    _lent: nn.Module | None = None

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        net = self._laid_out(build_network(opt['network_g']))
        self.net_g = self.model_to_device(net)
        self.print_network(self.net_g)
        self._load_pretrained(self.net_g)
        self.strategy: Strategy = Plain(self.get_bare_model(self.net_g))
        if self.is_train:
            self._prepare_steps()
            self.init_training_settings()
            self._complete_foreign_settings()
            refuse_what_was_not_made(self)

    def _laid_out(self, net: nn.Module) -> nn.Module:
        """`net` in the memory layout of `train.channels_last`, which tests of a training's network take over."""
        self._memory_format = torch.preserve_format
        if (self.opt.get('train') or {}).get('channels_last'):
            self._memory_format = torch.channels_last
        return net.to(memory_format=self._memory_format)

    def _load_pretrained(self, net: nn.Module, param_key: str | None = None) -> None:
        paths = self.opt['path']
        if paths.get('pretrain_network_g'):
            key = param_key or paths.get('param_key_g', 'params')
            try:
                self.load_network(net, paths['pretrain_network_g'], paths.get('strict_load_g', True), key)
            except (ValueError, FileNotFoundError) as error:
                kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                raise kind(f'path.pretrain_network_g: {error}') from error

    def _prepare_steps(self) -> None:
        self.opt['train'] = options = train_options(self.opt)
        if options.get('compile'):
            check_compiler(self.device)
        freeze_if_asked(self.get_bare_model(self.net_g), options)
        self.stepper = Stepper(options, self.device)
        self.accumulate = options.get('accumulate') or 1
        self._last_finite = LastFinite()
        self._trainable = self._trainable_at_first = self._trainable_names(self.net_g)
        self._last_losses: dict[str, float] = {}
        self._validation_losses: list[float] = []

    def init_training_settings(self) -> None:
        """Make what a training needs: losses, strategy, optimizer, schedulers."""
        self.net_g.train()
        self.init_losses()
        self.strategy = build_strategy(self.get_bare_model(self.net_g), self._setting())
        self.ema_decay = self.strategy.shadow_decay
        self.has_strategy_of_options = True
        self.setup_optimizers()
        self.setup_schedulers()

    def _complete_foreign_settings(self) -> None:
        """Where a model of users has settings of its own, `net_g` as it is then trains plainly."""
        net = self.get_bare_model(self.net_g)
        if self.has_strategy_of_options:
            return
        average, self.strategy = self.strategy.shadow, Plain(net, self._setting())
        if average is not None:
            self.net_g_ema = average

    def _setting(self) -> Setting:
        opt = self.opt
        return Setting(
            opt['train'],
            loss=self.loss,
            wrap=self._wrapped,
            batches=lambda: self.train_loader,
            batches_of=self._batches_of,
            optimizer=self._optimizer_of,
            step=self._step_beside,
            device=self.device,
            seed=opt.get('manual_seed') or 0,
            processes=opt['world_size'],
            name=opt['name'],
            folder=opt['path'].get('experiments_root'),
            pretrained=bool(opt['path'].get('pretrain_network_g')) or 'pretrained' in opt['network_g'],
            new_layers=self._new_layers(),
            load=self._load_pretrained,
            writer=lambda: self.tb_logger,
        )

    def _new_layers(self) -> frozenset[str]:
        """The parameters that the weights which the network began with lack: mostly a head for other classes."""
        net, paths = self.get_bare_model(self.net_g), self.opt['path']
        if not paths.get('pretrain_network_g'):
            return frozenset(getattr(net, 'new_layers', ()))
        if paths.get('strict_load_g', True):
            return frozenset()
        file = paths['pretrain_network_g']
        there = find_weights(load_checkpoint(file), file, paths.get('param_key_g', 'params'))
        shapes = {name: value.shape for name, value in there.items()}
        return frozenset(name for name, value in net.named_parameters() if shapes.get(name) != value.shape)

    def _wrapped(self, net: nn.Module) -> Callable:
        """What runs in place of `net` in a step. DistributedDataParallel counts on what trains, and is made anew."""
        is_own = self.get_bare_model(self.net_g) is net
        if not is_own or self._trainable != self._trainable_names(net):
            wrapped = self.model_to_device(net)
            if is_own:
                self.net_g, self._trainable = wrapped, self._trainable_names(net)
        else:
            wrapped = self.net_g
        return torch.compile(wrapped) if self.opt['train'].get('compile') else wrapped

    def _trainable_names(self, net: nn.Module) -> set[str]:
        net = self.get_bare_model(net)
        return {name for name, parameter in net.named_parameters() if parameter.requires_grad}

    def init_losses(self) -> None:
        """Make the criteria that `losses` needs, from `train`."""
        raise NotImplementedError(f'{type(self).__name__} has no init_losses()')

    def batch_on_device(self, data: Any) -> dict[str, Any]:
        """A batch as the data loader gives it, on the device, as `losses` takes it."""
        raise NotImplementedError(f'{type(self).__name__} has no batch_on_device()')

    def losses(self, net: Callable, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of the loss of `net` on a batch, by name. Training minimises their sum.

        Args:
            net: The network, or what stands for it in a step (mixed precision, several processes).
            batch: From `batch_on_device`, or a part of that.
        """
        raise NotImplementedError(f'{type(self).__name__} has no losses()')

    def loss(self, net: nn.Module, data: Any) -> Tensor:
        """The loss of `net` on a batch of the data loader, a scalar; what layers are scored by."""
        return sum(self.losses(net, self.batch_on_device(data)).values())

    def setup_optimizers(self) -> None:
        self.optimizer_g = self._optimizer_of(list(self.strategy.parameters().values()))
        self.optimizers.append(self.optimizer_g)

    def _optimizer_of(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        options = dict(self.opt['train'].get('optim_g') or {})
        if 'type' not in options:
            raise ValueError('train.optim_g.type: missing; name an optimizer of torch.optim, for example Adam')
        return self.get_optimizer(options.pop('type'), parameters, **options)

    def _batches_of(self, indices: list[int], step: bool) -> Any:
        return loader_of_some(self.opt, self.train_loader, indices, self.accumulate if step else 1)

    def _step_beside(self, net: Callable, data: Any, optimizer: torch.optim.Optimizer) -> float:
        """A step as in training, by another optimizer, which no strategy follows; returns the loss."""
        optimizer.zero_grad()
        losses = self.reduce_loss_dict(self.back_propagate(net, self.batch_on_device(data)))
        self.stepper.step(optimizer, losses)
        return sum(losses.values())

    def _follow_strategy(self) -> None:
        """Where the strategy has parameters of its own now, optimizer and schedulers begin anew."""
        if self.get_bare_model(self.net_g) is not self.strategy.network:
            self.net_g = self.strategy.network
        if self.has_strategy_of_options and self.strategy.has_own_parameters:
            self.optimizers, self.schedulers = [], []
            self.setup_optimizers()
            self.setup_schedulers()

    def train_step(self, data: Any, current_iter: int) -> bool | None:
        return self.step(self.batch_on_device(data), current_iter)

    def rehearse_step(self, data: Any) -> None:
        """Run a batch through network, loss and backward; afterwards weights, gradients, statistics are as before."""
        if is_replaced(self, 'optimize_parameters') or is_replaced(self, 'train_step'):
            super().rehearse_step(data)
            return
        self.strategy.rehearse()
        net = self.get_bare_model(self.net_g)
        with preserve_modes_and_buffers(net), preserve_gradients(net):
            terms = self.losses(self._in_amp(net), self.batch_on_device(data))
            self._check_terms(terms)
            sum(terms.values()).backward()
            idle = [name for name, value in net.named_parameters() if value.requires_grad and value.grad is None]
        if idle and self.opt['dist'] and not self.opt.get('find_unused_parameters'):
            raise ValueError(
                f'find_unused_parameters: must be true where several processes train, for {len(idle)} weights of the '
                f'network take no part in the loss: {", ".join(idle[:3])}{", …" if len(idle) > 3 else ""}'
            )

    def _check_terms(self, terms: dict[str, Tensor]) -> None:
        """Raise a ValueError unless the terms of a loss can be minimised."""
        for name, term in terms.items():
            option = self.loss_options.get(name, 'train')
            if not isinstance(term, Tensor) or term.numel() != 1:
                what = 'x'.join(map(str, term.shape)) + ' numbers' if isinstance(term, Tensor) else type(term).__name__
                raise ValueError(
                    f'{option}: the loss {name} is {what}, and training minimises one: reduction: mean or sum'
                )
        if not any(term.requires_grad for term in terms.values()):
            raise ValueError(
                f'network_g: the loss ({", ".join(terms)}) does not depend on its weights, so that nothing can train: '
                'the output is detached, or not made of floating-point numbers'
            )

    @contextmanager
    def rehearsed(self) -> Iterator[nn.Module]:
        """Lend the network as it is before a training, in place of what will be published; forget what was noted."""
        with self.strategy.trained() as self._lent:
            try:
                yield self._lent
            finally:
                self._lent, self._validation_losses = None, []

    def before_training(self, train_loader: Any) -> None:
        self.strategy.prepare(self.loss, train_loader)
        self._follow_strategy()

    def before_going_on(self) -> None:
        self.strategy.resumed()

    def step(self, batch: dict[str, Any], current_iter: int) -> bool:
        """Train on a batch: every network that the strategy names, one optimizer step, what follows it.

        Returns:
            Whether the step was taken, see `Stepper.step`.
        """
        self.strategy.before_step(current_iter)
        self.optimizer_g.zero_grad()
        losses: dict[str, Tensor] = {}
        buffers: list[tuple[Tensor, Tensor]] = []
        for label, net in self.strategy.networks():
            buffers += [(buffer, buffer.clone()) for buffer in net.buffers()]
            terms = self.back_propagate(net, batch)
            losses.update({f'{name}_{label}' if label else name: value for name, value in terms.items()})
        taken = self._take_step(losses, buffers, current_iter)
        if taken:
            self.strategy.after_step(current_iter)
        if self.strategy.end_iteration(current_iter):
            self.optimizer_g.param_groups[0]['params'] = list(self.strategy.parameters().values())
        return taken

    def back_propagate(self, net: Callable, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Add the gradients of the batch's loss to those of `net`; returns the terms of the loss.

        The batch is split into `train.accumulate` parts, so that the activations of only one part are alive.
        """
        totals: dict[str, Tensor] = {}
        parts = parts_of(batch, self.accumulate)
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            # Processes need to exchange their gradients once, after the last part.
            waits = hasattr(net, 'no_sync') and not last
            with net.no_sync() if waits else nullcontext():
                terms = {name: term / len(parts) for name, term in self.losses(self._in_amp(net), part).items()}
                self.stepper.backward(sum(terms.values()))
            for name, term in terms.items():
                totals[name] = totals[name] + term.detach() if name in totals else term.detach()
        return totals

    def _in_amp(self, net: Callable) -> Callable:
        """`net`, run in the precision of `train.amp`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self.stepper.autocast():
                return net(*args, **kwargs)

        return run

    def _take_step(self, losses: dict[str, Tensor], buffers: list[tuple[Tensor, Tensor]], current_iter: int) -> bool:
        """Let the optimizer step and fill `log_dict`; where it does not, batch statistics are what they were."""
        self.log_dict = self.reduce_loss_dict(losses)
        if all(map(math.isfinite, self.log_dict.values())):
            self._last_finite.keep(save_strategy(self.strategy), current_iter - 1)
        taken = False
        try:
            taken = self.stepper.step(self.optimizer_g, self.log_dict)
        finally:
            if not taken:
                for buffer, value in buffers:
                    buffer.copy_(value)
        if taken:  # a strategy whose networks have turns shows the last loss of each
            self._last_losses = self.log_dict = {**self._last_losses, **self.log_dict}
        return taken

    @contextmanager
    def published(self) -> Iterator[nn.Module]:
        """Lend the network that is tested and saved, in evaluation mode; while it is lent, the same again."""
        if self._lent is not None:
            yield self._lent
            return
        with self.strategy.published() as self._lent:
            try:
                yield self._lent
            finally:
                self._lent = None

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """As every model's; what is tested is made once, in all processes, not for each sample."""
        with self.published():
            super().validation(dataloader, current_iter, tb_logger, save_img)

    @torch.no_grad()
    def note_loss(self, batch: dict[str, Any], dataset_name: str) -> None:
        """Keep the trained network's loss on a validation batch, where the strategy goes by it."""
        if not self.strategy.needs_loss:
            return
        with self.strategy.trained() as net:
            self._validation_losses.append(self.validation_loss(net, batch, dataset_name).item())

    def validation_loss(self, net: nn.Module, batch: dict[str, Any], dataset_name: str) -> Tensor:
        """The loss of `net` on a validation batch."""
        return sum(self.losses(net, batch).values())

    def after_validation(self, current_iter: int) -> None:
        losses, self._validation_losses = [loss for share in all_gather(self._validation_losses) for loss in share], []
        self.strategy.after_validation(current_iter, sum(losses) / len(losses) if losses else math.nan)

    @property
    def param_key(self) -> str:
        return self.strategy.published_key

    def artifacts(self) -> dict[str, str]:
        return self.strategy.report()

    def save_weights(self, current_iter: int | str) -> None:
        """Write the network that was validated to `models/net_g_<current_iter>.pth`; -1 is `latest`."""
        with self.published() as net:
            networks = {**self.strategy.saved_beside(), self.strategy.published_key: net}
            self.save_network(list(networks.values()), 'net_g', current_iter, param_key=list(networks))

    def back_to_finite(self) -> int | None:
        last = self._last_finite
        if last.iteration is not None:
            if self.has_strategy_of_options:  # a new one, as where a run goes on; this one may be in another turn
                net = self.get_bare_model(self.strategy.network)
                for name, parameter in net.named_parameters():
                    parameter.requires_grad_(name in self._trainable_at_first)
                self.strategy = build_strategy(net, self._setting())
            load_strategy(self.strategy, last.state())
        return last.iteration

    def save(self, epoch: int, current_iter: int | str) -> None:
        self.save_weights(current_iter)
        self.save_training_state(epoch, current_iter)

    def training_state(self) -> dict[str, Any]:
        state = {'strategy': save_strategy(self.strategy), 'stepper': self.stepper.state_dict()}
        return {**super().training_state(), **state}

    def _networks(self) -> dict[str, nn.Module]:
        """Networks beside that which the strategy keeps."""
        kept = {id(self.strategy.network), id(self.strategy.shadow)}
        return {name: net for name, net in super()._networks().items() if id(self.get_bare_model(net)) not in kept}

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        saved = resume_state.get('strategy')
        if saved is None:
            saved = strategy_of_old_state(resume_state, self.strategy, self._weights_beside_the_state)
        load_strategy(self.strategy, saved)
        self._follow_strategy()
        if 'stepper' in resume_state:
            self.stepper.load_state_dict(resume_state['stepper'])
        super().resume_training(resume_state)

    # BasicSR's names of a moving average, for models that keep one by themselves.

    ema_decay: float = 0
    """Decay of `net_g_ema` in models with a step of their own."""

    @property
    def net_g_ema(self) -> nn.Module:
        """The moving average of `net_g`, where there is one; setting it makes it what is tested and saved."""
        if self.strategy.shadow is None:
            raise AttributeError('net_g_ema')
        return self.strategy.shadow

    @net_g_ema.setter
    def net_g_ema(self, net: nn.Module) -> None:
        inner = self.strategy if self.strategy.shadow is None else self.strategy.inner
        self.strategy = EMA(inner, self._setting(), self.get_bare_model(net))

    def model_ema(self, decay: float = 0.999) -> None:
        """Move `net_g_ema` towards the network: decay * average + (1 - decay) * weights."""
        self.strategy.follow(decay)
