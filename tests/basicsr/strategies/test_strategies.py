"""What holds for each strategy that is registered, and for each pair of them; a new one is found here by itself."""

import copy
import math
import re
from itertools import combinations
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from basicsr.data.loaders import loader_beside_the_training
from basicsr.options.check import check_options
from basicsr.options.file import load_options
from basicsr.options.schema import Train
from basicsr.options.strategies import conflicts
from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.strategies import ldt_report
from basicsr.strategies.batch_statistics import BatchStatistics
from basicsr.strategies.lp_ft_strategy import LPFT
from basicsr.strategies.strategy import Wrapper
from basicsr.utils.misc import get_random_state, set_random_state
from basicsr.utils.registry import ARCH_REGISTRY, STRATEGY_REGISTRY
from scripts.benchmark import trainings
from tests.basicsr.models.test_models import build, loader, options, pictures
from tests.basicsr.models.test_stepping import batches
from tests.basicsr.strategies.test_baselines import TwoConvs, same

__all__ = ['pictures']

LDT = {'scoring_batches': 2, 'stable_decay': [0.5, 0.4], 'unstable_decay': [0.6, 0.3]}

SMALL = {
    'ema': {'ema_decay': 0.5},
    'swad': {'swad': {'converged': 1, 'patience': 3, 'tolerance': 2.0}},
    'wise_ft': {'wise_ft': 0.3},
    'lp_ft': {'head_first': {'iter': 3, 'prefixes': 'head'}},
    'ldt': {'ldt': {**LDT, 'exchange_every': 2}},
    'ldt, alternating': {'ldt': {**LDT, 'strategy': 'alternating', 'alternate_every': 1}},
    'ldt, warmed up': {'ldt': {**LDT, 'warmup_iter': 2, 'head_prefixes': 'head', 'exchange_every': 2}},
    'ldt, split anew': {'ldt': {**LDT, 'exchange_every': 1, 'repartition_every': 3}},
}
"""Options of `train` that ask for a strategy in a run of eight iterations; give yours some here. More than one set of
them for the same strategy: its name, a comma, a word."""

TOTAL, EVERY = 8, 2
ROOT = Path(__file__).parents[3]
STRATEGIES = {
    strategy.name: strategy for _, strategy in STRATEGY_REGISTRY if strategy.__module__.startswith('basicsr.')
}
"""Not those that other tests register."""


def name_of(label):
    return label.split(',')[0]


def section(labels):
    """The options of `train` that ask for all of these."""
    return copy.deepcopy({key: value for label in labels for key, value in SMALL[label].items()})


def pairs():
    return [pair for pair in combinations(SMALL, 2) if name_of(pair[0]) != name_of(pair[1])]


def compositions():
    """One strategy, two or three, as far as they go together."""
    groups = [*combinations(SMALL, 1), *pairs(), *combinations(SMALL, 3)]
    different = (group for group in groups if len({*map(name_of, group)}) == len(group))
    return [(), *(group for group in different if not [*conflicts(section(group))])]


@ARCH_REGISTRY.register()
class TwoConvsWithStatistics(TwoConvs):
    """Norms of both kinds that have running statistics, one of them called twice, and a dropout."""

    def __init__(self):
        super().__init__()
        self.body.append(nn.Dropout(0.2))
        self.batch_norm = nn.BatchNorm2d(8)
        self.instance_norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        self.without_statistics = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x):
        x = self.batch_norm(self.body(x))
        x = self.without_statistics(self.instance_norm(self.batch_norm(x)))
        return self.head2(self.head(x))


NETWORKS = ['TwoConvs', 'TwoConvsWithStatistics']


@pytest.fixture(params=compositions(), ids=lambda labels: ' + '.join(labels) or 'plain')
def labels(request):
    return request.param


@pytest.fixture
def pretrained(tmp_path):
    """Weights to start from, of each network."""
    torch.manual_seed(5)
    for network in NETWORKS:
        save_checkpoint({'params': ARCH_REGISTRY.get(network)().state_dict()}, tmp_path / f'{network}.pth')
    return tmp_path


