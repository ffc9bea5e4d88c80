"""What every registered criterion must do, and what is said of one that does not."""

import copy
import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import ldt
from ldt import criteria
from tests.ldt.own_criterion import MeanAbsoluteGradient
from tests.recipe import FourConvs, fill, l1_loss, scoring_batches

BATCHES = 4


@pytest.fixture(autouse=True)
def no_criterion_stays() -> Iterator[None]:
    """Forget what a test has registered."""
    before = dict(criteria._registered)
    yield
    criteria._registered.clear()
    criteria._registered.update(before)


class Stateful(nn.Module):
    """Batch statistics in both modes, a frozen layer, a gradient left over, tensors of one module side by side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.held = nn.BatchNorm2d(4)
        self.fixed = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.last = nn.Conv2d(4, 1, 1)
        self.held.eval()
        self.last.weight.grad = torch.ones_like(self.last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.fixed(self.held(self.norm(self.conv(x)))))


def pictures() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(BATCHES)]


def loss_of(model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    return model(pictures).square().mean()


def needs_batches(name: str) -> bool:
    return ldt.CRITERIA[name].min_batches > 0


def test_the_registry_is_a_mapping_of_names():
    names = ['variance', 'mean', 'normalized_variance', 'between_sample_variance', 'random']
    assert list(ldt.CRITERIA)[:5] == names and len(ldt.CRITERIA) == len({*ldt.CRITERIA})
    assert 'variance' in ldt.CRITERIA and 'prefix' not in ldt.CRITERIA
    assert all(issubclass(cls, ldt.Criterion) and cls.name == name for name, cls in ldt.CRITERIA.items())
    assert all(cls.__doc__ for cls in ldt.CRITERIA.values()), 'a docstring says what is measured'
    with pytest.raises(TypeError):
        ldt.CRITERIA['variance'] = MeanAbsoluteGradient


@pytest.mark.parametrize('granularity', ldt.GRANULARITIES)
@pytest.mark.parametrize('name', ldt.CRITERIA)
class TestEveryCriterion:
    def test_scores_are_finite_repeat_and_split_the_layers(self, name, granularity):
        net = fill(FourConvs(), 3)
        first, second = (
            ldt.score_layers(net, scoring_batches(BATCHES), l1_loss, criterion=name, granularity=granularity)
            for _ in range(2)
        )
        layers = ldt.layers_of(net, granularity)
        assert list(first) == list(layers), "the network's order"
        assert first == second
        assert all(type(score) is float and math.isfinite(score) for score in first.values())
        of_modules = layers if granularity == 'module' else None
        partition = ldt.Partition.from_scores(first, 0.5, name, of_modules)
        partition.check(net)
        assert partition.criterion == name
        assert ldt.Partition.from_json(partition.to_json()) == partition

    def test_the_order_of_batches_does_not_matter(self, name, granularity):
        net, batches = fill(FourConvs(), 3), scoring_batches(BATCHES)
        one, other = (
            ldt.score_layers(net, order, l1_loss, criterion=name, granularity=granularity)
            for order in (batches, batches[::-1])
        )
        assert one == pytest.approx(other, rel=1e-5)

    def test_it_scores_a_pass_that_others_share(self, name, granularity):
        net = fill(FourConvs(), 3)
        statistics = ldt.GradientStatistics(net, granularity=granularity, criteria=ldt.CRITERIA)
        alone = ldt.GradientStatistics(net, granularity=granularity, criteria=name)
        for pair in scoring_batches(BATCHES):
            net.zero_grad()
            l1_loss(net, pair).backward()
            statistics.update()
            alone.update()
        scores = ldt.score_layers(net, scoring_batches(BATCHES), l1_loss, criterion=name, granularity=granularity)
        assert statistics.scores(name) == alone.scores(name) == scores
        assert statistics.scores(name) == scores, 'asking for scores changes nothing'

    @pytest.mark.parametrize('fails', [False, True])
    def test_the_network_is_left_as_it_was(self, name, granularity, fails):
        model = Stateful()
        before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
        trained = [parameter.requires_grad for parameter in model.parameters()]
        calls = []

        def loss_fn(model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
            calls.append(model.held.training)
            if fails and len(calls) == 2:
                raise RuntimeError('out of data')
            return loss_of(model, pictures)

        if fails and needs_batches(name):
            with pytest.raises(RuntimeError, match='out of data'):
                ldt.score_layers(model, pictures(), loss_fn, criterion=name, granularity=granularity)
        else:
            scores = ldt.score_layers(model, pictures(), loss_fn, criterion=name, granularity=granularity)
            assert not any(layer.startswith('fixed') for layer in scores)
            assert len(calls) == (BATCHES if needs_batches(name) else 0)
        assert all(calls), 'scoring runs in training mode'
        after = model.state_dict()
        assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
        assert [module.training for module in model.modules()] == modes
        assert [parameter.requires_grad for parameter in model.parameters()] == trained
        assert model.conv.weight.grad is None
        assert torch.equal(model.last.weight.grad, torch.ones_like(model.last.weight))

    def test_gradients_with_nan_are_refused_by_name(self, name, granularity):
        class Broken(FourConvs):
            """Turns the gradient of `body2.weight` alone into NaN."""

            def __init__(self) -> None:
                super().__init__()
                self.body2.weight.register_hook(lambda gradient: gradient * math.nan)

        def score() -> dict[str, float]:
            return ldt.score_layers(net, scoring_batches(2), l1_loss, criterion=name, granularity=granularity)

        net = fill(Broken(), 3)
        if needs_batches(name):
            culprit = 'body2' if granularity == 'module' else r'body2\.weight'
            with pytest.raises(ValueError, match=rf'^the gradients of {culprit} hold NaN or Inf'):
                score()
        else:
            assert all(math.isfinite(value) for value in score().values()), 'it looks at no gradient'

    def test_absent_gradients_count_as_zero(self, name, granularity):
        class Idle(FourConvs):
            def __init__(self) -> None:
                super().__init__()
                self.idle = nn.Conv2d(2, 2, 1)

        def with_zeros(model: nn.Module, pair: tuple) -> torch.Tensor:
            return l1_loss(model, pair) + 0 * (model.idle.weight.sum() + model.idle.bias.sum())

        batches = scoring_batches(BATCHES)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            absent, zero = (
                ldt.score_layers(fill(Idle(), 3), batches, loss, criterion=name, granularity=granularity)
                for loss in (l1_loss, with_zeros)
            )
        assert absent == zero
        said = [str(warning.message) for warning in caught]
        idle = 'idle' if granularity == 'module' else 'idle.weight, idle.bias'
        expected = [
            f'no batch gave a gradient to {idle}: ',
            f'the gradient of {idle} was exactly zero in every batch: ',
        ]
        expected = expected if needs_batches(name) else []
        assert len(said) == len(expected)
        assert all(text.startswith(start) for text, start in zip(said, expected, strict=True))

    def test_too_few_batches_are_refused(self, name, granularity):
        few = max(ldt.CRITERIA[name].min_batches - 1, 0)
        if not needs_batches(name):
            assert ldt.score_layers(fill(FourConvs(), 3), [], l1_loss, criterion=name, granularity=granularity)
            return
        with pytest.raises(ValueError, match=r'there was no batch to score|batches were taken in where'):
            ldt.score_layers(
                fill(FourConvs(), 3), scoring_batches(few), l1_loss, criterion=name, granularity=granularity
            )


def test_a_user_registers_a_criterion_and_scores_with_it():
    with pytest.raises(ValueError, match=r"'of_a_users_own'; choose from variance, mean, "):
        ldt.score_layers(fill(FourConvs(), 3), [], l1_loss, criterion='of_a_users_own')
    assert ldt.register_criterion(MeanAbsoluteGradient) is MeanAbsoluteGradient
    assert list(ldt.CRITERIA)[-1] == 'of_a_users_own'
    net, batches = fill(FourConvs(), 3), scoring_batches(BATCHES)
    stacked: dict[str, list[torch.Tensor]] = {name: [] for name, _ in net.named_parameters()}
    for pair in batches:
        net.zero_grad()
        l1_loss(net, pair).backward()
        for name, parameter in net.named_parameters():
            stacked[name].append(parameter.grad.double().flatten())
    for granularity in ldt.GRANULARITIES:
        scores = ldt.score_layers(net, batches, l1_loss, criterion=MeanAbsoluteGradient.name, granularity=granularity)
        for layer, names in ldt.layers_of(net, granularity).items():
            entries = torch.cat([gradient for name in names for gradient in stacked[name]])
            assert scores[layer] == pytest.approx(entries.abs().mean().item(), rel=1e-6)


def test_a_criterion_of_mean_and_variance_is_one_method():
    @ldt.register_criterion
    class RelativeDeviation(criteria.Moments):
        name = 'relative_deviation'

        def score(self) -> torch.Tensor:
            return self.variance().sqrt() / self.mean().abs()

    net = fill(FourConvs(), 3)
    statistics = ldt.GradientStatistics(net)
    for pair in scoring_batches(BATCHES):
        net.zero_grad()
        l1_loss(net, pair).backward()
        statistics.update()
    assert RelativeDeviation.keeper() is ldt.CRITERIA['variance'].keeper(), 'nothing more is kept for it'
    scores, variance, mean = statistics.scores('relative_deviation'), statistics.variance(), statistics.mean()
    assert scores == pytest.approx({name: variance[name] ** 0.5 / abs(mean[name]) for name in scores}, rel=1e-12)


def test_a_subclass_that_keeps_something_else_does_not_share():
    @ldt.register_criterion
    class LastVariance(criteria.Variance):
        name = 'last_variance'

        def update(self, gradients: list) -> None:
            self.start()
            self.last = torch.stack([gradient.double().var() for gradient in gradients])

        def score(self) -> torch.Tensor:
            return self.last

    net, batches = fill(FourConvs(), 3), scoring_batches(2)
    scores = ldt.score_layers(net, batches, l1_loss, criterion='last_variance')
    assert scores == pytest.approx(ldt.score_layers(net, batches[-1:], l1_loss), rel=1e-5)
    with pytest.raises(ValueError, match=r"last_variance needs was not kept.*criteria='last_variance'"):
        ldt.GradientStatistics(net).scores('last_variance')


def complete(**members: object) -> type:
    """A class with all that a criterion needs, changed by `members`; those that are None are left out."""
    own = {**{key: vars(MeanAbsoluteGradient)[key] for key in ('start', 'update', 'all_reduce', 'score')}, **members}
    return type('Mine', (ldt.Criterion,), {key: value for key, value in own.items() if value is not None})


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: complete(name='mine', all_reduce=None), 'Mine is incomplete: it does not define all_reduce'),
        (lambda: complete(name='mine', score=None), 'Mine is incomplete: it does not define score'),
        (lambda: complete(name='mine', update=None, score=None), 'it does not define score, update'),
        (lambda: complete(), 'Mine needs a `name` of letters, digits and underscores, not None'),
        (lambda: complete(name='my criterion'), "needs a `name` of .*, not 'my criterion'"),
        (lambda: complete(name='prefix'), "cannot be called 'prefix', which means a split by name"),
        (lambda: complete(name='mean'), r"cannot be called 'mean': ldt\.criteria\.Mean has this name"),
        (lambda: complete(name='mine', min_batches=-1), 'min_batches must be a whole number, 0 or more, not -1'),
        (lambda: type('Mine', (ldt.CRITERIA['mean'],), {}), "cannot be called 'mean'"),
        (lambda: nn.Linear, 'not a subclass of ldt.Criterion'),
        (lambda: 'mine', "'mine' cannot be registered"),
    ],
)
def test_an_incomplete_criterion_is_refused_at_registration(make, message):
    before = dict(ldt.CRITERIA)
    with pytest.raises(ValueError, match=message):
        ldt.register_criterion(make())
    assert dict(ldt.CRITERIA) == before


@pytest.mark.parametrize(
    ('score', 'message'),
    [
        (lambda self: self.sums[:3], r'one number per layer, shape \(8,\), not \(3,\)'),
        (lambda self: self.sums[:, None], r'shape \(8,\), not \(8, 1\)'),
        (lambda self: None, r'shape \(8,\), not None'),
        (lambda self: dict.fromkeys(self.layers.names, 0.0), r'shape \(8,\), not \{'),
        (lambda self: ['high'] * 8, r"shape \(8,\), not \['high'"),
        (lambda self: self.sums / 0, r"criterion 'mine' scores head\.weight, .* as NaN or Inf, of finite gradients"),
    ],
)
def test_a_score_that_is_no_finite_number_for_each_layer_is_refused(score, message):
    ldt.register_criterion(complete(name='mine', score=score))
    with pytest.raises(ValueError, match=message):
        ldt.score_layers(fill(FourConvs(), 3), scoring_batches(2), l1_loss, criterion='mine')


def test_a_class_that_is_defined_again_replaces_itself():
    first, second = complete(name='mine'), complete(name='mine')
    assert first is not second
    ldt.register_criterion(first)
    ldt.register_criterion(second)
    assert ldt.CRITERIA['mine'] is second
