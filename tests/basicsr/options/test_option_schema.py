"""Files in the manner of BasicSR and MambaIR, and each kind of mistake with the words that come out."""

import argparse
import inspect
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

import basicsr.data
import basicsr.models  # noqa: F401  registers what option files name
import ldt
from basicsr.models.sr_model import SRModel
from basicsr.options.check import check_options
from basicsr.options.choices import CHOICES, arguments_of, check_filled
from basicsr.options.file import load_options
from basicsr.options.resolve import check_files, parse_options
from basicsr.options.schema import options_section
from basicsr.options.types import fields_of, is_section, sections_by_name
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

ROOT = Path(__file__).parents[3]
OPTION_FILES = [*(ROOT / 'options').glob('t*/**/*.yml'), ROOT / 'test_MambaIR_SR_x4.yml']  # train and test
MANNERS = sorted((Path(__file__).parent / 'option_files').glob('*.yml'))


def parse(file, is_train=False, changes=()):
    args = argparse.Namespace(opt=str(file), set=list(changes), launcher='none')
    return parse_options(str(Path(file).parent), is_train, args)


def mistakes(file, is_train=False, changes=()):
    with pytest.raises(ValueError) as error:
        parse(file, is_train, changes)
    return str(error.value)


@pytest.mark.parametrize('file', MANNERS, ids=lambda f: f.stem)
def test_files_in_basicsrs_and_mambairs_manner_load(file, logged):
    written = load_options(file)[0]
    opt, args = parse(file, is_train=file.name.startswith('train'))
    assert args.merged == written, 'the same keys and values'
    assert not [text for text in logged.warnings() if 'network_g' in text]
    if 'train' in opt:
        numbers = opt['val']['val_freq'], opt['logger']['save_checkpoint_freq'], opt['train']['total_iter']
        assert [type(number) for number in numbers] == [int] * 3
        assert opt['train']['optim_g']['lr'] in (1e-4, 2e-4)
        assert type(opt['train']['optim_g']['weight_decay']) is float


def test_a_network_that_is_not_here_is_the_only_mistake(tmp_path):
    lines = (Path(__file__).parent / 'option_files' / 'train_edsr.yml').read_text().splitlines()
    line = lines.index('  type: EDSR')
    lines[line] = '  type: HAT'
    file = tmp_path / 'train_hat.yml'
    file.write_text('\n'.join(lines))
    text = mistakes(file, is_train=True)
    assert text.startswith('the options have 1 mistake:\n')
    assert "network_g.type: 'HAT' is no network; there are " in text
    assert 'Bicubic' in text and 'MambaIR' in text and f'{file.name}, line {line + 1}]' in text


def test_keys_at_the_wrong_level_are_named_once_and_ignored(logged):
    opt, _ = parse(Path(__file__).parent / 'option_files' / 'test_msrresnet.yml')
    warned = [text for text in logged.warnings() if 'ignored here' in text]
    assert [re.sub(r' \[.*, line (\d+)\]$', r' \1', text) for text in warned] == [
        'suffix: ignored here; it belongs to val.suffix 7',
        'crop_border: ignored here; it belongs to val.metrics.<metric>.crop_border 8',
        'save_img: ignored here; it belongs to val.save_img 9',
    ]
    assert opt['val']['metrics']['ssim']['crop_border'] == 4


