"""A model that sets up its training by itself, and one that takes its own steps."""

from collections import OrderedDict

import torch

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class SettingsModel(SRModel):
    """All that a training needs is made here; the steps are those of SRModel."""

    def init_training_settings(self):
        train_opt, paths = self.opt['train'], self.opt['path']
        self.net_g.train()
        self.ema_decay = train_opt.get('ema_decay', 0)
        if self.ema_decay > 0:
            get_root_logger().info(f'an average is kept, of decay {self.ema_decay}')
            self.net_g_ema = build_network(self.opt['network_g']).to(self.device)
            if paths.get('pretrain_network_g') is None:
                self.model_ema(0)  # a copy
            else:
                strict = paths.get('strict_load_g', True)
                self.load_network(self.net_g_ema, paths['pretrain_network_g'], strict, 'params_ema')
            self.net_g_ema.eval()
        self.cri_pix = build_loss(train_opt['pixel_opt']).to(self.device)
        self.cri_perceptual = None
        self.setup_optimizers()
        self.setup_schedulers()


@MODEL_REGISTRY.register()
class TwoTermsModel(SRModel):
    """A step of its own: two terms, a log of its own, and the moving average that it was asked for."""

    def optimize_parameters(self, current_iter):
        self.optimizer_g.zero_grad()
        self.output = self.net_g(self.lq)
        loss_dict = OrderedDict(l_pix=self.cri_pix(self.output, self.gt))
        loss_dict['l_freq'] = 0.05 * (torch.fft.rfft2(self.output) - torch.fft.rfft2(self.gt)).abs().mean()
        sum(loss_dict.values()).backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(loss_dict)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)


@MODEL_REGISTRY.register()
class ForgetfulModel(SRModel):
    """A step that knows neither `net_g_ema` nor the loss of the options."""

    def optimize_parameters(self, current_iter):
        self.optimizer_g.zero_grad()
        loss = (self.net_g(self.lq) - self.gt).square().mean()
        loss.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict({'l_mse': loss})


@MODEL_REGISTRY.register()
class SavingModel(SRModel):
    """Saves by itself."""

    def save(self, epoch, current_iter):
        self.save_network(self.net_g, 'net_g', current_iter)
        self.save_training_state(epoch, current_iter)


@MODEL_REGISTRY.register()
class GroupsModel(SRModel):
    """An optimizer of its own, in two groups, over what is free to train."""

    def setup_optimizers(self):
        options = self.opt['train']['optim_g']
        first, others = [], []
        for name, value in self.net_g.named_parameters():
            if value.requires_grad:
                (first if name.startswith('body.0') else others).append(value)
        groups = [{'params': first, 'lr': 0.1 * options['lr']}, {'params': others}]
        self.optimizer_g = self.get_optimizer(options.pop('type'), groups, **options)
        self.optimizers.append(self.optimizer_g)


@MODEL_REGISTRY.register()
class ShowingModel(SRModel):
    """Its validation shows pictures and measures nothing; it saves weights and no training state."""

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        for index, val_data in enumerate(dataloader):
            self.feed_data(val_data)
            self.test()
            if tb_logger:
                picture = self.get_current_visuals()['result'][0].clamp(0, 1)
                tb_logger.add_image(f'{dataloader.dataset.opt["name"]}/{index}', picture, current_iter)

    def save(self, epoch, current_iter):
        self.save_network(self.net_g, 'net_g', current_iter)
