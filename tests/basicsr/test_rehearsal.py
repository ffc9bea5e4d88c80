"""What a rehearsal finds, and how it says it: by `--check`, and before a run makes anything."""

import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from basicsr.check import check_pipeline
from basicsr.test import test_pipeline as run_test
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, SCHEDULER_REGISTRY
from tests import small_run
from tests.small_run import check, command_line, everything, make_pictures, train, write


@pytest.fixture
def folder(tmp_path):
    return make_pictures(tmp_path)


@pytest.fixture
def registered(monkeypatch):
    """Registers classes and functions for one test."""

    def register(registry, thing, name=None):
        monkeypatch.setitem(registry._objects, name or thing.__name__, thing)
        return name or thing.__name__

    return register


def mistakes(folder, is_train=True, **changes) -> list[str]:
    """What `--check` finds, a line each; it makes nothing, and a run finds it, too, before it makes anything."""
    file, before = write(folder, **changes), everything(folder)
    with pytest.raises((ValueError, OSError)) as checked:
        check_pipeline(str(folder), command_line(file), is_train)
    with pytest.raises((ValueError, OSError)) as ran:
        train(folder, **changes) if is_train else run_test(str(folder), command_line(file))
    assert everything(folder) == before
    lines = str(checked.value).splitlines()
    first = lines[1 if lines[0] == 'the check found:' else 0]
    assert first in str(ran.value), 'the run says the same'
    return lines[1:]