@pytest.fixture
def file(tmp_path):
    """A training file, and another that inherits from it."""
    (tmp_path / 'base.yml').write_text("""name: trial
model_type: MambaIRModel
scale: 2
datasets:
  train: {type: PairedImageDataset, dataroot_gt: a, dataroot_lq: b, gt_size: 16, batch_size_per_gpu: 2,
          num_worker_per_gpu: 0}
  test_1: &test {type: PairedImageDataset, dataroot_gt: a, dataroot_lq: b}
network_g:
  type: MambaIR
  upscale: 2
train:
  total_iter: 10
  optim_g: {type: Adam, lr: 1e-3, betas: [0.9, 0.99]}
  scheduler:
    type: CosineAnnealingRestartLR
    periods: [5, 5]
    restart_weights: [1, 0.5]
  pixel_opt: {type: L1Loss}
val:
  metrics: {psnr: {type: calculate_psnr, crop_border: 2}}
""")
    (tmp_path / 'top.yml').write_text('_base_: base.yml\nname: other\n\ntrain:\n  total_iter: 20\n')
    return tmp_path / 'top.yml'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('nam=a', "nam: unknown option; did you mean 'name'?"),
        ('train.optimg.lr=1', "train.optimg: unknown option; did you mean 'optim_g'?"),
        ('batch_size_per_gpu=4', 'batch_size_per_gpu: unknown option; it belongs to datasets.<name>'),
        ('train.val_freq=4', 'train.val_freq: unknown option; it belongs to val'),
        ('num_gpu=-1', 'num_gpu: must be auto or a whole number of at least 0, not -1'),
        ('num_gpu=true', 'num_gpu: must be auto or a whole number of at least 0, not True'),
        ('num_gpu=Auto', "num_gpu: must be auto or a whole number of at least 0, not 'Auto'; did you mean 'auto'?"),
        (
            'manual_seed=1e10',
            'manual_seed: must be a whole number of at least 0 and at most 2147483647, not 10000000000',
        ),
        ('name=7', 'name: must be text, not 7; put it in quotes'),
        ('name=a/b', 'name: names a folder'),
        ('model_type=LDTMode', "model_type: 'LDTMode' is no model; there are "),
        ('scale=true', 'scale: must be a whole number of at least 1, not True'),
        ('scale="4"', "scale: must be a whole number of at least 1, not '4'"),
        ('scale=.nan', 'scale: must be a whole number of at least 1, not nan'),
        ('val=5', 'val: must be a section (`key: value` lines), not 5'),
        ('datasets=[a]', "datasets: must be a section (`key: value` lines), not ['a']"),
        ('datasets={}', 'datasets: missing; there is nothing to work on'),
        ('datasets.test_1=x', "datasets.test_1: must be a section (`key: value` lines), not 'x'"),
        (
            'datasets.valid={type: SingleImageDataset, dataroot_lq: a}',
            'datasets.valid: data sets are called train, val',
        ),
        ('datasets.train_2={type: SingleImageDataset, dataroot_lq: a}', 'datasets.train_2: data sets are called train'),
        (
            'datasets.test_2={type: SingleImageDataset}',
            'datasets.test_2.dataroot_lq: missing; it must be a path or a list of paths',
        ),
        ('datasets.test_1.type=Paired', "datasets.test_1.type: 'Paired' is no data set; there are "),
        ('datasets.test_1.io_backend.type=memcached', "test_1.io_backend.type: must be disk or lmdb, not 'memcached'"),
        ('datasets.test_1.mean=[0.5]', 'datasets.test_1.std: missing; mean and std belong together'),
        (
            'datasets.test_1.task=denoise',
            'datasets.test_1.task: must be SR or denoising_color or denoising_gray or CAR',
        ),
        ('datasets.test_1.noise=-1', 'datasets.test_1.noise: must be a number of at least 0, not -1'),
        ('datasets.train.gt_size=15', 'datasets.train.gt_size: must be a multiple of scale 2, not 15'),
        ('datasets.train.gt_size=~', 'datasets.train.gt_size: missing; training needs it'),
        ('datasets.train.use_hflip=1', 'datasets.train.use_hflip: must be true or false, not 1'),
        ('datasets.train.num_worker_per_gpu=~', 'datasets.train.num_worker_per_gpu: missing; training needs it'),
        ('datasets.train=~', 'datasets.train: missing; there is nothing to train on'),
        ('network_g.type=~', 'network_g.type: missing; it must be one of '),
        ('network_g.depths=6', 'network_g.depths: must be a list of 1 or more whole numbers of at least 1, not 6'),
        (
            'network_g.depths=[6, 6.5]',
            'network_g.depths: must be a list of 1 or more whole numbers of at least 1, not [6, 6.5]',
        ),
        (
            'network_g.img_size=[48, x]',
            'network_g.img_size: must be a whole number of at least 1 or a list of 2 whole numbers of at least 1, not '
            "[48, 'x']",
        ),
        ('network_g.embed_dimm=3', "network_g.embed_dimm: unknown option; did you mean 'embed_dim'?"),
        ('train.total_iter=~', 'train.total_iter: missing; training needs it'),
        ('train.ema_decay=1', 'train.ema_decay: must be a number of at least 0 and below 1, not 1'),
        ('train.amp=half', "train.amp: must be bf16 or fp16, not 'half'"),
        ('train.grad_clip_norm=0', 'train.grad_clip_norm: must be a number above 0, not 0'),
        ('train.accumulate=0', 'train.accumulate: must be a whole number of at least 1, not 0'),
        ('train.max_bad_steps=-1', 'train.max_bad_steps: must be a whole number of at least 0, not -1'),
        ('train.optim_g=~', 'train.optim_g: missing; name an optimizer of torch.optim'),
        ('train.optim_g.type=Adamm', "did you mean 'Adam'?"),
        ('train.optim_g.lr=~', 'train.optim_g.lr: missing; it must be a number above 0'),
        ('train.optim_g.lr=fast', "train.optim_g.lr: must be a number above 0, not 'fast'"),
        (
            'train.optim_g.betas=[0.9]',
            'train.optim_g.betas: must be a list of 2 numbers of at least 0 and below 1, not [0.9]',
        ),
        (
            'train.optim_g.betas=[0.9, 1.1]',
            'train.optim_g.betas: must be a list of 2 numbers of at least 0 and below 1',
        ),
        ('train.optim_g.beta=1', "train.optim_g.beta: unknown option; did you mean 'betas'?"),
        ('train.scheduler.type=StepLR', "train.scheduler.type: 'StepLR' is no scheduler; there are Cosine"),
        ('train.scheduler.restart_weights=[1]', 'restart_weights: must have as many numbers as periods, 2, not 1'),
        ('train.scheduler.restart_weights=~', 'restart_weights: must have as many numbers as periods, 2, not 1'),
        ('train.scheduler.periods=~', 'train.scheduler.periods: missing; it must be a list of 1 or more whole numbers'),
        (
            'train.scheduler={type: MultiStepLR, milestones: [4, 2]}',
            'train.scheduler.milestones: must ascend, not [4, 2]',
        ),
        ('train.pixel_opt.type=L2Loss', "train.pixel_opt.type: 'L2Loss' is no loss; there are Charb"),
        ('train.pixel_opt.eps=1', 'train.pixel_opt.eps: unknown option'),
        ('train.ldt.unstabel_ratio=0.4', "train.ldt.unstabel_ratio: unknown option; did you mean 'unstable_ratio'?"),
        ('train.ldt.warmup_iter=-5', 'train.ldt.warmup_iter: must be a whole number of at least 0 or a share of'),
        ('train.ldt.strategy=both', "train.ldt.strategy: must be dual or alternating, not 'both'"),
        (
            'train.ldt.unstable_ratio=atuo',
            "must be auto or a number above 0 and below 1, not 'atuo'; did you mean 'auto'",
        ),
        (
            'train.ldt.stable_time=[10, 5]',
            'stable_time: must be at least 10 iterations, from one exchange of a layer to',
        ),
        (
            'train.ldt.fixed_time=0%',
            'fixed_time: must be a number of at least 1 or a share of train.total_iter such as',
        ),
        ('train.ldt={strategy: alternating, fixed_time: 15}', 'fixed_time: must be at least 20 iterations, from one'),
        ('val.val_freq=5.5', 'val.val_freq: must be a whole number of at least 1, not 5.5'),
        ('val={patchwise_testing: true, tile_size: 0}', 'val.tile_size: must be above 0 for patchwise_testing'),
        ('logger.wandb.project=a', 'logger.use_tb_logger: must be true for wandb'),
        ('val.tile_overlap=1', 'val.tile_overlap: must be a number of at least 0 and below 1, not 1'),
        ('val.metrics.psnr.crop_border=~', 'val.metrics.psnr.crop_border: missing; it must be a whole number'),
        ('val.metrics.psnr.better=more', "val.metrics.psnr.better: must be higher or lower, not 'more'"),
        ('logger.save_best=ssim', "logger.save_best: 'ssim' is none of val.metrics: psnr"),
        ('logger.keep_checkpoints=0', 'logger.keep_checkpoints: must be a whole number of at least 1, not 0'),
        ('logger.wandb.projct=a', "logger.wandb.projct: unknown option; did you mean 'project'?"),
        ('dist_params.backend=mpi', "dist_params.backend: must be nccl or gloo, not 'mpi'"),
        ('dist_params.timeout=0', 'dist_params.timeout: must be a number above 0, not 0'),
    ],
)
def test_each_mistake_in_its_words(file, change, message):
    text = mistakes(file, is_train=True, changes=[change])
    assert text.startswith('the options have 1 mistake:\n') and message in text
    if '=~' not in change and 'datasets.test_1.std' not in message:  # what is missing stands nowhere
        assert text.endswith(f'[--set {change}]')
    assert 'Traceback' not in text and 'pydantic' not in text


