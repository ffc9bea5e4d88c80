"""Training, from an option file to a checkpoint: read `train_pipeline` from top to bottom."""

from __future__ import annotations

import argparse
import math
import os
import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'utils' / 'own_copy.py'))['use_own_copy'](ROOT)

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher
from basicsr.evaluation import compare
from basicsr.metrics import check_metrics
from basicsr.models import build_model
from basicsr.utils.checkpoint import load_checkpoint
from basicsr.utils.command_line import make_parser, run_from_command_line
from basicsr.utils.dist_util import barrier
from basicsr.utils.logger import AvgTimer, MessageLogger, get_env_info, get_root_logger, init_tb_logger
from basicsr.utils.misc import make_exp_dirs, make_sub_dirs, set_random_seed
from basicsr.utils.options import (
    check_files,
    copy_opt_file,
    dict2str,
    missing_data,
    parse_options,
    resolve_datasets,
    yaml_load,
)

DREALSR_OPTIONS = 'options/train/LDT/train_LDT_MambaIR_SRx4_DRealSR.yml'
QUICK_START_OPTIONS = 'options/train/LDT/train_LDT_MambaIR_quickstart.yml'

_MEAN = 'mean of the validation sets'


def default_experiment(root_path: str) -> str:
    """The option file that is trained where none is named: DRealSR where its data is there, else the quick start."""
    opt = yaml_load(Path(root_path) / DREALSR_OPTIONS)
    resolve_datasets(opt, Path(root_path))
    missing = missing_data(opt)
    if not missing:
        return DREALSR_OPTIONS
    get_root_logger().info('DRealSR is not there (%s): running the quick start instead', missing[0].split(': ')[1])
    return QUICK_START_OPTIONS


def prepare(root_path: str, opt: dict, args: argparse.Namespace) -> None:
    """Make what the options say can be made: the quick start's data, and pre-trained weights that are missing."""
    if opt.get('quickstart_data') and opt['rank'] == 0:
        script = Path(root_path) / 'scripts' / 'data_preparation' / 'make_quickstart_cameras.py'
        runpy.run_path(str(script))['make'](Path(root_path) / opt['quickstart_data'])
    barrier()
    paths = opt['path']
    if (
        paths.get('pretrain_opt')
        and paths.get('pretrain_network_g')
        and not Path(paths['pretrain_network_g']).is_file()
    ):
        get_root_logger().info('%s is not there: training it first', paths['pretrain_network_g'])
        shared = [text for text in args.set if text.startswith(('network_g.', 'num_gpu='))]
        before = {'opt': paths['pretrain_opt'], 'set': shared, 'auto_resume': False}
        train_pipeline(root_path, argparse.Namespace(**{**vars(args), **before}))
        barrier()


def load_resume_state(opt: dict) -> dict[str, Any] | None:
    """The training state to go on from: `path.resume_state`, or the newest with `--auto_resume`; None starts anew."""
    path = opt['path'].get('resume_state')
    if opt['auto_resume']:
        states = [file for file in Path(opt['path']['training_states']).glob('*.state') if file.stem.isdigit()]
        if states:
            path = str(max(states, key=lambda file: int(file.stem)))
    if not path:
        if opt['auto_resume']:
            get_root_logger().info('There is no training state in %s: starting anew', opt['path']['training_states'])
        return None
    state = load_checkpoint(path)
    if not isinstance(state, dict) or 'iter' not in state or 'optimizers' not in state:
        raise ValueError(f'{path} is no training state; they are called training_states/<iter>.state')
    opt['path']['resume_network'] = str(Path(path).parent.parent / 'models' / f'net_g_{state["iter"]}.pth')
    return state


