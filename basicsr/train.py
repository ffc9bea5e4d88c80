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
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

import torch

from basicsr.archs.from_weights import outlive_its_first_file
from basicsr.check import check_pipeline
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.loaders import loader_beside_the_training, training_loader
from basicsr.evaluation import bicubic, build_loaders, compare, compared
from basicsr.models import build_model
from basicsr.models.contract import is_of_users
from basicsr.ops.selective_scan import chosen_backend
from basicsr.options.file import merge
from basicsr.options.pretraining import command_line_of
from basicsr.options.resolve import (
    check_files,
    dict2str,
    missing_data,
    parse_options,
    resolve_datasets,
    trained_first,
    yaml_load,
)
from basicsr.rehearsal import build, rehearse, rehearse_untrained
from basicsr.runs.agreement import check_same_data, check_same_options
from basicsr.runs.command_line import make_parser, run_from_command_line
from basicsr.runs.own_folder import own_folder, refuse_to_move_inputs
from basicsr.runs.resume import (
    keep_options,
    load_resume_state,
    options_of_a_resumed_model,
)
from basicsr.training_loop import TrainingLoop
from basicsr.utils.dist_util import barrier
from basicsr.utils.logger import (
    check_wandb,
    get_env_info,
    get_root_logger,
    init_tb_logger,
    init_wandb_logger,
    say_what_was_not_written,
)
from basicsr.utils.misc import (
    get_random_state,
    make_exp_dirs,
    make_sub_dirs,
    set_random_seed,
    set_random_state,
)

DREALSR_OPTIONS = 'options/train/LDT/train_LDT_MambaIR_SRx4_DRealSR.yml'
QUICK_START_OPTIONS = 'options/train/LDT/train_LDT_MambaIR_quickstart.yml'
_QUICK_START_SCRIPTS = {
    'cameras': 'scripts/data_preparation/make_quickstart_cameras.py',
    'digits': 'scripts/data_preparation/make_digit_domains.py',
}


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
    """Make what the options say can be made: the quick start's data, and weights that are missing."""
    if opt.get('quickstart_data') and opt['rank'] == 0:
        script = Path(root_path) / _QUICK_START_SCRIPTS[opt.get('quickstart_pictures') or 'cameras']
        runpy.run_path(str(script))['make'](Path(root_path) / opt['quickstart_data'])
    barrier()
    if trained_first(opt):
        rehearse_untrained(root_path, opt, args)  # a mistake must not come to light after a pre-training
    for option, section in trained_first(opt).items():
        if option in trained_first(opt):  # and was not made since, on the way to another
            get_root_logger().info('%s is not there: training it first', section['pretrain_network_g'])
            train_pipeline(root_path, command_line_of(section, args))
            barrier()


def create_train_val_dataloader(opt: dict, logger: Any) -> tuple[Any, EnlargedSampler, list[Any], int, int]:
    """(training loader, its sampler, validation loaders, epochs, iterations)."""
    train_loader, val_loaders = None, []
    for dataset_opt in opt['datasets'].values():
        if dataset_opt['phase'] == 'train':
            train_loader, sampler = training_loader(opt, dataset_opt, opt['train'].get('accumulate') or 1)
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


def train_pipeline(root_path: str, args: argparse.Namespace | None = None) -> None:
    """Train what the option file describes.

    Args:
        root_path: Folder of the project.
        args: A parsed command line; None parses `sys.argv`.

    Raises:
        FileNotFoundError, ValueError, KeyError: Mistakes in the options or the data, before anything is trained; or
            losses that are NaN or infinite for too long.
        Stopped: Ctrl-C, SIGTERM or SIGHUP, after the run was saved.
    """
    opt, args = parse_options(root_path, is_train=True, args=args)
    check_same_options(args.merged)
    check_wandb(opt)  # before a pre-training takes its time
    with own_folder(opt):
        _train(root_path, opt, args)


def _train(root_path: str, opt: dict, args: argparse.Namespace) -> None:
    logger = get_root_logger()
    resume_state = load_resume_state(opt, args.merged)
    if resume_state is None:
        refuse_to_move_inputs(opt)
    outlive_its_first_file(opt, opt['path'].get('resume_network'))
    prepare(root_path, opt, args)
    check_files(opt)
    set_random_seed(opt['manual_seed'] + opt['rank'])  # a pre-training drew on it, where there was one
    train_loader, sampler, val_loaders, _, _ = create_train_val_dataloader(opt, logger)

    tests = build_loaders(opt, ['test'])
    of_phase = [
        key for phase in ('train', 'val', 'test') for key, one in opt['datasets'].items() if one['phase'] == phase
    ]
    loaders = [train_loader, *val_loaders, *tests]
    check_same_data({f'datasets.{key}': loader.dataset for key, loader in zip(of_phase, loaders, strict=True)})

    model = _rehearsed_model(opt, resume_state, val_loaders, tests)
    run = TrainingLoop(opt, args.merged, model, train_loader, sampler, val_loaders)
    if resume_state is not None:
        run.load(resume_state)
    make_exp_dirs(opt) if resume_state is None else make_sub_dirs(opt)
    barrier()
    tb_logger = model.tb_logger = _begin_logs(opt, args, model, resume_state)

    if resume_state is None:
        model.before_training(model.train_loader)
    else:
        run.resume(resume_state)
    run.iterate(tb_logger)
    run.end()
    if tb_logger:
        tb_logger.close()
    if opt['rank'] == 0:
        _report(opt, model)
    say_what_was_not_written()


