"""The perceptual and the style loss, against their definitions, with a VGG of random weights."""

import inspect

import pytest
import torch
import torchvision
from skimage import data

from basicsr.archs import vgg_arch
from basicsr.losses import build_loss
from basicsr.losses.basic_loss import PerceptualLoss

LAYERS = {'conv1_1': 0.5, 'relu2_1': 2.0}
INDICES = {'conv1_1': 0, 'relu2_1': 4}


@pytest.fixture(scope='module')
def vgg():
    """torchvision's vgg11 up to relu2_1, not in place, with random weights."""
    torch.manual_seed(5)
    with torch.device('meta'):
        features = torchvision.models.vgg11(weights=None).features
    features.to_empty(device='cpu')
    for layer in features:
        if isinstance(layer, torch.nn.Conv2d):
            layer.reset_parameters()
            layer.weight.data *= 3
        elif isinstance(layer, torch.nn.ReLU):
            layer.inplace = False
    return features


@pytest.fixture(autouse=True)
def weights(vgg, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / 'vgg11_weights'
    path = folder / 'experiments/pretrained_models/vgg11-8a719046.pth'
    if not path.exists():
        path.parent.mkdir(parents=True)
        torch.save({f'features.{name}': value for name, value in vgg.state_dict().items()}, path)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(vgg_arch, '_PROJECT', folder / 'nowhere')


@pytest.fixture
def pair():
    gt = torch.from_numpy(data.coffee()[100:148, 200:264].transpose(2, 0, 1).copy()).float()[None] / 255
    x = torch.nn.functional.avg_pool2d(gt, 3, 1, 1)
    return torch.cat([x, gt.flip(-1)]), torch.cat([gt, x])


def expected(vgg, x, gt, distance, of=lambda features: features):
    """Sum over layers, weighted, of `distance` of `of` the features."""
    mean, std = (x.new_tensor(one).view(3, 1, 1) for one in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    total = 0
    for name, weight in LAYERS.items():
        part = vgg[: INDICES[name] + 1]
        total = total + weight * distance(of(part((x - mean) / std)), of(part((gt - mean) / std)))
    return total


def gram(features):
    c, h, w = features.shape[1:]
    return torch.einsum('nchw,ndhw->ncd', features, features) / (c * h * w)


DISTANCES = {
    'l1': lambda a, b: (a - b).abs().mean(),
    'l2': lambda a, b: ((a - b) ** 2).mean(),
    'fro': lambda a, b: ((a - b) ** 2).sum().sqrt(),
}


def test_arguments_are_those_of_basicsr():
    defaults = {name: one.default for name, one in inspect.signature(PerceptualLoss).parameters.items()}
    assert defaults.pop('layer_weights') is inspect.Parameter.empty
    assert list(defaults.items()) == [
        ('vgg_type', 'vgg19'), ('use_input_norm', True), ('range_norm', False), ('perceptual_weight', 1.0),
        ('style_weight', 0.0), ('criterion', 'l1'),
    ]  # fmt: skip


@pytest.mark.parametrize('criterion', DISTANCES)
def test_values(vgg, pair, criterion):
    x, gt = pair
    loss = PerceptualLoss(LAYERS, 'vgg11', perceptual_weight=0.7, style_weight=30.0, criterion=criterion)
    percep, style = loss(x, gt)
    torch.testing.assert_close(percep, 0.7 * expected(vgg, x, gt, DISTANCES[criterion]))
    torch.testing.assert_close(style, 30 * expected(vgg, x, gt, DISTANCES[criterion], gram), rtol=1e-4, atol=1e-6)
    assert percep > 0 and style > 0 and loss(gt, gt)[0] == 0


def test_what_has_no_weight_is_none(pair):
    percep, style = PerceptualLoss(LAYERS, 'vgg11')(*pair)
    assert percep.ndim == 0 and style is None
    percep, style = PerceptualLoss(LAYERS, 'vgg11', perceptual_weight=0, style_weight=1)(*pair)
    assert percep is None and style.ndim == 0


def test_signed_pictures(pair):
    plain = PerceptualLoss(LAYERS, 'vgg11')(*pair)[0]
    signed = PerceptualLoss(LAYERS, 'vgg11', range_norm=True)(*(img * 2 - 1 for img in pair))[0]
    torch.testing.assert_close(signed, plain, rtol=1e-4, atol=1e-6)


def test_gradients_flow_to_the_prediction_alone(pair):
    x, gt = (img.clone().requires_grad_() for img in pair)
    loss = PerceptualLoss(LAYERS, 'vgg11', style_weight=1.0)
    sum(loss(x, gt)).backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0
    assert gt.grad is None
    assert all(not one.requires_grad and one.grad is None for one in loss.parameters())
    step = x.detach() - 1e-3 * x.grad / x.grad.abs().max()
    assert sum(loss(step, gt)) < sum(loss(x, gt))


def test_the_options_choose_it():
    opt = {'type': 'PerceptualLoss', 'layer_weights': {'conv2_1': 1}, 'vgg_type': 'vgg11', 'criterion': 'l2'}
    assert build_loss(opt).criterion_type == 'l2'
    with pytest.raises(ValueError, match="unknown criterion 'l3'; choose one of l1, l2, fro"):
        build_loss({**opt, 'criterion': 'l3'})
    with pytest.raises(ValueError, match="vgg11 has no layer 'conv2_2'"):
        build_loss({**opt, 'layer_weights': {'conv2_2': 1}})


def test_options_are_checked_before_a_run(monkeypatch):
    def faults(**given):
        return dict(PerceptualLoss.check_options({'layer_weights': LAYERS, 'vgg_type': 'vgg11', **given}))

    assert faults() == {}
    assert "vgg11 has no layer 'conv9'" in faults(layer_weights={'conv9': 1.0})['layer_weights']
    for name in ('https_proxy', 'HTTPS_PROXY'):  # a port that nothing listens on
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    monkeypatch.setenv('TORCH_HOME', 'empty')
    assert faults(vgg_type='vgg13')['vgg_type'].startswith('vgg13 needs vgg13-19584684.pth, which is not on this')