class Odd(nn.Module):
    """A network x2 of a user's, whose `forward` a test makes odd."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, 1, 1)

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.conv(x), 2)


def test_scale_of_the_network(folder):
    (line,) = mistakes(folder, network_g__upscale=3)
    assert line == (
        'network_g.upscale: 3, but scale: 2; lq of 8x8 becomes 24x24, not 16x16 (the first step, on a batch of '
        'datasets.train: lq of 2x3x8x8, gt of 2x3x16x16)'
    )
    swinir = {'type': 'SwinIR', 'upscale': 4, 'img_size': 8, 'window_size': 4, 'depths': [1], 'embed_dim': 12}
    swinir.update(num_heads=[2], mlp_ratio=1, upsampler='pixelshuffledirect')
    (line,) = mistakes(folder, network_g=swinir)  # whose output is cut where inputs are padded
    assert line.startswith('network_g.upscale: 4, but scale: 2; lq of 8x8 becomes 32x32, not 16x16')


def test_scale_of_a_network_that_does_not_say_it(folder, registered):
    class Same(Odd):
        def forward(self, x):
            return x * self.conv.weight.mean()

    (line,) = mistakes(folder, network_g={'type': registered(ARCH_REGISTRY, Same)})
    assert line.startswith('network_g: enlarges 1 times, but scale: 2; lq of 8x8 becomes 8x8, not 16x16')


def test_scale_is_seen_in_a_test_without_truth(folder):
    single = {'type': 'SingleImageDataset', 'dataroot_lq': 'test_0/LR'}
    lines = mistakes(folder, is_train=False, network_g__upscale=3, datasets={'test_0': single}, val={}, logger={})
    assert lines[0].startswith('network_g.upscale: 3, but scale: 2; lq of 13x14 becomes 39x42, not 26x28')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'datasets__train__color': 'y'},
            'network_g.num_in_ch: 3: the network takes 3 channels, and lq of datasets.train (color: y) has 1',
        ),
        (
            {'network_g__num_in_ch': 1, 'network_g__num_out_ch': 3},
            'network_g.num_in_ch: 1: the network takes 1 channels, and lq of datasets.train has 3',
        ),
        (
            {'network_g__num_out_ch': 1, 'network_g__num_in_ch': 1, 'datasets__val__color': 'y'},
            'network_g.num_in_ch: 1: the network takes 1 channels, and lq of datasets.train has 3',
        ),
    ],
)
def test_channels(folder, changes, message):
    (line,) = mistakes(folder, **changes)
    assert line.startswith(message + ': RuntimeError: ') and line.endswith('gt of 2x1x16x16)' * ('color' in message))


def test_channels_of_the_validation_alone(folder):
    (line,) = mistakes(folder, datasets__val__color='y')
    message = 'network_g.num_in_ch: 3: the network takes 3 channels, and lq of datasets.val (color: y) has 1: '
    assert line.startswith(message) and '(a test of 0.png of datasets.val: lq of 1x1x14x15, gt of 1x1x28x30)' in line


def test_channels_of_a_grey_task(folder):
    # MambaIR subtracts the mean of three channels, by which one becomes three.
    mambair = {'type': 'MambaIR', 'upscale': 1, 'upsampler': '', 'embed_dim': 30, 'depths': [1], 'd_state': 2}
    pairs = small_run.options(folder)['datasets']
    for section in pairs.values():
        section.update(task='denoising_gray', noise=15, dataroot_lq=section['dataroot_gt'])
    (line,) = mistakes(folder, scale=1, datasets=pairs, network_g={**mambair, 'in_chans': 3})
    assert line.startswith('network_g.in_chans: 3')
    assert '3 channels, and gt of datasets.train (task: denoising_gray) has 1 (the first step' in line
    check(folder, scale=1, datasets=pairs, network_g={**mambair, 'in_chans': 1})


def test_metrics_that_do_not_fit_the_smallest_picture_name_it(folder):
    lines = mistakes(folder, val__metrics__psnr__crop_border=14, val__metrics__ssim__crop_border=8)
    assert lines == [
        'val.metrics.psnr: crop_border 14 does not fit a picture of 28x30 pixels (a test of 0.png of datasets.val: lq '
        'of 1x3x14x15, gt of 1x3x28x30)',
        'val.metrics.psnr: crop_border 14 does not fit a picture of 26x28 pixels (a test of 0.png of datasets.test_0: '
        'lq of 1x3x13x14, gt of 1x3x26x28)',
        'val.metrics.ssim: SSIM needs at least 11x11 pixels after cropping, not 10x12; lower crop_border (a test of '
        '0.png of datasets.test_0: lq of 1x3x13x14, gt of 1x3x26x28)',
    ]


def test_metrics_of_users_may_raise_anything(folder, registered):
    def broken(img, img2):
        return img[10_000] - img2

    (line,) = mistakes(folder, val__metrics={'mine': {'type': registered(METRIC_REGISTRY, broken)}}, logger={},
                       datasets__test_0=None)  # fmt: skip
    assert line.startswith('val.metrics.mine: IndexError: index 10000 is out of bounds')


def test_the_smallest_picture_of_an_lmdb_is_named(folder):
    from basicsr.utils.lmdb_util import make_lmdb

    for part in ('HR', 'LR'):
        files = {path.stem: path for path in (folder / 'val' / part).iterdir()}
        make_lmdb(files, folder / 'val' / f'{part}.lmdb')
    backend = {'io_backend': {'type': 'lmdb'}, 'type': 'PairedImageDataset'}
    roots = {'dataroot_gt': 'val/HR.lmdb', 'dataroot_lq': 'val/LR.lmdb'}
    lines = mistakes(folder, datasets__val={**backend, **roots}, val__metrics__ssim__crop_border=10)
    assert 'not 8x10; lower crop_border (a test of 0 of datasets.val: lq of 1x3x14x15' in lines[0]


class Items(torch.utils.data.Dataset):
    """A data set of a user's that says no paths: the third of its items is the smallest."""

    sides = (9, 8, 7, 12)

    def __init__(self, opt) -> None:
        self.opt = opt

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index):
        side = self.sides[index]
        picture = torch.rand(3, side, side)
        return {'lq': picture, 'gt': picture.repeat(1, 2, 2), 'lq_path': f'item_{index}'}


def test_the_smallest_picture_of_a_data_set_without_paths(folder, registered):
    kind = {'type': registered(DATASET_REGISTRY, Items)}
    (line,) = mistakes(folder, datasets__val=kind, datasets__test_0=None, val__metrics__ssim__crop_border=2)
    assert '(a test of item_2 of datasets.val: lq of 1x3x7x7, gt of 1x3x14x14)' in line


def test_training_pictures_smaller_than_a_patch(folder):
    rng = np.random.default_rng(0)
    for part, side in (('HR', 12), ('LR', 6)):
        picture = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
        small_run.write_picture(folder / 'train' / part / 'tiny.png', picture)
    with pytest.raises(ValueError, match=r'1 picture cannot be used:\n  datasets\.train: .*12x12.*tiny\.png'):
        check(folder)
    before = everything(folder)
    with pytest.raises(ValueError, match=r'datasets\.train: the pictures are smaller than the patch; .*tiny\.png') as e:
        train(folder)
    assert str(e.value).endswith('(its smallest picture)') and everything(folder) == before


