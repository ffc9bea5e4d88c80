"""Vision Mamba: the golden numbers, names of weights, precision, initialisation, and what is refused."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from basicsr.archs import build_network, vim_mixer
from basicsr.archs.from_weights import network_options, options_to_rebuild
from basicsr.archs.vim_arch import VisionMamba
from basicsr.archs.vim_weights import resized_positions
from basicsr.ops.selective_scan import available_backends
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights, save_checkpoint
from tests.recipe import fill, images

FOLDER = Path(__file__).parents[2] / 'golden'
GOLDEN = json.loads((FOLDER / 'vim.json').read_text())
NUMBERS = np.load(FOLDER / 'vim.npz')


def filled(case, **more):
    return fill(VisionMamba(**GOLDEN[case]['arch'], **more), GOLDEN[case]['seed']).eval()


def batch(case):
    expected = GOLDEN[case]
    return images(expected['seed'], expected['shape'], expected['arch']['num_classes'])


@pytest.mark.parametrize('backend', available_backends('cpu'))
@pytest.mark.parametrize('case', GOLDEN)
def test_golden(case, backend):
    expected, net = GOLDEN[case], filled(case, scan_backend=backend)
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == expected['keys']
    assert list(net.state_dict()) == list(expected['keys'])
    assert sum(parameter.numel() for parameter in net.parameters()) == expected['parameters']
    pictures, labels = batch(case)
    features = net(pictures, return_features=True).detach().numpy()
    np.testing.assert_allclose(features, NUMBERS[f'{case}.features'], atol=2e-5, rtol=0)
    output = net(pictures)
    np.testing.assert_allclose(output.detach().numpy(), NUMBERS[f'{case}.output'], atol=2e-5, rtol=0)
    loss = cross_entropy(output, labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected['loss'], abs=1e-5)
    for name, parameter in net.named_parameters():
        norm, total = expected['grad_norm_and_sum'][name]
        assert abs(parameter.grad.norm().item() - norm) <= 5e-4 * norm + 1e-6, name
        assert abs(parameter.grad.sum().item() - total) <= 1e-3 * norm + 1e-6, name


def test_golden_input_and_output_of_each_mixer():
    net, seen = filled('tiny_like'), {}
    for name, module in net.named_modules():
        if name.endswith('.mixer'):
            module.register_forward_hook(lambda _, given, made, name=name: seen.update({name: (*given, made)}))
    net(batch('tiny_like')[0])
    assert len(seen) == 4
    for name, tensors in seen.items():
        for kind, tensor in zip(('input', 'output'), tensors, strict=True):
            np.testing.assert_allclose(
                tensor.detach().numpy(), NUMBERS[f'tiny_like.{name}.{kind}'], atol=2e-5, rtol=0, err_msg=name
            )


@pytest.mark.parametrize(
    ('embed_dim', 'stride', 'parameters'),
    [(192, 16, 7_148_008), (192, 8, 7_250_344), (384, 16, 25_796_584), (384, 8, 26_001_256), (768, 16, 97_598_440)],
)
def test_published_configurations(embed_dim, stride, parameters):
    with torch.device('meta'):
        net = VisionMamba(embed_dim=embed_dim, stride=stride, final_pool_type='mean')
    assert sum(value.numel() for value in net.state_dict().values()) == parameters
    assert len(net.state_dict()) == len(list(net.parameters())) == 415
    assert net.input_size == (224, 224)


def small(**changes):
    torch.manual_seed(0)
    plain = {'img_size': 32, 'patch_size': 8, 'stride': 8, 'depth': 3, 'embed_dim': 24, 'd_state': 4}
    return VisionMamba(**{**plain, 'num_classes': 5, 'drop_path_rate': 0.0, **changes})


def test_other_sizes_are_refused():
    net = small(img_size=[32, 48])
    assert net.input_size == (32, 48)
    assert net(torch.rand(1, 3, 32, 48)).shape == (1, 5)
    with pytest.raises(ValueError, match=r'takes inputs of 32 x 48 \(img_size\), not of 48 x 32'):
        net(torch.rand(1, 3, 48, 32))


def test_without_a_head_features_come_out():
    x = torch.rand(2, 3, 32, 32)
    net, with_head = small(num_classes=0).eval(), small().eval()
    load_weights(net, {name: v for name, v in with_head.state_dict().items() if 'head' not in name}, 'x.pth')
    assert torch.equal(net(x), with_head(x, return_features=True))
    assert 'head.weight' not in net.state_dict()


@pytest.mark.parametrize(('depth', 'rates'), [(3, [0, 0.45, 0.9]), (1, [0.9])])
def test_drop_path_is_of_mixers_and_in_training_alone(depth, rates):
    net, x = small(depth=depth, drop_path_rate=0.9), torch.rand(4, 3, 32, 32)
    assert [layer.drop_path.p for layer in net.layers] == pytest.approx(rates)
    assert len({net(x).sum().item() for _ in range(10)}) > 1
    net.eval()
    assert len({net(x).sum().item() for _ in range(3)}) == 1
    dropped = {}
    for layer in net.layers:
        layer.register_forward_hook(lambda _, given, made: dropped.update({len(dropped): (made == 0).all((1, 2))}))
    torch.manual_seed(1)
    net.train()(x)
    assert dropped[depth - 1].any(), 'whole samples are dropped'
    assert depth == 1 or not dropped[0].any()


def test_initialisation():
    net = small(embed_dim=192, depth=4, ssm_cfg={'bias': True})
    for layer in net.layers:
        mixer = layer.mixer
        steps = torch.nn.functional.softplus(mixer.dt_proj.bias)
        assert steps.min() > 0.0009 and steps.max() < 0.101 and steps.std() > 0.01
        assert torch.equal(mixer.dt_proj_b.bias, torch.zeros(384)), 'as released'
        for name in ('A_log', 'A_b_log'):
            torch.testing.assert_close(getattr(mixer, name)[7].exp(), torch.arange(1.0, 5))
        for name, bound in {
            **{'in_proj': 192**-0.5, 'x_proj': 384**-0.5, 'x_proj_b': 384**-0.5, 'dt_proj': 12**-0.5},
            **{'dt_proj_b': 12**-0.5, 'out_proj': 384**-0.5 / 2, 'conv1d': 0.5, 'conv1d_b': 0.5},
        }.items():
            largest = getattr(mixer, name).weight.abs().max().item()
            assert 0.95 * bound < largest <= bound, name
        assert not mixer.in_proj.bias.any() and not mixer.out_proj.bias.any()
    patches = net.patch_embed.proj.weight
    assert patches.std().item() == pytest.approx(192**-0.5, rel=0.02)
    assert patches.abs().max().item() <= 2 * 192**-0.5 / 0.8796 + 1e-6, 'cut off at two deviations'
    assert not net.patch_embed.proj.bias.any() and not net.head.bias.any()
    for weight in (net.head.weight, net.pos_embed, net.cls_token):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert torch.equal(small(init_layer_scale=0.3).layers[1].mixer.gamma, torch.full((24,), 0.3))


def dtypes_in(net, monkeypatch, run):
    """Types that mixers take and give, that norms take, and of A in the scan."""
    seen = {'mixer in': [], 'mixer out': [], 'norm': [], 'scan': set()}

    def scan(u, delta, A, B, C, D, bias, **options):
        seen['scan'] |= {A.dtype}
        return original(u, delta, A, B, C, D, bias, **options)

    original = vim_mixer.selective_scan
    monkeypatch.setattr(vim_mixer, 'selective_scan', scan)

    def keep(key, tensor):
        seen[key].append(tensor.dtype)

    for layer in net.layers:
        layer.mixer.register_forward_pre_hook(lambda _, given: keep('mixer in', given[0]))
        layer.mixer.register_forward_hook(lambda _, given, made: keep('mixer out', made))
        layer.norm.register_forward_pre_hook(lambda _, given: keep('norm', given[0]))
    run()
    return seen


@pytest.mark.parametrize('fused', [True, False])
def test_under_autocast_the_stream_is_float32(fused, monkeypatch):
    net, x = small(fused_add_norm=fused).eval(), torch.rand(2, 3, 32, 32)
    exact = net(x)

    def run():
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(net(x).float(), exact, atol=0.05, rtol=0)

    seen = dtypes_in(net, monkeypatch, run)
    assert seen['scan'] == {torch.float32}
    assert seen['norm'] == [torch.float32] * 3
    assert seen['mixer out'] == [torch.bfloat16] * 3
    # The first hidden state is the embedding, which a float32 token and positions were added to.
    assert seen['mixer in'] == [torch.float32, *[torch.bfloat16 if fused else torch.float32] * 2]


@pytest.mark.parametrize('in_fp32', [True, False])
@pytest.mark.parametrize('fused', [True, False])
def test_weights_of_half_precision(fused, in_fp32, monkeypatch):
    net, x = small(fused_add_norm=fused, residual_in_fp32=in_fp32).eval(), torch.rand(2, 3, 32, 32)
    exact = net(x)
    net.bfloat16()
    seen = dtypes_in(
        net, monkeypatch, lambda: torch.testing.assert_close(net(x.bfloat16()).float(), exact, atol=0.05, rtol=0)
    )
    assert seen['scan'] == {torch.float32}
    assert seen['norm'] == [torch.float32 if fused else torch.bfloat16] * 3
    assert seen['mixer in'] == seen['mixer out'] == [torch.bfloat16] * 3
    stream = net._add_and_norm(net.norm_f, None, torch.rand(1, 2, 24).bfloat16())[1]
    assert stream.dtype == (torch.float32 if in_fp32 else torch.bfloat16)


def test_the_stream_keeps_what_half_precision_rounds_away():
    """1 + 1/512 is no bfloat16: fused norms see it, others see 1; and it is carried on."""
    big, little = torch.ones(1, 1, 24), torch.full((1, 1, 24), 1 / 512).bfloat16()
    little[..., ::2] = 0
    for fused, difference in ((True, True), (False, False)):
        net = small(rms_norm=False, fused_add_norm=fused).bfloat16()
        normed, stream = net._add_and_norm(net.norm_f, big, little)
        assert normed.any() == difference
        torch.testing.assert_close(stream, big + little.float())


def test_float64_is_float64_throughout():
    net, x = small().double().eval(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert net(x).dtype == torch.float64
    torch.testing.assert_close(net(x).float(), small().eval()(x.float()), atol=1e-5, rtol=0)


OFF = {
    **{'if_rope': False, 'if_rope_residual': False, 'if_bidirectional': False, 'if_bimamba': False},
    **{'use_double_cls_token': False, 'pt_hw_seq_len': 14, 'ft_seq_len': None, 'flip_img_sequences_ratio': -1.0},
    **{'initializer_cfg': None, 'device': None, 'dtype': None, 'bimamba_type': 'v2'},
}


def test_what_the_release_has_more_is_accepted_where_it_is_off():
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(small(**OFF).eval()(x), small().eval()(x))
    assert list(VisionMamba.check_options({'type': 'VisionMamba', **OFF})) == []


@pytest.mark.parametrize(
    ('changes', 'key', 'message'),
    [
        ({'if_rope': True}, 'if_rope', 'if_rope is part of no published .* false or left out, not True'),
        ({'ft_seq_len': 14}, 'ft_seq_len', 'null or left out, not 14'),
        ({'flip_img_sequences_ratio': 0.5}, 'flip_img_sequences_ratio', 'not 0.5'),
        ({'if_bidirectional': True}, 'if_bidirectional', 'if_bidirectional'),
        ({'if_devide_out': True}, 'if_devide_out', "no argument 'if_devide_out'; did you mean 'if_divide_out'"),
        ({'final_pool_type': 'all'}, 'final_pool_type', "not 'all'"),
        ({'final_pool_type': 'max'}, 'final_pool_type', 'set if_cls_token to false'),
        ({'pretrained': True}, 'pretrained', 'not fetched: pretrained names their file, or is false'),
        ({'bimamba_type': 'v1'}, 'bimamba_type', "not 'v1'"),
        ({'bimamba_type': 'none'}, 'bimamba_type', "not 'none'"),
        ({'ssm_cfg': {'d_cnv': 4}}, 'ssm_cfg', "no 'd_cnv'; did you mean 'd_conv'"),
        ({'ssm_cfg': {'dt_min': 0.5}}, 'ssm_cfg', r'dt_min is above dt_max: 0\.5 and 0\.1'),
        ({'ssm_cfg': {'expand': 0.01}}, 'ssm_cfg', 'at least 1'),
        ({'patch_size': 40}, 'img_size', 'img_size 32 is smaller than patch_size 40'),
    ],
)
def test_wrong_arguments_are_named(changes, key, message):
    with pytest.raises(ValueError, match=message):
        build_network({'type': 'VisionMamba', 'img_size': 32, 'depth': 1, 'embed_dim': 24, **changes})
    given = {'type': 'VisionMamba', 'img_size': 32, 'embed_dim': 24, **changes}
    assert [name for name, _ in VisionMamba.check_options(given)] == [key]


def test_a_file_with_other_classes(tmp_path, logged):
    first = small()
    save_checkpoint({'params': first.state_dict()}, tmp_path / 'x.pth')
    torch.manual_seed(5)
    again = build_network({**PLAIN, 'num_classes': 5, 'pretrained': str(tmp_path / 'x.pth')})
    other = build_network({**PLAIN, 'num_classes': 7, 'pretrained': str(tmp_path / 'x.pth')})
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    changed = [name for name, value in first.state_dict().items() if value.shape != other.state_dict()[name].shape]
    assert changed == ['head.weight', 'head.bias'] and other(torch.rand(1, 3, 32, 32)).shape == (1, 7)
    said = [record.getMessage() for record in logged.records if 'the head is initialised anew' in record.getMessage()]
    assert len(said) == 1 and said[0].endswith('head.bias, head.weight')
    assert options_to_rebuild({**PLAIN, 'pretrained': 'x.pth'}, 'net_g.pth') == {**PLAIN, 'pretrained': False}


PLAIN = {
    **{'type': 'VisionMamba', 'img_size': 32, 'patch_size': 8, 'stride': 8, 'depth': 3, 'embed_dim': 24, 'd_state': 4},
    **{'final_pool_type': 'mean'},
}


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*x\.pth'):
        small(pretrained=tmp_path / 'x.pth')
    save_checkpoint(small(depth=2).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'(?s)x\.pth does not fit the network VisionMamba.*layers\.2\.mixer'):
        small(pretrained=tmp_path / 'x.pth')
    save_checkpoint(small(img_size=[24, 40]).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x\.pth: pos_embed is not of a square grid.* 15 patches'):
        small(pretrained=tmp_path / 'x.pth')


@pytest.mark.parametrize('middle', [True, False])
def test_another_grid(middle, tmp_path):
    """The class token's row moves to its new place unchanged; the grid is resized as a picture."""
    first = small(use_middle_cls_token=middle)
    save_checkpoint(first.state_dict(), tmp_path / 'x.pth')
    finer = small(use_middle_cls_token=middle, img_size=[32, 64], pretrained=tmp_path / 'x.pth')
    before, after = first.pos_embed.detach()[0], finer.pos_embed.detach()[0]
    old, new = (8, 16) if middle else (0, 0)
    assert torch.equal(after[new], before[old])
    grid = torch.cat([before[:old], before[old + 1 :]]).T.reshape(1, 24, 4, 4)
    expected = interpolate(grid, (4, 8), mode='bicubic', align_corners=False).flatten(2)[0].T
    torch.testing.assert_close(torch.cat([after[:new], after[new + 1 :]]), expected)
    for name, value in first.state_dict().items():
        assert name == 'pos_embed' or torch.equal(value, finer.state_dict()[name])


