import pytest
import torch

from basicsr.archs import build_network


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_msrresnet(scale):
    torch.manual_seed(0)
    net = build_network({'type': 'MSRResNet', 'num_feat': 8, 'num_block': 2, 'upscale': scale})
    lq = torch.rand(2, 3, 6, 7)
    output = net(lq)
    assert output.shape == (2, 3, 6 * scale, 7 * scale)
    output.mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    for parameter in net.parameters():
        parameter.data.zero_()
    base = torch.nn.functional.interpolate(lq, scale_factor=scale, mode='bilinear', align_corners=False)
    assert torch.equal(net(lq), base)


def test_msrresnet_is_basicsrs():
    net = build_network({'type': 'MSRResNet'})
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_517_571
    layers = [
        'conv_first',
        *(f'body.{n}.conv{i}' for n in range(16) for i in (1, 2)),
        'upconv1',
        'upconv2',
        'conv_hr',
        'conv_last',
    ]
    assert set(net.state_dict()) == {f'{layer}.{kind}' for layer in layers for kind in ('weight', 'bias')}
    assert net.state_dict()['upconv1.weight'].shape == (256, 64, 3, 3)
    three = build_network({'type': 'MSRResNet', 'upscale': 3}).state_dict()
    assert three['upconv1.weight'].shape == (576, 64, 3, 3) and 'upconv2.weight' not in three
    # Residual branches begin small, so that the first outputs are near the enlarged input.
    lq = torch.rand(1, 3, 16, 16)
    base = torch.nn.functional.interpolate(lq, scale_factor=4, mode='bilinear', align_corners=False)
    assert (net(lq) - base).abs().mean() < 0.05


def test_msrresnet_refuses():
    with pytest.raises(ValueError, match='upscale is 2, 3 or 4, not 8'):
        build_network({'type': 'MSRResNet', 'upscale': 8})
    with pytest.raises(ValueError, match='an input of 2 channels cannot be added to an output of 3'):
        build_network({'type': 'MSRResNet', 'num_in_ch': 2})
