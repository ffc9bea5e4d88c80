"""Networks of spandrel by name and from checkpoints, and back."""

import subprocess
import sys

import pytest
import spandrel
import torch
import yaml
from safetensors.torch import save_file

from basicsr.archs import build_network
from basicsr.archs.from_weights import network_options
from basicsr.archs.spandrel_arch import spandrel_network
from basicsr.archs.swinir_arch import SwinIR
from basicsr.archs.traits import Traits, scale_of, traits_of
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights, save_checkpoint

SAFMN = {'type': 'spandrel', 'architecture': 'SAFMN', 'dim': 8, 'n_blocks': 1, 'upscaling_factor': 2}
SWINIR = {
    **{'type': 'SwinIR', 'img_size': 16, 'window_size': 8, 'embed_dim': 12, 'depths': [2], 'num_heads': [2]},
    **{'mlp_ratio': 2.0, 'upsampler': 'pixelshuffle', 'upscale': 2},
}


@pytest.fixture
def picture():
    return torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def through_spandrel(path, picture):
    return spandrel.ModelLoader().load_from_file(path)(picture)


@pytest.mark.parametrize(
    'options',
    [
        SAFMN,
        {'type': 'spandrel', 'architecture': 'Compact', 'num_feat': 8, 'num_conv': 1, 'upscale': 4},
        {'type': 'spandrel', 'architecture': 'RCAN', 'n_resgroups': 1, 'n_resblocks': 1, 'n_feats': 16, 'scale': 2},
        {'type': 'RRDBNet', 'num_feat': 8, 'num_block': 2, 'scale': 1},
        {'type': 'RRDBNet', 'num_feat': 8, 'num_block': 2, 'scale': 2},
        {'type': 'RRDBNet', 'num_feat': 8, 'num_block': 2, 'scale': 4},
        SWINIR,
        {**SWINIR, 'upsampler': 'nearest+conv', 'upscale': 4, 'resi_connection': '3conv'},
        {**SWINIR, 'upsampler': '', 'upscale': 1},
    ],
    ids=str,
)
def test_what_is_saved_loads_in_spandrel(options, picture, tmp_path):
    net = build_network(options)
    save_checkpoint({'params': net.state_dict()}, tmp_path / 'net_g_1.pth')
    kept = picture.clone()
    with torch.no_grad():
        output = net.eval()(picture)
    assert torch.equal(picture, kept), 'a step runs several networks on one batch'
    scale = scale_of(net)
    assert output.shape == (1, 3, 16 * scale, 24 * scale)
    assert torch.equal(output.clamp(0, 1), through_spandrel(tmp_path / 'net_g_1.pth', picture))


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.pt'])
def test_a_checkpoint_says_what_the_network_is(suffix, picture, tmp_path):
    first, path = build_network(SAFMN), tmp_path / f'first{suffix}'
    if suffix == '.safetensors':
        save_file(first.state_dict(), path)
    else:
        torch.save({'params_ema': first.state_dict()} if suffix == '.pth' else first.state_dict(), path)
    net = build_network({'type': 'spandrel', 'checkpoint': str(path)})
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())
    assert traits_of(net) == traits_of(first) == Traits(size_multiple=8, scale=2)
    assert torch.equal(net.eval()(picture), first.eval()(picture))
    net(picture).mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_an_experiment_needs_its_first_checkpoint_no_more(picture, tmp_path, logged):
    (tmp_path / 'models').mkdir()
    path, first = tmp_path / 'models' / 'net_g_best.pth', tmp_path / 'first.pth'
    torch.save(build_network(SAFMN).state_dict(), first)
    net = build_network({'type': 'spandrel', 'checkpoint': str(first)}).eval()
    first.unlink()
    save_checkpoint({'params': net.state_dict()}, path)
    options = {'network_g': {'type': 'spandrel', 'checkpoint': str(first)}}
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(options))
    weights = find_weights(load_checkpoint(path), path)
    for moved in (False, True):
        if moved:
            (tmp_path / 'options.yml').unlink()
        again = build_network(network_options(weights, path))
        assert load_weights(again, weights, path) == []
        assert torch.equal(again.eval()(picture), net(picture))
    assert network_options(weights, path) == SAFMN
    assert logged.warnings() == []


def test_building_leaves_the_random_numbers_where_the_network_put_them():
    torch.manual_seed(3)
    first = build_network(SAFMN)
    after = torch.rand(1)
    torch.manual_seed(3)
    spandrel_class = type(first)
    second = spandrel_class(dim=8, n_blocks=1, upscaling_factor=2)
    assert torch.equal(torch.rand(1), after)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'either architecture, with its arguments, or checkpoint'),
        ({'architecture': 'DCTLSSA'}, "no architecture 'DCTLSSA'; did you mean 'DCTLSA'.* It has: ATD, AuraSR"),
        ({'architecture': 'SAFMN', 'dims': 8}, "SAFMN takes no option 'dims'; did you mean 'dim'"),
        ({'architecture': 'SAFMN'}, "missing 1 required keyword-only argument: 'dim'"),
        ({'architecture': 'SwinIR'}, 'SwinIR cannot be built from its defaults: shape'),
        ({'architecture': 'MixDehazeNet'}, 'MixDehazeNet of spandrel cannot be trained'),
    ],
)
def test_what_is_none(options, message):
    with pytest.raises(ValueError, match=message) as error:
        build_network({'type': 'spandrel', **options})
    assert len(str(error.value)) < 1000