@pytest.mark.parametrize('name', ['1', '2.5', '~', 'yes'])
def test_names_that_yaml_does_not_read_as_text(file, name):
    file.write_text(file.read_text() + f'datasets: {{{name}: {{type: SingleImageDataset}}}}\n{name}: 3\n')
    text = mistakes(file)
    assert text.count('unknown option: names are text, not ') == 2 and '2 mistakes' in text
    assert 'top.yml, line 6]' in text and 'top.yml, line 7]' in text


def test_all_mistakes_come_at_once_with_the_file_and_the_line_of_each(file):
    base = file.parent / 'base.yml'
    base.write_text(base.read_text().replace('upscale: 2', 'upscale: two').replace('scale: 2\n', 'scale: 0\n', 1))
    file.write_text(file.read_text() + '  totl: 3\n  pixel_opt: {type: L1Loss, loss_weight: heavy}\nval: ~\n')
    text = mistakes(file, changes=['train.optim_g.lr=x', 'train.totl=4', 'logger.print_freq=1'])
    assert [re.sub(r'\[/\S*/', '[', line) for line in text.splitlines()] == [
        'the options have 5 mistakes:',
        '  scale: must be a whole number of at least 1, not 0 [base.yml, line 3]',
        "  network_g.upscale: must be a whole number of at least 1, not 'two' [base.yml, line 10]",
        "  train.optim_g.lr: must be a number above 0, not 'x' [--set train.optim_g.lr=x]",
        "  train.pixel_opt.loss_weight: must be a number of at least 0, not 'heavy' [top.yml, line 7]",
        "  train.totl: unknown option; did you mean 'total_iter'? [--set train.totl=4]",
    ]


