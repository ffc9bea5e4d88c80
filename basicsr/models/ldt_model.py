"""Layer-Decomposition Training: the one place that turns options into calls of `ldt`."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from tqdm import tqdm

import ldt
from basicsr.data.data_sampler import endless
from basicsr.models.mambair_model import MambaIRModel
from basicsr.utils.dist_util import broadcast, master_only
from basicsr.utils.logger import get_root_logger
from basicsr.utils.option_check import check_section
from basicsr.utils.option_schema import NOT_WITH_LDT, LDTSection, is_asked_for
from basicsr.utils.plots import plot_layer_scores
from basicsr.utils.registry import MODEL_REGISTRY


class LDTOptions(LDTSection):
    """The section `train.ldt`, whose keys and values are in `basicsr.utils.option_schema`."""

    @classmethod
    def from_section(cls, section: dict | None) -> LDTOptions:
        """Read the section of an option file, which may be absent; a ValueError names all mistakes."""
        return check_section(cls, section or {}, 'train.ldt')

    def decay(self, partition: ldt.Partition) -> dict[str, float]:
        if self.update == 'fixed':
            return ldt.fixed_decay(partition, self.fixed_decay)
        return ldt.dynamic_decay(partition, tuple(self.stable_decay), tuple(self.unstable_decay))


@MODEL_REGISTRY.register()
class LDTModel(MambaIRModel):
    """`MambaIRModel` trained by layer decomposition. What is validated, selected and saved is the composite network.

    Beside the checkpoints a run leaves `partition.json` and `layer_scores.png`.
    """

    net: ldt.LayerDecomposition | None = None

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
        """Score the layers on training batches, split them, and make the two branches."""
        self._decompose(broadcast(self._partition(self.get_bare_model(self.net_g), train_loader)))
        self._report_partition(0)

    def _partition(self, net: nn.Module, train_loader: Any, current_iter: int = 0) -> ldt.Partition:
        options = self.options
        if options.criterion == 'prefix':
            return ldt.Partition.from_prefixes(net, options.unstable_prefixes)
        count = -(-options.scoring_batches // self.opt['world_size'])
        with tqdm(total=count, desc='Score layers', unit='batch', leave=False, disable=None) as progress:
            scores = ldt.score_layers(
                net,
                endless(train_loader, current_iter),
                self._loss,
                count,
                options.criterion,
                seed=self.opt['manual_seed'] + current_iter,
                on_batch=lambda done: progress.update(),
            )
        return ldt.Partition.from_scores(scores, options.unstable_ratio, options.criterion)

    def _loss(self, net: nn.Module, batch: dict[str, Any]) -> Tensor:
        self.feed_data(batch)
        return self.cri_pix(net(self.lq), self.gt)

    def _decompose(self, partition: ldt.Partition) -> None:
        options, net = self.options, self.get_bare_model(self.net_g)
        self.net = ldt.LayerDecomposition(net, partition, options.decay(partition), options.exchange_every)
        self.net.wrap(self._wrapped)
        self.net_g = self.net.primary  # frees the third copy
        self.optimizers, self.schedulers = [], []
        self.setup_optimizers()
        self.setup_schedulers()

    def _wrapped(self, branch: nn.Module) -> nn.Module:
        return self.compiled(self.model_to_device(branch))

    def _repartition(self, current_iter: int) -> None:
        """Score the composite and split the layers anew; weights, averages and moments go on as they were."""
        with self.net.composite() as net:
            composite = copy.deepcopy(net).requires_grad_(False)
        parameters = dict(composite.named_parameters())
        for name in (*self.net.partition.stable, *self.net.partition.unstable):
            parameters[name].requires_grad_(True)
        partition = broadcast(self._partition(composite, self.train_loader, current_iter))
        moved = self.net.repartition(partition, self.options.decay(partition))
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
            plot_layer_scores(partition.scores, partition.unstable, files['layer scores'], title)
        logger.info(
            'LDT: %d stable and %d unstable layers by %s; exchange every %d of %d iterations',
            len(partition.stable),
            len(partition.unstable),
            partition.criterion,
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
                    'values: lower train.ldt.%s or exchange_every, or train longer',
                    pace.slow,
                    pace.layers,
                    pace.group,
                    'fixed_decay' if self.options.update == 'fixed' else f'{pace.group}_decay',
                )

    def _show_partition(self, current_iter: int) -> None:
        """The plot of the scores, and the decays of either group as a histogram, in TensorBoard."""
        if self.tb_logger is None:
            return
        partition, files = self.net.partition, self.artifacts()
        if 'layer scores' in files:
            plot = cv2.imread(files['layer scores'])[..., ::-1].copy()
            self.tb_logger.add_image('ldt/layer_scores', plot, current_iter, dataformats='HWC')
        for group in ('stable', 'unstable'):
            decays = torch.tensor([self.net.decay[name] for name in getattr(partition, group)])
            self.tb_logger.add_histogram(f'ldt/decay_{group}', decays, current_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        losses = {
            f'l_pix_{name}': self.back_propagate(branch)
            for name, branch in zip(('primary', 'auxiliary'), self.net.branches(), strict=True)
        }
        if self.take_step(losses):
            self.net.step()
        every = self.options.repartition_every
        if every and current_iter % every == 0 and current_iter < self.opt['train']['total_iter']:
            self._repartition(current_iter)

    @contextmanager
    def network_to_test(self) -> Iterator[nn.Module]:
        if self.net is None:
            with super().network_to_test() as net:
                yield net
        else:
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
        self._decompose(ldt.Partition.from_dict(resume_state['ldt']['partition']))
        asked = (self.net.decay, self.net.exchange_every)
        self.net.load_state_dict(resume_state['ldt'])
        if asked != (self.net.decay, self.net.exchange_every):
            get_root_logger().warning(
                'The options changed decay or exchange_every; the run goes on with those it began with'
            )
        self._report_partition(resume_state['iter'])
        super().resume_training(resume_state)

    def _networks(self) -> list[tuple[str, nn.Module]]:
        """None: `ldt` in the training state holds both branches."""
        return []
