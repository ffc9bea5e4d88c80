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
from tests.basicsr.strategies.classifiers import NETWORKS, StripesNet, accuracy, begun, options, trained
from tests.basicsr.strategies.test_baselines import one_process
from tests.basicsr.strategies.test_batch_statistics import assert_right, recomputed

__all__ = ['one_process']

FAST = {'update': 'fixed', 'fixed_decay': 0.9, 'scoring_batches': 4}
PUBLISHED = {
    'EMA': {'ema_decay': 0.95},
    'SWAD': {'swad': {'converged': 1, 'tolerance': 100.0}},
    'WiSE-FT': {'wise_ft': 0.5},
    'LDT': {'ldt': {**FAST, 'exchange_every': 1}},
    'LDT-S': {'ldt': {**FAST, 'strategy': 'alternating', 'alternate_every': 1}},
}
COUNT = 6
"""Batches that statistics are computed over here."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(ldt_report, 'plot_layer_scores', lambda *_: None)
    monkeypatch.setattr(BatchStatistics.__init__, '__defaults__', (COUNT,))


@pytest.fixture
def pretrained(tmp_path):
    """Weights that stand for those of another training: of far smaller features."""
    torch.manual_seed(11)
    net = StripesNet()
    with torch.no_grad():
        net.body[0].weight.mul_(0.3)
        net.body[1].running_mean.normal_()
    torch.save({'params': net.state_dict()}, tmp_path / 'start.pth')
    return str(tmp_path / 'start.pth')


def begun_with(tmp_path, pretrained, **train):
    opt = options(tmp_path, total_iter=60, **train)
    opt['train']['optim_g']['lr'] = 0.02
    opt['path']['pretrain_network_g'] = pretrained
    model = begun(opt)
    model.before_training(model.train_loader)
    return opt, model


def published(model):
    with model.published() as net:
        return copy.deepcopy(net)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_statistics_are_those_of_its_weights_and_skipping_them_costs_accuracy(tmp_path, pretrained, name):
    """Computed anew by other means; and beside them, the trained network's, which the weights would have otherwise."""
    opt, model = begun_with(tmp_path, pretrained, **PUBLISHED[name])
    trained(model, opt, 1, 40)
    model.strategy.after_validation(40, 1.0)
    trained(model, opt, 41, 60)
    net = published(model)
    assert_right(net, recomputed(net, model.loss, loader_beside_the_training(opt), COUNT))
    model.save_weights('best')
    saved = load_checkpoint(tmp_path / 'models' / 'net_g_best.pth')[model.param_key]
    torch.testing.assert_close(dict(saved), dict(net.state_dict()), rtol=0, atol=0)

    stale = StripesNet().eval()
    stale.load_state_dict({**net.state_dict(), **dict(model.strategy.network.named_buffers())})
    right, wrong = accuracy(net), accuracy(stale)
    print(f'{name}: accuracy {right:.3f}, and {wrong:.3f} with the statistics of the trained network')
