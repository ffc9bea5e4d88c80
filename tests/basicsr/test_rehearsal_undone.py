"""A rehearsal leaves no trace: in the model, in random numbers, in data sets, in what a training comes to."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import basicsr.rehearsal
import basicsr.train
from basicsr.data.loaders import loader_beside_the_training
from basicsr.data.samples import undisturbed
from basicsr.evaluation import build_loaders
from basicsr.models import build_model
from basicsr.models.sr_model import SRModel
from basicsr.options.resolve import parse_options
from basicsr.rehearsal import Rehearsal, rehearse
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.utils.misc import get_random_state
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from tests import small_run
from tests.small_run import command_line, make_pictures, train, write

LDT = {'scoring_batches': 2, 'exchange_every': 1, 'stable_decay': [0.5, 0.4], 'unstable_decay': [0.6, 0.3]}
METHODS = {
    'plain': {},
    'EMA': {'train__ema_decay': 0.9},
    'SWAD': {'train__swad': {'converged': 1}},
    'WiSE-FT': {'train__wise_ft': 0.5, 'path__pretrain_network_g': 'weights.pth'},
    'LP-FT': {'train__head_first': {'iter': 1, 'prefixes': ['tail']}},
    'LDT': {'model_type': 'LDTModel', 'train__ldt': LDT},
    'LDT-S': {'model_type': 'LDTModel', 'train__ldt': {'strategy': 'alternating', 'scoring_batches': 2}},
    'bf16': {'train__amp': 'bf16'},
    'fp16': {'train__amp': 'fp16'},
    'accumulate': {'train__accumulate': 2},
    'self-ensemble and clipping': {'val__selfensemble_testing': True, 'train__grad_clip_norm': 0.1},
}


class Normed(nn.Module):
    """A network x2 with batch statistics, random numbers, and layers that the rehearsal must not switch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, 1, 1)
        self.norm, self.frozen, self.drop = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.tail = nn.Conv2d(8, 12, 3, 1, 1)
        self.register_buffer('calls', torch.zeros(()), persistent=False)

    def train(self, mode: bool = True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        self.calls += 1
        features = self.drop(self.frozen(self.norm(self.head(x))))
        return nn.functional.pixel_shuffle(self.tail(features), 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._objects, 'Normed', Normed)
    torch.manual_seed(0)
    torch.save({'params': Normed().state_dict()}, tmp_path / 'weights.pth')
    return make_pictures(tmp_path)


def built(folder, **changes):
    file = write(folder, **{'network_g': {'type': 'Normed'}, **changes})
    opt, _ = parse_options(str(folder), True, command_line(file))
    model = build_model(opt)
    model.train_loader = loader_beside_the_training(opt)
    return opt, model, build_loaders(opt, ['val', 'test'])


def snapshot(model) -> dict:
    """All that a model holds, in copies."""
    own = sorted(name for name, value in vars(model).items() if getattr(type(model), name, 0) is not value)
    found = {'attributes': own, 'random': get_random_state(), 'tile': model.tiling.tile}
    nets = {'net': model.get_bare_model(model.net_g)}
    if model.strategy.shadow is not None:
        nets['shadow'] = model.strategy.shadow
    for label, net in nets.items():
        found[label] = {
            'state': net.state_dict(),
            'buffers': dict(net.named_buffers()),
            'gradients': {name: value.grad for name, value in net.named_parameters()},
            'trains': {name: value.requires_grad for name, value in net.named_parameters()},
            'modes': [module.training for module in net.modules()],
        }
    found['optimizers'] = [one.state_dict() for one in model.optimizers]
    found['schedulers'] = [one.state_dict() for one in model.schedulers]
    found['stepper'] = model.stepper.state_dict()
    found['plain'] = [model.log_dict, model.best_metric_results, model.image_results, model._validation_losses]
    return copy.deepcopy(found)


def assert_same(one, other, path=''):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f'{path}.{key}')
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (item, its) in enumerate(zip(one, other, strict=True)):
            assert_same(item, its, f'{path}[{index}]')
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), path
    else:
        assert one == other, path


@pytest.mark.parametrize('method', METHODS)
def test_a_model_is_what_it_was(folder, method):
    opt, model, loaders = built(folder, **METHODS[method])
    for parameter in model.get_bare_model(model.net_g).parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    before = snapshot(model)
    rehearsal = Rehearsal(opt)
    rehearsal.try_model(model, model.train_loader, loaders)
    assert not rehearsal.mistakes and len(rehearsal.tried) == 4, [*map(str, rehearsal.mistakes), *rehearsal.tried]
    assert_same(before, snapshot(model))
    assert all((parameter.grad == 0.25).all() for parameter in model.get_bare_model(model.net_g).parameters())


def test_a_failed_rehearsal_leaves_no_trace_either(folder):
    opt, model, loaders = built(folder, train__pixel_opt__reduction='none', val__metrics__ssim__crop_border=12)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r'(?s)train\.pixel_opt: .*val\.metrics\.ssim: '):
        rehearse(opt, model, model.train_loader, loaders)
    assert_same(before, snapshot(model))


