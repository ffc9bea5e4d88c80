"""Networks from their weights, and what the message says about a file that is not what it should be."""

import itertools
import tarfile
import zipfile

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.from_weights import load_network_weights, network_options
from basicsr.runs.checkpoint import find_weights, load_checkpoint, save_checkpoint
from basicsr.utils.registry import ARCH_REGISTRY

SMALL = {'type': 'MambaIR', 'embed_dim': 30, 'depths': [1], 'd_state': 2, 'mlp_ratio': 1.0}
MAMBAIR = [
    {'upsampler': upsampler, 'upscale': upscale}
    for upsampler, upscale in [('', 1), *itertools.product(('pixelshuffle', 'pixelshuffledirect'), (1, 2, 3, 4, 8))]
] + [
    {'upsampler': 'pixelshuffledirect', 'upscale': 3, 'in_chans': 1},
    {'upsampler': '', 'upscale': 1, 'in_chans': 1},
    {'upsampler': 'pixelshuffle', 'upscale': 2, 'in_chans': 4, 'depths': [2, 1, 3]},
    {'upsampler': 'pixelshuffle', 'upscale': 4, 'patch_norm': False, 'resi_connection': '3conv', 'embed_dim': 36},
    {'upsampler': '', 'upscale': 1, 'd_state': 5, 'mlp_ratio': 1.7, 'embed_dim': 50},
    {'upsampler': '', 'upscale': 1, 'mlp_ratio': 1.23, 'embed_dim': 33},
]
MSRRESNET = [
    {'num_in_ch': in_ch, 'num_out_ch': out_ch, 'num_feat': feat, 'num_block': block, 'upscale': upscale}
    for (in_ch, out_ch), feat, block, upscale in itertools.product(((3, 3), (1, 1), (1, 3)), (4, 8), (0, 2), (2, 3, 4))
]
BASICSRS = [
    {'type': 'EDSR', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 4, 'num_block': 3, 'upscale': 3},
    {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 6, 'num_block': 1, 'upscale': 8},
    {
        **{'type': 'RCAN', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_group': 2, 'num_block': 3},
        **{'squeeze_factor': 4, 'upscale': 2},
    },
    *(
        {
            **{'type': 'RRDBNet', 'num_in_ch': channels, 'num_out_ch': channels, 'scale': scale, 'num_feat': 4},
            **{'num_block': 2, 'num_grow_ch': 3},
        }
        for channels, scale in itertools.product((1, 3), (1, 2, 4))
    ),
]
SWINIR = {
    **{'type': 'SwinIR', 'img_size': 16, 'in_chans': 3, 'embed_dim': 12, 'depths': [2, 1], 'num_heads': [2, 3]},
    **{'window_size': 8, 'mlp_ratio': 2.0, 'qkv_bias': True, 'ape': False, 'patch_norm': True, 'upscale': 1},
    **{'upsampler': '', 'resi_connection': '1conv'},
}
SWINIRS = [
    {'upsampler': upsampler, 'upscale': upscale}
    for upsampler, upscale in (('pixelshuffle', 3), ('pixelshuffledirect', 4), ('nearest+conv', 4), ('nearest+conv', 2))
] + [
    {'in_chans': 1, 'img_size': 14, 'window_size': 7, 'resi_connection': '3conv'},
    {'ape': True, 'patch_norm': False, 'qkv_bias': False, 'img_size': 8, 'depths': [1, 1]},
]


def weights_of(**options):
    return build_network(options).state_dict()


@pytest.mark.parametrize('changes', MAMBAIR, ids=str)
def test_mambair_round_trip(changes):
    options = {**SMALL, **changes}
    found = network_options(weights_of(**options), 'x.pth')
    ratio, asked = found.pop('mlp_ratio'), options.pop('mlp_ratio')
    assert int(ratio * options['embed_dim']) == int(asked * options['embed_dim'])
    assert found == {'in_chans': 3, 'patch_norm': True, 'resi_connection': '1conv', **options}


@pytest.mark.parametrize('options', MSRRESNET, ids=str)
def test_msrresnet_round_trip(options):
    assert network_options(weights_of(type='MSRResNet', **options), 'x.pth') == {'type': 'MSRResNet', **options}


@pytest.mark.parametrize('options', BASICSRS, ids=str)
def test_basicsrs_networks_round_trip(options):
    assert network_options(weights_of(**options), 'x.pth') == options


@pytest.mark.parametrize('changes', SWINIRS, ids=str)
def test_swinir_round_trip(changes):
    options = {**SWINIR, **changes}
    assert network_options(weights_of(**options), 'x.pth') == options


def test_every_rounded_ratio_is_found():
    rule = ARCH_REGISTRY.get('MambaIR').options_from_weights
    for embed_dim in (30, 60, 96, 174, 180):
        for inner in range(1, 3 * embed_dim):
            scan = {'layers.0.residual_group.blocks.0.self_attention.A_logs': torch.empty(4 * inner, 2, device='meta')}
            found = rule({'conv_first.weight': torch.empty(embed_dim, 3, 3, 3, device='meta'), **scan})
            assert int(found['mlp_ratio'] * embed_dim) == inner


def test_what_shapes_do_not_show_is_said(logged):
    network_options(weights_of(**SMALL, img_range=255.0), 'x.pth')
    lines = [record.getMessage() for record in logged.records]
    assert any(line.startswith('By its names and shapes x.pth holds MambaIR for denoising') for line in lines)
    assert 'What shapes do not show has its default: img_range' in lines


@pytest.fixture
def experiment(tmp_path):
    """An experiment with weights of img_range 255, whose options say so."""
    (tmp_path / 'models').mkdir()
    file = tmp_path / 'models' / 'net_g_best.pth'
    options = {**SMALL, 'img_range': 255.0}
    save_checkpoint({'params': weights_of(**options)}, file)
    (tmp_path / 'options.yml').write_text(yaml.safe_dump({'name': 'x', 'network_g': options}))
    return file


def found_for(file):
    return network_options(find_weights(load_checkpoint(file), file), file)


def test_saved_options_say_what_shapes_do_not(experiment):
    assert found_for(experiment) == {**SMALL, 'img_range': 255.0}
    moved = experiment.rename(experiment.parent.parent / 'elsewhere.pth')
    assert 'img_range' not in found_for(moved)


@pytest.mark.parametrize(
    'text', ['network_g: {type: MSRResNet}', 'network_g: [1', 'network_g: {type: Nothing}', 'a: b']
)
def test_saved_options_that_do_not_fit_are_passed_over(experiment, text, logged):
    (experiment.parent.parent / 'options.yml').write_text(text)
    assert found_for(experiment)['d_state'] == 2
    assert bool(logged.warnings()) == (text != 'a: b')


class OwnNet(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)


def test_networks_of_users(experiment, monkeypatch):
    """By saved options without a rule, by a rule without saved options."""
    monkeypatch.setitem(ARCH_REGISTRY._objects, 'OwnNet', OwnNet)
    weights = OwnNet(5).state_dict()
    (experiment.parent.parent / 'options.yml').write_text('network_g: {type: OwnNet, width: 5}')
    assert network_options(weights, experiment) == {'type': 'OwnNet', 'width': 5}
    with pytest.raises(ValueError, match='is known here: it holds weights of an unknown network'):
        network_options(weights, 'x.pth')
    rule = staticmethod(lambda weights: {'width': len(weights['conv.bias'])})
    monkeypatch.setattr(OwnNet, 'options_from_weights', rule, raising=False)
    assert network_options(weights, 'x.pth') == {'type': 'OwnNet', 'width': 5}


CLASSICAL = {**SMALL, 'upsampler': 'pixelshuffle', 'upscale': 4}
LACKING = {name: value for name, value in weights_of(**SMALL).items() if name != 'norm.bias'}
NEAREST_CONV = {**weights_of(**SMALL), 'conv_up1.weight': torch.zeros(2, 2, 3, 3)}
WRONG_NETWORKS = {
    'classicSRx2': (
        weights_of(**{**CLASSICAL, 'upscale': 2}),
        ['MambaIR for classical super-resolution x2', 'x2 (upscale 2, not 4)'],
    ),
    'lightSRx4': (
        weights_of(**{**CLASSICAL, 'upsampler': 'pixelshuffledirect'}),
        ['lightweight super-resolution x4', "upsampler 'pixelshuffledirect', not 'pixelshuffle'"],
    ),
    'denoising': (weights_of(**SMALL), ['MambaIR for denoising or compression artefacts', 'upscale 1, not 4']),
    'wider': (weights_of(**{**CLASSICAL, 'embed_dim': 31}), ['embed_dim 31, not 30']),
    'MSRResNet': (weights_of(type='MSRResNet', num_feat=4, num_block=1), ['MSRResNet for super-resolution x4']),
    'lacking': (LACKING, ['weights whose nearest network is MambaIR for denoising', 'only in the network: norm.bias']),
    'other upsampler': (
        NEAREST_CONV,
        ['weights whose nearest network is MambaIR for denoising', 'only in the file: conv_up1.weight'],
    ),
    'SwinIR': (
        weights_of(**{**SWINIR, 'upsampler': 'pixelshuffle', 'upscale': 2}),
        [
            'the file holds SwinIR for classical super-resolution x2 (img_size 16',
        ],
    ),
    'EDSR': (weights_of(**BASICSRS[1]), ['the file holds EDSR for super-resolution x8']),
    'HAT': (
        {'layers.0.residual_group.overlap_attn.qkv.weight': torch.zeros(9, 3)},
        ['weights of HAT: layers.0.residual_group.overlap_attn.qkv.weight (9, 3)'],
    ),
    'unknown': (nn.Linear(2, 3).state_dict(), ['weights of an unknown network: weight (3, 2), bias (3,)']),
}


@pytest.mark.parametrize('kind', WRONG_NETWORKS)
def test_wrong_weights_are_called_by_name(kind, tmp_path):
    weights, parts = WRONG_NETWORKS[kind]
    save_checkpoint({'params': weights}, tmp_path / 'classicSRx4.pth')
    with pytest.raises(ValueError, match=r'classicSRx4\.pth does not fit the network MambaIR') as error:
        load_network_weights(build_network(CLASSICAL), tmp_path / 'classicSRx4.pth')
    for part in parts:
        assert part in str(error.value)


def write_html(path):
    path.write_text('\n<!DOCTYPE html>\n<html lang="en"><title>Releases · GitHub</title>' + 'x' * 1000)


def write_zip(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('MambaIR/classicSRx4.pth', b'0' * 100)


def write_tar(path):
    with tarfile.open(path, 'w') as archive:
        archive.add(__file__, 'classicSRx4.pth')


def write_tgz(path):
    with tarfile.open(path, 'w:gz') as archive:
        archive.add(__file__, 'classicSRx4.pth')


def write_picture(extension):
    def write(path):
        path.write_bytes(cv2.imencode(extension, np.zeros((9, 9, 3), np.uint8))[1].tobytes())

    return write


def write_truncated(path):
    save_checkpoint({'params': weights_of(**SMALL)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def write_damaged(path):
    save_checkpoint({'params': {'w': torch.zeros(5000)}}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


WRONG_FILES = {
    'html': (write_html, 'it is a web page, which was saved in place of the file'),
    'lfs': (
        lambda path: path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n'),
        'it is a pointer of git-lfs; `git lfs pull`',
    ),
    'zip': (write_zip, 'it is a zip archive that holds MambaIR/classicSRx4.pth; unpack it'),
    'tar': (write_tar, 'it is an archive (tar); unpack it'),
    'tgz': (write_tgz, 'it is an archive (gzip); unpack it'),
    'keras': (
        lambda path: path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(99)),
        'it is an HDF5 file, as Keras saves weights',
    ),
    'array': (lambda path: np.save(path.open('wb'), np.zeros(3)), 'it is an array of NumPy'),
    'png': (write_picture('.png'), 'it is a picture (PNG)'),
    'jpeg': (write_picture('.jpg'), 'it is a picture (JPEG)'),
    'truncated': (write_truncated, 'its end is missing, 4.9 KB are there; download or save it again'),
    'damaged': (write_damaged, 'it is truncated or damaged'),
    'empty': (lambda path: path.write_bytes(b''), 'it is empty'),
    'text': (lambda path: path.write_text('{"message": "Not Found"}'), 'a text file that begins \'{"message": '),
    'bytes': (lambda path: path.write_bytes(bytes(range(256)) * 9), 'is no '),
    'program': (
        lambda path: torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), str(path)),
        'it is a TorchScript program',
    ),
    'state': (
        lambda path: save_checkpoint({'epoch': 1, 'iter': 500, 'optimizers': [], 'schedulers': []}, path),
        'is the training state of iteration 500, from which a training goes on; weights are in the folder models',
    ),
    'nested': (
        lambda path: save_checkpoint({'student': weights_of(**SMALL), 'step': 3}, path),
        'name one of these as the key of the weights (param_key_g): student',
    ),
    'number': (lambda path: save_checkpoint(3, path), 'holds no weights, but an object of type int'),
}


@pytest.mark.parametrize('kind', WRONG_FILES)
@pytest.mark.filterwarnings('ignore:.*torch.jit')
def test_wrong_files_are_called_by_what_they_are(kind, tmp_path):
    write, part = WRONG_FILES[kind]
    write(tmp_path / 'classicSRx4.pth')
    with pytest.raises(ValueError) as error:
        load_network_weights(nn.Linear(2, 2), tmp_path / 'classicSRx4.pth')
    assert str(error.value).startswith(str(tmp_path / 'classicSRx4.pth'))
    assert part in str(error.value)


def test_what_torch_saves_is_taken_for_nothing_else(tmp_path):
    """All formats that torch has written, and a checkpoint with a name like an archive's."""
    weights = {'params': nn.Linear(2, 2).state_dict()}
    for number, options in enumerate(({}, {'_use_new_zipfile_serialization': False})):
        torch.save(weights, tmp_path / f'{number}.zip', **options)
        assert load_network_weights(nn.Linear(2, 2), tmp_path / f'{number}.zip') == []


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match='it is a folder'):
        load_checkpoint(tmp_path)