def test_paths_are_as_short_as_they_can_be(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    file.write_text(file.read_text() + 'nam: 1\n')
    assert mistakes('top.yml').endswith(' [top.yml, line 6]')
    (file.parent / 'elsewhere').mkdir()
    monkeypatch.chdir(file.parent / 'elsewhere')
    assert mistakes(file).endswith(f' [{file}, line 6]')


def test_a_mistake_is_one_line(file):
    text = mistakes(file, changes=['name=5\n', '"a\nb"=1'])
    assert len(text.splitlines()) == 3 and '[--set name=5\\n]' in text


def test_merged_keys_stand_where_they_were_written(file):
    base = file.parent / 'base.yml'
    base.write_text(base.read_text().replace('&test {', '&test {colour: y, ').replace(
        'network_g:', '  test_2:\n    <<: *test\n    name: second\n    dataroot_lq: 3\nnetwork_g:'))  # fmt: skip
    text = re.sub(r'\[/\S*/', '[', mistakes(file))
    assert "datasets.test_1.colour: unknown option; did you mean 'color'? [base.yml, line 7]" in text
    assert "datasets.test_2.colour: unknown option; did you mean 'color'? [base.yml, line 7]" in text
    assert 'datasets.test_2.dataroot_lq: must be a path or a list of paths, not 3 [base.yml, line 11]' in text


def test_nothing_is_a_key_that_is_left_out(file):
    changes = ['train.warmup_iter=~', 'path.pretrain_network_g=~', 'network_g.mlp_ratio=~', 'network_g.scan_backend=~']
    changes += ['val.metrics=~', 'dist_params=~', 'datasets.train.prefetch_mode=~', 'datasets.train.use_shuffle=~']
    opt, args = parse(file, is_train=True, changes=changes)
    assert 'warmup_iter' not in opt['train'] and 'warmup_iter' not in args.merged['train'], 'its default is no None'
    assert opt['path']['pretrain_network_g'] is None
    assert 'mlp_ratio' not in opt['network_g'] and opt['network_g']['scan_backend'] is None
    assert opt['val'] == {'metrics': None} and opt['dist_params'] is None
    assert 'use_shuffle' not in opt['datasets']['train'] and opt['datasets']['train']['prefetch_mode'] is None


def test_values_are_converted_and_the_rest_is_as_it_was(file):
    opt, _ = parse(
        file, changes=['scale=2.0', 'network_g.depths=[2e0, 1]', 'train.optim_g.lr=1', 'train.total_iter=1e3']
    )
    assert repr([opt['scale'], opt['network_g']['depths'], opt['train']['optim_g']['lr']]) == '[2, [2, 1], 1.0]'
    assert repr(opt['train']['total_iter']) == '1000'
    assert list(opt)[:4] == ['name', 'model_type', 'scale', 'datasets'], 'keys keep their order'
    assert set(map(type, (opt, opt['train'], opt['datasets']['train']))) == {dict}
    assert opt['datasets']['test_1'] is not opt['datasets']['train']


def test_command_line_is_read_as_yaml_and_never_run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    danger = '__import__("pathlib").Path("made").touch()'
    assert parse(file, changes=[f"data_hint='{danger}'"])[0]['data_hint'] == danger
    for change in (f'{danger}=1', f'train.total_iter={danger}', 'name=!!python/object/apply:os.getcwd []'):
        mistakes(file, changes=[change])
    assert not (tmp_path / 'made').exists()
    for change in ('train', '=3', 'train.=3', 'a..b=3', '_base_=x.yml'):
        with pytest.raises(ValueError, match=r'^--set '):
            parse(file, changes=[change])


@ARCH_REGISTRY.register()
class OfManyArguments(nn.Module):
    """A network.

    Args:
        width: Channels,
            in the middle.
        shape, more: Of something.
    """

    def __init__(
        self,
        width: int,
        shape: tuple[int, int] = (1, 2),
        more: Sequence[float] | None = None,
        mode: str = 'a',
        either: int | str = 1,
        net: type[nn.Module] = nn.Identity,
        free=None,
        rate: float | torch.Tensor = 0.5,
        odd: 'NoSuchName | int' = 3,  # noqa: F821
    ):
        super().__init__()


def test_arguments_are_those_of_the_signature(file):
    base = ['network_g={type: OfManyArguments, width: 3}']
    opt, _ = parse(file, changes=[*base, 'network_g.free={a: [1]}', 'network_g.odd=[x]', 'network_g.either=b'])
    assert opt['network_g'] == {
        **{'type': 'OfManyArguments', 'width': 3, 'free': {'a': [1]}, 'odd': ['x'], 'either': 'b'},
    }
    text = mistakes(
        file,
        changes=[
            *('network_g={type: OfManyArguments, shape: [1, 2, 3], more: [a], mode: 3, either: 1.5, rate: big}',),
            *('network_g.widht=4',),
        ],
    )
    for part in (
        'network_g.width: missing; it must be a whole number',
        "network_g.widht: unknown option; did you mean 'width'?",
        'network_g.shape: must be a list of 2 whole numbers, not [1, 2, 3]',
        "network_g.more: must be a list of numbers, not ['a']",
        'network_g.mode: must be text, not 3; put it in quotes',
        'network_g.either: must be a whole number or text, not 1.5',
        "network_g.rate: must be a number, not 'big'",
    ):
        assert part in text
    described = {key: field.description for key, (_, field) in fields_of(arguments_of('arch', OfManyArguments)).items()}
    assert described['width'] == 'Channels, in the middle.'
    assert described['shape'] == described['more'] == 'Of something.'


def test_annotations_that_python_cannot_evaluate_check_nothing():
    section = arguments_of('arch', OfManyArguments)
    annotated = inspect.signature(OfManyArguments).parameters['odd'].annotation
    assert annotated == 'NoSuchName | int'
    assert section.model_validate({'type': 'OfManyArguments', 'width': 1, 'odd': object})


@ARCH_REGISTRY.register()
class Particular(nn.Module):
    """Says itself what types cannot."""

    def __init__(self, width: int = 4):
        super().__init__()

    @staticmethod
    def check_options(given):
        if given.get('width', 4) % 4:
            yield 'width', f'must be a multiple of 4, not {given["width"]}'


def test_classes_may_check_more_than_types(file):
    parse(file, changes=['network_g={type: Particular, width: 8}'])
    text = mistakes(file, changes=['network_g={type: Particular, width: 6}', 'scale=x'])
    assert 'network_g.width: must be a multiple of 4, not 6 [--set network_g=' in text and '2 mistakes' in text


def test_task_and_noise(file):
    made = 'datasets={test_1: {type: PairedImageDataset, task: %s, dataroot_gt: a, noise: %s}}'
    right = [('CAR', 40), ('denoising_gray', 15.5), ('SR', '0, dataroot_lq: b'), ('CAR', '~, dataroot_lq: b')]
    for task, noise in right:
        parse(file, changes=['scale=1', made % (task, noise)])
    for task, noise, message in (
        *(('CAR', noise, 'is the JPEG quality of task CAR: a whole number from 1') for noise in (0, 101, 40.5)),
        *(('denoising_color', noise, 'must be above 0 and at most 255 in task denoising_color') for noise in (0, 256)),
        ('denoising_color', '~', 'missing; task denoising_color makes lq of gt with it'),
        ('CAR', '~, dataroot_lq: a', 'missing; task CAR makes lq of gt with it'),
        ('SR', '15, dataroot_lq: b', 'has no meaning in task SR: 15'),
    ):
        assert f'datasets.test_1.noise: {message}' in mistakes(file, changes=['scale=1', made % (task, noise)])
    text = mistakes(file, changes=['scale=2', made % ('CAR', 40)])
    assert 'datasets.test_1.task: CAR keeps the size of pictures: scale must be 1' in text


def test_the_statistics_of_niqe_are_looked_for(file):
    niqe = 'val.metrics.niqe={type: calculate_niqe, crop_border: 0, params: %s}'
    assert "val.metrics.niqe.params: there is no file '/nowhere.mat'" in mistakes(file, changes=[niqe % '/nowhere.mat'])
    opt, _ = parse(file, changes=[niqe % 'nowhere.mat'])
    with pytest.raises(FileNotFoundError, match=re.escape(f'val.metrics.niqe.params: {file.parent / "nowhere.mat"}')):
        check_files(opt)


def test_training_needs_more_than_testing(file):
    test = ['datasets.train=~', 'train=~']
    parse(file, changes=test)
    text = mistakes(file, True, test)
    for key in ('datasets.train', 'train.total_iter', 'train.optim_g', 'train.pixel_opt'):
        assert f'  {key}: missing; ' in text
    assert 'datasets.train.' not in text, 'what a missing section lacks goes without saying'


def test_a_loss_on_features_may_stand_alone(file):
    features = ['train.perceptual_opt={type: L1Loss}']
    opt, _ = parse(file, True, ['train.pixel_opt=null', *features])
    assert 'perceptual_opt' in opt['train'] and not opt['train'].get('pixel_opt')
    assert 'train.pixel_opt: missing; training needs a loss' in mistakes(file, True, ['train.pixel_opt=null'])


@pytest.mark.parametrize('model_type', ['LDTModel', 'MambaIRModel', 'SRModel', 'SwinIRModel'])
def test_train_ldt_belongs_to_every_model(file, logged, model_type):
    parse(file, True, ['train.ldt.exchange_every=5', f'model_type={model_type}'])
    parse(file, False, ['train.ldt.exchange_every=5', f'model_type={model_type}'])
    assert not logged.warnings()
    parse(file, True, ['train.ldt={exchange_every: 5, strategy: alternating}', f'model_type={model_type}'])
    assert 'train.ldt.exchange_every: without effect: it belongs to strategy dual' in logged.warnings()[0]
    logged.clear()
    parse(file, True, ['train.ldt={exchange_every: ~, fixed_time: 10}', f'model_type={model_type}'])
    parse(file, True, ['train.ldt.alternate_every=5', f'model_type={model_type}'])
    assert 'train.ldt.alternate_every: without effect: it belongs to strategy alternating' in logged.warnings()[0]
    ema = [f'model_type={model_type}', 'train.ldt={}', 'train.ema_decay=0.9']
    assert 'train.ema_decay: not with ldt: the composite of LDT is' in mistakes(file, True, ema)


@MODEL_REGISTRY.register()
class AdversarialModel(SRModel):
    pass


def test_near_misses_in_the_sections_of_users_are_warned_about(file, logged):
    opt, _ = parse(
        file, True, ['model_type=AdversarialModel', 'train.total_itr=4', 'train.gan_opt={w: 1}', 'val.gan=1']
    )
    assert opt['train']['gan_opt'] == {'w': 1} and opt['val']['gan'] == 1
    assert [text.split(' [')[0] for text in logged.warnings()] == [
        "train.total_itr: read by nothing here; did you mean 'total_iter'?"
    ]


UNKNOWN = {
    'model': ['model_type=ESRGANModel', 'network_d={type: VGGStyleDiscriminator, num_feat: 64}', 'l1_gt_usm=true',
              'train.gan_opt={type: GANLoss, gan_type: vanilla}', 'train.optim_d={type: Adam, lr: 1}', 'val.own=1',
              'train.net_d_iters=1', 'path.param_key_d=params', 'queue_size=180', 'train.optim_g=~'],
    'network': ['network_g={type: HAT, window_size: 16, depths: [6], upscale: x}'],
    'data set': ['datasets.train.type=FolderDataset', 'datasets.train.blur_kernel_size=21', 'datasets.train.gt_size=~',
                 'datasets.train.dataroot_lq=~', 'datasets.train.kernel_list=[iso]'],
    'scheduler': ['train.scheduler={type: OneCycle, periods: [1, 2], restart_weights: [1], milestones: [4, 2]}'],
    'optimizer': ['train.optim_g={type: Lookahead, k: 5, betas: [2, 3]}'],
    'loss': ['train.pixel_opt={type: SobelLoss, sigma: 3}'],
    'metric': ['val.metrics.psnr={type: calculate_fid, batch: 3}', 'logger.save_best=psnr'],
    'compare': ['compare.hat={network_g: {type: HAT, window_size: 16}}'],
}  # fmt: skip


@pytest.mark.parametrize('what', UNKNOWN)
def test_an_unknown_class_is_one_mistake_and_not_those_that_follow_from_it(file, what):
    text = mistakes(file, is_train=True, changes=UNKNOWN[what])
    assert text.startswith('the options have 1 mistake:\n') and re.search(r"'\w+' is no ", text), text


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('train.gan_opt={type: GANLoss}', 'train.gan_opt: is read by models with a discriminator, not by MambaIRModel'),
        ('train.optim_d={type: Adam}', 'train.optim_d: is read by models with a discriminator, not by MambaIRModel'),
        ('train.net_d_init_iters=0', 'train.net_d_init_iters: is read by models with a discriminator, not by'),
        ('train.fft_opt={type: L1Loss}', 'train.fft_opt: is read by models with more losses or networks, not by'),
        ('network_d={type: X}', 'network_d: is read by models with a discriminator, not by MambaIRModel; see docs/'),
        ('path.pretrain_network_d=x', 'path.pretrain_network_d: is read by models with more networks, not by'),
        ('gt_usm=1', 'gt_usm: unknown option ['),
        ('train.pixl_opt=1', "train.pixl_opt: unknown option; did you mean 'pixel_opt'?"),
        ('network_gg=1', "network_gg: unknown option; did you mean 'network_g'?"),
        ('train.contextual_opt=1', 'train.contextual_opt: unknown option ['),
    ],
)
def test_keys_of_other_models_say_whose_they_are(file, change, message):
    assert message in mistakes(file, is_train=True, changes=[change])


