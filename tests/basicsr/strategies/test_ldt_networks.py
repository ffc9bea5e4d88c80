"""LDT trains every registered network, and those that users write, on pictures of any size."""

import copy

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.traits import scale_of, traits_of
from basicsr.data.loaders import loader_beside_the_training
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.strategies import ldt_report
from basicsr.utils.registry import ARCH_REGISTRY
from tests.basicsr.archs.test_registered_networks import NETWORKS, SMALL
from tests.basicsr.models.test_models import build, loader, options

SIDES = (21, 26)
"""Of the pictures that are tested: no multiple of any window, and they are not square."""
LDT = {'scoring_batches': 2, 'stable_decay': [0.5, 0.4], 'unstable_decay': [0.6, 0.3]}
STRATEGIES = {
    'dual': {**LDT, 'exchange_every': 1},
    'alternating': {**LDT, 'strategy': 'alternating', 'alternate_every': 1},
}


@ARCH_REGISTRY.register()
class OfAUser(nn.Module):
    """In BasicSR's manner: an attribute `window_size`, attention in windows, and pictures of other sizes fail."""

    def __init__(self, window_size=8, num_feat=8, upscale=2):
        super().__init__()
        self.window_size, self.upscale = window_size, upscale
        self.conv_first = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.norm = nn.LayerNorm(num_feat)
        self.attention = nn.MultiheadAttention(num_feat, 2, batch_first=True)
        self.conv_last = nn.Conv2d(num_feat, 3 * upscale**2, 3, 1, 1)

    def forward(self, x):
        n, _, h, w = x.shape
        side = self.window_size
        features = self.conv_first(x)
        windows = features.view(n, -1, h // side, side, w // side, side).permute(0, 2, 4, 3, 5, 1)
        tokens = self.norm(windows.reshape(-1, side * side, features.shape[1]))
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        attended = attended.view(n, h // side, w // side, side, side, -1).permute(0, 5, 1, 3, 2, 4).reshape(n, -1, h, w)
        return nn.functional.pixel_shuffle(self.conv_last(features + attended), self.upscale)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(ldt_report, 'plot_layer_scores', lambda *_: None)


def restores(name):
    """Whether the network makes pictures of pictures, with something to train."""
    net = build_network({'type': name, **SMALL.get(name, {})})
    return scale_of(net) is not None and any(parameter.requires_grad for parameter in net.parameters())


def test_which_networks_are_not_here():
    """`Bicubic` has nothing to train, and a classifier restores nothing: `test_registered_networks` has those."""
    assert {name for name in NETWORKS if not restores(name)} == {
        *('Bicubic', 'SmallCNN', 'VisionMamba', 'timm', 'torchvision')
    }


RESTORES = [*(name for name in NETWORKS if restores(name)), 'OfAUser']


def made(tmp_path, name, model_type, **changes):
    """Options for the network, with pictures at its scale: three pairs of `SIDES`."""
    network = {'type': name, **SMALL.get(name, {})}
    net = build_network(network)
    scale, rng = scale_of(net), np.random.default_rng(0)
    for part in ('HR', 'LR'):
        (tmp_path / part).mkdir()
    for index in range(3):
        noise = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
        for part, times in (('HR', scale), ('LR', 1)):
            picture = cv2.resize(noise, (SIDES[1] * times, SIDES[0] * times), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(tmp_path / part / f'{index}.png'), picture)
    opt = options(tmp_path, tmp_path, model_type, **changes)
    opt.update(scale=scale, network_g=network)
    side = max(1 + lacks for lacks in traits_of(net, network).padding(1, 1))
    opt['datasets']['train'].update(scale=scale, gt_size=max(side, 8) * scale)
    opt['datasets']['val']['scale'] = scale
    return opt


@pytest.mark.parametrize('strategy', STRATEGIES)
@pytest.mark.parametrize('model_type', ['LDTModel', 'SRModel'])
@pytest.mark.parametrize('name', RESTORES)
def test_ldt_trains_each_network(tmp_path, name, model_type, strategy):
    opt = made(tmp_path, name, model_type, ldt=STRATEGIES[strategy])
    model = build(copy.deepcopy(opt))
    batches = model.train_loader = loader_beside_the_training(opt)
    model.before_training(batches)
    partition = model.strategy.decomposition.partition
    named = dict(build_network(opt['network_g']).named_parameters())
    assert {*partition.stable, *partition.unstable} == {name for name, value in named.items() if value.requires_grad}
    with model.published() as net:
        start = copy.deepcopy(net.state_dict())
    batch = next(iter(batches))
    for iteration in range(1, 5):
        assert model.train_step(batch, iteration)
    assert model.strategy.decomposition.steps == 4
    model.validation(loader(opt), 4, None, save_img=True)
    assert model.metric_results['psnr'] > 3
    scale = opt['scale']
    size = (SIDES[0] * scale, SIDES[1] * scale, 3)
    assert cv2.imread(str(tmp_path / 'visualization' / '1' / '1_4.png')).shape == size
    model.save(0, 4)

    file = tmp_path / 'models' / 'net_g_4.pth'
    saved = load_checkpoint(file)['params']
    moved = {name for name in named if not torch.equal(saved[name], start[name])}
    assert moved & {*partition.stable} and moved & {*partition.unstable}, 'both halves have learned'
    paths = {**opt['path'], 'pretrain_network_g': str(file)}
    alone = build({**opt, 'model_type': 'SRModel', 'is_train': False, 'train': None, 'path': paths})
    alone.validation(loader(opt), 'alone', None)
    assert alone.metric_results == model.metric_results
    resumed = build(copy.deepcopy(opt))
    resumed.train_loader = batches
    resumed.resume_training(load_checkpoint(tmp_path / 'training_states' / '4.state'))
    for one in (model, resumed):
        torch.manual_seed(0)
        assert one.train_step(batch, 5)
    one, other = (dict(each.strategy.parameters()) for each in (model, resumed))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_window_of_a_user_is_padded_and_cut(tmp_path):
    """It fails on other sizes; trained plainly it runs under the names that BasicSR's option files have for it."""
    with pytest.raises(RuntimeError):
        build_network({'type': 'OfAUser'})(torch.rand(1, 3, *SIDES))
    for number, model_type in enumerate(('SwinIRModel', 'SRModel', 'MambaIRModel')):
        (tmp_path / str(number)).mkdir()
        opt = made(tmp_path / str(number), 'OfAUser', model_type)
        model = build(opt)
        assert model.train_step(next(iter(loader_beside_the_training(opt))), 1)
        model.validation(loader(opt), 1, None)
        with torch.no_grad():
            lq = next(iter(loader(opt)))['lq']
            padded = nn.functional.pad(lq, (0, 32 - SIDES[1], 0, 24 - SIDES[0]), 'reflect')
            model.net_g.eval()
            expected = model.net_g(padded)[..., : 2 * SIDES[0], : 2 * SIDES[1]]
            model.feed_data(next(iter(loader(opt))))
            model.test()
        assert torch.allclose(model.output, expected, atol=1e-6)
