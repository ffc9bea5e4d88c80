"""What is tested, selected and saved in place of the network that is trained: functions of its weights.

`SRModel` holds at most one. A moving average, `train.ema_decay`, is none of them: it is a network of its own, saved
beside the trained one as in BasicSR.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from basicsr.utils.logger import get_root_logger


def with_weights(net: nn.Module, weights: Iterable[Tensor]) -> nn.Module:
    """A network like `net`, with buffers of its own, whose parameters are `weights`, in the order of `net`'s."""
    pairs = zip(net.parameters(), weights, strict=True)
    return copy.deepcopy(net, {id(own): nn.Parameter(value, requires_grad=False) for own, value in pairs})


class Average(ABC):
    """What is published, as a function of the weights that are trained, as they were from step to step.

    Attributes:
        version: Changes whenever the published weights may have.
        needs_error: Whether `after_validation` wants to know how far off the trained network is.
    """

    option: ClassVar[str]
    """The option that asks for it."""

    def __init__(self) -> None:
        self.version = 0
        self.needs_error = False

    def update(self, trained: list[Tensor]) -> None:
        """Called after each step that was taken, with the network's weights."""
        self.version += 1

    def after_validation(self, current_iter: int, error: float) -> None:  # noqa: B027  nothing, where nothing is said
        """Called after each validation; `error` is the trained network's loss, NaN where it was not asked for."""

    @abstractmethod
    def weights(self, trained: list[Tensor]) -> list[Tensor] | None:
        """The weights to publish, on the device of `trained`; None where these are the trained ones."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Put back what `state_dict` returned."""


class WiseFT(Average):
    """Interpolation between the pre-trained and the fine-tuned weights (Wortsman et al., CVPR 2022, eq. 1).

    Args:
        alpha: Share of the fine-tuned weights, from 0 to 1.
        pretrained: The weights that the training starts from; they are copied.
    """

    option = 'train.wise_ft'

    def __init__(self, alpha: float, pretrained: list[Tensor]) -> None:
        super().__init__()
        self.alpha, self._pretrained = alpha, [weight.detach().clone() for weight in pretrained]

    @torch.no_grad()
    def weights(self, trained: list[Tensor]) -> list[Tensor]:
        """(1 - alpha) * pretrained + alpha * trained."""
        return list(torch._foreach_lerp(self._pretrained, trained, self.alpha))

    def state_dict(self) -> dict[str, Any]:
        return {'pretrained': self._pretrained}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._pretrained = [weight.to(device) for weight in state['pretrained']]


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


class SWAD(Average):
    """Stochastic weight averaging, densely (Cha et al., NeurIPS 2021, algorithm 1).

    The weights after every step are averaged from one validation to the next. The span begins with the validation that
    none of the `converged` - 1 after it improves on. It ends before the first of `patience` validations in a row whose
    losses are all above `tolerance` * the mean loss of the first `converged`, or else with the run. The loss is that of
    the trained network, not of the average. Until the span is found the trained network is published; then the average
    as it would be if the run ended now. Steps that lead to the first validation of the span count as part of it.

    The means of up to max(converged, patience) pieces wait in CPU memory.

    Args:
        converged: N_s of the paper.
        patience: N_e of the paper.
        tolerance: r of the paper, at least 1.
    """

    option = 'train.swad'

    def __init__(self, converged: int = 3, patience: int = 6, tolerance: float = 1.3) -> None:
        super().__init__()
        self.converged, self.patience, self.tolerance = converged, patience, tolerance
        self.needs_error = True
        self.limit: float | None = None
        self._seen: list[tuple[int, float]] = []
        self._before, self._pieces, self._piece = _Mean(), [], _Mean()
        self._published: list[Tensor] | None = None

    @property
    def begun(self) -> bool:
        """Whether the first validation of the span is known."""
        return self.limit is not None

    def update(self, trained: list[Tensor]) -> None:
        if self.needs_error:
            super().update(trained)
            self._published = None
            self._piece.add(trained)

    def after_validation(self, current_iter: int, error: float) -> None:
        if not self.needs_error:
            return
        self.version += 1
        self._published = None
        self._pieces.append(self._piece.on(torch.device('cpu')))
        self._piece = _Mean()
        self._seen.append((current_iter, error))
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
            self.needs_error = False
        self._forget()

    def _forget(self) -> None:
        """Merge the pieces that the span will not lose any more."""
        del self._seen[: -self.patience - 1]
        keep = self.patience if self.needs_error else 0
        while len(self._pieces) > keep:
            piece = self._pieces.pop(0)
            self._before.add(piece.weights, piece.steps)

    def weights(self, trained: list[Tensor]) -> list[Tensor] | None:
        if not self.begun:
            return None
        if self._published is None:
            mean = _Mean()
            for part in (self._before, *self._pieces, self._piece):
                mean.add(part.on(trained[0].device).weights, part.steps)
            self._published = mean.weights
        return self._published or None

    def state_dict(self) -> dict[str, Any]:
        parts = {'before': self._before.state_dict(), 'piece': self._piece.state_dict()}
        parts['pieces'] = [piece.state_dict() for piece in self._pieces]
        return {**parts, 'seen': self._seen, 'limit': self.limit, 'ended': not self.needs_error}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._before, self._piece = _Mean(**state['before']), _Mean(**state['piece']).on(device)
        self._pieces = [_Mean(**piece) for piece in state['pieces']]
        self._seen, self.limit = list(state['seen']), state['limit']
        self.needs_error = not state['ended']
        self._published = None


def build_average(opt: Mapping[str, Any], net: nn.Module) -> Average | None:
    """What `train.swad` or `train.wise_ft` asks for, or None.

    Args:
        opt: The resolved options.
        net: The network as the training begins, with its pre-trained weights.

    Raises:
        ValueError: `train.wise_ft` without pre-trained weights.
    """
    train = opt['train']
    if train.get('swad') is not None:
        return SWAD(**train['swad'])
    if train.get('wise_ft') is None:
        return None
    if not opt['path'].get('pretrain_network_g'):
        raise ValueError('path.pretrain_network_g: missing; train.wise_ft interpolates between these weights and the '
                         'fine-tuned ones')  # fmt: skip
    return WiseFT(train['wise_ft'], list(net.parameters()))


def resume_average(average: Average | None, state: Mapping[str, Any] | None, device: torch.device) -> None:
    """Put back what a training state holds of an average.

    Raises:
        ValueError: It was saved with another one, or with none.
    """
    saved, asked = state and state['option'], average and average.option
    if saved != asked:
        raise ValueError(f'{asked or saved}: the training state was saved with {saved or "no such option"}, and the '
                         f'options ask for {asked or "none"}; a run goes on with what it began with')  # fmt: skip
    if average is not None:
        average.load_state_dict(state['average'], device)
