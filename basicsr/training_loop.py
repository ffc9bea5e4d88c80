"""The training loop: steps, validations, checkpoints, and what is saved when a run cannot go on."""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.loaders import prefetcher
from basicsr.models.stepping import NotFinite
from basicsr.options.blame import blamed
from basicsr.runs.checkpoint import prune_checkpoints, set_aside
from basicsr.runs.command_line import add_note
from basicsr.runs.identity import forget_other_bests
from basicsr.runs.progress import Progress
from basicsr.runs.resume import batches_done, restore_random_state, run_state
from basicsr.runs.stopping import Stopped, StopSignals
from basicsr.utils.dist_util import broadcast, highest
from basicsr.utils.logger import get_root_logger
from basicsr.utils.misc import is_out_of_memory

_MEAN = 'mean of the validation sets'


class TrainingLoop:
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