def test_patches_smaller_than_the_network_takes(folder, registered):
    class Deep(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 3, 5, 4)

        def forward(self, x):
            return super().forward(x) + self.down(x).mean()

    (line,) = mistakes(folder, network_g={'type': registered(ARCH_REGISTRY, Deep)}, datasets__train__gt_size=8)
    assert line.startswith(
        'datasets.train.gt_size: 8 makes lq of 4x4, which the network does not take; it takes 8x8: RuntimeError: '
    )
    lines = mistakes(folder, is_train=False, network_g={'type': 'Deep'}, datasets={'val': tiny_pairs(folder)})
    assert lines[0].startswith('network_g: does not take pictures as small as 4x5 of datasets.val; it takes 8x8: ')


def tiny_pairs(folder, side=8):
    make_pictures(folder, {'tiny': (side,)})
    return {'type': 'PairedImageDataset', 'dataroot_gt': 'tiny/HR', 'dataroot_lq': 'tiny/LR'}


def test_windows_larger_than_pictures_are_no_mistake(folder, capsys):
    swinir = {'type': 'SwinIR', 'upscale': 2, 'img_size': 16, 'window_size': 8, 'depths': [1], 'embed_dim': 12}
    swinir.update(num_heads=[2], mlp_ratio=1, upsampler='pixelshuffledirect')
    check(folder, network_g=swinir, datasets__val=tiny_pairs(folder, 16), datasets__train__gt_size=8)
    printed = capsys.readouterr().out
    assert 'Tried: the first step, on a batch of datasets.train: lq of 2x3x4x4, gt of 2x3x8x8\n' in printed
    assert 'Tried: a test of 0.png of datasets.val: lq of 1x3x8x9, gt of 1x3x16x18\n' in printed


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        (lambda y: (y, y), 'network_g: the network returns a tuple of 2, not a tensor (N, C, H, W) alone'),
        (lambda y: None, 'network_g: the network returns nothing, not a tensor (N, C, H, W) alone'),
        (lambda y: {'out': y}, 'network_g: the network returns a dict, not a tensor (N, C, H, W) alone'),
        (lambda y: y.mean(), 'network_g: the network returns a tensor of shape (), not a tensor (N, C, H, W) alone'),
        (lambda y: y.long(), 'network_g: the loss (l_pix) does not depend on its weights, so that nothing can train'),
        (lambda y: y.detach(), 'network_g: the loss (l_pix) does not depend on its weights, so that nothing can train'),
        (lambda y: 1 / 0, 'network_g: ZeroDivisionError: division by zero (the first step, on a batch of'),
        (lambda y: {}['mask'], "network_g: KeyError: 'mask' (the first step, on a batch of"),
    ],
)
def test_networks_that_return_something_else(folder, registered, output, message):
    class Returns(Odd):
        def forward(self, x):
            return output(super().forward(x))

    (line,) = mistakes(folder, network_g={'type': registered(ARCH_REGISTRY, Returns)})
    assert line.startswith(message)


def test_a_network_of_two_inputs(folder, registered):
    class Two(Odd):
        def forward(self, x, reference):
            return super().forward(x + reference)

    (line,) = mistakes(folder, network_g={'type': registered(ARCH_REGISTRY, Two)})
    assert line.startswith('network_g: TypeError: ') and "missing 1 required positional argument: 'reference'" in line
    assert line.endswith('(the first step, on a batch of datasets.train: lq of 2x3x8x8, gt of 2x3x16x16)')


def test_a_batch_normalization_of_single_values(folder, registered):
    class Pooled(Odd):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))

        def forward(self, x):
            return super().forward(x) + self.norm(x).mean()

    (line,) = mistakes(
        folder, network_g={'type': registered(ARCH_REGISTRY, Pooled)}, datasets__train__batch_size_per_gpu=1
    )
    assert line.startswith('network_g: Expected more than 1 value per channel when training')


