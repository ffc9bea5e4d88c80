"""Stage 2: two cross-frozen branches, and the one network they form."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from .base import Decomposition, train_only, whole_number
from .exchange import MovingAverage
from .networks import unwrapped
from .partition import Partition
from .watch import GradientWatch


class LayerDecomposition(Decomposition):
    """The primary branch trains the stable layers, the auxiliary the unstable ones; frozen layers follow as averages.

        optimizer = torch.optim.Adam(net.trainable_parameters())
        for batch in loader:
            optimizer.zero_grad()
            for branch in net.branches():
                loss_fn(branch, batch).backward()
            optimizer.step()
            net.step()
        with net.composite() as model:
            evaluate(model)

    Each parameter tensor is trained in one branch, so an optimizer over `trainable_parameters()` holds one set of
    moments, not two. Do not call `step()` after a skipped optimizer step (because of a non-finite gradient, say).
    The composite is the primary with the stable tensors of the auxiliary, which it borrows: no weight is copied.

    Args:
        model: The network; it is copied twice and not changed. Parameters with `requires_grad=False` stay frozen.
        partition: The groups; must name exactly the trainable parameters.
        decay: W by name, each in [0, 1).
        exchange_every: Iterations between two exchanges.

    Raises:
        ValueError: The partition or the decay does not fit the network; the message names the layers.
    """

    branch_names = ('primary', 'auxiliary')

    def __init__(
        self, model: nn.Module, partition: Partition, decay: Mapping[str, float], exchange_every: int = 10
    ) -> None:
        super().__init__(model, partition, decay)
        self.exchange_every = whole_number('exchange_every', exchange_every)
        copies = _copied(model), _copied(model)
        self.primary, self.auxiliary = map(unwrapped, copies)
        train_only(self.primary, partition.stable, partition.unstable)
        train_only(self.auxiliary, partition.unstable, partition.stable)
        self._callables: list[Callable] = list(copies)
        self._make_averages()
        self._watch = GradientWatch(partition, unwrapped(model), self.primary)
        self._watch_outputs(self._callables)

    @property
    def network(self) -> nn.Module:
        return self.primary

    @property
    def interval(self) -> int:
        return self.exchange_every

    def _make_averages(self) -> None:
        primary, auxiliary = dict(self.primary.named_parameters()), dict(self.auxiliary.named_parameters())
        stable, unstable = self.partition.stable, self.partition.unstable
        self._averages = [
            MovingAverage([frozen[n] for n in names], [trained[n] for n in names], [self.decay[n] for n in names])
            for names, frozen, trained in ((unstable, primary, auxiliary), (stable, auxiliary, primary))
        ]

    def wrap(self, wrapper: Callable[[nn.Module], Callable]) -> None:
        """Let `branches()` yield `wrapper(branch)`; the wrapper may be DistributedDataParallel or torch.compile.

        The branches are frozen by now, so DistributedDataParallel expects gradients of the trained half alone.
        """
        self._callables = [wrapper(self.primary), wrapper(self.auxiliary)]
        self._watch_outputs(self._callables)

    def branches(self) -> Iterator[Callable]:
        """Yield the primary, then the auxiliary. To save memory, back-propagate through one before the other runs."""
        for branch in self._callables:
            yield branch
            self._note_gradients()

    def _trained_now(self) -> dict[str, nn.Parameter]:
        return dict(self.named_trainable_parameters())

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The stable parameters of the primary, then the unstable ones of the auxiliary, in the partition's order."""
        primary, auxiliary = dict(self.primary.named_parameters()), dict(self.auxiliary.named_parameters())
        return [primary[name] for name in self.partition.stable] + [auxiliary[name] for name in self.partition.unstable]

    def _change_sides(self, moved: list[str], partition: Partition, decay: dict[str, float]) -> None:
        """Layers that change groups change branches, as `nn.Parameter` objects."""
        precise = self._precise_by_name()
        _swap_parameters(self.primary, self.auxiliary, moved)
        self.partition, self.decay = partition, decay
        self._make_averages()
        for name, own in self._precise_by_name().items():
            own.copy_(precise[name])

    def _precise_by_name(self) -> dict[str, Tensor]:
        """The float32 averages of the low-precision layers."""
        names = self.partition.unstable, self.partition.stable
        return {
            group[index]: tensor
            for group, average in zip(names, self._averages, strict=True)
            for index, tensor in zip(average.low, average.precise, strict=True)
        }

    def train(self, mode: bool = True) -> LayerDecomposition:
        self.primary.train(mode)
        self.auxiliary.train(mode)
        return self

    def exchange(self) -> None:
        """Move the frozen layers of both branches towards their trained twins:
        P_U <- W P_U + (1 - W) A_U and A_S <- W A_S + (1 - W) P_S."""
        self._refuse_inside_composite('exchange')
        for average in self._averages:
            average.step()

    def _toggle_composite(self) -> None:
        primary, auxiliary = dict(self.primary.named_parameters()), dict(self.auxiliary.named_parameters())
        for name in self.partition.stable:
            primary[name].data, auxiliary[name].data = auxiliary[name].data, primary[name].data

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to continue: both branches, the partition, the decays, the step. Copies no tensor."""
        self._refuse_inside_composite('state_dict')
        return {
            'primary': self.primary.state_dict(),
            'auxiliary': self.auxiliary.state_dict(),
            **self._common_state(),
            'exchange_every': self.exchange_every,
            'precise_averages': [average.precise for average in self._averages],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict()` returned, with its decays and its exchange interval.

        Raises:
            ValueError: The state has another partition, so that an optimizer made for this one would not fit, or
                another class saved it.
        """
        self._refuse_inside_composite('load_state_dict')
        self._load_common_state(state, needed='primary')
        self.primary.load_state_dict(state['primary'])
        self.auxiliary.load_state_dict(state['auxiliary'])
        self._statistics.load(self.primary, state.get('first_statistics'))
        self.exchange_every = int(state['exchange_every'])
        self._make_averages()
        for average, precise in zip(self._averages, state['precise_averages'], strict=True):
            for own, saved in zip(average.precise, precise, strict=True):
                own.copy_(saved)


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy; a ValueError where there can be none."""
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'the network cannot be copied for the two branches: {error} (copy.deepcopy). Tensors that were computed, '
            'such as those of torch.nn.utils.weight_norm (parametrizations.weight_norm has none), and locks or files '
            'must not be kept in it; or use AlternatingDecomposition, which copies nothing'
        ) from error


def _swap_parameters(one: nn.Module, other: nn.Module, names: list[str]) -> None:
    """Swap these parameters, the objects themselves, between two networks, wherever tied weights use them."""
    ones, others = dict(one.named_parameters()), dict(other.named_parameters())
    partner = {ones[name]: others[name] for name in names} | {others[name]: ones[name] for name in names}
    for module in (*one.modules(), *other.modules()):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = partner.get(parameter, parameter)
