"""Layer-Decomposition Training: options, turned into calls of `ldt`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from tqdm import tqdm

import ldt
from basicsr.data.data_sampler import endless
from basicsr.models.mambair_model import MambaIRModel
from basicsr.options.check import check_section
from basicsr.options.schema import NOT_WITH_LDT, LDTSection, is_asked_for
from basicsr.options.types import iterations
from basicsr.results.plots import plot_layer_scores
from basicsr.utils.dist_util import broadcast, master_only
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from ldt.restore import gradients_restored


class LDTOptions(LDTSection):
    """The section `train.ldt`, whose keys and values are in `basicsr.options.schema`."""

    @classmethod
    def from_section(cls, section: dict | None) -> LDTOptions:
        """Read the section of an option file, which may be absent; a ValueError names all mistakes."""
        return check_section(cls, section or {}, 'train.ldt')

    def decay(self, partition: ldt.Partition, total_iter: int) -> dict[str, float]:
        """W of every layer, in a run of `total_iter` iterations."""
        if self.update == 'fixed':
            return ldt.fixed_decay(partition, self._coefficients('fixed', total_iter)[0])
        stable, unstable = (self._coefficients(group, total_iter) for group in ('stable', 'unstable'))
        return ldt.dynamic_decay(partition, stable, unstable)

    def _coefficients(self, group: str, total_iter: int) -> tuple[float, float]:
        """(base, span) as they are written, or of the time constants."""
        decay, times = getattr(self, f'{group}_decay'), getattr(self, f'{group}_time')
        if times is None:
            return (decay, 0.0) if group == 'fixed' else tuple(decay)
        both = [times, times] if group == 'fixed' else times
        fastest, slowest = (iterations(time, total_iter) for time in both)
        try:
            return ldt.decay_of(fastest, slowest, self.exchange_interval(vars(self)))
        except ValueError as error:
            raise ValueError(f'train.ldt.{group}_time: {error}') from error

    def decomposition(self, net: nn.Module, partition: ldt.Partition, total_iter: int) -> ldt.Decomposition:
        """Two branches that start from `net`, or `net` itself as both by turns."""
        decay = self.decay(partition, total_iter)
        if self.strategy == 'alternating':
            return ldt.AlternatingDecomposition(net, partition, decay, self.alternate_every)
        return ldt.LayerDecomposition(net, partition, decay, self.exchange_every)


@MODEL_REGISTRY.register()
class LDTModel(MambaIRModel):
    """`MambaIRModel` trained by layer decomposition, in two branches or in one network that alternates.

    What is validated, selected and saved is the composite network.

    Beside the checkpoints a run leaves `partition.json` and `layer_scores.png`.
    """

    net: ldt.Decomposition | None = None

    @property
    def only_pixel_loss(self) -> bool:
        return True

    def init_training_settings(self) -> None:
        self.options = LDTOptions.from_section(self.opt['train'].get('ldt'))
        for key, reason in NOT_WITH_LDT.items():
            if is_asked_for(self.opt['train'], key):
                raise ValueError(f'train.{key}: {reason}; leave it out')
        super().init_training_settings()

    def trainable_parameters(self) -> list[nn.Parameter]:
        # Before the layers are split, an optimizer of all of them shows mistakes in its options.
        return super().trainable_parameters() if self.net is None else self.net.trainable_parameters()

    def before_training(self, train_loader: Any) -> None:
        """Score the layers on training batches, split them, and make the branches."""
        self._decompose(broadcast(self._partition(self.get_bare_model(self.net_g), train_loader)))
        self._report_partition(0)

    def _partition(self, net: nn.Module, train_loader: Any, current_iter: int = 0) -> ldt.Partition:
        options = self.options
        layers = ldt.layers_of(net, 'module') if options.granularity == 'module' else {}
        if options.criterion == 'prefix':
            return replace(ldt.Partition.from_prefixes(net, options.unstable_prefixes), layers=layers)
        count = -(-options.scoring_batches // self.opt['world_size'])
        with tqdm(total=count, desc='Score layers', unit='batch', leave=False, disable=None) as progress:
            scores = ldt.score_layers(
                net,
                endless(train_loader, current_iter),
                self._loss,
                count,
                options.criterion,
                granularity=options.granularity,
                seed=self.opt['manual_seed'] + current_iter,
                on_batch=lambda done: progress.update(),
            )
        return ldt.Partition.from_scores(scores, options.unstable_ratio, options.criterion, layers)

    def _loss(self, net: nn.Module, batch: dict[str, Any]) -> Tensor:
        self.feed_data(batch)
        return self.cri_pix(net(self.lq), self.gt)

    def _decompose(self, partition: ldt.Partition) -> None:
        net, total_iter = self.get_bare_model(self.net_g), self.opt['train']['total_iter']
        self.net = self.options.decomposition(net, partition, total_iter)
        self.net.wrap(self._wrapped)
        self.net_g = self.trained = self.net.network  # frees the third copy, where there are two branches
        self.optimizers, self.schedulers = [], []
        self.setup_optimizers()
        self.setup_schedulers()
        self._losses: dict[str, float] = {}  # of each branch, the last

    def _wrapped(self, branch: nn.Module) -> nn.Module:
        return self.compiled(self.model_to_device(branch))

    def _repartition(self, current_iter: int) -> None:
        """Score the composite and split the layers anew; weights, averages and moments go on as they were."""
        with self.net.composite() as net, gradients_restored(net):
            parameters = dict(net.named_parameters())
            for name in (*self.net.partition.stable, *self.net.partition.unstable):
                parameters[name].requires_grad_(True)
            partition = broadcast(self._partition(net, self.train_loader, current_iter))
        moved = {*self.net.partition.stable_layers} ^ {*partition.stable_layers}
        self.net.repartition(partition, self.options.decay(partition, self.opt['train']['total_iter']))
        self.net.wrap(self._wrapped)
        self.optimizer_g.param_groups[0]['params'] = self.trainable_parameters()
        get_root_logger().info('LDT: split anew at iteration %d; %d layers changed sides', current_iter, len(moved))
        self._report_partition(current_iter)

    def artifacts(self) -> dict[str, str]:
        folder = self.opt['path']['experiments_root']
        files = {'partition': os.path.join(folder, 'partition.json')}
        if self.net.partition.scores:
            files['layer scores'] = os.path.join(folder, 'layer_scores.png')
        return files

    @master_only
    def _report_partition(self, current_iter: int) -> None:
        partition, files = self.net.partition, self.artifacts()
        logger, total_iter = get_root_logger(), self.opt['train']['total_iter']
        partition.save(files['partition'])
        if 'layer scores' in files:
            title = f'{self.opt["name"]}: gradient {partition.criterion.replace("_", " ")} of every layer'
            plot_layer_scores(partition.scores, partition.unstable_layers, files['layer scores'], title)
        chosen = self.options.unstable_ratio == 'auto' and partition.unstable_ratio is not None
        logger.info(
            'LDT: %d stable and %d unstable layers by %s%s; exchange every %d of %d iterations',
            len(partition.stable_layers),
            len(partition.unstable_layers),
            partition.criterion,
            f" (auto: Otsu's threshold makes {partition.unstable_ratio:.3f} unstable)" if chosen else '',
            self.net.exchange_every,
            total_iter,
        )
        self._show_partition(current_iter)
        for pace in ldt.paces(partition, self.net.decay, self.net.exchange_every, total_iter):
            logger.info(
                'Time constants of the %s layers: %.0f to %.0f iterations, median %.0f; the run has %d',
                pace.group,
                pace.fastest,
                pace.slowest,
                pace.median,
                total_iter,
            )
            if pace.mostly_slow:
                logger.warning(
                    '%d of %d %s layers have a time constant longer than the run and will hardly leave their initial '
                    'values: lower train.ldt.%s or train.ldt.%s, or train longer',
                    pace.slow,
                    pace.layers,
                    pace.group,
                    self._pace_option(pace.group),
                    'alternate_every' if self.options.strategy == 'alternating' else 'exchange_every',
                )

    def _pace_option(self, group: str) -> str:
        """The option that sets the decays of a group."""
        group = 'fixed' if self.options.update == 'fixed' else group
        return f'{group}_decay' if getattr(self.options, f'{group}_time') is None else f'{group}_time'

    def _show_partition(self, current_iter: int) -> None:
        """The plot of the scores, and the decays of either group as a histogram, in TensorBoard."""
        if self.tb_logger is None:
            return
        partition, files = self.net.partition, self.artifacts()
        if 'layer scores' in files:
            plot = cv2.imread(files['layer scores'])[..., ::-1].copy()
            self.tb_logger.add_image('ldt/layer_scores', plot, current_iter, dataformats='HWC')
        for group, layers in (('stable', partition.stable_layers), ('unstable', partition.unstable_layers)):
            decays = torch.tensor([self.net.decay[names[0]] for names in layers.values()])
            self.tb_logger.add_histogram(f'ldt/decay_{group}', decays, current_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        losses = {
            f'l_pix_{name}': self.back_propagate(branch)
            for name, branch in zip(self.net.branch_names, self.net.branches(), strict=True)
        }
        if self.take_step(losses):
            self._losses = self.log_dict = {**self._losses, **self.log_dict}
            self.net.step()
        every = self.options.repartition_every
        if every and current_iter % every == 0 and current_iter < self.opt['train']['total_iter']:
            self._repartition(current_iter)

    @contextmanager
    def _published_network(self) -> Iterator[nn.Module]:
        if self.net is None:
            with super()._published_network() as net:
                yield net
            return
        with self.net.composite() as net:
            self.batch_statistics.put_into(net, self.train_loader, self.net.steps)
            yield net

    def save_weights(self, current_iter: int | str) -> None:
        with self.network_to_test():
            self._save_weights({'params': self.net.composite_state_dict()}, 'net_g', current_iter)

    def training_state(self) -> dict[str, Any]:
        return {**super().training_state(), 'ldt': self.net.state_dict()}

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        if 'ldt' not in resume_state:
            raise ValueError('the training state holds no LDT branches: it was saved by another model_type')
        saved = 'dual' if 'auxiliary' in resume_state['ldt'] else 'alternating'
        if saved != self.options.strategy:
            raise ValueError(
                f'train.ldt.strategy: the training state was saved with {saved}, and the options ask for '
                f'{self.options.strategy}; a run goes on with what it began with'
            )
        self._decompose(ldt.Partition.from_dict(resume_state['ldt']['partition']))
        asked = (self.net.decay, self.net.exchange_every)
        self.net.load_state_dict(resume_state['ldt'])
        if asked != (self.net.decay, self.net.exchange_every):
            get_root_logger().warning(
                'The options changed decays or the interval of exchanges; the run goes on with those it began with'
            )
        self._report_partition(resume_state['iter'])
        super().resume_training(resume_state)

    def _networks(self) -> list[tuple[str, nn.Module]]:
        """None: `ldt` in the training state holds them."""
        return []
