"""A model that makes its inputs of the truth, and trains on pairs from a pool of the last ones."""

import random
from collections import OrderedDict

import torch
from torch.nn import functional as F

from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class DegradingModel(SRModel):
    def __init__(self, opt):
        super().__init__(opt)
        self.queue_size = opt.get('queue_size', 8)

    def exchange_with_pool(self):
        """While the pool fills, batches go through; then each is put in the place of one that comes out."""
        count = len(self.lq)
        if not hasattr(self, 'queue_lr'):
            self.queue_lr = self.lq.new_zeros(self.queue_size, *self.lq.shape[1:])
            self.queue_gt = self.gt.new_zeros(self.queue_size, *self.gt.shape[1:])
            self.queue_ptr = 0
        if self.queue_ptr < self.queue_size:
            places = slice(self.queue_ptr, self.queue_ptr + count)
            self.queue_ptr += count
            self.queue_lr[places], self.queue_gt[places] = self.lq, self.gt
            return
        places = torch.randperm(self.queue_size)[:count]
        lq, gt = self.queue_lr[places], self.queue_gt[places]
        self.queue_lr[places], self.queue_gt[places] = self.lq, self.gt
        self.lq, self.gt = lq, gt

    @torch.no_grad()
    def feed_data(self, data):
        if not self.is_train:
            self.lq = data['lq'].to(self.device)
            if 'gt' in data:
                self.gt = data['gt'].to(self.device)
            return
        self.gt = data['gt'].to(self.device)
        small = F.interpolate(self.gt, scale_factor=1 / self.opt['scale'], mode='area')
        self.lq = (small + random.uniform(0, 0.1) * torch.randn_like(small)).clamp(0, 1)
        self.exchange_with_pool()

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        self.is_train = False  # for feed_data
        super().nondist_validation(dataloader, current_iter, tb_logger, save_img)
        self.is_train = True

    def get_current_visuals(self):
        pictures = OrderedDict(lq=self.lq.detach().cpu(), result=self.output.detach().cpu())
        if hasattr(self, 'gt'):
            pictures['gt'] = self.gt.detach().cpu()
        return pictures
