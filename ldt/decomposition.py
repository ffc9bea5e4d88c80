"""Stage 2: two cross-frozen branches, and the one network that they make."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .exchange import MovingAverage
from .partition import Partition
from .restore import modes_and_buffers_restored
from .scores import _listing


class LayerDecomposition:
    """The primary branch trains the stable layers, the auxiliary the unstable ones; frozen layers follow by averages.

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
    moments, not two. After an optimizer step that was skipped (a non-finite gradient, say), do not call `step()`.

    Args:
        model: The network; it is copied twice and left as it is. Parameters with `requires_grad=False` stay frozen.
        partition: The groups; must name exactly the trainable parameters.
        decay: W by name, each in [0, 1).
        exchange_every: Iterations from one exchange to the next.

    Raises:
        ValueError: The partition or the decay does not fit the network; the message names the layers.
    """

    def __init__(
        self, model: nn.Module, partition: Partition, decay: Mapping[str, float], exchange_every: int = 10
    ) -> None:
        partition.check(model)
        if exchange_every != int(exchange_every) or exchange_every < 1:
            raise ValueError(f'exchange_every must be a whole number of at least 1, not {exchange_every}')
        self.partition = partition
        self.decay = _checked_decay(decay, partition)
        self.exchange_every = int(exchange_every)
        self.steps = 0
        self.primary: nn.Module = copy.deepcopy(model)
        self.auxiliary: nn.Module = copy.deepcopy(model)
        _freeze(self.primary, partition.unstable)
        _freeze(self.auxiliary, partition.stable)
        self._callables: list[Callable] = [self.primary, self.auxiliary]
        self._inside_composite = False
        self._make_averages()

    def _make_averages(self) -> None:
        primary, auxiliary = dict(self.primary.named_parameters()), dict(self.auxiliary.named_parameters())
        stable, unstable = self.partition.stable, self.partition.unstable
        self._averages = [
            MovingAverage([frozen[n] for n in names], [trained[n] for n in names], [self.decay[n] for n in names])
            for names, frozen, trained in ((unstable, primary, auxiliary), (stable, auxiliary, primary))
        ]

    def wrap(self, wrapper: Callable[[nn.Module], Callable]) -> None:
        """Let `branches()` yield `wrapper(branch)`: DistributedDataParallel or torch.compile, for two.

        Branches are frozen already, so DistributedDataParallel expects gradients of the trained half alone.
        """
        self._callables = [wrapper(self.primary), wrapper(self.auxiliary)]

    def branches(self) -> Iterator[Callable]:
        """Yield the primary, then the auxiliary. Back-propagate one before the other runs, to free its memory."""
        yield from self._callables

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The primary's stable, then the auxiliary's unstable parameters, in the partition's order."""
        primary, auxiliary = dict(self.primary.named_parameters()), dict(self.auxiliary.named_parameters())
        return [primary[name] for name in self.partition.stable] + [auxiliary[name] for name in self.partition.unstable]

    def repartition(self, partition: Partition, decay: Mapping[str, float]) -> list[str]:
        """Split the layers anew: a layer that changes sides takes its trained and its averaged values along.

        No weight changes: each side's values go on as what they were, trained or averaged, and so does the composite.
        The trained tensors are the same `nn.Parameter` objects as before, in the other branch, so that an optimizer's
        moments hold; bring its list into this order by `optimizer.param_groups[0]['params'] =
        net.trainable_parameters()`. What `wrap` made must be made again.

        Args:
            partition: The new groups, of the same layers.
            decay: W by name, each in [0, 1).

        Returns:
            The layers that changed sides.

        Raises:
            ValueError: The partition has other layers, or the decay does not fit.
        """
        self._refuse_inside_composite('repartition')
        before, after = self.partition, partition
        strange = {*before.stable, *before.unstable} ^ {*after.stable, *after.unstable}
        if strange:
            raise ValueError(f'the new partition must have the layers of the old one, not {_listing(sorted(strange))}')
        decay = _checked_decay(decay, after)
        moved = sorted({*before.stable} ^ {*after.stable})
        precise = self._precise_by_name()
        _swap_parameters(self.primary, self.auxiliary, moved)
        self.partition, self.decay = after, decay
        self._make_averages()
        for name, own in self._precise_by_name().items():
            own.copy_(precise[name])
        return moved

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

    def step(self) -> bool:
        """Count an iteration, after the optimizer's step; exchange when due, and say whether it was."""
        self._refuse_inside_composite('step')
        self.steps += 1
        due = self.steps % self.exchange_every == 0
        if due:
            self.exchange()
        return due

    def exchange(self) -> None:
        """Move the frozen layers of both branches towards their trained twins:
        P_U <- W P_U + (1 - W) A_U and A_S <- W A_S + (1 - W) P_S."""
        self._refuse_inside_composite('exchange')
        for average in self._averages:
            average.step()

    @contextmanager
    def composite(self) -> Iterator[nn.Module]:
        """Lend the composite network, in evaluation mode: the auxiliary's stable layers, the primary's unstable ones.

        No weight is copied: the primary borrows the auxiliary's stable tensors until the end of the block, where its
        own weights, buffers and modes come back. A network with batch statistics recomputes them inside the block, and
        is saved there too: `torch.optim.swa_utils.update_bn(loader, model)`, then `model.state_dict()`.
        """
        if self._inside_composite:
            raise ValueError('composite() is already in use: leave its `with` block first')
        primary, auxiliary = dict(self.primary.named_parameters()), dict(self.auxiliary.named_parameters())
        with modes_and_buffers_restored(self.primary):
            self._inside_composite = True
            self._swap(primary, auxiliary)
            try:
                yield self.primary.eval()
            finally:
                self._swap(primary, auxiliary)
                self._inside_composite = False

    def _refuse_inside_composite(self, method: str) -> None:
        if self._inside_composite:
            raise ValueError(f'{method}() was called inside `with net.composite()`, where the branches are swapped')

    def _swap(self, primary: dict[str, nn.Parameter], auxiliary: dict[str, nn.Parameter]) -> None:
        for name in self.partition.stable:
            primary[name].data, auxiliary[name].data = auxiliary[name].data, primary[name].data

    def composite_state_dict(self) -> OrderedDict[str, Tensor]:
        """State dict of the composite network: copies, in the order and under the names of the original network's.

        Buffers are the primary's. For a network with batch statistics see `composite()`.
        """
        if self._inside_composite:
            return OrderedDict((name, tensor.detach().clone()) for name, tensor in self.primary.state_dict().items())
        stable = set(self.partition.stable)
        # Tied weights have one name among the parameters and several in the state dict.
        tied = dict(self.primary.named_parameters(remove_duplicate=False))
        first_name = {parameter: name for name, parameter in self.primary.named_parameters()}
        auxiliary = self.auxiliary.state_dict()
        return OrderedDict(
            (name, (auxiliary[name] if first_name.get(tied.get(name)) in stable else tensor).detach().clone())
            for name, tensor in self.primary.state_dict().items()
        )

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on: both branches, the partition, the decays, the step. Tensors are not copied."""
        self._refuse_inside_composite('state_dict')
        return {
            'primary': self.primary.state_dict(),
            'auxiliary': self.auxiliary.state_dict(),
            'partition': self.partition.to_dict(),
            'decay': dict(self.decay),
            'exchange_every': self.exchange_every,
            'steps': self.steps,
            'precise_averages': [average.precise for average in self._averages],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict()` returned; its decays and exchange interval take the place of this one's.

        Raises:
            ValueError: The state has another partition, so that an optimizer made for this one would not fit.
        """
        self._refuse_inside_composite('load_state_dict')
        theirs = Partition.from_dict(state['partition'])
        if (theirs.stable, theirs.unstable) != (self.partition.stable, self.partition.unstable):
            moved = sorted(set(theirs.stable) ^ set(self.partition.stable))
            what = f'layers that change sides: {_listing(moved)}' if moved else 'the order of the layers differs'
            raise ValueError(
                f'this state was saved with another partition ({what}); build LayerDecomposition with '
                "Partition.from_dict(state['partition']) and load again"
            )
        self.primary.load_state_dict(state['primary'])
        self.auxiliary.load_state_dict(state['auxiliary'])
        self.partition = theirs
        self.decay = _checked_decay(state['decay'], theirs)
        self.exchange_every, self.steps = int(state['exchange_every']), int(state['steps'])
        self._make_averages()
        for average, precise in zip(self._averages, state['precise_averages'], strict=True):
            for own, saved in zip(average.precise, precise, strict=True):
                own.copy_(saved)


def _freeze(branch: nn.Module, names: list[str]) -> None:
    parameters = dict(branch.named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)
    for parameter in parameters.values():
        parameter.grad = None


def _swap_parameters(one: nn.Module, other: nn.Module, names: list[str]) -> None:
    """Exchange these parameters, the objects, between two networks, wherever tied weights have them."""
    ones, others = dict(one.named_parameters()), dict(other.named_parameters())
    partner = {ones[name]: others[name] for name in names} | {others[name]: ones[name] for name in names}
    for module in (*one.modules(), *other.modules()):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[key] = partner.get(parameter, parameter)


def _checked_decay(decay: Mapping[str, float], partition: Partition) -> dict[str, float]:
    names = [*partition.stable, *partition.unstable]
    missing = [name for name in names if name not in decay]
    unknown = sorted(set(decay) - set(names))
    outside = [f'{name} ({decay[name]})' for name in names if name in decay and not 0 <= decay[name] < 1]
    for what, culprits in (
        ('no decay is given for', missing),
        ('a decay is given for layers that the partition lacks:', unknown),
        ('a decay must lie in [0, 1):', outside),
    ):
        if culprits:
            raise ValueError(f'{what} {_listing(culprits)}')
    return {name: float(decay[name]) for name in names}
