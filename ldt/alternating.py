"""LDT-S: the two branches take turns in one network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base import Decomposition, train_only, whole_number
from .exchange import LOW_PRECISION
from .networks import unwrapped
from .partition import Partition

_PIECE = 1 << 22
"""How many entries are moved between the network and the waiting values at a time, at most: 16 MB of float32."""


class AlternatingDecomposition(Decomposition):
    """`LayerDecomposition` with one network on the device, which is the primary and the auxiliary in turn.

    One of the two values of a layer is in the network, the other waits in CPU memory (pinned if the network is on a
    CUDA device). In the primary's turn, the stable layers hold their trained values and are trained, among unstable
    layers that hold their averages; in the auxiliary's turn it is the other way round. A turn lasts `alternate_every`
    iterations. At its end, the averages of the group that was trained move towards it (the exchange), and all values
    change places, piece by piece: there is never a second network on the device.

        net = AlternatingDecomposition(model, partition, decay)
        optimizer = torch.optim.Adam(net.trainable_parameters())

    and the rest as with `LayerDecomposition`. `branches()` yields the one branch whose turn it is. One optimizer holds
    all parameters; those of the group whose turn it is not have no gradient, so that `torch.optim` leaves them and
    their moments alone.

    Both branches share the buffers, such as batch statistics: see `composite()`.

    Args:
        model: The network, which becomes the first branch: it is trained itself, not a copy. Move it to its device
            before. Parameters with `requires_grad=False` stay frozen.
        partition: The groups; must name exactly the trainable parameters.
        decay: W by name, each in [0, 1).
        alternate_every: Iterations per turn. Each layer is exchanged once every two turns.

    Attributes:
        turn: 'primary' or 'auxiliary'.

    Raises:
        ValueError: The partition or the decay does not fit the network; the message names the layers.
    """

    def __init__(
        self, model: nn.Module, partition: Partition, decay: Mapping[str, float], alternate_every: int = 10
    ) -> None:
        super().__init__(model, partition, decay)
        self.alternate_every = whole_number('alternate_every', alternate_every)
        self.network = unwrapped(model)
        self.turn = 'primary'
        self._wait()
        self._train_group()
        self._callables: dict[str, Callable] = {'primary': model, 'auxiliary': model}
        self._watch_outputs(self._callables.values())

    @torch.no_grad()
    def _wait(self) -> None:
        """Set up the waiting values, and the float32 averages of low-precision layers, as copies of the network's."""
        parameters = self._parameters()
        names = [*self.partition.stable, *self.partition.unstable]
        self._waiting = {name: _like(parameters[name]).copy_(parameters[name]) for name in names}
        self._precise = {
            name: _like(parameters[name], torch.float32).copy_(parameters[name])
            for name in names
            if parameters[name].dtype in LOW_PRECISION
        }

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def _groups(self) -> tuple[list[str], list[str]]:
        """The layers trained in this turn, and the others."""
        stable, unstable = self.partition.stable, self.partition.unstable
        return (stable, unstable) if self.turn == 'primary' else (unstable, stable)

    def _train_group(self) -> None:
        train_only(self.network, *self._groups())

    @property
    def interval(self) -> int:
        return self.alternate_every

    @property
    def exchange_every(self) -> int:
        """Iterations between two exchanges of a layer: two turns."""
        return 2 * self.alternate_every

    @property
    def branch_names(self) -> tuple[str, ...]:
        return (self.turn,)

    def branches(self) -> Iterator[Callable]:
        """Yield the branch whose turn it is."""
        yield self._callables[self.turn]
        self._note_gradients()

    def _trained_now(self) -> dict[str, nn.Parameter]:
        parameters = self._parameters()
        return {name: parameters[name] for name in self._groups()[0]}

    def wrap(self, wrapper: Callable[[nn.Module], Callable]) -> None:
        """Let `branches()` yield `wrapper(network)`, which is called once per branch, with its layers frozen.

        DistributedDataParallel, for instance, then expects gradients of the layers which that branch trains.
        """
        now = self.turn
        for self.turn in ('primary', 'auxiliary'):
            self._train_group()
            self._callables[self.turn] = wrapper(self.network)
        self.turn = now
        self._train_group()
        self._watch_outputs(self._callables.values())

    def trainable_parameters(self) -> list[nn.Parameter]:
        """All parameters of both groups, the stable ones first, in the partition's order, whosever turn it is."""
        parameters = self._parameters()
        return [parameters[name] for name in (*self.partition.stable, *self.partition.unstable)]

    def train(self, mode: bool = True) -> AlternatingDecomposition:
        self.network.train(mode)
        return self

    def exchange(self) -> None:
        """End the turn: A_S <- W A_S + (1 - W) P_S, or the same for P_U, and all values change places."""
        self._refuse_inside_composite('exchange')
        trained, frozen = self._groups()
        self._change_places(trained, average=True)
        self._change_places(frozen)
        self.turn = 'auxiliary' if self.turn == 'primary' else 'primary'
        self._train_group()

    @torch.no_grad()
    def _change_places(self, names: Iterable[str], average: bool = False) -> None:
        """Swap the values of these layers in the network with those that wait.

        With `average`, those that wait are averages, and move towards the network's first. Copies to and from pinned
        memory do not block: the device's stream keeps them in order.
        """
        parameters = self._parameters()
        for name in names:
            kept = self._precise.get(name) if average else None
            for here, waiting, precise in _pieces(parameters[name], self._waiting[name], kept):
                arriving = (waiting if precise is None else precise).to(here.device, non_blocking=True, copy=True)
                if average:
                    arriving.lerp_(here.to(arriving.dtype), 1 - self.decay[name])
                if precise is not None:
                    precise.copy_(arriving, non_blocking=True)
                waiting.copy_(here, non_blocking=True)
                here.copy_(arriving)

    def _toggle_composite(self) -> None:
        self._change_places(self._groups()[0])

    def _copied(self, value: Any) -> Any:
        """Tensors are copied to CPU memory: the device has no room for a second network."""
        return value.detach().to('cpu', copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)

    def _finish_copies(self) -> None:
        """Block until the copies to CPU memory are complete."""
        for device in {parameter.device for parameter in self.network.parameters() if parameter.is_cuda}:
            torch.cuda.synchronize(device)

    def _change_sides(self, moved: list[str], partition: Partition, decay: dict[str, float]) -> None:
        self._change_places(moved)
        self.partition, self.decay = partition, decay
        self._train_group()

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to continue: the network, the waiting values, the partition, the decays, turn and step.

        Tensors are not copied.
        """
        self._refuse_inside_composite('state_dict')
        self._finish_copies()
        return {
            'network': self.network.state_dict(),
            'waiting': dict(self._waiting),
            'precise_averages': dict(self._precise),
            **self._common_state(),
            'alternate_every': self.alternate_every,
            'turn': self.turn,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict()` returned, even in mid-turn, with its decays and its interval.

        Raises:
            ValueError: The state has another partition, so that an optimizer made for this one would not fit, or
                another class saved it.
        """
        self._refuse_inside_composite('load_state_dict')
        self._load_common_state(state, needed='waiting')
        self.network.load_state_dict(state['network'])
        self._statistics.load(self.network, state.get('first_statistics'))
        self._finish_copies()
        for own, saved in ((self._waiting, state['waiting']), (self._precise, state['precise_averages'])):
            for name, tensor in own.items():
                tensor.copy_(saved[name])
        self.alternate_every, self.turn = int(state['alternate_every']), state['turn']
        self._train_group()


def _like(parameter: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor like this one in CPU memory, pinned if this one is on a CUDA device."""
    return torch.empty_like(parameter, dtype=dtype, device='cpu', pin_memory=parameter.is_cuda, requires_grad=False)


def _pieces(
    parameter: Tensor, waiting: Tensor, precise: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield views of the same rows of each, of at most about `_PIECE` entries; None if `precise` is None."""
    parameter = parameter.detach()
    if parameter.numel() <= _PIECE:
        yield parameter, waiting, precise
        return
    rows = max(1, _PIECE // (parameter.numel() // len(parameter)))
    for start in range(0, len(parameter), rows):
        end = start + rows
        yield parameter[start:end], waiting[start:end], None if precise is None else precise[start:end]
