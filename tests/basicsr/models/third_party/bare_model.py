"""Models of which BaseModel is all that they take from the framework."""

import os.path as osp

import torch

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.metrics import calculate_metric
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger, imwrite, tensor2img
from basicsr.utils.registry import MODEL_REGISTRY


class Pictures(BaseModel):
    """What the two below share: batches, and a validation."""

    def feed_data(self, data):
        self.lq = data['lq'].to(self.device)
        if 'gt' in data:
            self.gt = data['gt'].to(self.device)

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
        if self.opt['rank'] == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        dataset_name = dataloader.dataset.opt['name']
        metrics = self.opt['val'].get('metrics')
        if metrics is not None:
            self.metric_results = {metric: 0 for metric in metrics}
        for val_data in dataloader:
            img_name = osp.splitext(osp.basename(val_data['lq_path'][0]))[0]
            self.feed_data(val_data)
            self.test()
            img = tensor2img([self.output.detach().cpu()])
            if save_img:
                imwrite(img, osp.join(self.opt['path']['visualization'], dataset_name, f'{img_name}.png'))
            if metrics is not None:
                for name, opt_ in metrics.items():
                    data = dict(img=img, img2=tensor2img([self.gt.cpu()]))
                    self.metric_results[name] += calculate_metric(data, opt_) / len(dataloader)
        if metrics is not None:
            self._log(current_iter, dataset_name, tb_logger)

    def _log(self, current_iter, dataset_name, tb_logger):
        for metric, value in self.metric_results.items():
            get_root_logger().info(f'{dataset_name}, {metric}: {value:.6f}')
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{metric}', value, current_iter)


@MODEL_REGISTRY.register()
class CascadeModel(Pictures):
    """Two networks, one after the other, each with an optimizer of its own."""

    def __init__(self, opt):
        super().__init__(opt)
        self.net_a = self.model_to_device(build_network(opt['network_a']))
        self.net_b = self.model_to_device(build_network(opt['network_b']))
        for label in ('a', 'b'):
            net = getattr(self, f'net_{label}')
            self.print_network(net)
            load_path = self.opt['path'].get(f'pretrain_network_{label}', None)
            if load_path is not None:
                self.load_network(net, load_path, self.opt['path'].get(f'strict_load_{label}', True))
        if self.is_train:
            train_opt = self.opt['train']
            self.cri_pix = build_loss(train_opt['pixel_opt']).to(self.device)
            self.net_a.train()
            self.net_b.train()
            for label in ('a', 'b'):
                optim_type = train_opt[f'optim_{label}'].pop('type')
                params = getattr(self, f'net_{label}').parameters()
                self.optimizers.append(self.get_optimizer(optim_type, params, **train_opt[f'optim_{label}']))
            self.setup_schedulers()

    def optimize_parameters(self, current_iter):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        middle = self.net_a(self.lq)
        self.output = self.net_b(middle)
        l_a, l_b = self.cri_pix(middle, self.gt), self.cri_pix(self.output, self.gt)
        (l_a + l_b).backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.log_dict = self.reduce_loss_dict({'l_a': l_a, 'l_b': l_b})

    def test(self):
        self.net_a.eval()
        self.net_b.eval()
        with torch.no_grad():
            self.output = self.net_b(self.net_a(self.lq))
        self.net_a.train()
        self.net_b.train()

    def save(self, epoch, current_iter):
        self.save_network(self.net_a, 'net_a', current_iter)
        self.save_network(self.net_b, 'net_b', current_iter)
        self.save_training_state(epoch, current_iter)


@MODEL_REGISTRY.register()
class GeneratorModel(Pictures):
    """A network by another name than net_<...>, whose weights a resumed run finds where `check_resume` says."""

    def __init__(self, opt):
        super().__init__(opt)
        self.generator = self.model_to_device(build_network(opt['network_g']))
        load_path = self.opt['path'].get('pretrain_network_g', None)
        if load_path is not None:
            get_root_logger().info(f'generator: {osp.basename(load_path)}')
            self.load_network(self.generator, load_path, self.opt['path'].get('strict_load_g', True))
        if self.is_train:
            self.generator.train()
            self.cri_pix = build_loss(self.opt['train']['pixel_opt']).to(self.device)
            optim_type = self.opt['train']['optim_g'].pop('type')
            self.optimizers.append(
                self.get_optimizer(optim_type, self.generator.parameters(), **self.opt['train']['optim_g'])
            )
            self.setup_schedulers()

    def optimize_parameters(self, current_iter):
        self.optimizers[0].zero_grad()
        self.output = self.generator(self.lq)
        loss = self.cri_pix(self.output, self.gt)
        loss.backward()
        self.optimizers[0].step()
        self.log_dict = self.reduce_loss_dict({'l_pix': loss})

    def test(self):
        self.generator.eval()
        with torch.no_grad():
            self.output = self.generator(self.lq)
        self.generator.train()

    def save(self, epoch, current_iter):
        self.save_network(self.generator, 'net_g', current_iter)
        self.save_training_state(epoch, current_iter)
