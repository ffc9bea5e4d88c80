"""Batch statistics of networks that no batch was trained with, against computations of their own."""

import copy
import math

import pytest
import torch
from torch import nn

from basicsr import evaluation
from basicsr.data.data_sampler import endless
from basicsr.data.loaders import loader_beside_the_training
from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.strategies.batch_statistics import BatchStatistics, normalizations
from basicsr.utils.misc import get_random_state, set_random_state
from tests.basicsr.models.test_models import pictures
from tests.basicsr.strategies import test_baselines
from tests.basicsr.strategies.test_strategies import (
    TwoConvsWithStatistics,
    iterations,
    labels,
    prepared,
    pretrained,
    same,
    section,
    written,
)

__all__ = ['labels', 'pictures', 'pretrained', 'written']

folder = test_baselines.folder


def recomputed(net, loss, loader, count):
    """(mean, variance) of each normalization of a copy of `net`: means over the calls, of what enters it."""
    net = copy.deepcopy(net).train()
    seen = {name: [] for name, module in net.named_modules() if module in normalizations(net)}

    def note(name):
        def before_call(module, inputs):
            x = inputs[0].double()
            dims = [dim for dim in range(x.dim()) if dim != 1]
            if isinstance(module, nn.modules.instancenorm._InstanceNorm):
                mean, variance = x.mean(dims[1:]).mean(0), x.var(dims[1:]).mean(0)
            else:
                mean, variance = x.mean(dims), x.var(dims)
            seen[name].append((mean, variance))

        return before_call

    for name in seen:
        net.get_submodule(name).register_forward_pre_hook(note(name))
    with torch.no_grad():
        for _, batch in zip(range(count), endless(loader), strict=False):
            loss(net, batch)
    return {name: [torch.stack(column).mean(0) for column in zip(*calls, strict=True)] for name, calls in seen.items()}


def assert_right(net, expected):
    assert expected
    for name, (mean, variance) in expected.items():
        module = net.get_submodule(name)
        assert torch.allclose(module.running_mean.double(), mean, rtol=1e-5, atol=1e-6), name
        assert torch.allclose(module.running_var.double(), variance, rtol=1e-5, atol=1e-6), name


def test_what_is_published_has_statistics_of_its_own_weights(written, labels):
    """Unless it is the network that trains, whose statistics are those of the training."""
    opt = written(labels, 'TwoConvsWithStatistics')
    model = iterations(prepared(opt), opt, 1, 5)
    random_state = get_random_state()
    trained = dict(model.strategy.network.named_buffers())
    with model.published() as net:
        if net is model.strategy.network and 'ldt' not in model.strategy.names():
            assert {*labels} <= {'lp_ft'}, 'an average published the trained network'
            assert all(buffer is trained[name] for name, buffer in net.named_buffers())
            return
        lent = copy.deepcopy(net)
    set_random_state(random_state)
    expected = recomputed(lent, model.loss, loader_beside_the_training(opt), 3)
    assert_right(lent, expected)
    with pytest.raises(AssertionError):
        assert_right(model.strategy.network, expected)


class Counted(nn.Module):
    """Counts its calls in training, as some layers do."""

    def __init__(self):
        super().__init__()
        self.register_buffer('calls', torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += self.training
        return x


class Frozen(nn.BatchNorm2d):
    """Normalizes by its running statistics always, as users freeze them."""

    def train(self, mode=True):
        return super().train(False)


def network(*norms):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *norms, Counted(), nn.Conv2d(4, 4, 3))
    for module in normalizations(net):
        nn.init.uniform_(module.running_mean)
        nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


class Loader(list):
    """Batches of pictures; an epoch has three, the last of which is smaller."""

    sampler = None

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        super().__init__(torch.rand(size, 3, 9, 8, generator=generator) for size in (4, 4, 2))


def run(net, batch):
    return net(batch).mean()


def statistics(count=5):
    return BatchStatistics(run, Loader, count)


NORMS = {
    'batch': [nn.BatchNorm2d],
    'synchronized': [nn.SyncBatchNorm],
    'instance': [lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True)],
    'one-dimensional': [
        lambda channels: nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(channels), nn.Unflatten(2, (7, 6))),
        lambda channels: nn.BatchNorm2d(channels, momentum=None),
    ],
}


@pytest.mark.parametrize('norms', NORMS.values(), ids=NORMS)
def test_each_kind_of_normalization(norms):
    net = network(*(norm(4) for norm in norms)).eval()
    expected = recomputed(net, run, Loader(), 5)
    assert len(expected) == len(norms)
    momenta = [module.momentum for module in normalizations(net)]
    statistics().put_into(net, 0)
    assert_right(net, expected)
    assert [module.momentum for module in normalizations(net)] == momenta
    assert not any(module.training or module._forward_pre_hooks for module in net.modules())
    assert net[-2].calls == 0, 'other buffers are what they were'
    assert all(parameter.grad is None for parameter in net.parameters())