@pytest.fixture
def written(pictures, tmp_path, pretrained, monkeypatch):
    """Options by labels and network. Batch statistics are those of three batches; no scores are plotted."""
    make = BatchStatistics.__init__
    monkeypatch.setattr(BatchStatistics, '__init__', lambda self, loss, batches, count: make(self, loss, batches, 3))
    monkeypatch.setattr(ldt_report, 'plot_layer_scores', lambda *_: None)  # which takes longer than all the rest

    def write(labels, network='TwoConvs', **train):
        opt = options(pictures, tmp_path, total_iter=TOTAL, **section(labels), **train)
        opt['network_g'] = {'type': network}
        if 'ldt, warmed up' in labels:  # halves of three pictures
            opt['datasets']['train']['dataset_enlarge_ratio'] = 2
        opt['path'].update(pretrain_network_g=str(pretrained / f'{network}.pth'))
        return opt

    return write


def begun(opt):
    model = build(copy.deepcopy(opt))
    model.train_loader = loader_beside_the_training(opt)
    return model


def prepared(opt):
    model = begun(opt)
    model.before_training(model.train_loader)
    return model


def iterations(model, opt, first, last):
    """As the pipeline: iterations `first` to `last` on batches that go by the iteration, validations between them."""
    source, val = [batch for batch, _ in zip(batches(opt), range(last), strict=False)], loader(opt)
    for iteration in range(first, last + 1):
        model.update_learning_rate(iteration)
        assert model.train_step(source[iteration - 1], iteration), f'{iteration} was skipped'
        if iteration % EVERY == 0:
            model.validation(val, iteration, None)
            assert math.isfinite(model.metric_results['psnr'])
            model.after_validation(iteration)
    return model


def published(model):
    with model.published() as net:
        return copy.deepcopy(net.state_dict())


def bare(model):
    """The networks that a step runs."""
    networks = [model.strategy.network, *(net for _, net in model.strategy.networks())]
    return [model.get_bare_model(net) for net in networks]


def everything(model):
    """All that must be as before once a network was lent, saved, or a step skipped."""
    parameters = [parameter for net in bare(model) for parameter in net.parameters()]
    shadow = model.strategy.shadow
    return copy.deepcopy(
        {
            'strategy': model.strategy.state_dict(),
            'optimizers': [optimizer.state_dict() for optimizer in model.optimizers],
            'modes': [module.training for net in bare(model) for module in net.modules()],
            'shadow': [module.training for module in shadow.modules()] if shadow is not None else None,
            'buffers': [dict(net.named_buffers()) for net in bare(model)],
            'parameters': [id(parameter) for parameter in parameters],
            'requires_grad': [parameter.requires_grad for parameter in parameters],
            'gradients': [parameter.grad for parameter in parameters],
            'momenta': [getattr(module, 'momentum', None) for net in bare(model) for module in net.modules()],
            'hooks': [len(module._forward_pre_hooks) for net in bare(model) for module in net.modules()],
        }
    )


@pytest.mark.parametrize('name', STRATEGIES)
def test_each_strategy_is_tested_here(name):
    if name not in {*map(name_of, SMALL)}:
        pytest.fail(f'no options for the strategy {name}: add an entry to SMALL in {__file__}')
    for label in SMALL:
        assert name_of(label) in STRATEGIES, f'SMALL has {label}, and no strategy of that name is registered'


