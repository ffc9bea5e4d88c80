"""Networks, one `*_arch.py` each; every class registered there can be named by `network_g: {type: …}`."""

from __future__ import annotations

import logging

from torch import nn

from basicsr.utils.registry import ARCH_REGISTRY, build, import_modules

__all__ = ['build_network']

import_modules(__file__, __name__, '_arch')


def build_network(opt: dict) -> nn.Module:
    """Build the network that `opt['type']` names, with the other entries as arguments.

    Raises:
        KeyError: No network of that name; the message lists the available ones.
        ValueError: An entry that is not an argument of the network.
    """
    network = build(ARCH_REGISTRY, opt)
    logging.getLogger('basicsr').info('Network [%s] is created.', network.__class__.__name__)
    return network
