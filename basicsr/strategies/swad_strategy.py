"""SWAD: the mean of the weights after every step of a span that the loss in validation chooses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from basicsr.options.types import Real, Section, Whole, option
from basicsr.strategies.average import Average
from basicsr.strategies.strategy import Setting, Strategy
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import STRATEGY_REGISTRY


class SWADSection(Section):
    """train.swad"""

    converged: Whole(1) = option(
        3, 'The span begins with a validation on which those after it, so many with itself, do not improve.'
    )
    patience: Whole(1) = option(6, 'The span ends before so many validations in a row whose losses are all too high.')
    tolerance: Real(least=1) = option(
        1.3, "Too high is above this times the mean loss of the span's first validations, as many as converged."
    )


class _Mean:
    """Mean of the weights after `steps` steps."""

    def __init__(self, steps: int = 0, weights: Iterable[Tensor] = ()) -> None:
        self.steps, self.weights = steps, list(weights)

    @torch.no_grad()
    def add(self, weights: list[Tensor], steps: int = 1) -> None:
        """Take in the mean of `steps` more steps."""
        if not self.steps:
            self.weights = [weight.detach().clone() for weight in weights]
        elif steps:
            torch._foreach_lerp_(self.weights, weights, steps / (self.steps + steps))
        self.steps += steps

    def on(self, device: torch.device) -> _Mean:
        return _Mean(self.steps, [weight.to(device) for weight in self.weights])

    def state_dict(self) -> dict[str, Any]:
        return {'steps': self.steps, 'weights': self.weights}


@STRATEGY_REGISTRY.register()
class SWAD(Average):
    """Stochastic weight averaging, densely (Cha et al., NeurIPS 2021, algorithm 1).

    The weights after every step are averaged from one validation to the next. The span begins with the validation that
    none of the `converged` - 1 after it improves on. It ends before the first of `patience` validations in a row whose
    losses are all above `tolerance` * the mean loss of the first `converged`, or else with the run. The loss is that of
    the trained network, not of the average. Until the span is found the trained network is published; then the average
    as it would be if the run ended now. Steps that lead to the first validation of the span count as part of it.

    The means of up to max(converged, patience) pieces wait in CPU memory.

    Args:
        inner: What trains.
        setting: See `Setting`; reads `train.swad`, where `converged` is N_s of the paper, `patience` N_e, and
            `tolerance` r.
    """

    name = 'swad'
    keys = {
        'swad': (
            SWADSection,
            option(None, "SWAD: test the mean of the weights after every step of a span that the validation sets' loss "
                   'chooses.'),
        )
    }  # fmt: skip
    not_with = {
        'ema': 'SWAD and a moving average both average the trained weights: drop one of them',
        'ldt': 'the composite of LDT is an average already; leave it out',
    }

    def __init__(self, inner: Strategy, setting: Setting) -> None:
        super().__init__(inner, setting)
        section = SWADSection.model_validate(setting.options['swad'])
        self.converged, self.patience, self.tolerance = section.converged, section.patience, section.tolerance
        self._open = True
        self.limit: float | None = None
        self._seen: list[tuple[int, float]] = []
        self._before, self._pieces, self._piece = _Mean(), [], _Mean()
        self._published: list[Tensor] | None = None

    @classmethod
    def needs(cls, opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if not (opt.get('val') or {}).get('val_freq'):
            yield 'val.val_freq', 'train.swad goes by the loss in validation'
        if not any(str(name).split('_')[0] == 'val' for name in opt.get('datasets') or {}):
            yield 'datasets.val', 'train.swad goes by the loss on it'

    @classmethod
    def without_effect(cls, opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        train, every = opt['train'], (opt.get('val') or {}).get('val_freq')
        converged = train['swad'].get('converged') or 3
        if every and train.get('total_iter') and (count := -(-train['total_iter'] // every)) < converged:
            message = f'the span takes {converged} validations to begin, and the run has {count}'
            yield 'train.swad', f'without effect: {message}'

    @property
    def needs_loss(self) -> bool:
        """Whether the span has not ended, so that it goes by the next loss."""
        return self._open or super().needs_loss

    @property
    def begun(self) -> bool:
        """Whether the first validation of the span is known."""
        return self.limit is not None

    def update(self, trained: list[Tensor]) -> None:
        if self._open:
            super().update(trained)
            self._published = None
            self._piece.add(trained)

    def after_validation(self, iteration: int, loss: float) -> None:
        super().after_validation(iteration, loss)
        if not self._open:
            return
        self._published = None
        self._pieces.append(self._piece.on(torch.device('cpu')))
        self._piece = _Mean()
        self._seen.append((iteration, loss))
        if self.begun:
            self._look_for_the_end()
        else:
            self._look_for_the_beginning()

    def _look_for_the_beginning(self) -> None:
        del self._seen[: -self.converged], self._pieces[: -self.converged]
        errors = [error for _, error in self._seen]
        if len(errors) == self.converged and all(errors[0] <= error < math.inf for error in errors):
            self.limit = max(self.tolerance * sum(errors) / len(errors), errors[0])  # a mean may be rounded down
            get_root_logger().info(
                'SWAD: the averaged span begins at iteration %d, and ends where the loss stays above %g',
                self._seen[0][0],
                self.limit,
            )
            self._forget()

    def _look_for_the_end(self) -> None:
        last = self._seen[-self.patience :]
        if len(last) == self.patience and all(error > self.limit for _, error in last):
            get_root_logger().info('SWAD: the averaged span ends at iteration %d', self._seen[-self.patience - 1][0])
            del self._pieces[-self.patience :]
            self._open = False
        self._forget()

    def _forget(self) -> None:
        """Merge the pieces that the span will not lose any more."""
        del self._seen[: -self.patience - 1]
        keep = self.patience if self._open else 0
        while len(self._pieces) > keep:
            piece = self._pieces.pop(0)
            self._before.add(piece.weights, piece.steps)

    def weights(self, published: list[Tensor]) -> list[Tensor] | None:
        if not self.begun:
            return None
        if self._published is None:
            mean = _Mean()
            for part in (self._before, *self._pieces, self._piece):
                mean.add(part.on(published[0].device).weights, part.steps)
            self._published = mean.weights
        return self._published or None

    def averages(self) -> dict[str, Any]:
        parts = {'before': self._before.state_dict(), 'piece': self._piece.state_dict()}
        parts['pieces'] = [piece.state_dict() for piece in self._pieces]
        return {**parts, 'seen': self._seen, 'limit': self.limit, 'ended': not self._open}

    def load_averages(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._before, self._piece = _Mean(**state['before']), _Mean(**state['piece']).on(device)
        self._pieces = [_Mean(**piece) for piece in state['pieces']]
        self._seen, self.limit = list(state['seen']), state['limit']
        self._open = not state['ended']
        self._published = None