@pytest.mark.parametrize(
    ('loss', 'message'),
    [
        (
            {'type': 'L1Loss', 'reduction': 'none'},
            'train.pixel_opt: the loss l_pix is 2x3x16x16 numbers, and training minimises one: reduction: mean or sum',
        ),
        ({'type': 'Fails'}, 'train.pixel_opt: TypeError: unsupported operand type(s) for +: '),
        ({'type': 'Alone'}, 'train.pixel_opt: TypeError: '),
    ],
)
def test_losses(folder, registered, loss, message):
    class Fails(nn.Module):
        def forward(self, pred, target):
            return pred + 'target'

    class Alone(nn.Module):
        def forward(self, pred):
            return pred.mean()

    registered(LOSS_REGISTRY, Fails)
    registered(LOSS_REGISTRY, Alone)
    (line,) = mistakes(folder, train__pixel_opt=loss)
    assert line.startswith(message) and '(the first step, on a batch of datasets.train: ' in line


def test_data_without_truth(folder):
    single = {'type': 'SingleImageDataset', 'dataroot_lq': 'train/LR', 'batch_size_per_gpu': 1}
    single.update(num_worker_per_gpu=0)
    (line,) = mistakes(folder, datasets__train=single)
    assert line.startswith('datasets.train: gives no gt, and training needs pairs: type: PairedImageDataset (')


def test_metrics_that_need_a_truth(folder, capsys, logged):
    single = {'type': 'SingleImageDataset', 'dataroot_lq': 'test_0/LR'}
    check(folder, datasets__test_0=single)
    note = 'val.metrics.ssim: needs gt, and datasets.test_0 gives none: left out'
    assert note in capsys.readouterr().out.splitlines()
    train(folder, datasets__test_0=single)
    assert note in logged.warnings()
    (line,) = mistakes(folder, datasets__val=single, datasets__test_0=None)
    assert line == 'logger.save_best: psnr needs gt, and no validation set gives one'


def test_values_that_metrics_do_not_see(folder, capsys):
    normal = {'mean': [0.5, 0.5, 0.5], 'std': [0.2, 0.2, 0.2]}
    check(folder, **{f'datasets__{key}__{name}': value for key in ('train', 'val') for name, value in normal.items()})
    printed = capsys.readouterr().out
    assert (
        'val.metrics: measure pictures in [0, 1], and gt of datasets.val goes from -2.50 to 2.50 (mean, std)' in printed
    )
    assert 'datasets.test_0.mean: ~, and that of datasets.train is [0.5, 0.5, 0.5]: the network is tested on' in printed


class Faulty(Items):
    """Items that lack something, or cannot make a batch."""

    def __getitem__(self, index):
        item, lacks = super().__getitem__(index), self.opt['lacks']
        if lacks == 'everything':
            return item['lq'], index
        if lacks == 'size':
            return item
        del item[lacks]
        return {**item, 'lq' if lacks == 'gt' else 'gt': torch.rand(3, 16, 16)}


@pytest.mark.parametrize(
    ('lacks', 'message'),
    [
        ('lq', 'the first step: SRModel needs lq, a tensor (N, C, H, W); a batch has gt, lq_path (the first step, on a '
               'batch of datasets.train: gt of 2x3x16x16)'),
        ('everything', 'the first step: SRModel needs lq, a tensor (N, C, H, W); a batch has a list (the first step, '
                       'on a batch of datasets.train: a list)'),
        ('size', 'datasets.train: RuntimeError: stack expects each tensor to be equal size'),
    ],
)  # fmt: skip
def test_training_data_of_users(folder, registered, lacks, message):
    section = {'type': registered(DATASET_REGISTRY, Faulty), 'lacks': lacks, 'batch_size_per_gpu': 2}
    if lacks == 'everything':
        registered(DATASET_REGISTRY, type('Faulty', (Faulty,), {'sides': (8, 8)}))
    (line,) = mistakes(folder, datasets__train={**section, 'num_worker_per_gpu': 0})
    assert line.startswith(message)


@pytest.mark.parametrize(
    ('lacks', 'message'),
    [
        ('lq', 'the first test: SRModel needs lq, a tensor (N, C, H, W); a batch has gt, lq_path (a test of item_'),
        ('lq_path', 'the first test: items have no lq_path, by whose name the results of a picture are known (a test '
                    'of item 2 of datasets.val: '),
    ],
)  # fmt: skip
def test_validation_data_of_users(folder, registered, lacks, message):
    section = {'type': registered(DATASET_REGISTRY, Faulty), 'lacks': lacks}
    lines = mistakes(folder, datasets__val=section, datasets__test_0=None)
    assert lines[0].startswith(message)


