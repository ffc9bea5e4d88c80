"""LDT-S: one network that is the primary and the auxiliary by turns."""

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import ldt
from basicsr.runs.measuring import peak_extra_bytes
from tests.recipe import FourConvs, batch, fill, l1_loss

NAMES = [name for name, _ in FourConvs().named_parameters()]
FIRST, SECOND = ldt.Partition(NAMES[:4], NAMES[4:]), ldt.Partition(NAMES[2:6], NAMES[:2] + NAMES[6:])
MOVED = sorted(NAMES[:2] + NAMES[4:6])


def alternating(partition=FIRST, alternate_every=2, decay=None, model=None):
    decay = decay or ldt.fixed_decay(partition, 0.9)
    return ldt.AlternatingDecomposition(model or fill(FourConvs(), 0), partition, decay, alternate_every)


def adam(net):
    return torch.optim.Adam(net.trainable_parameters(), lr=1e-3, betas=(0.5, 0.99))


def train(net, optimizer, first, last, dtype=torch.float32):
    for step in range(first, last + 1):
        optimizer.zero_grad()
        for branch in net.branches():
            l1_loss(branch, [part.to(dtype) for part in batch(step, 2, 8, 8, 2)]).backward()
        optimizer.step()
        net.step()


def sides(net):
    """(trained, averaged) values of every layer, copied."""
    state = net.state_dict()
    trained, _ = net._groups()
    return {
        name: tuple(tensor.clone() for tensor in (pair if name in trained else pair[::-1]))
        for name, pair in ((name, (state['network'][name], state['waiting'][name])) for name in NAMES)
    }


def same(one, other):
    return all(torch.equal(a, b) for name in NAMES for a, b in zip(one[name], other[name], strict=True))


def two_networks(iterations, every, decay):
    """The same schedule, written plainly: two copies, of which one is trained at a time."""
    branches = [fill(FourConvs(), 0), fill(FourConvs(), 0)]
    primary, auxiliary = (dict(branch.named_parameters()) for branch in branches)
    turns = [(branches[0], primary, auxiliary, FIRST.stable), (branches[1], auxiliary, primary, FIRST.unstable)]
    optimizers = [torch.optim.Adam([own[n] for n in group], lr=1e-3, betas=(0.5, 0.99)) for _, own, _, group in turns]
    for step in range(1, iterations + 1):
        turn = (step - 1) // every % 2
        branch, own, other, group = turns[turn]
        branch.zero_grad()
        l1_loss(branch, batch(step, 2, 8, 8, 2)).backward()
        optimizers[turn].step()
        if step % every == 0:
            with torch.no_grad():
                for name in group:
                    other[name].copy_(decay[name] * other[name] + (1 - decay[name]) * own[name])
    pairs = {name: (primary[name], auxiliary[name]) for name in NAMES}
    return {name: pair if name in FIRST.stable else pair[::-1] for name, pair in pairs.items()}


@pytest.mark.parametrize(
    ('every', 'iterations', 'decay'),
    [
        (1, 12, ldt.fixed_decay(FIRST, 0.9)),
        (1, 11, ldt.dynamic_decay(FIRST, (0.5, 0.4), (0.7, 0.2))),
        (3, 14, ldt.dynamic_decay(FIRST, (0.5, 0.4), (0.7, 0.2))),
    ],
)
def test_ends_where_two_networks_with_the_same_schedule_end(every, iterations, decay):
    net = alternating(alternate_every=every, decay=decay)
    train(net, adam(net), 1, iterations)
    expected, found = two_networks(iterations, every, decay), sides(net)
    start = dict(fill(FourConvs(), 0).named_parameters())
    for name in NAMES:
        for kind, ours, plain in zip(('trained', 'averaged'), found[name], expected[name], strict=True):
            assert torch.allclose(ours, plain, rtol=0, atol=1e-6), f'{kind} {name}'
            assert (ours - start[name]).abs().max() > 1e-4, f'{kind} {name} has moved, or this test shows nothing'
    composite = net.composite_state_dict()
    assert all(torch.allclose(composite[name], expected[name][1], rtol=0, atol=1e-6) for name in NAMES)


def test_large_tensors_change_places_in_pieces(monkeypatch):
    whole, pieces = alternating(), alternating()
    train(whole, adam(whole), 1, 5)
    monkeypatch.setattr('ldt.alternating._PIECE', 100)
    train(pieces, adam(pieces), 1, 5)
    assert same(sides(whole), sides(pieces))


