import copy
import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import ldt
from tests.recipe import FourConvs, batch, fill, l1_loss, scoring_batches

GOLDEN = json.loads((Path(__file__).parents[1] / 'golden' / 'ldt.json').read_text())


@pytest.fixture
def net() -> nn.Module:
    return fill(FourConvs(), GOLDEN['seed'])


def stacked_gradients(net: nn.Module, batches: list) -> dict[str, torch.Tensor]:
    """(batches, …) gradients of each layer in float64, kept whole."""
    gradients = {name: [] for name, _ in net.named_parameters()}
    for pair in batches:
        net.zero_grad()
        l1_loss(net, pair).backward()
        for name, parameter in net.named_parameters():
            gradients[name].append(parameter.grad.double().clone())
    net.zero_grad()
    return {name: torch.stack(values) for name, values in gradients.items()}


@pytest.mark.parametrize('ratio', ['0.25', '0.5', '0.75'])
def test_golden_partition_and_statistics(net, ratio):
    expected = GOLDEN['partitions'][ratio]
    statistics = ldt.GradientStatistics(net)
    for pair in scoring_batches():
        net.zero_grad()
        l1_loss(net, pair).backward()
        statistics.update()
    scores = ldt.score_layers(net, scoring_batches(), l1_loss)
    assert scores == statistics.variance()
    partition = ldt.Partition.from_scores(scores, float(ratio))
    assert partition.stable == expected['stable']
    assert partition.unstable == expected['unstable']
    for group in ('stable', 'unstable'):
        for name, variance, mean in zip(
            expected[group], expected[f'{group}_variance'], expected[f'{group}_mean'], strict=True
        ):
            assert scores[name] == pytest.approx(variance, rel=1e-5)
            assert statistics.mean()[name] == pytest.approx(mean, rel=1e-4)


def test_streaming_equals_stacked_gradients(net):
    batches = scoring_batches(5)
    stacked = stacked_gradients(net, batches)
    for criterion, formula in {
        'variance': lambda g: g.var(),
        'mean': lambda g: g.mean().abs(),
        'normalized_variance': lambda g: g.var() / g.mean().abs(),
        'between_sample_variance': lambda g: g.var(dim=0).mean(),
    }.items():
        scores = ldt.score_layers(net, batches, l1_loss, criterion=criterion)
        assert list(scores) == [name for name, _ in net.named_parameters()]
        for name, score in scores.items():
            assert score == pytest.approx(formula(stacked[name]).item(), rel=1e-4), (criterion, name)


def test_a_module_is_scored_over_all_entries_of_its_tensors(net):
    batches = scoring_batches(5)
    stacked = stacked_gradients(net, batches)
    layers = ldt.layers_of(net, 'module')
    pooled = {layer: torch.cat([stacked[name].flatten(1) for name in names], dim=1) for layer, names in layers.items()}
    for criterion, formula in {
        'variance': lambda g: g.var(),
        'mean': lambda g: g.mean().abs(),
        'normalized_variance': lambda g: g.var() / g.mean().abs(),
        'between_sample_variance': lambda g: g.var(dim=0).mean(),
    }.items():
        scores = ldt.score_layers(net, batches, l1_loss, criterion=criterion, granularity='module')
        assert list(scores) == ['head', 'body1', 'body2', 'tail']
        for layer, score in scores.items():
            assert score == pytest.approx(formula(pooled[layer]).item(), rel=1e-4), (criterion, layer)
    assert list(ldt.score_layers(net, [], l1_loss, criterion='random', granularity='module')) == list(layers)
    half = lambda model, pair: model.head(pair[0]).mean() + 0 * model.tail.bias.sum()  # noqa: E731
    with pytest.warns(UserWarning, match=r'no batch gave a gradient to body1, body2: scored as zero'):
        ldt.score_layers(net, batches, half, granularity='module')


def test_variance_survives_a_large_mean():
    layer = nn.Linear(1000, 1, bias=False).double()
    statistics = ldt.GradientStatistics(layer)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(20, 1, 1000, generator=generator, dtype=torch.float64) + 1e6
    for gradient in gradients:
        layer.weight.grad = gradient
        statistics.update()
    assert statistics.variance()['weight'] == pytest.approx(gradients.var().item(), rel=1e-9)


def test_absent_gradient_counts_as_zero_and_is_reported():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(2, 1)
            self.idle = nn.Linear(2, 1)

        def forward(self, x):
            return self.used(x)

    with pytest.warns(UserWarning, match=r'idle\.weight, idle\.bias'):
        scores = ldt.score_layers(Unused(), [torch.ones(3, 2)] * 4, lambda m, x: m(x).square().mean())
    assert scores['idle.weight'] == 0
    assert scores['used.weight'] >= 0


