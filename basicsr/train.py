"""Training, from an option file to a checkpoint: read `train_pipeline` from top to bottom."""

from __future__ import annotations

import argparse
import copy
import math
import os
import runpy
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from basicsr.data.loaders import loader_beside_the_training, prefetcher, training_loader
from basicsr.evaluation import bicubic, build_loaders, compare, compared
from basicsr.models import build_model
from basicsr.models.contract import is_of_users
from basicsr.models.stepping import NotFinite
from basicsr.ops.selective_scan import chosen_backend
from basicsr.options.blame import blamed
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
from basicsr.runs.checkpoint import prune_checkpoints, set_aside
from basicsr.runs.command_line import add_note, make_parser, run_from_command_line
from basicsr.runs.identity import forget_other_bests
from basicsr.runs.own_folder import own_folder, refuse_to_move_inputs
from basicsr.runs.progress import Progress
from basicsr.runs.resume import (
    batches_done,
    keep_options,
    load_resume_state,
    options_of_a_resumed_model,
    restore_random_state,
    run_state,
)
from basicsr.runs.stopping import Stopped, StopSignals
from basicsr.utils.dist_util import barrier, broadcast, highest
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
    is_out_of_memory,
    make_exp_dirs,
    make_sub_dirs,
    set_random_seed,
    set_random_state,
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
    """Make what the options say can be made: the quick start's data, and weights that are missing."""
    if opt.get('quickstart_data') and opt['rank'] == 0:
        script = Path(root_path) / 'scripts' / 'data_preparation' / 'make_quickstart_cameras.py'
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
    run = _Run(opt, args.merged, model, train_loader, sampler, val_loaders)
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
        keep_options(args.merged, paths['experiments_root'], resume_state and resume_state['iter'])
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


