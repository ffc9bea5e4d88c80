import pytest
import torch

from basicsr.losses import build_loss
from basicsr.losses.basic_loss import CharbonnierLoss, L1Loss, MSELoss, WeightedTVLoss
from basicsr.losses.loss_util import reduce_loss, weight_reduce_loss, weighted_loss

PRED = torch.tensor([[[[1.0, 2.0]], [[0.0, -4.0]]]])  # (1, 2, 1, 2)
TARGET = torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]]]])
ABSOLUTE = [0.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    'loss, errors',
    [
        (L1Loss, ABSOLUTE),
        (MSELoss, [error**2 for error in ABSOLUTE]),
        (CharbonnierLoss, [(error**2 + 1e-12) ** 0.5 for error in ABSOLUTE]),
    ],
)
def test_values_and_reductions(loss, errors):
    assert loss()(PRED, TARGET).item() == pytest.approx(sum(errors) / 4)
    assert loss(2.5, reduction='sum')(PRED, TARGET).item() == pytest.approx(2.5 * sum(errors))
    unreduced = loss(reduction='none')(PRED, TARGET)
    assert unreduced.shape == PRED.shape
    assert unreduced.flatten().tolist() == pytest.approx(errors)


def test_weights_make_a_weighted_mean():
    columns = torch.tensor([[[[1.0, 0.0]]]])  # broadcast over the channels
    assert L1Loss()(PRED, TARGET, columns).item() == pytest.approx((0 + 3) / 2)
    assert L1Loss(reduction='sum')(PRED, TARGET, columns).item() == pytest.approx(3)
    full = torch.tensor([[[[1.0, 1.0]], [[0.0, 2.0]]]])
    assert L1Loss()(PRED, TARGET, full).item() == pytest.approx((0 + 2 + 8) / 4)
    assert weight_reduce_loss(PRED, full, 'none').flatten().tolist() == [1, 2, 0, -8]
    with pytest.raises(ValueError, match=r'\(2,\) do not fit a loss of shape \(1, 2, 1, 2\)'):
        L1Loss()(PRED, TARGET, torch.ones(2))


def test_eps_of_charbonnier_is_its_floor_and_keeps_gradients_finite():
    pred = torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = CharbonnierLoss(eps=1e-4)(pred, torch.zeros(1, 1, 2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(1e-2)
    assert pred.grad.abs().max() == 0


def test_total_variation():
    pred = torch.tensor([[[[1.0, 3.0, 2.0], [5.0, 5.0, 9.0]]]])
    down, right = [4, 2, 7], [2, 1, 0, 4]
    assert WeightedTVLoss()(pred).item() == pytest.approx(sum(down) / 3 + sum(right) / 4)
    assert WeightedTVLoss(0.5, 'sum')(pred).item() == pytest.approx(0.5 * (sum(down) + sum(right)))
    assert isinstance(WeightedTVLoss(), L1Loss)
    # A pixel's weight goes with the differences to what is below it and on its right.
    weight = torch.tensor([[[[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]]])
    expected = (4 + 2 * 7) / 3 + (2 + 3 * 0) / 4
    assert WeightedTVLoss()(pred, weight).item() == pytest.approx(expected)
    two = torch.cat([pred, pred * 2], dim=1)
    assert WeightedTVLoss()(two, weight).item() == pytest.approx(expected * 1.5)
    assert WeightedTVLoss()(torch.full((2, 3, 8, 8), 0.7)) == 0
    with pytest.raises(ValueError, match="reduction is mean or sum, not 'none'"):
        WeightedTVLoss(reduction='none')


@pytest.mark.parametrize('loss', [L1Loss, MSELoss, CharbonnierLoss])
def test_shapes_must_agree(loss):
    with pytest.raises(ValueError, match=r'shape \(1, 2, 1, 2\), the target \(1, 1, 1, 2\)'):
        loss()(PRED, TARGET[:, :1])


def test_unknown_reduction():
    with pytest.raises(ValueError, match="unknown reduction 'avg'; choose one of none, mean, sum"):
        L1Loss(reduction='avg')
    with pytest.raises(ValueError, match="unknown reduction 'avg'"):
        reduce_loss(PRED, 'avg')


def test_weighted_loss_decorates_element_wise_losses():
    @weighted_loss
    def signed(pred, target, factor=1):
        """Difference."""
        return factor * (pred - target)

    assert signed.__doc__ == 'Difference.'
    assert signed(PRED, TARGET, factor=2).item() == pytest.approx(2 * (0 + 2 - 3 - 4) / 4)


def test_paths_of_basicsr():
    from basicsr.losses import basic_loss, gan_loss, losses, r1_penalty

    for module in (basic_loss, gan_loss):
        for name in losses.__all__:
            if hasattr(module, name):
                assert getattr(losses, name) is getattr(module, name)
    assert {'L1Loss', 'GANLoss', 'PerceptualLoss', 'WeightedTVLoss', 'r1_penalty'} <= set(losses.__all__)
    assert losses.PerceptualLoss is basic_loss.PerceptualLoss and r1_penalty is gan_loss.r1_penalty


def test_the_options_choose_the_loss():
    opt = {'type': 'CharbonnierLoss', 'loss_weight': 0.5, 'eps': 1e-6}
    loss = build_loss(opt)
    assert isinstance(loss, CharbonnierLoss) and (loss.loss_weight, loss.eps) == (0.5, 1e-6)
    assert opt['type'] == 'CharbonnierLoss'
    with pytest.raises(KeyError, match="'L1Los'; did you mean 'L1Loss'"):
        build_loss({'type': 'L1Los'})
    with pytest.raises(ValueError, match="'loss_wieght'; did you mean 'loss_weight'"):
        build_loss({'type': 'L1Loss', 'loss_wieght': 1})