def create_train_val_dataloader(opt: dict, logger: Any) -> tuple[Any, EnlargedSampler, list[Any], int, int]:
    """(training loader, its sampler, validation loaders, epochs, iterations)."""
    train_loader, val_loaders = None, []
    for dataset_opt in opt['datasets'].values():
        if dataset_opt['phase'] == 'train':
            train_set = build_dataset(dataset_opt)
            sampler = EnlargedSampler(
                train_set, opt['world_size'], opt['rank'], dataset_opt.get('dataset_enlarge_ratio', 1)
            )
            train_loader = build_dataloader(
                train_set, dataset_opt, opt['num_gpu'], opt['dist'], sampler, opt['manual_seed']
            )
        elif dataset_opt['phase'] == 'val':
            val_loaders.append(build_dataloader(build_dataset(dataset_opt), dataset_opt, opt['num_gpu']))
        elif dataset_opt['phase'] != 'test':
            raise ValueError(f'datasets: the phases are train, val and test, not {dataset_opt["phase"]!r}')
    if train_loader is None:
        raise ValueError('datasets.train: missing; there is nothing to train on')
    total_iters = int(opt['train']['total_iter'])
    total_epochs = math.ceil(total_iters / len(train_loader))
    logger.info('%d iterations in %d epochs of %d', total_iters, total_epochs, len(train_loader))
    return train_loader, sampler, val_loaders, total_epochs, total_iters


def _validate(opt: dict, model: Any, val_loaders: list[Any], current_iter: int, tb_logger: Any) -> None:
    """Validate on every set, and keep the network as `net_g_best.pth` where the metric's mean is the best so far."""
    results = []
    for val_loader in val_loaders:
        model.validation(val_loader, current_iter, tb_logger, (opt.get('val') or {}).get('save_img', False))
        results.append(dict(getattr(model, 'metric_results', {})))
    metric = opt['logger'].get('save_best')
    results = [result for result in results if metric in result]
    if results and opt['rank'] == 0:
        model._initialize_best_metric_results(_MEAN)
        mean = sum(result[metric] for result in results) / len(results)
        model._update_best_metric_result(_MEAN, metric, mean, current_iter)
        if model.best_metric_results[_MEAN][metric]['iter'] == current_iter:
            model.save_weights('best')


def train_pipeline(root_path: str, args: argparse.Namespace | None = None) -> None:
    """Train what the option file describes.

    Args:
        root_path: Folder of the project.
        args: A parsed command line; None parses `sys.argv`.

    Raises:
        FileNotFoundError, ValueError, KeyError: Mistakes in the options or the data, before anything is trained.
    """
    opt, args = parse_options(root_path, is_train=True, args=args)
    logger = get_root_logger()
    check_metrics(opt)  # before a pre-training takes its time
    prepare(root_path, opt, args)
    set_random_seed(opt['manual_seed'] + opt['rank'])  # a pre-training drew on it, where there was one
    check_files(opt)
    train_loader, sampler, val_loaders, _, _ = create_train_val_dataloader(opt, logger)

    resume_state = load_resume_state(opt)
    model = build_model(opt)
    model.train_loader = train_loader
    make_exp_dirs(opt) if resume_state is None else make_sub_dirs(opt)
    barrier()
    tb_logger = None
    if opt['rank'] == 0:
        copy_opt_file(args.merged, opt['path']['experiments_root'])
        logger = get_root_logger(log_file=os.path.join(opt['path']['log'], f'train_{opt["name"]}.log'))
        if opt['logger'].get('use_tb_logger'):
            tb_logger = init_tb_logger(opt['path']['tb_logger'])
    logger.info(get_env_info())
    logger.info('Options:\n%s', dict2str(args.merged))

    epoch, current_iter = 0, 0
    if resume_state is None:
        model.before_training(train_loader)
    else:
        model.resume_training(resume_state)
        epoch, current_iter = resume_state['epoch'], resume_state['iter']
        logger.info('Going on from epoch %d, iteration %d', epoch, current_iter)

    _iterate(opt, model, train_loader, sampler, val_loaders, tb_logger, epoch, current_iter)

    model.save(-1, -1)
    if tb_logger:
        tb_logger.close()
    if opt['rank'] == 0:
        _report(opt, model)


