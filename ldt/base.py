"""What both decompositions share: a training loop that is written for one runs with the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .layers import listing
from .partition import Partition
from .restore import modes_and_buffers_restored


class Decomposition(ABC):
    """Two values of every layer, a trained and an averaged one, in the primary's and the auxiliary's configuration.

    The primary trains the stable layers among averaged unstable ones, the auxiliary the unstable layers among averaged
    stable ones. Subclasses say where the values lie and when each configuration has its turn.

    Attributes:
        partition: The groups.
        decay: W by name, each in [0, 1).
        steps: Iterations so far.
        network: The module that `composite()` lends.
        exchange_every: Iterations from one exchange of a layer to the next: what its time constant counts in.
        branch_names: Of 'primary' and 'auxiliary', what `branches()` yields now.
    """

    network: nn.Module
    exchange_every: int
    branch_names: tuple[str, ...]

    def __init__(self, model: nn.Module, partition: Partition, decay: Mapping[str, float]) -> None:
        partition.check(model)
        self.partition = partition
        self.decay = checked_decay(decay, partition)
        self.steps = 0
        self._inside_composite = False

    @property
    @abstractmethod
    def interval(self) -> int:
        """Iterations from one call of `exchange()` to the next."""

    @abstractmethod
    def branches(self) -> Iterator[Callable]:
        """Yield what is to be run on the batch in hand; back-propagate each before the next runs."""

    @abstractmethod
    def wrap(self, wrapper: Callable[[nn.Module], Callable]) -> None:
        """Let `branches()` yield `wrapper(branch)`: DistributedDataParallel or torch.compile, for two."""

    @abstractmethod
    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that an optimizer steps: the stable, then the unstable ones, in the partition's order."""

    @abstractmethod
    def train(self, mode: bool = True) -> Decomposition:
        """Put the network, or both branches, into training mode."""

    @abstractmethod
    def exchange(self) -> None:
        """Move averaged layers towards their trained twins."""

    def step(self) -> bool:
        """Count an iteration, after the optimizer's step; exchange when due, and say whether it was.

        After an optimizer step that was skipped, do not call it.
        """
        self._refuse_inside_composite('step')
        self.steps += 1
        due = self.steps % self.interval == 0
        if due:
            self.exchange()
        return due

    @contextmanager
    def composite(self) -> Iterator[nn.Module]:
        """Lend the composite network, in evaluation mode: the averaged value of every layer.

        It is `network`, which gets its own weights, buffers and modes back at the end of the block; no network is
        copied. One with batch statistics recomputes them inside the block, and is saved there too:
        `torch.optim.swa_utils.update_bn(loader, model)`, then `model.state_dict()`.
        """
        if self._inside_composite:
            raise ValueError('composite() is already in use: leave its `with` block first')
        with modes_and_buffers_restored(self.network):
            self._toggle_composite()
            self._inside_composite = True
            try:
                yield self.network.eval()
            finally:
                self._toggle_composite()
                self._inside_composite = False

    @abstractmethod
    def _toggle_composite(self) -> None:
        """Exchange the trained values in `network` for their averages, or the other way round."""

    def composite_state_dict(self) -> OrderedDict[str, Tensor]:
        """State dict of the composite network: copies, in the order and under the names of the original network's.

        Buffers are those of `network`. For one with batch statistics see `composite()`.
        """
        averages = {} if self._inside_composite else self._averages_elsewhere()
        # Tied weights have one name among the parameters and several in the state dict.
        tied = dict(self.network.named_parameters(remove_duplicate=False))
        first_name = {parameter: name for name, parameter in self.network.named_parameters()}
        return OrderedDict(
            (name, self._copied(averages.get(first_name.get(tied.get(name)), tensor)))
            for name, tensor in self.network.state_dict().items()
        )

    @abstractmethod
    def _averages_elsewhere(self) -> dict[str, Tensor]:
        """The averages of the layers that are trained in `network`."""

    def _copied(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def repartition(self, partition: Partition, decay: Mapping[str, float]) -> list[str]:
        """Split the layers anew: a layer that changes sides takes its trained and its averaged values along.

        No weight changes: each side's values go on as what they were, trained or averaged, and so does the composite.
        `trainable_parameters()` are the same `nn.Parameter` objects as before, so that an optimizer's moments hold;
        bring its list into this order by `optimizer.param_groups[0]['params'] = net.trainable_parameters()`. What
        `wrap` made must be made again.

        Args:
            partition: The new groups, of the same layers.
            decay: W by name, each in [0, 1).

        Returns:
            The layers (names of parameters) that changed sides.

        Raises:
            ValueError: The partition has other layers, or the decay does not fit.
        """
        self._refuse_inside_composite('repartition')
        before, after = self.partition, partition
        strange = {*before.stable, *before.unstable} ^ {*after.stable, *after.unstable}
        if strange:
            raise ValueError(f'the new partition must have the layers of the old one, not {listing(sorted(strange))}')
        decay = checked_decay(decay, after)
        moved = sorted({*before.stable} ^ {*after.stable})
        self._change_sides(moved, after, decay)
        return moved

    @abstractmethod
    def _change_sides(self, moved: list[str], partition: Partition, decay: dict[str, float]) -> None:
        """Take on a partition and decays that fit; `moved` change sides."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on: both values of every layer, the partition, the decays, the step.

        Tensors are not copied.
        """

    def _common_state(self) -> dict[str, Any]:
        return {'partition': self.partition.to_dict(), 'decay': dict(self.decay), 'steps': self.steps}

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict()` returned; its decays and interval take the place of this one's.

        Raises:
            ValueError: The state has another partition, so that an optimizer made for this one would not fit, or is
                that of another class.
        """

    def _load_common_state(self, state: Mapping[str, Any], needed: str) -> None:
        if needed not in state:
            raise ValueError(f'this state was not saved by {type(self).__name__}: it has no {needed!r}')
        theirs = Partition.from_dict(state['partition'])
        if (theirs.stable, theirs.unstable) != (self.partition.stable, self.partition.unstable):
            moved = sorted(set(theirs.stable) ^ set(self.partition.stable))
            what = f'layers that change sides: {listing(moved)}' if moved else 'the order of the layers differs'
            raise ValueError(
                f'this state was saved with another partition ({what}); build {type(self).__name__} with '
                "Partition.from_dict(state['partition']) and load again"
            )
        self.decay = checked_decay(state['decay'], theirs)
        self.partition, self.steps = theirs, int(state['steps'])

    def _refuse_inside_composite(self, method: str) -> None:
        if self._inside_composite:
            raise ValueError(
                f'{method}() was called inside `with net.composite()`, where averages stand in for trained weights'
            )


def whole_number(name: str, value: float) -> int:
    """`value` where it is a whole number of at least 1, else a ValueError that names it."""
    if value != int(value) or value < 1:
        raise ValueError(f'{name} must be a whole number of at least 1, not {value}')
    return int(value)


def train_only(network: nn.Module, trained: list[str], frozen: list[str]) -> None:
    """Gradients for `trained` alone; the others have none, so that an optimizer leaves them out."""
    parameters = dict(network.named_parameters())
    for names, trains in ((trained, True), (frozen, False)):
        for name in names:
            parameters[name].requires_grad_(trains)
    for parameter in parameters.values():
        parameter.grad = None


def checked_decay(decay: Mapping[str, float], partition: Partition) -> dict[str, float]:
    """The decays by name in the partition's order; a ValueError names those that do not fit."""
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
            raise ValueError(f'{what} {listing(culprits)}')
    return {name: float(decay[name]) for name in names}
