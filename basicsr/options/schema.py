"""Every key of an option file: its type, its default, and what it is for. An option is added here and nowhere else.

Keys are fields of pydantic models. What `type:` sections take is in the signatures of the classes that they choose,
see `choices`. `docs/options.md` and `docs/options.schema.json` are made of this file by
`scripts/analysis/options_schema.py`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import create_model

from basicsr.options.choices import NameOf, chosen_section, find, is_needed, takes_whole_section
from basicsr.options.strategies import mistakes, train_options, with_strategies
from basicsr.options.types import Belongs, Ceiling, FolderName, List, NamePart, Real, Section, Whole, name_fault, option
from basicsr.utils.registry import STRATEGY_REGISTRY

OWN_MODELS = ('SRModel', 'SwinIRModel', 'MambaIRModel', 'LDTModel', 'ClassificationModel')
"""Models whose keys are all in this file; others may read further keys of `train`, `val`, `path` and the top level."""

Network = chosen_section('arch')
Dataset = chosen_section('dataset')
Loss = chosen_section('loss')
Metric = chosen_section('metric')
Optimizer = chosen_section('optimizer')
Scheduler = chosen_section('scheduler')


class Path(Section):
    """path"""

    open_to_users = True
    users_keys = {
        r'pretrain_network_\w+': (str, 'Weights of that network of the model.'),
        r'param_key_\w+': (str, 'Key of the weights in that file.'),
        r'strict_load_\w+': (bool, 'Refuse weights that do not fit that network exactly.'),
    }

    pretrain_network_g: str = option(None, 'Weights to start from or to test.')
    pretrain_opt: str = option(None, 'Option file that is trained first if pretrain_network_g is missing.')
    strict_load_g: bool = option(True, 'Refuse weights that do not fit the network exactly; false loads what fits.')
    param_key_g: str = option('params', 'Key of the weights in the file: params, or params_ema for the moving average.')
    resume_state: str = option(None, 'Training state to resume from: training_states/<iter>.state.')
    resume_another_run: bool = option(
        False, 'Go on from a training state even if it was saved by a run with another name or seed.'
    )
    ignore_resume_networks: List(str) | str = option(
        None, 'Networks (network_d) that a resumed run does not load from models/, if its model uses check_resume.'
    )
    output_root: str = option(None, 'Folder for experiments/, results/ and tb_logger/. Default: the project folder.')


class Compared(Section):
    """compare.<label>"""

    pretrain_network_g: str = option(None, 'Its weights.')
    pretrain_opt: str = option(None, 'Training: option file that is trained first if pretrain_network_g is missing.')
    param_key_g: str = option('params', 'Key of the weights in the file.')
    strict_load_g: bool = option(True, 'Refuse weights that do not fit the network exactly; false loads what fits.')
    network_g: Network = option(None, 'The network and its arguments. Default: that of the file.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if not given.get('pretrain_network_g') and not given.get('network_g'):
            yield 'pretrain_network_g', 'missing; name weights, a network_g, or both'


class Train(Section):
    """train"""

    open_to_users = True
    users_keys = {
        r'optim_\w+': (Optimizer, 'Optimizer of another network of the model.'),
        r'\w+_opt': (Loss, 'Another loss of the model, for example gan_opt.'),
        'net_d_iters': (Whole(1), 'Train net_g every n-th iteration.'),
        'net_d_init_iters': (Whole(0), 'Initial iterations in which net_d alone is trained.'),
    }

    total_iter: Whole(1, ceiling=10**9) = option(None, 'Iterations of the run.')
    warmup_iter: Whole(-1) = option(-1, 'Iterations over which the learning rate rises linearly from zero; -1: none.')
    optim_g: Optimizer = option(None, 'The optimizer, one of torch.optim, and its arguments.')
    scheduler: Scheduler = option(None, 'Learning rate schedule. Default: constant.')
    pixel_opt: Loss = option(None, 'Restoration: the loss and its arguments.')
    cls_opt: Loss = option(None, 'ClassificationModel: the loss. Default: {type: CrossEntropyLoss}.')
    perceptual_opt: Loss = option(None, 'A loss on features, with or instead of pixel_opt, for example PerceptualLoss.')
    amp: Literal['bf16', 'fp16'] = option(None, 'Mixed precision: networks run in this half-precision type.')
    grad_clip_norm: Real(above=0) = option(None, 'Maximum norm of the gradients; larger ones are scaled down.')
    accumulate: Whole(1, ceiling=10**6) = option(1, 'Batches whose gradients are accumulated for each step.')
    compile: bool = option(False, 'Compile the network with torch.compile.')
    channels_last: bool = option(False, 'Use the NHWC memory layout, which speeds up half-precision convolutions.')
    freeze_batch_statistics: bool = option(
        False, 'BatchNorm and its like normalize by their pre-trained statistics in training, too, as in DomainBed.'
    )
    max_bad_steps: Whole(0) = option(
        10, 'Consecutive steps that may be skipped for a NaN or infinite loss or gradient before the run ends.'
    )

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        scheduler = given.get('scheduler') or {}
        milestones = scheduler.get('milestones')
        if isinstance(milestones, list) and milestones != sorted(milestones):
            yield 'scheduler.milestones', f'must ascend, not {milestones!r}'
        weights = scheduler.get('restart_weights', [1])
        for key in ('periods', 'restarts'):
            values = scheduler.get(key)
            if isinstance(values, list) and isinstance(weights, list) and len(values) != len(weights):
                message = f'must have as many numbers as {key}, {len(values)}, not {len(weights)}'
                yield 'scheduler.restart_weights', message


class Val(Section):
    """val"""

    open_to_users = True

    val_freq: Whole(1) = option(None, 'Training: iterations between validations. Default: no validation.')
    save_img: bool = option(False, "Save the network's output pictures.")
    suffix: NamePart = option(None, "Testing: suffix of the saved pictures' names. Default: name.")
    metrics: dict[str, Metric] = option(None, 'Metrics to compute, by name.')
    tile_size: Whole(0) = option(200, 'Approximate side of the tiles for large pictures, in pixels of lq; 0: no tiles.')
    tile_overlap: Real(least=0, below=1) = option(0.1, 'Margin of a tile, as a fraction of its side.')
    tile_mode: Literal['official', 'blended'] = option(
        'official',
        'official drops the margins, as MambaIR does; blended fades tiles into each other over half of each margin.',
    )
    selfensemble_testing: bool = option(False, "Testing: average over a picture's eight flips and rotations.")
    patchwise_testing: bool = option(
        False, 'Run pictures in tiles, see tile_size; MambaIRModel and LDTModel always do.'
    )
    pbar: bool = option(True, 'Show a progress bar.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if given.get('patchwise_testing') and given.get('tile_size') == 0:
            yield 'tile_size', 'must be above 0 for patchwise_testing; drop one of them'
        for metric in given.get('metrics') or {}:
            if fault := name_fault(metric):
                yield f'metrics.{metric}', fault


class Wandb(Section):
    """logger.wandb"""

    project: str = option(None, 'Weights & Biases project. Default: not used.')
    resume_id: str = option(None, 'ID of a run to resume.')


class Logger(Section):
    """logger"""

    print_freq: Whole(1) = option(100, 'Iterations between lines of the log.')
    save_checkpoint_freq: Whole(1) = option(
        None, 'Iterations between checkpoints with their training states. Default: only the final weights are saved.'
    )
    save_best: str = option(None, 'One of val.metrics, by which the best network is kept as net_g_best.pth.')
    keep_checkpoints: Whole(1) = option(None, 'Number of most recent checkpoints to keep. Default: all.')
    use_tb_logger: bool = option(False, 'Log curves and pictures to TensorBoard.')
    wandb: Wandb = option(None, 'Weights & Biases; it mirrors what TensorBoard gets.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if (given.get('wandb') or {}).get('project') and not given.get('use_tb_logger'):
            yield 'use_tb_logger', 'must be true for wandb, which follows TensorBoard'


class DistParams(Section):
    """dist_params"""

    backend: Literal['nccl', 'gloo'] = option('nccl', 'Communication backend; gloo without a GPU.')
    port: Whole(1, 65535) = option(29500, 'Port of the rank 0 process, for Slurm.')
    timeout: Annotated[Real(above=0), Ceiling(10**8)] = option(
        1800, 'Timeout in seconds when waiting for other processes.'
    )


class Options(Section):
    """The top level."""

    open_to_users = True
    users_keys = {r'network_\w+': (Network, 'Another network of the model, for example network_d.')}

    base: str | list[str] = option(None, 'Option files that this one inherits from, relative to it.', alias='_base_')
    imports: List(str) | str = option(
        None, 'Modules of your own with networks, data sets, losses, …: files (my/net_arch.py), packages, dotted names.'
    )
    name: FolderName = option(..., 'Name of the experiment and of its folder.')
    model_type: NameOf('model') = option(
        ..., 'The class that trains and tests: SRModel, ClassificationModel, MambaIRModel, …, or one of your own.'
    )
    class_names: List(str, 1) = option(
        None, 'Classification: names of the classes, in the order of the labels. Default: those of the data.'
    )
    scale: Whole(1, ceiling=64) = option(None, 'Ratio of the sizes of gt and lq.')
    num_gpu: Literal['auto'] | Whole(0) = option('auto', 'Number of GPUs to use; 0: the CPU; auto: all available.')
    manual_seed: Whole(0, 2**31 - 1) = option(None, 'Random seed. Default: a random one, which is logged.')
    find_unused_parameters: bool = option(False, 'Distributed: allow weights that do not contribute to the loss.')
    data_hint: str = option(None, 'How to get the data; shown in the error message if it is missing.')
    quickstart_data: str = option(None, "Folder in which the quick start's data is generated before training.")
    quickstart_pictures: Literal['cameras', 'digits'] = option(
        'cameras', 'What is generated there: photographs through simulated cameras, or handwritten digits in six ways.'
    )
    datasets: dict[str, Dataset] = option(..., 'Data sets: train; val, val_1, …; test, test_1, ….')
    network_g: Network = option(..., 'The network and its arguments.')
    path: Path = option(None, 'Paths of weights, training states and output.')
    compare: dict[str, Compared] = option(None, 'Other networks to include in the tables, by label.')
    train: Train = option(None, 'Training.')
    val: Val = option(None, 'Validation and testing.')
    logger: Logger = option(None, 'Logs and checkpoints.')
    dist_params: DistParams = option(None, 'Distributed training.')
    suffix: Annotated[Any, Belongs('val.suffix')] = option(None, 'Ignored here: it belongs to val.')
    crop_border: Annotated[Any, Belongs('val.metrics.<metric>.crop_border')] = option(
        None, 'Ignored here: it belongs to each of val.metrics.'
    )
    save_img: Annotated[Any, Belongs('val.save_img')] = option(None, 'Ignored here: it belongs to val.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        sections, scale = given.get('datasets') or {}, given.get('scale')
        names: dict[tuple[str, str], str] = {}
        if 'datasets' in given and not sections:
            yield 'datasets', 'missing; there is nothing to work on'
        for phase, dataset in sections.items():
            if not isinstance(dataset, dict):  # `type` is an unknown option of `datasets`
                continue
            kind = phase.split('_')[0]
            if kind not in ('train', 'val', 'test') or (kind == 'train' and phase != 'train'):
                yield f'datasets.{phase}', 'data sets are called train, val, val_<more>, test or test_<more>'
            elif fault := name_fault(phase):
                yield f'datasets.{phase}', fault
            name = dataset.get('name') or phase
            if kind != 'train' and names.setdefault((kind, name), phase) != phase:
                yield f'datasets.{phase}.name', f'two {kind} sets are called {name!r}'
            yield from _dataset_rules(phase, dataset, scale)
        best, metrics = (given.get('logger') or {}).get('save_best'), (given.get('val') or {}).get('metrics') or {}
        if best and best not in metrics:
            known = ', '.join(map(str, metrics)) or 'there are none'
            yield 'logger.save_best', f'{best!r} is none of val.metrics: {known}'
        for label in given.get('compare') or {}:
            if label == given.get('name'):
                yield f'compare.{label}', 'is a label in tables and file names: not the name of the test'
            elif fault := name_fault(label):
                yield f'compare.{label}', fault
        train = given.get('train') or {}
        nothing_else = given.get('model_type') in OWN_MODELS and not train.get('perceptual_opt')
        if nothing_else and (train.get('pixel_opt') or {}).get('loss_weight') == 0:
            yield 'train.pixel_opt.loss_weight', 'must be above 0: there is no other loss to train on'
        if given.get('train') and given.get('model_type') in OWN_MODELS:
            losses = losses_of(given['model_type'])
            for key in ('pixel_opt', 'perceptual_opt', 'cls_opt'):
                if given['train'].get(key) and f'train.{key}' not in losses:
                    known = ', '.join(sorted(losses))
                    yield f'train.{key}', f'{given["model_type"]} has no such loss; drop it (~). It has {known}'
        if given.get('train'):
            for key, message in mistakes(train_options(given)):
                yield f'train.{key}', message


def options_section() -> type[Section]:
    """`Options` with the keys of every registered strategy in the section `train`."""
    return _options_section(tuple(STRATEGY_REGISTRY.keys()))


@functools.cache
def _options_section(strategies: tuple[str, ...]) -> type[Section]:
    field = copy.copy(Options.model_fields['train'])
    return create_model('Options', __base__=Options, __doc__=Options.__doc__, train=(with_strategies(Train), field))


def _dataset_rules(phase: str, dataset: dict[str, Any], scale: int | None) -> Iterator[tuple[str, str]]:
    """The mistakes that a data set's class finds, given its phase and the top-level scale."""
    factory = find('dataset', dataset.get('type'))
    scale = scale if isinstance(scale, int) else None  # a section in its place has been reported already
    if factory is None or takes_whole_section(factory):
        return
    if scale is None and dataset.get('scale') is None and is_needed(factory, 'scale'):
        yield 'scale', f'missing; datasets.{phase} needs it'
        return
    if scale is not None and dataset.get('scale', scale) != scale:
        yield f'datasets.{phase}.scale', f'must be that of the top level, {scale}, not {dataset["scale"]}; leave it out'
    given = {'scale': scale, **dataset, 'phase': phase.split('_')[0]}
    given = {key: value for key, value in given.items() if value is not None and value != {}}
    for key, message in getattr(factory, 'check_options', lambda _: ())(given):
        yield f'datasets.{phase}.{key}', message