def _iterate(
    opt: dict,
    model: Any,
    train_loader: Any,
    sampler: EnlargedSampler,
    val_loaders: list[Any],
    tb_logger: Any,
    epoch: int,
    current_iter: int,
) -> None:
    """The training loop, from `epoch` and the iteration after `current_iter` to `train.total_iter`."""
    total_iters, val_freq = int(opt['train']['total_iter']), int((opt.get('val') or {}).get('val_freq') or 0)
    print_freq = int(opt['logger'].get('print_freq') or 100)
    save_freq = int(opt['logger'].get('save_checkpoint_freq') or 0)
    prefetcher = _prefetcher(train_loader, opt)
    message = MessageLogger(opt, current_iter + 1, tb_logger)
    data_timer, iter_timer = AvgTimer(print_freq), AvgTimer(print_freq)
    quiet = None if opt['rank'] == 0 else True  # None: where the output is no terminal
    progress = tqdm(total=total_iters, initial=current_iter, desc=opt['name'], unit='it', disable=quiet)
    with logging_redirect_tqdm([get_root_logger()]), progress:
        while current_iter < total_iters:
            sampler.set_epoch(epoch)
            prefetcher.reset()
            while current_iter < total_iters and (batch := prefetcher.next()) is not None:
                data_timer.record()
                current_iter += 1
                model.update_learning_rate(current_iter, opt['train'].get('warmup_iter', -1))
                model.feed_data(batch)
                model.optimize_parameters(current_iter)
                iter_timer.record()
                _check_finite(model.get_current_log(), current_iter)
                progress.set_postfix({name: f'{value:.4f}' for name, value in model.get_current_log().items()}, False)
                progress.update()

                if current_iter % print_freq == 0:
                    message(
                        {
                            'epoch': epoch,
                            'iter': current_iter,
                            'lrs': model.get_current_learning_rate(),
                            'time': iter_timer.get_avg_time(),
                            'data_time': data_timer.get_avg_time(),
                            **model.get_current_log(),
                        }
                    )
                if val_freq and (current_iter % val_freq == 0 or current_iter == total_iters):
                    _validate(opt, model, val_loaders, current_iter, tb_logger)
                if save_freq and current_iter % save_freq == 0:
                    model.save(epoch, current_iter)  # after the validation, whose best results it holds
                data_timer.restart()
                iter_timer.restart()
            epoch += 1


def _check_finite(losses: dict[str, float], current_iter: int) -> None:
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(
            f'{", ".join(broken)} is NaN or infinite at iteration {current_iter}: lower train.optim_g.lr, or look at '
            'the data; the checkpoints that were saved before are as they were'
        )


def _prefetcher(loader: Any, opt: dict) -> CPUPrefetcher | CUDAPrefetcher:
    mode = next(dataset.get('prefetch_mode') for dataset in opt['datasets'].values() if dataset['phase'] == 'train')
    return CUDAPrefetcher(loader, opt) if mode == 'cuda' else CPUPrefetcher(loader)


def _report(opt: dict, model: Any) -> None:
    """Say where the results are; with `test_*` data sets in the options, compare before and after on them."""
    logger, paths = get_root_logger(), opt['path']
    best = os.path.join(paths['models'], 'net_g_best.pth')
    checkpoint = best if os.path.isfile(best) else os.path.join(paths['models'], 'net_g_latest.pth')
    results = {'checkpoint': checkpoint, **model.artifacts()}
    if any(dataset['phase'] == 'test' for dataset in opt['datasets'].values()):
        networks = {'bicubic': {'network_g': {'type': 'Bicubic', 'upscale': opt['scale']}}}
        networks['bicubic']['path'] = {'pretrain_network_g': None}
        if paths.get('pretrain_network_g'):
            networks['before'] = {}
        key = 'params_ema' if opt['train'].get('ema_decay') else 'params'
        networks['after'] = {'path': {'pretrain_network_g': checkpoint, 'param_key_g': key}}
        table, crops = compare(opt, networks, paths['experiments_root'])
        results.update({'table': os.path.join(paths['experiments_root'], 'table.md'), 'crops': crops})
        logger.info('Cameras, before and after the training of %s:\n%s', opt['name'], table)
    lines = (f'  {name}: {os.path.relpath(path)}' for name, path in results.items() if path)
    logger.info('Results:\n%s', '\n'.join(lines))


def main(root_path: str = str(ROOT)) -> None:
    """`train_pipeline` for the command line: mistakes of the user end in one message, without a traceback."""
    args = make_parser(is_train=True).parse_args()
    if args.opt is None:
        args.opt = default_experiment(root_path)
    run_from_command_line(lambda: train_pipeline(root_path, args), args.debug)


if __name__ == '__main__':
    main()
