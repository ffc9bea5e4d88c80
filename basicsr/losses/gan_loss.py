"""Generator and discriminator losses, and penalties that keep discriminators smooth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.options.bounds import NonNegative
from basicsr.utils.registry import LOSS_REGISTRY

GAN_TYPES = ('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge')


@LOSS_REGISTRY.register()
class GANLoss(nn.Module):
    """Loss of a discriminator's logits, for the discriminator itself or for the generator.

    Args:
        gan_type: vanilla (cross-entropy, Goodfellow et al. 2014), lsgan (squared error, Mao et al. 2017), wgan
            (Arjovsky et al. 2017), wgan_softplus (the logistic loss of StyleGAN2, Karras et al. 2020) or hinge (Lim and
            Ye 2017).
        real_label_val: Label of real pictures; vanilla and lsgan.
        fake_label_val: Label of generated pictures; vanilla and lsgan.
        loss_weight: Factor of the generator's loss. The discriminator's has none.

    Raises:
        ValueError: The type is unknown.
    """

    def __init__(
        self,
        gan_type: Literal['vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'],
        real_label_val: float = 1.0,
        fake_label_val: float = 0.0,
        loss_weight: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        if gan_type not in GAN_TYPES:
            raise ValueError(f'unknown gan_type {gan_type!r}; choose one of {", ".join(GAN_TYPES)}')
        self.gan_type = gan_type
        self.real_label_val = real_label_val
        self.fake_label_val = fake_label_val
        self.loss_weight = loss_weight

    def get_target_label(self, input: Tensor, target_is_real: bool) -> bool | Tensor:
        """The label as a tensor like `input`; for wgan and wgan_softplus, which have none, `target_is_real`."""
        if self.gan_type in ('wgan', 'wgan_softplus'):
            return target_is_real
        return torch.full_like(input, self.real_label_val if target_is_real else self.fake_label_val)

    def forward(self, input: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Return the scalar loss.

        Args:
            input: Logits of any shape.
            target_is_real: Whether they should be those of real pictures.
            is_disc: Whether the loss is the discriminator's, without `loss_weight`.
        """
        sign = -1 if target_is_real else 1
        if self.gan_type == 'vanilla':
            loss = F.binary_cross_entropy_with_logits(input, self.get_target_label(input, target_is_real))
        elif self.gan_type == 'lsgan':
            loss = F.mse_loss(input, self.get_target_label(input, target_is_real))
        elif self.gan_type == 'wgan':
            loss = sign * input.mean()
        elif self.gan_type == 'wgan_softplus':
            loss = F.softplus(sign * input).mean()
        elif is_disc:
            loss = F.relu(1 + sign * input).mean()
        else:  # hinge: the generator's loss has no hinge, whatever the target
            loss = -input.mean()
        return loss if is_disc else loss * self.loss_weight


@LOSS_REGISTRY.register()
class MultiScaleGANLoss(GANLoss):
    """`GANLoss` averaged over the discriminators of several scales.

    Args:
        gan_type: vanilla, lsgan, wgan, wgan_softplus or hinge.
        real_label_val: Label of real pictures; vanilla and lsgan.
        fake_label_val: Label of generated pictures; vanilla and lsgan.
        loss_weight: Factor of the generator's loss. The discriminator's has none.
    """

    def forward(
        self, input: Tensor | list[Tensor | list[Tensor]], target_is_real: bool, is_disc: bool = False
    ) -> Tensor:
        """As `GANLoss`, for the logits of one scale or a list of them; of a list of layers, only the last counts."""
        if not isinstance(input, list):
            return super().forward(input, target_is_real, is_disc)
        logits = [scale[-1] if isinstance(scale, list) else scale for scale in input]
        return sum(super(MultiScaleGANLoss, self).forward(one, target_is_real, is_disc) for one in logits) / len(logits)


def r1_penalty(real_pred: Tensor, real_img: Tensor) -> Tensor:
    """Mean squared norm of the discriminator's gradient on real pictures (R1 of Mescheder et al., ICML 2018).

    Args:
        real_pred: Logits of `real_img`, of any shape.
        real_img: (n, …), with `requires_grad`.
    """
    (gradient,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def g_path_regularize(
    fake_img: Tensor, latents: Tensor, mean_path_length: float | Tensor, decay: float = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Path length regularisation of StyleGAN2 (Karras et al., CVPR 2020, section 3.2).

    Args:
        fake_img: Generated pictures, (n, c, h, w).
        latents: The codes they were made from, (n, layers, width).
        mean_path_length: The running mean so far.
        decay: Share of this batch in the running mean.

    Returns:
        The penalty, the mean length in this batch, the new running mean; the last two without gradients.
    """
    noise = torch.randn_like(fake_img) / math.sqrt(fake_img.shape[2] * fake_img.shape[3])
    (gradient,) = torch.autograd.grad((fake_img * noise).sum(), latents, create_graph=True)
    lengths = gradient.square().sum(2).mean(1).sqrt()
    mean = mean_path_length + decay * (lengths.mean() - mean_path_length)
    return (lengths - mean).square().mean(), lengths.detach().mean(), mean.detach()


def gradient_penalty_loss(
    discriminator: Callable[[Tensor], Tensor], real_data: Tensor, fake_data: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Penalty of WGAN-GP (Gulrajani et al., NeurIPS 2017) at random points between real and generated data.

    The norm of the gradient is taken over the channels, position by position.

    Args:
        discriminator: Gives logits of any shape.
        real_data: (n, c, h, w).
        fake_data: As `real_data`.
        weight: Weights of the gradients, broadcastable to them; the penalty is divided by their mean.
    """
    alpha = torch.rand(len(real_data), 1, 1, 1).to(real_data)
    between = (alpha * real_data + (1 - alpha) * fake_data).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    if weight is None:
        return (gradient.norm(2, dim=1) - 1).square().mean()
    return ((gradient * weight).norm(2, dim=1) - 1).square().mean() / weight.mean()