def test_positions_without_a_class_token():
    positions = torch.rand(1, 9, 2)
    torch.testing.assert_close(resized_positions(positions, (3, 3), False, False), positions)
    assert resized_positions(positions, (5, 4), False, False).shape == (1, 20, 2)


def test_checkpoints_of_the_authors(tmp_path):
    """Their weights lie under `model`, beside the command line of the training."""
    net, path = small(), tmp_path / 'vim_t_midclstok_76p1acc.pth'
    beside = {'optimizer': {'state': {}, 'param_groups': []}, 'epoch': 3, 'scaler': {}, 'lr_scheduler': {'t': 1.0}}
    command = argparse.Namespace(model='vim_tiny', lr=5e-4, opt_betas=None, nested=argparse.Namespace(x=(1, 2)))
    torch.save({'model': net.state_dict(), **beside, 'model_ema': small().state_dict(), 'args': command}, path)
    again = small(pretrained=path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert network_options(find_weights(load_checkpoint(path), path), path)['type'] == 'VisionMamba'


@pytest.mark.parametrize('case', GOLDEN)
def test_options_from_weights(case):
    arch, weights = GOLDEN[case]['arch'], filled(case).state_dict()
    found = VisionMamba.options_from_weights(weights)
    if case == 'first_class_layernorm':
        assert found is None, '15 patches are of no square picture'
        return
    assert found['num_classes'] == arch['num_classes']
    differing = {key for key in arch if key in found and found[key] != arch[key]}
    invisible = {'overlap_odd': {'stride', 'img_size', 'final_pool_type'}, 'last_token_gamma': {'final_pool_type'}}
    assert differing <= invisible.get(case, {'final_pool_type'}) | {'init_layer_scale', 'img_size'}
    network = VisionMamba(**found)
    assert load_weights(network, weights, 'x.pth') == []
    if case in ('tiny_like', 'max_pool'):
        assert found['img_size'] == arch['img_size'] and found['stride'] == arch['stride']


def test_options_of_the_published_networks():
    for stride in (16, 8):
        with torch.device('meta'):
            weights = VisionMamba(stride=stride).state_dict()
        found = VisionMamba.options_from_weights(weights)
        assert (found['img_size'], found['patch_size'], found['stride']) == (224, 16, stride)
        assert found['final_pool_type'] == 'mean' and found['ssm_cfg'] is None
    assert VisionMamba.task(found) == '1000 classes'