class _Run:
    """The training loop and its place: epoch, batches of it that are done, iteration."""

    def __init__(
        self, opt: dict, written: dict, model: Any, train_loader: Any, sampler: EnlargedSampler, val_loaders: list
    ) -> None:
        self.opt, self.written, self.model, self.sampler = opt, written, model, sampler
        self.val_loaders, self.batch_size = val_loaders, train_loader.batch_size
        self.prefetcher = prefetcher(train_loader, opt)
        self.total_iters = int(opt['train']['total_iter'])
        self.print_freq = int(opt['logger'].get('print_freq') or 100)
        self.val_freq = int((opt.get('val') or {}).get('val_freq') or 0)
        self.save_freq = int(opt['logger'].get('save_checkpoint_freq') or 0)
        self.epoch = self.batches = self.current_iter = 0
        self.validated = self.finite = True

    def load(self, state: dict) -> None:
        """Give the model its training state.

        Raises:
            ValueError: The state does not fit the options or the network.
        """
        try:
            self.model.resume_training(state)
            best, file = self.model.best_metric_results, self.opt['path']['resume_state']
            forget_other_bests(best, state, file, self.written)
        # What others' networks, optimizers and schedulers come up with for a state that is none of theirs.
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise blamed(error, f'path.resume_state: {self.opt["path"]["resume_state"]}', opt=self.opt) from error

    def resume(self, state: dict) -> None:
        """Go on from a training state that was loaded."""
        self.model.before_going_on()
        self.epoch, self.current_iter = state['epoch'], state['iter']
        self.batches = batches_done(state, self.sampler, self.batch_size)
        self.validated = state.get('validated', True)
        restore_random_state(state, self.opt['rank'])
        if self.current_iter >= self.total_iters:
            get_root_logger().warning(
                'Nothing is left to train: the state is of iteration %d, and train.total_iter is %d',
                self.current_iter,
                self.total_iters,
            )
        get_root_logger().info(
            'Going on from epoch %d, iteration %d; of what stands above, lines after byte %d are done again',
            self.epoch,
            self.current_iter,
            state.get('log_position', 0),
        )

    def iterate(self, tb_logger: Any) -> None:
        """Train from the iteration after `current_iter` to `train.total_iter`."""
        opt, model = self.opt, self.model
        warmup = opt['train'].get('warmup_iter', -1)
        progress = Progress(opt, self.current_iter, self.total_iters, self.print_freq, tb_logger)
        with StopSignals() as signals, progress:
            if not self.validated:
                self._validate(signals)
            while self.current_iter < self.total_iters:
                for batch in self._rest_of_the_epoch():
                    progress.batch_is_there()
                    self.current_iter += 1
                    self.batches += 1
                    model.update_learning_rate(self.current_iter, warmup)
                    self._train_step(batch)
                    progress.step_is_done(self.epoch, self.current_iter, model)
                    self._look_and_save(signals)
                    progress.restart()
                self.epoch, self.batches = self.epoch + 1, 0

    def end(self) -> None:
        """Save the network as it is at the end, or as it last gave a finite loss."""
        if not self.finite and (good := self.model.back_to_finite()) is not None:
            get_root_logger().warning(
                'The last losses were not finite: net_g_latest.pth holds the weights of iteration %d, which gave the '
                'last finite one',
                good,
            )
        self.model.save(-1, -1)

    def _rest_of_the_epoch(self) -> Iterator[Any]:
        batch = self._between_steps(self._first_batch)
        while batch is not None:
            yield batch
            batch = self._between_steps(self.prefetcher.next) if self.current_iter < self.total_iters else None

    def _first_batch(self) -> Any:
        self.sampler.set_epoch(self.epoch, self.batches * self.batch_size)
        self.prefetcher.reset()
        return self.prefetcher.next()

    def _between_steps(self, do: Callable[[], Any]) -> Any:
        """What `do` returns. Where it fails, the run is saved as the last step left it; the error tells."""
        try:
            return do()
        except Exception as error:
            add_note(error, self._saved_between_steps())
            raise

    def _saved_between_steps(self) -> str:
        """Save the run before an error ends it, and say so."""
        if self.opt['world_size'] > 1:  # the others are in the midst of a step
            return 'Nothing was saved; --auto_resume goes on from the newest training state'
        with suppress(Exception):  # what ends the run may end this, too: memory, or batches for statistics
            if self.save():
                return f'Saved at iteration {self.current_iter}; --auto_resume goes on from there'
        return f'Could NOT be saved at iteration {self.current_iter}; states before it are as they were'

    def _train_step(self, batch: Any) -> None:
        try:
            taken = self.model.train_step(batch, self.current_iter)
        except NotFinite as error:
            raise ValueError(f'{error}. {self._save_last_finite()}') from error
        broken = [name for name, value in self.model.get_current_log().items() if not math.isfinite(value)]
        if broken and taken is not False:  # a model with a step of its own
            raise ValueError(f'{", ".join(broken)} is NaN or infinite at iteration {self.current_iter}')
        self.finite = not broken

    def _save_last_finite(self) -> str:
        """Save the weights that gave a finite loss last, and let no later state be taken for a good one; tells so."""
        good = self.model.back_to_finite()
        if good is None:
            return 'No step of this session had a finite loss: nothing was saved'
        if good not in self.model.written and not self._try_to_save(lambda: self.model.save_weights(good)):
            return 'The weights that gave a finite loss last could not be saved'
        if self.opt['rank'] == 0:
            set_aside(self.opt['path']['experiments_root'], self.model.written, good)
        return f'The weights that gave a finite loss last are in the checkpoint of iteration {good}'

    def _look_and_save(self, signals: StopSignals) -> None:
        """Validate and save where that is due; save and stop where a signal has come."""
        stop = signals.received()
        if self.val_freq and (self.current_iter % self.val_freq == 0 or self.current_iter == self.total_iters):
            self.validated = False
            if not stop:
                self._validate(signals)
                stop = signals.received()
        saved = True
        due = self.save_freq and self.current_iter % self.save_freq == 0
        if due and not self.finite:
            get_root_logger().warning('No checkpoint of iteration %d: its loss is not finite', self.current_iter)
        if stop or (due and self.finite):
            saved = self.save()  # after the validation, whose best results it holds
        if stop:
            end = 'and saved it; --auto_resume goes on from there'
            if not saved:
                end = 'and could NOT save it; --auto_resume goes on from the newest training state before'
            raise Stopped(stop, f'{signal.Signals(stop).name}: stopped after iteration {self.current_iter} {end}')

    def _validate(self, signals: StopSignals) -> None:
        """Validate on every set; keep the network as `net_g_best.pth` where the metric's mean is the best so far."""
        model, opt = self.model, self.opt
        with signals.breaking_off():
            results = self._between_steps(self._validation_results)
            self.validated = True
        if not self.validated:
            return
        metric = opt['logger'].get('save_best')
        results = broadcast(results)  # models of users may have them in the first process alone
        results = [result for result in results if metric in result]
        if results:
            model._initialize_best_metric_results(_MEAN)
            mean = sum(result[metric] for result in results) / len(results)
            model._update_best_metric_result(_MEAN, metric, mean, self.current_iter)
            if model.best_metric_results[_MEAN][metric]['iter'] == self.current_iter:
                self._try_to_save(lambda: model.save_weights('best'))
        model.after_validation(self.current_iter)

    def _validation_results(self) -> list[dict[str, float]]:
        """The means of each validation set; a validation that does not reach its end leaves no best results."""
        model, results = self.model, []
        before = copy.deepcopy(model.best_metric_results)
        try:
            for val_loader in self.val_loaders:
                save_img = (self.opt.get('val') or {}).get('save_img', False)
                vars(model).pop('metric_results', None)  # of the set before
                model.validation(val_loader, self.current_iter, model.tb_logger, save_img)
                results.append(dict(getattr(model, 'metric_results', {})))
        except BaseException:
            model.best_metric_results = before
            raise
        return results

    def save(self) -> bool:
        """Save weights and training state; a full disk is logged, and the run goes on. Returns whether it was saved."""
        self.model.run_state = run_state(
            self.opt, self.written, self.sampler, self.batches, self.batch_size, self.validated
        )
        saved = self._try_to_save(lambda: self.model.save(self.epoch, self.current_iter))
        keep = self.opt['logger'].get('keep_checkpoints')
        if saved and keep and self.finite and self.opt['rank'] == 0:
            prune_checkpoints(self.opt['path']['experiments_root'], self.model.written, keep)
        return saved

    def _try_to_save(self, save: Callable[[], None]) -> bool:
        failed = 0
        try:
            save()
        except OSError as error:
            failed = 1
            get_root_logger().error('%s. The run goes on; what was saved before is as it was', error)
        return not highest(failed)  # the first process writes, and all must know


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
        logger.info('Cameras, before and after the training of %s:\n%s', opt['name'], table)
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
