"""Stage 0 in a training: the head on D1, the scores on D2, and what a run keeps of the two halves."""

import copy
import json
import re
from collections import Counter

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader

import ldt
from basicsr.data.loaders import Some, loader_of_some
from basicsr.options import strategies
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.strategies import Setting, build_strategy, ldt_report, ldt_strategy
from basicsr.strategies.ldt_options import LDTSection
from basicsr.strategies.warm_up import WarmUp
from basicsr.utils.registry import DATASET_REGISTRY
from tests.basicsr.strategies.classifiers import (
    NETWORKS,
    Stripes,
    StripesNet,
    accuracy,
    begun,
    options,
    prepared,
    trained,
)
from tests.basicsr.strategies.test_baselines import one_process

__all__ = ['one_process']

LDT = {'warmup_iter': 5, 'scoring_batches': 4, 'exchange_every': 2, 'update': 'fixed', 'fixed_decay': 0.5}
KINDS = {'dual': {}, 'alternating': {'strategy': 'alternating', 'alternate_every': 1}}


@pytest.fixture(autouse=True)
def without_plots(monkeypatch):
    monkeypatch.setattr(ldt_report, 'plot_layer_scores', lambda *_: None)


@pytest.fixture
def scored(monkeypatch):
    """For each scoring: the paths of the samples, and a copy of the network."""
    found, score = [], ldt.score_layers

    def record(net, batches, loss, count, *args, **kwargs):
        batches = [batch for batch, _ in zip(batches, range(count), strict=False)]
        found.append(({path for batch in batches for path in batch['path']}, copy.deepcopy(net)))
        return score(net, iter(batches), loss, count, *args, **kwargs)

    monkeypatch.setattr(ldt_strategy.ldt, 'score_layers', record)
    return found


