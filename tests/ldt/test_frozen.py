"""Batch statistics that stay what they are, whatever becomes of the network."""

import copy
import pickle

import pytest
import torch
from torch import nn

import ldt
from ldt.frozen import FrozenStatistics, thawed_normalizations
from tests.ldt.test_statistics import KINDS, Grouped, data


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), Grouped(8), nn.LayerNorm(8), nn.Linear(8, 2)
    )


def loss_fn(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def modes(net):
    return [module.training for module in net.modules() if not list(module.children())]


def statistics(net):
    return {name: value.clone() for name, value in net.named_buffers()}


FROZEN = [True, False, True, True, False, True, True]


def test_a_network_whose_statistics_stay():
    net = network()
    state = copy.deepcopy(net.state_dict())
    assert ldt.freeze_batch_statistics(net) == 2
    assert modes(net) == FROZEN and ldt.freeze_batch_statistics(net) == 2
    for one in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert modes(one.train()) == FROZEN
        assert not any(modes(one.eval())) and modes(one.train()) == FROZEN
        assert [type(module).__name__ for module in thawed_normalizations(one)] == []
        assert isinstance(one[1], nn.BatchNorm1d) and isinstance(one[1], FrozenStatistics)
    torch.testing.assert_close(dict(net.state_dict()), dict(state), rtol=0, atol=0)
    assert repr(net) == repr(network()), 'it is called what it was'
    assert not isinstance(network()[1], FrozenStatistics), 'others of the kind are as they were'
    before, optimizer = statistics(net), torch.optim.SGD(net.parameters(), lr=0.1)
    weight = net[1].weight.detach().clone()
    for batch in data():
        optimizer.zero_grad()
        loss_fn(net, batch).backward()
        optimizer.step()
    torch.testing.assert_close(statistics(net), before, rtol=0, atol=0)
    assert not torch.equal(net[1].weight, weight), 'weights of normalizations train'
    other = network()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(net[:2](batch[0]), other[:2].eval()(batch[0])), 'they normalize as in evaluation'


@pytest.mark.parametrize('kind', KINDS)
def test_it_goes_through_the_method(kind):
    """Warmed up, scored, decomposed, and its composite asks for no statistics."""
    net, batches = network(), data()
    ldt.freeze_batch_statistics(net)
    before = statistics(net)
    ldt.warm_up(net, batches, loss_fn, '6', 3)
    partition = ldt.Partition.from_scores(ldt.score_layers(net, batches, loss_fn))
    assert modes(net) == FROZEN
    branches = kind(net, partition, ldt.fixed_decay(partition, 0.5), 2)
    optimizer = torch.optim.Adam(branches.trainable_parameters(), lr=0.01)
    for batch in batches:
        optimizer.zero_grad()
        for branch in branches.train().branches():
            loss_fn(branch, batch).backward()
        optimizer.step()
        branches.step()
    with branches.composite() as composite:
        composite(batches[0][0])
    torch.testing.assert_close(statistics(branches.network), before, rtol=0, atol=0)
    assert modes(branches.network) == FROZEN


def test_a_network_without_any():
    assert ldt.freeze_batch_statistics(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == 0
