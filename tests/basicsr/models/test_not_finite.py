"""Numbers that are none: NaN and infinity from networks and metrics, perfect pictures, and what is best."""

import json
import math

import cv2
import numpy as np
import pytest
import torch
import yaml

from basicsr.data import build_dataloader, build_dataset
from basicsr.metrics import NoValue
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.results.scores import Results
from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from basicsr.runs.command_line import make_parser
from basicsr.test import test_pipeline as run_test
from basicsr.utils.registry import ARCH_REGISTRY, METRIC_REGISTRY
from tests.small_run import make_pictures, train

PSNR = {'type': 'calculate_psnr', 'crop_border': 0}


@ARCH_REGISTRY.register()
class BreaksOnBlack(torch.nn.Module):
    """Gives pictures back, but for those whose first value is 0, of which two values become `value`."""

    def __init__(self, value: float = math.nan) -> None:
        super().__init__()
        self.value, self.gain = value, torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        result = x * self.gain
        if x[0, 0, 0, 0] == 0:
            result = torch.cat([torch.full_like(result[..., :1, :], self.value), result[..., 1:, :]], -2)
        return result


@METRIC_REGISTRY.register()
def calculate_nothing_of_black(img, img2, value=math.nan):
    """A metric without a value for some pictures: NaN, infinity, or by NoValue."""
    if img[0, 0].any():
        return 5.0
    if value == 'raise':
        raise NoValue('there is none for black')
    return value


@pytest.fixture
def folder(tmp_path):
    """Three pairs at scale 1: equal, black in a corner and equal, and one that differs by 1 everywhere."""
    rng = np.random.default_rng(0)
    for name in ('equal', 'broken', 'other'):
        img = rng.integers(1, 255, (16, 18, 3)).astype(np.uint8)
        if name == 'broken':
            img[0, 0] = 0
        for key in ('lq', 'gt'):
            (tmp_path / key).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / key / f'{name}.png'), img + (name == 'other' and key == 'gt'))
    return tmp_path


def options(folder, names=('broken', 'equal', 'other'), metric=PSNR, value=math.nan, is_train=False, **network):
    (folder / 'names.txt').write_text('\n'.join(f'{name}.png' for name in names))
    data = {'type': 'PairedImageDataset', 'name': 'pairs', 'phase': 'val', 'scale': 1, 'meta_info_file': 'names.txt'}
    data |= {'dataroot_gt': 'gt', 'dataroot_lq': 'lq'}
    return {
        **{'name': 'trial', 'model_type': 'SRModel', 'scale': 1, 'num_gpu': 0, 'is_train': is_train, 'dist': False},
        **{'rank': 0, 'world_size': 1, 'network_g': {'type': 'BreaksOnBlack', 'value': value, **network}},
        'datasets': {'val': data},
        'path': {key: str(folder / key) for key in ('models', 'training_states', 'visualization')},
        'train': {'total_iter': 1, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
        'val': {'metrics': {'first': metric}},
    }


class Board:
    """A TensorBoard writer that remembers."""

    def __init__(self):
        self.pictures, self.numbers = [], {}

    def add_image(self, name, picture, iteration):
        self.pictures.append(name)

    def add_scalar(self, name, value, iteration):
        self.numbers[name] = value


def validate(opt, monkeypatch, folder, board=None):
    monkeypatch.chdir(folder)
    data = opt['datasets']['val']
    model = build_model(opt)
    model.validation(build_dataloader(build_dataset(data), data), 7, board, save_img=True)
    return model


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_network_that_gives_no_picture_is_named_in_a_test(folder, monkeypatch, value):
    message = r'^pairs, picture lq/broken\.png: of the output of the network, 54 of 864 values are NaN or infinite$'
    with pytest.raises(ValueError, match=message):
        validate(options(folder, value=value), monkeypatch, folder)
    assert not list(folder.glob('visualization/**/broken*')), 'no picture is made of it'


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_in_a_training_it_is_said_and_never_the_best(folder, monkeypatch, logged, value):
    board = Board()
    model = validate(options(folder, value=value, is_train=True), monkeypatch, folder, board)
    by_name = {name: scores['first'] for name, scores in model.image_results}
    assert math.isnan(by_name['broken']) and by_name['other'] == pytest.approx(20 * math.log10(255))
    assert math.isnan(model.metric_results['first']), 'neither a black picture nor the mean of the others'
    assert model.best_metric_results['pairs']['first']['iter'] == -1
    assert board.pictures == ['pairs/equal', 'pairs/other']
    said = [record.getMessage() for record in logged.records if record.levelname == 'ERROR']
    assert len(said) == 1 and said[0].startswith('pairs, picture lq/broken.png: of the output of the network, 54 of')
    assert sorted(path.parent.name for path in folder.glob('visualization/**/*.png')) == ['equal', 'other']


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 'raise'])
def test_a_metric_without_a_value(folder, monkeypatch, value):
    metric = {'type': 'calculate_nothing_of_black', 'value': value}
    opt = options(folder, metric=metric, value=0.0)
    said = 'there is none for black' if value == 'raise' else f'is {value}'
    with pytest.raises(ValueError, match=rf'^pairs, picture lq/broken\.png: val\.metrics\.first: {said}$'):
        validate(opt, monkeypatch, folder)
    opt = options(folder, metric=metric, value=0.0, is_train=True)
    opt['val']['metrics']['second'] = PSNR
    model = validate(opt, monkeypatch, folder)
    assert math.isnan(model.metric_results['first']) and math.isfinite(model.metric_results['second'])
    best = model.best_metric_results['pairs']
    assert (best['first']['iter'], best['second']['iter']) == (-1, 7)


