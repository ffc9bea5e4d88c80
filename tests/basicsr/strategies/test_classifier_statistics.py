"""Batch statistics of what is published of a classifier: its own, and worth the trouble; or frozen, and left alone."""

import copy
import functools
import logging

import pytest
import torch
from torch import nn

from basicsr.archs.frozen_statistics import freeze_if_asked
from basicsr.data.loaders import loader_beside_the_training
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.strategies import ldt_report
from basicsr.strategies.batch_statistics import BatchStatistics
from ldt.statistics import normalizations
from tests.basicsr.strategies.classifiers import StripesNet, accuracy, begun, options, prepared, trained
from tests.basicsr.strategies.test_baselines import one_process
from tests.basicsr.strategies.test_batch_statistics import assert_right, recomputed

__all__ = ['one_process']

SLOW = {'update': 'fixed', 'scoring_batches': 4}
PUBLISHED = {
    'EMA': {'ema_decay': 0.985},
    'SWAD': {'swad': {'converged': 1, 'tolerance': 100.0}},
    'WiSE-FT': {'wise_ft': 0.5},
    'LDT': {'ldt': {**SLOW, 'exchange_every': 1, 'fixed_decay': 0.988}},
    'LDT-S': {'ldt': {**SLOW, 'strategy': 'alternating', 'alternate_every': 1, 'fixed_decay': 0.975}},
}
COUNT = 6
"""Batches that statistics are computed over here."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(ldt_report, 'plot_layer_scores', lambda *_: None)
    few = classmethod(lambda cls, setting: cls(setting.loss, setting.batches, COUNT))
    monkeypatch.setattr(BatchStatistics, 'of', few)


@pytest.fixture
def written(tmp_path):
    """Options of a run that begins with weights of another training, of which these are in place: smaller features."""

    def write(**train):
        torch.manual_seed(13)
        net = StripesNet()
        with torch.no_grad():
            net.body[0].weight.mul_(0.3)
        torch.save({'params': net.state_dict()}, tmp_path / 'start.pth')
        opt = options(tmp_path, count=16, total_iter=120, **train)
        opt['train']['optim_g']['lr'] = 0.03
        opt['datasets']['train']['batch_size_per_gpu'] = 16
        opt['path']['pretrain_network_g'] = str(tmp_path / 'start.pth')
        return opt

    return write


def published(model):
    with model.published() as net:
        return copy.deepcopy(net)


@pytest.mark.parametrize('name', PUBLISHED)
def test_what_is_published_has_its_own_and_would_err_with_others(written, tmp_path, record_property, name):
    """Computed by other means; saved so; and beside them the trained network's, which would be there otherwise.

    Seen on 2 cores: EMA 1.00 against 0.65, SWAD 0.99 against 0.67, WiSE-FT 1.00 against 0.33, LDT 0.83 against 0.56,
    LDT-S 0.78 against 0.37.
    """
    opt = written(**PUBLISHED[name])
    model = trained(prepared(opt), opt, 1, 60)
    model.strategy.after_validation(60, 1.0)
    trained(model, opt, 61, 120)
    net = published(model)
    expected = recomputed(net, model.loss, loader_beside_the_training(opt), COUNT)
    assert_right(net, expected)
    model.save_weights('best')
    saved = load_checkpoint(tmp_path / 'models' / 'net_g_best.pth')[model.param_key]
    torch.testing.assert_close(dict(saved), dict(net.state_dict()), rtol=0, atol=0)

    stale = StripesNet().eval()
    stale.load_state_dict({**net.state_dict(), **dict(model.strategy.network.named_buffers())})
    with pytest.raises(AssertionError):
        assert_right(stale, expected)
    right, wrong = accuracy(net), accuracy(stale)
    record_property('accuracy', f'{right:.3f}, with the statistics of the trained network {wrong:.3f}')
    assert right > 0.6 and right > wrong + 0.1, (right, wrong)


def everything_frozen(net, start):
    """Whether all of a network's statistics are those of `start`, and not in training mode."""
    own = dict(net.named_buffers())
    return all(torch.equal(value, start[name]) for name, value in own.items()) and not any(
        module.training for module in normalizations(net)
    )


STRATEGIES = {
    'plain': {},
    'LP-FT': {'head_first': {'iter': 2}},
    **PUBLISHED,
    'LDT, warmed up': {'ldt': {**PUBLISHED['LDT']['ldt'], 'warmup_iter': 2, 'repartition_every': 3}},
}


@pytest.mark.parametrize('name', STRATEGIES)
def test_frozen_statistics_stay_under_every_strategy(written, tmp_path, monkeypatch, name):
    """In every branch, scored, rehearsed, validated and resumed; recomputation leaves them alone, without a batch."""
    monkeypatch.setattr(BatchStatistics, '_computed', lambda *_: pytest.fail('statistics were computed'))
    opt = written(**STRATEGIES[name], freeze_batch_statistics=True)
    model = begun(opt)
    start = {key: value.clone() for key, value in model.net_g.state_dict().items()}
    model.rehearse_step(next(iter(model.train_loader)))
    model.before_training(model.train_loader)
    for iteration in range(1, 6):
        trained(model, opt, iteration, iteration)
        for _, net in model.strategy.networks():
            net.train()
            assert everything_frozen(net, start)
            assert net.training and net.body[2].training
        assert everything_frozen(published(model), start), iteration
        if iteration == 2:
            model.strategy.after_validation(2, 1.0)
            model.save(0, 2)
    trained_now = dict(model.strategy.network.named_parameters())
    assert any(not torch.equal(trained_now[f'body.1.{key}'], start[f'body.1.{key}']) for key in ('weight', 'bias'))

    resumed = begun(opt)
    resumed.resume_training(load_checkpoint(tmp_path / 'training_states' / '2.state'))
    resumed.before_going_on()
    trained(resumed, opt, 3, 5)
    end = dict(published(model).state_dict())
    torch.testing.assert_close(dict(published(resumed).state_dict()), end, rtol=0, atol=0)


def test_frozen_statistics_in_wrappers(written, monkeypatch, one_process):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    opt = written(**PUBLISHED['LDT'], freeze_batch_statistics=True, compile=True)
    model = prepared({**opt, 'dist': True})
    start = {key: value.clone() for key, value in model.strategy.network.state_dict().items()}
    trained(model, opt, 1, 3)
    for _, net in model.strategy.networks():
        assert isinstance(net._orig_mod, nn.parallel.DistributedDataParallel)
        net.train()
        assert everything_frozen(net._orig_mod.module, start)


def test_without_statistics_the_option_is_doubted(caplog):
    with caplog.at_level(logging.WARNING, 'basicsr'):
        freeze_if_asked(nn.Linear(2, 2), {})
        freeze_if_asked(nn.BatchNorm1d(2), {'freeze_batch_statistics': True})
        assert not caplog.records
        freeze_if_asked(nn.Linear(2, 2), {'freeze_batch_statistics': True})
    assert 'train.freeze_batch_statistics: without effect: the network (Linear) has no norm' in caplog.text
