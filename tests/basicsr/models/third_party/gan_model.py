"""A GAN: two networks, two optimizers, files of both."""

from collections import OrderedDict

from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class TinyGANModel(SRModel):
    def init_training_settings(self):
        train_opt, paths = self.opt['train'], self.opt['path']
        self.ema_decay = train_opt.get('ema_decay', 0)
        if self.ema_decay > 0:
            self.net_g_ema = build_network(self.opt['network_g']).to(self.device)
            if paths.get('pretrain_network_g') is None:
                self.model_ema(0)
            else:
                strict = paths.get('strict_load_g', True)
                self.load_network(self.net_g_ema, paths['pretrain_network_g'], strict, 'params_ema')
            self.net_g_ema.eval()

        self.net_d = self.model_to_device(build_network(self.opt['network_d']))
        self.print_network(self.net_d)
        if paths.get('pretrain_network_d') is not None:
            key = paths.get('param_key_d', 'params')
            self.load_network(self.net_d, paths['pretrain_network_d'], paths.get('strict_load_d', True), key)

        self.net_g.train()
        self.net_d.train()
        self.cri_pix = build_loss(train_opt['pixel_opt']).to(self.device)
        self.cri_gan = build_loss(train_opt['gan_opt']).to(self.device)
        self.net_d_iters = train_opt.get('net_d_iters', 1)
        self.net_d_init_iters = train_opt.get('net_d_init_iters', 0)
        self.setup_optimizers()
        self.setup_schedulers()

    def setup_optimizers(self):
        for label, net in (('g', self.net_g), ('d', self.net_d)):
            section = self.opt['train'][f'optim_{label}']
            kind = section.pop('type')  # what is left are its arguments
            optimizer = self.get_optimizer(kind, net.parameters(), **section)
            setattr(self, f'optimizer_{label}', optimizer)
            self.optimizers.append(optimizer)

    def optimize_parameters(self, current_iter):
        losses = OrderedDict()
        self.net_d.requires_grad_(False)
        self.optimizer_g.zero_grad()
        self.output = self.net_g(self.lq)
        if current_iter > self.net_d_init_iters and current_iter % self.net_d_iters == 0:
            losses['l_g_pix'] = self.cri_pix(self.output, self.gt)
            losses['l_g_gan'] = self.cri_gan(self.net_d(self.output), True, is_disc=False)
            sum(losses.values()).backward()
            self.optimizer_g.step()

        self.net_d.requires_grad_(True)
        self.optimizer_d.zero_grad()
        for name, picture, is_real in (('real', self.gt, True), ('fake', self.output.detach(), False)):
            logits = self.net_d(picture)
            losses[f'l_d_{name}'] = self.cri_gan(logits, is_real, is_disc=True)
            losses[f'out_d_{name}'] = logits.detach().mean()
            losses[f'l_d_{name}'].backward()
        self.optimizer_d.step()
        self.log_dict = self.reduce_loss_dict(losses)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def save(self, epoch, current_iter):
        nets = {'params': self.net_g}
        if hasattr(self, 'net_g_ema'):
            nets['params_ema'] = self.net_g_ema
        self.save_network(list(nets.values()), 'net_g', current_iter, param_key=list(nets))
        self.save_network(self.net_d, 'net_d', current_iter)
        self.save_training_state(epoch, current_iter)