def test_a_truth_of_another_size(folder, registered):
    class Larger(Items):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {**item, 'gt': item['gt'].repeat(1, 2, 2)}

    (line,) = mistakes(folder, datasets__val={'type': registered(DATASET_REGISTRY, Larger)}, datasets__test_0=None)
    assert line.startswith(
        'datasets.val: gt of 28x28 is not lq at scale: 2, of which the network makes 14x14 (a test of '
    )


def test_a_batch_larger_than_the_data(folder):
    (line,) = mistakes(folder, datasets__train__batch_size_per_gpu=20)
    assert 'has 6 samples, fewer than one batch of 20' in line and line.startswith('datasets.train: ')
    (line,) = mistakes(folder, train__accumulate=10)
    assert 'has 6 samples, fewer than one batch of 20' in line


def test_prefetching_to_a_gpu_that_is_not_there(folder):
    (line,) = mistakes(folder, datasets__train__prefetch_mode='cuda')
    assert line.startswith('datasets.train.prefetch_mode: cuda needs a GPU')


def test_optimizers_and_schedulers(folder, registered):
    assert mistakes(folder, train__optim_g={'type': 'SGD', 'lr': 1, 'nesterov': True})[0].startswith('train.optim_g: ')

    def falls(optimizer):
        raise RuntimeError('too fast')

    scheduler = {'type': registered(SCHEDULER_REGISTRY, falls)}
    assert mistakes(folder, train__scheduler=scheduler) == ['train.scheduler: RuntimeError: too fast']


def test_weights(folder):
    assert mistakes(folder, path__pretrain_network_g='no.pth') == [
        'not there:',
        f'  path.pretrain_network_g: {folder}/no.pth',
    ]
    other = {'conv.weight': torch.zeros(1)}
    torch.save({'params': other}, folder / 'other.pth')
    line = mistakes(folder, path__pretrain_network_g='other.pth')[0]
    assert line == f'path.pretrain_network_g: {folder}/other.pth does not fit the network MSRResNet:'
    (folder / 'other.pth').write_bytes(b'weights')
    (line,) = mistakes(folder, path__pretrain_network_g='other.pth')
    assert line.startswith('path.pretrain_network_g: ') and 'is no readable checkpoint' in line


def test_networks_to_compare_with_are_tried_before_the_training_and_the_test(folder):
    torch.save({'params': {'conv.weight': torch.zeros(1)}}, folder / 'other.pth')
    sections = {
        'another': {'pretrain_network_g': 'other.pth'},
        'thrice': {'network_g': {'type': 'Bicubic', 'upscale': 3}},
        'fine': {'network_g': {'type': 'Bicubic', 'upscale': 2}},
    }
    for is_train in (True, False):
        lines = mistakes(folder, is_train, compare=sections)
        assert (
            lines[0].startswith('compare.another.pretrain_network_g: ')
            and 'other.pth does not fit the network MSRResNet' in lines[0]
        )
    lines = mistakes(folder, is_train=False, compare={'thrice': sections['thrice']}, datasets__val=None)
    assert lines[0].startswith('compare.thrice: network_g')


def test_all_mistakes_come_together(folder, registered):
    def broken(img, img2):
        raise ArithmeticError

    metrics = {'mine': {'type': registered(METRIC_REGISTRY, broken)}}
    (folder / 'test_0' / 'LR' / '1.png').write_bytes(b'no picture')
    lines = mistakes_of_check(
        folder,
        val__metrics=metrics,
        logger={},
        datasets__train__prefetch_mode='cuda',
        train__pixel_opt__reduction='none',
    )
    for part in (
        '1 picture cannot be used:',
        'datasets.train.prefetch_mode: ',
        'train.pixel_opt: ',
        'val.metrics.mine: ',
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)


def mistakes_of_check(folder, **changes):
    with pytest.raises(ValueError) as error:
        check(folder, **changes)
    return str(error.value).splitlines()[1:]


