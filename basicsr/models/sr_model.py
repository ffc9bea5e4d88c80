"""Super-resolution: one network, a pixel loss, validation by picture."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from basicsr.models.base_model import BaseModel
from basicsr.utils.img_util import imwrite, tensor2img
from basicsr.utils.logger import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from ldt.restore import modes_and_buffers_restored


@MODEL_REGISTRY.register()
class SRModel(BaseModel):
    """Train and test `network_g` on pairs.

    Attributes:
        lq, gt: The batch in hand, (N, C, H, W) and (N, C, H * scale, W * scale).
        output: What the network made of it.
        metric_results: After a validation: each metric, averaged over the pictures.
        image_results: After a validation: (picture's name, its metrics) in the data set's order.
    """

    @property
    def only_pixel_loss(self) -> bool:
        """Whether `cri_pix` is all that this model trains with: a subclass may bring its own step."""
        return type(self).optimize_parameters is SRModel.optimize_parameters

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        self.net_g = self.model_to_device(build_network(opt['network_g']))
        self.print_network(self.net_g)
        self._load_pretrained(self.net_g)
        self.image_results: list[tuple[str, dict[str, float]]] = []
        if self.is_train:
            self.init_training_settings()

    def _load_pretrained(self, net: nn.Module, param_key: str | None = None) -> None:
        paths = self.opt['path']
        if paths.get('pretrain_network_g'):
            key = param_key or paths.get('param_key_g', 'params')
            self.load_network(net, paths['pretrain_network_g'], paths.get('strict_load_g', True), key)

    def init_training_settings(self) -> None:
        self.net_g.train()
        options = self.opt['train']
        self.ema_decay = options.get('ema_decay') or 0
        if self.ema_decay > 0:
            self.net_g_ema = copy.deepcopy(self.get_bare_model(self.net_g)).requires_grad_(False).eval()
            self._load_pretrained(self.net_g_ema, 'params_ema')
        self.cri_perceptual = None
        self.cri_pix = build_loss(options['pixel_opt']).to(self.device) if options.get('pixel_opt') else None
        if self.cri_pix is None and self.only_pixel_loss:
            raise ValueError('train.pixel_opt: missing; training needs a loss, for example {type: L1Loss}')
        self.setup_optimizers()
        self.setup_schedulers()

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
        self.lq = data['lq'].to(self.device, non_blocking=True)
        self.gt = data['gt'].to(self.device, non_blocking=True) if 'gt' in data else None

    def optimize_parameters(self, current_iter: int) -> None:
        self.optimizer_g.zero_grad()
        self.output = self.net_g(self.lq)
        loss = self.cri_pix(self.output, self.gt)
        loss.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict({'l_pix': loss.detach()})
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Move `net_g_ema` towards the network: decay * average + (1 - decay) * weights."""
        averages, weights = list(self.net_g_ema.parameters()), list(self.get_bare_model(self.net_g).parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.net_g_ema.buffers(), self.get_bare_model(self.net_g).buffers(), strict=True):
            average.copy_(buffer)

    @contextmanager
    def network_to_test(self) -> Iterator[nn.Module]:
        """Lend the network that is tested and published, in evaluation mode: the moving average where there is one."""
        if hasattr(self, 'net_g_ema'):
            yield self.net_g_ema
            return
        net = self.get_bare_model(self.net_g)
        with modes_and_buffers_restored(net):
            yield net.eval()

    def infer(self, net: nn.Module, lq: Tensor) -> Tensor:
        """What `net` makes of whole pictures `lq`."""
        return net(lq)

    @torch.no_grad()
    def test(self) -> None:
        """Fill `output` from `lq`."""
        with self.network_to_test() as net:
            self.output = self.infer(net, self.lq)

    def dist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        if self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        dataset_name = dataloader.dataset.opt['name']
        metrics = (self.opt.get('val') or {}).get('metrics') or {}
        self.image_results, self.metric_results = [], {}
        for val_data in tqdm(dataloader, desc=f'Validate {dataset_name}', unit='image', leave=False, disable=None):
            img_name = os.path.splitext(os.path.basename(val_data['lq_path'][0]))[0]
            self.feed_data(val_data)
            self.test()
            visuals = self.get_current_visuals()
            sr_img = tensor2img([visuals['result']])
            if save_img:
                imwrite(sr_img, self._image_path(dataset_name, img_name, current_iter))
            scores = {}
            if 'gt' in visuals:
                pair = {'img': sr_img, 'img2': tensor2img([visuals['gt']])}
                scores = {name: calculate_metric(pair, content) for name, content in metrics.items()}
            self.image_results.append((img_name, scores))
            self.lq = self.gt = self.output = None
        if metrics and self.image_results and self.image_results[0][1]:
            count = len(self.image_results)
            self.metric_results = {
                name: sum(scores[name] for _, scores in self.image_results) / count for name in metrics
            }
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
            self.save_network(self.net_g, 'net_g', current_iter)

    def save(self, epoch: int, current_iter: int | str) -> None:
        self.save_weights(current_iter)
        self.save_training_state(epoch, current_iter)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        if 'ldt' in resume_state and not hasattr(self, 'net'):
            raise ValueError('the training state is that of an LDTModel: it holds two branches')
        self._resume_network()
        super().resume_training(resume_state)

    def _resume_network(self) -> None:
        """Load what was saved beside the training state: the trained weights, and their average."""
        path = self.opt['path']['resume_network']
        self.load_network(self.net_g, path, True, 'params')
        if hasattr(self, 'net_g_ema'):
            self.load_network(self.net_g_ema, path, True, 'params_ema')
