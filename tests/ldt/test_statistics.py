"""The composite of a network with batch statistics: right ones, or an error that says how to get them."""

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import ldt

ROOT = Path(__file__).resolve().parents[2]
KINDS = [ldt.LayerDecomposition, ldt.AlternatingDecomposition]
STALE = r'batch statistics of .* are those of the trained weights.*net\.composite\(batches, loss_fn\)'


class Home(nn.Module):
    """A normalization of one's own."""

    def __init__(self, features, buffer='running_mean'):
        super().__init__()
        self.buffer = buffer
        self.register_buffer(buffer, torch.zeros(features))

    def forward(self, x):
        mean = getattr(self, self.buffer)
        if not self.training:
            return x - mean
        mean.lerp_(x.detach().mean(0), 0.5)
        return x - x.mean(0)


class Grouped(nn.Module):
    """`InstanceNorm1d` of features."""

    def __init__(self, features):
        super().__init__()
        self.norm = nn.InstanceNorm1d(features, track_running_stats=True)

    def forward(self, x):
        return self.norm(x[:, :, None].expand(-1, -1, 3) + torch.arange(3.0)).mean(2)


NORMS = {
    'batch': nn.BatchNorm1d,
    'cumulative': lambda features: nn.BatchNorm1d(features, momentum=None),
    'fixed': lambda features: nn.BatchNorm1d(features, affine=False),
    'instance': Grouped,
    'own': Home,
    'own, moving': lambda features: Home(features, 'moving_mean'),
}


