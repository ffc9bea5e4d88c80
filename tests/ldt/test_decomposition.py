import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ldt
from tests.recipe import FourConvs, batch, fill, l1_loss, scoring_batches

FOLDER = Path(__file__).parents[1] / 'golden'
GOLDEN = json.loads((FOLDER / 'ldt.json').read_text())
WEIGHTS = np.load(FOLDER / 'ldt.npz')
SEED = GOLDEN['seed']


@pytest.fixture(scope='module')
def partition() -> ldt.Partition:
    return ldt.Partition.from_scores(ldt.score_layers(fill(FourConvs(), SEED), scoring_batches(), l1_loss), 0.5)


def decomposition(partition, exchange_every=10, fixed=False, model=None):
    decay = ldt.fixed_decay(partition, 0.999) if fixed else ldt.dynamic_decay(partition)
    return ldt.LayerDecomposition(model or fill(FourConvs(), SEED), partition, decay, exchange_every)


def train(net, optimizer, first, last):
    losses = []
    for step in range(first, last + 1):
        optimizer.zero_grad()
        pair = batch(SEED * 2000 + step, 4, 8, 8, 2)
        step_losses = []
        for branch in net.branches():
            loss = l1_loss(branch, pair)
            loss.backward()
            step_losses.append(loss.item())
        optimizer.step()
        net.step()
        losses.append(step_losses)
    return losses


def adam(net):
    return torch.optim.Adam(net.trainable_parameters(), lr=1e-3, betas=(0.0, 0.99**0.8))


@pytest.mark.parametrize('run', ['dpu_every10', 'dpu_every1', 'fixed_every1'])
def test_golden_run(partition, run):
    expected = GOLDEN['runs'][run]
    net = decomposition(partition, expected['exchange_every'], fixed=run.startswith('fixed'))
    losses = train(net, adam(net), 1, 30)
    np.testing.assert_allclose(losses, expected['losses_primary_auxiliary'], atol=1e-5, rtol=0)
    for which, state in (
        ('primary', net.primary.state_dict()),
        ('auxiliary', net.auxiliary.state_dict()),
        ('composite', net.composite_state_dict()),
    ):
        for name, tensor in state.items():
            np.testing.assert_allclose(
                tensor.numpy(), WEIGHTS[f'{run}.{which}.{name}'], atol=1e-5, rtol=0, err_msg=f'{which}.{name}'
            )


def test_cross_freezing_and_one_copy_of_the_moments(partition):
    model = fill(FourConvs(), SEED)
    net = decomposition(partition, model=model)
    for name, parameter in net.primary.named_parameters():
        assert parameter.requires_grad == (name in partition.stable)
    for name, parameter in net.auxiliary.named_parameters():
        assert parameter.requires_grad == (name in partition.unstable)
    optimizer = adam(net)
    before = copy.deepcopy(net.state_dict())
    train(net, optimizer, 1, 3)
    assert sum(state['exp_avg'].numel() for state in optimizer.state.values()) == sum(
        p.numel() for p in model.parameters()
    )
    for name in partition.stable:
        assert not torch.equal(net.primary.state_dict()[name], before['primary'][name])
        assert torch.equal(net.auxiliary.state_dict()[name], before['auxiliary'][name])
    for name in partition.unstable:
        assert torch.equal(net.primary.state_dict()[name], before['primary'][name])
        assert not torch.equal(net.auxiliary.state_dict()[name], before['auxiliary'][name])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fill(FourConvs(), SEED).parameters(), strict=True))


def test_composite_is_lent_and_given_back(partition):
    net = decomposition(partition, exchange_every=1)
    train(net, adam(net), 1, 2)
    before = copy.deepcopy(net.state_dict())
    expected = net.composite_state_dict()
    with net.composite() as model:
        assert not model.training
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
        assert all(torch.equal(value, expected[name]) for name, value in net.composite_state_dict().items())
        for method in (net.step, net.exchange, net.state_dict, lambda: net.load_state_dict(before)):
            with pytest.raises(ValueError, match='inside'):
                method()
        with pytest.raises(ValueError, match='already in use'), net.composite():
            pass
    after = net.state_dict()
    for branch in ('primary', 'auxiliary'):
        assert all(torch.equal(before[branch][name], after[branch][name]) for name in before[branch])
    assert net.primary.training
    stable, unstable = partition.stable[0], partition.unstable[0]
    assert torch.equal(expected[stable], before['auxiliary'][stable])
    assert torch.equal(expected[unstable], before['primary'][unstable])