def test_what_models_of_users_usually_read_is_checked(file, logged):
    users = ['model_type=AdversarialModel', 'network_d={type: Bicubic, upscale: 2}', 'train.net_d_iters=1e0']
    users += [
        'train.optim_d={type: Adam, lr: 1}',
        'train.edge_opt={type: L1Loss}',
        'path.ignore_resume_networks=[network_d]',
    ]
    opt, _ = parse(file, True, users)
    assert not logged.warnings() and repr([opt['train']['net_d_iters'], opt['train']['optim_d']['lr']]) == '[1, 1.0]'
    wrong = ['network_d.upscal=3', 'train.optim_d.lr=fast', 'train.edge_opt.wight=1', 'path.strict_load_d=7']
    text = mistakes(file, True, [*users, *wrong])
    for part in (
        "network_d.upscal: unknown option; did you mean 'upscale'?",
        "train.optim_d.lr: must be a number above 0, not 'fast'",
        'train.edge_opt.wight: unknown option',
        'path.strict_load_d: must be true or false, not 7',
        '4 mistakes',
    ):
        assert part in text
    parse(file, True, ['model_type=AdversarialModel', 'network_d={type: Bicubicc, a: 1}'])
    assert logged.warnings()[0].startswith("network_d.type: 'Bicubicc' is no network that is known here; did you mean")


