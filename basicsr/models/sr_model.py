"""Super-resolution: one network, a pixel loss, validation by picture."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.averages import Average, build_average, resume_average, with_weights
from basicsr.models.batch_statistics import BatchStatistics
from basicsr.models.head_first import HeadFirst
from basicsr.models.picture_model import PictureModel
from basicsr.models.self_ensemble import self_ensemble
from basicsr.models.stepping import Stepper
from basicsr.models.tiling import Tiling
from basicsr.options.types import iterations
from basicsr.runs.checkpoint import load_weights
from basicsr.utils.dist_util import all_gather
from basicsr.utils.registry import MODEL_REGISTRY
from ldt.restore import modes_and_buffers_restored


@MODEL_REGISTRY.register()
class SRModel(PictureModel):
    """Train and test `network_g` on pairs.

    `val.patchwise_testing: true` tests pictures in tiles of `val.tile_size` with `val.tile_overlap`, stitched as
    `val.tile_mode` says, and `val.selfensemble_testing: true` averages over a picture's eight flips and turns, each of
    which is cut into tiles. Where memory runs out, tiles become smaller, see `Tiling`.
    """

    always_tiled = False
    """Whether pictures are cut into tiles without `val.patchwise_testing`, too."""

    average: Average | None = None
    """What is tested and saved in place of the trained weights; a moving average is `net_g_ema` instead."""

    _lent: nn.Module | None = None
    """What `network_to_test` has lent."""

    @property
    def only_pixel_loss(self) -> bool:
        """Whether `cri_pix` is all that this model trains with: a subclass may bring its own step."""
        return type(self).optimize_parameters is SRModel.optimize_parameters

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        self.tiling = Tiling.from_options(opt.get('val') or {}, self.always_tiled)
        self.net_g = self.model_to_device(self._laid_out(build_network(opt['network_g'])))
        self.print_network(self.net_g)
        self._load_pretrained(self.net_g)
        if self.is_train:
            self.init_training_settings()

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
            self.load_network(net, paths['pretrain_network_g'], paths.get('strict_load_g', True), key)

    def init_training_settings(self) -> None:
        self.net_g.train()
        options = self.opt['train']
        self.stepper = Stepper(options, self.device)
        self.accumulate = options.get('accumulate') or 1
        self.trained = self.compiled(self.net_g)
        self.batch_statistics = BatchStatistics(self.device)
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._init_strategy()
        if self.ema_decay > 0:
            self.net_g_ema = copy.deepcopy(self.get_bare_model(self.net_g)).requires_grad_(False).eval()
            self._load_pretrained(self.net_g_ema, 'params_ema')
        self.cri_perceptual = None
        self.cri_pix = build_loss(options['pixel_opt']).to(self.device) if options.get('pixel_opt') else None
        if self.cri_pix is None and self.only_pixel_loss:
            raise ValueError('train.pixel_opt: missing; training needs a loss, for example {type: L1Loss}')
        self.setup_optimizers()
        self.setup_schedulers()
        self._choose_trained(1)

    def _init_strategy(self) -> None:
        """Which layers train when, and what is published."""
        options, net = self.opt['train'], self.get_bare_model(self.net_g)
        for key in ('head_first', 'swad', 'wise_ft'):
            if options.get(key) is not None and not self.only_pixel_loss:
                raise ValueError(f'train.{key}: {type(self).__name__} has a step of its own, which does not know it')
        self.head_first = None
        if options.get('head_first') is not None:
            self.head_first = HeadFirst(options['head_first'], options['total_iter'], net)
        self.average, self._errors = build_average(self.opt, net), []
        self.ema_decay = options.get('ema_decay') or 0
        if options.get('ema_time'):
            self.ema_decay = 1 - 1 / iterations(options['ema_time'], options['total_iter'])

    def _choose_trained(self, current_iter: int) -> None:
        """Freeze and free what the iteration wants; wrappers count on what trains, and are made anew."""
        if self.head_first is not None and self.head_first.choose(current_iter):
            self.net_g = self.model_to_device(self.get_bare_model(self.net_g))
            self.trained = self.compiled(self.net_g)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.net_g.parameters() if parameter.requires_grad]

    def setup_optimizers(self) -> None:
        options = dict(self.opt['train'].get('optim_g') or {})
        if 'type' not in options:
            raise ValueError('train.optim_g.type: missing; name an optimizer of torch.optim, for example Adam')
        self.optimizer_g = self.get_optimizer(options.pop('type'), self.trainable_parameters(), **options)
        self.optimizers.append(self.optimizer_g)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `lq`, and `gt` where there is one."""
        self.lq = data['lq'].to(self.device, non_blocking=True, memory_format=self._memory_format)
        self.gt = None
        if 'gt' in data:
            self.gt = data['gt'].to(self.device, non_blocking=True, memory_format=self._memory_format)

    def compiled(self, net: nn.Module) -> nn.Module:
        """`net`, or what torch.compile makes of it where `train.compile` says so."""
        return torch.compile(net) if self.opt['train'].get('compile') else net

    def back_propagate(self, net: nn.Module) -> Tensor:
        """Add the gradients of this iteration's loss to those of `net`; returns the loss.

        The batch is worked off in `train.accumulate` parts, so that the activations of one part alone are alive.
        """
        if self.gt is None:
            raise ValueError('datasets.train: gives no gt, and training needs pairs: type: PairedImageDataset')
        self._buffers += [(buffer, buffer.clone()) for buffer in net.buffers()]
        total = torch.zeros((), device=self.device)
        parts = list(zip(self.lq.chunk(self.accumulate), self.gt.chunk(self.accumulate), strict=True))
        for index, (lq, gt) in enumerate(parts):
            last = index == len(parts) - 1
            # Processes need to exchange their gradients once, after the last part.
            waits = hasattr(net, 'no_sync') and not last
            with net.no_sync() if waits else nullcontext():
                with self.stepper.autocast():
                    self.output = net(lq)
                loss = self.cri_pix(self.output.float(), gt) / len(parts)
                self.stepper.backward(loss)
            total += loss.detach()
        return total

    def take_step(self, losses: dict[str, Tensor]) -> bool:
        """Let the optimizer step and fill `log_dict`; a step that would do harm is not taken, see `Stepper.step`."""
        self.log_dict = self.reduce_loss_dict(losses)
        buffers, self._buffers = self._buffers, []
        taken = False
        try:
            taken = self.stepper.step(self.optimizer_g, self.log_dict)
        finally:
            if not taken:  # batch statistics are as broken as the loss
                for buffer, value in buffers:
                    buffer.copy_(value)
        return taken

    def optimize_parameters(self, current_iter: int) -> None:
        self._choose_trained(current_iter)
        self.optimizer_g.zero_grad()
        if not self.take_step({'l_pix': self.back_propagate(self.trained)}):
            return
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)
        if self.average is not None:
            self.average.update(list(self.get_bare_model(self.net_g).parameters()))

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Move `net_g_ema` towards the network: decay * average + (1 - decay) * weights."""
        averages, weights = list(self.net_g_ema.parameters()), list(self.get_bare_model(self.net_g).parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.net_g_ema.buffers(), self.get_bare_model(self.net_g).buffers(), strict=True):
            average.copy_(buffer)

    @contextmanager
    def network_to_test(self) -> Iterator[nn.Module]:
        """Lend the network that is tested and published, in evaluation mode; while it is lent, the same again."""
        if self._lent is not None:
            yield self._lent
            return
        with self._published_network() as self._lent:
            try:
                yield self._lent
            finally:
                self._lent = None

    @contextmanager
    def _published_network(self) -> Iterator[nn.Module]:
        """Make what `network_to_test` lends: an average where there is one. All processes must ask for it."""
        net = self.get_bare_model(self.net_g)
        weights = self.average and self.average.weights(list(net.parameters()))
        if hasattr(self, 'net_g_ema'):
            yield self.net_g_ema
        elif weights is None:
            with self.trained_network():
                yield net
        else:
            average = with_weights(net, weights).eval()
            self.batch_statistics.put_into(average, self.train_loader, self.average.version)
            yield average

    @contextmanager
    def trained_network(self) -> Iterator[nn.Module]:
        """Lend the network as it is trained, in evaluation mode."""
        net = self.get_bare_model(self.net_g)
        with modes_and_buffers_restored(net):
            yield net.eval()

    def infer(self, net: nn.Module, lq: Tensor) -> Tensor:
        """What `net` makes of `lq`: whole pictures, or a tile of them."""
        return net(lq)

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """As every model's; what is tested is made once, in all processes, not for each picture."""
        with self.network_to_test():
            super().validation(dataloader, current_iter, tb_logger, save_img)

    @torch.no_grad()
    def test(self) -> None:
        """Fill `output` from `lq`."""
        with self.network_to_test() as net:
            self.output = self._restored_by(net)

    def _restored_by(self, net: nn.Module) -> Tensor:
        infer = partial(self.tiling.run, partial(self.infer, net), scale=self.opt.get('scale', 1))
        ensemble = (self.opt.get('val') or {}).get('selfensemble_testing')
        return self_ensemble(infer, self.lq) if ensemble else infer(self.lq)

    @torch.no_grad()
    def _note_error(self, dataset_name: str) -> None:
        """Keep the trained network's loss on the picture in hand, where the average goes by it."""
        if self.average is None or not self.average.needs_error:
            return
        if self.gt is None:
            raise ValueError(f'{self.average.option}: goes by the loss in validation, and {dataset_name} gives no gt')
        output, net = self.output, self.get_bare_model(self.net_g)
        if self.average.weights(list(net.parameters())) is not None:
            with self.trained_network():
                output = self._restored_by(net)
        self._errors.append(self.cri_pix(output.float(), self.gt).item())

    def after_validation(self, current_iter: int) -> None:
        if self.average is not None:
            errors, self._errors = [error for share in all_gather(self._errors) for error in share], []
            self.average.after_validation(current_iter, sum(errors) / len(errors) if errors else math.nan)

    def save_weights(self, current_iter: int | str) -> None:
        """Write the network that was validated to `models/net_g_<current_iter>.pth`; -1 is `latest`."""
        if hasattr(self, 'net_g_ema'):
            self.save_network([self.net_g, self.net_g_ema], 'net_g', current_iter, param_key=['params', 'params_ema'])
        else:
            with self.network_to_test() as net:
                self.save_network(net, 'net_g', current_iter)

    def save(self, epoch: int, current_iter: int | str) -> None:
        self.save_weights(current_iter)
        self.save_training_state(epoch, current_iter)

    def training_state(self) -> dict[str, Any]:
        state = {**super().training_state(), 'stepper': self.stepper.state_dict()}
        state['networks'] = {name: self.get_bare_model(net).state_dict() for name, net in self._networks()}
        if self.average is not None:
            state['average'] = {'option': self.average.option, 'average': self.average.state_dict()}
        return state

    def _networks(self) -> list[tuple[str, nn.Module]]:
        """The networks whose weights are part of the training state."""
        return [(name, getattr(self, name)) for name in ('net_g', 'net_g_ema') if hasattr(self, name)]

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        if 'ldt' in resume_state and not hasattr(self, 'net'):
            raise ValueError('the training state is that of an LDTModel: it holds two branches')
        self._resume_networks(resume_state)
        resume_average(self.average, resume_state.get('average'), self.device)
        if 'stepper' in resume_state:
            self.stepper.load_state_dict(resume_state['stepper'])
        super().resume_training(resume_state)

    def _resume_networks(self, resume_state: dict[str, Any]) -> None:
        """Load the networks of the training state, or those saved beside one that holds none, as BasicSR's."""
        left = {*resume_state.get('networks', ())} - {name for name, _ in self._networks()}
        if left:
            raise ValueError(f'the training state holds {", ".join(left)}, which the options do not have (ema_decay)')
        for name, net in self._networks():
            if 'networks' in resume_state:
                if name not in resume_state['networks']:
                    raise ValueError(f'the training state holds no {name}: it was saved with other options (ema_decay)')
                load_weights(self.get_bare_model(net), resume_state['networks'][name], 'the training state')
            else:
                key = 'params_ema' if name == 'net_g_ema' else 'params'
                self.load_network(net, self.opt['path']['resume_network'], True, key)
