"""Features of VGG, against torchvision's own networks, with files of random weights in place of ImageNet's."""

import inspect
import re

import numpy as np
import pytest
import torch
import torchvision
from skimage import data

from basicsr.archs import build_network, vgg_arch
from basicsr.archs.vgg_arch import NAMES, VGGFeatureExtractor, insert_bn

FILES = {'vgg11': 'vgg11-8a719046.pth', 'vgg11_bn': 'vgg11_bn-6002323d.pth', 'vgg19': 'vgg19-dcbb9e9d.pth'}


def random_vgg(vgg_type):
    """torchvision's network, on which its classifier stays without storage."""
    with torch.device('meta'):
        net = getattr(torchvision.models, vgg_type)(weights=None)
    net.features.to_empty(device='cpu')
    generator = torch.Generator().manual_seed(7)
    for module in net.features:
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
            module.bias.data.uniform_(-0.1, 0.1, generator=generator)
        elif isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1, generator=generator)
            module.num_batches_tracked.zero_()
    return net.eval()


def write_weights(path, net):
    weights = {name: value for name, value in net.state_dict().items() if name.startswith('features')}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**weights, 'classifier.6.bias': torch.zeros(1000)}, path)


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """The real folder may hold the real weights."""
    monkeypatch.setattr(vgg_arch, '_PROJECT', tmp_path / 'project')
    return tmp_path / 'project'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A working directory whose experiments/pretrained_models holds weights of vgg11 and vgg11_bn."""
    root = tmp_path_factory.mktemp('vgg')
    for vgg_type in ('vgg11', 'vgg11_bn'):
        write_weights(root / 'experiments/pretrained_models' / FILES[vgg_type], random_vgg(vgg_type))
    return root


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture
def x():
    img = torch.from_numpy(data.astronaut()[:64, 180:260].transpose(2, 0, 1).copy()).float() / 255
    return torch.stack([img, img.flip(-1)])


def torchvisions(vgg_type, x, until):
    """Outputs of all layers up to the one with that index, by index."""
    net, outputs = random_vgg(vgg_type).features[: until + 1], []
    for layer in net:
        x = layer(x)
        outputs.append(x.clone())  # the next one may work in place
    return outputs


def imagenet(x):
    mean, std = x.new_tensor([0.485, 0.456, 0.406]), x.new_tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


def test_arguments_are_those_of_basicsr():
    defaults = {name: one.default for name, one in inspect.signature(VGGFeatureExtractor).parameters.items()}
    assert defaults.pop('layer_name_list') is inspect.Parameter.empty
    assert list(defaults.items()) == [
        ('vgg_type', 'vgg19'), ('use_input_norm', True), ('range_norm', False), ('requires_grad', False),
        ('remove_pooling', False), ('pooling_stride', 2),
    ]  # fmt: skip


@pytest.mark.parametrize('vgg_type', ['vgg11', 'vgg13', 'vgg16', 'vgg19'])
def test_names_are_in_the_order_of_torchvisions_layers(vgg_type):
    kinds = {torch.nn.Conv2d: 'conv', torch.nn.BatchNorm2d: 'bn', torch.nn.ReLU: 'relu', torch.nn.MaxPool2d: 'pool'}
    for suffix, names in (('', NAMES[vgg_type]), ('_bn', insert_bn(NAMES[vgg_type]))):
        with torch.device('meta'):
            layers = getattr(torchvision.models, vgg_type + suffix)(weights=None).features
        assert [re.match('[a-z]+', name)[0] for name in names] == [kinds[type(layer)] for layer in layers]
        blocks = [
            sum(isinstance(one, torch.nn.MaxPool2d) for one in layers[:index]) + 1 for index in range(len(layers))
        ]
        assert [int(re.search(r'\d', name)[0]) for name in names] == blocks
    assert NAMES['vgg11'][:6] == ['conv1_1', 'relu1_1', 'pool1', 'conv2_1', 'relu2_1', 'pool2']
    assert NAMES['vgg19'][-3:] == ['conv5_4', 'relu5_4', 'pool5']
    assert insert_bn(['conv1_1', 'relu1_1', 'pool1']) == ['conv1_1', 'bn1_1', 'relu1_1', 'pool1']


@pytest.mark.parametrize('vgg_type', ['vgg11', 'vgg11_bn'])
def test_features_are_torchvisions(here, x, vgg_type):
    names = insert_bn(NAMES[vgg_type[:5]]) if 'bn' in vgg_type else NAMES['vgg11']
    wanted = [name for name in names if name[-1] in '12' and 'pool' not in name] + ['pool5']
    features = VGGFeatureExtractor(wanted[::-1], vgg_type)(x)
    assert list(features) == wanted
    expected = torchvisions(vgg_type, imagenet(x), len(names) - 1)
    for name, found in features.items():
        torch.testing.assert_close(found, expected[names.index(name)], msg=lambda text, name=name: f'{name}: {text}')
    assert (features['conv1_1'] < 0).any(), 'not overwritten by the layer after it'


def test_ranges_of_the_input(here, x):
    plain = VGGFeatureExtractor(['conv2_1'], 'vgg11')(x)['conv2_1']
    signed = VGGFeatureExtractor(['conv2_1'], 'vgg11', range_norm=True)(x * 2 - 1)['conv2_1']
    torch.testing.assert_close(signed, plain, atol=1e-4, rtol=1e-4)
    bare = VGGFeatureExtractor(['conv2_1'], 'vgg11', use_input_norm=False)
    torch.testing.assert_close(bare(imagenet(x))['conv2_1'], plain)
    assert set(bare.state_dict()) == {f'vgg_net.conv{i}_1.{kind}' for i in (1, 2) for kind in ('weight', 'bias')}


def test_pooling(here, x):
    layers = random_vgg('vgg11').features
    conv1, relu, conv2 = layers[0], torch.nn.functional.relu, layers[3]
    first = relu(conv1(imagenet(x)))
    without = VGGFeatureExtractor(['conv2_1'], 'vgg11', remove_pooling=True)
    torch.testing.assert_close(without(x)['conv2_1'], conv2(first))
    dense = VGGFeatureExtractor(['conv2_1'], 'vgg11', pooling_stride=1)
    torch.testing.assert_close(dense(x)['conv2_1'], conv2(torch.nn.functional.max_pool2d(first, 2, 1)))
    with pytest.raises(ValueError, match='remove_pooling leaves no layer pool1 whose output'):
        VGGFeatureExtractor(['conv1_1', 'pool1'], 'vgg11', remove_pooling=True)


def test_gradients_and_statistics(here, x):
    frozen = VGGFeatureExtractor(['relu2_1'], 'vgg11_bn').train()
    x.requires_grad_()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    frozen(x)['relu2_1'].sum().backward()
    assert x.grad.abs().max() > 0
    assert all(not one.requires_grad and one.grad is None for one in frozen.parameters())
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    trained = VGGFeatureExtractor(['relu2_1'], 'vgg11_bn', requires_grad=True)
    trained(x)['relu2_1'].sum().backward()
    assert all(one.requires_grad and one.grad is not None for one in trained.parameters())
    assert not torch.equal(trained.state_dict()['vgg_net.bn1_1.running_mean'], before['vgg_net.bn1_1.running_mean'])


def test_no_random_numbers_are_drawn(here):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_network({'type': 'VGGFeatureExtractor', 'layer_name_list': ['conv1_1'], 'vgg_type': 'vgg11'})
    assert torch.equal(torch.get_rng_state(), before)


def test_the_cache_of_torch_hub_is_looked_into(tmp_path, monkeypatch, x):
    """For vgg19, and with a file as old as those of vgg*_bn, which count no batches."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    write_weights(tmp_path / 'cache/hub/checkpoints' / FILES['vgg19'], random_vgg('vgg19'))
    features = VGGFeatureExtractor(['conv2_2'])(x)
    torch.testing.assert_close(features['conv2_2'], torchvisions('vgg19', imagenet(x), 7)[7])
    net = random_vgg('vgg11_bn')
    for module in net.features:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_buffer('num_batches_tracked', None)
    write_weights(tmp_path / 'cache/hub/checkpoints' / FILES['vgg11_bn'], net)
    assert VGGFeatureExtractor(['bn1_1'], 'vgg11_bn').vgg_net.bn1_1.num_batches_tracked == 0