def _rehearsed_model(opt: dict, resume_state: dict | None, val_loaders: list, tests: list) -> Any:
    """The model, whose first step and first tests were tried; one of users, in which they may leave a trace, anew."""
    model_opt = opt if resume_state is None else options_of_a_resumed_model(opt, resume_state['iter'])
    before = get_random_state()
    model = build(model_opt)
    model.train_loader = beside = loader_beside_the_training(opt)
    rehearse(opt, model, beside, [*val_loaders, *tests], {**bicubic(opt), **compared(opt)} if tests else None)
    if is_of_users(type(model)):
        del model
        set_random_state(before)
        model = build_model(model_opt)
        model.train_loader = beside
    return model


def _begin_logs(opt: dict, args: argparse.Namespace, model: Any, resume_state: dict | None) -> Any:
    """Open the logs and begin them with all that tells this run from another; returns TensorBoard's writer."""
    logger, tb_logger, paths = get_root_logger(), None, opt['path']
    if opt['rank'] == 0:
        options = merge(args.merged, model.found_options())
        keep_options(options, paths['experiments_root'], resume_state and resume_state['iter'])
        logger = get_root_logger(log_file=os.path.join(paths['log'], f'train_{opt["name"]}.log'))
        init_wandb_logger(opt)
        if opt['logger'].get('use_tb_logger'):
            tb_logger = init_tb_logger(paths['tb_logger'], resume_state['iter'] + 1 if resume_state else None)
    logger.info(get_env_info())
    networks = [net for net in vars(model).values() if isinstance(net, torch.nn.Module)]
    scans = {module.scan_backend for net in networks for module in net.modules() if hasattr(module, 'scan_backend')}
    for asked in scans:
        logger.info('Selective scan: %s', chosen_backend(model.device.type, asked))
    logger.info('Options:\n%s', dict2str(args.merged))
    return tb_logger


def _saved_networks(opt: dict) -> dict[str, str]:
    """By option, `pretrain_network_g` and its like, the files of the networks that were best, or are the last."""
    files = {}
    for label in [key.removeprefix('network_') for key in opt if key.startswith('network_')]:
        for which in ('best', 'latest'):
            path = os.path.join(opt['path']['models'], f'net_{label}_{which}.pth')
            if os.path.isfile(path):
                files.setdefault(f'pretrain_network_{label}', path)
    return files


def _report(opt: dict, model: Any) -> None:
    """Say where the results are; with `test_*` data sets in the options, compare before and after on them."""
    logger, paths = get_root_logger(), opt['path']
    saved = _saved_networks(opt)
    of_g = saved.get('pretrain_network_g')
    results = {'checkpoint': of_g} if of_g else {f'checkpoint {key[17:]}': path for key, path in saved.items()}
    results.update(model.artifacts())
    if any(dataset['phase'] == 'test' for dataset in opt['datasets'].values()):
        networks = bicubic(opt)
        if any(path for key, path in paths.items() if key.startswith('pretrain_network_')):
            networks['before'] = {}
        networks.update(compared(opt))
        networks['after'] = {'path': {**saved, 'param_key_g': model.param_key}}
        table, files = compare(opt, networks, paths['experiments_root'])
        results.update(files)
        logger.info('Domains, before and after the training of %s:\n%s', opt['name'], table)
    lines = (f'  {name}: {os.path.relpath(path)}' for name, path in results.items() if path and os.path.isfile(path))
    logger.info('Results:\n%s', '\n'.join(lines))


def main(root_path: str = str(ROOT)) -> None:
    """`train_pipeline` for the command line: mistakes of the user end in one message, without a traceback."""
    args = make_parser(is_train=True).parse_args()
    if args.opt is None:
        args.opt = default_experiment(root_path)
    run = check_pipeline if args.check else train_pipeline
    run_from_command_line(lambda: run(root_path, args), args.debug)


if __name__ == '__main__':
    main()
