"""What a layer is: one parameter tensor, or the tensors of one module."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

GRANULARITIES = ('parameter', 'module')

_ROOT = '(network)'


def layers_of(layers: nn.Module | Iterable[str], granularity: str = 'parameter') -> dict[str, list[str]]:
    """The layers of a network: names of its trainable parameters by name of the layer, in the network's order.

    Args:
        layers: The network, or the names of its parameters.
        granularity: "parameter", where each parameter tensor is a layer, or "module", where the tensors that belong to
            one `nn.Module` itself, not to its children, are one: weight and bias of a convolution, for two. Tied
            weights belong to the module that comes first. Tensors of the network itself are called "(network)".

    Raises:
        ValueError: Unknown granularity.
    """
    if granularity not in GRANULARITIES:
        raise ValueError(f'no granularity is called {granularity!r}; choose from {", ".join(GRANULARITIES)}')
    grouped: dict[str, list[str]] = {}
    for name in parameter_names(layers):
        layer = name if granularity == 'parameter' else name.rpartition('.')[0] or _ROOT
        grouped.setdefault(layer, []).append(name)
    return grouped


def parameter_names(layers: nn.Module | Iterable[str]) -> list[str]:
    """The names of the trainable parameters, in the network's order."""
    if isinstance(layers, nn.Module):
        return [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
    return list(layers)


def listing(names: list[str], most: int = 10) -> str:
    """Names in a message: the first ones, and how many more there are."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
