"""What holds for each network that is registered; a new one is found here by itself."""

import copy

import pytest
import torch

import ldt
from basicsr.archs import build_network
from basicsr.archs.from_weights import network_options
from basicsr.archs.traits import scale_of, traits_of
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights, save_checkpoint
from basicsr.utils.registry import ARCH_REGISTRY

SMALL = {
    'EDSR': {'num_feat': 8, 'num_block': 2, 'upscale': 2},
    'MSRResNet': {'num_feat': 8, 'num_block': 2, 'upscale': 3},
    'MambaIR': {
        **{'embed_dim': 30, 'depths': [1, 1], 'd_state': 2, 'mlp_ratio': 1.0},
        **{'upsampler': 'pixelshuffle', 'upscale': 2},
    },
    'RCAN': {'num_feat': 8, 'num_group': 2, 'num_block': 1, 'squeeze_factor': 4, 'upscale': 2},
    'RRDBNet': {'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4, 'scale': 2},
    'SmallCNN': {'num_classes': 5, 'width': 4},
    'SwinIR': {
        **{'img_size': 16, 'window_size': 8, 'embed_dim': 12, 'depths': [2], 'num_heads': [2], 'mlp_ratio': 2.0},
        **{'upsampler': 'pixelshuffledirect', 'upscale': 2, 'drop_path_rate': 0.0},
    },
    'VisionMamba': {
        **{'img_size': 32, 'patch_size': 8, 'stride': 8, 'depth': 2, 'embed_dim': 24, 'd_state': 4, 'num_classes': 5},
        **{'final_pool_type': 'mean', 'drop_path_rate': 0.0},
    },
    'spandrel': {'architecture': 'SAFMN', 'dim': 8, 'n_blocks': 1, 'upscaling_factor': 2},
    'timm': {'name': 'test_vit', 'num_classes': 5, 'img_size': 32},
    'torchvision': {'name': 'squeezenet1_1', 'num_classes': 5, 'dropout': 0.0},
}
"""Arguments that make a network small. Give your own some here; without, its defaults are taken."""

ELSEWHERE = {'VGGFeatureExtractor': 'gives features for a loss, and trains never: test_vgg.py'}
"""What is registered and no network to train, with the reason and its tests."""

UNTRAINED = ('Bicubic',)
"""Networks without weights."""

LARGEST = 800_000
NETWORKS = sorted(
    name for name, network in ARCH_REGISTRY if network.__module__.startswith('basicsr.') and name not in ELSEWHERE
)
"""Not those that other tests register."""


def built(name):
    torch.manual_seed(0)
    net = build_network({'type': name, **SMALL.get(name, {})})
    size = sum(parameter.numel() for parameter in net.parameters())
    if size > LARGEST:
        pytest.fail(f'{name} has {size} parameters: add arguments to SMALL in {__file__} that make it small')
    return net


def batch(net, name):
    """Two of the smallest pictures that the network says it takes; of a classifier, of 32 pixels unless it says so."""
    traits = traits_of(net, SMALL.get(name))
    height, width = (1 + lacks for lacks in traits.padding(1, 1))
    if scale_of(net) is None:
        assert 'num_classes' in SMALL.get(name, {}), f'{name} does not say its scale: by traits, upscale or scale'
        height, width = net.input_size or (32, 32)
    low, high = traits.pixel_range
    return low + (high - low) * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def loss(net, x):
    return (net(x) - 0.3).abs().mean()


@pytest.fixture(params=NETWORKS)
def named(request):
    return request.param, built(request.param)


@pytest.fixture(params=[name for name in NETWORKS if name not in UNTRAINED])
def trainable(request):
    return request.param, built(request.param)


def test_output_is_the_input_times_the_scale(named):
    name, net = named
    x = batch(net, name)
    scale = scale_of(net)
    kept = x.clone()
    with torch.no_grad():
        output = net.eval()(x)
    assert output.isfinite().all()
    assert torch.equal(x, kept), 'the next network is given the same batch'
    if scale is None:
        assert output.shape == (2, SMALL[name]['num_classes'])
    else:
        assert output.shape == (2, 3, x.shape[-2] * scale, x.shape[-1] * scale)


@pytest.mark.parametrize('name', UNTRAINED)
def test_what_is_not_trained_has_no_weights(name):
    assert not built(name).state_dict()


def test_a_step_reaches_every_parameter(trainable):
    name, net = trainable
    x = batch(net, name)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    before = copy.deepcopy(net.state_dict())
    loss(net.train(), x).backward()
    for parameter_name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f'{parameter_name} has no part in the output'
            assert parameter.grad.isfinite().all(), parameter_name
    optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_checkpoint_gives_the_same_network(trainable, tmp_path):
    """Through a file, into a network that began with other weights; and from names and shapes where it has a rule."""
    name, net = trainable
    path, x = tmp_path / 'net_g_8.pth', batch(net, name)
    save_checkpoint({'params': net.state_dict()}, path)
    weights = find_weights(load_checkpoint(path), path)
    torch.manual_seed(9)
    options = [{'type': name, **SMALL.get(name, {})}]
    if hasattr(ARCH_REGISTRY.get(name), 'options_from_weights'):
        options.append(network_options(weights, path))
        assert options[1]['type'] == name
    for one in options:
        other = build_network(one)
        assert load_weights(other, weights, path) == []
        with torch.no_grad():
            assert torch.equal(other.eval()(x), net.eval()(x))


def test_a_copy_is_independent(trainable):
    name, net = trainable
    x = batch(net, name)
    other = copy.deepcopy(net).eval()
    with torch.no_grad():
        before = net.eval()(x)
        assert torch.equal(other(x), before)
        for parameter in other.parameters():
            parameter.add_(0.1)
        assert not torch.equal(other(x), before)
        assert torch.equal(net(x), before)
    assert traits_of(other) == traits_of(net) and scale_of(other) == scale_of(net)


def test_ldt_trains_it(trainable):
    """Layers are scored, branches exchange, and the composite is a network that runs and has learned."""
    name, net = trainable
    batches = [(batch(net, name)[:1]), (batch(net, name)[1:])]
    scores = ldt.score_layers(net, batches, loss, num_batches=2)
    partition = ldt.Partition.from_scores(scores, unstable_ratio=0.5)
    assert partition.stable and partition.unstable
    start = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        before = net.eval()(batches[0])
    net.train()
    decomposition = ldt.LayerDecomposition(net, partition, ldt.fixed_decay(partition, 0.5), exchange_every=1)
    optimizer = torch.optim.Adam(decomposition.trainable_parameters(), lr=1e-3)
    for x in batches:
        optimizer.zero_grad()
        for branch in decomposition.branches():
            loss(branch, x).backward()
        optimizer.step()
        decomposition.step()
    with decomposition.composite(batches, loss) as composite, torch.no_grad():
        output = composite.eval()(batches[0])
        moved = {key for key, value in composite.state_dict().items() if not torch.equal(value, start[key])}
    assert output.isfinite().all() and output.shape == before.shape
    assert not torch.equal(output, before)
    groups = [{one for layer in group for one in layer_parameters(net, layer)} for group in partition_groups(partition)]
    assert all(moved & group for group in groups), 'both halves have learned'


def partition_groups(partition):
    return partition.stable, partition.unstable


def layer_parameters(net, layer):
    return [name for name, _ in net.named_parameters() if name == layer or name.startswith(f'{layer}.')]