def weights(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('network', NETWORKS)
def test_from_the_warm_up_to_the_composite(tmp_path, scored, network, kind):
    opt = options(tmp_path, NETWORKS[network], ldt={**LDT, **KINDS[kind], 'repartition_every': 4})
    model = begun(opt)
    start, (head,) = weights(model.net_g), model.net_g.head_prefixes
    model.before_training(model.train_loader)
    record = json.loads((tmp_path / 'partition.json').read_text())['samples']
    dataset = Stripes()
    names = [path.removeprefix('/pictures/') for path in dataset.paths]
    assert record['seed'] == 3 and sorted(record['warm_up'] + record['scoring']) == sorted(names)
    for half in ('warm_up', 'scoring'):
        kinds = Counter((name.split('/')[0], name.split('/')[1]) for name in record[half])
        assert len(kinds) == 6 and {*kinds.values()} == {3}, 'as many of each class in each domain'
    assert ldt.Partition.from_dict(json.loads((tmp_path / 'partition.json').read_text())).samples == record
    assert ldt.Partition.load(tmp_path / 'partition.json').stable == model.strategy.decomposition.partition.stable

    trained(model, opt, 1, 8)
    assert len(scored) == 3, 'at first, and twice anew'
    for paths, _ in scored:
        assert paths and {path.removeprefix('/pictures/') for path in paths} <= {*record['scoring']}
    warm = scored[0][1].state_dict()
    assert {name for name, value in warm.items() if not torch.equal(value, start[name])} == {
        f'{head}.weight', f'{head}.bias',
    }  # fmt: skip
    with model.published() as net:
        published = weights(net)
    assert not same(published, warm) and all(torch.isfinite(value).all() for value in published.values())


def test_it_is_the_plain_loop(tmp_path, scored):
    """To the bit, with clipping and parts of a batch as in a step of the training."""
    opt = options(tmp_path, ldt=LDT, grad_clip_norm=0.01, accumulate=2)
    model = prepared(opt)
    dataset, net = Stripes(), begun(opt).net_g
    half = ldt.split_samples(list(zip(dataset.groups, dataset.labels, strict=True)), seed=3)[0]
    optimizer = torch.optim.Adam(net.head.parameters(), lr=3e-3, fused=True)
    loader, done = loader_of_some(opt, model.train_loader, half, accumulate=2), 0
    for epoch in range(5):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert len(batch['path']) % 8 == 0
            optimizer.zero_grad()
            for part in range(2):
                of_part = {key: batch[key].chunk(2)[part] for key in ('image', 'label')}
                (nn.functional.cross_entropy(net(of_part['image']), of_part['label']) / 2).backward()
            nn.utils.clip_grad_norm_(net.head.parameters(), 0.01)
            optimizer.step()
            done += 1
            if done == LDT['warmup_iter']:
                torch.testing.assert_close(scored[0][1].head.state_dict(), net.head.state_dict())
                return
    pytest.fail('too few batches')


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_that_goes_on_does_not_warm_up_again(tmp_path, scored, monkeypatch, kind):
    opt = options(tmp_path, ldt={**LDT, **KINDS[kind], 'repartition_every': 5})
    whole = prepared(opt)
    trained(whole, opt, 1, 3)
    whole.save(0, 3)
    trained(whole, opt, 4, 8)
    record = (tmp_path / 'partition.json').read_text()
    again = prepared(opt)
    assert same(weights(scored[-1][1]), weights(scored[0][1])), 'killed in the warm-up, it begins anew as it began'
    trained(again, opt, 1, 8)

    monkeypatch.setattr(ldt, 'warm_up', lambda *args, **kwargs: pytest.fail('a second warm-up'))
    resumed = begun(opt)
    resumed.resume_training(load_checkpoint(tmp_path / 'training_states' / '3.state'))
    resumed.before_going_on()
    trained(resumed, opt, 4, 8)
    assert (tmp_path / 'partition.json').read_text() == record
    for other in (again, resumed):
        with whole.published() as one, other.published() as two:
            assert same(weights(one), weights(two))
    assert scored[-1][0] == scored[1][0], 'of the same half'


def test_a_run_that_began_without_goes_on_without(tmp_path, scored):
    opt = options(tmp_path, ldt={**LDT, 'warmup_iter': 0, 'repartition_every': 3})
    model = trained(prepared(opt), opt, 1, 2)
    model.save(0, 2)
    assert 'samples' not in json.loads((tmp_path / 'partition.json').read_text())
    opt['train']['ldt']['warmup_iter'] = 5
    resumed = begun(opt)
    resumed.resume_training(load_checkpoint(tmp_path / 'training_states' / '2.state'))
    resumed.before_going_on()
    trained(resumed, opt, 3, 3)
    assert 'samples' not in json.loads((tmp_path / 'partition.json').read_text())


@pytest.mark.parametrize('criterion', [*ldt.CRITERIA])
def test_every_criterion_with_a_new_head(tmp_path, criterion):
    """Random among them."""
    opt = options(tmp_path, ldt={**LDT, 'unstable_ratio': 0.7, 'criterion': criterion})
    model = trained(prepared(opt), opt, 1, 2)
    partition = model.strategy.decomposition.partition
    assert partition.criterion == criterion
    assert len(partition.unstable) == 7 and len(partition.stable) == 3


def test_the_head_as_the_network_says(tmp_path):
    """DeFT and LP-FT need no prefixes then; those that are written count."""
    opt = options(tmp_path, ldt={'criterion': 'prefix'})
    assert prepared(opt).strategy.decomposition.partition.unstable == ['head.weight', 'head.bias']
    opt = options(tmp_path, ldt={'criterion': 'prefix', 'unstable_prefixes': 'head.bias'})
    assert prepared(opt).strategy.decomposition.partition.unstable == ['head.bias']
    model = begun(options(tmp_path, head_first={'iter': 2}))
    assert {name for name, value in model.net_g.named_parameters() if value.requires_grad} == {
        'head.weight', 'head.bias',
    }  # fmt: skip


@pytest.mark.parametrize(
    ('train', 'key'),
    [
        ({'ldt': {'warmup_iter': 1}}, 'train.ldt.head_prefixes'),
        ({'ldt': {'criterion': 'prefix'}}, 'train.ldt.unstable_prefixes'),
        ({'head_first': {'iter': 2}}, 'train.head_first.prefixes'),
    ],
)
def test_a_network_that_does_not_say_its_head(tmp_path, monkeypatch, train, key):
    opt = options(tmp_path, **train)
    for own in ((), None):
        monkeypatch.setattr(StripesNet, 'head_prefixes', own)
        with pytest.raises(ValueError, match=rf'^{re.escape(key)}: missing, and the network \(StripesNet\) has no'):
            begun(opt)
    monkeypatch.setattr(StripesNet, 'head_prefixes', ('fc',))
    with pytest.raises(ValueError, match=rf"^{re.escape(key)}: no layer has the prefix 'fc'"):
        begun(opt)


@DATASET_REGISTRY.register()
class OneDomainOfStripes(Stripes):
    def __init__(self, count: int = 6):
        super().__init__(count)
        del self.groups


def test_halves_too_small_for_a_batch_are_said_before_the_run(tmp_path):
    opt = options(tmp_path, count=1, ldt=LDT)
    opt['datasets']['train']['type'] = 'OneDomainOfStripes'
    model = begun(opt)
    message = r'^train\.ldt\.warmup_iter: 3 of 6 training samples are for the head\. .* has 3 samples, fewer than'
    with pytest.raises(ValueError, match=message):
        model.rehearse_step(next(iter(model.train_loader)))
    with pytest.raises(ValueError, match=message):
        model.before_training(model.train_loader)


def test_a_loss_that_is_no_number_ends_it_by_name(tmp_path, monkeypatch):
    opt = options(tmp_path, ldt=LDT)
    model = begun(opt)
    start, losses = weights(model.net_g), type(model).losses
    monkeypatch.setattr(
        type(model), 'losses', lambda self, net, batch: {'l_cls': losses(self, net, batch)['l_cls'] * float('nan')}
    )
    with pytest.raises(ValueError, match=r'^train\.ldt\.warmup_iter: the loss is nan in iteration 1 of the warm-up'):
        model.before_training(model.train_loader)
    assert same(weights(model.net_g), start)


def test_processes_average_the_gradients_of_the_head(tmp_path, one_process, scored, monkeypatch):
    """A group of one process: what runs in the warm-up is wrapped while the backbone is frozen."""
    opt = options(tmp_path, ldt=LDT)
    alone = prepared(opt)
    wrapped, wrap = [], nn.parallel.DistributedDataParallel

    class Watched(wrap):
        def __init__(self, net, **kwargs):
            wrapped.append({name for name, value in net.named_parameters() if value.requires_grad})
            super().__init__(net, **kwargs)

    monkeypatch.setattr('basicsr.models.base_model.DistributedDataParallel', Watched)
    model = prepared({**opt, 'dist': True})
    assert wrapped[1] == {'head.weight', 'head.bias'}
    assert same(weights(scored[0][1]), weights(scored[1][1]))
    assert model.strategy.decomposition.partition == alone.strategy.decomposition.partition


def in_one_of_two(rank, folder, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    ldt_report.plot_layer_scores = lambda *_: None
    opt = options(folder, NETWORKS['vit'], ldt=LDT)
    opt.update(dist=True, rank=rank, world_size=2)
    opt['datasets']['train']['batch_size_per_gpu'] = 2
    model = prepared(opt)
    results[rank] = {name: value.tolist() for name, value in model.strategy.network.state_dict().items()}
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    """The one that warms up on the batches of both. Scores are of smaller batches, and others."""
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(in_one_of_two, (tmp_path, results), nprocs=2)
        first, second = results[0], results[1]
    assert first == second
    files = [json.loads((tmp_path / 'partition.json').read_text())]
    opt = options(tmp_path, NETWORKS['vit'], ldt=LDT)
    start, model = weights(begun(opt).net_g), prepared(opt)
    files.append(json.loads((tmp_path / 'partition.json').read_text()))
    assert files[0]['samples'] == files[1]['samples']
    for name, value in weights(model.strategy.network).items():
        torch.testing.assert_close(torch.tensor(first[name]), value, rtol=1e-4, atol=1e-5)
        assert torch.equal(value, start[name]) == (not name.startswith('head.'))


def test_pre_trained_weights_have_the_head_that_was_warmed_up(tmp_path, scored):
    """WiSE-FT interpolates from where the training began, not from a head at random."""
    opt = options(tmp_path, ldt=LDT, wise_ft=0.0)
    file = tmp_path / 'start.pth'
    torch.save({'params': StripesNet().state_dict()}, file)
    opt['path']['pretrain_network_g'] = str(file)
    model = trained(prepared(opt), opt, 1, 3)
    with model.published() as net:
        torch.testing.assert_close(dict(net.named_parameters()), dict(scored[0][1].named_parameters()), rtol=0, atol=0)


def test_of_some_samples():
    """They have the attributes of theirs, and forward the others."""
    dataset = Stripes()
    some = Some(dataset, [0, 35, 7])
    assert len(some) == 3 and some[1]['path'] == dataset.paths[35] == some.paths[1]
    assert some.labels == [0, 2, 1] and some.groups == [0, 1, 0] and some.classes == dataset.classes
    with pytest.raises(AttributeError, match='no_such'):
        some.no_such  # noqa: B018


class Pairs:
    """A data set as pictures have it, whose samples are pairs of files, or have no names."""

    def __init__(self, paths):
        if paths is not None:
            self.paths = paths

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(2) * index


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        ([{'lq_path': f'/a/lq/{i}.png', 'gt_path': f'/a/gt/{i % 2}/{i}.png'} for i in range(4)],
         {f'{i % 2}/{i}.png' for i in range(4)}),
        ([{'lq_path': f'{i}'} for i in range(4)], {*'0123'}),
        (None, {0, 1, 2, 3}),
        (['too few'], {0, 1, 2, 3}),
    ],
)  # fmt: skip
def test_what_stands_for_a_sample(tmp_path, paths, names):
    """In a setting of one's own, without a task: a name of its file, or its index."""
    torch.manual_seed(0)
    dataset, net = Pairs(paths), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    loader = DataLoader(dataset, 2)
    setting = Setting(
        {'total_iter': 4, 'ldt': {'warmup_iter': 2, 'head_prefixes': '1', 'scoring_batches': 2}},
        loss=lambda net, batch: net(batch).square().mean(),
        batches=lambda: loader,
        batches_of=lambda indices, step: DataLoader(Some(dataset, indices), 2),
        folder=str(tmp_path),
    )
    strategy = build_strategy(net, setting)
    strategy.rehearse()
    strategy.prepare(setting.loss, loader)
    record = json.loads((tmp_path / 'partition.json').read_text())['samples']
    assert {*record['warm_up'], *record['scoring']} == names and len(record['warm_up']) == 2


def test_one_sample_has_no_halves():
    warm_up = WarmUp(1, ['head'], Setting({}, loss=None, batches=lambda: DataLoader([1])))
    with pytest.raises(ValueError, match=r'train\.ldt\.warmup_iter: two halves need at least two samples, not 1'):
        warm_up.check()


def test_prefixes_without_a_warm_up_are_doubted():
    section = {'train': {'ldt': {'head_prefixes': 'head'}}}
    assert [*strategies.without_effect(section)] == [
        ('train.ldt.head_prefixes', 'without effect: it belongs to warmup_iter')
    ]
    section['train']['ldt']['warmup_iter'] = 3
    assert not [*strategies.without_effect(section)]
    assert LDTSection().warmup_iter == 0


def test_it_lowers_the_loss_of_the_head(tmp_path, scored):
    opt = options(tmp_path, ldt={**LDT, 'warmup_iter': 60})
    model = begun(opt)
    model.net_g.eval()
    before = accuracy(model.net_g)
    model.before_training(model.train_loader)
    warm = scored[0][1].train()  # as the head has seen its features
    assert accuracy(warm) > before + 0.1
