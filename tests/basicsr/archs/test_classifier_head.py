"""Heads for other classes than those of a file of weights."""

import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.classifier_head import with_own_head
from basicsr.runs.checkpoint import save_checkpoint


@pytest.mark.parametrize('kind, name', [('timm', 'test_efficientnet'), ('torchvision', 'shufflenet_v2_x0_5')])
def test_a_new_head_begins_as_linear_layers_do(kind, name, tmp_path):
    net = build_network({'type': kind, 'name': name, 'num_classes': 11})
    save_checkpoint(net.state_dict(), tmp_path / 'net.pth')
    new = build_network({'type': kind, 'name': name, 'num_classes': 4, 'pretrained': tmp_path / 'net.pth'})
    (layer,) = new.head_prefixes
    weight, bias = (new.get_parameter(f'{layer}.{part}') for part in ('weight', 'bias'))
    bound = weight.shape[1] ** -0.5
    assert 0.9 * bound < weight.abs().max() <= bound and bias.abs().max() <= bound
    assert set(new.new_layers) == {f'{layer}.weight', f'{layer}.bias'}
    own = net.state_dict()
    for key, value in new.state_dict().items():
        if not key.startswith(layer):
            assert torch.equal(value, own[key]), key


def test_a_head_of_the_file_s_classes_is_the_file_s():
    own = {'body': torch.zeros(3), 'head.weight': torch.zeros(2, 3), 'head.bias': torch.zeros(2)}
    weights = {'body': torch.ones(3), 'head.weight': torch.ones(2, 3), 'head.bias': torch.ones(2)}
    assert with_own_head(weights, own, ('head',), 'file') == (weights, ())