def data(seed=0):
    """Two classes, far from zero, so that statistics matter."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(20):
        y = torch.randint(2, (32,), generator=generator)
        x = torch.randn(32, 8, generator=generator) + 3 * y[:, None] - 1
        batches.append((x, y))
    return batches


def loss_fn(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


def accuracy(model, batches):
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) == y for x, y in batches]).float().mean().item()


def network(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), norm(16), nn.ReLU(), nn.Linear(16, 2))


def trained(kind, norm=nn.BatchNorm1d, freeze=None, steps=60):
    """A run whose averages differ from the trained weights, and so do their statistics."""
    model = network(norm)
    names = [name for name, _ in model.named_parameters()]
    partition = ldt.Partition(names[:2], names[2:])
    net = kind(model, partition, ldt.fixed_decay(partition, 0.9), 1)
    optimizer = torch.optim.SGD(net.trainable_parameters(), lr=0.3)
    batches = data()
    for step in range(steps):
        net.train()
        if freeze:
            freeze(net)
        optimizer.zero_grad()
        for branch in net.branches():
            loss_fn(branch, batches[step % 20]).backward()
        optimizer.step()
        net.step()
    return net


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('norm', NORMS.values(), ids=NORMS)
def test_stale_statistics_are_refused_however_the_composite_is_used(kind, norm):
    net = trained(kind, norm)
    with pytest.raises(ValueError, match=STALE):
        net.composite_state_dict()
    with net.composite() as model:
        uses = [lambda: model(data()[0][0]), model.state_dict, net.composite_state_dict]
        uses += [lambda: copy.deepcopy(model)(data()[0][0])]
        for use in uses:
            with pytest.raises(ValueError, match=STALE):
                use()
    for module in net.network.modules():
        assert not module._forward_pre_hooks and not module._state_dict_pre_hooks
    net.network.state_dict(), net.network.eval()(data()[0][0])  # the trained network's own statistics are right


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('norm', [norm for key, norm in NORMS.items() if not key.startswith('own')])
def test_they_are_the_means_over_the_batches(kind, norm):
    net = trained(kind, norm)
    before = copy.deepcopy(net.network.state_dict())
    with net.composite(data(), loss_fn) as model:
        state = net.composite_state_dict()
        assert torch.equal(state['0.weight'], model[0].weight)
        name = next(name for name in state if name.endswith('running_mean'))
        entering = model[0](torch.cat([x for x, _ in data()]))
        expected = entering.mean(0) + (1 if norm is Grouped else 0)
        torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-5)
        assert norm is Grouped or accuracy(model, data(1)) == 1
    assert all(torch.equal(value, before[key]) for key, value in net.network.state_dict().items())
    outside = net.composite_state_dict(data(), loss_fn)
    assert all(torch.equal(value, outside[key]) for key, value in state.items())
    loaded = network(norm)
    loaded.load_state_dict(outside)
    assert norm is Grouped or accuracy(loaded.eval(), data(1)) == 1


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'norm',
    [
        lambda features: nn.BatchNorm1d(features, track_running_stats=False),
        lambda features: nn.LayerNorm(features),
        lambda features: nn.GroupNorm(2, features),
    ],
)
def test_networks_without_running_statistics_run_no_batch(kind, norm):
    net = trained(kind, norm, steps=3)
    with net.composite([None], loss_fn) as model:
        expected = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in net.composite_state_dict().items())


@pytest.mark.parametrize('kind', KINDS)
def test_frozen_statistics_are_right_as_they_are(kind):
    """Of normalizations in evaluation mode throughout, also in a resumed run."""

    def freeze(net):
        for branch in net.branches():
            branch[1].eval()

    net = trained(kind, freeze=freeze, steps=5)
    state = net.composite_state_dict()
    assert torch.equal(state['1.running_var'], torch.ones(16)) and state['1.num_batches_tracked'] == 0
    with net.composite(data(), loss_fn) as model:
        assert torch.equal(model[1].running_mean, torch.zeros(16))
        assert torch.equal(model(data()[0][0]), loaded(state)(data()[0][0]))
    resumed = kind(network(nn.BatchNorm1d), net.partition, net.decay, 1)
    saved = copy.deepcopy(net.state_dict())
    for one in (saved, {key: value for key, value in saved.items() if key != 'first_statistics'}):
        resumed.load_state_dict(one)
        freeze(resumed)
        assert all(torch.equal(value, state[name]) for name, value in resumed.composite_state_dict().items())


def loaded(state):
    model = network(nn.BatchNorm1d)
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize('kind', KINDS)
def test_a_resumed_run_knows_that_they_are_stale(kind):
    net = trained(kind, steps=3)
    resumed = kind(copy.deepcopy(net.network).requires_grad_(True), net.partition, net.decay, 1)
    saved = copy.deepcopy(net.state_dict())
    for one in (saved, {key: value for key, value in saved.items() if key != 'first_statistics'}):
        resumed.load_state_dict(one)
        with pytest.raises(ValueError, match=STALE):
            resumed.composite_state_dict()


def test_before_the_first_step_nothing_is_stale():
    net = trained(ldt.LayerDecomposition, steps=0)
    assert torch.equal(net.composite_state_dict()['0.weight'], net.primary[0].weight)


def test_wrong_use_is_named():
    net = trained(ldt.LayerDecomposition, steps=2)
    with pytest.raises(ValueError, match='both `batches` and `loss_fn`'), net.composite(data()):
        pass
    with pytest.raises(ValueError, match='no batch to compute batch statistics over'):
        net.composite_state_dict(iter(()), loss_fn)
    with net.composite(data(), loss_fn), pytest.raises(ValueError, match='give them to composite'):
        net.composite_state_dict(data(), loss_fn)
    drawn = []
    with net.composite((drawn.append(1) or pair for pair in data() * 9), loss_fn, num_batches=7):
        assert len(drawn) == 7
    net.step()


def test_what_the_readme_shows_is_right_with_batch_statistics(tmp_path, monkeypatch):
    """Its code, run over a network with BatchNorm in place of its own: the loss is that of a plain evaluation."""
    (code,) = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), flags=re.S)
    assert 'nn.ReLU(),' in code
    monkeypatch.chdir(tmp_path)
    for text, norms in ((code, 0), (code.replace('nn.ReLU(),', 'nn.BatchNorm2d(16), nn.ReLU(),'), 2)):
        torch.manual_seed(0)
        names = {}
        exec(compile(text, 'README.md', 'exec'), names)
        state = torch.load('network.pth', weights_only=True)['params']
        model = names['model']
        model.load_state_dict(state)
        with torch.no_grad():
            expected = names['loss_fn'](model.eval(), names['loader'][0]).item()
            in_training = names['loss_fn'](model.train(), names['loader'][0]).item()
        assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == norms
        assert abs(expected - in_training) < 0.02, 'statistics of other weights are far off'
        with names['net'].composite(names['loader'], names['loss_fn']) as network, torch.no_grad():
            assert names['loss_fn'](network, names['loader'][0]).item() == pytest.approx(expected, rel=1e-5)
