"""What a network may contain, and what is refused: wrappers, names, shared memory, closures, weights without values."""

import copy
import functools
import warnings

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DataParallel
from torch.utils.checkpoint import checkpoint

import ldt
from tests.recipe import FourConvs, fill, l1_loss, scoring_batches

KINDS = [ldt.LayerDecomposition, ldt.AlternatingDecomposition]


def halves(model):
    names = [*ldt.layers_of(model)]
    return ldt.Partition(names[: len(names) // 2], names[len(names) // 2 :])


def decomposition(kind, model, partition=None, every=1, decay=0.5):
    partition = partition or halves(model)
    return kind(model, partition, ldt.fixed_decay(partition, decay), every)


def square(model, x):
    return model(x).square().mean()


def train(net, steps=4, size=4, loss=square, lr=0.1):
    optimizer = torch.optim.SGD(net.trainable_parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(5, size, generator=generator)
        optimizer.zero_grad()
        for branch in net.branches():
            loss(branch, x).backward()
        optimizer.step()
        net.step()
    return net


# What state dicts are called


class OwnStateDict(nn.Sequential):
    """Names and entries of its own."""

    def state_dict(self, *args, **kwargs):
        return {
            'weights': {f'layer.{name}': value.detach() for name, value in self.named_parameters()},
            'product': self[2].weight.detach() @ self[0].weight.detach(),
            'version': 3,
        }


class Saved(nn.Linear):
    """Entries beside the parameters."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + 'twice'] = 2 * self.weight.detach()

    def get_extra_state(self):
        return {'largest': self.weight.detach().max()}


def three(first=nn.Linear, container=nn.Sequential):
    torch.manual_seed(0)
    return container(first(4, 4), nn.Tanh(), nn.Linear(4, 4))


def renamed():
    model = three()
    model.register_state_dict_post_hook(
        lambda module, state, prefix, metadata: (
            [state.__setitem__(f'x.{name}', state.pop(name)) for name in [*state]] and None
        )
    )
    return model


def tied():
    model = three()
    model[2].weight = model[0].weight
    return model


def compiled_inside():
    model = three()
    model[0] = torch.compile(model[0], backend='eager')
    return model


NETWORKS = {
    'plain': three,
    'checkpoint wrapper': lambda: nn.Sequential(checkpoint_wrapper(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 4)),
    'checkpoint wrapper around': lambda: checkpoint_wrapper(three()),
    'compiled inside': compiled_inside,
    'compiled': lambda: torch.compile(three(), backend='eager'),
    'data parallel': lambda: DataParallel(three()),
    'data parallel inside': lambda: nn.Sequential(DataParallel(nn.Linear(4, 4)), nn.Linear(4, 4)),
    'own state dict': lambda: three(container=OwnStateDict),
    'own entries': lambda: three(Saved),
    'renamed by a hook': renamed,
    'tied': tied,
    'parametrized': lambda: three(lambda a, b: nn.utils.parametrizations.weight_norm(nn.Linear(a, b))),
    'frozen integers': lambda: with_integers(three()),
    'complex': lambda: nn.Sequential(nn.Linear(4, 4), Wave(), nn.Linear(4, 4)),
    'nothing in it': lambda: nn.Sequential(nn.Linear(4, 4), Empty(), nn.Linear(4, 4)),
}


class Wave(nn.Module):
    def __init__(self):
        super().__init__()
        self.wave = nn.Parameter(torch.randn(4, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.wave).abs()


class Empty(nn.Module):
    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(0, 4))

    def forward(self, x):
        return x + self.nothing.sum(0)


def with_integers(model):
    model.count = nn.Parameter(torch.arange(3), requires_grad=False)
    model.flag = nn.Parameter(torch.tensor([True, False]), requires_grad=False)
    return model


def flat(state):
    """Tensors by name, of nested dictionaries too."""
    tensors = {}
    for name, value in state.items():
        if isinstance(value, dict):
            tensors.update({f'{name}/{key}': entry for key, entry in flat(value).items()})
        elif isinstance(value, torch.Tensor):
            tensors[name] = value
    return tensors


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('make', NETWORKS.values(), ids=NETWORKS)
def test_the_state_dict_of_the_composite_is_its_own(kind, make):
    """Against averages that are computed here, in a network of its own."""
    torch._dynamo.reset()
    torch.manual_seed(1)
    net = train(decomposition(kind, make()), steps=6)
    outside = flat(net.composite_state_dict())
    with net.composite() as model:
        within = {name: value.clone() for name, value in flat(model.state_dict()).items()}
        averages = {name: value.clone() for name, value in model.named_parameters()}
        inside = flat(net.composite_state_dict())
    reference = copy.deepcopy(net.network)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(averages[name])
    expected = flat(reference.state_dict())
    trained = flat(net.network.state_dict())
    assert outside.keys() == expected.keys() == trained.keys()
    for name, value in expected.items():
        for found in (outside, within, inside):
            assert torch.equal(found[name], value), name
    assert any(not torch.equal(value, trained[name]) for name, value in outside.items()), 'or this test shows nothing'
    addresses = {value.untyped_storage().data_ptr() for value in trained.values() if value.numel()}
    assert not addresses & {value.untyped_storage().data_ptr() for value in outside.values()}, 'copies'


# Wrappers


def test_wrapped_networks_have_the_scores_of_the_network_inside():
    expected = ldt.score_layers(fill(FourConvs(), 3), scoring_batches(), l1_loss)
    eager = functools.partial(torch.compile, backend='eager')
    for wrap in (DataParallel, eager, lambda net: DataParallel(eager(net)), lambda net: eager(DataParallel(net))):
        wrapped = wrap(fill(FourConvs(), 3))
        assert ldt.score_layers(wrapped, scoring_batches(), l1_loss) == expected
        assert list(ldt.layers_of(wrapped, 'module')) == ['head', 'body1', 'body2', 'tail']
        partition = ldt.Partition.from_scores(expected)
        net = ldt.LayerDecomposition(wrapped, partition, ldt.dynamic_decay(partition))
        assert list(net.composite_state_dict()) == list(expected)
        assert all(type(branch) is type(wrapped) for branch in net.branches())
        assert [name for name, _ in net.named_trainable_parameters()] == [*partition.stable, *partition.unstable]
        theirs = [name for name, _ in wrapped.named_parameters()]
        with pytest.raises(ValueError, match=r'head\.weight.*named as inside (DataParallel|OptimizedModule), without'):
            decomposition(ldt.LayerDecomposition, wrapped, ldt.Partition(theirs[:4], theirs[4:]))


def test_sharded_networks_are_refused():
    class FullyShardedDataParallel(nn.Module):  # of torch, whose import costs seconds
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r'in 0, is sharded over processes \(FullyShardedDataParallel\)'):
        ldt.score_layers(nn.Sequential(FullyShardedDataParallel()), [torch.ones(1, 2)], square)


# Closures


class Reached(nn.Module):
    """Its layer `b` is called as `way` says."""

    def __init__(self, way='method'):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        match way:
            case 'method' | 'global':
                self.call = self.through_b
            case 'lambda':
                self.call = lambda x: self.b(x)
            case 'default':
                self.call = lambda x, b=self.b: b(x)
            case 'partial':
                self.call = functools.partial(lambda layer, x: layer(x), self.b)
            case 'partial of a lambda':
                self.call = functools.partial(lambda x, scale: scale * self.b(x), scale=1)
            case 'in a list':
                steps = [self.b, torch.tanh]
                self.calls = {'steps': [lambda x: steps[0](x)]}
                self.call = self.first
            case 'hook':
                self.call = nn.Identity()
                self.call.register_forward_hook(lambda module, inputs, output: self.b(output))
            case 'method in a list':
                self.calls = {'steps': [self.b.forward]}
                self.call = self.first
            case 'function of the layer':
                forward = self.b.forward
                self.b.forward = lambda x: forward(x)
                self.call = self.through_b

    def first(self, x):
        return self.calls['steps'][0](x)

    def through_b(self, x):
        return self.b(x)

    def forward(self, x):
        return self.c(self.call(self.a(x).tanh()).tanh())


RIGHT = ['method', 'partial', 'method in a list']
WRONG = ['lambda', 'default', 'partial of a lambda', 'in a list', 'hook', 'function of the layer']


@pytest.mark.parametrize('unstable', ['b', ['b', 'c'], 'a'])
@pytest.mark.parametrize('way', WRONG)
def test_a_layer_that_a_copy_reaches_in_the_original_is_named(way, unstable):
    model = Reached(way)
    attribute = {'in a list': 'calls', 'hook': r'call\._forward_hooks', 'function of the layer': r'b\.forward'}
    attribute = attribute.get(way, 'call')
    with pytest.warns(UserWarning, match=rf'call the original through {attribute}: '):
        net = decomposition(ldt.LayerDecomposition, model, ldt.Partition.from_prefixes(model, unstable))
    with pytest.raises(ValueError, match=rf'^b\.weight, b\.bias of the branches get no gradient.*through {attribute}'):
        train(net, 1)
    with pytest.raises(ValueError, match=r'^b\.weight'):
        net.step()  # is no way around it


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('way', RIGHT)
def test_what_copies_well_trains_and_says_nothing(kind, way, recwarn):
    torch.manual_seed(0)
    model = Reached(way)
    before = {name: value.clone() for name, value in model.named_parameters()}
    net = decomposition(kind, model)
    train(net, 5)
    assert not recwarn.list
    assert all(not torch.equal(value, before[name]) for name, value in net.named_trainable_parameters())


@pytest.mark.parametrize('way', WRONG)
def test_one_network_in_turns_needs_no_copy(way, recwarn):
    net = decomposition(ldt.AlternatingDecomposition, Reached(way))
    before = net.network.b.weight.clone()
    train(net, 3)
    assert not torch.equal(net.network.b.weight, before) and not recwarn.list


def test_a_loss_that_runs_the_original_is_named():
    model = three()
    net = decomposition(ldt.LayerDecomposition, model)
    with pytest.raises(ValueError, match='loss_fn must run the branch that it is given'):
        train(net, 1, loss=lambda branch, x: square(model, x))


def test_gradients_that_are_removed_before_step_are_seen():
    """In the order in which some loops do it."""
    with pytest.warns(UserWarning, match='call the original'):
        net = decomposition(ldt.LayerDecomposition, Reached('lambda'))
    for branch in net.branches():
        square(branch, torch.ones(2, 4)).backward()
    for parameter in net.trainable_parameters():
        parameter.grad = None
    with pytest.raises(ValueError, match=r'b\.weight, b\.bias of the branches'):
        net.step()


class Heads(nn.Module):
    """The batch chooses a head; the gate of one is zero at first."""

    def __init__(self):
        super().__init__()
        self.body, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        task, x = batch
        x = self.body(x).tanh()
        return self.one(x) if task else x + self.gate * self.two(x)


def test_a_right_training_is_not_ended():
    """A head that the first batch leaves out, a penalty on the way from the start, gates: at most a warning."""
    model = Heads()
    batches = [(task, torch.randn(3, 4)) for task in (0, 1, 0, 1)]
    scores = ldt.score_layers(model, batches, square)
    partition = ldt.Partition.from_scores(scores)
    net = decomposition(ldt.LayerDecomposition, model, partition)
    optimizer = torch.optim.SGD(net.trainable_parameters(), lr=0.1)
    said = []
    for batch in batches * 2:
        optimizer.zero_grad()
        for branch in net.branches():
            pairs = zip(branch.body.parameters(), model.body.parameters(), strict=True)
            (square(branch, batch) + sum((a - b).square().sum() for a, b in pairs)).backward()
        optimizer.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            net.step()
        said.append([str(warning.message) for warning in caught])
    assert [len(texts) for texts in said] == [2, 0, 0, 0, 0, 0, 0, 0], 'once'
    assert 'no gradient has reached one.' in said[0][0] and 'given gets gradients (body.' in said[0][1]
    with net.composite() as composite:
        moved = {
            name for name, value in composite.named_parameters() if not torch.equal(value, model.get_parameter(name))
        }
    assert moved == {*scores}


def test_layers_that_were_scored_zero_are_not_missed(recwarn):
    model = Heads()
    with pytest.warns(UserWarning, match=r'no batch gave a gradient to one\.weight'):
        scores = ldt.score_layers(model, [(0, torch.randn(3, 4))] * 2, square)
    recwarn.clear()
    net = decomposition(ldt.LayerDecomposition, model, ldt.Partition.from_scores(scores))
    train(net, 2, loss=lambda branch, x: square(branch, (0, x)))
    assert not recwarn.list


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.reentrant = reentrant

    def forward(self, x):
        return self.c(checkpoint(self.b, self.a(x).tanh(), use_reentrant=self.reentrant))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')
def test_reentrant_checkpoints_above_frozen_layers_are_named(kind):
    partition = ldt.Partition(['a.weight', 'a.bias'], ['b.weight', 'b.bias', 'c.weight', 'c.bias'])
    with pytest.warns(
        UserWarning, match=r'no gradient has reached b\.weight, b\.bias in the first.*use_reentrant=False'
    ):
        train(decomposition(kind, Checkpointed(True), partition, every=1), steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        net = train(decomposition(kind, Checkpointed(False), partition), steps=2)
    assert net.steps == 2


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')
def test_a_branch_in_which_no_gradient_can_reach_anything_says_why(kind):
    """Torch's own error, that a tensor does not require grad, would not."""
    partition = ldt.Partition(['a.weight', 'a.bias', 'c.weight', 'c.bias'], ['b.weight', 'b.bias'])
    net = decomposition(kind, Checkpointed(True), partition)
    match = r'output of a branch needs no gradient, although b\.weight, b\.bias are trained.*use_reentrant=False'
    with pytest.warns(UserWarning, match=match), pytest.raises(RuntimeError, match='does not require grad'):
        train(net, 2)
    net = train(decomposition(kind, Checkpointed(False), partition), 2)
    assert not any(branch._forward_hooks for branch in net.branches())


def compile_whole(net, compiler):
    net.wrap(lambda branch: torch.compile(branch, backend=compiler, fullgraph=True))


def compile_in_place(net, compiler):
    net.wrap(lambda branch: branch.compile(backend=compiler, fullgraph=True) or branch)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('wrap', [compile_whole, compile_in_place])
def test_what_watches_the_first_step_compiles_nothing_twice(kind, wrap):
    torch._dynamo.reset()
    counter = CompileCounter()
    net = decomposition(kind, three())
    wrap(net, counter)
    train(net, 2)
    first = counter.frame_count
    assert first == 2, 'each branch once'
    train(net, 4)
    assert counter.frame_count == first


# Weights


def overlapping():
    model = three()
    model[2].weight = nn.Parameter(model[0].weight.data[:])
    return model, '0.weight and 2.weight'


def part_of_another():
    model = three()
    model[2].bias = nn.Parameter(model[0].weight.data[:, 1])
    return model, '0.weight and 2.bias'


def seen_by_a_buffer():
    model = three()
    model.register_buffer('copy', model[0].bias.detach())
    return model, '0.bias and copy'


def other_type():
    model = three()
    model.wave = nn.Parameter(torch.view_as_complex(model[0].weight.data.view(4, 2, 2)))
    return model, 'wave and 0.weight'


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('make', [overlapping, part_of_another, seen_by_a_buffer, other_type])
def test_parameters_that_share_memory_are_refused(kind, make):
    model, pair = make()
    with pytest.raises(ValueError, match=f'tensors share their memory: {pair}. .*tie them as one nn.Parameter'):
        decomposition(kind, model)


@pytest.mark.parametrize('kind', KINDS)
def test_parameters_side_by_side_in_one_storage_are_right(kind):
    model, storage = three(), torch.randn(4, 12)
    model[0].weight = nn.Parameter(storage[:, ::3])
    model[2].weight = nn.Parameter(storage[:, 1::3])
    plain = copy.deepcopy(model)
    plain[0].weight, plain[2].weight = (nn.Parameter(model[index].weight.detach().clone()) for index in (0, 2))
    states = [train(decomposition(kind, one)).composite_state_dict() for one in (model, plain)]
    assert all(torch.allclose(value, states[1][name], atol=1e-6) for name, value in states[0].items())


CALLS = {
    'score_layers': lambda model: ldt.score_layers(model, [torch.ones(2, 4)], square),
    'GradientStatistics': ldt.GradientStatistics,
    **{kind.__name__: functools.partial(decomposition, kind) for kind in KINDS},
}


@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_weights_without_values_are_refused(call):
    with pytest.raises(ValueError, match=r'0\.weight, 0\.bias are on the meta device, .*to_empty'):
        call(nn.Sequential(nn.Linear(4, 4, device='meta'), nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r'0\.weight, 0\.bias have no shape yet: run the network on one batch'):
        call(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 4)))


@pytest.mark.parametrize('criterion', ldt.CRITERIA)
@pytest.mark.parametrize('granularity', ldt.GRANULARITIES)
def test_a_parameter_without_entries_scores_zero_and_changes_no_other_score(criterion, granularity):
    torch.manual_seed(0)
    plain = three()
    model = nn.Sequential(*copy.deepcopy(plain), Empty())
    batches = [torch.randn(3, 4) for _ in range(3)]
    expected, found = (
        ldt.score_layers(net, batches, square, criterion=criterion, granularity=granularity) for net in (plain, model)
    )
    empty = '3' if granularity == 'module' else '3.nothing'
    assert found == {**expected, empty: 0}
    assert ldt.Partition.from_scores(found).stable[0] == '3.nothing' or granularity == 'module'


class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.a, self.b = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


@pytest.mark.parametrize('criterion', ['variance', 'mean', 'normalized_variance', 'between_sample_variance'])
def test_gradients_that_are_zero_at_first_are_named(criterion):
    model = LoRA()
    batches = [torch.randn(3, 4) for _ in range(3)]
    with pytest.warns(
        UserWarning, match=r'gradient of a\.weight was exactly zero in every batch.*LoRA.*score after'
    ) as said:
        scores = ldt.score_layers(model, batches, square, criterion=criterion)
    assert len(said) == 1 and scores['a.weight'] == 0 < scores['b.weight']
    with torch.no_grad():
        model.b.weight.add_(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert ldt.score_layers(model, batches, square, criterion=criterion)['a.weight'] > 0


@pytest.mark.parametrize(
    'loss', [lambda m, x: m(x).detach().sum(), lambda m, x: x.sum(), lambda m, x: three()(x).sum() * 0]
)
def test_a_loss_that_does_not_depend_on_the_network(loss):
    if loss(three(), torch.ones(1, 4)).requires_grad:
        with pytest.raises(ValueError, match='no batch gave any layer a gradient'):
            ldt.score_layers(three(), [torch.ones(1, 4)] * 2, loss)
        return
    with pytest.raises(ValueError, match=r'depends on no trainable parameter.*must run the model that it is given'):
        ldt.score_layers(three(), [torch.ones(1, 4)] * 2, loss)


def test_batches_that_run_out():
    batches = [torch.randn(2, 4) for _ in range(3)]
    assert ldt.score_layers(three(), batches, square, 300) == ldt.score_layers(three(), iter(batches), square, 3)
    used = iter(batches)
    ldt.score_layers(three(), used, square)
    with pytest.raises(ValueError, match='empty, or an iterator that is exhausted'):
        ldt.score_layers(three(), used, square)


@pytest.mark.filterwarnings('ignore:.*weight_norm.*deprecated:FutureWarning')
def test_a_network_that_cannot_be_copied_is_said():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    model(torch.ones(1, 4))
    with pytest.raises(ValueError, match=r'cannot be copied .*parametrizations\.weight_norm.*AlternatingDecomposition'):
        decomposition(ldt.LayerDecomposition, model)
    assert train(decomposition(ldt.AlternatingDecomposition, model), 3).steps == 3


@pytest.mark.parametrize('every', [float('inf'), float('nan'), 1.5])
def test_an_interval_is_a_whole_number(every):
    with pytest.raises(ValueError, match='exchange_every must be a whole number of at least 1'):
        decomposition(ldt.LayerDecomposition, three(), every=every)


def test_a_torchscript_program_is_refused():
    net = torch.jit.trace(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), torch.ones(1, 2))
    with pytest.raises(ValueError, match='is a TorchScript program'):
        ldt.score_layers(net, [torch.ones(1, 2)] * 3, lambda model, batch: model(batch).sum())
