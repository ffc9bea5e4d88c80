"""The interface of a strategy: which weights train when, what follows a step, which network is published.

A task hands its batches to whatever networks a strategy names, lets the optimizer step, and tests and saves the network
that the strategy publishes. Neither knows more of the other than stands here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ldt.restore import preserve_modes_and_buffers


def _nothing(*_: Any) -> None:
    return None


@dataclass
class Setting:
    """What a strategy works in; the task fills it in.

    Attributes:
        options: The section `train` of the options.
        loss: `loss(net, batch)` is the scalar that training minimises, on a batch as `batches` gives it. It is also how
            a network is run where only its batch statistics matter.
        wrap: Makes what runs in place of a network in a step: DistributedDataParallel, torch.compile.
        batches: The training batches beside those of the training loop: a loader, or None where there is none.
        batches_of: `batches_of(indices, step)` is a loader of batches of these training samples alone, each as large as
            a batch of `batches`, or with `step` as what a step takes. A ValueError where they do not make one.
        optimizer: An optimizer of these parameters, as the options say.
        step: `step(net, batch, optimizer)` takes a step on a batch as the training does, with its precision,
            accumulation and clipping, and returns the loss, the same in all processes.
        device: Where networks are.
        seed: Of the run.
        processes: How many train together.
        name: Of the run, for titles.
        folder: Where files go that a strategy leaves; None: nowhere.
        pretrained: Whether the options say with which weights the network began, a file's or its own.
        new_layers: Names of the parameters that the pre-trained weights lack: a head for other classes.
        load: `load(net, key)` reads these weights into a network, those under `key` where the file has several.
        writer: The TensorBoard writer, or None.
    """

    options: Mapping[str, Any]
    loss: Callable[[nn.Module, Any], Tensor]
    wrap: Callable[[nn.Module], Callable] = lambda net: net
    batches: Callable[[], Any] = _nothing
    batches_of: Callable[[list[int], bool], Any] = _nothing
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None
    step: Callable[[Callable, Any, torch.optim.Optimizer], float] | None = None
    device: torch.device | str = 'cpu'
    seed: int = 0
    processes: int = 1
    name: str = ''
    folder: str | None = None
    pretrained: bool = False
    new_layers: frozenset[str] = frozenset()
    load: Callable[[nn.Module, str], None] = _nothing
    writer: Callable[[], Any] = _nothing

    @property
    def total_iter(self) -> int:
        return self.options['total_iter']


class Strategy(ABC):
    """A method of training, chosen by the options for any task and any network.

    Class attributes declare what the options, their documentation and `--check` need to know; see `basicsr.options.
    strategies`, which reads them.

    Attributes:
        network: The network that trains; of two branches, the primary.
        shadow: The moving average of it that BasicSR calls `net_g_ema`, where there is one.
        published_key: Under which key of a checkpoint the published network stands.
        shadow_decay: Its decay.
        needs_loss: Whether `after_validation` wants to know the trained network's loss on the validation sets.
    """

    name: ClassVar[str]
    """What it is called in training states and messages."""
    keys: ClassVar[dict[str, tuple[Any, Any]]] = {}
    """The keys of `train` that ask for it: type and `option(default, description)` by key."""
    not_with: ClassVar[dict[str, str]] = {}
    """Strategies, by name, that it makes no sense with, and why. One side of a pair says it."""

    on_top: ClassVar[bool] = False
    """Whether it goes on top of another strategy, which trains; of those that train a run has one. See `Wrapper`."""
    has_own_parameters: ClassVar[bool] = False
    """Whether it trains other parameters than the network's own, as two branches do."""
    model_can_keep_it: ClassVar[bool] = False
    """Whether models that were written for BasicSR do it by themselves, as they do with `net_g_ema`."""

    network: nn.Module
    shadow: nn.Module | None = None
    shadow_decay: float = 0
    published_key: str = 'params'
    needs_loss: bool = False

    @classmethod
    def asked_by(cls, train: Mapping[str, Any]) -> str | None:
        """The key of the section `train` that asks for this strategy, or None."""
        return next((key for key in cls.keys if train.get(key) is not None and train[key] is not False), None)

    @classmethod
    def check_train(cls, train: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Mistakes in the section `train` that take more than one key to see, as (key within it, message)."""
        return iter(())

    @classmethod
    def needs(cls, opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What a training by this strategy lacks in the options, as (dotted key, why it is needed)."""
        return iter(())

    @classmethod
    def without_effect(cls, opt: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Keys that do nothing as the other options are, as (dotted key, message)."""
        return iter(())

    def rehearse(self) -> None:  # noqa: B027
        """Called before a run leaves anything behind: raise a ValueError where `prepare` would."""

    def prepare(self, loss: Callable[[nn.Module, Any], Tensor], batches: Any) -> None:  # noqa: B027
        """Called once before the first iteration of a run, not where one is resumed: scores, partition."""

    def resumed(self) -> None:  # noqa: B027
        """Called once before the first iteration of a resumed run, in place of `prepare`; the state is loaded."""

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer steps, by name, in its order. `prepare` and `load_state_dict` may change it."""

    def before_step(self, iteration: int) -> None:  # noqa: B027
        """Called before each iteration, counted from 1: freeze and free."""

    @abstractmethod
    def networks(self) -> Iterator[tuple[str, Callable]]:
        """What runs on the batch in hand, one after the other, each with a label for its loss ('' where there is one).

        Back-propagate each before the next is asked for, so that the activations of one alone are in memory.
        """

    def after_step(self, iteration: int) -> None:  # noqa: B027
        """Called after each optimizer step that was taken: averages, exchanges. Never called for a skipped one."""

    def end_iteration(self, iteration: int) -> bool:
        """Called at the end of each iteration, skipped or not; whether the order of `parameters()` has changed."""
        return False

    def after_validation(self, iteration: int, loss: float) -> None:  # noqa: B027
        """Called once all sets were validated; `loss` is NaN unless `needs_loss`."""

    @contextmanager
    @abstractmethod
    def published(self) -> Iterator[nn.Module]:
        """Lend the network that is tested, selected and saved, in evaluation mode, its batch statistics right.

        On leaving, the trained network is as it was. All processes must call this together.
        """

    @contextmanager
    def trained(self) -> Iterator[nn.Module]:
        """Lend the network as it is trained, in evaluation mode."""
        with preserve_modes_and_buffers(self.network):
            yield self.network.eval()

    def saved_beside(self) -> dict[str, nn.Module]:
        """Networks that a checkpoint holds beside the published one, by key."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, with the network's weights. Tensors are not copied."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            ValueError: The state does not fit the options or the network.
        """

    def names(self) -> list[str]:
        """The names of this strategy and of those it is built on, the innermost first."""
        return [self.name]

    def report(self) -> dict[str, str]:
        """Files that it leaves beside the checkpoints, by what they are, for the end of a training."""
        return {}


class Wrapper(Strategy):
    """A strategy on top of another one: it trains as that does, and publishes something else.

    Args:
        inner: What it is built on.
        setting: See `Setting`.
    """

    on_top = True
    outermost: ClassVar[bool] = False
    """Whether it goes around the wrappers that are not, whatever they publish."""

    def __init__(self, inner: Strategy, setting: Setting) -> None:
        self.inner, self.setting = inner, setting

    @property
    def network(self) -> nn.Module:
        return self.inner.network

    @property
    def shadow(self) -> nn.Module | None:
        return self.inner.shadow

    @property
    def shadow_decay(self) -> float:
        return self.inner.shadow_decay

    @property
    def has_own_parameters(self) -> bool:
        return self.inner.has_own_parameters

    @property
    def needs_loss(self) -> bool:
        return self.inner.needs_loss

    def names(self) -> list[str]:
        return [*self.inner.names(), self.name]

    def rehearse(self) -> None:
        self.inner.rehearse()

    def prepare(self, loss: Callable[[nn.Module, Any], Tensor], batches: Any) -> None:
        self.inner.prepare(loss, batches)

    def resumed(self) -> None:
        self.inner.resumed()

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.inner.parameters()

    def before_step(self, iteration: int) -> None:
        self.inner.before_step(iteration)

    def networks(self) -> Iterator[tuple[str, Callable]]:
        return self.inner.networks()

    def after_step(self, iteration: int) -> None:
        self.inner.after_step(iteration)

    def end_iteration(self, iteration: int) -> bool:
        return self.inner.end_iteration(iteration)

    def after_validation(self, iteration: int, loss: float) -> None:
        self.inner.after_validation(iteration, loss)

    def trained(self) -> AbstractContextManager[nn.Module]:
        return self.inner.trained()

    def report(self) -> dict[str, str]:
        return self.inner.report()