def test_a_switch_needs_the_memory_of_one_tensor_alone():
    model = nn.Sequential(*[nn.Linear(200, 200) for _ in range(10)])
    names = [name for name, _ in model.named_parameters()]
    partition = ldt.Partition(names[:10], names[10:])
    net = ldt.AlternatingDecomposition(model, partition, ldt.fixed_decay(partition), 1)

    def run():
        net.step()
        with net.composite():
            net.network(torch.zeros(1, 200))

    assert 0 < peak_extra_bytes(run, 'cpu') < 1.5 * 4 * 200 * 200


def test_only_the_group_in_turn_is_trained_and_moments_stay():
    net = alternating()
    optimizer = adam(net)
    parameters = dict(net.network.named_parameters())
    for step, group in ((1, FIRST.stable), (3, FIRST.unstable)):
        assert net.branch_names == (('primary',), ('auxiliary',))[group is FIRST.unstable]
        assert {name for name, p in parameters.items() if p.requires_grad} == {*group}
        before = {name: p.detach().clone() for name, p in parameters.items()}
        optimizer.zero_grad(set_to_none=False)
        train(net, optimizer, step, step)
        moved = {name for name, p in parameters.items() if not torch.equal(p, before[name])}
        assert moved == {*group}
        train(net, optimizer, step + 1, step + 1)
    steps = [optimizer.state[parameter]['step'].item() for parameter in net.trainable_parameters()]
    assert steps == [2] * 8, 'one optimizer has all moments, and each counts its own steps'
    assert net.exchange_every == 4


def test_composite_is_lent_and_given_back():
    model = fill(FourConvs(), 0)
    net = alternating(model=model)
    train(net, adam(net), 1, 5)
    before, expected = sides(net), net.composite_state_dict()
    for name, (trained, averaged) in before.items():
        assert torch.equal(expected[name], averaged) and not torch.equal(trained, averaged)
    with pytest.raises(RuntimeError, match='stop'), net.composite() as lent:
        assert lent is model and not lent.training
        assert all(torch.equal(value, expected[name]) for name, value in lent.state_dict().items())
        assert all(torch.equal(value, expected[name]) for name, value in net.composite_state_dict().items())
        for method in (net.step, net.exchange, net.state_dict):
            with pytest.raises(ValueError, match='inside'):
                method()
        raise RuntimeError('stop')
    assert same(sides(net), before) and model.training


@pytest.mark.parametrize('stop_at', [3, 4, 5])
def test_resumed_run_ends_the_same(tmp_path, stop_at):
    whole = alternating(alternate_every=4)
    train(whole, adam(whole), 1, 11)
    first = alternating(alternate_every=4)
    optimizer = adam(first)
    train(first, optimizer, 1, stop_at)
    torch.save({'net': first.state_dict(), 'optimizer': optimizer.state_dict()}, tmp_path / 'run.state')
    state = torch.load(tmp_path / 'run.state', weights_only=True)
    second = alternating(ldt.Partition.from_dict(state['net']['partition']), alternate_every=1)
    second.load_state_dict(state['net'])
    optimizer = adam(second)
    optimizer.load_state_dict(state['optimizer'])
    train(second, optimizer, stop_at + 1, 11)
    assert (second.steps, second.turn) == (whole.steps, whole.turn) == (11, 'primary')
    assert same(sides(whole), sides(second))


def test_a_skipped_step_ends_no_turn():
    net = alternating()
    optimizer = adam(net)
    train(net, optimizer, 1, 1)
    for branch in net.branches():  # a loss that is not finite: neither optimizer.step() nor net.step()
        (l1_loss(branch, batch(9, 2, 8, 8, 2)) * float('nan')).backward()
    optimizer.zero_grad()
    assert net.turn == 'primary'
    train(net, optimizer, 2, 2)
    assert net.turn == 'auxiliary'
    plain = alternating()
    train(plain, adam(plain), 1, 2)
    assert same(sides(net), sides(plain))


def test_averages_of_bfloat16_weights_are_float32_and_resumed():
    def fresh():
        decay = ldt.fixed_decay(FIRST, 0.999)
        return alternating(model=fill(FourConvs(), 0).bfloat16(), alternate_every=1, decay=decay)

    net = fresh()
    start = sides(net)
    with torch.no_grad():
        for _ in range(2):
            for parameter in net.trainable_parameters():
                if parameter.requires_grad:
                    parameter.add_(0.5)
            net.step()
    other = fresh()
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    for _ in range(399):
        net.step()
        other.step()
    for name, (trained, averaged) in sides(net).items():
        assert trained.dtype is averaged.dtype is torch.bfloat16
        rest = 0.999 ** (201 if name in FIRST.stable else 200)
        expected = (1 - rest) * trained.float() + rest * start[name][1].float()
        assert torch.allclose(net.state_dict()['precise_averages'][name], expected, atol=1e-4), name
        assert torch.equal(averaged, net.state_dict()['precise_averages'][name].bfloat16())
    assert same(sides(net), sides(other))


