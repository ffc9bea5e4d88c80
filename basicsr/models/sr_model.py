"""Super-resolution: one network, a pixel loss, validation by picture."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr.archs import build_network
from basicsr.data.prefetch_dataloader import read_ahead
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric, needs_ground_truth
from basicsr.models.averages import Average, build_average, resume_average, weights_lent
from basicsr.models.base_model import BaseModel
from basicsr.models.batch_statistics import BatchStatistics
from basicsr.models.head_first import HeadFirst
from basicsr.models.self_ensemble import self_ensemble
from basicsr.models.stepping import Stepper
from basicsr.models.tiling import tile_options, tiled
from basicsr.utils.checkpoint import load_weights
from basicsr.utils.dist_util import all_gather, get_dist_info
from basicsr.utils.img_util import imwrite, tensor2img
from basicsr.utils.logger import get_root_logger
from basicsr.utils.option_types import iterations
from basicsr.utils.registry import MODEL_REGISTRY
from ldt.restore import modes_and_buffers_restored

_UNSCORED = 4
"""Pictures of a validation that may wait to be scored and written."""
_SHOWN_PICTURES = 4
"""Pictures of each validation set that TensorBoard shows."""


@MODEL_REGISTRY.register()
class SRModel(BaseModel):
    """Train and test `network_g` on pairs.

    `val.patchwise_testing: true` tests pictures in tiles of `val.tile_size` with `val.tile_overlap`, and
    `val.selfensemble_testing: true` averages over a picture's eight flips and turns, each of which is cut into tiles.

    Attributes:
        lq, gt: The batch in hand, (N, C, H, W) and (N, C, H * scale, W * scale).
        output: What the network made of it.
        metric_results: After a validation: each metric, averaged over the pictures.
        image_results: After a validation: (picture's name, its metrics) in the data set's order.
    """

    always_tiled = False
    """Whether pictures are cut into tiles without `val.patchwise_testing`, too."""

    average: Average | None = None
    """What is tested and saved in place of the trained weights; a moving average is `net_g_ema` instead."""

    @property
    def only_pixel_loss(self) -> bool:
        """Whether `cri_pix` is all that this model trains with: a subclass may bring its own step."""
        return type(self).optimize_parameters is SRModel.optimize_parameters

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        self.tile_size, self.tile_overlap = tile_options(opt.get('val') or {}, self.always_tiled)
        self.net_g = self.model_to_device(self._laid_out(build_network(opt['network_g'])))
        self.print_network(self.net_g)
        self._load_pretrained(self.net_g)
        self.image_results: list[tuple[str, dict[str, float]]] = []
        if self.is_train:
            self.init_training_settings()

    def _laid_out(self, net: nn.Module) -> nn.Module:
        """`net` in the memory layout of `train.channels_last`, which tests of a training's network take over."""
        self._memory_format = torch.preserve_format
        if (self.opt.get('train') or {}).get('channels_last'):
            self._memory_format = torch.channels_last
        return net.to(memory_format=self._memory_format)

    def _load_pretrained(self, net: nn.Module, param_key: str | None = None) -> None:
        paths = self.opt['path']
        if paths.get('pretrain_network_g'):
            key = param_key or paths.get('param_key_g', 'params')
            self.load_network(net, paths['pretrain_network_g'], paths.get('strict_load_g', True), key)

    def init_training_settings(self) -> None:
        self.net_g.train()
        options = self.opt['train']
        self.stepper = Stepper(options, self.device)
        self.accumulate = options.get('accumulate') or 1
        self.trained = self.compiled(self.net_g)
        self.batch_statistics = BatchStatistics(self.device)
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._init_strategy()
        if self.ema_decay > 0:
            self.net_g_ema = copy.deepcopy(self.get_bare_model(self.net_g)).requires_grad_(False).eval()
            self._load_pretrained(self.net_g_ema, 'params_ema')
        self.cri_perceptual = None
        self.cri_pix = build_loss(options['pixel_opt']).to(self.device) if options.get('pixel_opt') else None
        if self.cri_pix is None and self.only_pixel_loss:
            raise ValueError('train.pixel_opt: missing; training needs a loss, for example {type: L1Loss}')
        self.setup_optimizers()
        self.setup_schedulers()
        self._choose_trained(1)

    def _init_strategy(self) -> None:
        """Which layers train when, and what is published."""
        options, net = self.opt['train'], self.get_bare_model(self.net_g)
        for key in ('head_first', 'swad', 'wise_ft'):
            if options.get(key) is not None and not self.only_pixel_loss:
                raise ValueError(f'train.{key}: {type(self).__name__} has a step of its own, which does not know it')
        self.head_first = None
        if options.get('head_first') is not None:
            self.head_first = HeadFirst(options['head_first'], options['total_iter'], net)
        self.average, self._errors = build_average(self.opt, net), []
        self.ema_decay = options.get('ema_decay') or 0
        if options.get('ema_time'):
            self.ema_decay = 1 - 1 / iterations(options['ema_time'], options['total_iter'])

    def _choose_trained(self, current_iter: int) -> None:
        """Freeze and free what the iteration wants; wrappers count on what trains, and are made anew."""
        if self.head_first is not None and self.head_first.choose(current_iter):
            self.net_g = self.model_to_device(self.get_bare_model(self.net_g))
            self.trained = self.compiled(self.net_g)

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.net_g.parameters() if parameter.requires_grad]

    def setup_optimizers(self) -> None:
        options = dict(self.opt['train'].get('optim_g') or {})
        if 'type' not in options:
            raise ValueError('train.optim_g.type: missing; name an optimizer of torch.optim, for example Adam')
        self.optimizer_g = self.get_optimizer(options.pop('type'), self.trainable_parameters(), **options)
        self.optimizers.append(self.optimizer_g)

    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `lq`, and `gt` where there is one."""
        self.lq = data['lq'].to(self.device, non_blocking=True, memory_format=self._memory_format)
        self.gt = None
        if 'gt' in data:
            self.gt = data['gt'].to(self.device, non_blocking=True, memory_format=self._memory_format)

    def compiled(self, net: nn.Module) -> nn.Module:
        """`net`, or what torch.compile makes of it where `train.compile` says so."""
        return torch.compile(net) if self.opt['train'].get('compile') else net

    def back_propagate(self, net: nn.Module) -> Tensor:
        """Add the gradients of this iteration's loss to those of `net`; returns the loss.

        The batch is worked off in `train.accumulate` parts, so that the activations of one part alone are alive.
        """
        if self.gt is None:
            raise ValueError('datasets.train: gives no gt, and training needs pairs: type: PairedImageDataset')
        self._buffers += [(buffer, buffer.clone()) for buffer in net.buffers()]
        total = torch.zeros((), device=self.device)
        parts = list(zip(self.lq.chunk(self.accumulate), self.gt.chunk(self.accumulate), strict=True))
        for index, (lq, gt) in enumerate(parts):
            last = index == len(parts) - 1
            # Processes need to exchange their gradients once, after the last part.
            waits = hasattr(net, 'no_sync') and not last
            with net.no_sync() if waits else nullcontext():
                with self.stepper.autocast():
                    self.output = net(lq)
                loss = self.cri_pix(self.output.float(), gt) / len(parts)
                self.stepper.backward(loss)
            total += loss.detach()
        return total

    def take_step(self, losses: dict[str, Tensor]) -> bool:
        """Let the optimizer step and fill `log_dict`; a step that would do harm is not taken, see `Stepper.step`."""
        self.log_dict = self.reduce_loss_dict(losses)
        buffers, self._buffers = self._buffers, []
        taken = False
        try:
            taken = self.stepper.step(self.optimizer_g, self.log_dict)
        finally:
            if not taken:  # batch statistics are as broken as the loss
                for buffer, value in buffers:
                    buffer.copy_(value)
        return taken

    def optimize_parameters(self, current_iter: int) -> None:
        self._choose_trained(current_iter)
        self.optimizer_g.zero_grad()
        if not self.take_step({'l_pix': self.back_propagate(self.trained)}):
            return
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)
        if self.average is not None:
            self.average.update(list(self.get_bare_model(self.net_g).parameters()))

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Move `net_g_ema` towards the network: decay * average + (1 - decay) * weights."""
        averages, weights = list(self.net_g_ema.parameters()), list(self.get_bare_model(self.net_g).parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.net_g_ema.buffers(), self.get_bare_model(self.net_g).buffers(), strict=True):
            average.copy_(buffer)

    @contextmanager
    def network_to_test(self) -> Iterator[nn.Module]:
        """Lend the network that is tested and published, in evaluation mode: an average where there is one."""
        if hasattr(self, 'net_g_ema'):
            yield self.net_g_ema
            return
        net = self.get_bare_model(self.net_g)
        weights = self.average and self.average.weights(list(net.parameters()))
        with self.trained_network(), weights_lent(net, weights):
            if weights is not None:
                self.batch_statistics.put_into(net, self.train_loader, self.average.version)
            yield net

    @contextmanager
    def trained_network(self) -> Iterator[nn.Module]:
        """Lend the network as it is trained, in evaluation mode."""
        net = self.get_bare_model(self.net_g)
        with modes_and_buffers_restored(net):
            yield net.eval()

    def infer(self, net: nn.Module, lq: Tensor) -> Tensor:
        """What `net` makes of `lq`: whole pictures, or a tile of them."""
        return net(lq)

    @torch.no_grad()
    def test(self) -> None:
        """Fill `output` from `lq`."""
        with self.network_to_test() as net:
            self.output = self._restored_by(net)

    def _restored_by(self, net: nn.Module) -> Tensor:
        infer = partial(
            tiled, partial(self.infer, net), scale=self.opt.get('scale', 1),
            tile=self.tile_size, overlap=self.tile_overlap,
        )  # fmt: skip
        ensemble = (self.opt.get('val') or {}).get('selfensemble_testing')
        return self_ensemble(infer, self.lq) if ensemble else infer(self.lq)

    @torch.no_grad()
    def _note_error(self, dataset_name: str) -> None:
        """Keep the trained network's loss on the picture in hand, where the average goes by it."""
        if self.average is None or not self.average.needs_error:
            return
        if self.gt is None:
            raise ValueError(f'{self.average.option}: goes by the loss in validation, and {dataset_name} gives no gt')
        output, net = self.output, self.get_bare_model(self.net_g)
        if self.average.weights(list(net.parameters())) is not None:
            with self.trained_network():
                output = self._restored_by(net)
        self._errors.append(self.cri_pix(output.float(), self.gt).item())

    def after_validation(self, current_iter: int) -> None:
        if self.average is not None:
            errors, self._errors = [error for share in all_gather(self._errors) for error in share], []
            self.average.after_validation(current_iter, sum(errors) / len(errors) if errors else math.nan)

    def dist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """Validate every so manieth picture in each process; all of them have the results of all pictures."""
        dataset, (rank, processes) = dataloader.dataset, get_dist_info()
        share = DataLoader(
            dataset, 1, sampler=range(rank, len(dataset), processes), num_workers=dataloader.num_workers,
            generator=torch.Generator(),
        )  # fmt: skip
        results = all_gather(self._validate_pictures(share, current_iter, tb_logger, save_img))
        in_order = [images[index] for index in range(len(results[0])) for images in results if index < len(images)]
        self._conclude_validation(in_order, dataset.opt['name'], current_iter, tb_logger)

    def nondist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        images = self._validate_pictures(dataloader, current_iter, tb_logger, save_img)
        self._conclude_validation(images, dataloader.dataset.opt['name'], current_iter, tb_logger)

    def _validate_pictures(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> list[tuple[str, dict[str, float]]]:
        dataset_name, val = dataloader.dataset.opt['name'], self.opt.get('val') or {}
        metrics, results = val.get('metrics') or {}, []
        quiet = None if val.get('pbar', True) and self.opt['rank'] == 0 else True  # None: where there is no terminal
        pictures = tqdm(
            read_ahead(dataloader), f'Validate {dataset_name}', len(dataloader), False, unit='image', disable=quiet
        )
        start, busy = time.perf_counter(), 0.0
        with ThreadPoolExecutor(1) as pool:  # scores and writes while the network has the next picture
            for val_data in pictures:
                img_name = os.path.splitext(os.path.basename(val_data['lq_path'][0]))[0]
                begin = time.perf_counter()
                self.feed_data(val_data)
                self.test()
                self._note_error(dataset_name)
                visuals = self.get_current_visuals()  # waits for the device
                busy += time.perf_counter() - begin
                if tb_logger and len(results) < _SHOWN_PICTURES:
                    picture = visuals['result'][0].float().clamp(0, 1)
                    tb_logger.add_image(f'{dataset_name}/{img_name}', picture, current_iter)
                path = self._image_path(dataset_name, img_name, current_iter) if save_img else None
                results.append((img_name, pool.submit(self._scores, visuals, metrics, path)))
                if len(results) > _UNSCORED:
                    results[-_UNSCORED][1].result()  # pictures must not pile up
                self.lq = self.gt = self.output = None
            scored = [(img_name, scores.result()) for img_name, scores in results]
        if not self.is_train and scored:
            took = time.perf_counter() - start
            get_root_logger().info(
                '%s, %s: %d pictures in %.1f s, %.2f s each, %.0f %% of it outside the network',
                dataset_name, current_iter, len(scored), took, took / len(scored), 100 * (1 - busy / took),
            )  # fmt: skip
        return scored

    def _scores(self, visuals: dict[str, Tensor], metrics: dict[str, dict], path: str | None) -> dict[str, float]:
        """Metrics of one picture, which is written to `path`; without ground truth, those that need none."""
        pair = {'img': tensor2img([visuals['result']])}
        if path:
            imwrite(pair['img'], path)
        if 'gt' in visuals:
            pair['img2'] = tensor2img([visuals['gt']])
        return {
            name: calculate_metric(pair, content)
            for name, content in metrics.items()
            if 'img2' in pair or not needs_ground_truth(content)
        }

    def _conclude_validation(
        self, images: list[tuple[str, dict[str, float]]], dataset_name: str, current_iter: int | str, tb_logger: Any
    ) -> None:
        self.image_results, self.metric_results = images, {}
        measured = images[0][1] if images else {}
        if measured:
            self.metric_results = {name: sum(scores[name] for _, scores in images) / len(images) for name in measured}
            self._initialize_best_metric_results(dataset_name)
            for name, value in self.metric_results.items():
                self._update_best_metric_result(dataset_name, name, value, current_iter)
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)

    def _image_path(self, dataset_name: str, img_name: str, current_iter: int | str) -> str:
        folder = self.opt['path']['visualization']
        if self.is_train:
            return os.path.join(folder, img_name, f'{img_name}_{current_iter}.png')
        suffix = (self.opt.get('val') or {}).get('suffix')
        return os.path.join(folder, dataset_name, f'{img_name}_{suffix or self.opt["name"]}.png')

    def _log_validation_metric_values(self, current_iter: int | str, dataset_name: str, tb_logger: Any) -> None:
        best = self.best_metric_results[dataset_name]
        parts = []
        for name, value in self.metric_results.items():
            parts.append(f'{name} {value:.4f}')
            if self.is_train:
                parts[-1] += f' (best {best[name]["val"]:.4f} at {best[name]["iter"]})'
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{dataset_name}/{name}', value, current_iter)
        get_root_logger().info('Validation %s: %s', dataset_name, ', '.join(parts))

    def get_current_visuals(self) -> dict[str, Tensor]:
        visuals = {'lq': self.lq.detach().cpu(), 'result': self.output.detach().cpu()}
        if getattr(self, 'gt', None) is not None:
            visuals['gt'] = self.gt.detach().cpu()
        return visuals

    def save_weights(self, current_iter: int | str) -> None:
        """Write the network that was validated to `models/net_g_<current_iter>.pth`; -1 is `latest`."""
        if hasattr(self, 'net_g_ema'):
            self.save_network([self.net_g, self.net_g_ema], 'net_g', current_iter, param_key=['params', 'params_ema'])
        else:
            with self.network_to_test() as net:
                self.save_network(net, 'net_g', current_iter)

    def save(self, epoch: int, current_iter: int | str) -> None:
        self.save_weights(current_iter)
        self.save_training_state(epoch, current_iter)

    def training_state(self) -> dict[str, Any]:
        state = {**super().training_state(), 'stepper': self.stepper.state_dict()}
        state['networks'] = {name: self.get_bare_model(net).state_dict() for name, net in self._networks()}
        if self.average is not None:
            state['average'] = {'option': self.average.option, 'average': self.average.state_dict()}
        return state

    def _networks(self) -> list[tuple[str, nn.Module]]:
        """The networks whose weights are part of the training state."""
        return [(name, getattr(self, name)) for name in ('net_g', 'net_g_ema') if hasattr(self, name)]

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        if 'ldt' in resume_state and not hasattr(self, 'net'):
            raise ValueError('the training state is that of an LDTModel: it holds two branches')
        self._resume_networks(resume_state)
        resume_average(self.average, resume_state.get('average'), self.device)
        if 'stepper' in resume_state:
            self.stepper.load_state_dict(resume_state['stepper'])
        super().resume_training(resume_state)

    def _resume_networks(self, resume_state: dict[str, Any]) -> None:
        """Load the networks of the training state, or those saved beside one that holds none, as BasicSR's."""
        left = {*resume_state.get('networks', ())} - {name for name, _ in self._networks()}
        if left:
            raise ValueError(f'the training state holds {", ".join(left)}, which the options do not have (ema_decay)')
        for name, net in self._networks():
            if 'networks' in resume_state:
                if name not in resume_state['networks']:
                    raise ValueError(f'the training state holds no {name}: it was saved with other options (ema_decay)')
                load_weights(self.get_bare_model(net), resume_state['networks'][name], 'the training state')
            else:
                key = 'params_ema' if name == 'net_g_ema' else 'params'
                self.load_network(net, self.opt['path']['resume_network'], True, key)