def test_weights_that_cannot_be_had(tmp_path, monkeypatch, project):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'empty'))
    for name in ('https_proxy', 'HTTPS_PROXY'):  # a port that nothing listens on
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    with pytest.raises(FileNotFoundError) as error:
        VGGFeatureExtractor(['conv1_1'], 'vgg13_bn')
    message = str(error.value)
    assert message.startswith(
        'vgg13_bn needs vgg13_bn-abd245e5.pth, which is not on this machine and cannot be fetched ('
    )
    assert 'Connection refused' in message
    assert 'Download https://download.pytorch.org/models/vgg13_bn-abd245e5.pth where there is a connection' in message
    assert message.endswith(str(project / 'experiments/pretrained_models'))
    write_weights(project / 'experiments/pretrained_models/vgg13_bn-abd245e5.pth', random_vgg('vgg13_bn'))
    VGGFeatureExtractor(['conv1_1'], 'vgg13_bn')


def test_files_that_are_something_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'experiments/pretrained_models' / FILES['vgg11_bn']
    write_weights(path, random_vgg('vgg11'))
    with pytest.raises(ValueError, match=r'vgg11_bn-6002323d.pth does not hold the weights of vgg11_bn: .*bn1_1'):
        VGGFeatureExtractor(['relu1_1'], 'vgg11_bn')
    path.write_text('<!doctype html>')
    with pytest.raises(ValueError, match='it is a web page'):
        VGGFeatureExtractor(['relu1_1'], 'vgg11_bn')


@pytest.mark.parametrize(
    'layers, vgg_type, message',
    [
        (['conv1_1'], 'vgg12', "vgg_type 'vgg12' is unknown.*Choices: vgg11, .*vgg19_bn"),
        (['conv5_5'], 'vgg19', "vgg19 has no layer 'conv5_5'; did you mean 'conv5_"),
        (['bn1_1'], 'vgg11', "vgg11 has no layer 'bn1_1'"),
        ([], 'vgg11', 'no layer of vgg11 is named; name one or more of conv1_1'),
    ],
)
def test_layers_that_there_are_not(layers, vgg_type, message):
    with pytest.raises(ValueError, match=message):
        VGGFeatureExtractor(layers, vgg_type)


def test_pictures_differ_by_their_features(here):
    """That the tests above compare something: an edge is seen, a flat picture is not."""
    extractor = VGGFeatureExtractor(['relu1_1'], 'vgg11')
    flat = torch.full((1, 3, 16, 16), 0.5)
    edge = flat.clone()
    edge[..., 8:] = 1
    spread = [np.ptp(extractor(img)['relu1_1'][0, :, 8, 2:-2].numpy(), axis=1).max() for img in (flat, edge)]
    assert spread[0] < 1e-5 < 0.1 < spread[1]
