"""Stage 0: where the head of a network starts at random, it trains alone before the layers are scored.

A random head back-propagates random gradients, which would be what the scores of all other layers measure. The samples
that it trains on, D1, are others than those of the scores, D2: see `split_samples`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .base import whole_number
from .layers import with_prefixes
from .networks import check_loss, check_network, format_names, unwrapped
from .restore import preserve_gradients, preserve_modes_and_buffers

Step = Callable[[Callable, Any, torch.optim.Optimizer], float]


def split_samples(samples: int | Sequence[Hashable], seed: int = 0) -> tuple[list[int], list[int]]:
    """Split samples at random into two halves: D1 for `warm_up`, D2 for `score_layers`.

    Args:
        samples: How many there are; or what each of them is, its class or its (domain, class), of which each half then
            gets as many as the other, or one more.
        seed: Of the split, which does not touch the global random state.

    Returns:
        The indices of both, ascending; D1 has one more where their number is odd.

    Raises:
        ValueError: Fewer than two samples.
    """
    samples = samples.tolist() if hasattr(samples, 'tolist') else samples  # entries of tensors are no keys
    kinds = [None] * samples if isinstance(samples, int) else list(samples)
    if len(kinds) < 2:
        raise ValueError(f'two halves need at least two samples, not {len(kinds)}')
    generator = random.Random(seed)
    members: dict[Hashable, list[int]] = {}
    for index, kind in enumerate(kinds):
        members.setdefault(kind, []).append(index)
    order = []
    for indices in members.values():
        generator.shuffle(indices)
        order += indices
    return sorted(order[::2]), sorted(order[1::2])


def warm_up(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    head: str | Iterable[str],
    iterations: int,
    optimizer: torch.optim.Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    lr: float = 1e-3,
    *,
    wrap: Callable[[nn.Module], Callable] | None = None,
    step: Step | None = None,
    on_iteration: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train the head of `model` alone, with all other layers frozen (the paper's stage 0).

    The network runs in training mode, as it does where it is scored and trained afterwards, so that the head learns on
    the features that it will have there. The backbone is a frozen one, however, and does not drift: its buffers, batch
    statistics among them, are afterwards what they were before. Those of the head's own normalizations are kept.
    `requires_grad`, `.grad` and the mode of every module are what they were, too; on an error, so are the head's
    weights and buffers.

        first, second = ldt.split_samples(labels, seed)
        ldt.warm_up(model, loader_of(first), loss_fn, 'fc', iterations=500, lr=1e-3)
        scores = ldt.score_layers(model, loader_of(second), loss_fn)

    Args:
        model: The network, which is trained itself.
        batches: What `loss_fn` takes, one item a batch. Where they end, they begin again; an iterator cannot.
        loss_fn: `loss_fn(model, batch)` returns a scalar tensor, computed by the `model` that it is given.
        head: The names of the head's layers begin like this: one prefix or several. A prefix covers whole parts of a
            name: `head` matches `head.weight`, not `head2.weight`.
        iterations: How many steps, at least 1.
        optimizer: Over the head's parameters, or what makes one of a list of them; None: Adam with `lr`.
        lr: The learning rate, where `optimizer` is None; above 0.
        wrap: Makes what runs in place of `model`, once the backbone is frozen: DistributedDataParallel, for one, with
            batches of its own in every process. All of them then end with the same weights.
        step: `step(net, batch, optimizer)` takes a step in place of the default, which is
            `zero_grad(); loss_fn(net, batch).backward(); step()`, and returns the loss, the same in all processes.
        on_iteration: Called after each iteration with their number so far and the loss, to show progress.

    Returns:
        The loss of each iteration.

    Raises:
        ValueError: A prefix that no layer has, a head that is the whole network or is frozen, no batch or too few, a
            loss that is no scalar, does not depend on the head or is NaN or infinite (with its iteration), weights that
            are, an optimizer that lacks layers of the head, or a network that cannot be trained so: one that is sharded
            or is a DistributedDataParallel already.
    """
    iterations = whole_number('iterations', iterations)
    if not (optimizer is not None or 0 < lr < math.inf):
        raise ValueError(f'lr must be above 0, not {lr}')
    check_network(model, averaging='give the network inside it, and wrap=DistributedDataParallel')
    network = unwrapped(model)
    trained = _head_parameters(network, head)
    parameters = list(trained.values())
    with _head_alone(network, trained, head):
        optimizer = _optimizer_of(optimizer, trained, lr)
        net = model if wrap is None else wrap(model)
        step, losses = step or _default_step(loss_fn, parameters), []
        for count, batch in enumerate(_repeated(batches, iterations), 1):
            loss = float(step(net, batch, optimizer))
            if not math.isfinite(loss):
                raise ValueError(f'the loss is {loss} in iteration {count} of the warm-up: {_LOOK}')
            losses.append(loss)
            if on_iteration is not None:
                on_iteration(count, loss)
        broken = [name for name, value in trained.items() if not torch.isfinite(value).all()]
        if broken:
            raise ValueError(f'the warm-up left NaN or Inf in {format_names(broken)}: {_LOOK}')
    return losses


