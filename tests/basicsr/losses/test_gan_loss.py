"""Losses of generators and discriminators, against their definitions."""

import inspect
import math

import pytest
import torch
from torch import nn

from basicsr.losses import build_loss, g_path_regularize, gradient_penalty_loss, r1_penalty
from basicsr.losses.gan_loss import GANLoss, MultiScaleGANLoss

LOGITS = [-1.5, -0.2, 0.0, 0.7, 3.0]
X = torch.tensor(LOGITS).view(5, 1)


def softplus(x):
    return math.log1p(math.exp(x))


# Of one logit: what a discriminator pays where it should be real, and where it should be fake.
PAYS = {
    'vanilla': (lambda x: softplus(-x), softplus),
    'lsgan': (lambda x: (x - 1) ** 2, lambda x: x**2),
    'wgan': (lambda x: -x, lambda x: x),
    'wgan_softplus': (lambda x: softplus(-x), softplus),
    'hinge': (lambda x: max(0, 1 - x), lambda x: max(0, 1 + x)),
}


def mean(function):
    return sum(map(function, LOGITS)) / len(LOGITS)


def test_arguments_are_those_of_basicsr():
    assert [str(one).split(':')[0] for one in inspect.signature(GANLoss).parameters.values()] == [
        *('gan_type', 'real_label_val', 'fake_label_val', 'loss_weight')
    ]
    assert list(inspect.signature(GANLoss.forward).parameters)[1:] == ['input', 'target_is_real', 'is_disc']


@pytest.mark.parametrize('gan_type', PAYS)
@pytest.mark.parametrize('target_is_real', [True, False])
def test_values(gan_type, target_is_real):
    pays = PAYS[gan_type][0 if target_is_real else 1]
    loss = GANLoss(gan_type, loss_weight=0.1)
    assert loss(X, target_is_real, is_disc=True).item() == pytest.approx(mean(pays), abs=1e-6)
    if gan_type == 'hinge':  # a generator wants high logits, without a hinge

        def pays(x):
            return -x

    assert loss(X, target_is_real).item() == pytest.approx(0.1 * mean(pays), abs=1e-6)


def test_labels():
    soft = GANLoss('lsgan', real_label_val=0.9, fake_label_val=0.2)
    assert soft(X, True).item() == pytest.approx(mean(lambda x: (x - 0.9) ** 2))
    assert soft(X, False).item() == pytest.approx(mean(lambda x: (x - 0.2) ** 2))
    smooth = GANLoss('vanilla', real_label_val=0.8)
    assert smooth(X, True).item() == pytest.approx(mean(lambda x: 0.8 * softplus(-x) + 0.2 * softplus(x)))
    assert torch.equal(smooth.get_target_label(X, True), torch.full((5, 1), 0.8))
    assert GANLoss('wgan').get_target_label(X, False) is False


@pytest.mark.parametrize('gan_type', PAYS)
def test_gradients_lead_to_the_target(gan_type):
    logits = nn.Parameter(torch.zeros(4, 1, 3, 3))
    for target_is_real in (True, False):
        (gradient,) = torch.autograd.grad(GANLoss(gan_type)(logits, target_is_real, is_disc=True), logits)
        assert (gradient < 0).all() if target_is_real else (gradient > (-1 if gan_type == 'lsgan' else 0)).all()


def test_scales_are_averaged():
    loss = MultiScaleGANLoss('lsgan', loss_weight=2.0)
    coarse, layers = torch.tensor([2.0]), [torch.tensor([99.0]), torch.tensor([[3.0, 5.0]])]
    assert loss([coarse, layers], True).item() == pytest.approx(2 * (1 + (4 + 16) / 2) / 2)
    assert loss([coarse, layers], True, is_disc=True).item() == pytest.approx((1 + (4 + 16) / 2) / 2)
    assert loss(coarse, True).item() == pytest.approx(2)


def test_the_options_choose_them():
    loss = build_loss({'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 5e-3})
    assert isinstance(loss, GANLoss) and loss.loss_weight == 5e-3
    assert isinstance(build_loss({'type': 'MultiScaleGANLoss', 'gan_type': 'hinge'}), MultiScaleGANLoss)
    with pytest.raises(ValueError, match="unknown gan_type 'hing'; choose one of vanilla, lsgan, wgan"):
        build_loss({'type': 'GANLoss', 'gan_type': 'hing'})


def test_r1():
    """Of a discriminator a·x² the gradient is 2 a x."""
    x = torch.tensor([[[[1.0, 2.0]]], [[[0.5, -1.0]]]], requires_grad=True)
    a = nn.Parameter(torch.tensor(3.0))
    penalty = r1_penalty((a * x**2).flatten(1).sum(1, keepdim=True), x)
    assert penalty.item() == pytest.approx(36 * ((1 + 4) + (0.25 + 1)) / 2)
    penalty.backward()
    assert a.grad.item() == pytest.approx(2 / 3 * penalty.item()), 'the discriminator learns from it'


def test_gradient_penalty():
    """Of a discriminator w·x the gradient is w wherever it is taken; its norm over the channels should be 1."""
    w = nn.Parameter(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1))
    real, fake = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    penalty = gradient_penalty_loss(lambda x: (w * x).flatten(1).sum(1), real, fake)
    assert penalty.item() == pytest.approx(16)
    penalty.backward()
    assert w.grad.abs().min() > 0
    weighted = gradient_penalty_loss(lambda x: (w * x).flatten(1).sum(1), real, fake, torch.full((3, 1, 4, 4), 0.5))
    assert weighted.item() == pytest.approx((2.5 - 1) ** 2 / 0.5)


def test_gradient_penalty_is_taken_between_the_two():
    seen = []
    torch.manual_seed(2)
    shares = torch.rand(3, 1, 1, 1)
    torch.manual_seed(2)
    gradient_penalty_loss(lambda x: seen.append(x) or x.sum(), torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4))
    torch.testing.assert_close(seen[0], shares.expand(3, 2, 4, 4))


def test_path_lengths():
    """Of a generator that copies its code into all pixels, a length is |sum of noise| / sqrt(h w)."""
    latents = torch.randn(2, 1, 1, requires_grad=True)
    scale = nn.Parameter(torch.tensor(2.0))
    images = scale * latents.view(2, 1, 1, 1).expand(2, 3, 4, 4)
    torch.manual_seed(1)
    sums = torch.randn(2, 3, 4, 4).sum((1, 2, 3)).abs() / 4
    torch.manual_seed(1)
    penalty, length, running = g_path_regularize(images, latents, 5.0, decay=0.1)
    lengths = 2 * sums
    assert length.item() == pytest.approx(lengths.mean().item(), rel=1e-5)
    expected = 5 + 0.1 * (lengths.mean() - 5)
    assert running.item() == pytest.approx(expected.item(), rel=1e-5)
    assert penalty.item() == pytest.approx(((lengths - expected) ** 2).mean().item(), rel=1e-4)
    assert not length.requires_grad and not running.requires_grad
    penalty.backward()
    assert scale.grad != 0
