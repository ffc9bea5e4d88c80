"""Every number of an option file has bounds, and values beyond them are one mistake with its place."""

import argparse
import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as limits
import pytest
import torch
import yaml

import basicsr.data
import basicsr.models  # noqa: F401  registers what option files name
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models.optimizing import Optimizing
from basicsr.options.check import check_options
from basicsr.options.choices import CHOICES, arguments_of, find
from basicsr.options.file import load_options
from basicsr.options.resolve import parse_options
from basicsr.options.schema import options_section
from basicsr.options.types import fields_of, is_section, sections_by_name

ROOT = Path(__file__).parents[3]

UNBOUNDED = {
    'real_label_val': 'what a discriminator is trained to say may be any number',
    'fake_label_val': 'what a discriminator is trained to say may be any number',
    'mean': 'values of pictures may be shifted anywhere',
    'ns_coefficients': 'coefficients of a polynomial',
}
"""Numbers of any size, and why."""


def numbers(annotation: Any, metadata: tuple = ()) -> Iterator[bool]:
    """Whether there is a bound, for each kind of number that a type allows."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from numbers(arguments[0], (*arguments[1:], *metadata))
    elif annotation in (int, float):
        yield any(isinstance(one, limits.Ge | limits.Gt | limits.Le | limits.Lt) for one in metadata)
    elif origin is not Literal and (origin in (list, dict) or origin is Union or origin is type(int | str)):
        for one in arguments:
            yield from numbers(one)


def numeric_options() -> Iterator[tuple[str, bool]]:
    def of(section: Any, path: str) -> Iterator[tuple[str, bool]]:
        for key, (_, field) in fields_of(section).items():
            below = sections_by_name(field.annotation) or field.annotation
            if is_section(below):
                yield from of(below, f'{path}.{key}')
            for bounded in numbers(field.annotation, tuple(field.metadata)):
                yield f'{path}.{key}', bounded
        for pattern, (kind, _) in section.users_keys.items():
            for bounded in numbers(kind):
                yield f'{path}.{pattern}', bounded

    yield from of(options_section(), '')
    for choice, known in CHOICES.items():
        for name in sorted(known.registry.keys()):
            factory = find(choice, name)
            ours = getattr(factory, '__module__', '').startswith(('basicsr.', 'torch.'))
            if choice not in ('model', 'criterion') and ours:
                yield from of(arguments_of(choice, factory), f'{choice} {name}')


def test_every_number_has_a_bound_or_a_reason_for_none():
    found = list(numeric_options())
    assert len(found) > 150
    without = {path.rpartition('.')[2] for path, bounded in found if not bounded}
    assert without == set(UNBOUNDED)


@pytest.fixture
def mistake(tmp_path):
    """What is said of options of a training in which one thing was changed; '' for nothing."""

    def mistake(*changes: str, **sections: Any) -> str:
        pairs = {'type': 'PairedImageDataset', 'dataroot_gt': 'a', 'dataroot_lq': 'b'}
        opt = {
            **{'name': 'odd', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0},
            'datasets': {
                'train': {**pairs, 'gt_size': 16, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0},
                'val': dict(pairs),
            },
            'network_g': {'type': 'MSRResNet', 'upscale': 2},
            'train': {'total_iter': 10, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
            'val': {'val_freq': 5, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 2}}},
            **sections,
        }
        (tmp_path / 'odd.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
        args = argparse.Namespace(opt=str(tmp_path / 'odd.yml'), set=list(changes), launcher='none')
        try:
            parse_options(str(tmp_path), True, args)
        except ValueError as error:
            return str(error)
        return ''

    return mistake


def is_one_mistake(text: str, path: str) -> bool:
    lines = text.splitlines()
    return len(lines) == 2 and lines[0] == 'the options have 1 mistake:' and lines[1].startswith(f'  {path}: ')


SMALL = {
    'MambaIR': {'embed_dim': 32, 'depths': [1]},
    'SwinIR': {'embed_dim': 12, 'depths': [1], 'num_heads': [2], 'window_size': 4, 'img_size': 8},
}
LENGTHS = {
    'MambaIR': ['embed_dim', 'd_state', 'in_chans', 'upscale', 'patch_size', 'img_size', 'mlp_ratio', 'img_range'],
    'SwinIR': [
        *('embed_dim', 'window_size', 'in_chans', 'upscale', 'patch_size', 'img_size', 'mlp_ratio', 'img_range'),
        'qk_scale',
    ],
    'EDSR': ['num_in_ch', 'num_out_ch', 'num_feat', 'num_block', 'upscale', 'res_scale', 'img_range'],
    'RCAN': ['num_in_ch', 'num_feat', 'num_group', 'num_block', 'squeeze_factor', 'upscale', 'img_range'],
    'MSRResNet': ['num_in_ch', 'num_out_ch', 'num_feat', 'num_block', 'upscale'],
    'RRDBNet': ['num_in_ch', 'num_out_ch', 'num_feat', 'num_block', 'num_grow_ch', 'scale'],
    'Bicubic': ['upscale'],
}
"""Arguments of networks that must be above 0."""


@pytest.mark.parametrize(('network', 'key'), [(one, key) for one, keys in LENGTHS.items() for key in keys])
def test_sizes_of_networks_are_above_0_and_no_more_than_a_machine_holds(mistake, network, key):
    for value in (0, -1, 10**400, float('nan'), float('inf'), True, '3', [], {}):
        section = {'type': network, **SMALL.get(network, {}), key: value}
        assert is_one_mistake(mistake(network_g=section), f'network_g.{key}'), (value, mistake(network_g=section))
    if key in ('embed_dim', 'num_feat', 'num_block', 'window_size', 'upscale'):
        assert is_one_mistake(mistake(network_g={'type': network, **SMALL.get(network, {}), key: 10**9}),
                              f'network_g.{key}')  # fmt: skip


@pytest.mark.parametrize('network', ['MambaIR', 'SwinIR'])
def test_depths_and_rates(mistake, network):
    small = {'type': network, **SMALL[network]}
    for depths in ([-1], [], [0], [1.5], [1, None], 10**9, [10**9]):
        assert is_one_mistake(mistake(network_g={**small, 'depths': depths}), 'network_g.depths'), depths
    for rate in (-0.1, 1, 2.0):
        for key in ('drop_rate', 'drop_path_rate'):
            assert is_one_mistake(mistake(network_g={**small, key: rate}), f'network_g.{key}')
    assert mistake(network_g={**small, 'drop_path_rate': 0.99, 'depths': [3]}) == ''
    assert is_one_mistake(mistake(network_g={**small, 'mlp_ratio': 1e-3}), 'network_g.mlp_ratio')
    assert is_one_mistake(mistake(network_g={**small, 'norm_layer': 3}), 'network_g.norm_layer')
    assert is_one_mistake(mistake(network_g={**small, 'upsampler': 'nearest'}), 'network_g.upsampler')
    assert is_one_mistake(mistake(network_g={**small, 'resi_connection': '2conv'}), 'network_g.resi_connection')
    five = {**small, 'upsampler': 'pixelshuffle', 'upscale': 5}
    assert is_one_mistake(mistake(network_g=five), 'network_g.upscale')


def test_heads_and_windows_of_swinir(mistake):
    small = {'type': 'SwinIR', **SMALL['SwinIR']}
    for changes, key in [
        ({'num_heads': [0]}, 'num_heads'),
        ({'num_heads': []}, 'num_heads'),
        ({'num_heads': [1, 2]}, 'num_heads'),
        ({'num_heads': [5]}, 'embed_dim'),
        ({'embed_dim': 13}, 'embed_dim'),
        ({'img_size': 9}, 'img_size'),
        ({'img_size': [8, 8, 8]}, 'img_size'),
        ({'num_haeds': [3]}, 'num_haeds'),
    ]:
        text = mistake(network_g={**small, **changes})
        assert is_one_mistake(text, f'network_g.{key}'), text


SCHEDULERS = [
    ('{type: CosineAnnealingRestartLR, periods: []}', 'periods'),
    ('{type: CosineAnnealingRestartLR, periods: [0]}', 'periods'),
    ('{type: CosineAnnealingRestartLR, periods: [-3]}', 'periods'),
    ('{type: CosineAnnealingRestartLR, periods: [5, 5]}', 'restart_weights'),
    ('{type: CosineAnnealingRestartLR, periods: [5], restart_weights: [-1]}', 'restart_weights'),
    ('{type: CosineAnnealingRestartLR, periods: [5], restart_weights: [0]}', 'restart_weights'),
    ('{type: CosineAnnealingRestartLR, periods: [5], eta_min: -1}', 'eta_min'),
    ('{type: CosineAnnealingRestartLR, periods: [5], last_epoch: 5}', 'last_epoch'),
    ('{type: TrueCosineAnnealingLR, T_max: 0}', 'T_max'),
    ('{type: TrueCosineAnnealingLR, T_max: -3}', 'T_max'),
    ('{type: TrueCosineAnnealingLR, T_max: 5, eta_min: .nan}', 'eta_min'),
    ('{type: MultiStepLR, milestones: [-1]}', 'milestones'),
    ('{type: MultiStepLR, milestones: [0]}', 'milestones'),
    ('{type: MultiStepLR, milestones: [5, 2]}', 'milestones'),
    ('{type: MultiStepRestartLR, milestones: [2], gamma: -1}', 'gamma'),
    ('{type: MultiStepRestartLR, milestones: [2], gamma: 0}', 'gamma'),
    ('{type: MultiStepRestartLR, milestones: [2], restarts: []}', 'restart_weights'),
    ('{type: MultiStepRestartLR, milestones: [2], restarts: [-2]}', 'restarts'),
]


@pytest.mark.parametrize(('section', 'key'), SCHEDULERS)
def test_schedulers(mistake, section, key):
    text = mistake(f'train.scheduler={section}')
    assert is_one_mistake(text, f'train.scheduler.{key}'), text


OTHERS = [
    *[(f'train.total_iter={value}', 'train.total_iter') for value in (0, -1, 1.5, '10k', 'true', 10**400, '1e18')],
    *[('train.total_iter=.inf', 'train.total_iter'), ('train.total_iter=.nan', 'train.total_iter')],
    ('train.pixel_opt.reduction=men', 'train.pixel_opt.reduction'),
    ('train.pixel_opt.loss_weight=-1', 'train.pixel_opt.loss_weight'),
    ('train.pixel_opt.loss_weight=0', 'train.pixel_opt.loss_weight'),
    ('train.pixel_opt={type: CharbonnierLoss, eps: 0}', 'train.pixel_opt.eps'),
    (
        'train.perceptual_opt={type: PerceptualLoss, layer_weights: {conv1_1: .nan}}',
        'train.perceptual_opt.layer_weights',
    ),
    ('train.perceptual_opt={type: PerceptualLoss, layer_weights: {conv1_1: x}}', 'train.perceptual_opt.layer_weights'),
    ('train.optim_g.lr=-1', 'train.optim_g.lr'),
    ('train.optim_g.lr=.nan', 'train.optim_g.lr'),
    ('train.optim_g.betas=[0.9, 1]', 'train.optim_g.betas'),
    ('train.optim_g.eps=-1', 'train.optim_g.eps'),
    ('train.optim_g.weight_decay=-1', 'train.optim_g.weight_decay'),
    ('train.optim_g.differentiable=true', 'train.optim_g.differentiable'),
    ('train.optim_g={type: ASGD, lr: 0.1, t0: -5}', 'train.optim_g.t0'),
    ('train.optim_g={type: SGD, lr: 0.1, momentum: -5}', 'train.optim_g.momentum'),
    ('train.optim_g={type: Adafactor, lr: 0.1, d: 0.5}', 'train.optim_g.d'),
    ('train.grad_clip_norm=0', 'train.grad_clip_norm'),
    ('train.accumulate=0', 'train.accumulate'),
    ('train.warmup_iter=-5', 'train.warmup_iter'),
    ('train.ema_decay=1', 'train.ema_decay'),
    ('train.swad={tolerance: 0.5}', 'train.swad.tolerance'),
    ('train.ldt={unstable_ratio: 1.5}', 'train.ldt.unstable_ratio'),
    ('train.ldt={exchange_every: 0}', 'train.ldt.exchange_every'),
    ('train.ldt={scoring_batches: 0}', 'train.ldt.scoring_batches'),
    ('train.ldt={scoring_batches: .inf}', 'train.ldt.scoring_batches'),
    ('train.ldt={fixed_decay: 1}', 'train.ldt.fixed_decay'),
    ('train.ldt={stable_decay: [1.5, 0]}', 'train.ldt.stable_decay'),
    ('datasets.train.num_worker_per_gpu=-1', 'datasets.train.num_worker_per_gpu'),
    ('datasets.train.num_worker_per_gpu=1000000', 'datasets.train.num_worker_per_gpu'),
    ('datasets.train.num_prefetch_queue=0', 'datasets.train.num_prefetch_queue'),
    ('datasets.train.num_prefetch_queue=1000000000', 'datasets.train.num_prefetch_queue'),
    ('datasets.train.dataset_enlarge_ratio=0', 'datasets.train.dataset_enlarge_ratio'),
    ('datasets.train.dataset_enlarge_ratio=.nan', 'datasets.train.dataset_enlarge_ratio'),
    ('datasets.train.dataset_enlarge_ratio=1000000000000', 'datasets.train.dataset_enlarge_ratio'),
    ('datasets.train.batch_size_per_gpu=0', 'datasets.train.batch_size_per_gpu'),
    ('datasets.train.gt_size=-16', 'datasets.train.gt_size'),
    ('datasets.train.gt_size=15', 'datasets.train.gt_size'),
    ('val.metrics.psnr.crop_border=-1', 'val.metrics.psnr.crop_border'),
    ('val.metrics.psnr.input_order=XYZ', 'val.metrics.psnr.input_order'),
    ('val.tile_overlap=1', 'val.tile_overlap'),
    ('val.tile_size=-1', 'val.tile_size'),
    ('val.val_freq=0', 'val.val_freq'),
    ('logger.print_freq=0', 'logger.print_freq'),
    ('logger.save_checkpoint_freq=0', 'logger.save_checkpoint_freq'),
    ('logger.keep_checkpoints=0', 'logger.keep_checkpoints'),
    ('manual_seed=-1', 'manual_seed'),
    ('manual_seed=1.5', 'manual_seed'),
    ('manual_seed=99999999999', 'manual_seed'),
    ('num_gpu=-1', 'num_gpu'),
    ('scale=0', 'scale'),
    ('scale=1000', 'scale'),
    ('dist_params.timeout=0', 'dist_params.timeout'),
    ('dist_params.timeout=1e300', 'dist_params.timeout'),
    ('name=' + 'ß' * 150, 'name'),
]


@pytest.mark.parametrize(('change', 'path'), OTHERS, ids=[change[:50] for change, _ in OTHERS])
def test_each_is_one_mistake_at_its_place(mistake, change, path):
    text = mistake(change)
    assert is_one_mistake(text, path), text
    assert len(text) < 1000 + len(change)


@pytest.mark.parametrize(
    'change',
    [
        *('train.total_iter=1', 'train.total_iter=1e3', 'train.optim_g.lr=1e-4', 'manual_seed=0', 'num_gpu=auto'),
        'train.scheduler={type: CosineAnnealingRestartLR, periods: [5, 5], restart_weights: [1, 0.5], eta_min: 1e-7}',
        'train.scheduler={type: MultiStepLR, milestones: [3, 3, 9], gamma: 0.5}',
        'train.scheduler={type: TrueCosineAnnealingLR, T_max: 10}',
        'train.optim_g={type: Adafactor, lr: 0.1, eps: [1e-30, 1e-3]}',
        'train.optim_g={type: SGD, lr: 0.1, momentum: 0.9, nesterov: true}',
        'datasets.train.dataset_enlarge_ratio=100',
    ],
)
def test_what_is_in_bounds_passes(mistake, change):
    assert mistake(change) == ''


ODD = {
    **{'zero': 0, 'negative': -1, 'nan': float('nan'), 'inf': float('inf'), 'huge': 10**400, 'low': -(10**400)},
    **{'empty': '', 'list': [], 'section': {}, 'true': True, 'nothing': None, 'long': 'x' * 100000, 'NUL': 'a\0b'},
    **{'lists': [[[[1]]]], 'sections': {'a': {'b': {'c': 1}}}, 'half': 0.5, 'small': 1e-300, 'a key': {'x' * 5000: 1}},
}
FILE = ROOT / 'options' / 'train' / 'LDT' / 'train_LDT_MambaIR_SRx4_DRealSR.yml'
READ_ELSEWHERE = ('scale', 'model_type', 'type', 'metrics', 'val')
"""Options whose absence is a mistake of others: of data sets that need a scale, for example."""


def leaves(opt: dict, above: tuple = ()) -> Iterator[tuple]:
    for key, value in opt.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from leaves(value, (*above, key))


@pytest.mark.parametrize('kind', list(ODD))
def test_an_odd_value_at_any_option_of_a_real_file(kind):
    whole, places = load_options(FILE)
    tried = list(leaves(whole))
    assert len(tried) > 60
    started = time.monotonic()
    for place in tried:
        opt = copy.deepcopy(whole)
        target = opt
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = ODD[kind]
        try:
            check_options(opt, places, True)
        except ValueError as error:
            first, *lines = str(error).splitlines()
            assert first.startswith('the options have ') and len(lines) < 6, (place, str(error))
            paths = [line.split(': ')[0].strip() for line in lines]
            known = any('.'.join(place[:end]) in path for path in paths for end in range(1, len(place) + 1))
            assert known or place[-1] in READ_ELSEWHERE, (place, paths)
            assert all(len(line) < 2500 for line in lines), place
    assert time.monotonic() - started < 30


def test_wise_ft(mistake):
    for value in ('-0.1', '1.5', '.nan'):
        text = mistake(f'train.wise_ft={value}', path={'pretrain_network_g': 'a'})
        assert is_one_mistake(text, 'train.wise_ft')


def test_a_number_beyond_all_counting_is_called_too_large(mistake):
    assert mistake(f'train.total_iter={10**400}').splitlines()[1].count('; that is too large') == 1
    assert 'is too large a number' in mistake('train.total_iter=' + '9' * 5000)
    assert 'is too large a number' in mistake('train.optim_g.lr=1e400')
    assert 'is too small a number: it would be 0' in mistake('train.optim_g.eps=1e-400')


def test_an_epoch_has_an_end():
    with pytest.raises(ValueError, match=r'dataset_enlarge_ratio 1000000 makes epochs of 1,000,000,000 samples'):
        EnlargedSampler(range(1000), 1, 0, ratio=10**6)
    assert len(EnlargedSampler(range(1000), 1, 0, ratio=1000)) == 10**6


def test_an_optimizer_that_needs_a_gpu():
    weights = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(ValueError, match=r'train\.optim_g\.capturable: needs a GPU; leave it out'):
        Optimizing().get_optimizer('Adam', weights, 1e-3, capturable=True)
    groups = [{'params': weights, 'lr': 0.5}]
    assert Optimizing().get_optimizer('Adam', groups, 1e-3).param_groups[0]['lr'] == 0.5


@pytest.mark.parametrize('value', ['"a\\0b"', 'x' * 300, 'a/' * 3000])
@pytest.mark.parametrize(
    'option', ['path.pretrain_network_g', 'path.output_root', 'datasets.train.dataroot_gt', 'path.resume_state']
)
def test_paths_that_name_no_file(mistake, option, value):
    text = mistake(f'{option}={value}')
    assert text.startswith(f'{option}: ') and text.endswith('so names no file') and len(text) < 200