def test_a_composite_that_could_not_be_made_is_not_in_use(partition, monkeypatch):
    net = decomposition(partition)

    def fails():
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(net, '_toggle_composite', fails)
        with net.composite():
            pass
    net.step()
    with net.composite():
        pass


def test_composite_state_dict_is_a_copy(partition):
    net = decomposition(partition, exchange_every=1)
    kept = net.composite_state_dict()
    first = {name: value.clone() for name, value in kept.items()}
    train(net, adam(net), 1, 2)
    assert all(torch.equal(kept[name], first[name]) for name in first)


def test_batch_statistics_are_recomputed_by_update_bn():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    names = [name for name, _ in model.named_parameters()]
    partition = ldt.Partition(names[:3], names[3:])
    net = ldt.LayerDecomposition(model, partition, ldt.fixed_decay(partition, 0.5), 1)
    loader = [torch.randn(4, 3, 6, 6) for _ in range(3)]
    for x in loader:
        for branch in net.branches():
            branch(x).mean().backward()
        net.step()
    running = net.primary[1].running_mean.clone()
    with net.composite() as composite:
        torch.optim.swa_utils.update_bn(loader, composite)
        recomputed = composite[1].running_mean.clone()
        assert torch.equal(net.composite_state_dict()['1.running_mean'], recomputed)
        expected = torch.cat([composite[0](x) for x in loader]).mean((0, 2, 3))
    assert torch.allclose(recomputed, expected, atol=1e-5)
    assert torch.equal(net.primary[1].running_mean, running)


def test_block_gives_back_buffers_that_forward_replaced_and_modes_that_differ():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.eval()
            self.register_buffer('calls', torch.zeros(()))
            self.register_buffer('late', None)

        def forward(self, x):
            self.calls = self.calls + 1
            self.late = torch.ones(1)
            return self.b(self.a(x))

    partition = ldt.Partition.from_prefixes(model := Counting(), 'b')
    net = ldt.LayerDecomposition(model, partition, ldt.fixed_decay(partition), 1)
    with pytest.raises(RuntimeError, match='stop'), net.composite() as composite:
        composite(torch.ones(1, 2))
        raise RuntimeError('stop')
    assert net.primary.calls == 0 and net.primary.late is None
    assert net.primary.training and not net.primary.b.training
    ldt.score_layers(model, [torch.ones(1, 2)], lambda m, x: m(x).sum())
    assert list(model.state_dict()) == ['calls', 'a.weight', 'a.bias', 'b.weight', 'b.bias']


def test_tied_weights_stay_tied_in_the_composite():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
            self.out.weight = self.embed.weight

        def forward(self, x):
            return self.out(self.embed(x))

    partition = ldt.Partition(['embed.weight'], ['out.bias'])
    net = ldt.LayerDecomposition(Tied(), partition, ldt.fixed_decay(partition, 0.9), 1)
    with torch.no_grad():
        net.primary.embed.weight.fill_(1)
        net.auxiliary.embed.weight.fill_(2)
    state = net.composite_state_dict()
    assert list(state) == ['embed.weight', 'out.weight', 'out.bias']
    assert torch.equal(state['out.weight'], torch.full((4, 4), 2.0))
    assert torch.equal(state['out.weight'], state['embed.weight'])
    with net.composite() as model:
        assert model.out.weight is model.embed.weight
        assert model.out.weight[0, 0] == 2


