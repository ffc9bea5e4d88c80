"""LP-FT, SWAD, WiSE-FT and moving averages by time constant: against plain loops, resumed, and refused."""

import functools
import math
import random
from argparse import Namespace

import pytest
import torch
import yaml
from torch import nn

from basicsr.models.sr_model import SRModel
from basicsr.options.check import check_options
from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.strategies import Setting
from basicsr.strategies.plain_strategy import Plain
from basicsr.strategies.swad_strategy import SWAD
from basicsr.train import train_pipeline
from basicsr.utils.registry import ARCH_REGISTRY
from scripts.benchmark import trainings
from tests.basicsr.models.test_models import build, loader, options, pictures
from tests.basicsr.models.test_stepping import batches

__all__ = ['pictures']


@ARCH_REGISTRY.register()
class TwoConvs(nn.Module):
    """Body, head, x2."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 12, 3, 1, 1)
        self.head2 = nn.PixelShuffle(2)

    def forward(self, x):
        return self.head2(self.head(self.body(x)))


@ARCH_REGISTRY.register()
class TwoConvsNormed(TwoConvs):
    def __init__(self):
        super().__init__()
        self.body.append(nn.BatchNorm2d(8))


def small(pictures, tmp_path, model_type='SRModel', network='TwoConvs', **train):
    opt = options(pictures, tmp_path, model_type, **train)
    opt['network_g'] = {'type': network}
    return opt


def steps(model, opt, first, last):
    """Iterations `first` to `last`, on batches that depend on the iteration alone; yields after each."""
    source = [batch for batch, _ in zip(batches(opt), range(last), strict=False)]
    for iteration in range(first, last + 1):
        model.train_step(source[iteration - 1], iteration)
        yield iteration


def weights(net):
    return [parameter.detach().clone() for parameter in net.parameters()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def published(model):
    with model.published() as net:
        return weights(net)


def plain_loop(opt, count, trains=lambda iteration, name: True):
    """The weights after each step of a loop over the same batches; `trains` says which layers have gradients."""
    fine_tuning = {key: opt['train'][key] for key in ('total_iter', 'optim_g', 'pixel_opt')}
    net = build({**opt, 'model_type': 'SRModel', 'train': fine_tuning}).net_g
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99), fused=True)
    trail = []
    for iteration, batch in zip(range(1, count + 1), batches(opt), strict=False):
        optimizer.zero_grad()
        nn.functional.l1_loss(net(batch['lq']), batch['gt']).backward()
        for name, parameter in net.named_parameters():
            if not trains(iteration, name):
                parameter.grad = None
        optimizer.step()
        trail.append(weights(net))
    return trail


HEAD = {'iter': 3, 'prefixes': 'head'}


@pytest.mark.parametrize('model_type', ['SRModel', 'MambaIRModel'])
@pytest.mark.parametrize('section', [HEAD, {'iter': '30%', 'prefixes': ['head.weight', 'head.bias']}])
def test_the_head_trains_first(pictures, tmp_path, model_type, section):
    opt = small(pictures, tmp_path, model_type, head_first=section)
    expected = plain_loop(opt, 6, lambda iteration, name: iteration > 3 or name.startswith('head.'))
    model = build(opt)
    for iteration in steps(model, opt, 1, 6):
        assert equal(model.net_g.parameters(), expected[iteration - 1])
        frozen = {name for name, parameter in model.net_g.named_parameters() if not parameter.requires_grad}
        assert frozen == ({'body.0.weight', 'body.0.bias'} if iteration <= 3 else set())
    assert not equal(expected[-1], plain_loop(opt, 6)[-1])


@pytest.mark.parametrize('killed', [2, 3, 4])
@pytest.mark.parametrize('more', [{}, {'ema_decay': 0.5}, {'amp': 'bf16', 'accumulate': 2, 'grad_clip_norm': 0.1}])
def test_the_head_first_run_is_resumed(pictures, tmp_path, killed, more):
    opt = small(pictures, tmp_path, head_first=HEAD, **more)
    whole, first, second = build(opt), build(opt), build(opt)
    for _ in steps(whole, opt, 1, 6):
        pass
    for _ in steps(first, opt, 1, killed):
        pass
    first.save(0, killed)
    second.resume_training(load_checkpoint(tmp_path / 'training_states' / f'{killed}.state'))
    for _ in steps(second, opt, killed + 1, 6):
        pass
    assert equal(whole.net_g.parameters(), second.net_g.parameters())
    assert equal(published(whole), published(second))


@pytest.fixture
def one_process():
    """A group of one process, in which models wrap their networks."""
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_wrappers_follow_the_switch(pictures, tmp_path, one_process, monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    opt = small(pictures, tmp_path, head_first=HEAD, compile=True)
    expected = plain_loop(opt, 5, lambda iteration, name: iteration > 3 or name.startswith('head.'))[-1]
    model = build({**opt, 'dist': True})
    wrappers = {model.net_g}
    for _ in steps(model, opt, 1, 5):
        assert isinstance(model.net_g, nn.parallel.DistributedDataParallel)
        assert type(dict(model.strategy.networks())['']).__name__ == 'OptimizedModule'
        wrappers.add(model.net_g)
    assert len(wrappers) == 2
    for a, b in zip(model.net_g.parameters(), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ('prefixes', 'message'),
    [
        ('haed', r"no layer has the prefix 'haed'; near it: head"),
        (['head', 'body'], 'all layers have one of them'),
        (None, r'missing, and the network \(TwoConvs\) has no head_prefixes .* such as head$'),
    ],
)
def test_a_head_that_is_none_is_said(pictures, tmp_path, prefixes, message):
    with pytest.raises(ValueError, match=rf'train\.head_first\.prefixes: {message}'):
        build(small(pictures, tmp_path, head_first={'iter': 3, 'prefixes': prefixes}))


@pytest.mark.parametrize(('time', 'decay'), [(4, 0.75), ('40%', 0.75), ('1000%', 0.99)])
def test_a_moving_average_has_a_time_constant(pictures, tmp_path, time, decay):
    opt = small(pictures, tmp_path, ema_time=time)
    model = build(opt)
    average = weights(model.net_g)
    for iteration, trained in zip(steps(model, opt, 1, 3), plain_loop(opt, 3), strict=True):
        average = [decay * a + (1 - decay) * b for a, b in zip(average, trained, strict=True)]
        assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(average, published(model), strict=True)), iteration
    assert model.param_key == 'params_ema'


def swad_of(converged, patience, tolerance=1.3):
    section = {'converged': converged, 'patience': patience, 'tolerance': tolerance}
    setting = Setting({'swad': section, 'total_iter': 100}, loss=None)
    return SWAD(Plain(nn.Identity()), setting)


def dense_average(trail, errors, every, converged, patience, tolerance):
    """Algorithm 1 of SWAD on all weights at once: the mean to publish after the last of `trail`, or None.

    Args:
        trail: Weights after each step.
        errors: Loss at each validation that is done, after `every` steps each.
    """
    begin, end, limit = None, None, None
    for i in range(len(errors)):
        if limit is None:
            window = errors[i - converged + 1 : i + 1] if i >= converged - 1 else []
            if window and window[0] == min(window):
                begin, limit = i - converged + 1, tolerance * sum(window) / converged
        elif i - patience + 1 >= begin and min(errors[i - patience + 1 : i + 1]) > limit:
            end = i - patience
            break
    if begin is None:
        return None, end
    span = trail[begin * every : None if end is None else (end + 1) * every]
    return [torch.stack(column).mean(0) for column in zip(*span, strict=True)], end


@pytest.mark.parametrize(('converged', 'patience', 'tolerance'), [(3, 6, 1.3), (1, 1, 1.0), (3, 2, 1.05), (2, 4, 1.1)])
def test_the_dense_average_is_that_of_the_algorithm(converged, patience, tolerance):
    draw, begun, ended = random.Random(0), 0, 0
    for _ in range(30):
        every, swad, trail, errors = draw.randint(1, 3), swad_of(converged, patience, tolerance), [], []
        drift = draw.uniform(-0.05, 0.2)
        for step in range(1, 20 * every + 1):
            trail.append([torch.rand(3, 2), torch.rand(4)])
            swad.update([weight.clone() for weight in trail[-1]])
            if step % every == 0:
                errors.append(math.exp(drift * len(errors)) * draw.uniform(0.8, 1.2))
                swad.after_validation(step, errors[-1])
            expected, end = dense_average(trail, errors, every, converged, patience, tolerance)
            found = swad.weights(trail[-1])
            assert (found is None) == (expected is None) and swad.needs_loss == (end is None)
            if expected is not None:
                assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
            if draw.random() < 0.2:  # killed and resumed
                saved, swad = swad.averages(), swad_of(converged, patience, tolerance)
                swad.load_averages(saved, torch.device('cpu'))
        begun, ended = begun + (expected is not None), ended + (end is not None)
    assert begun > 20 and 3 < ended < 30, 'both kinds of runs were drawn'


def test_losses_that_are_no_numbers_begin_no_span():
    swad = swad_of(2, 2)
    for error in (math.nan, 1.0, math.nan, math.inf, math.inf):
        swad.update([torch.ones(2)])
        swad.after_validation(1, error)
    assert not swad.begun and swad.weights([torch.ones(2)]) is None


def test_swad_goes_by_the_loss_of_the_trained_network_in_validation(pictures, tmp_path):
    opt = small(pictures, tmp_path, swad={'converged': 1, 'patience': 2, 'tolerance': 1.0})
    model, seen, trail = build(opt), [], []
    val = loader(opt)
    for iteration in steps(model, opt, 1, 6):
        trail.append(weights(model.net_g))
        if iteration % 2 == 0:
            before = published(model)
            model.validation(val, iteration, None)
            assert equal(model.net_g.parameters(), trail[-1]), 'the trained weights are back'
            with torch.no_grad(), model.strategy.trained() as net:
                losses = [nn.functional.l1_loss(net(pair['lq']), pair['gt']).item() for pair in val]
            seen.append(sum(losses) / len(losses))
            assert equal(before, trail[-1] if iteration == 2 else published(model)), 'plain until the span is known'
            model.after_validation(iteration)
            assert model.strategy._seen[-1] == (iteration, pytest.approx(seen[-1], rel=1e-6))
    expected = [torch.stack(column).mean(0) for column in zip(*trail, strict=True)]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(published(model), expected, strict=True))
    model.save_weights(6)
    saved = load_checkpoint(tmp_path / 'models' / 'net_g_6.pth')
    assert set(saved) == {'params'} and equal(saved['params'].values(), published(model))
    assert model.param_key == 'params'


def test_swad_needs_ground_truth(pictures, tmp_path):
    opt = small(pictures, tmp_path, swad={})
    model = build(opt)
    opt['datasets']['val'] = {**opt['datasets']['val'], 'type': 'SingleImageDataset'}
    opt['datasets']['val'].pop('dataroot_gt')
    with pytest.raises(ValueError, match=r'train\.swad: goes by the loss in validation, and pairs gives no gt'):
        model.validation(loader(opt), 1, None)


@pytest.fixture
def pretrained(pictures, tmp_path):
    """Weights to start from."""
    path = tmp_path / 'pretrained.pth'
    torch.manual_seed(5)
    save_checkpoint({'params': TwoConvs().state_dict()}, path)
    return path


@pytest.mark.parametrize('alpha', [0.0, 0.3, 1.0])
def test_fine_tuned_and_pretrained_weights_are_interpolated(pictures, tmp_path, pretrained, alpha):
    opt = small(pictures, tmp_path, wise_ft=alpha)
    opt['path']['pretrain_network_g'] = str(pretrained)
    start = list(load_checkpoint(pretrained)['params'].values())
    model, trail = build(opt), plain_loop(opt, 4)
    for iteration in steps(model, opt, 1, 4):
        mixed = [(1 - alpha) * a + alpha * b for a, b in zip(start, trail[iteration - 1], strict=True)]
        assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(published(model), mixed, strict=True))
        assert equal(model.net_g.parameters(), trail[iteration - 1]), 'the trained weights go on as if nothing were'
    model.validation(loader(opt), 4, None)
    model.save(0, 4)
    file = tmp_path / 'models' / 'net_g_4.pth'
    alone = build({**opt, 'is_train': False, 'path': {**opt['path'], 'pretrain_network_g': str(file)}})
    alone.validation(loader(opt), 'alone', None)
    assert alone.metric_results['psnr'] == pytest.approx(model.metric_results['psnr'], abs=1e-9)

    save_checkpoint({'params': TwoConvs().state_dict()}, pretrained)  # other weights than the run began with
    resumed = build(opt)
    resumed.resume_training(load_checkpoint(tmp_path / 'training_states' / '4.state'))
    assert equal(published(resumed), published(model))


def test_an_average_is_made_once_a_validation_in_processes_without_a_picture_too(
    pictures, tmp_path, pretrained, monkeypatch
):
    opt = small(pictures, tmp_path, network='TwoConvsNormed', wise_ft=0.5)
    opt['path'].update(pretrain_network_g=str(pretrained), strict_load_g=False)
    model, made = build(opt), []
    monkeypatch.setattr(model.strategy.statistics, 'put_into', lambda net, version: made.append(net))
    pairs = loader(opt)
    model.validation(pairs, 1, None)
    assert len(model.image_results) == 3 and len(made) == 1
    monkeypatch.setattr(pairs.dataset, 'paths', [])
    model.validation(pairs, 2, None)
    assert len(model.image_results) == 0 and len(made) == 2
    assert not {*map(id, model.net_g.buffers())} & {id(buffer) for net in made for buffer in net.buffers()}


def test_averages_and_the_head_need_the_step_of_this_project(pictures, tmp_path):
    class OwnStep(SRModel):
        def optimize_parameters(self, current_iter):
            pass

    for key, value in {'head_first': HEAD, 'swad': {}, 'wise_ft': 0.5}.items():
        with pytest.raises(ValueError, match=rf'train\.{key}: OwnStep has a step of its own'):
            OwnStep(small(pictures, tmp_path, **{key: value}))
        if key != 'wise_ft':
            with pytest.raises(ValueError, match=rf'train\.{key}: .*; leave it out'):
                build(small(pictures, tmp_path, 'LDTModel', **{key: value}))
    with pytest.raises(ValueError, match=r'path\.pretrain_network_g: missing; train\.wise_ft'):
        build(small(pictures, tmp_path, wise_ft=0.5))


@pytest.mark.parametrize(
    ('saved', 'asked', 'message'),
    [
        ({'swad': {}}, {}, r'saved by the strategy plain \+ swad, and the options ask for plain; a run goes on'),
        ({}, {'swad': {}}, r'saved by the strategy plain, and the options ask for plain \+ swad'),
        ({'swad': {}}, {'ema_time': 5}, r'by the strategy plain \+ swad, and the options ask for plain \+ ema'),
        ({'head_first': HEAD}, {}, r'by the strategy lp_ft, and the options ask for plain'),
    ],
)
def test_a_run_goes_on_with_the_average_that_it_began_with(pictures, tmp_path, saved, asked, message):
    state = build(small(pictures, tmp_path, **saved)).training_state()
    with pytest.raises(ValueError, match=message):
        build(small(pictures, tmp_path, **asked)).resume_training(state)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('baselines')
    trainings.make_pictures(folder)
    torch.manual_seed(0)
    save_checkpoint({'params': TwoConvs().state_dict()}, folder / 'pretrained.pth')
    return folder


def run(folder, name, **changes):
    """A training in this process; returns its last weights and its last training state."""
    changes = {'datasets__train__num_worker_per_gpu': 0, 'train__ema_decay': None, **changes}
    changes = {'network_g': {'type': 'TwoConvs'}, 'train__total_iter': 12, 'val__val_freq': 2, **changes}
    changes = {'logger__save_checkpoint_freq': 1, 'logger__save_best': None, **changes}
    file = trainings.write_options(folder, name, changes.pop('model_type', 'SRModel'), **changes)
    args = Namespace(opt=str(file), set=[], launcher='none', auto_resume=False, local_rank=0, debug=False)
    train_pipeline(str(folder), args)
    experiment = folder / 'experiments' / name
    return (
        load_checkpoint(experiment / 'models' / 'net_g_latest.pth'),
        load_checkpoint(experiment / 'training_states' / '12.state'),
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize(
    ('name', 'changes', 'killed'),
    [
        ('lp_ft', {'train__head_first': {'iter': '50%', 'prefixes': ['head']}}, (5, 6, 7)),
        ('ema', {'train__ema_time': '25%'}, (5,)),
        ('swad', {'train__swad': {'converged': 2, 'patience': 2, 'tolerance': 1.0}}, (3, 5, 7, 9)),
        ('wise_ft', {'train__wise_ft': 0.5}, (5,)),
    ],
)
def test_a_run_that_goes_on_ends_as_the_whole_one(folder, logged, monkeypatch, name, changes, killed):
    losses, decide = {2: 1.0, 4: 0.5, 6: 0.6, 8: 0.7, 10: 0.8, 12: 0.9}, SWAD.after_validation  # of a run that overfits
    monkeypatch.setattr(SWAD, 'after_validation', lambda swad, at, loss: decide(swad, at, losses[at]))
    start = {'path__pretrain_network_g': str(folder / 'pretrained.pth')}
    weights, state = run(folder, name, **changes, **start)
    if name == 'swad':
        texts = ' '.join(record.getMessage() for record in logged.records)
        assert 'averaged span begins at iteration 4' in texts and 'averaged span ends at iteration 4' in texts
    for iteration in killed:
        states = folder / 'experiments' / name / 'training_states'
        from_there = {'path__resume_state': str(states / f'{iteration}.state'), 'path__resume_another_run': True}
        again = run(folder, f'{name}_{iteration}', **changes, **start, **from_there)
        assert same(again[0], weights), iteration
        for key in ('strategy', 'optimizers'):
            assert same(again[1][key], state[key]), (iteration, key)


def written(folder, **changes):
    return yaml.safe_load(
        trainings.write_options(folder, 'checked', changes.pop('model_type', 'SRModel'), **changes).read_text()
    )


PLAIN = {'train__ema_decay': 0}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train__ema_decay': 0.9, 'train__ema_time': 10}, r'train\.ema_time: not with ema_decay'),
        ({'train__ema_decay': 0.9, 'train__swad': {}}, r'train\.swad: not with ema_decay'),
        ({'train__ema_time': 1}, r'train\.ema_time: must be above 1 iteration, and is 1'),
        ({'train__ema_time': '2%'}, r'train\.ema_time: must be above 1 iteration, and is 0\.6'),
        ({'train__ema_time': 'long'}, r'train\.ema_time: must be a number of at least 1 or a share of'),
        (
            {'train__head_first': {'iter': 30, 'prefixes': 'x'}},
            r'head_first\.iter: must be .* below total_iter, 30, and',
        ),
        ({'train__head_first': {'iter': '1%', 'prefixes': 'x'}}, r'head_first\.iter: must be at least 1 and below'),
        ({'train__head_first': {'iter': '100%', 'prefixes': 'x'}}, r'head_first\.iter: .*, and is 30'),
        ({'train__head_first': {}}, r'train\.head_first\.iter: missing'),
        ({'train__swad': {'tolerance': 0.9}}, r'train\.swad\.tolerance: must be a number of at least 1'),
        ({'train__swad': {}, 'val__val_freq': None}, r'val\.val_freq: missing; train\.swad goes by the loss'),
        ({'train__swad': {}, 'datasets__val': None}, r'datasets\.val: missing; train\.swad goes by the loss'),
        ({'train__wise_ft': 0.5}, r'path\.pretrain_network_g: missing; train\.wise_ft interpolates'),
        ({'train__wise_ft': 1.5}, r'train\.wise_ft: must be a number of at least 0 and at most 1'),
        *(
            ({'model_type': 'LDTModel', f'train__{key}': value}, rf'train\.{key}: .*LDT .*; leave it out')
            for key, value in {
                **{'ema_decay': 0.9, 'ema_time': 9, 'swad': {}},
                'head_first': {'iter': 3, 'prefixes': 'x'},
            }.items()
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(tmp_path, changes, message):
    opt = written(tmp_path, **{**PLAIN, **changes})
    if opt['datasets'].get('val') is None:
        del opt['datasets']['val']
    with pytest.raises(ValueError, match=message):
        check_options(opt, is_train=True)


@pytest.mark.parametrize(
    ('changes', 'warning'),
    [
        ({'val__val_freq': None}, 'logger.save_best: without effect: nothing is validated without val.val_freq'),
        (
            {'logger__keep_checkpoints': 3, 'logger__save_checkpoint_freq': None},
            'logger.keep_checkpoints: without effect: no checkpoints are made without save_checkpoint_freq',
        ),
        ({'train__swad': {'converged': 6}}, 'train.swad: without effect: the span takes 6 validations to begin, and'),
        ({'train__swad': {}}, None),
        ({'train__ema_time': '5%'}, None),
        ({'logger__keep_checkpoints': 3}, None),
    ],
)
def test_options_without_effect_are_warned_about(tmp_path, changes, warning):
    opt = written(tmp_path, **{**PLAIN, **changes})
    _, warnings = check_options(opt, is_train=True)
    assert [text[: len(warning or '')] for text in warnings] == ([warning] if warning else [])
    assert not check_options(opt, is_train=False)[1], 'a test reads none of them'
