"""What a layer is: one parameter tensor, or the tensors of one module."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from .networks import format_names, unwrapped

GRANULARITIES = ('parameter', 'module')

_ROOT = '(network)'


def layers_of(layers: nn.Module | Iterable[str], granularity: str = 'parameter') -> dict[str, list[str]]:
    """Group the trainable parameters of a network into layers.

    Args:
        layers: The network, or the names of its parameters.
        granularity: "parameter": each parameter tensor is a layer. "module": the tensors that an `nn.Module` owns
            directly, not through its children, form one layer, such as the weight and bias of a convolution. Tied
            weights belong to the module that comes first. Tensors of the network itself are called "(network)".

    Returns:
        Parameter names by layer name, in the network's order.

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
    """The names of the trainable parameters, in the network's order; those inside DistributedDataParallel and the like
    are named as if it were not there."""
    if isinstance(layers, nn.Module):
        return [name for name, parameter in unwrapped(layers).named_parameters() if parameter.requires_grad]
    return list(layers)


def with_prefixes(names: Iterable[str], prefixes: str | Iterable[str], missing_ok: bool = False) -> list[str]:
    """Those of the names that begin with one of the prefixes, in their order.

    A prefix covers whole parts of a name: `head` matches `head.weight`, not `head2.weight`.

    Raises:
        ValueError: A prefix that no name has, unless `missing_ok`.
    """
    names, found = list(names), set()
    for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
        stem = prefix.rstrip('.')
        matches = [name for name in names if name == stem or name.startswith(stem + '.')]
        if not matches and not missing_ok:
            parts = {name[:end] for name in names for end in range(len(name)) if name[end] == '.'}
            near = difflib.get_close_matches(stem, sorted(parts | set(names)), n=3)
            hint = f'; near it: {", ".join(near)}' if near else ''
            raise ValueError(f'no layer has the prefix {prefix!r}{hint}')
        found.update(matches)
    return [name for name in names if name in found]


class LayerTensors:
    """The L layers whose gradients are scored, and the T parameter tensors they consist of.

    Holds no parameter, only shapes and sizes.

    Attributes:
        names: The L layer names, in the network's order.
        entries: (T,) float64, how many real numbers each tensor's gradient holds in one batch; a complex number counts
            as two. On the device where statistics are kept, which is the CPU for a network on MPS (no float64 there).

    Raises:
        ValueError: Unknown granularity.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], granularity: str = 'parameter') -> None:
        layers = layers_of(parameters, granularity)
        self.names: list[str] = list(layers)
        index_of = {name: index for index, names in enumerate(layers.values()) for name in names}
        self._layer_of = [index_of[name] for name in parameters]
        gradients = [as_real(torch.empty_like(p, device='meta')) for p in parameters.values()]
        devices = [p.device for p in parameters.values()]
        self._layouts = [(tuple(g.shape), g.stride(), g.dtype, d) for g, d in zip(gradients, devices, strict=True)]
        device = torch.device('cpu') if devices[0].type == 'mps' else devices[0]
        self.entries: Tensor = torch.tensor([g.numel() for g in gradients], dtype=torch.float64, device=device)

    @property
    def entries_by_layer(self) -> Tensor:
        """(L,) float64 on the CPU: how many real numbers each layer's gradient holds in one batch."""
        return self.sum(self.entries)

    def zeros(self) -> Tensor:
        """(T,) float64 zeros: one number per parameter tensor."""
        return torch.zeros_like(self.entries)

    def zeros_like_gradients(self) -> list[Tensor]:
        """T tensors of zeros, each with the shape, type, memory layout and device of its (real) gradient."""
        return [
            torch.empty_strided(shape, stride, dtype=dtype, device=device).zero_()
            for shape, stride, dtype, device in self._layouts
        ]

    def sum(self, values: Tensor) -> Tensor:
        """Sum numbers of tensors, (T,), to numbers of layers, (L,): on the CPU, where the order never changes."""
        sums = torch.zeros(len(self.names), dtype=torch.float64)
        return sums.index_add_(0, torch.tensor(self._layer_of), values.to('cpu'))

    def spread(self, values: Tensor) -> Tensor:
        """Repeat numbers of layers, (L,), for each of their tensors: (T,)."""
        return values[self._layer_of]


def as_real(tensor: Tensor) -> Tensor:
    """A gradient as dense real numbers of at least float32, (…), or (…, 2) for a complex one."""
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


listing = format_names  # the name it had before