def test_a_metric_that_returns_no_number(folder, monkeypatch):
    opt = options(folder, metric={'type': 'calculate_nothing_of_black', 'value': None}, value=0.0)
    with pytest.raises(ValueError, match=r'broken\.png: val\.metrics\.first: .* returns None, which is no number'):
        validate(opt, monkeypatch, folder)


def test_perfect_pictures_count_100_dB_and_are_counted(folder, monkeypatch, logged):
    model = validate(options(folder, ['equal', 'other']), monkeypatch, folder)
    by_name = {name: scores['first'] for name, scores in model.image_results}
    assert by_name == {'equal': 100, 'other': pytest.approx(20 * math.log10(255))}
    assert model.metric_results['first'] == pytest.approx((100 + 20 * math.log10(255)) / 2)
    said = [record.getMessage() for record in logged.records]
    assert said[-1].endswith('(1 of 2 pictures at the most that counts, 100)')


def test_a_test_with_perfect_pictures_writes_json(folder, monkeypatch):
    """By the command's own pipeline."""
    opt = options(folder, ['equal', 'other'], value=0.0)
    data = {key: value for key, value in opt['datasets']['val'].items() if key not in ('phase', 'scale')}
    opt = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'network_g')}
    opt |= {'datasets': {'test_1': data}, 'val': {'metrics': {'psnr': PSNR}}, 'path': {'output_root': str(folder)}}
    (folder / 'test.yml').write_text(yaml.safe_dump(opt))
    run_test(str(folder), make_parser(is_train=False).parse_args(['-opt', str(folder / 'test.yml')]))
    results = folder / 'results' / 'trial'

    def none(constant):
        raise AssertionError(f'{constant} is no JSON')

    content = json.loads((results / 'results.json').read_text(), parse_constant=none)
    values = {name: scores['psnr'] for name, scores in content['scores']['trial']['pairs'].items()}
    assert values == {'equal': 100, 'other': pytest.approx(20 * math.log10(255))}
    text = (results / 'table.md').read_text()
    assert 'psnr of trial on pairs: 1 of 2 pictures at the most that counts, 100.' in text
    assert f'| {(100 + 20 * math.log10(255)) / 2:.2f} ' in text
    loaded = Results.load(results)
    assert loaded.perfect() == ['psnr of trial on pairs: 1 of 2 pictures at the most that counts, 100.']
    assert math.isfinite(loaded.mean('trial', ['pairs'], 'psnr').high)


