import copy

import pytest
import torch
from torch import nn

import ldt
from tests.recipe import FourConvs, batch, fill, l1_loss

NAMES = [name for name, _ in FourConvs().named_parameters()]
FIRST, SECOND = ldt.Partition(NAMES[:4], NAMES[4:]), ldt.Partition(NAMES[2:6], NAMES[:2] + NAMES[6:])
MOVED = sorted(NAMES[:2] + NAMES[4:6])


def decomposition(partition=FIRST, model=None, exchange_every=2):
    return ldt.LayerDecomposition(
        model or fill(FourConvs(), 0), partition, ldt.fixed_decay(partition, 0.9), exchange_every
    )


def split_anew(net, partition, optimizer=None):
    moved = net.repartition(partition, ldt.fixed_decay(partition, 0.9))
    if optimizer is not None:
        optimizer.param_groups[0]['params'] = net.trainable_parameters()
    return moved


def train(net, optimizer, first, last, dtype=torch.float32):
    for step in range(first, last + 1):
        optimizer.zero_grad()
        for branch in net.branches():
            l1_loss(branch, [part.to(dtype) for part in batch(step, 2, 8, 8, 2)]).backward()
        optimizer.step()
        net.step()


def adam(net):
    return torch.optim.Adam(net.trainable_parameters(), lr=1e-3)


def sides(net):
    """(trained, averaged) values of every layer."""
    primary, auxiliary = net.primary.state_dict(), net.auxiliary.state_dict()
    stable = {*net.partition.stable}
    return {
        name: tuple(tensor.clone() for tensor in (pair if name in stable else pair[::-1]))
        for name, pair in ((name, (primary[name], auxiliary[name])) for name in primary)
    }


def test_no_weight_changes():
    net = decomposition()
    train(net, adam(net), 1, 5)
    before, composite = sides(net), net.composite_state_dict()
    assert split_anew(net, SECOND) == MOVED
    assert net.partition is SECOND
    for name, pair in sides(net).items():
        assert all(torch.equal(a, b) for a, b in zip(pair, before[name], strict=True)), name
        assert not torch.equal(*pair), 'the two sides of a layer differ, or this test shows nothing'
    assert all(torch.equal(value, composite[name]) for name, value in net.composite_state_dict().items())
    for name, parameter in net.primary.named_parameters():
        assert parameter.requires_grad == (name in SECOND.stable)
    for name, parameter in net.auxiliary.named_parameters():
        assert parameter.requires_grad == (name in SECOND.unstable)


def test_the_same_partition_changes_nothing():
    nets = [decomposition(), decomposition()]
    for net, anew in zip(nets, (False, True), strict=True):
        optimizer = adam(net)
        train(net, optimizer, 1, 3)
        if anew:
            assert split_anew(net, copy.deepcopy(FIRST), optimizer) == []
        train(net, optimizer, 4, 7)
    for name, pair in sides(nets[0]).items():
        assert all(torch.equal(a, b) for a, b in zip(pair, sides(nets[1])[name], strict=True)), name


def test_moments_go_with_their_layers():
    net = decomposition()
    optimizer = adam(net)
    train(net, optimizer, 1, 5)

    def moments():
        names = [*net.partition.stable, *net.partition.unstable]
        return {
            name: optimizer.state[parameter]['exp_avg'].clone()
            for name, parameter in zip(names, optimizer.param_groups[0]['params'], strict=True)
        }

    before = moments()
    split_anew(net, SECOND, optimizer)
    after = moments()
    assert before.keys() == after.keys() == {*NAMES}
    assert all(torch.equal(after[name], before[name]) for name in NAMES)
    train(net, optimizer, 6, 7)
    assert all(optimizer.state[p]['step'] == 7 for p in net.trainable_parameters()) and len(optimizer.state) == 8


def test_a_saved_run_goes_on_with_the_new_partition():
    def run(stop_at=None):
        net = decomposition()
        optimizer = adam(net)
        train(net, optimizer, 1, 5)
        split_anew(net, SECOND, optimizer)
        if stop_at:
            state = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
            net = decomposition(ldt.Partition.from_dict(state[0]['partition']))
            net.load_state_dict(state[0])
            optimizer = adam(net)
            optimizer.load_state_dict(state[1])
        train(net, optimizer, 6, 9)
        return net

    whole, resumed = run(), run(stop_at=5)
    for name, pair in sides(whole).items():
        assert all(torch.equal(a, b) for a, b in zip(pair, sides(resumed)[name], strict=True)), name