def test_batch_norms_are_those_of_torch():
    """To the bit."""
    net = network(nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    other = copy.deepcopy(net)
    statistics().put_into(net, 0)
    torch.optim.swa_utils.update_bn([*Loader(), *Loader()][:5], other)
    for one, two in zip(normalizations(net), normalizations(other), strict=True):
        assert same(one.state_dict(), two.state_dict())


def test_frozen_normalizations_keep_theirs():
    net = network(Frozen(4), nn.BatchNorm2d(4)).eval()
    before = copy.deepcopy(net[1].state_dict())
    statistics().put_into(net, 0)
    assert same(net[1].state_dict(), before)
    assert net[2].num_batches_tracked == 5


def test_statistics_that_are_no_numbers_are_replaced():
    net = network(nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True)).eval()
    for module in normalizations(net):
        module.running_mean.fill_(math.nan)
    statistics().put_into(net, 0)
    assert_right(net, recomputed(net, run, Loader(), 5))


def test_they_are_computed_once_for_each_version():
    net, calls = network(nn.BatchNorm2d(4)).eval(), []
    computes = BatchStatistics(lambda net, batch: calls.append(run(net, batch)), Loader, 2)
    for version, made in ((0, 2), (0, 2), (1, 4), (0, 6), (None, 8), (None, 10)):
        computes.put_into(net, version)
        assert len(calls) == made, version


@pytest.mark.parametrize('norm', [nn.Identity(), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4)])
def test_networks_without_running_statistics_need_no_batches(norm):
    net = network(norm)
    before = copy.deepcopy(net.state_dict())
    BatchStatistics(run, lambda: pytest.fail('there is nothing to compute')).put_into(net, 0)
    torch.testing.assert_close(dict(net.state_dict()), dict(before), rtol=0, atol=0)


def test_without_batches_there_are_none():
    with pytest.raises(ValueError, match='batch statistics of their own, and there are no training batches'):
        BatchStatistics(run, lambda: None).put_into(network(nn.BatchNorm2d(4)), 0)


def test_an_error_leaves_no_trace():
    def fails(net, batch):
        net(batch)
        raise ValueError('in the middle')

    net = network(nn.BatchNorm2d(4)).train()
    before, state = copy.deepcopy(net.state_dict()), get_random_state()
    with pytest.raises(ValueError, match='in the middle'):
        BatchStatistics(fails, Loader).put_into(net, 0)
    assert same(net.state_dict(), before) and same(get_random_state(), state)
    assert net[1].momentum == 0.1 and net[1].training and not net[1]._forward_pre_hooks


RUNS = {
    'ema': ['ema'],
    'swad': ['swad'],
    'ldt': ['ldt'],
    'ldt_s': ['ldt, alternating'],
    'wise_ft_ldt': ['wise_ft', 'ldt'],
    'wise_ft_ema': ['wise_ft', 'ema'],
}


@pytest.fixture
def computed(monkeypatch):
    """Copies of the networks for which statistics were computed, and the statistics as they should be."""
    found, compute = [], BatchStatistics._computed

    def record(self, net, modules):
        state = get_random_state()
        expected = recomputed(net, self.loss, self.batches(), self.count)
        set_random_state(state)
        found.append((copy.deepcopy(net), expected))
        return compute(self, net, modules)

    monkeypatch.setattr(BatchStatistics, '_computed', record)
    return found


def assert_computed(weights, computed):
    """Whether these weights have the statistics that were computed for them."""
    for net, expected in computed:
        if all(torch.equal(weights[name], value) for name, value in net.named_parameters()):
            net.load_state_dict(weights)
            assert_right(net, expected)
            return
    pytest.fail('for these weights no statistics were computed')


@pytest.mark.parametrize('name', RUNS)
def test_all_that_a_run_leaves_has_the_same(folder, monkeypatch, computed, name):
    """`best`, `latest`, the table at the end, a run that goes on: all from the option file."""
    tested, evaluate = {}, evaluation.evaluate
    monkeypatch.setattr(evaluation, 'evaluate', lambda *args: tested.update(args[1]) or evaluate(*args))
    torch.manual_seed(1)
    save_checkpoint({'params': TwoConvsWithStatistics().state_dict()}, folder / 'statistics.pth')
    changes = {f'train__{key}': value for key, value in section(RUNS[name]).items()}
    changes.update(network_g={'type': 'TwoConvsWithStatistics'}, logger__save_best='psnr')
    changes.update(path__pretrain_network_g=str(folder / 'statistics.pth'), logger__save_checkpoint_freq=2)
    roots = {f'dataroot_{kind}': str(folder / 'val' / part) for kind, part in (('gt', 'HR'), ('lq', 'LR'))}
    changes.update(datasets__test={'type': 'PairedImageDataset', **roots})
    latest, _ = test_baselines.run(folder, name, **changes)
    models = folder / 'experiments' / name / 'models'
    best, key = load_checkpoint(models / 'net_g_best.pth'), 'params_ema' if name == 'ema' else 'params'
    at = [load_checkpoint(models / f'net_g_{number}.pth') for number in range(2, 13, 2)]
    assert same(at[-1], latest)
    assert any(same(one, best) for one in at), 'what was validated was kept'
    assert same(dict(tested['after'].net_g.state_dict()), dict(best[key]))
    for weights in (latest, best):
        assert_computed(weights[key], computed)
    state = folder / 'experiments' / name / 'training_states' / '4.state'
    changes.update(path__resume_state=str(state), path__resume_another_run=True)
    again, _ = test_baselines.run(folder, f'{name}_again', **changes)
    assert same(again, latest)