def test_the_criteria_and_decays_are_those_of_the_method(file):
    partition = ldt.Partition(['a', 'b'], ['c', 'd'])
    for base, span in ((0, 0), (0.99, 0.01), (0.5, 0.5), (0.5, 0.51), (1, 0), (-0.1, 0.5), (0.3, -0.1)):
        change = [f'train.ldt.stable_decay=[{base}, {span}]', 'model_type=LDTModel']
        try:
            ldt.dynamic_decay(partition, (base, span))
            parse(file, changes=change)
        except ValueError as error:
            assert 'train.ldt' not in str(error), 'the method takes it'
            assert 'train.ldt.stable_decay: ' in mistakes(file, changes=change)


def test_every_key_is_described():
    def look(section, path):
        for key, (_, field) in fields_of(section).items():
            below = sections_by_name(field.annotation) or field.annotation
            assert field.description and field.description.endswith('.'), f'{path}.{key}'
            if is_section(below) and not below.choice:
                look(below, f'{path}.{key}')

    look(options_section(), '')


def test_options_are_not_checked_against_empty_registries(monkeypatch):
    check_filled()
    monkeypatch.setattr(CHOICES['arch'].registry, '_objects', {})
    with pytest.raises(AssertionError, match='the arch registry is empty: import basicsr'):
        check_options({'name': 'a'})


