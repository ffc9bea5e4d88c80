"""The section `train.ldt`: its keys, and the calls of `ldt` that they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from torch import nn

import ldt
from basicsr.options.choices import NameOf
from basicsr.options.types import List, Real, Section, Share, Time, Whole, iterations, option


def _decay(values: list[float]) -> list[float]:
    base, span = values
    if base >= 1 or base + span > 1 + 1e-12:
        raise ValueError(f'[base, span] needs base < 1 and base + span <= 1, not {values}')
    return values


Decay = Annotated[List(Real(least=0), 2, 2), AfterValidator(_decay)]
Times = List(Time, 2, 2)


class LDTSection(Section):
    """train.ldt"""

    strategy: Literal['dual', 'alternating'] = option(
        'dual', 'dual: two cross-frozen branches; alternating (LDT-S): one network that is either branch by turns.'
    )
    criterion: NameOf('criterion') = option(
        'variance', 'Score of a layer; its highest are the unstable layers. prefix: see unstable_prefixes.'
    )
    unstable_ratio: Literal['auto'] | Real(
        above=0, below=1
    ) = option(0.5, "Share of unstable layers; auto: those above Otsu's threshold of the log-scores.")
    unstable_prefixes: List(str, 1) | str = option(
        None,
        'For criterion prefix: layers whose names begin like this are unstable. Default: the head, where the network '
        'says what that is.',
    )
    granularity: Literal['parameter', 'module'] = option(
        'parameter', "What is one layer: a parameter tensor, or a module's own tensors together."
    )
    scoring_batches: Whole(1, ceiling=10**6) | Share = option(
        300, 'Training batches that are scored, over all processes: a number, or a share of the number of iterations.'
    )
    warmup_iter: Whole(0, ceiling=10**9) | Share = option(
        0, 'Iterations in which the head trains alone, on one half of the samples; the other half is then scored.'
    )
    head_prefixes: List(str, 1) | str = option(
        None,
        'For warmup_iter, the head: layers whose names begin like this. Default: as the network says, where it does.',
    )
    repartition_every: Whole(1) = option(None, 'Iterations after which the layers are scored and split anew.')
    exchange_every: Whole(1) = option(10, 'Strategy dual: iterations from one exchange of the branches to the next.')
    alternate_every: Whole(1) = option(
        10, 'Strategy alternating: iterations of a turn, at whose end the group that was trained is exchanged.'
    )
    update: Literal['dynamic', 'fixed'] = option(
        'dynamic', "dynamic (DPU): a decay that grows with a layer's place in its group; fixed: the same for all."
    )
    stable_decay: Decay = option([0.99, 0.01], 'Base and span of the decays of stable layers, for update dynamic.')
    unstable_decay: Decay = option([0.999, 0.001], 'Base and span of the decays of unstable layers.')
    fixed_decay: Real(least=0, below=1) = option(0.999, 'The decay for update fixed.')
    stable_time: Times = option(
        None, 'In place of stable_decay: time constants, fastest and slowest, in iterations or as 5% of the run.'
    )
    unstable_time: Times = option(None, 'In place of unstable_decay: time constants, fastest and slowest.')
    fixed_time: Time = option(None, 'In place of fixed_decay: the time constant of all layers.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        criterion, prefixes = given.get('criterion', 'variance'), given.get('unstable_prefixes')
        if prefixes and criterion != 'prefix':
            yield 'criterion', f'must be prefix where there are unstable_prefixes, not {criterion!r}'
        for group in ('stable', 'unstable', 'fixed'):
            if f'{group}_time' in given and f'{group}_decay' in given:
                yield f'{group}_time', f'says the same as {group}_decay in another way; drop one of them (~)'

    def batches_to_score(self, total_iter: int) -> int:
        """`scoring_batches` of a run of `total_iter` iterations; a share is two at least, which a variance takes."""
        batches = self.scoring_batches
        return max(2, round(iterations(batches, total_iter))) if isinstance(batches, str) else batches

    def warm_up_iterations(self, total_iter: int) -> int:
        """`warmup_iter` of a run of `total_iter` iterations; a share is one at least."""
        return max(1, round(iterations(self.warmup_iter, total_iter))) if self.warmup_iter else 0

    @property
    def interval(self) -> int:
        """Iterations from one exchange of a layer to the next: with turns, two of them."""
        return 2 * self.alternate_every if self.strategy == 'alternating' else self.exchange_every

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
            return ldt.decay_from_time_constants(fastest, slowest, self.interval)
        except ValueError as error:
            raise ValueError(f'train.ldt.{group}_time: {error}') from error

    def decay_option(self, group: str) -> str:
        """The key that sets the decays of the stable or the unstable group."""
        group = 'fixed' if self.update == 'fixed' else group
        return f'{group}_decay' if getattr(self, f'{group}_time') is None else f'{group}_time'

    def decomposition(self, net: nn.Module, partition: ldt.Partition, total_iter: int) -> ldt.Decomposition:
        """Two branches that start from `net`, or `net` itself as both by turns."""
        decay = self.decay(partition, total_iter)
        if self.strategy == 'alternating':
            return ldt.AlternatingDecomposition(net, partition, decay, self.alternate_every)
        return ldt.LayerDecomposition(net, partition, decay, self.exchange_every)


def time_mistakes(section: Mapping[str, Any], total_iter: int) -> Iterator[tuple[str, str]]:
    """Time constants of a section as it was written that a run of this length cannot have."""
    defaults = {'strategy': 'dual', 'alternate_every': 10, 'exchange_every': 10}
    known = {**defaults, **{key: value for key, value in section.items() if value}}  # {} is left of what is no number
    alternating = known['strategy'] == 'alternating'
    shortest = 2 * known['alternate_every'] if alternating else known['exchange_every']
    for key in ('stable_time', 'unstable_time', 'fixed_time'):
        times = section.get(key)
        if not times:
            continue
        both = times if isinstance(times, list) else [times, times]
        fastest, slowest = (iterations(time, total_iter) for time in both)
        if not shortest <= fastest <= slowest:
            found = f'{fastest:g}' if fastest == slowest else f'{fastest:g} and {slowest:g}'
            needed = f'{shortest} iterations, from one exchange of a layer to the next, and the fastest comes first'
            yield f'ldt.{key}', f'must be at least {needed}; it is {found} iterations'