def test_debug_shows_where(folder, registered, capsys):
    class Fails(Odd):
        def forward(self, x):
            return self.conv(x).view(-1, 7)

    changes = {'network_g': {'type': registered(ARCH_REGISTRY, Fails)}}
    with pytest.raises(ValueError, match='network_g: RuntimeError') as error:
        train(folder, **changes)
    assert isinstance(error.value.__cause__, RuntimeError)
    with pytest.raises(ValueError):
        check_pipeline(str(folder), command_line(write(folder, **changes), debug=True))
    assert 'return self.conv(x).view(-1, 7)' in capsys.readouterr().err


def pretrained(folder, **changes):
    """Options of a training whose weights another one makes, `before.yml`."""
    weights = folder / 'experiments' / 'before' / 'models' / 'net_g_latest.pth'
    return {'path__pretrain_network_g': str(weights), 'path__pretrain_opt': str(folder / 'before.yml'), **changes}


def test_a_mistake_in_what_is_trained_first(folder):
    write(folder, 'before.yml', name='before', train__optim_g__lr='fast')
    lines = mistakes(folder, **pretrained(folder))
    assert lines[0].startswith(f'path.pretrain_opt: {folder}/before.yml: ') and 'train.optim_g.lr: ' in lines[1]
    write(folder, 'before.yml', name='before', val__metrics__psnr__crop_border=14)
    lines = mistakes(folder, **pretrained(folder))
    assert lines[0].startswith(f'path.pretrain_opt: {folder}/before.yml: val.metrics.psnr: crop_border 14 does not fit')
    (folder / 'before.yml').unlink()
    (line,) = mistakes(folder, **pretrained(folder))
    assert line.startswith('path.pretrain_opt: ') and 'before.yml' in line


def test_a_mistake_in_the_second_file_of_a_chain(folder):
    first = folder / 'experiments' / 'first' / 'models' / 'net_g_best.pth'
    write(folder, 'first.yml', name='first', network_g__upscale=3)
    write(folder, 'before.yml', name='before', path__pretrain_network_g=str(first),
          path__pretrain_opt=str(folder / 'first.yml'))  # fmt: skip
    (line,) = mistakes(folder, **pretrained(folder))
    chain = f'path.pretrain_opt: {folder}/before.yml: path.pretrain_opt: {folder}/first.yml: '
    assert line.startswith(f'{chain}network_g.upscale: 3, but scale: 2')


def test_a_chain_that_leads_to_itself(folder):
    write(folder, 'before.yml', **pretrained(folder, name='before'))
    (line,) = mistakes(folder, **pretrained(folder))
    assert 'leads to itself, so that nothing can be trained first: before.yml → before.yml' in line


def test_a_chain_that_makes_another_file(folder):
    write(folder, 'before.yml', name='other')
    (line,) = mistakes(folder, **pretrained(folder))
    wanted, made = (folder / 'experiments' / name / 'models' for name in ('before', 'other'))
    assert line == (
        f'path.pretrain_network_g: {wanted}/net_g_latest.pth is not what {folder}/before.yml makes, which is '
        f'net_g_best.pth and net_g_latest.pth, and net_g_<iteration>.pth every 2 in {made}'
    )
    write(folder, 'before.yml', name='before')
    for name, is_made in (('best', True), ('2', True), ('3', False), ('4', False), ('x', False)):
        changes = {**pretrained(folder), 'path__pretrain_network_g': str(wanted / f'net_g_{name}.pth')}
        if is_made:
            check(folder, **changes)
        else:
            assert 'is not what' in mistakes(folder, **changes)[0]


@pytest.mark.parametrize('link', ['symbolic', 'hard', 'dots'])
def test_a_chain_that_leads_to_itself_by_another_name(folder, link):
    write(folder, 'before.yml', **pretrained(folder, name='before'))
    other = folder / 'other.yml'
    if link == 'symbolic':
        other.symlink_to('before.yml')
    elif link == 'hard':
        other.hardlink_to(folder / 'before.yml')
    else:
        other = folder / 'val' / '..' / 'before.yml'
    write(folder, 'before.yml', **{**pretrained(folder, name='before'), 'path__pretrain_opt': str(other)})
    if link == 'hard':
        assert other.samefile(folder / 'before.yml')
    before = everything(folder)
    for attempt in (check, train):
        with pytest.raises(ValueError) as error:
            attempt(folder, **pretrained(folder))
        text = str(error.value)
        assert text.count('leads to itself, so that nothing can be trained first: ') == 1
    assert everything(folder) == before, 'nothing is trained'