class Stateful(nn.Module):
    """Modes that differ, a frozen layer, batch statistics, a gradient left over."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fixed = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 1, 1)
        self.fixed.requires_grad_(False)
        self.norm.eval()
        self.last.weight.grad = torch.ones_like(self.last.weight)

    def forward(self, x):
        return self.last(self.fixed(self.norm(self.conv(x))))


@pytest.mark.parametrize('fails', [False, True])
def test_scoring_leaves_the_model_as_it_was(fails):
    model = Stateful()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    calls = []

    def loss_fn(m, x):
        calls.append(m.norm.training)
        if fails and len(calls) == 3:
            raise RuntimeError('out of data')
        return m(x).square().mean()

    batches = [torch.randn(2, 3, 8, 8) for _ in range(4)]
    if fails:
        with pytest.raises(RuntimeError, match='out of data'):
            ldt.score_layers(model, batches, loss_fn)
    else:
        scores = ldt.score_layers(model, batches, loss_fn)
        assert not any(name.startswith('fixed') for name in scores)
    assert all(calls), 'scoring runs in training mode'
    after = model.state_dict()
    assert list(before) == list(after)
    for name in before:
        assert torch.equal(before[name], after[name]), name
    assert [module.training for module in model.modules()] == modes
    assert not model.fixed.weight.requires_grad and model.conv.weight.requires_grad
    assert model.conv.weight.grad is None
    assert torch.equal(model.last.weight.grad, torch.ones_like(model.last.weight))


class Entries(pickle.Pickler):
    """Counts the entries of the tensors that an object holds."""

    def __init__(self):
        super().__init__(io.BytesIO())
        self.count = 0

    def persistent_id(self, obj):
        if not torch.is_tensor(obj):
            return None
        self.count += obj.numel()
        return 'counted'


def test_scoring_keeps_two_numbers_a_layer(net):
    statistics = ldt.GradientStatistics(net)

    def entries():
        counter = Entries()
        counter.dump({name: value for name, value in vars(statistics).items() if name != '_parameters'})
        return counter.count

    for pair in scoring_batches(3):
        l1_loss(net, pair).backward()
        statistics.update()
    layers = len(list(net.parameters()))
    kept = entries()
    assert 2 * layers <= kept <= 3 * layers, 'two sums of each layer, and how many entries it has'
    for pair in scoring_batches(9):
        l1_loss(net, pair).backward()
        statistics.update()
    assert entries() == kept


def test_at_most_num_batches_are_drawn(net):
    drawn, seen = [], []

    def endless():
        while True:
            drawn.append(1)
            yield batch(len(drawn), 1, 6, 6, 2)

    ldt.score_layers(net, endless(), l1_loss, num_batches=4, on_batch=seen.append)
    assert len(drawn) == 4
    assert seen == [1, 2, 3, 4]


def test_random_scores_look_at_no_batch_and_follow_the_seed(net):
    first = ldt.score_layers(net, (), l1_loss, criterion='random', seed=1)
    assert first == ldt.score_layers(net, (), l1_loss, criterion='random', seed=1)
    assert first != ldt.score_layers(net, (), l1_loss, criterion='random', seed=2)
    assert ldt.Partition.random(net, 0.5, seed=1).stable == ldt.Partition.from_scores(first, 0.5).stable


def test_low_precision_complex_and_sparse_gradients():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 4, sparse=True)
            self.narrow = nn.Parameter(torch.randn(4, dtype=torch.bfloat16))
            self.wave = nn.Parameter(torch.randn(4, dtype=torch.complex64))

        def forward(self, x):
            return (self.table(x) * self.narrow.float() * self.wave).abs()

    scores = ldt.score_layers(Mixed(), [torch.tensor([0, 1]), torch.tensor([3, 4])], lambda m, x: m(x).sum())
    assert set(scores) == {'table.weight', 'narrow', 'wave'}
    assert all(score > 0 for score in scores.values())


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'criterion': 'varience'}, 'varience.*choose from variance'),
        ({'num_batches': 0}, 'num_batches must be at least 1'),
        ({'batches': []}, 'there was no batch'),
        ({'loss_fn': lambda m, pair: m(pair[0])}, r'scalar tensor, not a tensor of shape \(4, 3, 16, 16\)'),
        ({'loss_fn': lambda m, pair: 1.0}, 'scalar tensor, not float'),
        ({'loss_fn': lambda m, pair: m(pair[0]).sum() * float('nan')}, r'head\.weight.*NaN or Inf'),
        ({'criterion': 'between_sample_variance', 'num_batches': 1}, '1 batches were taken in where 2 are needed'),
    ],
)
def test_wrong_use_is_named(net, kwargs, message):
    arguments = {'batches': scoring_batches(2), 'loss_fn': l1_loss, **kwargs}
    with pytest.raises(ValueError, match=message):
        ldt.score_layers(net, arguments.pop('batches'), arguments.pop('loss_fn'), **arguments)


def test_nothing_trainable_is_an_error(net):
    with pytest.raises(ValueError, match='nothing to score'):
        ldt.GradientStatistics(net.requires_grad_(False))
