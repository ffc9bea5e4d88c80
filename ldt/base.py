"""What the two decompositions share: a training loop written for one also runs with the other."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch import Tensor, nn

from .exchange import checked_decay
from .networks import check_memory, check_network, format_names, is_compiled, unwrapped
from .partition import Partition
from .restore import preserve_modes_and_buffers
from .statistics import RunningStatistics, StaleStatistics
from .watch import GradientWatch, OutputWatch


class Decomposition(ABC):
    """A trained and an averaged value of every layer, arranged as a primary and an auxiliary branch.

    The primary trains the stable layers among averaged unstable ones, the auxiliary the unstable layers among averaged
    stable ones. Subclasses define where the values are stored and when each branch trains.

    Attributes:
        partition: The groups.
        decay: W by name, each in [0, 1).
        steps: Iterations so far.
        network: The module that `composite()` lends.
        exchange_every: Iterations between two exchanges of a layer; time constants follow from it.
        branch_names: The names of what `branches()` yields now: 'primary', 'auxiliary', or both.
    """

    network: nn.Module
    exchange_every: int
    branch_names: tuple[str, ...]

    def __init__(self, model: nn.Module, partition: Partition, decay: Mapping[str, float]) -> None:
        check_network(model, averaging='give the network inside it and wrap the branches: net.wrap(...)')
        check_memory(unwrapped(model))
        partition.check(model)
        self.partition = partition
        self.decay = checked_decay(decay, partition)
        self.steps = 0
        self._statistics = RunningStatistics(unwrapped(model))
        self._inside_composite = False
        self._watch = GradientWatch(partition)
        self._outputs: list[OutputWatch] = []

    @property
    @abstractmethod
    def interval(self) -> int:
        """Iterations between two calls of `exchange()`."""

    @abstractmethod
    def branches(self) -> Iterator[Callable]:
        """Yield the branches to run on the current batch; back-propagate through each before running the next."""

    @abstractmethod
    def wrap(self, wrapper: Callable[[nn.Module], Callable]) -> None:
        """Let `branches()` yield `wrapper(branch)`; the wrapper may be DistributedDataParallel or torch.compile."""

    @abstractmethod
    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters for the optimizer: the stable ones, then the unstable ones, in the partition's order."""

    def named_trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name of the layer, parameter) of each of `trainable_parameters()`, for parameter groups of one's own."""
        names = [*self.partition.stable, *self.partition.unstable]
        yield from zip(names, self.trainable_parameters(), strict=True)

    def _watch_outputs(self, branches: Iterable[Callable]) -> None:
        """Look at outputs until the gradients have been seen; a hook that goes would compile a network again."""
        branches = list(branches)
        self._leave_outputs()
        if not self._watch.done and not any(map(is_compiled, branches)):
            networks = {unwrapped(branch) for branch in branches if isinstance(branch, nn.Module)}
            self._outputs = [OutputWatch(network) for network in networks]

    def _leave_outputs(self) -> None:
        while self._outputs:
            self._outputs.pop().hook.remove()

    @abstractmethod
    def _trained_now(self) -> dict[str, nn.Parameter]:
        """The parameters that train in this iteration, by name."""

    def _note_gradients(self) -> None:
        """Called when a branch may have been back-propagated."""
        if not self._watch.done:
            self._watch.note(self._trained_now())

    @abstractmethod
    def train(self, mode: bool = True) -> Decomposition:
        """Put the network, or both branches, into training or evaluation mode."""

    @abstractmethod
    def exchange(self) -> None:
        """Move averaged layers towards their trained twins."""

    def step(self) -> bool:
        """Count an iteration after the optimizer's step, exchange if that is due, and return whether it was.

        Do not call it after a skipped optimizer step.

        Raises:
            ValueError: In the first step, layers that are trained got no gradient because it went to the network that
                was given: see `GradientWatch`, which also warns about layers without one.
        """
        self._refuse_inside_composite('step')
        if not self._watch.done:
            self._watch.judge(self._trained_now())
            if self._watch.done:
                self._leave_outputs()
        self.steps += 1
        due = self.steps % self.interval == 0
        if due:
            self.exchange()
        return due

    @contextmanager
    def composite(
        self,
        batches: Iterable[Any] | None = None,
        loss_fn: Callable[[nn.Module, Any], Any] | None = None,
        num_batches: int = 300,
    ) -> Iterator[nn.Module]:
        """Lend the composite network, in evaluation mode: the averaged value of every layer.

        It is `network`, which gets its own weights, buffers and modes back at the end of the block; no network is
        copied. Not re-entrant.

        The batch statistics (`BatchNorm` and its like) of a network that has some are those of the trained weights.
        With `batches` and `loss_fn`, they are computed anew, over these batches; a network without batch statistics
        runs none of them. Without, evaluating the network or taking its state dict is an error unless you compute
        them within the block, for instance by `torch.optim.swa_utils.update_bn(loader, model)`. Statistics that
        training left alone, of frozen normalizations, are right as they are.

        Args:
            batches: Training batches, as `loss_fn` takes them.
            loss_fn: `loss_fn(model, batch)` runs the network; its value is not looked at.
            num_batches: How many batches at most.

        Raises:
            ValueError: One of `batches` and `loss_fn` alone, no batch, or batch statistics of other weights.
        """
        if self._inside_composite:
            raise ValueError('composite() is already in use: leave its `with` block first')
        if (batches is None) != (loss_fn is None):
            raise ValueError('composite() takes both `batches` and `loss_fn`, or neither')
        with preserve_modes_and_buffers(self.network):
            self._toggle_composite()
            self._inside_composite = True
            self._lent = StaleStatistics(self.network, self._statistics.stale(self.network))
            try:
                self.network.eval()
                if batches is not None and loss_fn is not None:
                    self._lent.recompute(self.network, islice(batches, num_batches), loss_fn)
                yield self.network
            finally:
                self._lent.remove()
                self._toggle_composite()
                self._inside_composite = False

    @abstractmethod
    def _toggle_composite(self) -> None:
        """Swap the trained values in `network` with their averages, or back."""

    def composite_state_dict(
        self,
        batches: Iterable[Any] | None = None,
        loss_fn: Callable[[nn.Module, Any], Any] | None = None,
        num_batches: int = 300,
    ) -> OrderedDict[str, Any]:
        """State dict of the composite network, as the network's own `state_dict()` makes it; all tensors are copies.

        Within `composite()`, it is that of the network that is lent, recomputed batch statistics included.

        Args:
            batches: As for `composite()`, where it is called outside; likewise `loss_fn` and `num_batches`.

        Raises:
            ValueError: The batch statistics are those of other weights, see `composite()`.
        """
        if not self._inside_composite:
            with self.composite(batches, loss_fn, num_batches):
                return self.composite_state_dict()
        if batches is not None:
            raise ValueError('within composite(), composite_state_dict() takes no batches: give them to composite()')
        self._lent.check()
        state = self.network.state_dict()
        copies = OrderedDict((name, self._copied(value)) for name, value in state.items())
        if hasattr(state, '_metadata'):
            copies._metadata = copy.deepcopy(state._metadata)
        return copies

    def _copied(self, value: Any) -> Any:
        """A copy of an entry of a state dict, which may be more than a tensor in a network with an own `state_dict`."""
        return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)

    def repartition(self, partition: Partition, decay: Mapping[str, float]) -> list[str]:
        """Split the layers again: a layer that changes groups takes its trained and its averaged value along.

        No value changes: trained ones stay trained, averages stay averages, and the composite stays as it is.
        `trainable_parameters()` returns the same `nn.Parameter` objects as before, in another order, so that an
        optimizer's moments stay valid. Give each of its groups its list anew, made as the first one was, so that a
        resumed run, whose optimizer is built for the new partition, finds the moments in their places:

            for group, anew in zip(optimizer.param_groups, make_groups(net), strict=True):
                group['params'] = list(anew['params'])

        where `make_groups(net)` is what the optimizer was built of: `[{'params': net.trainable_parameters()}]`, or
        several groups of `net.named_trainable_parameters()`. Call `wrap` again.

        Args:
            partition: The new groups, of the same layers.
            decay: W by name, each in [0, 1).

        Returns:
            The layers (names of parameters) that changed groups.

        Raises:
            ValueError: The partition has other layers, or the decay does not fit.
        """
        self._refuse_inside_composite('repartition')
        before, after = self.partition, partition
        unexpected = {*before.stable, *before.unstable} ^ {*after.stable, *after.unstable}
        if unexpected:
            raise ValueError(
                f'the new partition must have the layers of the old one, not {format_names(sorted(unexpected))}'
            )
        decay = checked_decay(decay, after)
        moved = sorted({*before.stable} ^ {*after.stable})
        self._change_sides(moved, after, decay)
        return moved

    @abstractmethod
    def _change_sides(self, moved: list[str], partition: Partition, decay: dict[str, float]) -> None:
        """Adopt a partition and decays that fit; the layers `moved` change groups."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to continue: both values of every layer, the partition, the decays, the step.

        Tensors are not copied.
        """

    def _common_state(self) -> dict[str, Any]:
        return {
            'partition': self.partition.to_dict(),
            'decay': dict(self.decay),
            'steps': self.steps,
            'first_statistics': dict(self._statistics.start),
        }

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict()` returned, with its decays and its interval.

        Raises:
            ValueError: The state has another partition, so that an optimizer made for this one would not fit, or
                another class saved it.
        """

    def _load_common_state(self, state: Mapping[str, Any], needed: str) -> None:
        if needed not in state:
            raise ValueError(f'this state was not saved by {type(self).__name__}: it lacks {needed!r}')
        theirs = Partition.from_dict(state['partition'])
        if (theirs.stable, theirs.unstable) != (self.partition.stable, self.partition.unstable):
            moved = sorted(set(theirs.stable) ^ set(self.partition.stable))
            what = f'in the other group there: {format_names(moved)}' if moved else 'the order of the layers differs'
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
    """Return `value` if it is a whole number of at least 1, else raise a ValueError that names it."""
    if not 1 <= value < math.inf or value != int(value):
        raise ValueError(f'{name} must be a whole number of at least 1, not {value}')
    return int(value)


def train_only(network: nn.Module, trained: list[str], frozen: list[str]) -> None:
    """Require gradients of `trained` alone; the others have none, so that an optimizer skips them."""
    parameters = dict(network.named_parameters())
    for names, trains in ((trained, True), (frozen, False)):
        for name in names:
            parameters[name].requires_grad_(trains)
    for parameter in parameters.values():
        parameter.grad = None
