"""The paper's experiment, and what it is compared with, as option files."""

from pathlib import Path

import pytest

import basicsr.data
import basicsr.models  # noqa: F401  registers what option files name
from basicsr.options.check import check_options
from basicsr.options.file import load_options

ROOT = Path(__file__).resolve().parents[3]
LDT = 'options/train/LDT/train_LDT_MambaIR_SRx4_DRealSR.yml'
FINE_TUNING = 'options/train/MambaIR/train_MambaIR_SRx4_DRealSR_finetune.yml'
TEST = 'test_MambaIR_SR_x4.yml'
UNSEEN = ['panasonic', 'sony', 'DSC', 'IMG', 'Canon']


def resolved(file: str) -> dict:
    opt, warnings = check_options(*load_options(ROOT / file), is_train=file != TEST)
    assert not warnings
    return opt


@pytest.fixture(scope='module')
def ldt() -> dict:
    return resolved(LDT)


def test_the_recipe_is_the_papers(ldt):
    train, data = ldt['train'], ldt['datasets']
    assert ldt['model_type'] == 'LDTModel' and ldt['scale'] == 4
    assert train['total_iter'] == 200_000
    assert train['pixel_opt'] == {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}
    assert train['optim_g'] == {'type': 'Adam', 'lr': 1e-4, 'weight_decay': 0, 'betas': [0, 0.99**0.8]}
    assert not {'scheduler', 'warmup_iter', 'ema_decay', 'amp', 'accumulate', 'grad_clip_norm'} & set(train)
    assert train['ldt'] == {
        'criterion': 'variance',
        'unstable_ratio': 0.5,
        'scoring_batches': 300,
        'exchange_every': 10,
        'update': 'dynamic',
        'stable_decay': [0.99, 0.01],
        'unstable_decay': [0.999, 0.001],
    }
    section = data['train']
    assert section['gt_size'] == 4 * 48 and section['batch_size_per_gpu'] == 4
    assert section['use_hflip'] and section['use_rot']
    network = {'type': 'MambaIR', 'upscale': 4, 'embed_dim': 180, 'depths': [6] * 6, 'd_state': 16}
    assert network.items() <= ldt['network_g'].items()
    assert ldt['path']['pretrain_network_g'].endswith('classicSRx4.pth')
    assert ldt['val']['val_freq'] == 500 and ldt['logger']['save_best'] == 'psnr'


def test_the_source_is_olympus_and_the_others_are_unseen(ldt):
    roots = {phase: (section['dataroot_gt'], section['dataroot_lq']) for phase, section in ldt['datasets'].items()}
    expected = {'train': 'P/train', 'val': 'P/test'}
    expected |= {f'test_{place}': f'{camera}/test' for place, camera in enumerate(UNSEEN, 1)}
    folder = 'datasets/DRealSR'
    assert roots == {phase: (f'{folder}/{part}/HR', f'{folder}/{part}/LR') for phase, part in expected.items()}


def test_fine_tuning_differs_in_the_method_alone(ldt):
    fine_tuning = resolved(FINE_TUNING)
    assert fine_tuning.pop('name') != ldt['name']
    assert fine_tuning.pop('model_type') == 'MambaIRModel'
    assert 'ldt' not in fine_tuning['train']
    without = {key: value for key, value in ldt.items() if key not in ('name', 'model_type')}
    without['train'] = {key: value for key, value in ldt['train'].items() if key != 'ldt'}
    assert fine_tuning == without


def test_the_test_measures_as_the_training_does(ldt):
    opt = resolved(TEST)
    assert opt['network_g'] == ldt['network_g']
    assert opt['path']['pretrain_network_g'] == f'experiments/{ldt["name"]}/models/net_g_best.pth'
    for measured in (opt, ldt):
        assert measured['val']['tile_size'] == 200 and measured['val']['tile_overlap'] == 0.1
        for metric in ('psnr', 'ssim'):
            wanted = {'type': f'calculate_{metric}', 'crop_border': 4, 'test_y_channel': True}
            assert wanted.items() <= measured['val']['metrics'][metric].items()
    roots = [section['dataroot_gt'] for section in opt['datasets'].values()]
    assert roots == [f'datasets/DRealSR/{camera}/test/HR' for camera in UNSEEN]


@pytest.mark.parametrize('file', [LDT, TEST])
def test_missing_data_names_the_command_that_lays_it_out(file):
    script = 'scripts/data_preparation/prepare_drealsr.py'
    assert script in resolved(file)['data_hint']
    assert (ROOT / script).is_file()