READ_BY_OTHERS = {
    'train': {
        r'(gan|ldl)_opt|(optim|scheduler)_d\w*|net_d_\w+|r1_reg_weight': 'models with a discriminator',
        r'(fft|edge|tv|ssim|color|distill)_opt|optim_(?!g)\w+': 'models with more losses or networks',
    },
    'path': {r'(pretrain_network|param_key|strict_load)_(?!g)\w+': 'models with more networks'},
    '': {
        r'network_d\w*': 'models with a discriminator',
        r'network_(?!g)\w+': 'models with more networks',
        r'(l1|percep|gan)_gt_usm|queue_size|\w+_(prob|range)2?': 'models that degrade pictures by themselves',
    },
}
"""Keys of BasicSR's models that have no counterpart here, by section and pattern: which models read them."""
LABELS_OF_TRAINING = ('bicubic', 'before', 'after')
"""Rows of the table at the end of a training, beside those of `compare`."""
NEEDED_FOR_TRAINING = {
    'datasets.train': 'there is nothing to train on',
    'datasets.train.batch_size_per_gpu': 'training needs it',
    'datasets.train.num_worker_per_gpu': 'training needs it',
    'train.total_iter': 'training needs it',
}
NEEDED_BY_OWN_MODELS = {
    'train.optim_g': 'name an optimizer of torch.optim, for example {type: Adam, lr: 1e-4}',
    'train.pixel_opt': 'training needs a loss, for example {type: L1Loss}',
}
"""A loss is needed by the models that have it, see `losses_of`."""


def losses_of(model_type: str) -> set[str]:
    """The options of the losses of a model of this project, as `train.pixel_opt`."""
    return set(getattr(find('model', model_type), 'loss_options', {}).values())