@pytest.mark.parametrize('kind', STRATEGIES.values(), ids=STRATEGIES)
def test_what_a_strategy_declares(kind):
    assert kind.__doc__ and 'Args:' in kind.__doc__, 'a docstring of its own, with its arguments'
    assert kind.keys, 'keys of `train` that ask for it'
    names = [strategy.name for _, strategy in STRATEGY_REGISTRY]
    assert names.count(kind.name) == 1 and kind.name != 'plain', 'a name of its own'
    unknown = {*kind.not_with} - {*names}
    assert not unknown, f'not_with names strategies that there are not: {unknown}'
    assert all(reason.strip() for reason in kind.not_with.values()), 'a reason for each'
    others = [key for _, other in STRATEGY_REGISTRY if other is not kind for key in other.keys]
    assert not {*kind.keys} & {*others, *Train.model_fields}, 'keys that nothing else has'
    assert kind.on_top == issubclass(kind, Wrapper)
    assert kind.asked_by({}) is None
    asked = {label: kind.asked_by(options) for label, options in SMALL.items()}
    assert all((key in kind.keys) == (name_of(label) == kind.name) for label, key in asked.items())
    page = (ROOT / 'docs' / 'options.md').read_text()
    for key in kind.keys:
        assert f'\n| `{key}` |' in page, f'{key}: run scripts/analysis/options_schema.py, which writes docs/options.md'


@pytest.mark.parametrize('network', NETWORKS)
def test_it_trains_is_resumed_and_saved(written, tmp_path, labels, network):
    """Killed and resumed through the file, before, at and after what a strategy does, a run ends as the whole one."""
    opt = written(labels, network)
    whole = prepared(opt)
    start, trained = copy.deepcopy(whole.net_g.state_dict()), {}
    for iteration in range(1, TOTAL + 1):
        iterations(whole, opt, iteration, iteration)
        whole.save(0, iteration)
        trained[iteration] = everything(whole), published(whole), get_random_state()
    names = {*whole.strategy.names()} - {'plain'}
    assert names == {*map(name_of, labels)}, 'all that was asked for takes part'
    assert not same(trained[TOTAL][1], start)
    for killed in (1, 3, 4, 6):
        resumed = begun(opt)
        resumed.resume_training(load_checkpoint(tmp_path / 'training_states' / f'{killed}.state'))
        set_random_state(trained[killed][2])  # as the pipeline does
        assert same(resumed.strategy.state_dict(), trained[killed][0]['strategy']), killed
        assert same(published(resumed), trained[killed][1]), killed
        iterations(resumed, opt, killed + 1, TOTAL)
        for key in ('strategy', 'optimizers', 'modes', 'requires_grad', 'buffers'):
            assert same(everything(resumed)[key], trained[TOTAL][0][key]), (killed, key)
        assert same(published(resumed), trained[TOTAL][1]), killed


@pytest.mark.parametrize('network', NETWORKS)
def test_what_is_published_is_saved_and_scores_the_same_elsewhere(written, tmp_path, labels, network):
    opt = written(labels, network)
    model = iterations(prepared(opt), opt, 1, 5)
    model.validation(loader(opt), 5, None)
    model.save_weights('best')
    file = tmp_path / 'models' / 'net_g_best.pth'
    saved, key = load_checkpoint(file), model.param_key
    assert same(dict(saved[key]), dict(published(model)))
    for other, net in model.strategy.saved_beside().items():
        assert other != key and same(dict(saved[other]), dict(net.state_dict()))
    assert {*saved} == {key, *model.strategy.saved_beside()}
    paths = {**opt['path'], 'pretrain_network_g': str(file), 'param_key_g': key}
    alone = build({**opt, 'is_train': False, 'train': None, 'path': paths})
    alone.validation(loader(opt), 'alone', None)
    assert alone.metric_results == model.metric_results


@pytest.mark.parametrize('network', NETWORKS)
def test_lending_leaves_no_trace(written, labels, network):
    opt = written(labels, network)
    model = prepared(opt)
    for iteration in range(4):
        if iteration:
            iterations(model, opt, iteration, iteration)
        trained = [value for net in bare(model) for value in net.parameters() if value.requires_grad]
        sum(value.sum() for value in trained).backward()
        before, random_state = everything(model), get_random_state()
        with model.published() as net:
            assert not any(module.training for module in net.modules())
            first = copy.deepcopy(net.state_dict())
            with model.published() as again:
                assert again is net
        with pytest.raises(KeyError), model.published():
            raise KeyError
        assert same(published(model), first)
        assert same(everything(model), before), iteration
        assert same(get_random_state(), random_state), iteration