_LOOK = 'look at the data, the loss and the learning rate'


def _head_parameters(network: nn.Module, head: str | Iterable[str]) -> dict[str, nn.Parameter]:
    """What trains, by name."""
    parameters = dict(network.named_parameters())
    names = with_prefixes(parameters, head)
    if not names:
        raise ValueError('the head is empty: name at least one prefix')
    if len(names) == len(parameters):
        raise ValueError('the head is the whole network: all layers have one of its prefixes, and nothing is frozen')
    trained = {name: parameters[name] for name in names if parameters[name].requires_grad}
    if not trained:
        raise ValueError(f'the head is frozen: {format_names(names)} have requires_grad=False')
    return trained


@contextmanager
def _head_alone(network: nn.Module, trained: dict[str, nn.Parameter], head: str | Iterable[str]) -> Iterator[None]:
    """Training mode, gradients of the head alone, and a network that is then what it was, but for the head."""
    buffers = dict(network.named_buffers())
    own = [buffers[name] for name in with_prefixes(buffers, head, missing_ok=True)]
    weights = [value.detach().clone() for value in trained.values()]
    kept = None
    try:
        with preserve_modes_and_buffers(network), preserve_gradients(network), torch.enable_grad():
            for parameter in network.parameters():
                parameter.requires_grad_(False)
            for parameter in trained.values():
                parameter.requires_grad_(True)
            network.train()
            yield
            kept = [buffer.clone() for buffer in own]
    finally:
        with torch.no_grad():
            if kept is None:
                torch._foreach_copy_(list(trained.values()), weights)
            for buffer, value in zip(own, kept or (), strict=False):
                buffer.copy_(value)


def _optimizer_of(
    optimizer: torch.optim.Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None,
    trained: dict[str, nn.Parameter],
    lr: float,
) -> torch.optim.Optimizer:
    if optimizer is None:
        return torch.optim.Adam(trained.values(), lr=lr)
    if not isinstance(optimizer, torch.optim.Optimizer):
        return optimizer(list(trained.values()))
    held = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
    lacking = [name for name, parameter in trained.items() if id(parameter) not in held]
    if lacking:
        raise ValueError(f'the optimizer does not hold {format_names(lacking)} of the head')
    return optimizer


def _default_step(loss_fn: Callable[[nn.Module, Any], Tensor], parameters: list[nn.Parameter]) -> Step:
    def step(net: Callable, batch: Any, optimizer: torch.optim.Optimizer) -> float:
        for parameter in parameters:
            parameter.grad = None
        loss = loss_fn(net, batch)
        check_loss(loss, 'layer of the head')
        value = loss.item()
        if math.isfinite(value):
            loss.backward()
            optimizer.step()
        return value

    return step


def _repeated(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """So many batches, over and over."""
    done = 0
    while True:
        before = done
        for batch in batches:
            yield batch
            done += 1
            if done == count:
                return
        if done == 0:
            raise ValueError('there was no batch to warm up on: `batches` is empty, or an iterator that is exhausted')
        if done == before:
            raise ValueError(
                f'there were {done} batches for {count} iterations of the warm-up: `batches` is an iterator, which '
                'cannot begin again; give a list, a loader, or an endless one'
            )