@pytest.mark.parametrize('steps', [5, 7])
def test_splitting_anew_changes_no_value_of_either_side(steps):
    net = alternating()
    optimizer = adam(net)
    train(net, optimizer, 1, steps)
    before, composite = sides(net), net.composite_state_dict()
    moments = {name: optimizer.state[p]['exp_avg'].clone() for name, p in net.network.named_parameters()}
    assert net.repartition(SECOND, ldt.fixed_decay(SECOND, 0.9)) == MOVED
    assert net.partition is SECOND and same(sides(net), before)
    assert all(torch.equal(value, composite[name]) for name, value in net.composite_state_dict().items())
    optimizer.param_groups[0]['params'] = net.trainable_parameters()
    assert all(torch.equal(optimizer.state[p]['exp_avg'], moments[n]) for n, p in net.network.named_parameters())
    group = SECOND.stable if net.turn == 'primary' else SECOND.unstable
    assert {name for name, p in net.network.named_parameters() if p.requires_grad} == {*group}
    train(net, optimizer, steps + 1, steps + 3)


def test_the_same_partition_changes_nothing():
    nets = [alternating(), alternating()]
    for net, anew in zip(nets, (False, True), strict=True):
        optimizer = adam(net)
        train(net, optimizer, 1, 3)
        if anew:
            assert net.repartition(copy.deepcopy(FIRST), ldt.fixed_decay(FIRST, 0.9)) == []
            optimizer.param_groups[0]['params'] = net.trainable_parameters()
        train(net, optimizer, 4, 7)
    assert same(sides(nets[0]), sides(nets[1]))


def test_tied_and_frozen_weights_and_buffers():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.still = nn.Linear(4, 4, bias=False), nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.two.weight = self.one.weight
            self.still.requires_grad_(False)

        def forward(self, x):
            return self.still(self.two(self.one(x)))

    partition = ldt.Partition(['one.weight'], ['two.bias'])
    net = ldt.AlternatingDecomposition(Tied(), partition, ldt.fixed_decay(partition, 0.5), 1)
    start = net.composite_state_dict()
    (branch,) = net.branches()
    branch(torch.randn(5, 4)).square().sum().backward()
    with torch.no_grad():
        net.network.one.weight.add_(1)
    net.step()
    assert net.network.still.num_batches_tracked == 1
    state = net.composite_state_dict([torch.randn(5, 4)], lambda model, x: model(x))
    assert list(state) == list(start)
    assert torch.equal(state['one.weight'], state['two.weight'])
    assert torch.allclose(state['one.weight'], start['one.weight'] + 0.5)
    assert not net.network.still.weight.requires_grad and net.network.still.weight.grad is None
    assert net.network.still.num_batches_tracked == 1
    with net.composite() as model:
        assert model.one.weight is model.two.weight


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match='alternate_every must be a whole number of at least 1, not 0'):
        alternating(alternate_every=0)
    net = alternating()
    with pytest.raises(ValueError, match='another partition'):
        net.load_state_dict(alternating(SECOND).state_dict())
    dual = ldt.LayerDecomposition(FourConvs(), FIRST, ldt.fixed_decay(FIRST), 1)
    with pytest.raises(ValueError, match='was not saved by AlternatingDecomposition'):
        net.load_state_dict(dual.state_dict())
    with pytest.raises(ValueError, match='was not saved by LayerDecomposition'):
        dual.load_state_dict(net.state_dict())
    assert issubclass(ldt.AlternatingDecomposition, ldt.Decomposition)


def train_share(rank: int, port: int, results) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=2)
    net = alternating()
    net.wrap(DistributedDataParallel)
    optimizer = adam(net)
    for step in range(1, 10):
        if step == 6:
            net.repartition(SECOND, ldt.fixed_decay(SECOND, 0.9))
            net.wrap(DistributedDataParallel)
            optimizer.param_groups[0]['params'] = net.trainable_parameters()
        optimizer.zero_grad()
        for branch in net.branches():
            l1_loss(branch, [part[rank : rank + 1] for part in batch(step, 2, 8, 8, 2)]).backward()
        optimizer.step()
        net.step()
    results[rank] = sides(net)
    dist.destroy_process_group()


def test_two_processes_end_where_one_ends():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(train_share, (port, results), nprocs=2)
        first, second = results[0], results[1]
    assert same(first, second)
    net = alternating()
    optimizer = adam(net)
    train(net, optimizer, 1, 5)
    net.repartition(SECOND, ldt.fixed_decay(SECOND, 0.9))
    optimizer.param_groups[0]['params'] = net.trainable_parameters()
    train(net, optimizer, 6, 9)
    for name, pair in sides(net).items():
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(pair, first[name], strict=True)), name