def weights_of(folder, name='small'):
    models = folder / 'experiments' / name / 'models'
    return {file.name: load_checkpoint(file) for file in sorted(models.iterdir())}


def states_of(folder):
    states = folder / 'experiments' / 'small' / 'training_states'
    found = {file.name: load_checkpoint(file) for file in sorted(states.iterdir())}
    for state in found.values():
        del state['log_position']
    return found


class OwnStep(SRModel):
    """A model of a user's, whose step changes more than weights."""

    def __init__(self, opt):
        super().__init__(opt)
        self.pool, self.steps = torch.zeros(3), 0

    def optimize_parameters(self, current_iter):
        self.steps += 1
        self.optimizer_g.zero_grad()
        self.output = self.net_g(self.lq)
        loss = self.cri_pix(self.output, self.gt) * (1 + 0.1 * self.steps) + self.pool.mean()
        loss.backward()
        self.optimizer_g.step()
        self.pool += torch.rand(3)
        self.log_dict = self.reduce_loss_dict({'l_pix': loss})


class OwnNumbers(torch.utils.data.Dataset):
    """A data set of a user's that draws on random numbers of its own, and counts."""

    def __init__(self, opt):
        self.opt, self.random, self.seen, self.cache = opt, np.random.default_rng(3), 0, {}
        self.python, self.torch = random.Random(5), torch.Generator().manual_seed(7)
        self.old = np.random.RandomState(9)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.seen += 1
        self.cache[index] = self.seen
        scale = self.python.random() + self.old.rand() + torch.rand((), generator=self.torch).item() + self.seen / 100
        lq = torch.from_numpy(self.random.random((3, 12, 12), dtype=np.float32)) * scale / 5
        return {'lq': lq, 'gt': lq.repeat(1, 2, 2), 'lq_path': f'{index}.png'}


@pytest.mark.parametrize('method', [*METHODS, 'own step', 'own numbers', 'resumed'])
def test_a_training_comes_to_the_same(folder, monkeypatch, method):
    monkeypatch.setitem(MODEL_REGISTRY._objects, 'OwnStep', OwnStep)
    monkeypatch.setitem(DATASET_REGISTRY._objects, 'OwnNumbers', OwnNumbers)
    own = {'type': 'OwnNumbers'}
    more = {
        'own step': {'model_type': 'OwnStep'},
        'own numbers': {
            **{'datasets__train': {**own, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}, 'datasets__val': own},
            **METHODS['LDT'],  # which scores on data of its own
        },
        'resumed': METHODS['LDT'],
    }
    changes = {'network_g': {'type': 'Normed'}, 'train__total_iter': 4, **METHODS.get(method, more.get(method, {}))}

    def run():
        changes['train__total_iter'] = 4
        train(folder, **changes)
        if method == 'resumed':
            changes['train__total_iter'] = 6
            train(folder, auto_resume=True, **changes)
        return weights_of(folder), states_of(folder)

    with_rehearsal = run()
    monkeypatch.setattr(basicsr.train, 'rehearse', lambda *arguments: None)
    assert_same(with_rehearsal, run())
    assert len(with_rehearsal[0]) >= 3 and with_rehearsal[1]


def test_a_test_comes_to_the_same(folder, monkeypatch):
    from basicsr.test import test_pipeline as run_test

    monkeypatch.setitem(DATASET_REGISTRY._objects, 'OwnNumbers', OwnNumbers)
    file = write(folder, network_g={'type': 'Normed'}, datasets={'val': {'type': 'OwnNumbers'}})
    results = folder / 'results' / 'small' / 'results.json'
    torch.manual_seed(0)
    run_test(str(folder), command_line(file))
    first = results.read_text()
    monkeypatch.setattr('basicsr.test.rehearse_tests', lambda *arguments: None)
    run_test(str(folder), command_line(file))
    assert results.read_text() == first


def test_data_sets_are_undisturbed():
    data = OwnNumbers({})
    subset = torch.utils.data.ConcatDataset([torch.utils.data.Subset(data, [0, 1])])
    expected = copy.deepcopy(data)[0]
    with undisturbed(subset):
        subset[0], subset[1]
        data.later = 1
    assert not hasattr(data, 'later') and data.seen == 0 and data.cache == {}
    assert_same(data[0], expected)


def test_what_is_tried_is_not_logged_twice(folder, logged):
    before = folder / 'experiments' / 'before' / 'models' / 'net_g_latest.pth'
    write(folder, 'before.yml', name='before')
    train(folder, path__pretrain_network_g=str(before), path__pretrain_opt=str(folder / 'before.yml'))
    lines = [record.getMessage() for record in logged.records]
    assert sum(line.startswith('Network MSRResNet: ') for line in lines) == 5, 'two trainings, and before and after'
    assert small_run.everything(before.parents[1])
