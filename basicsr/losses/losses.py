"""All losses at their import path from before BasicSR 1.4, which older code uses."""

from basicsr.losses.basic_loss import (
    CharbonnierLoss,
    L1Loss,
    MSELoss,
    PerceptualLoss,
    WeightedTVLoss,
    charbonnier_loss,
    l1_loss,
    mse_loss,
)
from basicsr.losses.gan_loss import (
    GANLoss,
    MultiScaleGANLoss,
    g_path_regularize,
    gradient_penalty_loss,
    r1_penalty,
)

__all__ = [
    'CharbonnierLoss',
    'GANLoss',
    'L1Loss',
    'MSELoss',
    'MultiScaleGANLoss',
    'PerceptualLoss',
    'WeightedTVLoss',
    'charbonnier_loss',
    'g_path_regularize',
    'gradient_penalty_loss',
    'l1_loss',
    'mse_loss',
    'r1_penalty',
]