@pytest.mark.parametrize('network', NETWORKS)
def test_a_test_between_two_steps_keeps_its_picture(written, labels, network):
    """BasicSR's way: feed_data, test. The batches of the statistics go the same way."""
    opt = written(labels, network)
    model = iterations(prepared(opt), opt, 1, 3)
    pair = next(iter(loader(opt)))
    model.feed_data(pair)
    model.test()
    assert torch.equal(model.lq, pair['lq']) and torch.equal(model.gt, pair['gt'])
    with model.published() as net, torch.no_grad():
        assert torch.equal(model.output, net(pair['lq']))


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('at', [1, 4])
def test_a_skipped_step_changes_nothing(written, labels, network, at):
    opt = written(labels, network)
    model = iterations(prepared(opt), opt, 1, at - 1)
    model.strategy.before_step(at)  # what is frozen goes by the iteration
    before, lent = everything(model), published(model)
    batch = next(batches(opt))
    batch['lq'][0, 0, 0, 0] = math.nan
    assert model.train_step(batch, at) is False
    after = everything(model)
    for kept in (before, after):
        del kept['gradients']
    assert same(after, before) and same(published(model), lent)


@pytest.mark.parametrize('pair', pairs(), ids=' + '.join)
def test_a_pair_goes_together_or_says_why_not(written, tmp_path, pair):
    """Those that go together are trained, resumed and published above."""
    kinds = [STRATEGIES[name_of(label)] for label in pair]
    found = [*conflicts(section(pair))]
    if pair in compositions():
        return
    assert len(found) == 1
    key, reason = found[0]
    declared = [one.not_with[other.name] for one in kinds for other in kinds if other.name in one.not_with]
    assert len(declared) == 1, 'one of them says in not_with why it makes no sense with the other'
    other = next(name for one in kinds if key not in one.keys for name in section(pair) if name in one.keys)
    assert reason == f'not with {other}: {declared[0]}'
    with pytest.raises(ValueError, match=re.escape(f'train.{key}: {reason}')):
        build(written(pair))
    file = trainings.write_options(tmp_path, 'pair', 'SRModel')
    opt = yaml.safe_load(file.read_text())
    opt['train'] = {name: value for name, value in opt['train'].items() if name in Train.model_fields} | section(pair)
    opt['path']['pretrain_network_g'] = str(tmp_path / 'TwoConvs.pth')
    file.write_text(yaml.safe_dump(opt))
    opt, places = load_options(file)
    with pytest.raises(ValueError) as error:
        check_options(opt, places, is_train=True)
    lines = str(error.value).splitlines()
    line = 1 + next(at for at, text in enumerate(file.read_text().splitlines()) if text.startswith(f'  {key}:'))
    assert len(lines) == 2 and lines[1].strip().startswith(f'train.{key}: {reason} [')
    assert lines[1].endswith(f'{file.name}, line {line}]')


def test_two_that_train_are_refused_though_neither_says_so(written, monkeypatch):
    class Mine(LPFT):
        """Another one."""

        name = 'mine'
        not_with = {}
        keys = {'mine': LPFT.keys['head_first']}

    monkeypatch.setitem(STRATEGY_REGISTRY._objects, 'Mine', Mine)
    for mine, asks in ((False, False), ({'iter': 1, 'prefixes': 'head'}, True), (None, False)):
        assert bool([*conflicts({'head_first': SMALL['lp_ft']['head_first'], 'mine': mine})]) is asks
    with pytest.raises(ValueError, match=r'train\.mine: not with head_first: each of them decides what trains'):
        build(written(['lp_ft'], mine={'iter': 1, 'prefixes': 'head'}))