def test_a_chain_of_three_that_comes_back(folder):
    experiments = folder / 'experiments'
    names = ['before', 'second', 'third']
    for name, following in zip(names, [*names[1:], 'before'], strict=True):
        chain = {
            'path__pretrain_network_g': str(experiments / following / 'models' / 'net_g_latest.pth'),
            'path__pretrain_opt': str(folder / f'{following}.yml'),
        }
        write(folder, f'{name}.yml', name=name, **chain)
    (line,) = mistakes(folder, **pretrained(folder))
    assert 'leads to itself' in line and line.endswith('before.yml → second.yml → third.yml → before.yml')


@pytest.mark.parametrize(
    ('changes', 'number', 'is_made'),
    [
        ({'train__total_iter': 8, 'logger__keep_checkpoints': 2}, '2', False),
        ({'train__total_iter': 8, 'logger__keep_checkpoints': 2}, '4', False),
        ({'train__total_iter': 8, 'logger__keep_checkpoints': 2}, '6', True),
        ({'train__total_iter': 8, 'logger__keep_checkpoints': 2}, '8', True),
        ({}, '02', False),
        ({}, '²', False),
        ({'datasets__val': None}, 'best', False),
        ({'logger__save_best': None}, 'best', False),
        ({}, 'latest', True),
    ],
)
def test_which_files_a_training_leaves(folder, changes, number, is_made):
    write(folder, 'before.yml', name='before', **changes)
    wanted = folder / 'experiments' / 'before' / 'models' / f'net_g_{number}.pth'
    chain = {**pretrained(folder), 'path__pretrain_network_g': str(wanted)}
    if is_made:
        check(folder, **chain)
    else:
        (line,) = mistakes(folder, **chain)
        assert line.startswith(f'path.pretrain_network_g: {wanted} is not what {folder}/before.yml makes')


def test_weights_that_a_training_makes_for_another_network_or_key(folder):
    write(folder, 'before.yml', name='before', network_g__num_feat=4)
    (line,) = mistakes(folder, **pretrained(folder))
    assert line.startswith(f'path.pretrain_opt: {folder}/before.yml trains a network whose weights do not fit: ')
    assert 'conv_first.weight' in line
    check(folder, **pretrained(folder), path__strict_load_g=False)
    write(folder, 'before.yml', name='before')
    (line,) = mistakes(folder, **pretrained(folder), path__param_key_g='params_ema')
    assert line == f"path.param_key_g: {folder}/before.yml makes no weights under 'params_ema', but params"
    write(folder, 'before.yml', name='before', train__ema_decay=0.9)
    check(folder, **pretrained(folder), path__param_key_g='params_ema')


def test_a_training_in_the_folder_of_the_run_that_needs_it(folder):
    write(folder, 'before.yml', name='small')
    wanted = folder / 'experiments' / 'small' / 'models' / 'net_g_latest.pth'
    (line,) = mistakes(folder, **{**pretrained(folder), 'path__pretrain_network_g': str(wanted)})
    assert line.startswith(f'path.pretrain_opt: {folder}/before.yml writes into {folder}/experiments/small, which is ')


def test_training_states(folder):
    train(folder)
    states = folder / 'experiments' / 'small' / 'training_states'
    (line,) = mistakes(folder, path__resume_state=str(states / '7.state'))
    assert line.startswith('path.resume_state: ') and '7.state' in line
    line = mistakes(folder, path__resume_state=str(states / '2.state'), network_g__num_feat=12)[0]
    assert line.startswith(f'path.resume_state: {states}/2.state: ') and 'does not fit the network MSRResNet' in line
    (line,) = mistakes(folder, path__resume_state=str(states / '2.state'), train__ema_decay=0.9)
    assert 'was saved by the strategy plain, and the options ask for plain + ema' in line
    optimizer = {'type': 'SGD', 'lr': 0.1}
    (line,) = mistakes(folder, path__resume_state=str(states / '2.state'), train__optim_g=optimizer)
    assert line.startswith('train.optim_g.type: the training state was saved with Adam')
    (states / '2.state').write_bytes(b'state')
    (line,) = mistakes(folder, path__resume_state=str(states / '2.state'))
    assert line.startswith('path.resume_state: ') and 'is no readable checkpoint' in line


