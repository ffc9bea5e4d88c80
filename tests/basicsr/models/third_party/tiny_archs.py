"""Networks of a user's models: one with windows, two halves of another, and a discriminator."""

import torch
from torch import nn
from torch.nn import functional as F

from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class WindowNet(nn.Module):
    """x2, for pictures that divide into windows of 4; it says nothing of that to the framework."""

    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.mix = nn.Linear(16, 16)
        self.last = nn.Conv2d(width, 12, 3, 1, 1)

    def forward(self, x):
        n, _, h, w = x.shape
        assert h % 4 == 0 and w % 4 == 0, 'the picture does not divide into windows'
        features = F.relu(self.first(x))
        windows = features.view(n, -1, h // 4, 4, w // 4, 4).permute(0, 1, 2, 4, 3, 5).flatten(4)
        mixed = self.mix(windows).view(n, -1, h // 4, w // 4, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(n, -1, h, w)
        base = F.interpolate(x, scale_factor=2, mode='bilinear')
        return base + F.pixel_shuffle(self.last(features + mixed), 2)


@ARCH_REGISTRY.register()
class Enlarger(nn.Module):
    """x2."""

    def __init__(self, width=6):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, 12, 3, 1, 1))

    def forward(self, x):
        return F.interpolate(x, scale_factor=2, mode='bilinear') + F.pixel_shuffle(self.body(x), 2)


@ARCH_REGISTRY.register()
class Refiner(nn.Module):
    """x1, with batch statistics."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x):
        return x + self.last(torch.relu(self.norm(self.first(x))))


@ARCH_REGISTRY.register()
class Judge(nn.Module):
    """Logits of patches, by layers whose spectral norm is kept at 1."""

    def __init__(self, width=4):
        super().__init__()
        norm = nn.utils.spectral_norm
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width, width, 4, 2, 1, bias=False)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 3, 1, 1),
        )

    def forward(self, x):
        return self.body(x)