def test_tied_weights_move_together():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.three.weight = self.one.weight

        def forward(self, x):
            return self.three(self.two(self.one(x)))

    torch.manual_seed(0)
    names = [name for name, _ in Tied().named_parameters()]
    first, second = ldt.Partition(names[:2], names[2:]), ldt.Partition(names[2:], names[:2])
    net = decomposition(first, Tied())
    optimizer = adam(net)
    for anew in (False, True):
        if anew:
            split_anew(net, second, optimizer)
        for branch in net.branches():
            branch(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
        net.step()
        for branch in (net.primary, net.auxiliary):
            assert branch.one.weight is branch.three.weight
    trained = dict(net.auxiliary.named_parameters())['one.weight']
    assert trained.requires_grad and optimizer.state[trained]['step'] == 2


def test_float32_averages_of_low_precision_layers_survive():
    net = decomposition(model=fill(FourConvs(), 0).bfloat16(), exchange_every=1)
    # Plain descent: what moves is the average.
    optimizer = torch.optim.SGD(net.trainable_parameters(), lr=0.1)
    train(net, optimizer, 1, 3, torch.bfloat16)

    def averages():
        names = [*net.partition.unstable], [*net.partition.stable]
        return {
            name: precise.clone()
            for group, average in zip(names, net._averages, strict=True)
            for name, precise in zip(group, average.precise, strict=True)
        }

    before = averages()
    assert not all(torch.equal(value, value.bfloat16().float()) for value in before.values())
    split_anew(net, SECOND)
    after = averages()
    stayed = {*NAMES} - {*MOVED}
    assert after.keys() == {*NAMES}
    assert all(torch.equal(after[name], before[name]) for name in stayed | {*MOVED})


def test_wrong_use_names_the_layers():
    net = decomposition()
    other = ldt.Partition([*NAMES[:4], 'new.weight'], NAMES[5:])
    with pytest.raises(ValueError, match=rf'must have the layers of the old one, not .*{NAMES[4]}.*new\.weight'):
        net.repartition(other, ldt.fixed_decay(other, 0.9))
    with pytest.raises(ValueError, match='no decay is given for'):
        net.repartition(SECOND, {})
    assert net.partition is FIRST
    with net.composite(), pytest.raises(ValueError, match=r'repartition\(\) was called inside'):
        split_anew(net, SECOND)


def by_kind(net):
    named = dict(net.named_trainable_parameters())
    weights, biases = ([value for name, value in named.items() if name.endswith(kind)] for kind in ('weight', 'bias'))
    return [{'params': weights}, {'params': biases, 'lr': 1e-2}]


def by_side(net):
    named = dict(net.named_trainable_parameters())
    return [
        {'params': [named[name] for name in net.partition.stable]},
        {'params': [named[name] for name in net.partition.unstable], 'lr': 1e-4},
    ]


def in_one(net):
    return [{'params': net.trainable_parameters()}]


@pytest.mark.parametrize('make_groups', [in_one, by_kind, by_side])
@pytest.mark.parametrize('kind', [ldt.LayerDecomposition, ldt.AlternatingDecomposition])
def test_groups_are_made_again_by_the_recipe(kind, make_groups):
    """Each tensor is in one group, where it belongs, with its moments; a resumed run ends the same."""

    def fresh(partition):
        net = kind(fill(FourConvs(), 0), partition, ldt.fixed_decay(partition, 0.9), 2)
        return net, torch.optim.Adam(make_groups(net), lr=1e-3)

    def run(stop):
        net, optimizer = fresh(FIRST)
        train(net, optimizer, 1, 5)
        moments = {id(parameter): state['exp_avg'].clone() for parameter, state in optimizer.state.items()}
        net.repartition(SECOND, ldt.fixed_decay(SECOND, 0.9))
        for group, anew in zip(optimizer.param_groups, make_groups(net), strict=True):
            group['params'] = list(anew['params'])
        listed = [id(parameter) for group in optimizer.param_groups for parameter in group['params']]
        assert len(listed) == len({*listed}) == 8 and {*listed} == {id(value) for value in net.trainable_parameters()}
        for group, anew in zip(optimizer.param_groups, make_groups(net), strict=True):
            assert group['lr'] == anew.get('lr', 1e-3)
            assert all(one is other for one, other in zip(group['params'], anew['params'], strict=True))
        assert all(torch.equal(state['exp_avg'], moments[id(value)]) for value, state in optimizer.state.items())
        if stop:
            states = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
            net, optimizer = fresh(SECOND)
            net.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        train(net, optimizer, 6, 9)
        return net.composite_state_dict()

    whole, resumed = run(False), run(True)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
