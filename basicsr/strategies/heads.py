"""What the head of a network is: as the options say, or else the network itself."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ldt import Partition


def head_prefixes(net: nn.Module, written: str | Iterable[str] | None, key: str) -> list[str]:
    """The prefixes of the names of a head's layers.

    Args:
        net: The network; `head_prefixes` of it counts where nothing is written.
        written: What the options say.
        key: The option, for messages.

    Raises:
        ValueError: Neither says anything, a prefix that no layer has, or a head that is all that trains.
    """
    if written is None:
        prefixes = list(getattr(net, 'head_prefixes', None) or ())
        if not prefixes:
            raise ValueError(
                f'{key}: missing, and the network ({type(net).__name__}) has no head_prefixes that say what its head '
                f'is; name the layers of the head, such as {_last_module(net)}'
            )
    else:
        prefixes = [written] if isinstance(written, str) else list(written)
    try:
        Partition.from_prefixes(net, prefixes)
    except ValueError as error:
        message = 'all layers have one of them' if 'group is empty' in str(error) else str(error)
        raise ValueError(f'{key}: {message}') from error
    return prefixes


def _last_module(net: nn.Module) -> str:
    names = [name for name, _ in net.named_parameters()]
    return names[-1].rpartition('.')[0] or names[-1] if names else 'head'
