"""Networks of timm: names, arguments, weights of files, and what is said without a net."""

import os
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from basicsr.archs import build_network
from basicsr.archs.from_weights import options_to_rebuild
from basicsr.archs.timm_arch import timm_network
from basicsr.runs.checkpoint import save_checkpoint

SMALL = {'type': 'timm', 'name': 'test_resnet', 'num_classes': 7}
HEAD = ('fc.weight', 'fc.bias')


@pytest.fixture
def first():
    torch.manual_seed(0)
    return build_network(SMALL)


def same(a, b, without=()):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(value, b[name]) for name, value in a.items() if name not in without)


def test_arguments_go_to_timm(first):
    x = torch.rand(2, 3, 32, 32)
    assert first.eval()(x).shape == (2, 7)
    assert first.head_prefixes == ('fc',)
    features = build_network({**SMALL, 'num_classes': 0, 'global_pool': ''})
    assert features.eval()(x).ndim == 4


@pytest.mark.parametrize('form', ['params', 'bare', 'safetensors'])
def test_weights_of_a_file(first, form, tmp_path):
    path = tmp_path / ('x.safetensors' if form == 'safetensors' else 'x.pth')
    if form == 'safetensors':
        save_file(first.state_dict(), path)
    else:
        save_checkpoint({'params': first.state_dict()} if form == 'params' else first.state_dict(), path)
    assert same(build_network({**SMALL, 'pretrained': str(path)}), first)


def test_other_classes_begin_with_a_new_head(first, tmp_path, logged):
    save_checkpoint({'params': first.state_dict()}, tmp_path / 'x.pth')
    net = build_network({**SMALL, 'num_classes': 5, 'pretrained': str(tmp_path / 'x.pth')})
    assert net.fc.weight.shape[0] == 5 and same(first, net, HEAD)
    said = [record.getMessage() for record in logged.records]
    assert any(line.endswith('the file has another number of classes: fc.bias, fc.weight') for line in said)
    none = build_network({**SMALL, 'num_classes': 0, 'pretrained': str(tmp_path / 'x.pth')})
    assert same(none, first)
    without = {name: value for name, value in first.state_dict().items() if name not in HEAD}
    save_checkpoint({'params': without}, tmp_path / 'backbone.pth')
    assert same(first, build_network({**SMALL, 'pretrained': str(tmp_path / 'backbone.pth')}), HEAD)


def test_grey_pictures_take_the_sum_of_the_colours(first, tmp_path):
    save_checkpoint({'params': first.state_dict()}, tmp_path / 'x.pth')
    net = build_network({**SMALL, 'in_chans': 1, 'pretrained': str(tmp_path / 'x.pth')})
    stem = 'conv1.0.weight' if 'conv1.0.weight' in first.state_dict() else 'conv1.weight'
    torch.testing.assert_close(net.state_dict()[stem], first.state_dict()[stem].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'name': 'resnet5O'}, "timm has no network 'resnet5O'; did you mean 'resnet50"),
        ({'name': 'resnet18.a1_in2k'}, "resnet18 of timm has no weights 'a1_in2k'; did you mean 'a1_in1k'.*tv_in1k"),
        ({'depth': 3}, "unexpected keyword argument 'depth'"),
    ],
)
def test_what_is_none(changes, message):
    with pytest.raises(ValueError, match=message):
        build_network({**SMALL, **changes})