def test_checking_takes_no_time():
    def seconds(file):
        start = time.perf_counter()
        parse_options(str(ROOT), False, argparse.Namespace(opt=str(file), set=[], launcher='none'))
        return time.perf_counter() - start

    for file in OPTION_FILES:
        assert min(seconds(file) for _ in range(3)) < 0.2


def test_the_page_and_the_editors_schema_are_current(tmp_path):
    script = ROOT / 'scripts' / 'analysis' / 'options_schema.py'
    done = subprocess.run([sys.executable, script, '--check'], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ('options.md', 'options.schema.json'):
        (tmp_path / name).write_text((ROOT / 'docs' / name).read_text().replace('exchange', 'swap'))
    code = f"""import pathlib, runpy, sys
sys.argv = ['options_schema.py', '--check']
script = runpy.run_path({str(script)!r})
here = pathlib.Path({str(tmp_path)!r})
script['main'].__globals__.update(ROOT=here, JSON=here / 'options.schema.json', PAGE=here / 'options.md')
script['main']()"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert 'options.md is stale: python scripts/analysis/options_schema.py' in done.stdout
    assert 'options.schema.json is stale' in done.stdout


def test_shipped_files_name_the_schema_for_editors():
    for file in OPTION_FILES:
        first = file.read_text().splitlines()[0]
        schema = file.parent / first.removeprefix('# yaml-language-server: $schema=')
        assert schema.resolve() == ROOT / 'docs' / 'options.schema.json', file


def test_the_mistakes_on_the_page_are_what_comes_out():
    page = (ROOT / 'docs' / 'option_files.md').read_text()
    example = re.search(r'```\n\$ python (Train_pip.py .*)\n((?:.*\n)*?)```', page)
    done = subprocess.run(
        [sys.executable, *example[1].split()], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (2, example[2])
