"""A model that pads and tiles by itself, and validates in a loop of its own; and one that replaces `test` alone."""

import os.path as osp

import torch
from torch.nn import functional as F
from tqdm import tqdm

from basicsr.metrics import calculate_metric
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY

WINDOW = 4


@MODEL_REGISTRY.register()
class WindowModel(SRModel):
    """All that happens to a picture in a test is here, and `test()` is never called."""

    def pre_process(self):
        height, width = self.lq.shape[-2:]
        self.below, self.right = -height % WINDOW, -width % WINDOW
        self.img = F.pad(self.lq, (0, self.right, 0, self.below), mode='reflect')

    def tested_network(self):
        return self.net_g_ema if hasattr(self, 'net_g_ema') else self.net_g

    @torch.no_grad()
    def process(self):
        net = self.tested_network()
        net.eval()
        self.output = net(self.img)
        net.train()

    @torch.no_grad()
    def tile_process(self):
        side, net = self.opt['tile']['tile_size'], self.tested_network()
        net.eval()
        rows = [torch.cat([net(tile) for tile in row.split(side, 3)], 3) for row in self.img.split(side, 2)]
        self.output = torch.cat(rows, 2)
        net.train()

    def post_process(self):
        scale = self.opt['scale']
        height, width = self.output.shape[-2:]
        self.output = self.output[..., : height - scale * self.below, : width - scale * self.right]

    def where(self, dataset_name, img_name, current_iter):
        folder = self.opt['path']['visualization']
        if self.opt['is_train']:
            return osp.join(folder, img_name, f'{img_name}_{current_iter}.png')
        ending = self.opt['val']['suffix'] or self.opt['name']
        return osp.join(folder, dataset_name, f'{img_name}_{ending}.png')

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        dataset_name = dataloader.dataset.opt['name']
        metrics = self.opt['val'].get('metrics')
        if metrics is not None:
            if not hasattr(self, 'metric_results'):
                self.metric_results = dict.fromkeys(metrics, 0)
            self._initialize_best_metric_results(dataset_name)
            self.metric_results = dict.fromkeys(self.metric_results, 0)
        bar = tqdm(total=len(dataloader)) if self.opt['val'].get('pbar', False) else None

        for val_data in dataloader:
            img_name = osp.splitext(osp.basename(val_data['lq_path'][0]))[0]
            self.feed_data(val_data)
            self.pre_process()
            if 'tile' in self.opt:
                self.tile_process()
            else:
                self.process()
            self.post_process()
            visuals = self.get_current_visuals()
            shown = {'img': tensor2img([visuals['result']])}
            del self.lq
            del self.output
            if 'gt' in visuals:
                shown['img2'] = tensor2img([visuals['gt']])
                del self.gt
            if save_img:
                imwrite(shown['img'], self.where(dataset_name, img_name, current_iter))
            if metrics is not None and 'img2' in shown:
                for name, section in metrics.items():
                    self.metric_results[name] += calculate_metric(shown, section)
            if bar:
                bar.update()
        if bar:
            bar.close()

        if metrics is not None:
            for name in metrics:
                self.metric_results[name] /= len(dataloader)
                self._update_best_metric_result(dataset_name, name, self.metric_results[name], current_iter)
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)

    def _log_validation_metric_values(self, current_iter, dataset_name, tb_logger):
        for name, value in self.metric_results.items():
            line = f'{dataset_name} has {name}: {value:.4f}'
            if hasattr(self, 'best_metric_results'):
                best = self.best_metric_results[dataset_name][name]
                line += f', at best {best["val"]:.4f} (iteration {best["iter"]})'
            get_root_logger().info(line)
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{dataset_name}/{name}', value, current_iter)


@MODEL_REGISTRY.register()
class PaddedModel(SRModel):
    """Replaces `test` alone, and counts on its being called in the validation that it inherits."""

    def test(self):
        height, width = self.lq.shape[-2:]
        img = torch.cat([self.lq, self.lq.flip(2)], 2)[:, :, : height + -height % WINDOW]
        img = torch.cat([img, img.flip(3)], 3)[:, :, :, : width + -width % WINDOW]
        if hasattr(self, 'net_g_ema'):
            self.net_g_ema.eval()
            with torch.no_grad():
                output = self.net_g_ema(img)
        else:
            self.net_g.eval()
            with torch.no_grad():
                output = self.net_g(img)
            self.net_g.train()
        self.output = output[..., : height * self.opt['scale'], : width * self.opt['scale']]
