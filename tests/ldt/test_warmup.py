"""Stage 0: the head alone, on one half of the samples; nothing else of the network changes."""

import copy
import math
from collections import Counter
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import ldt


class Classifier(nn.Module):
    """A backbone and a head, normalizations in both, a frozen layer, and a `head2` that is none of the head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1))
        self.head2 = nn.Linear(8, 8)
        self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.backbone[0].bias.requires_grad_(False)

    def forward(self, x):
        return self.head(self.head2(self.backbone(x)))


def data(count=5, size=8):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def loss_fn(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def everything(net):
    return copy.deepcopy(
        {
            'state': net.state_dict(),
            'modes': [module.training for module in net.modules()],
            'requires_grad': [parameter.requires_grad for parameter in net.parameters()],
            'gradients': [parameter.grad for parameter in net.parameters()],
        }
    )


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def changed(net, before):
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before['state'][name])}


HEAD = {f'head.{name}' for name in ('0.weight', '0.bias', '1.weight', '1.bias')}
STATISTICS = {f'head.0.{name}' for name in ('running_mean', 'running_var', 'num_batches_tracked')}


@pytest.mark.parametrize('wrapped', [lambda net: net, DataParallel, partial(torch.compile, backend='eager')])
def test_the_head_alone_trains(wrapped):
    net = Classifier().eval()
    net.backbone[1].train()
    loss_fn(net, data()[0]).backward()
    before, seen = everything(net), []
    losses = ldt.warm_up(
        wrapped(net), data(), loss_fn, 'head', 40, lr=0.05, on_iteration=lambda *done: seen.append(done)
    )
    after = everything(net)
    assert changed(net, before) == HEAD | STATISTICS
    assert after['state']['head.0.num_batches_tracked'] == 40
    del before['state'], after['state']
    assert_same(after, before)
    assert len(losses) == 40 and seen == list(enumerate(losses, 1))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize(
    'make',
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.SGD([{'params': parameters[:1], 'lr': 0.2}, {'params': parameters[1:]}], lr=0.1),
    ],
)
def test_it_is_the_plain_loop(make):
    """Weights to the bit, with an optimizer or with what makes one."""
    expected = Classifier()
    own = [parameter for name, parameter in expected.named_parameters() if name in HEAD]
    optimizer = make(own)
    torch.manual_seed(7)
    for batch in [*data(), *data()][:8]:
        optimizer.zero_grad()
        loss_fn(expected, batch).backward()
        optimizer.step()
    for as_object in (False, True):
        net = Classifier()
        heads = [parameter for name, parameter in net.named_parameters() if name in HEAD]
        torch.manual_seed(7)
        ldt.warm_up(net, data(), loss_fn, ['head.0', 'head.1.'], 8, make(heads) if as_object else make)
        assert_same([*net.head.state_dict().values()], [*expected.head.state_dict().values()])


def test_a_step_of_ones_own():
    """Clipped, for example; the loss that it returns is the one that counts."""
    net, norms = Classifier(), []

    def step(run, batch, optimizer):
        optimizer.zero_grad()
        loss = loss_fn(run, batch)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), 0.1))
        optimizer.step()
        return loss.item() + 10

    losses = ldt.warm_up(net, data(), loss_fn, 'head', 3, step=step)
    assert len(norms) == 3 and min(losses) > 10


def test_it_trains_where_gradients_are_off():
    net = Classifier()
    before = everything(net)
    with torch.no_grad():
        ldt.warm_up(net, data(), loss_fn, 'head', 2)
    assert changed(net, before) == HEAD | STATISTICS


def broken(batches, at):
    batches[at][0][0, 0] = math.nan
    return batches


def exploding(parameters):
    return torch.optim.SGD(parameters, lr=math.inf)


FAULTS = {
    'prefix': ({'head': 'haed'}, r"no layer has the prefix 'haed'; near it: head"),
    'no prefix': ({'head': []}, 'the head is empty'),
    'everything': ({'head': ['backbone', 'head', 'head2']}, 'the head is the whole network'),
    'frozen': ({'head': 'backbone.0.bias'}, r'the head is frozen: backbone\.0\.bias'),
    'no batch': ({'batches': []}, 'there was no batch to warm up on'),
    'exhausted': ({'batches': iter(data())}, 'there were 5 batches for 8 iterations .* an iterator'),
    'loss': ({'batches': broken(data(), 2)}, 'the loss is nan in iteration 3 of the warm-up'),
    'last step': ({'optimizer': exploding, 'iterations': 1}, r'NaN or Inf in head\.0\.weight, head\.0\.bias'),
    'no scalar': ({'loss_fn': lambda net, batch: net(batch[0])}, r'a scalar tensor, not a tensor of shape \(8, 3\)'),
    'detached': ({'loss_fn': lambda net, batch: loss_fn(net, batch).detach()}, 'depends on no layer of the head'),
    'iterations': ({'iterations': 0}, 'iterations must be a whole number of at least 1'),
    'lr': ({'lr': 0}, 'lr must be above 0'),
    'optimizer': (
        {'optimizer': torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)},
        r'does not hold head\.0\.weight, .* of the head',
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_after_an_error_all_is_as_before(fault):
    changes, message = FAULTS[fault]
    net = Classifier()
    net.head.eval()
    loss_fn(net, data()[0]).backward()
    before = everything(net)
    arguments = {'batches': data(), 'loss_fn': loss_fn, 'head': 'head', 'iterations': 8, 'lr': 0.1, **changes}
    with pytest.raises(ValueError, match=message):
        ldt.warm_up(net, **arguments)
    assert_same(everything(net), before)


def test_an_interrupt_leaves_no_trace_either():
    def interrupt(done, loss):
        if done == 2:
            raise KeyboardInterrupt

    net = Classifier()
    before = everything(net)
    with pytest.raises(KeyboardInterrupt):
        ldt.warm_up(net, data(), loss_fn, 'head', 8, on_iteration=interrupt)
    assert_same(everything(net), before)


def share(rank, folder, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    net = plain()
    halves = [(x[rank::2], y[rank::2]) for x, y in data()]
    ldt.warm_up(net, halves, loss_fn, '1', 6, partial(torch.optim.SGD, lr=0.5), wrap=DistributedDataParallel)
    results[rank] = {name: value.tolist() for name, value in net.state_dict().items()}
    wrapped = DistributedDataParallel(plain())
    with pytest.raises(ValueError, match='wrap=DistributedDataParallel'):
        ldt.warm_up(wrapped, halves, loss_fn, '1', 6)
    dist.destroy_process_group()


def plain():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))


def test_two_processes_agree_with_one(tmp_path):
    """The one that sees the batches of both at once."""
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(share, (tmp_path, results), nprocs=2)
        one, other = results[0], results[1]
    assert one == other
    net = plain()
    ldt.warm_up(net, data(), loss_fn, '1', 6, partial(torch.optim.SGD, lr=0.5))
    for name, value in net.state_dict().items():
        torch.testing.assert_close(torch.tensor(one[name]), value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(net[1].weight, plain()[1].weight)


def test_halves():
    for count in (2, 7, 100):
        first, second = ldt.split_samples(count, seed=3)
        assert sorted([*first, *second]) == list(range(count))
        assert len(first) - len(second) == count % 2
        assert first == sorted(first) and second == sorted(second)
    assert ldt.split_samples(100, 3) == ldt.split_samples(100, 3) != ldt.split_samples(100, 4)
    assert ldt.split_samples(100, 3)[0] not in (list(range(50)), list(range(0, 100, 2)))


@pytest.mark.parametrize('make', [list, torch.tensor])
def test_halves_have_as_many_of_each_kind(make):
    labels = [0] * 41 + [1] * 7 + [2] * 30 + [3]
    first, second = ldt.split_samples(make(labels), seed=1)
    assert abs(len(first) - len(second)) == 1
    one, other = (Counter(labels[index] for index in half) for half in (first, second))
    assert all(abs(one[label] - other[label]) <= 1 for label in {*labels})


@pytest.mark.parametrize('samples', [0, 1, [], ['dog']])
def test_one_sample_has_no_halves(samples):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match='two halves need at least two samples, not'):
        ldt.split_samples(samples)
    assert torch.equal(torch.get_rng_state(), state)


def test_warmed_up_scored_and_decomposed():
    """As a loop of one's own goes; what is recorded of the halves is read again."""
    torch.manual_seed(0)
    x, net = torch.randn(64, 6), Classifier()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0)
    first, second = ldt.split_samples(y, seed=0)
    batches = [[(x[index], y[index]) for index in torch.tensor(half).split(8)] for half in (first, second)]
    ldt.warm_up(net, batches[0], loss_fn, 'head', 20, lr=0.01)
    scores = ldt.score_layers(net, batches[1], loss_fn)
    partition = ldt.Partition.from_scores(scores)
    recorded = ldt.Partition(**{**vars(partition), 'samples': {'seed': 0, 'warm_up': first, 'scoring': second}})
    assert ldt.Partition.from_json(recorded.to_json()) == recorded
    assert 'samples' not in partition.to_dict(), 'files without a warm-up are what they were'
    branches = ldt.LayerDecomposition(net, recorded, ldt.fixed_decay(recorded, 0.5), exchange_every=1)
    optimizer = torch.optim.Adam(branches.trainable_parameters(), lr=0.01)
    for batch in [*batches[0], *batches[1]] * 10:
        optimizer.zero_grad()
        for branch in branches.branches():
            loss_fn(branch, batch).backward()
        optimizer.step()
        branches.step()
    with branches.composite(batches[0] + batches[1], loss_fn) as composite, torch.no_grad():
        assert (composite(x).argmax(1) == y).float().mean() > 0.8