@pytest.mark.parametrize('is_train', [False, True])
def test_pretrained_weights_that_are_not_finite_are_named(folder, monkeypatch, is_train):
    save_checkpoint({'params': {'gain': torch.tensor([math.nan])}}, folder / 'broken.pth')
    opt = options(folder, is_train=is_train)
    opt['path']['pretrain_network_g'] = 'broken.pth'
    with pytest.raises(ValueError) as error:
        validate(opt, monkeypatch, folder)
    expected = 'broken.pth holds weights that are not finite, take others:\n  gain: 1 of 1 values are NaN or infinite'
    assert str(error.value).removeprefix('path.pretrain_network_g: ') == expected


# What is best


def best_after(values, better='higher', before=None):
    opt = {'num_gpu': 0, 'is_train': False, 'val': {'metrics': {'m': {'type': 'calculate_psnr', 'better': better}}}}
    model = BaseModel(opt)
    model._initialize_best_metric_results('set')
    if before is not None:
        model.best_metric_results['set']['m'].update(val=before, iter=0)
    for iteration, value in enumerate(values, 1):
        model._update_best_metric_result('set', 'm', value, iteration)
    return model.best_metric_results['set']['m']['iter'], model.best_metric_results['set']['m']['val']


NONE = float('nan')


@pytest.mark.parametrize(
    ('values', 'better', 'before', 'expected'),
    [
        ([30.0, 31.0, 31.0, 30.5], 'higher', None, (2, 31.0)),
        ([0.3, 0.2, 0.2, 0.25], 'lower', None, (2, 0.2)),
        ([100.0, 100.0, 100.0], 'higher', None, (1, 100.0)),
        ([NONE, 30.0, NONE], 'higher', None, (2, 30.0)),
        ([NONE, 0.3, NONE], 'lower', None, (2, 0.3)),
        ([math.inf, 30.0, math.inf, 31.0], 'higher', None, (4, 31.0)),
        ([-math.inf, 0.3, -math.inf], 'lower', None, (2, 0.3)),
        ([NONE, NONE], 'higher', None, (-1, -math.inf)),
        ([30.0], 'higher', math.inf, (1, 30.0)),  # of a state of an earlier version
        ([30.0], 'higher', 31.0, (0, 31.0)),
    ],
)
def test_best_is_strictly_better_and_finite(values, better, before, expected):
    assert best_after(values, better, before) == expected


@ARCH_REGISTRY.register()
class CopiesTheTruth(torch.nn.Module):
    """Enlarges what has been halved by repetition: perfect from the first iteration on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.nn.functional.interpolate(x, scale_factor=2) + 0 * self.unused


def test_the_first_of_equally_good_networks_is_kept(tmp_path):
    """A training whose validation is perfect from the start to the end."""
    make_pictures(tmp_path)
    for path in tmp_path.glob('val/LR/*.png'):
        gt = np.repeat(np.repeat(cv2.imread(str(path)), 2, 0), 2, 1)
        cv2.imwrite(str(tmp_path / 'val' / 'HR' / path.name), gt)
    metric = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    network = {'network_g': {'type': 'CopiesTheTruth'}, 'datasets__test_0': None, 'val__metrics': metric}
    train(tmp_path, val__val_freq=1, logger__save_checkpoint_freq=3, **network)
    state = load_checkpoint(tmp_path / 'experiments' / 'small' / 'training_states' / '3.state')
    best = [own['psnr'] for own in state['best_metric_results'].values()]
    assert best and all((one['val'], one['iter']) == (100, 1) for one in best)