def test_resumed_run_ends_the_same(partition, tmp_path):
    whole = decomposition(partition, exchange_every=3)
    train(whole, adam(whole), 1, 10)

    first = decomposition(partition, exchange_every=3)
    optimizer = adam(first)
    train(first, optimizer, 1, 4)
    torch.save({'net': first.state_dict(), 'optimizer': optimizer.state_dict()}, tmp_path / 'run.state')

    state = torch.load(tmp_path / 'run.state', weights_only=True)
    second = decomposition(ldt.Partition.from_dict(state['net']['partition']), exchange_every=3)
    second.load_state_dict(state['net'])
    optimizer = adam(second)
    optimizer.load_state_dict(state['optimizer'])
    train(second, optimizer, 5, 10)
    assert second.steps == whole.steps == 10
    for a, b in ((whole.primary, second.primary), (whole.auxiliary, second.auxiliary)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_low_precision_averages_are_resumed():
    model = FourConvs().bfloat16()
    names = [name for name, _ in model.named_parameters()]
    partition = ldt.Partition(names[:4], names[4:])

    def fresh():
        return ldt.LayerDecomposition(model, partition, ldt.fixed_decay(partition, 0.999), 1)

    net = fresh()
    with torch.no_grad():
        for parameter in net.trainable_parameters():
            parameter.add_(0.5)
    for _ in range(3):
        net.step()
    other = fresh()
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    for _ in range(20):
        net.step()
        other.step()
    with net.composite() as a, other.composite() as b:
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
        assert any(not torch.equal(x, y) for x, y in zip(a.parameters(), model.parameters(), strict=True))


def test_wrapped_branches_are_what_is_run(partition):
    net = decomposition(partition)
    calls = []
    net.wrap(lambda branch: lambda x: calls.append(branch) or branch(x))
    train(net, adam(net), 1, 1)
    assert calls == [net.primary, net.auxiliary]


def test_wrong_use_names_the_layers(partition):
    model = FourConvs()
    decay = ldt.dynamic_decay(partition)
    with pytest.raises(ValueError, match=r'no decay is given for body1\.weight'):
        ldt.LayerDecomposition(model, partition, {k: v for k, v in decay.items() if k != 'body1.weight'})
    with pytest.raises(ValueError, match=r'the partition lacks: who\.weight'):
        ldt.LayerDecomposition(model, partition, {**decay, 'who.weight': 0.9})
    with pytest.raises(ValueError, match=r'\[0, 1\): head\.bias \(1\.0\)'):
        ldt.LayerDecomposition(model, partition, {**decay, 'head.bias': 1.0})
    with pytest.raises(ValueError, match='exchange_every'):
        ldt.LayerDecomposition(model, partition, decay, 0)
    with pytest.raises(ValueError, match=r'no trainable parameter of the network: .*head\.weight'):
        ldt.LayerDecomposition(nn.Linear(1, 1), partition, decay)


def test_state_of_another_partition_is_refused(partition):
    net = decomposition(partition)
    swapped = ldt.Partition(partition.unstable, partition.stable)
    with pytest.raises(ValueError, match='another partition'):
        net.load_state_dict(decomposition(swapped).state_dict())


def test_a_partition_by_prefix_is_defts_rule():
    """DeFT, written plainly: one network trains its backbone and averages the other's head, the other the reverse."""
    decay, iterations = 0.9, 7
    start = fill(FourConvs(), 5)
    batches = scoring_batches(iterations)

    one, two = copy.deepcopy(start), copy.deepcopy(start)
    backbone = [name for name, _ in start.named_parameters() if not name.startswith('tail.')]
    optimizers = [
        torch.optim.Adam(
            [parameter for name, parameter in net.named_parameters() if (name in backbone) == trains], 1e-3
        )
        for net, trains in ((one, True), (two, False))
    ]
    for pair in batches:
        for net, optimizer in zip((one, two), optimizers, strict=True):
            net.zero_grad()
            l1_loss(net, pair).backward()
            optimizer.step()
        with torch.no_grad():
            for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
                average, trained = (second, first) if name in backbone else (first, second)
                average.copy_(decay * average + (1 - decay) * trained)

    partition = ldt.Partition.from_prefixes(start, 'tail')
    net = ldt.LayerDecomposition(start, partition, ldt.fixed_decay(partition, decay), exchange_every=1)
    optimizer = torch.optim.Adam(net.trainable_parameters(), 1e-3)
    for pair in batches:
        optimizer.zero_grad()
        for branch in net.branches():
            l1_loss(branch, pair).backward()
        optimizer.step()
        net.step()
    for plain, branch in ((one, net.primary), (two, net.auxiliary)):
        for expected, found in zip(plain.parameters(), branch.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('kind', [ldt.LayerDecomposition, ldt.AlternatingDecomposition])
def test_trainable_parameters_have_names_for_groups_of_ones_own(partition, kind):
    net = kind(fill(FourConvs(), SEED), partition, ldt.fixed_decay(partition))
    named = dict(net.named_trainable_parameters())
    assert list(named) == [*partition.stable, *partition.unstable]
    assert all(one is other for one, other in zip(named.values(), net.trainable_parameters(), strict=True))
    biases = [value for name, value in named.items() if name.endswith('bias')]
    weights = [value for name, value in named.items() if name.endswith('weight')]
    groups = [{'params': weights}, {'params': biases, 'lr': 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = [value.detach().clone() for value in biases]
    train(net, optimizer, 1, 1)
    assert all(torch.equal(value, old) for value, old in zip(biases, before, strict=True))
