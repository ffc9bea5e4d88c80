import json
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.ignored import _warn
from basicsr.archs.mambair_arch import MambaIR
from basicsr.ops.selective_scan import available_backends
from tests.recipe import batch, fill

FOLDER = Path(__file__).parents[2] / 'golden'
GOLDEN = json.loads((FOLDER / 'mambair.json').read_text())
OUTPUTS = np.load(FOLDER / 'mambair.npz')


@pytest.mark.parametrize('backend', available_backends('cpu'))
@pytest.mark.parametrize('case', GOLDEN)
def test_golden(case, backend):
    expected = GOLDEN[case]
    net = fill(MambaIR(**expected['arch'], scan_backend=backend), expected['seed']).eval()
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == expected['keys']
    assert list(net.state_dict()) == list(expected['keys'])
    size, _, height, width = expected['lq_shape']
    lq, gt = batch(expected['seed'], size, height, width, expected['arch']['upscale'])
    output = net(lq)
    np.testing.assert_allclose(output.detach().numpy(), OUTPUTS[f'{case}.output'], atol=1e-4, rtol=0)
    loss = (output - gt).abs().mean()
    loss.backward()
    assert loss.item() == pytest.approx(expected['loss'], abs=1e-5)
    for name, parameter in net.named_parameters():
        norm, total = expected['grad_norm_and_sum'][name]
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-9), name
        assert parameter.grad.sum().item() == pytest.approx(total, rel=1e-3, abs=1e-3 * norm + 1e-9), name


def test_official_x4_configuration():
    with torch.device('meta'):
        net = MambaIR(
            upscale=4,
            img_size=64,
            embed_dim=180,
            depths=[6] * 6,
            d_state=16,
            mlp_ratio=2,
            upsampler='pixelshuffle',
            resi_connection='1conv',
        )
    state = net.state_dict()
    assert sum(value.numel() for value in state.values()) == 20_569_575
    assert len(state) == len(list(net.parameters())) == 928


def small(**changes):
    torch.manual_seed(0)
    return MambaIR(
        **{'embed_dim': 30, 'depths': [1, 2], 'd_state': 4, 'mlp_ratio': 1.0, 'drop_path_rate': 0, **changes}
    )


def test_checkpointing_changes_no_gradient():
    x = torch.rand(2, 3, 6, 7)
    gradients = []
    for use_checkpoint in (False, True):
        net = small(use_checkpoint=use_checkpoint)
        net(x).square().mean().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_stochastic_depth_in_training_alone():
    net, x = small(drop_path_rate=0.9), torch.rand(1, 3, 6, 6)
    rates = [module.p for module in net.modules() if type(module).__name__ == 'StochasticDepth']
    assert rates == pytest.approx([0, 0.45, 0.9])
    assert len({net(x).sum().item() for _ in range(10)}) > 1
    net.eval()
    assert len({net(x).sum().item() for _ in range(3)}) == 1


def test_any_size_grey_and_range_255():
    net = small(in_chans=1, upscale=2, upsampler='pixelshuffle', img_range=255.0)
    assert net(torch.rand(2, 1, 5, 9)).shape == (2, 1, 10, 18)
    assert torch.equal(net.mean, torch.zeros(1, 1, 1, 1))


def test_initial_steps_lie_in_their_range():
    steps = torch.nn.functional.softplus(small().layers[0].residual_group.blocks[0].self_attention.dt_projs_bias)
    assert steps.min() >= 0.0009 and steps.max() <= 0.101
    assert steps.std() > 0.005


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'upsampler': 'nearest+conv'}, 'nearest'),
        ({'resi_connection': '2conv'}, '2conv'),
        ({'embed_dim': 16}, 'at least 30'),
        ({'drop_rates': 0.1}, "no argument 'drop_rates'; did you mean 'drop_rate'"),
        ({'upsampler': 'pixelshuffle', 'upscale': 5}, 'upscale is a power of two or 3 .*, not 5'),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_options_build_it_and_name_what_it_does_not_take():
    assert isinstance(build_network({'type': 'MambaIR', 'embed_dim': 30, 'depths': [1], 'd_state': 2}), MambaIR)
    with pytest.raises(ValueError, match="'embed_dimm'; did you mean 'embed_dim'"):
        build_network({'type': 'MambaIR', 'embed_dimm': 30})
    with pytest.raises(KeyError, match=r"'MambaIRR'; did you mean 'MambaIR'.*Bicubic"):
        build_network({'type': 'MambaIRR'})


def test_what_the_authors_class_ignores_is_ignored_and_said_once(logged):
    ignored = {'patch_size': 8, 'window_size': 16, 'num_heads': [6, 6], 'interval': 4, 'anything': None}
    _warn.cache_clear()
    x = torch.rand(1, 3, 6, 6)
    plain = small()(x)
    for _ in range(2):
        assert torch.equal(small(**ignored)(x), plain)
    assert logged.warnings() == [
        'MambaIR ignores what it has no use for: anything, interval, num_heads, patch_size, window_size'
    ]
    small(patch_size=1)
    assert len(logged.warnings()) == 1