def test_files_that_are_none(tmp_path):
    path = tmp_path / 'x.pth'
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*x\.pth'):
        build_network({'type': 'spandrel', 'checkpoint': str(path)})
    torch.save({'weight': torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r'x\.pth: spandrel knows no network with such weights, which begin: weight'):
        build_network({'type': 'spandrel', 'checkpoint': str(path)})
    lacking = {name: value for name, value in build_network(SAFMN).state_dict().items() if name != 'to_feat.bias'}
    torch.save(lacking, path)
    with pytest.raises(ValueError, match=r'x\.pth holds no weights that spandrel can load: .*to_feat\.bias') as error:
        build_network({'type': 'spandrel', 'checkpoint': str(path)})
    assert len(str(error.value).splitlines()) == 1
    path.write_text('<html>')
    with pytest.raises(ValueError, match=r'x\.pth is no readable checkpoint'):
        build_network({'type': 'spandrel', 'checkpoint': str(path)})
    path = path.rename(tmp_path / 'x.safetensors')
    with pytest.raises(ValueError, match=r'x\.safetensors is no readable checkpoint: it is a web page'):
        build_network({'type': 'spandrel', 'checkpoint': str(path)})
    with pytest.raises(ValueError, match='checkpoint says what the network is; drop dim'):
        build_network({'type': 'spandrel', 'checkpoint': str(path), 'dim': 8})


@pytest.mark.parametrize(
    ('given', 'mistakes'),
    [
        ({'architecture': 'SAFMN', 'dim': 8}, []),
        ({'checkpoint': 'x.pth'}, []),
        ({}, ['architecture']),
        ({'architecture': 'SAFNM'}, ['architecture']),
        ({'architecture': 'SAFMN', 'dims': 8, 'n_blocks': 1, 'n_block': 1}, ['dims', 'n_block']),
        ({'architecture': 'SAFMN', 'checkpoint': 'x.pth', 'dim': 8}, ['architecture', 'dim']),
    ],
)
def test_mistakes_in_option_files_are_found_before_anything_is_built(given, mistakes):
    assert [key for key, _ in spandrel_network.check_options(given)] == mistakes


def test_swinir_is_a_class_to_inherit_from(picture):
    class Doubled(SwinIR):
        def forward_features(self, x):
            return 2 * super().forward_features(x)

    options = {key: value for key, value in SWINIR.items() if key != 'type'}
    torch.manual_seed(0)
    plain = SwinIR(**options).eval()
    torch.manual_seed(0)
    doubled = Doubled(**options).eval()
    assert doubled(picture).shape == (1, 3, 32, 48)
    assert not torch.equal(doubled(picture), plain(picture))
    plain.norm.weight.data *= 2
    torch.testing.assert_close(doubled(picture), plain(picture))


def test_swinir_recomputes_behind_frozen_layers(picture):
    gradients = []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        net = build_network({**SWINIR, 'use_checkpoint': use_checkpoint, 'drop_path_rate': 0.0})
        net.conv_first.requires_grad_(False)
        net.patch_embed.requires_grad_(False)
        net(picture).mean().backward()
        gradients.append({name: one.grad for name, one in net.named_parameters() if one.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'img_size': 20}, 'img_size must be a multiple of window_size, which is 8; it is 20'),
        ({'num_heads': [2, 2]}, 'depths and num_heads give the number of groups: 1, or 2'),
        ({'num_heads': [5]}, 'embed_dim must be a multiple of num_heads, which is 5; it is 12'),
        ({'upsampler': 'pixelshufle'}, "upsampler is one of 'pixelshuffle'.*, not 'pixelshufle'"),
        ({'upsampler': 'nearest+conv', 'upscale': 3}, 'upscale is 2, 4 or 8'),
        ({'resi_connection': '2conv'}, "not '2conv'"),
        ({'patch_size': 4}, 'patch_size must be 1, not 4'),
        ({'embed_dims': 12}, "no argument 'embed_dims'; did you mean 'embed_dim'"),
    ],
)
def test_swinirs_mistakes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build_network({**SWINIR, **changes})
    key, said = next(SwinIR.check_options({**SWINIR, **changes}))
    assert key in changes or key == 'embed_dim', said


WITHOUT = """
import sys
sys.modules['{package}'] = None
from basicsr.archs import build_network
from basicsr.archs.from_weights import network_options
import torch
try:
    build_network({options})
except ImportError as error:
    print(error)
try:
    network_options({{'weight': torch.zeros(1)}}, 'x.pth')
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ('package', 'options'),
    [('spandrel', SAFMN), ('spandrel', SWINIR), ('timm', {'type': 'timm', 'name': 'resnet18'})],
)
def test_without_the_package_one_line_says_how_to_get_it(package, options):
    code = WITHOUT.format(package=package, options=options)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert f"needs {package}: pip install -e '.[{package}]'" in lines[0]
    assert 'fits no network that is known here' in lines[1]


def test_nothing_is_imported_that_is_not_used():
    code = 'import sys, basicsr.archs; print({"spandrel", "timm", "safetensors"} & sys.modules.keys())'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == 'set()'
