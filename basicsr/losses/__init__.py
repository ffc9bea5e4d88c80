"""Losses. Each `*_loss.py` beside this file is imported, so that its classes are registered."""

from __future__ import annotations

from torch import nn

from basicsr.losses.gan_loss import g_path_regularize, gradient_penalty_loss, r1_penalty
from basicsr.utils.registry import LOSS_REGISTRY, build, import_modules

__all__ = ['build_loss', 'g_path_regularize', 'gradient_penalty_loss', 'r1_penalty']

import_modules(__file__, __name__, '_loss')


def build_loss(opt: dict) -> nn.Module:
    """Make the loss that `opt['type']` names with the other entries as arguments; errors as in `registry.build`."""
    return build(LOSS_REGISTRY, opt)