def test_files_that_do_not_fit(first, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*x\.pth'):
        build_network({**SMALL, 'pretrained': str(tmp_path / 'x.pth')})
    save_checkpoint({'params': first.state_dict()}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth does not fit test_vit:\n  only in the') as error:
        build_network({**SMALL, 'name': 'test_vit', 'pretrained': str(tmp_path / 'x.pth')})
    assert len(str(error.value).splitlines()) == 7
    narrow = {name: value for name, value in first.state_dict().items() if name != 'bn1.weight'}
    save_checkpoint({'params': narrow}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'only in the network: bn1\.weight'):
        build_network({**SMALL, 'pretrained': str(tmp_path / 'x.pth')})


def renamed(net):
    """The tensors of a network in their order, under names of another port."""
    return {
        f'_part{place}.{name.rpartition(".")[2]}': value for place, (name, value) in enumerate(net.state_dict().items())
    }


def test_a_file_with_other_names_in_the_same_order(first, tmp_path):
    path = tmp_path / 'port.pth'
    save_checkpoint(renamed(first), path)
    given = {**SMALL, 'pretrained': str(path), 'pretrained_match': 'order'}
    assert same(build_network(given), first)
    fewer = build_network({**given, 'num_classes': 3})
    assert fewer.fc.weight.shape[0] == 3 and same(first, fewer, HEAD)
    save_checkpoint({name: value for name, value in renamed(first).items() if not name.endswith('tracked')}, path)
    assert same(build_network(given), first)
    with pytest.raises(ValueError, match=r'(?s)does not fit test_resnet.*pretrained_match: order'):
        build_network({**given, 'pretrained_match': 'name'})


def test_the_first_place_where_the_order_differs(first, tmp_path):
    path, port = tmp_path / 'port.pth', renamed(first)
    given = {**SMALL, 'pretrained': str(path), 'pretrained_match': 'order'}
    names, own = list(port), list(first.state_dict())
    place = next(at for at, name in enumerate(own) if name.endswith('conv2.weight'))
    for changed, message in (
        ({**port, names[place]: torch.zeros(2, 2)}, rf'place {place + 1} {names[place]} of \(2, 2\) stands where'),
        (dict(list(port.items())[:-1]), r'the file ends before fc\.bias'),
        ({**port, 'more': torch.zeros(1)}, 'the network ends before more'),
    ):
        save_checkpoint(changed, path)
        with pytest.raises(ValueError, match=message):
            build_network(given)
    save_file(first.state_dict(), tmp_path / 'sorted.safetensors')  # which keeps no order
    with pytest.raises(ValueError, match='at place'):
        build_network({**given, 'pretrained': str(tmp_path / 'sorted.safetensors')})


def test_tensors_of_equal_shape_are_not_taken_for_each_other(first, tmp_path):
    names = list(first.state_dict())
    place = names.index('bn1.weight')
    names[place], names[place + 1] = names[place + 1], names[place]
    save_checkpoint({name: first.state_dict()[name] for name in names}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'bn1\.bias stands where bn1\.weight should'):
        build_network({**SMALL, 'pretrained': str(tmp_path / 'x.pth'), 'pretrained_match': 'order'})


def test_an_order_without_a_file(tmp_path):
    for pretrained in (True, False):
        given = {**SMALL, 'pretrained': pretrained, 'pretrained_match': 'order'}
        with pytest.raises(ValueError, match='pretrained_match: order is for the file'):
            build_network(given)
        assert [key for key, _ in timm_network.check_options(given)] == ['pretrained_match']
    assert options_to_rebuild({**SMALL, 'pretrained': 'x.pth', 'pretrained_match': 'order'}, 'net_g.pth') == {
        **SMALL,
        'pretrained': False,
    }


@pytest.mark.parametrize('name', ['resnet18', 'vit_tiny_patch16_224'])
def test_weights_saved_by_torchvision(name, tmp_path):
    """Names and shapes of its resnets are those of timm, so its files load; a ViT is another there."""
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / 'resnet18-5c106cde.pth')
    given = {'type': 'timm', 'name': name, 'num_classes': 3, 'pretrained': str(tmp_path / 'resnet18-5c106cde.pth')}
    if name == 'resnet18':
        assert same(theirs, build_network(given), HEAD)
    else:
        with pytest.raises(ValueError, match='does not fit vit_tiny_patch16_224'):
            build_network(given)


def test_resnet50_is_named_as_that_of_torchvision():
    with torch.device('meta'):
        ours, theirs = timm.create_model('resnet50'), torchvision.models.resnet50()
    assert [(name, value.shape) for name, value in ours.state_dict().items()] == [
        (name, value.shape) for name, value in theirs.state_dict().items()
    ]


def test_the_size_that_a_network_needs(first):
    assert first.input_size is None
    assert build_network({'type': 'timm', 'name': 'test_vit', 'num_classes': 2}).input_size is None  # it adapts
    fixed = {'type': 'timm', 'name': 'vit_tiny_patch16_224', 'depth': 1, 'num_classes': 2}
    assert build_network({**fixed, 'img_size': 64}).input_size == (64, 64)
    assert build_network(fixed).input_size == (224, 224)


def test_mistakes_in_option_files_are_found_before_anything_is_built():
    assert list(timm_network.check_options({'name': 'resnet18'})) == []
    assert list(timm_network.check_options({})) == []
    [(key, message)] = timm_network.check_options({'name': 'resnet-18'})
    assert key == 'name' and "did you mean 'resnet18'" in message


def test_weights_that_cannot_be_fetched(tmp_path):
    """The hub's client says so at once where it is told that there is no net."""
    code = (
        'from basicsr.archs import build_network\n'
        f'try: build_network({ {**SMALL, "pretrained": True}!r})\n'
        'except ValueError as error: print(error)'
    )
    environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path), 'TORCH_HOME': str(tmp_path)}
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith('timm: weights of test_resnet cannot be had (')
    assert 'name the file as pretrained: path' in done.stdout


def test_saved_options_fetch_nothing():
    saved = {**SMALL, 'pretrained': True}
    assert options_to_rebuild(saved, 'net_g_best.pth') == {**SMALL, 'pretrained': False}
    assert options_to_rebuild({'type': 'EDSR'}, 'x.pth') == {'type': 'EDSR'}
    assert options_to_rebuild({'type': 'Unknown'}, 'x.pth') == {'type': 'Unknown'}