def test_an_earlier_run_stays_as_it_is_where_its_newest_state_does_not_fit(folder):
    train(folder, model_type='LDTModel', train__ldt={'scoring_batches': 2})
    before = everything(folder)
    with pytest.raises(ValueError, match=r'path\.resume_state: .*2\.state: the training state was saved by the strat'):
        train(folder, auto_resume=True)
    assert everything(folder) == before
    train(folder, auto_resume=True, model_type='LDTModel', train__ldt={'scoring_batches': 2}, train__total_iter=4)
    assert (folder / 'experiments' / 'small' / 'training_states' / '4.state').exists()


def test_large_pictures_are_cut_and_still_make_tiles(folder, registered, capsys):
    seen = []

    class Sees(Odd):
        def forward(self, x):
            if not self.training:
                seen.append(tuple(x.shape[-2:]))
            return super().forward(x)

    make_pictures(folder, {'large': (1200, 640)})
    large = {'type': 'PairedImageDataset', 'dataroot_gt': 'large/HR', 'dataroot_lq': 'large/LR'}
    changes = {'datasets__val': large, 'model_type': 'MambaIRModel', 'datasets__test_0': None}
    check(folder, network_g={'type': registered(ARCH_REGISTRY, Sees)}, **changes)
    printed = capsys.readouterr().out
    for name in ('1.png', '0.png'):
        assert f'Tried: a test of {name} of datasets.val: lq of 1x3x256x256, gt of 1x3x512x512\n' in printed
    assert seen == [(140, 140)] * 8, 'two by two tiles each'


def test_nothing_is_left_where_temporary_files_go(folder, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp('home')
    for name in ('HOME', 'TMPDIR', 'XDG_CACHE_HOME', 'TORCH_HOME'):
        monkeypatch.setenv(name, str(home))
    check(folder)
    assert not any(home.iterdir())
    assert sorted(os.listdir(folder)) == ['options.yml', 'test_0', 'train', 'val']
    shutil.rmtree(home)


def test_a_training_may_validate_and_test_under_one_name(folder, capsys):
    names = {f'datasets__{key}__name': 'camera' for key in ('train', 'val', 'test_0')}
    check(folder, **names)
    assert 'Tried: a test of 0.png of datasets.test_0 (camera): lq of 1x3x13x14' in capsys.readouterr().out
    train(folder, **names)
    (line,) = mistakes(folder, is_train=False, **{**names, 'datasets__train': None})
    assert 'camera' in line


def test_pictures_that_are_black_by_their_bits_are_said(folder, capsys):
    for index in range(2):
        path = folder / 'val' / 'LR' / f'{index}.png'
        cv2.imwrite(str(path), np.maximum(cv2.imread(str(path)), 255).astype(np.uint16))
    check(folder)
    printed = capsys.readouterr().out
    assert 'datasets.val: lq of 0.png is black, with no value above 0.0039; are these values of 8 bits' in printed
    assert printed.count('is black') == 2, 'the smallest picture and the largest'


class WithoutValues(torch.utils.data.Dataset):
    """Pairs of a user's, of which a value of `broken` is NaN."""

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def __len__(self):
        return 2

    def __getitem__(self, index):
        item = {'lq': torch.rand(3, 14, 15), 'gt': torch.rand(3, 28, 30)}
        item[self.broken][0, 0, 0] = torch.nan
        return {**item, 'lq_path': f'{index}.png'}


@pytest.mark.parametrize(('broken', 'count'), [('lq', 630), ('gt', 2520)])
def test_values_that_are_none_of_a_data_set_of_users(folder, registered, broken, count):
    kind = {'type': registered(DATASET_REGISTRY, WithoutValues), 'broken': broken}
    (line,) = mistakes(folder, datasets__val=kind, datasets__test_0=None)
    assert line.startswith(f'datasets.val: of {broken}, 1 of {count:,} values are NaN or infinite')


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_a_network_whose_output_is_not_finite(folder, registered, value):
    class Overflows(Odd):
        def forward(self, x):
            return super().forward(x) if self.training else super().forward(x) * value

    (line,) = mistakes(folder, network_g={'type': registered(ARCH_REGISTRY, Overflows)}, datasets__test_0=None)
    assert line.startswith('network_g: of its output, 2,520 of 2,520 values are NaN or infinite')
