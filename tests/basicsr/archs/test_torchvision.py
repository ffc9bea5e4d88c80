"""Networks of torchvision: names, heads, weights of files, and what is refused."""

import pytest
import torch
import torchvision

from basicsr.archs import build_network
from basicsr.archs.from_weights import network_options, options_to_rebuild
from basicsr.archs.torchvision_arch import _head, torchvision_network
from basicsr.runs.checkpoint import load_weights, save_checkpoint

SMALL = {'type': 'torchvision', 'name': 'mobilenet_v3_small', 'num_classes': 7}
HEAD = ('classifier.3.weight', 'classifier.3.bias')


@pytest.fixture(scope='module')
def published():
    """A network with its 1000 classes, as torchvision saves it."""
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v3_small(weights=None)


def same(a, b, without=()):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(value, b[name]) for name, value in a.items() if name not in without)


def test_arguments_go_to_torchvision():
    net = build_network({**SMALL, 'dropout': 0.4})
    assert net.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert net.head_prefixes == ('classifier.3',) and net.input_size is None
    assert next(one.p for one in net.modules() if isinstance(one, torch.nn.Dropout)) == 0.4


@pytest.mark.parametrize(
    ('name', 'head'),
    [
        *(('resnet18', 'fc'), ('squeezenet1_1', 'classifier.1'), ('vgg11', 'classifier.6'), ('swin_t', 'head')),
        *(('densenet121', 'classifier'), ('convnext_tiny', 'classifier.2'), ('vit_b_32', 'heads.head')),
        *(('efficientnet_b0', 'classifier.1'), ('shufflenet_v2_x0_5', 'fc'), ('mobilenet_v2', 'classifier.1')),
    ],
)
def test_heads(name, head):
    with torch.device('meta'):
        nets = [torchvision.models.get_model(name, num_classes=classes).state_dict() for classes in (4, 5)]
        assert _head(torchvision.models.get_model(name)) == head
    differing = {key for key, value in nets[0].items() if value.shape != nets[1][key].shape}
    assert differing == {f'{head}.weight', f'{head}.bias'}


def test_sizes_that_networks_need():
    with torch.device('meta'):
        assert torchvision_network('vit_b_32', num_classes=2).input_size == (224, 224)
        assert torchvision_network('vit_b_32', num_classes=2, image_size=64).input_size == (64, 64)
        assert torchvision_network('maxvit_t', num_classes=2).input_size == (224, 224)
        assert torchvision_network('swin_t', num_classes=2).input_size is None


@pytest.mark.parametrize('form', ['bare', 'params'])
def test_weights_of_a_file(published, form, tmp_path, logged):
    path = tmp_path / 'mobilenet_v3_small-047dcff4.pth'
    torch.save(published.state_dict() if form == 'bare' else {'params': published.state_dict()}, path)
    assert same(build_network({**SMALL, 'num_classes': 1000, 'pretrained': str(path)}), published)
    assert not any('the head is initialised anew' in record.getMessage() for record in logged.records)
    seven = build_network({**SMALL, 'pretrained': str(path)})
    assert same(published, seven, HEAD) and seven(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    said = [record.getMessage() for record in logged.records]
    assert any(
        line.endswith('the file has another number of classes: classifier.3.bias, classifier.3.weight') for line in said
    )


def test_further_heads_of_a_file_are_left_out(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(weights=None, init_weights=False)
    torch.save(theirs.state_dict(), tmp_path / 'googlenet-1378be20.pth')
    given = {'type': 'torchvision', 'name': 'googlenet', 'num_classes': 4, 'init_weights': False}
    net = build_network({**given, 'pretrained': str(tmp_path / 'googlenet-1378be20.pth')})
    assert torch.equal(net.conv1.conv.weight, theirs.conv1.conv.weight)
    assert not any(name.startswith('aux') for name in net.state_dict())
    assert net.train()(torch.rand(2, 3, 64, 64)).shape == (2, 4), 'one output, in training too'


def test_a_training_s_checkpoint_needs_no_other_file(published, tmp_path):
    """The network is built from the options beside it, although the file that it began with is gone."""
    net, models = build_network(SMALL), tmp_path / 'run' / 'models'
    models.mkdir(parents=True)
    save_checkpoint({'params': net.state_dict()}, models / 'net_g_8.pth')
    gone = "network_g: {type: torchvision, name: mobilenet_v3_small, num_classes: 7, pretrained: 'gone.pth'}\n"
    (tmp_path / 'run' / 'options.yml').write_text(gone)
    options = network_options(net.state_dict(), models / 'net_g_8.pth')
    assert options == {**SMALL, 'pretrained': False} == options_to_rebuild({**SMALL, 'pretrained': 'gone.pth'}, 'x')
    again = build_network(options)
    load_weights(again, net.state_dict(), 'net_g_8.pth')
    assert same(again, net)


@pytest.mark.parametrize(
    ('changes', 'key', 'message'),
    [
        ({'name': 'resnet5O'}, 'name', "no classification network 'resnet5O'; did you mean 'resnet50'"),
        ({'name': 'fcn_resnet50'}, 'name', "no classification network 'fcn_resnet50'"),
        ({'pretrained': True}, 'pretrained', 'not fetched: pretrained names their file, or is false'),
        ({'name': 'googlenet', 'aux_logits': True}, 'aux_logits', 'by its last head alone'),
    ],
)
def test_what_is_refused(changes, key, message):
    with pytest.raises(ValueError, match=message):
        build_network({**SMALL, **changes})
    assert [name for name, _ in torchvision_network.check_options({**SMALL, **changes})] == [key]


def test_unknown_arguments_and_files_that_do_not_fit(published, tmp_path):
    assert list(torchvision_network.check_options(SMALL)) == []
    for name, message in (('mobilenet_v3_small', "takes no 'droput'; did you mean 'dropout'"), ('resnet18', 'droput')):
        with pytest.raises(ValueError, match=message):
            build_network({**SMALL, 'name': name, 'droput': 0.3})
    assert build_network({**SMALL, 'width_mult': 0.5}).classifier[0].in_features == 288
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*x\.pth'):
        build_network({**SMALL, 'pretrained': str(tmp_path / 'x.pth')})
    torch.save(published.state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth does not fit the network SqueezeNet:\n  only in the file: features'):
        build_network({**SMALL, 'name': 'squeezenet1_1', 'pretrained': str(tmp_path / 'x.pth')})
