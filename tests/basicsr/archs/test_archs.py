import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.arch_util import DCNv2Pack, flow_warp, resize_flow, to_2tuple, to_3tuple, to_ntuple
from basicsr.archs.rrdbnet_arch import RRDB, ResidualDenseBlock


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


NAMES = {
    'EDSR': ['conv_first', 'body.0.conv1', 'body.0.conv2', 'conv_after_body', 'upsample.0', 'upsample.2', 'conv_last'],
    'RCAN': [
        'conv_first',
        *(f'body.0.residual_group.0.rcab.{part}' for part in ('0', '2', '3.attention.1', '3.attention.3')),
        *('body.0.conv', 'conv_after_body', 'upsample.0', 'upsample.2', 'conv_last'),
    ],
    'RRDBNet': [
        'conv_first',
        *(f'body.0.rdb{block}.conv{conv}' for block in (1, 2, 3) for conv in (1, 2, 3, 4, 5)),
        *('conv_body', 'conv_up1', 'conv_up2', 'conv_hr', 'conv_last'),
    ],
}


@pytest.mark.parametrize(
    ('name', 'single', 'parameters'),
    [('EDSR', {'num_block': 1}, 1_517_571), ('RCAN', {'num_group': 1, 'num_block': 1}, 12_614_915)]
    + [('RRDBNet', {'num_block': 1}, 16_697_987)],
)
def test_names_and_sizes_are_basicsrs(name, single, parameters):
    with torch.device('meta'):
        default, one = build_network({'type': name}), build_network({'type': name, **single})
    assert sum(parameter.numel() for parameter in default.parameters()) == parameters
    assert set(one.state_dict()) == {f'{layer}.{kind}' for layer in NAMES[name] for kind in ('weight', 'bias')}


def test_rcans_20_blocks_have_the_papers_size():
    """The authors' x4 network has 15,592,379, among them 24 of two layers that shift the mean."""
    with torch.device('meta'):
        net = build_network({'type': 'RCAN', 'num_block': 20})
    assert sum(parameter.numel() for parameter in net.parameters()) == 15_592_379 - 24


@pytest.mark.parametrize('name', ['EDSR', 'RCAN'])
def test_colours_are_shifted_and_scaled(name):
    """Where all layers give nothing, the mean colour is left; the range within has no influence on a linear network."""
    net = build_network({'type': name, 'num_feat': 16, 'num_block': 1, 'rgb_mean': [0.1, 0.2, 0.3], 'upscale': 2})
    seen = []
    net.conv_first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 3, 4, 4)
    net(x)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(seen[0], (x - mean) * 255)
    for parameter in net.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(net(x), mean.expand(1, 3, 8, 8))


def test_residual_scales():
    net = build_network({'type': 'EDSR', 'num_feat': 4, 'num_block': 1, 'res_scale': 0.1})
    block, x = net.body[0], torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), x + 0.1 * block.conv2(block.conv1(x).relu()))
    dense = ResidualDenseBlock(4, 2)
    for conv in (dense.conv1, dense.conv2, dense.conv3, dense.conv4, dense.conv5):
        conv.weight.data.zero_()
        conv.bias.data.fill_(1.0)
    torch.testing.assert_close(dense(x), x + 0.2)
    whole = RRDB(4, 2)
    torch.testing.assert_close(whole(x), x + 0.2 * whole.rdb3(whole.rdb2(whole.rdb1(x))))


def test_rrdbnet_takes_pixels_into_channels():
    assert build_network({'type': 'RRDBNet', 'num_feat': 4, 'num_block': 1, 'scale': 1}).conv_first.in_channels == 48
    assert build_network({'type': 'RRDBNet', 'num_feat': 4, 'num_block': 1, 'scale': 2}).conv_first.in_channels == 12


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'type': 'EDSR', 'upscale': 6}, 'scale 6'),
        ({'type': 'EDSR', 'num_in_ch': 1}, 'rgb_mean has 3 values, and num_in_ch is 1, num_out_ch 3'),
        ({'type': 'RCAN', 'num_feat': 8}, 'squeeze_factor is 1 to num_feat, which is 8; not 16'),
        ({'type': 'RRDBNet', 'scale': 3}, 'scale is 1, 2 or 4, not 3'),
    ],
)
def test_what_these_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        build_network(options)


def test_tuples():
    assert to_3tuple(2) == (2, 2, 2) and to_2tuple([1, 2]) == (1, 2) and to_ntuple(1)('ab') == ('ab',)


def test_a_flow_says_where_pixels_come_from():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 3, 4, 2)
    torch.testing.assert_close(flow_warp(x, flow), x)
    flow[..., 0] = 1  # from the pixel on the right
    warped = flow_warp(x, flow)
    torch.testing.assert_close(warped[..., :3], x[..., 1:])
    assert (warped[..., 3] == 0).all()
    torch.testing.assert_close(flow_warp(x, flow, padding_mode='border')[..., 3], x[..., 3])
    with pytest.raises(ValueError, match='the flow is for pictures of'):
        flow_warp(x, flow[:, :2])


def test_a_resized_flow_points_as_far():
    flow = torch.ones(1, 2, 4, 6)
    half = resize_flow(flow, 'ratio', [0.5, 2])
    assert half.shape == (1, 2, 2, 12)
    assert (half[:, 0] == 2).all() and (half[:, 1] == 0.5).all()
    assert torch.equal(resize_flow(flow, 'shape', [2, 12]), half)
    with pytest.raises(ValueError, match="'ratio' or 'shape'"):
        resize_flow(flow, 'size', [2, 12])


def test_a_deformable_convolution_begins_as_half_a_plain_one(logged):
    torch.manual_seed(0)
    pack, x = DCNv2Pack(4, 6, 3, padding=1, deformable_groups=2), torch.randn(2, 4, 5, 5)
    plain = torch.nn.functional.conv2d(x, pack.weight / 2, pack.bias, padding=1)
    torch.testing.assert_close(pack(x, x), plain)
    assert pack.conv_offset.weight.shape == (3 * 2 * 9, 4, 3, 3)
    pack.conv_offset.bias.data[:36] = 60.0
    pack(x, x)
    assert logged.warnings() == ['Offsets of a deformable convolution average 60 pixels']
