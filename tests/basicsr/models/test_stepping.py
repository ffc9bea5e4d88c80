"""Mixed precision, clipping, accumulation, and steps that are not taken: through the models that use them."""

import pytest
import torch

from basicsr.models.stepping import NotFinite, Stepper
from basicsr.utils.registry import ARCH_REGISTRY
from tests.basicsr.models.test_models import LDT, branches, build, loader, options, pictures, train, trained

__all__ = ['pictures']

LOGGER = 'basicsr'


def batches(opt, size=2):
    generator = torch.Generator().manual_seed(1)
    while True:
        gt = torch.rand(size, 3, 16, 16, generator=generator)
        yield {'lq': torch.nn.functional.avg_pool2d(gt, 2), 'gt': gt}


def steps(opt, count, size=2):
    """A model that has done `count` iterations on the same random batches each time."""
    model = build(opt)
    if opt['model_type'] == 'LDTModel':
        model.before_training(loader(opt, 'train'))
    torch.manual_seed(0)
    source = batches(opt, size)
    for iteration in range(1, count + 1):
        model.train_step(next(source), iteration)
    return model


def weights(model):
    return [parameter.detach().clone() for parameter in trained(model)]


@pytest.mark.parametrize('model_type', ['SRModel', 'LDTModel'])
@pytest.mark.parametrize('amp', ['bf16', 'fp16'])
def test_mixed_precision_follows_float32(pictures, tmp_path, model_type, amp):
    section = {'ldt': LDT} if model_type == 'LDTModel' else {}
    plain = steps(options(pictures, tmp_path, model_type, **section), 4)
    mixed = steps(options(pictures, tmp_path, model_type, amp=amp, **section), 4)
    assert all(weight.dtype == torch.float32 for weight in weights(mixed))
    losses = zip(plain.log_dict.values(), mixed.log_dict.values(), strict=True)
    assert all(a == pytest.approx(b, rel=0.02) and a != b for a, b in losses)
    if model_type == 'LDTModel':
        assert branches(mixed).steps == 4 - mixed.stepper.all_bad_steps
        assert all(value.dtype == torch.float32 for value in branches(mixed).composite_state_dict().values())
    scaler = mixed.training_state()['stepper']['scaler']
    assert bool(scaler) == (amp == 'fp16')


def test_the_scale_of_the_loss_is_resumed(pictures, tmp_path):
    opt = options(pictures, tmp_path, amp='fp16')
    model = steps(opt, 2)
    model.stepper._scaler.update(128.0)
    state = {**model.training_state(), 'epoch': 0, 'iter': 2}
    other = build(opt)
    other.resume_training(state)
    assert other.stepper._scaler.get_scale() == 128.0


