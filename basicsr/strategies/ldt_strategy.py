"""Layer-Decomposition Training: options, turned into calls of `ldt`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

import ldt
from basicsr.data.data_sampler import endless
from basicsr.options.check import check_section
from basicsr.options.types import option
from basicsr.strategies.batch_statistics import BatchStatistics
from basicsr.strategies.heads import head_prefixes
from basicsr.strategies.ldt_options import LDTSection, time_mistakes
from basicsr.strategies.ldt_report import partition_files, report_partition
from basicsr.strategies.strategy import Setting, Strategy
from basicsr.strategies.warm_up import WarmUp
from basicsr.utils.dist_util import broadcast
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import STRATEGY_REGISTRY
from ldt.restore import preserve_gradients


@STRATEGY_REGISTRY.register()
class LDT(Strategy):
    """Trains in two branches, or in one network that alternates (LDT-S), and publishes the composite.

    Before `prepare`, which scores and splits the layers, the network is that of plain training. With `warmup_iter`, the
    head trains alone before, see `WarmUp`. A run leaves `partition.json` and `layer_scores.png`.

    Args:
        net: The network. In two branches it is copied; LDT-S trains it itself.
        setting: See `Setting`; reads `train.ldt`.

    Attributes:
        decomposition: The branches; None until the layers are split.
        warm_up: What the run began with, or None.

    Raises:
        ValueError: Mistakes in the section, all of which are named; or a head that the network does not have.
    """

    name = 'ldt'
    has_own_parameters = True
    keys = {'ldt': (LDTSection, option(None, 'Layer-Decomposition Training, for any network and task.'))}

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        self.network, self.setting = net, setting
        self.options: LDTSection = check_section(LDTSection, setting.options['ldt'], 'train.ldt')
        self.decomposition: ldt.Decomposition | None = None
        self.warm_up: WarmUp | None = None
        if self.options.criterion == 'prefix':
            self._unstable = head_prefixes(net, self.options.unstable_prefixes, 'train.ldt.unstable_prefixes')
        if self.options.warmup_iter:
            self._warm_up_for(self.options.warm_up_iterations(setting.total_iter))
        self.statistics = BatchStatistics.of(setting)

    @classmethod
    def check_train(cls, train: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if train.get('total_iter'):
            yield from time_mistakes(train.get('ldt') or {}, train['total_iter'])

    @classmethod
    def without_effect(cls, opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        section = opt['train']['ldt']
        interval = 'exchange_every' if section.get('strategy') == 'alternating' else 'alternate_every'
        if section.get(interval):
            other = {'exchange_every': 'dual', 'alternate_every': 'alternating'}[interval]
            yield f'train.ldt.{interval}', f'without effect: it belongs to strategy {other}'
        if section.get('head_prefixes') and not section.get('warmup_iter'):
            yield 'train.ldt.head_prefixes', 'without effect: it belongs to warmup_iter'

    def _warm_up_for(self, iterations: int) -> None:
        prefixes = head_prefixes(self.network, self.options.head_prefixes, 'train.ldt.head_prefixes')
        self.warm_up = WarmUp(iterations, prefixes, self.setting)

    def parameters(self) -> dict[str, nn.Parameter]:
        if self.decomposition is None:  # an optimizer of all of them shows mistakes in its options
            return {name: value for name, value in self.network.named_parameters() if value.requires_grad}
        return dict(self.decomposition.named_trainable_parameters())

    def rehearse(self) -> None:
        if self.warm_up:
            self.warm_up.check()

    def prepare(self, loss: Callable[[nn.Module, Any], Tensor], batches: Any) -> None:
        """Warm up where that is asked for, score the layers on training batches, split them, and make the branches."""
        if self.warm_up:
            self.warm_up.run(self.network)
            batches = self.warm_up.scoring_batches
        self._decompose(broadcast(self._partition(self.network, loss, batches)))
        self._report(0)

    def resumed(self) -> None:
        self._report(self.decomposition.steps)

    def _partition(
        self, net: nn.Module, loss: Callable[[nn.Module, Any], Tensor], batches: Any, iteration: int = 0
    ) -> ldt.Partition:
        options = self.options
        layers = ldt.layers_of(net, 'module') if options.granularity == 'module' else {}
        if options.criterion == 'prefix':
            return replace(ldt.Partition.from_prefixes(net, self._unstable), layers=layers)
        count = -(-options.batches_to_score(self.setting.total_iter) // self.setting.processes)
        with tqdm(total=count, desc='Score layers', unit='batch', leave=False, disable=None) as progress:
            scores = ldt.score_layers(
                net,
                endless(batches, iteration),
                loss,
                count,
                options.criterion,
                granularity=options.granularity,
                seed=self.setting.seed + iteration,
                on_batch=lambda done: progress.update(),
            )
        return ldt.Partition.from_scores(scores, options.unstable_ratio, options.criterion, layers)

    def _decompose(self, partition: ldt.Partition) -> None:
        self.decomposition = self.options.decomposition(self.network, partition, self.setting.total_iter)
        self.decomposition.wrap(self.setting.wrap)
        self.network = self.decomposition.network  # frees the third copy, where there are two branches

    def _repartition(self, iteration: int) -> None:
        """Score the composite and split the layers anew; weights, averages and moments go on as they were."""
        branches = self.decomposition
        with branches.composite() as net, preserve_gradients(net):
            parameters = dict(net.named_parameters())
            layers = (*branches.partition.stable, *branches.partition.unstable)
            frozen = [name for name in layers if not parameters[name].requires_grad]
            for name in frozen:
                parameters[name].requires_grad_(True)
            batches = self.warm_up.scoring_batches if self.warm_up else self.setting.batches()
            try:
                partition = broadcast(self._partition(net, self.setting.loss, batches, iteration))
            except ValueError as error:  # gradients that are not finite: of these batches, or of weights that exploded
                for name in frozen:
                    parameters[name].requires_grad_(False)
                get_root_logger().warning('LDT: not split anew at iteration %d: %s', iteration, error)
                return
        moved = {*branches.partition.stable_layers} ^ {*partition.stable_layers}
        branches.repartition(partition, self.options.decay(partition, self.setting.total_iter))
        branches.wrap(self.setting.wrap)
        get_root_logger().info('LDT: split anew at iteration %d; %d layers changed sides', iteration, len(moved))
        self._report(iteration)

    def _report(self, iteration: int) -> None:
        report_partition(self.decomposition, self.options, self.setting, iteration, self.warm_up)

    def networks(self) -> Iterator[tuple[str, Callable]]:
        yield from zip(self.decomposition.branch_names, self.decomposition.branches(), strict=True)

    def after_step(self, iteration: int) -> None:
        self.decomposition.step()

    def end_iteration(self, iteration: int) -> bool:
        every = self.options.repartition_every
        due = bool(every) and iteration % every == 0 and iteration < self.setting.total_iter
        if due:
            self._repartition(iteration)
        return due

    @contextmanager
    def published(self) -> Iterator[nn.Module]:
        if self.decomposition is None:
            with self.trained() as net:
                yield net
            return
        with self.decomposition.composite() as net:
            self.statistics.put_into(net, self.decomposition.steps)
            yield net

    def state_dict(self) -> dict[str, Any]:
        state = {'strategy': self.options.strategy, 'decomposition': self.decomposition.state_dict()}
        if self.warm_up:  # a run that goes on scores the samples that it did not warm up on
            state['warmup_iter'] = self.warm_up.iterations
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state['strategy'] != self.options.strategy:
            raise ValueError(
                f'train.ldt.strategy: the training state was saved with {state["strategy"]}, and the options ask for '
                f'{self.options.strategy}; a run goes on with what it began with'
            )
        self.warm_up = None
        if state.get('warmup_iter'):
            self._warm_up_for(state['warmup_iter'])
        saved = state['decomposition']
        self._decompose(ldt.Partition.from_dict(saved['partition']))
        asked = (self.decomposition.decay, self.decomposition.exchange_every)
        self.decomposition.load_state_dict(saved)
        if asked != (self.decomposition.decay, self.decomposition.exchange_every):
            get_root_logger().warning(
                'The options changed decays or the interval of exchanges; the run goes on with those it began with'
            )

    def report(self) -> dict[str, str]:
        return partition_files(self.decomposition.partition, self.setting.folder)
