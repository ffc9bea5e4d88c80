"""Models as users of BasicSR 1.4.2 write them: modules of their own, on real pictures, through the real pipelines."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from skimage import data

import basicsr.train
from basicsr.archs import build_network
from basicsr.check import check_pipeline
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.runs.command_line import make_parser
from basicsr.runs.user_modules import Entry, import_user_modules
from basicsr.test import test_pipeline as run_test
from basicsr.train import train_pipeline
from scripts.benchmark import trainings

ROOT = trainings.ROOT
USERS = Path(__file__).parent / 'third_party'
PSNR = {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': False}
LONGEST = 180


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Pairs x2 of crops of photographs: `train`, and `val` and `test` of sizes that no window divides."""
    folder = tmp_path_factory.mktemp('users')
    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    for part, count, (height, width) in (('train', 4, (64, 64)), ('val', 2, (60, 44)), ('test', 2, (44, 52))):
        for index in range(count):
            top = 100 + 60 * ('val', 'test', 'train').index(part)
            gt = photographs[index][top : top + height, 150 : 150 + width, ::-1]
            lq = cv2.resize(gt, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            for name, picture in (('HR', gt), ('LR', lq)):
                path = folder / part / name / f'{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    return folder


@pytest.fixture(scope='module', autouse=True)
def users_modules():
    """The networks, for what is computed by hand; runs import what their options name."""
    import_user_modules([Entry(str(USERS / 'tiny_archs.py'), (USERS,))], ROOT)


@pytest.fixture(autouse=True)
def log_files_closed():
    yield
    logger = logging.getLogger('basicsr')
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def write_options(folder, name, model_type, **changes):
    """Options of a training of 8 iterations; `a__b=value` changes a.b, and None takes it out."""
    pair = {'type': 'PairedImageDataset'}
    pairs = {
        phase: {'name': f'{phase}_set', **pair, 'dataroot_gt': f'{part}/HR', 'dataroot_lq': f'{part}/LR'}
        for phase, part in (('train', 'train'), ('val', 'val'), ('test_1', 'test'))
    }
    pairs['train'].update(gt_size=32, use_hflip=True, use_rot=True, dataset_enlarge_ratio=3)
    pairs['train'].update(batch_size_per_gpu=2, num_worker_per_gpu=0)
    adam = {'type': 'Adam', 'lr': 2e-3, 'betas': [0.9, 0.99]}
    opt = {
        **{'name': name, 'model_type': model_type, 'scale': 2, 'num_gpu': 0, 'manual_seed': 3},
        'imports': [str(USERS / f'{module}.py') for module in MODULES],
        'datasets': pairs,
        'network_g': {'type': 'Enlarger'},
        'path': {'output_root': str(folder), 'strict_load_g': True, 'resume_state': None},
        'train': {
            'total_iter': 8,
            'warmup_iter': -1,
            'optim_g': adam,
            'scheduler': {'type': 'MultiStepLR', 'milestones': [5], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'val': {'val_freq': 4, 'save_img': False, 'suffix': None, 'metrics': {'psnr': PSNR}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'save_best': 'psnr'},
    }
    for path, value in {**KINDS[model_type], **changes}.items():
        *sections, last = path.split('__')
        target = opt
        for section in sections:
            target = target.setdefault(section, {})
        if value is None:
            target.pop(last, None)
        else:
            target[last] = value
    file = folder / f'{name}.yml'
    file.write_text(yaml.safe_dump(opt, sort_keys=False))
    return file


MODULES = (
    'tiny_archs',
    'window_model',
    'settings_model',
    'gan_model',
    'degrading_model',
    'bare_model',
)
ADAM = {'type': 'Adam', 'lr': 1e-3}
GAN = {
    'network_d': {'type': 'Judge'},
    'train__optim_d': ADAM,
    'train__gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1},
    'train__net_d_iters': 1,
    'train__net_d_init_iters': 0,
}
CASCADE = {
    'network_g': None,
    'network_a': {'type': 'Enlarger'},
    'network_b': {'type': 'Refiner'},
    'train__optim_g': None,
    'train__optim_a': ADAM,
    'train__optim_b': {'type': 'SGD', 'lr': 1e-2, 'momentum': 0.9},
}
KINDS = {
    'WindowModel': {'network_g': {'type': 'WindowNet'}, 'val__save_img': True, 'logger__use_tb_logger': True},
    'PaddedModel': {'network_g': {'type': 'WindowNet'}},
    'SettingsModel': {'train__ema_decay': 0.5},
    'TwoTermsModel': {'train__ema_decay': 0.5},
    'TinyGANModel': {**GAN, 'train__ema_decay': 0.5},
    'DegradingModel': {'queue_size': 4},
    'CascadeModel': CASCADE,
    'GeneratorModel': {},
    'ForgetfulModel': {'train__pixel_opt': None},
    'SavingModel': {},
    'GroupsModel': {},
    'ShowingModel': {'logger__save_best': None},
    'SRModel': {},
}
RUN = ['WindowModel', 'PaddedModel', 'SettingsModel', 'TwoTermsModel', 'TinyGANModel', 'DegradingModel']
RUN += ['CascadeModel', 'GeneratorModel', 'SavingModel', 'GroupsModel']


class Killed(BaseException):
    """As sudden as SIGKILL, in this process."""


def train(folder, file, *arguments, killed_at=None, monkeypatch=None):
    args = make_parser(is_train=True).parse_args(['-opt', str(file), *arguments])
    if killed_at is None:
        train_pipeline(str(folder), args)
        return
    step_is_done = basicsr.runs.progress.Progress.step_is_done

    def die(self, epoch, current_iter, model):
        step_is_done(self, epoch, current_iter, model)
        if current_iter == killed_at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(basicsr.runs.progress.Progress, 'step_is_done', die)
        with pytest.raises(Killed):
            train_pipeline(str(folder), args)


def run_a_test(folder, file, *arguments):
    run_test(str(folder), make_parser(is_train=False).parse_args(['-opt', str(file), *arguments]))


def same(one, other, where=''):
    """Assert that two nests of tensors and plain values are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            same(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f'{where}.{index}')
    else:
        assert one == other, where


def experiment(folder, name):
    """All checkpoints and training states of a run by file name, but for the length of its log and its options."""
    files = {}
    for file in [*(folder / 'experiments' / name).rglob('*.pth'), *(folder / 'experiments' / name).rglob('*.state')]:
        files[file.name] = load_checkpoint(file)
        for key in ('log_position', 'options'):  # the options hold the run's name
            files[file.name].pop(key, None)
    return files


@pytest.mark.parametrize('model_type', RUN)
def test_a_killed_run_ends_as_if_it_had_not_been(folder, model_type, monkeypatch):
    whole, killed = (write_options(folder, f'{model_type}_{end}', model_type) for end in ('whole', 'killed'))
    train(folder, whole)
    train(folder, killed, killed_at=5, monkeypatch=monkeypatch)
    states = folder / 'experiments' / f'{model_type}_killed' / 'training_states'
    assert sorted(file.name for file in states.iterdir()) == ['2.state', '4.state']
    train(folder, killed, '--auto_resume')
    expected, found = (experiment(folder, f'{model_type}_{end}') for end in ('whole', 'killed'))
    assert {'2.state', '4.state', '6.state', '8.state'} <= expected.keys()
    same({name: expected[name] for name in sorted(expected)}, {name: found[name] for name in sorted(found)})


@pytest.mark.parametrize('model_type', RUN)
def test_what_is_tried_before_a_run_leaves_no_trace(folder, model_type, monkeypatch):
    tried, untried = (write_options(folder, f'{model_type}_{end}', model_type) for end in ('tried', 'untried'))
    train(folder, tried)
    monkeypatch.setattr(basicsr.train, 'rehearse', lambda *_: None)
    train(folder, untried)
    expected, found = (experiment(folder, f'{model_type}_{end}') for end in ('untried', 'tried'))
    same({name: expected[name] for name in sorted(expected)}, {name: found[name] for name in sorted(found)})


def weights_of(folder, name, label, which, key='params'):
    return load_checkpoint(folder / 'experiments' / name / 'models' / f'net_{label}_{which}.pth')[key]


def network(section, weights):
    net = build_network(section)
    net.load_state_dict(weights)
    return net.eval()


def networks_of_run(folder, name, model_type, which):
    """What a run has saved, as one function from lq to a picture, by hand."""
    if model_type == 'CascadeModel':
        first = network({'type': 'Enlarger'}, weights_of(folder, name, 'a', which))
        second = network({'type': 'Refiner'}, weights_of(folder, name, 'b', which))
        return lambda lq: second(first(lq))
    key = 'params_ema' if KINDS[model_type].get('train__ema_decay') else 'params'
    section = KINDS[model_type].get('network_g', {'type': 'Enlarger'})
    net = network(section, weights_of(folder, name, 'g', which, key))
    if model_type == 'WindowModel':
        pad = torch.nn.ReflectionPad2d
        return lambda lq: net(pad((0, -lq.shape[3] % 4, 0, -lq.shape[2] % 4))(lq))[
            ..., : 2 * lq.shape[2], : 2 * lq.shape[3]
        ]
    if model_type == 'PaddedModel':  # mirrored with the edge, where reflection leaves it out
        return lambda lq: net(
            torch.from_numpy(
                np.pad(lq.numpy(), [(0, 0), (0, 0), (0, -lq.shape[2] % 4), (0, -lq.shape[3] % 4)], 'symmetric')
            )
        )[..., : 2 * lq.shape[2], : 2 * lq.shape[3]]
    return net


@torch.no_grad()
def psnr_by_hand(folder, part, net, border=2):
    """Of each picture, in RGB, of 8 bits, without its border."""
    values = []
    for index in range(2):
        lq, gt = (cv2.imread(str(folder / part / name / f'{index}.png'))[..., ::-1].copy() for name in ('LR', 'HR'))
        output = net(torch.from_numpy(lq).permute(2, 0, 1)[None].float() / 255)[0]
        picture = (output.clamp(0, 1) * 255).round().permute(1, 2, 0).double().numpy()
        inner = (slice(border, -border), slice(border, -border))
        values.append(10 * np.log10(255**2 / np.mean((picture[inner] - gt[inner].astype(float)) ** 2)))
    return values


def scores(file, label, domain):
    return [one['psnr'] for one in json.loads(file.read_text())['scores'][label][domain].values()]


TESTS_BY_ITSELF = ('WindowModel', 'CascadeModel', 'GeneratorModel')
FILES = {'TinyGANModel': {'net_g', 'net_d'}, 'CascadeModel': {'net_a', 'net_b'}}


@pytest.mark.parametrize('model_type', RUN)
def test_metrics_tables_and_files_are_right(folder, model_type):
    name = f'{model_type}_measured'
    train(folder, write_options(folder, name, model_type))
    root = folder / 'experiments' / name
    labels = FILES.get(model_type, {'net_g'})
    saved = {file.name for file in (root / 'models').iterdir()}
    for label in labels:
        assert {f'{label}_{which}.pth' for which in (2, 4, 6, 8, 'latest')} <= saved
    assert 'net_b_best.pth' in saved if model_type == 'CascadeModel' else 'net_g_best.pth' in saved
    if KINDS[model_type].get('train__ema_decay'):
        assert set(load_checkpoint(root / 'models' / 'net_g_latest.pth')) == {'params', 'params_ema'}

    # The validation of the last iteration, and the best of the two.
    means = {
        iteration: np.mean(psnr_by_hand(folder, 'val', networks_of_run(folder, name, model_type, iteration)))
        for iteration in (4, 8)
    }
    state = load_checkpoint(root / 'training_states' / '8.state')['best_metric_results']
    best = state['mean of the validation sets']['psnr']
    assert best['iter'] == max(means, key=means.get)
    assert best['val'] == pytest.approx(max(means.values()), abs=1e-4)
    log = next(root.glob('*.log')).read_text()
    logged = [float(value) for value in re.findall(r'\bpsnr:? (\d+\.\d+)', log)]
    for value in means.values():
        assert any(one == pytest.approx(value, abs=1e-4) for one in logged)

    # The table at the end of the training, and that of basicsr/test.py.
    after = psnr_by_hand(folder, 'test', networks_of_run(folder, name, model_type, 'best'))
    with_scale = build_network({'type': 'Bicubic', 'upscale': 2})
    before = psnr_by_hand(folder, 'test', with_scale)
    expected = (lambda values: [np.mean(values)]) if model_type in TESTS_BY_ITSELF else list
    assert scores(root / 'results.json', 'after', 'test_1_set') == pytest.approx(expected(after), abs=1e-4)
    assert scores(root / 'results.json', 'bicubic', 'test_1_set') == pytest.approx(expected(before), abs=1e-4)
    assert '| test_1_set |' in (root / 'table.md').read_text()

    paths = {
        f'path__pretrain_network_{label[-1]}': f'experiments/{name}/models/{label}_best.pth'
        for label in labels - {'net_d'}
    }
    if KINDS[model_type].get('train__ema_decay'):
        paths['path__param_key_g'] = 'params_ema'
    tested = write_options(folder, f'{name}_again', model_type, train=None, val__save_img=True, **paths)
    run_a_test(folder, tested)
    found = folder / 'results' / f'{name}_again'
    assert scores(found / 'results.json', f'{name}_again', 'test_1_set') == pytest.approx(expected(after), abs=1e-4)
    pictures = {file.name for file in (found / 'visualization' / 'test_1_set').iterdir()}
    suffix = '' if model_type in ('CascadeModel', 'GeneratorModel') else f'_{name}_again'
    assert pictures == {f'0{suffix}.png', f'1{suffix}.png'}


def test_pictures_of_an_own_validation_are_where_basicsr_has_them(folder):
    name = 'window_pictures'
    train(folder, write_options(folder, name, 'WindowModel', datasets__test_1=None))
    shown = folder / 'experiments' / name / 'visualization'
    assert {file.relative_to(shown).as_posix() for file in shown.rglob('*.png')} == {
        f'{index}/{index}_{iteration}.png' for index in (0, 1) for iteration in (4, 8)
    }
    assert list((folder / 'tb_logger' / name).iterdir())


def test_weights_are_found_where_check_resume_says(folder, monkeypatch, logged):
    """A state of BasicSR's holds no networks: they are in the files beside it."""
    whole, killed = (write_options(folder, f'found_{end}', 'GeneratorModel') for end in ('whole', 'killed'))
    train(folder, whole)
    train(folder, killed, killed_at=7, monkeypatch=monkeypatch)
    file = folder / 'experiments' / 'found_killed' / 'training_states' / '6.state'
    state = load_checkpoint(file)
    assert list(state.pop('networks')) == ['generator']
    torch.save(state, file)
    logged.clear()
    train(folder, killed, '--auto_resume')
    assert 'generator: net_g_6.pth' in [record.getMessage() for record in logged.records]
    for one, other in (('latest', 'latest'), (8, 8)):
        same(weights_of(folder, 'found_whole', 'g', one), weights_of(folder, 'found_killed', 'g', other))


def test_networks_of_a_gan_begin_with_their_files(folder, logged):
    train(folder, write_options(folder, 'gan_first', 'TinyGANModel', datasets__test_1=None))
    files = {
        f'path__pretrain_network_{label}': f'experiments/gan_first/models/net_{label}_latest.pth' for label in 'gd'
    }
    rates = {f'train__optim_{label}': {'type': 'SGD', 'lr': 1e-30} for label in 'gd'}
    changes = {**files, **rates, 'train__ema_decay': 0.9, 'logger__save_best': None, 'train__scheduler': None}
    train(folder, write_options(folder, 'gan_second', 'TinyGANModel', **changes))
    for label in 'gd':
        one, other = (weights_of(folder, name, label, 'latest') for name in ('gan_first', 'gan_second'))
        learnt = [key for key in one if not key.endswith(('weight_u', 'weight_v'))]
        same({key: one[key] for key in learnt}, {key: other[key] for key in learnt}, label)
    table = (folder / 'experiments' / 'gan_second' / 'table.md').read_text()
    assert re.search(r'bicubic psnr.*before psnr.*after psnr', table)
    missing = write_options(folder, 'gan_lost', 'TinyGANModel', path__pretrain_network_d='nowhere.pth')
    with pytest.raises(FileNotFoundError, match=r'path\.pretrain_network_d: .*nowhere\.pth'):
        train(folder, missing)


SWAD = {'train__swad': {}}
STRATEGIES = {
    'swad': SWAD,
    'wise_ft': {'train__wise_ft': 0.5},
    'ldt': {'train__ldt': {'scoring_batches': 2}},
    'head_first': {'train__head_first': {'prefixes': ['body.2'], 'iter': 2}},
}
STEP = {'amp': 'bf16', 'accumulate': 2, 'grad_clip_norm': 1.0, 'compile': True}
OWN_STEP = r'has a step of its own \(optimize_parameters\), which does not know it; leave it out'
REFUSED = [
    *((kind, key, rf'train\.{key}: {kind} {OWN_STEP}')
      for kind in ('TwoTermsModel', 'TinyGANModel', 'CascadeModel', 'GeneratorModel') for key in [*STRATEGIES, *STEP]),
    *(('WindowModel', key, rf'train\.{key}: WindowModel tests by itself \(nondist_validation\), .* {key} publishes')
      for key in STRATEGIES),
    *(('PaddedModel', key, rf'train\.{key}: PaddedModel tests by itself \(test\), .* {key} publishes')
      for key in STRATEGIES),
    *(('SettingsModel', key, rf'train\.{key}: SettingsModel has training settings of its own ')
      for key in STRATEGIES),
    *(('SavingModel', key, rf'train\.{key}: SavingModel saves by itself \(save\), .* {key} publishes')
      for key in STRATEGIES),
    *(('GroupsModel', key, rf'train\.{key}: GroupsModel sets up its optimizers by itself \(setup_optimizers\)')
      for key in ('ldt', 'head_first')),
]  # fmt: skip


def changes_for(folder, key):
    changes = {**STRATEGIES.get(key, {}), **({f'train__{key}': STEP[key]} if key in STEP else {})}
    if key == 'wise_ft':
        weights = folder / 'enlarger.pth'
        torch.save({'params': build_network({'type': 'Enlarger'}).state_dict()}, weights)
        changes['path__pretrain_network_g'] = str(weights)
    if key == 'head_first':
        changes['train__ema_decay'] = None
    return changes


@pytest.mark.parametrize(('model_type', 'key', 'message'), REFUSED)
def test_what_a_model_would_ignore_is_refused_before_the_run(folder, model_type, key, message):
    name = f'refused_{model_type}_{key}'
    changes = {'train__ema_decay': None, 'datasets__test_1': None, 'network_g': {'type': 'Enlarger'}}
    if model_type == 'CascadeModel':
        changes.pop('network_g')
    file = write_options(folder, name, model_type, **{**changes, **changes_for(folder, key)})
    with pytest.raises(ValueError, match=message):
        train(folder, file)
    assert not (folder / 'experiments' / name).exists()


@pytest.mark.parametrize('key', STEP)
@pytest.mark.parametrize('model_type', ['WindowModel', 'SettingsModel', 'SavingModel', 'DegradingModel'])
def test_options_of_a_step_work_where_the_step_is_ours(folder, model_type, key, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, 'compile', lambda net: asked.append(net) or net)
    changes = {'datasets__test_1': None, 'train__total_iter': 2, 'val__val_freq': 2, 'val__save_img': False}
    train(folder, write_options(folder, f'step_{model_type}_{key}', model_type, **changes, **changes_for(folder, key)))
    assert bool(asked) == (key == 'compile')


@pytest.mark.parametrize(
    ('model_type', 'key'), [('DegradingModel', 'ldt'), ('DegradingModel', 'swad'), ('GroupsModel', 'swad')]
)
def test_strategies_work_where_nothing_is_in_their_way(folder, model_type, key):
    """A validation that calls ours, a `feed_data` that makes its pictures, groups of an optimizer."""
    name = f'with_{model_type}_{key}'
    train(folder, write_options(folder, name, model_type, **changes_for(folder, key)))
    assert (folder / 'experiments' / name / 'table.md').exists()


EMA_STAYS = (
    r'train\.ema_decay: ForgetfulModel has a step of its own \(optimize_parameters\), which never calls model_ema'
)


@pytest.mark.parametrize(
    ('model_type', 'changes', 'message'),
    [
        ('ForgetfulModel', {'train__ema_decay': 0.9}, EMA_STAYS),
        ('GeneratorModel', {'train__ema_decay': 0.9}, EMA_STAYS.replace('Forgetful', 'Generator')),
        ('SettingsModel', {'train__ema_decay': None, 'train__ema_time': '50%'}, r'train\.ema_time: .* no net_g_ema'),
        (
            'ShowingModel',
            {'logger__save_best': 'psnr'},
            r"logger\.save_best: ShowingModel validates by itself, and leaves no 'psnr' in metric_results, but nothing",
        ),
    ],
)
def test_options_without_effect_are_refused(folder, model_type, changes, message):
    file = write_options(folder, f'without_{model_type}_{len(str(changes))}', model_type, **changes)
    with pytest.raises(ValueError, match=message):
        train(folder, file)


TILES = {'val__tile_size': 16, 'val__selfensemble_testing': True, 'val__patchwise_testing': True}


@pytest.mark.parametrize(
    ('model_type', 'changes', 'messages'),
    [
        *(
            (
                model_type,
                TILES,
                [
                    f'val.{key}: without effect: {model_type} tests by itself ({method})'
                    for key in ('tile_size', 'selfensemble_testing', 'patchwise_testing')
                    if (model_type, key) != ('WindowModel', 'tile_size')  # which reads a `tile_size`, of its own
                ],
            )
            for model_type, method in (
                ('WindowModel', 'nondist_validation'),
                ('PaddedModel', 'test'),
                ('CascadeModel', 'test'),
            )
        ),
        ('DegradingModel', TILES, []),
        (
            'SettingsModel',
            {'train__perceptual_opt': {'type': 'WeightedTVLoss'}},
            [
                'train.perceptual_opt: without effect: SettingsModel has training settings of its own, which do not '
                'read it'
            ],
        ),
        (
            'ForgetfulModel',
            {'train__pixel_opt': {'type': 'L1Loss'}},
            [
                'train.pixel_opt: without effect: ForgetfulModel has a step of its own (optimize_parameters), which '
                'does not use self.cri_pix'
            ],
        ),
        (
            'TwoTermsModel',
            {'train__fft_opt': {'type': 'L1Loss'}, 'train__max_bad_steps': 3},
            [
                'train.fft_opt: without effect: nothing in TwoTermsModel reads it',
                'train.max_bad_steps: without effect: TwoTermsModel has a step of its own (optimize_parameters); a '
                'loss that is NaN ends the run at once',
            ],
        ),
        (
            'CascadeModel',
            {'train__channels_last': True, 'train__freeze_batch_statistics': True},
            [
                'train.channels_last: without effect: CascadeModel builds its networks by itself',
                'train.freeze_batch_statistics: without effect: CascadeModel builds its networks by itself',
            ],
        ),
        (
            'SavingModel',
            {'train__ema_decay': 0.9},
            ['train.ema_decay: SavingModel saves by itself (save), and leaves net_g_ema out'],
        ),
        (
            'ShowingModel',
            {},
            [
                'logger.save_checkpoint_freq: ShowingModel saves by itself (save), and writes no training state: a run '
                'that is stopped cannot go on'
            ],
        ),
        *((model_type, {}, []) for model_type in RUN),
    ],
)
def test_options_without_effect_are_warned_about_once(folder, model_type, changes, messages, logged):
    short = {'train__total_iter': 2, 'val__val_freq': 2, 'datasets__test_1': None}
    name = f'warned_{model_type}_{len(changes)}'
    train(folder, write_options(folder, name, model_type, **short, **changes))
    said = [warning for warning in logged.warnings() if 'params_ema' not in warning]
    assert sorted(said) == sorted(messages)


@pytest.mark.parametrize('model_type', RUN)
def test_validations_without_metrics_or_a_section_val(folder, model_type):
    for what in ('val__metrics', 'val'):
        name = f'{model_type}_without_{what}'
        train(folder, write_options(folder, name, model_type, **{what: None, 'logger__save_best': None}))
        assert not load_checkpoint(folder / 'experiments' / name / 'training_states' / '8.state')['best_metric_results']
        assert 'test_1_set' in (folder / 'experiments' / name / 'table.md').read_text()


@pytest.mark.parametrize('model_type', [one for one in RUN if one not in ('CascadeModel', 'GeneratorModel')])
def test_pictures_without_truth_are_run_and_not_measured(folder, model_type):
    name = f'{model_type}_no_gt'
    changes = {'datasets__val': {'name': 'alone', 'type': 'SingleImageDataset', 'dataroot_lq': 'val/LR'}}
    train(folder, write_options(folder, name, model_type, logger__save_best=None, **changes))
    best = load_checkpoint(folder / 'experiments' / name / 'training_states' / '8.state')['best_metric_results']
    assert not best or all(record['val'] == 0 for record in best['alone'].values())


@pytest.mark.parametrize('model_type', RUN)
def test_check_tries_them_and_makes_nothing(folder, model_type, capsys):
    file = write_options(folder, f'{model_type}_checked', model_type)
    check_pipeline(str(folder), make_parser(is_train=True).parse_args(['-opt', str(file)]))
    printed = capsys.readouterr().out
    assert 'no mistakes found' in printed and 'lq of 1x3x22x26' in printed
    assert not (folder / 'experiments' / f'{model_type}_checked').exists()


def test_old_checkpoints_are_deleted_of_all_networks(folder):
    train(folder, write_options(folder, 'gan_kept', 'TinyGANModel', logger__keep_checkpoints=1, datasets__test_1=None))
    saved = {
        file.name for file in (folder / 'experiments' / 'gan_kept').rglob('*') if file.suffix in ('.pth', '.state')
    }
    assert saved == {f'net_{label}_{which}.pth' for label in 'gd' for which in (8, 'latest')} | {
        'net_g_best.pth',
        '8.state',
    }


def test_rates_rise_from_those_of_each_optimizer(folder):
    changes = {'train__warmup_iter': 4, 'train__scheduler': None, 'train__total_iter': 4, 'datasets__test_1': None}
    train(folder, write_options(folder, 'gan_warm', 'TinyGANModel', **changes))
    states = [load_checkpoint(folder / 'experiments' / 'gan_warm' / 'training_states' / f'{n}.state') for n in (2, 4)]
    rates = [[state['param_groups'][0]['lr'] for state in one['optimizers']] for one in states]
    assert rates == [[1e-3, 5e-4], [2e-3, 1e-3]]


def start(file, *more, processes=1, script='Train_pip.py'):
    command = [sys.executable]
    if processes > 1:
        command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    command += [str(ROOT / script), '-opt', str(file), *more]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.Popen(command, cwd=file.parent, env=environment, start_new_session=True, **pipes)


def printed_by(process):
    try:
        text = process.communicate(timeout=LONGEST)[0]
    except subprocess.TimeoutExpired:
        trainings.kill_all(process.pid)
        raise
    assert process.returncode == 0, text
    return text


def absolute(folder):
    """In a process of its own, relative paths would start in the project."""
    return {
        f'datasets__{phase}__dataroot_{key}': str(folder / part / name)
        for phase, part in (('train', 'train'), ('val', 'val'), ('test_1', 'test'))
        for key, name in (('gt', 'HR'), ('lq', 'LR'))
    }


@pytest.mark.slow
def test_processes_that_are_killed_go_on(folder):
    """Train_pip.py and basicsr/test.py as a user starts them, with SIGKILL in between."""
    long = {**absolute(folder), 'train__total_iter': 40, 'train__scheduler__milestones': [20]}
    long.update(logger__save_checkpoint_freq=5, val__val_freq=20, datasets__train__num_worker_per_gpu=1)
    printed_by(start(write_options(folder, 'process_whole', 'TinyGANModel', **long)))
    killed = write_options(folder, 'process_killed', 'TinyGANModel', **long)
    run = start(killed)
    for line in run.stdout:
        if 'iter 13,' in line:
            trainings.kill_all(run.pid)
    assert run.wait() == -signal.SIGKILL
    text = printed_by(start(killed, '--auto_resume'))
    assert re.search(r'Going on from epoch \d, iteration 10;', text)
    expected, found = experiment(folder, 'process_whole'), experiment(folder, 'process_killed')
    same({name: expected[name] for name in sorted(expected)}, {name: found[name] for name in sorted(found)})

    weights = folder / 'experiments' / 'process_whole' / 'models' / 'net_g_best.pth'
    changes = {**absolute(folder), 'path__pretrain_network_g': str(weights), 'path__param_key_g': 'params_ema'}
    tested = write_options(folder, 'process_tested', 'TinyGANModel', **changes)
    printed_by(start(tested, '--compare', 'bicubic', script='basicsr/test.py'))
    expected = psnr_by_hand(folder, 'test', networks_of_run(folder, 'process_whole', 'TinyGANModel', 'best'))
    found = scores(folder / 'results' / 'process_tested' / 'results.json', 'process_tested', 'test_1_set')
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('model_type', ['WindowModel', 'TinyGANModel', 'CascadeModel'])
def test_two_processes_train_and_one_validates(folder, model_type):
    changes = {**absolute(folder), 'dist_params': {'backend': 'gloo'}, 'find_unused_parameters': False}
    name = f'{model_type}_dist'
    text = printed_by(start(write_options(folder, name, model_type, **changes), processes=2))
    assert 'iter 8,' in text
    mean = np.mean(psnr_by_hand(folder, 'val', networks_of_run(folder, name, model_type, 8)))
    state = load_checkpoint(folder / 'experiments' / name / 'training_states' / '8.state')
    best = state['best_metric_results']['mean of the validation sets']['psnr']
    if best['iter'] == 8:
        assert best['val'] == pytest.approx(mean, abs=1e-4)
    assert (
        folder / 'experiments' / name / 'models' / f'net_{"a" if model_type == "CascadeModel" else "g"}_best.pth'
    ).exists()
    killed = write_options(folder, f'{name}_killed', model_type, **changes)
    run = start(killed, processes=2)
    for line in run.stdout:
        if 'iter 5,' in line:
            trainings.kill_all(run.pid)
    assert run.wait() == -signal.SIGKILL
    printed_by(start(killed, '--auto_resume', processes=2))
    expected, found = experiment(folder, name), experiment(folder, f'{name}_killed')
    same({one: expected[one] for one in sorted(expected)}, {one: found[one] for one in sorted(found)})