def test_gradients_are_clipped(pictures, tmp_path):
    opt = options(pictures, tmp_path, grad_clip_norm=1e-3, optim_g={'type': 'SGD', 'lr': 1.0})
    model = steps(opt, 0)
    before = weights(model)
    model.train_step(next(batches(opt)), 1)
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(model), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize('model_type', ['SRModel', 'LDTModel'])
def test_accumulated_parts_make_the_step_of_the_whole_batch(pictures, tmp_path, model_type):
    section = {'optim_g': {'type': 'SGD', 'lr': 0.1}, **({'ldt': LDT} if model_type == 'LDTModel' else {})}
    whole = steps(options(pictures, tmp_path, model_type, **section), 3, size=6)
    parts = steps(options(pictures, tmp_path, model_type, accumulate=3, **section), 3, size=6)
    for a, b in zip(weights(whole), weights(parts), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert list(whole.log_dict.values()) == pytest.approx(list(parts.log_dict.values()), rel=1e-5)


def test_memory_layout_changes_no_result(pictures, tmp_path):
    plain = steps(options(pictures, tmp_path), 3)
    laid_out = steps(options(pictures, tmp_path, channels_last=True), 3)
    assert laid_out.net_g.conv_first.weight.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(weights(plain), weights(laid_out), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_compiled_network_takes_the_same_steps(pictures, tmp_path):
    network = {'type': 'Bent'}
    plain, compiled = (
        steps({**options(pictures, tmp_path, compile=on), 'network_g': network}, 3) for on in (False, True)
    )
    for a, b in zip(weights(plain), weights(compiled), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert type(dict(compiled.strategy.networks())['']).__name__ == 'OptimizedModule'
    assert set(compiled.net_g.state_dict()) == set(plain.net_g.state_dict()), 'names without a prefix'


@ARCH_REGISTRY.register()
class Bent(torch.nn.Sequential):
    """Batch statistics, x2. Without a bias before them: its gradient would be nothing but rounding."""

    def __init__(self):
        convolutions = torch.nn.Conv2d(3, 8, 3, 1, 1, bias=False), torch.nn.Conv2d(8, 12, 3, 1, 1)
        super().__init__(convolutions[0], torch.nn.BatchNorm2d(8), convolutions[1], torch.nn.PixelShuffle(2))


@pytest.mark.parametrize('model_type', ['SRModel', 'LDTModel'])
@pytest.mark.parametrize('where', ['lq', 'gt'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_step_that_would_do_harm_is_not_taken(pictures, tmp_path, model_type, where, value, logged):
    section = {'ldt': LDT} if model_type == 'LDTModel' else {'ema_decay': 0.9}
    opt = {**options(pictures, tmp_path, model_type, **section), 'network_g': {'type': 'Bent'}}
    model = steps(opt, 2)

    def everything():
        networks = (
            [branches(model).primary, branches(model).auxiliary]
            if model_type == 'LDTModel'
            else [model.net_g, model.net_g_ema]
        )
        state = [tensor.clone() for network in networks for tensor in network.state_dict().values()]
        moments = model.optimizer_g.state_dict()['state'].values()
        return state + [moment[key].clone() for moment in moments for key in ('step', 'exp_avg_sq')]

    before = everything()
    batch = next(batches(opt))
    batch[where][0, 0, 0, 0] = value
    model.train_step(batch, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert model.stepper.bad_steps == model.stepper.all_bad_steps == 1
    loss = 'l_pix_primary' if model_type == 'LDTModel' else 'l_pix'
    assert f'Step skipped, 1 in a row and 1 in all: {loss} is ' in logged.warnings()[-1]
    model.train_step(next(batches(opt)), 4)
    assert model.stepper.bad_steps == 0 and model.stepper.all_bad_steps == 1
    assert not all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))


def test_training_without_ground_truth_is_said(pictures, tmp_path):
    opt = options(pictures, tmp_path)
    model = build(opt)
    model.feed_data({'lq': next(batches(opt))['lq']})
    with pytest.raises(ValueError, match=r'datasets\.train: gives no gt, and training needs pairs'):
        model.optimize_parameters(1)


def test_too_many_in_a_row_end_the_run_and_name_the_loss():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    stepper = Stepper({'max_bad_steps': 2}, torch.device('cpu'))
    stepper.backward(weight.sum())
    for _ in range(2):
        assert not stepper.step(optimizer, {'l_pix': float('nan'), 'l_other': 1.0})
    with pytest.raises(NotFinite, match=r'l_pix is nan, .* 3 steps in a row, more than train.max_bad_steps: 2'):
        stepper.step(optimizer, {'l_pix': float('nan'), 'l_other': 1.0})
    weight.grad.fill_(float('inf'))
    with pytest.raises(NotFinite, match='the gradient is inf'):
        stepper.step(optimizer, {'l_pix': 1.0})
    with pytest.raises(ValueError, match=r"train.amp: is bf16, fp16 or left out, not 'half'"):
        Stepper({'amp': 'half'}, torch.device('cpu'))


def test_the_fast_optimizer_is_the_default(pictures, tmp_path):
    model = build(options(pictures, tmp_path))
    assert model.optimizer_g.defaults['fused'] is True
    asked = build(options(pictures, tmp_path, optim_g={'type': 'Adam', 'lr': 1e-3, 'foreach': True}))
    assert not asked.optimizer_g.defaults['fused'] and asked.optimizer_g.defaults['foreach'] is True
    slow = build(options(pictures, tmp_path, optim_g={'type': 'Adam', 'lr': 1e-3, 'fused': False, 'foreach': False}))
    assert slow.optimizer_g.defaults['fused'] is False and slow.optimizer_g.defaults['foreach'] is False
    rest = build(options(pictures, tmp_path, optim_g={'type': 'RMSprop', 'lr': 1e-3}))
    assert rest.optimizer_g.defaults['foreach'] is True
    for optimizer in (asked, slow):
        train(optimizer, optimizer.opt, 1)


def test_a_loss_that_nothing_trains_by_is_said():
    with pytest.raises(ValueError, match='depends on no weight that trains'):
        Stepper({}, torch.device('cpu')).backward(torch.ones(1, requires_grad=True).detach().sum())
