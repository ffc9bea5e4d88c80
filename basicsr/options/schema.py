"""Every key of an option file: its type, its default, and what it is for. An option is added here and nowhere else.

Keys are fields of pydantic models. What `type:` sections take is in the signatures of the classes that they choose,
see `option_choices`. `docs/options.md` and `docs/options.schema.json` are made of this file by
`scripts/analysis/options_schema.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from basicsr.options.choices import NameOf, chosen_section
from basicsr.options.types import Belongs, List, NotYet, Real, Section, Share, Time, Whole, iterations, option

OWN_MODELS = ('SRModel', 'SwinIRModel', 'MambaIRModel', 'LDTModel')
"""Models whose keys are all in this file; others may read more of `train`, `val`, `path` and the top level."""
OWN_DATASETS = ('PairedImageDataset', 'SingleImageDataset')
"""Data sets whose keys are all in this file; others may read more of their section."""

NOT_WITH_LDT = {
    'ema_decay': 'the composite of LDT is a moving average already',
    'ema_time': 'the composite of LDT is a moving average already',
    'swad': 'the composite of LDT is an average already',
    'wise_ft': 'the composite of LDT is held near the pre-trained network already',
    'head_first': 'LDT chooses what trains; train.ldt.criterion: prefix splits off a head',
}
"""Keys of `train` that LDTModel refuses, and why."""


def is_asked_for(train: Mapping[str, Any], key: str) -> bool:
    """Whether the section `train` asks for this average or strategy; `ema_decay: 0` does not."""
    return train.get(key) is not None and (key, train[key]) != ('ema_decay', 0)


Network = chosen_section('arch')
Loss = chosen_section('loss')
Metric = chosen_section('metric')
Optimizer = chosen_section('optimizer')
Scheduler = chosen_section('scheduler')


def _folder_name(name: str) -> str:
    if '/' in name or '\\' in name or '\0' in name or name in ('', '.', '..') or len(name) > 200:
        raise ValueError(f'names a folder, so it cannot hold a slash, be empty or longer than 200 letters: {name!r}')
    return name


def _decay(values: list[float]) -> list[float]:
    base, span = values
    if base >= 1 or base + span > 1 + 1e-12:
        raise ValueError(f'[base, span] needs base < 1 and base + span <= 1, not {values}')
    return values


FolderName = Annotated[str, AfterValidator(_folder_name)]
Decay = Annotated[List(Real(least=0), 2, 2), AfterValidator(_decay)]
Times = List(Time, 2, 2)


class IOBackend(Section):
    """datasets.<phase>.io_backend"""

    type: Literal['disk', 'lmdb'] = option('disk', 'Where the pictures lie: single files on the disk, or an LMDB.')


class Dataset(Section):
    """datasets.<phase>"""

    open_to_users = True

    type: NameOf('dataset') = option(..., 'The class: PairedImageDataset, SingleImageDataset, or one of your own.')
    name: str = option(None, 'What it is called in tables and folders. Default: the name of the section.')
    dataroot_gt: str = option(None, 'Folder of the ground-truth pictures.')
    dataroot_lq: str = option(None, 'Folder of the low-quality pictures.')
    meta_info_file: str = option(None, 'Text file that names the pictures to use, one a line. Default: all.')
    meta_info: str = option(None, 'Another name of meta_info_file.')
    filename_tmpl: str = option('{}', "Makes a low-quality file's name of a ground-truth one's: '{}x4'.")
    io_backend: IOBackend = option(None, 'How files are read.')
    task: Literal['SR', 'denoising_color', 'denoising_gray', 'CAR'] = option(
        'SR', 'What the pairs are for: SR reads both folders; the others make lq of gt, by noise or by JPEG.'
    )
    noise: Real(least=0) = option(
        None, 'For denoising, the standard deviation of the noise, in [0, 255]; for CAR, the JPEG quality, 1 to 100.'
    )
    gt_size: Whole(1) = option(None, 'Training: side of the ground-truth patches in pixels, a multiple of scale.')
    use_hflip: bool = option(False, 'Training: flip at random.')
    use_rot: bool = option(False, 'Training: turn by 90 degrees at random.')
    use_shuffle: bool = option(True, 'Training: shuffle, where no sampler does.')
    batch_size_per_gpu: Whole(1) = option(None, 'Training: pictures of a batch in each process.')
    num_worker_per_gpu: Whole(0) = option(None, 'Processes that load pictures, for each training process.')
    dataset_enlarge_ratio: Whole(1) = option(1, 'Training: how often an epoch shows each picture.')
    prefetch_mode: Literal['cpu', 'cuda'] = option(None, 'Load ahead: cpu by a thread, cuda to the GPU.')
    num_prefetch_queue: Whole(1) = option(1, 'Batches that prefetch_mode cpu loads ahead.')
    pin_memory: bool = option(False, 'Page-locked memory, from which copies to a GPU are faster.')
    persistent_workers: bool = option(False, 'Keep the loading processes from epoch to epoch.')
    color: Literal['y', 'rgb'] = option('rgb', 'y reads the luma channel alone.')
    mean: List(Real(), 1) = option(None, 'Subtracted from each channel; with std.')
    std: List(Real(above=0), 1) = option(None, 'Divides each channel; with mean.')
    seen: bool = option(False, 'Test set of the training camera: left out of the mean of the unseen.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if given.get('type') not in OWN_DATASETS:
            return
        task = given.get('task') or 'SR'
        needed = ['dataroot_gt'] if given['type'] == 'PairedImageDataset' else ['dataroot_lq']
        for key in needed + (['dataroot_lq'] if needed == ['dataroot_gt'] and task == 'SR' else []):
            if not given.get(key):
                yield key, f'missing; {given["type"]} needs it'
        if (given.get('mean') is None) != (given.get('std') is None):
            yield 'std' if given.get('std') is None else 'mean', 'missing; mean and std belong together'
        elif given.get('mean') and len(given['mean']) != len(given['std']):
            yield 'std', f'must have as many numbers as mean, {len(given["mean"])}, not {len(given["std"])}'
        if given['type'] == 'PairedImageDataset':
            yield from cls._noise_rules(task, given)

    @staticmethod
    def _noise_rules(task: str, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        noise = given.get('noise')
        if noise is None:
            if task != 'SR' and given.get('dataroot_lq') in (None, given.get('dataroot_gt')):
                yield 'noise', f'missing; task {task} makes lq of gt with it'
        elif task == 'SR':
            if noise:
                yield 'noise', f'has no meaning in task SR: {noise!r}; name a task, or leave it out'
        elif task == 'CAR':
            if not (1 <= noise <= 100 and float(noise).is_integer()):
                yield 'noise', f'is the JPEG quality of task CAR: a whole number from 1 to 100, not {noise!r}'
        elif not 0 < noise <= 255:
            yield 'noise', f'must be above 0 and at most 255 in task {task}, not {noise!r}'


class Path(Section):
    """path"""

    open_to_users = True

    pretrain_network_g: str = option(None, 'Weights to start from, or to test.')
    pretrain_opt: str = option(None, 'Option file that is trained first where pretrain_network_g is missing.')
    strict_load_g: bool = option(True, 'Refuse weights that do not fit the network exactly.')
    param_key_g: str = option('params', 'Which weights of the file: params, or params_ema, the moving average.')
    resume_state: str = option(None, 'Training state to go on from: training_states/<iter>.state.')
    output_root: str = option(None, 'Folder of experiments/, results/ and tb_logger/. Default: the project.')


class Compared(Section):
    """compare.<label>"""

    pretrain_network_g: str = option(None, 'Its weights.')
    pretrain_opt: str = option(None, 'Training: option file that is trained first where pretrain_network_g is missing.')
    param_key_g: str = option('params', 'Which weights of the file.')
    strict_load_g: bool = option(True, 'Refuse weights that do not fit the network exactly.')
    network_g: Network = option(None, 'The network and its arguments. Default: that of the file.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if not given.get('pretrain_network_g') and not given.get('network_g'):
            yield 'pretrain_network_g', 'missing; name weights, a network_g, or both'


class LDTSection(Section):
    """train.ldt"""

    strategy: Literal['dual', 'alternating'] = option(
        'dual', 'dual: two cross-frozen branches; alternating (LDT-S): one network that is either branch by turns.'
    )
    criterion: Literal['variance', 'mean', 'normalized_variance', 'between_sample_variance', 'random', 'prefix'] = (
        option('variance', 'Score of a layer; its highest are the unstable layers. prefix: see unstable_prefixes.')
    )
    unstable_ratio: Literal['auto'] | Real(
        above=0, below=1
    ) = option(0.5, "Share of unstable layers; auto: those above Otsu's threshold of the log-scores.")
    unstable_prefixes: List(str, 1) | str = option(
        None, 'For criterion prefix: layers whose names begin like this are unstable.'
    )
    granularity: Literal['parameter', 'module'] = option(
        'parameter', "What is one layer: a parameter tensor, or a module's own tensors together."
    )
    scoring_batches: Whole(1) = option(300, 'Training batches that are scored, over all processes.')
    warmup_iter: Annotated[Literal[0], NotYet(above=0)] = option(0, 'Iterations of plain training before the scoring.')
    repartition_every: Whole(1) = option(None, 'Iterations after which the layers are scored and split anew.')
    exchange_every: Whole(1) = option(10, 'Strategy dual: iterations from one exchange of the branches to the next.')
    alternate_every: Whole(1) = option(
        10, 'Strategy alternating: iterations of a turn, at whose end the group that was trained is exchanged.'
    )
    update: Literal['dynamic', 'fixed'] = option(
        'dynamic', "dynamic (DPU): a decay that grows with a layer's place in its group; fixed: the same for all."
    )
    stable_decay: Decay = option([0.99, 0.01], 'Base and span of the decays of stable layers, for update dynamic.')
    unstable_decay: Decay = option([0.999, 0.001], 'Base and span of the decays of unstable layers.')
    fixed_decay: Real(least=0, below=1) = option(0.999, 'The decay for update fixed.')
    stable_time: Times = option(
        None, 'In place of stable_decay: time constants, fastest and slowest, in iterations or as 5% of the run.'
    )
    unstable_time: Times = option(None, 'In place of unstable_decay: time constants, fastest and slowest.')
    fixed_time: Time = option(None, 'In place of fixed_decay: the time constant of all layers.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        criterion, prefixes = given.get('criterion', 'variance'), given.get('unstable_prefixes')
        if prefixes and criterion != 'prefix':
            yield 'criterion', f'must be prefix where there are unstable_prefixes, not {criterion!r}'
        if criterion == 'prefix' and not prefixes:
            yield 'unstable_prefixes', 'missing; criterion prefix needs it'
        for group in ('stable', 'unstable', 'fixed'):
            if f'{group}_time' in given and f'{group}_decay' in given:
                yield f'{group}_time', f'says the same as {group}_decay in another way; drop one of them (~)'

    @classmethod
    def exchange_interval(cls, given: Mapping[str, Any]) -> int:
        """Iterations from one exchange of a layer to the next: with turns, two of them."""
        if given.get('strategy') == 'alternating':
            return 2 * (given.get('alternate_every') or 10)
        return given.get('exchange_every') or 10


class HeadFirst(Section):
    """train.head_first"""

    iter: Whole(1) | Share = option(..., 'Iterations in which the head trains alone.')
    prefixes: List(str, 1) | str = option(..., 'The head: layers whose names begin like this.')


class SWAD(Section):
    """train.swad"""

    converged: Whole(1) = option(
        3, 'The span begins with a validation on which those after it, so many with itself, do not improve.'
    )
    patience: Whole(1) = option(6, 'The span ends before so many validations in a row whose losses are all too high.')
    tolerance: Real(least=1) = option(
        1.3, "Too high is above this times the mean loss of the span's first validations, as many as converged."
    )


class Train(Section):
    """train"""

    open_to_users = True

    total_iter: Whole(1) = option(None, 'Iterations of the run.')
    warmup_iter: Whole(-1) = option(-1, 'Iterations in which the rate rises linearly from zero; -1: none.')
    ema_decay: Real(least=0, below=1) = option(
        0, 'Decay of a moving average of the weights, which is then what is tested; 0: none. Not with LDTModel.'
    )
    ema_time: Time = option(None, 'The same by its time constant, above 1 iteration: ema_decay = 1 - 1 / ema_time.')
    swad: SWAD = option(
        None, "SWAD: test the mean of the weights after every step of a span that the validation sets' loss chooses."
    )
    wise_ft: Real(least=0, most=1) = option(
        None, 'WiSE-FT: test (1 - wise_ft) * pre-trained + wise_ft * fine-tuned weights.'
    )
    head_first: HeadFirst = option(None, 'LP-FT: the head trains alone first, then everything.')
    optim_g: Optimizer = option(None, 'The optimizer, one of torch.optim, and its arguments.')
    scheduler: Scheduler = option(None, 'How the learning rate falls. Default: it stays.')
    pixel_opt: Loss = option(None, 'The loss and its arguments.')
    ldt: LDTSection = option(None, 'Layer-Decomposition Training, read by LDTModel.')
    amp: Literal['bf16', 'fp16'] = option(None, 'Mixed precision: networks compute in half precision.')
    grad_clip_norm: Real(above=0) = option(None, 'Gradients of a larger norm are scaled down to it.')
    accumulate: Whole(1) = option(1, 'Batches whose gradients make one step.')
    compile: bool = option(False, 'Compile the network with torch.compile.')
    channels_last: bool = option(False, 'Lay tensors out as NHWC, which convolutions in half precision like.')
    max_bad_steps: Whole(0) = option(
        10, 'Steps in a row that are skipped because a loss or gradient is NaN or infinite, before the run ends.'
    )

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from cls._time_rules(given)
        betas = (given.get('optim_g') or {}).get('betas')
        if isinstance(betas, list) and not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
            yield 'optim_g.betas', f'must be numbers of at least 0 and below 1, not {betas!r}'
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
        yield from cls._strategy_rules(given, given.get('total_iter'))

    @staticmethod
    def _strategy_rules(given: dict[str, Any], total: int | None) -> Iterator[tuple[str, str]]:
        averages = [key for key in ('ema_decay', 'ema_time', 'swad', 'wise_ft') if is_asked_for(given, key)]
        for key in averages[1:]:
            yield key, f'not with {averages[0]}: each chooses what is tested and saved; drop one of them'
        times = {'ema_time': given.get('ema_time'), 'head_first.iter': (given.get('head_first') or {}).get('iter')}
        lengths = {key: iterations(time, total) for key, time in times.items() if time is not None and total}
        if lengths.get('ema_time', 2) <= 1:
            yield 'ema_time', f'must be above 1 iteration, and is {lengths["ema_time"]:g}'
        if not 1 <= round(lengths.get('head_first.iter', 1)) < (total or 2):
            last = round(lengths['head_first.iter'])
            yield 'head_first.iter', f'must be at least 1 and below total_iter, {total}, and is {last}'

    @staticmethod
    def _time_rules(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        section, total_iter = given.get('ldt') or {}, given.get('total_iter')
        shortest = LDTSection.exchange_interval(section)
        for key in ('stable_time', 'unstable_time', 'fixed_time'):
            times = section.get(key)
            if times is None or not total_iter:
                continue
            both = times if isinstance(times, list) else [times, times]
            fastest, slowest = (iterations(time, total_iter) for time in both)
            if not shortest <= fastest <= slowest:
                found = f'{fastest:g}' if fastest == slowest else f'{fastest:g} and {slowest:g}'
                needed = f'{shortest} iterations, from one exchange of a layer to the next, and the fastest comes first'
                yield f'ldt.{key}', f'must be at least {needed}; it is {found} iterations'


class Val(Section):
    """val"""

    open_to_users = True

    val_freq: Whole(1) = option(None, 'Training: iterations from one validation to the next. Default: none.')
    save_img: bool = option(False, "Write the network's pictures.")
    suffix: str = option(None, "Testing: end of the pictures' names. Default: name.")
    metrics: dict[str, Metric] = option(None, 'By name: what is measured.')
    tile_size: Whole(0) = option(
        200, 'About the side of the tiles in pixels of lq in which large pictures are run; 0: whole.'
    )
    tile_overlap: Real(least=0, below=1) = option(0.1, 'Margin of a tile, as a share of its side.')
    tile_mode: Literal['official', 'blended'] = option(
        'official',
        'official drops the margins, as MambaIR does; blended fades tiles into each other over half of them.',
    )
    selfensemble_testing: bool = option(False, "Testing: average over a picture's eight flips and turns.")
    patchwise_testing: bool = option(
        False, 'Run pictures in tiles, see tile_size; MambaIRModel and LDTModel do that anyway.'
    )
    pbar: bool = option(True, 'Show a progress bar.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if given.get('patchwise_testing') and given.get('tile_size') == 0:
            yield 'tile_size', 'must be above 0 for patchwise_testing; drop one of them'


class Wandb(Section):
    """logger.wandb"""

    project: str = option(None, 'Project of Weights & Biases; default: not used.')
    resume_id: str = option(None, 'Id of a run to go on with.')


class Logger(Section):
    """logger"""

    print_freq: Whole(1) = option(100, 'Iterations from one line of the log to the next.')
    save_checkpoint_freq: Whole(1) = option(
        None, 'Iterations from one checkpoint with its training state to the next. Default: none but the last weights.'
    )
    save_best: str = option(None, 'One of val.metrics: the best network by it is kept as net_g_best.pth.')
    keep_checkpoints: Whole(1) = option(None, 'How many of the newest checkpoints are kept. Default: all.')
    use_tb_logger: bool = option(False, 'Write curves and pictures for TensorBoard.')
    wandb: Wandb = option(None, 'Weights & Biases, which follows TensorBoard.')

    @classmethod
    def rules(cls, given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if (given.get('wandb') or {}).get('project') and not given.get('use_tb_logger'):
            yield 'use_tb_logger', 'must be true for wandb, which follows TensorBoard'


class DistParams(Section):
    """dist_params"""

    backend: Literal['nccl', 'gloo'] = option('nccl', 'How processes talk; gloo where there is no GPU.')
    port: Whole(1, 65535) = option(29500, 'Port of the first process, for Slurm.')
    timeout: Real(above=0) = option(1800, 'Seconds that a process waits for the others.')


class Options(Section):
    """The top level."""

    open_to_users = True

    base: str | list[str] = option(None, 'Option files that this one inherits from, relative to it.', alias='_base_')
    name: FolderName = option(..., 'Name of the experiment and of its folder.')
    model_type: NameOf('model') = option(
        ..., 'The class that trains and tests: SRModel, MambaIRModel, LDTModel, or one of your own.'
    )
    scale: Whole(1) = option(None, 'Ratio of the sizes of gt and lq.')
    num_gpu: Literal['auto'] | Whole(0) = option('auto', 'GPUs to use; 0: the CPU; auto: what is there.')
    manual_seed: Whole(0, 2**31 - 1) = option(None, 'Seed of all random numbers. Default: a random one, logged.')
    find_unused_parameters: bool = option(False, 'Distributed: allow weights that take no part in the loss.')
    data_hint: str = option(None, 'What the message says where data is missing: how to get it.')
    quickstart_data: str = option(None, "Folder in which the quick start's data is made before a training.")
    datasets: dict[str, Dataset] = option(..., 'Data sets: train; val, val_1, …; test, test_1, ….')
    network_g: Network = option(..., 'The network and its arguments.')
    path: Path = option(None, 'Weights, training states, output.')
    compare: dict[str, Compared] = option(None, 'By label: networks to stand beside this one in the tables.')
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
            kind = phase.split('_')[0]
            if kind not in ('train', 'val', 'test') or (kind == 'train' and phase != 'train'):
                yield f'datasets.{phase}', 'data sets are called train, val, val_<more>, test or test_<more>'
            name = dataset.get('name') or phase
            if kind != 'train' and names.setdefault((kind, name), phase) != phase:
                yield f'datasets.{phase}.name', f'two {kind} sets are called {name!r}'
            pairs = dataset.get('type') == 'PairedImageDataset' and (dataset.get('task') or 'SR') == 'SR'
            if pairs and scale is None:
                yield 'scale', f'missing; datasets.{phase} needs it'
            if not pairs and dataset.get('type') == 'PairedImageDataset' and scale not in (None, 1):
                yield f'datasets.{phase}.task', f'{dataset["task"]} keeps the size of pictures: scale must be 1'
            if scale and (dataset.get('gt_size') or 0) % scale and dataset.get('type') in OWN_DATASETS:
                yield f'datasets.{phase}.gt_size', f'must be a multiple of scale {scale}, not {dataset["gt_size"]}'
        best, metrics = (given.get('logger') or {}).get('save_best'), (given.get('val') or {}).get('metrics') or {}
        if best and best not in metrics:
            known = ', '.join(map(str, metrics)) or 'there are none'
            yield 'logger.save_best', f'{best!r} is none of val.metrics: {known}'
        for label in given.get('compare') or {}:
            if '/' in label or label == given.get('name'):
                yield f'compare.{label}', 'is a label in tables and file names: no slash, and not the name of the test'
        train = given.get('train') or {}
        for key, reason in NOT_WITH_LDT.items() if given.get('model_type') == 'LDTModel' else ():
            if is_asked_for(train, key):
                yield f'train.{key}', f'{reason}; leave it out'


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
