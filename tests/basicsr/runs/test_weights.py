"""Weights as others save them, and tensors that no network takes."""

import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from basicsr.archs import build_network
from basicsr.archs.from_weights import load_network_weights, network_options
from basicsr.inference import Restorer
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights, save_checkpoint

SMALL = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2}


def network(seed=0):
    torch.manual_seed(seed)
    return build_network(SMALL)


def prefixed(weights, prefix):
    return {f'{prefix}{name}': value for name, value in weights.items()}


WEIGHTS, OTHERS = network(0).state_dict(), network(1).state_dict()
COUNTERS = {'total_ops': torch.zeros(1), 'body.total_params': torch.zeros(1), 'n_averaged': torch.tensor(3)}
LIGHTNING = {
    **{'epoch': 3, 'global_step': 100, 'pytorch-lightning_version': '2.1.0', 'optimizer_states': [{'state': {}}]},
    **{'lr_schedulers': [], 'callbacks': {}, 'hyper_parameters': {'lr': 1e-4}},
}
FORMS = {
    'bare': WEIGHTS,
    'params': {'params': WEIGHTS},
    'params_ema': {'params_ema': WEIGHTS},
    'model': {'model': WEIGHTS, 'optimizer': {'state': {}, 'param_groups': []}, 'epoch': 3},
    'model_state_dict': {'model_state_dict': WEIGHTS, 'loss': 0.3},
    'state_dict': {'state_dict': WEIGHTS, 'best_acc1': torch.tensor(3.0)},
    'weights': {'weights': WEIGHTS},
    'ema': {'ema': WEIGHTS, 'step': 3},
    'model, nested': {'model': {'state_dict': WEIGHTS, 'name': 'x'}},
    'DataParallel': prefixed(WEIGHTS, 'module.'),
    'compiled, DataParallel': prefixed(WEIGHTS, 'module._orig_mod.'),
    'DataParallel, compiled, FSDP': prefixed(WEIGHTS, '_orig_mod.module._fsdp_wrapped_module.'),
    'checkpointed within': {
        name.replace('body.0.', 'body.0._checkpoint_wrapped_module.'): WEIGHTS[name] for name in WEIGHTS
    },
    'averaged': {**prefixed(WEIGHTS, 'module.'), 'n_averaged': torch.tensor(5)},
    'counted': {'state_dict': {**WEIGHTS, **COUNTERS}},
    'numbers beside': {**WEIGHTS, 'epoch': 4, 'name': 'x'},
    'Lightning': {**LIGHTNING, 'state_dict': {**prefixed(WEIGHTS, 'net_g.'), **prefixed(OTHERS, 'net_d.')}},
    'Lightning, its average': {
        **LIGHTNING,
        'state_dict': {**prefixed(OTHERS, 'net_g_ema.'), **prefixed(WEIGHTS, 'net_g.')},
    },
    'Lightning, a loss': {'state_dict': {**prefixed(WEIGHTS, 'model.'), 'loss.vgg.0.weight': torch.zeros(3)}},
    'Lightning, compiled': {'state_dict': prefixed(WEIGHTS, 'generator._orig_mod.module.')},
    'netG': {'state_dict': prefixed(WEIGHTS, 'module.netG.')},
    'model.net': {'state_dict': prefixed(WEIGHTS, 'model.net.')},
}


@pytest.mark.parametrize('form', FORMS)
def test_weights_load_as_others_save_them(tmp_path, form):
    path = tmp_path / 'x.ckpt'
    save_checkpoint(FORMS[form], path)
    net = network(2)
    assert load_network_weights(net, path) == []
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in net.state_dict().items())
    restorer = Restorer(path)
    assert restorer.scale == 2
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in restorer.net.state_dict().items())


@settings(max_examples=60, deadline=None)
@given(
    outer=st.sampled_from(['', 'net_g.', 'model.', 'lightning.generator.']),
    wrappers=st.lists(
        st.sampled_from(['module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module']), max_size=4
    ),
    within=st.sampled_from(['', '_orig_mod.', '_checkpoint_wrapped_module.', '_fsdp_wrapped_module._orig_mod.']),
    key=st.sampled_from([None, 'params', 'state_dict', 'model', 'model_state_dict', 'ema', 'weights']),
)
def test_wrappers_in_any_order(outer, wrappers, within, key):
    prefix = outer + ''.join(f'{wrapper}.' for wrapper in wrappers)
    named = {f'{prefix}{name.replace(".0.", f".0.{within}")}': value for name, value in WEIGHTS.items()}
    net = network(2)
    assert load_weights(net, find_weights({key: named} if key else named, 'x.pth'), 'x.pth') == []
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in net.state_dict().items())


def test_a_network_that_is_wrapped_itself_takes_bare_weights_and_the_other_way_round():
    averaged, wrapped = AveragedModel(network(2)), nn.Module()
    wrapped.module, wrapped.head = network(2), nn.Linear(2, 2)
    assert load_weights(averaged, WEIGHTS, 'x.pth') == []
    assert torch.equal(averaged.module.conv_first.weight, WEIGHTS['conv_first.weight'])
    again = find_weights({'params': wrapped.state_dict()}, 'x.pth')
    assert load_weights(wrapped, again, 'x.pth') == []


def test_batch_counters_may_be_absent_or_added():
    net, bare = (
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3)),
    )
    net[1].num_batches_tracked += 7
    without = {name: value for name, value in net.state_dict().items() if 'num_batches' not in name}
    other = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    assert load_weights(other, without, 'x.pth') == [] and torch.equal(other[0].weight, net[0].weight)
    assert load_weights(bare, {**bare.state_dict(), '1.num_batches_tracked': torch.tensor(3)}, 'x.pth') == []


def test_which_weights_are_read_is_said(logged):
    both = {'model': WEIGHTS, 'ema': OTHERS}
    assert torch.equal(find_weights(both, 'x.pth')['conv_first.weight'], WEIGHTS['conv_first.weight'])
    assert logged.warnings() == [
        "x.pth has no 'params': reading 'model'; beside it are 'ema', for which param_key_g asks"
    ]
    assert torch.equal(find_weights(both, 'x.pth', 'ema')['conv_first.weight'], OTHERS['conv_first.weight'])
    load_weights(network(), {**prefixed(OTHERS, 'net_g_ema.'), **prefixed(WEIGHTS, 'net_g.')}, 'x.pth')
    assert 'x.pth: the tensors net_g.* are read; net_g_ema. would fit, too' in [
        one.getMessage() for one in logged.records
    ]


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r'x\.pth holds two tensors conv\.weight'):
        find_weights({'conv.weight': torch.zeros(1), '_orig_mod.conv.weight': torch.ones(1)}, 'x.pth')


def test_safetensors(tmp_path, monkeypatch):
    save_file = pytest.importorskip('safetensors.torch').save_file
    for name in ('x.safetensors', 'x.pth'):
        save_file({name: value.contiguous() for name, value in WEIGHTS.items()}, tmp_path / name, {'format': 'pt'})
        net = network(2)
        assert load_network_weights(net, tmp_path / name) == []
        assert all(torch.equal(value, WEIGHTS[key]) for key, value in net.state_dict().items())
        assert Restorer(tmp_path / name).scale == 2
    content = (tmp_path / 'x.pth').read_bytes()
    for damaged in (content[:-1], content[:100], content[:8] + b'{' * 200 + content[208:], content + b'x'):
        (tmp_path / 'x.pth').write_bytes(damaged)
        with pytest.raises(ValueError, match=r'x\.pth is no readable checkpoint'):
            load_checkpoint(tmp_path / 'x.pth')
    for name in ('safetensors', 'safetensors.torch'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'x\.safetensors is a safetensors file, .* pip install safetensors'):
        load_checkpoint(tmp_path / 'x.safetensors')


def test_not_strict_says_how_much_fits_and_refuses_nothing(logged):
    net, some = network(2), dict(list(WEIGHTS.items())[:3])
    given_ = {**some, 'other.weight': torch.zeros(3), 'conv_last.bias': torch.zeros(17)}
    differences = load_weights(net, given_, 'x.pth', strict=False)
    assert 'only in the file: other.weight' in differences
    assert (
        f'Not strict: 3 of the {len(WEIGHTS)} tensors of the network are loaded, and 3 of the 5 in the file are used'
        in (logged.warnings())
    )
    assert all(torch.equal(net.state_dict()[name], value) for name, value in some.items())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        ValueError, match=rf'x\.pth holds nothing for MSRResNet: of its 2 tensors, none has .* {len(WEIGHTS)}'
    ):
        load_weights(net, {'a.b': torch.zeros(2), 'c.d': torch.zeros(3)}, 'x.pth', strict=False)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert load_weights(net, WEIGHTS, 'x.pth', strict=False) == []


def quantized(value):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


def not_finite(value, number):
    return value.index_fill(0, torch.tensor([1]), number)


LINEAR = torch.arange(6.0).view(3, 2)
REFUSED = {
    'sparse': (LINEAR.to_sparse(), r'weight is sparse \(torch\.sparse_coo\); save \.to_dense\(\)'),
    'compressed': (LINEAR.to_sparse_csr(), r'weight is sparse \(torch\.sparse_csr\)'),
    'quantized': (quantized(LINEAR), r'weight is quantized; save \.dequantize\(\)'),
    'meta': (LINEAR.to('meta'), 'weight has no values: it was saved on the device meta'),
    'nested': (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(1)]), 'weight is nested|more than tensors'),
    'complex': (LINEAR.to(torch.complex64), r'weight holds complex numbers \(torch\.complex64\), .* floats'),
    'truth values': (LINEAR > 2, r'weight holds integers or truth values \(torch\.bool\)'),
    'integers': (LINEAR.to(torch.int8), r'weight holds integers .*\(torch\.int8\), .* floats \(torch\.float32\)'),
    'NaN': (not_finite(LINEAR, torch.nan), 'not finite, take others:\n  weight: 2 of 6 values are NaN or infinite'),
    'Inf': (not_finite(LINEAR.half(), torch.inf), '.*\n  weight: 2 of 6 values are NaN or infinite'),
    'too large': (LINEAR.double() * 1e300, '.*\n  weight: 5 of 6 values are NaN or infinite'),
    'expanded': (torch.zeros(1).expand(2**20, 2**20), r'weight has the shape \(1048576, 1048576\), 4.0 TB, .* 4.0 B'),
    'empty': (torch.zeros(0, 2**40), r'weight has the shape \(0, 1099511627776\), 4.0 TB, .* holds 0.0 B'),
}  # fmt: skip


@pytest.mark.parametrize('kind', REFUSED)
@pytest.mark.filterwarnings('ignore:.*[Ss]parse', 'ignore:.*nested', 'ignore:.*quant')
def test_tensors_that_no_network_takes_are_named(tmp_path, kind):
    value, message = REFUSED[kind]
    torch.save({'params': {'weight': value, 'bias': torch.zeros(3)}}, tmp_path / 'x.pth')
    net = nn.Linear(2, 3)
    before = net.weight.clone()
    for strict in (True, False):
        with pytest.raises(ValueError, match=rf'x\.pth.*{message}'):
            load_network_weights(net, tmp_path / 'x.pth', strict=strict)
    assert torch.equal(net.weight, before)


TAKEN = {
    'float64': LINEAR.double(),
    'float16': LINEAR.half(),
    'bfloat16': LINEAR.bfloat16(),
    'expanded': torch.full((), 3.0).expand(3, 2),
    'transposed': LINEAR.t().contiguous().t(),
    'parameter': nn.Parameter(LINEAR),
    'part of a larger one': torch.arange(60.0).view(6, 10)[1:4, 3:5],
}


@pytest.mark.parametrize('kind', TAKEN)
def test_other_tensors_are_right(tmp_path, kind):
    torch.save({'params': {'weight': TAKEN[kind], 'bias': torch.zeros(3)}}, tmp_path / 'x.pth')
    net = nn.Linear(2, 3)
    assert load_network_weights(net, tmp_path / 'x.pth') == []
    assert net.weight.dtype == torch.float32 and torch.equal(net.weight, TAKEN[kind].float())
    with torch.no_grad():
        net.weight += 1  # every element has memory of its own
    assert torch.equal(net.weight, TAKEN[kind].float() + 1)


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('mask', torch.tensor([0.0, -torch.inf]))
        self.register_buffer('index', torch.tensor([1, 2]))
        self.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        self.told = None

    def get_extra_state(self):
        return {'told': self.told}

    def set_extra_state(self, state):
        self.told = state['told']


def test_buffers_have_their_own_rules(tmp_path):
    """Infinite where the network's is; whole floats for integers; complex for complex; extra state goes along."""
    first, net = Buffers(), Buffers()
    first.told = 'so'
    save_checkpoint({'params': {**first.state_dict(), 'index': torch.tensor([3.0, 4.0])}}, tmp_path / 'x.pth')
    assert load_network_weights(net, tmp_path / 'x.pth') == []
    assert net.index.tolist() == [3, 4] and net.mask.tolist() == [0, -torch.inf] and net.told == 'so'
    for name, value in (('index', torch.tensor([3.5, 4])), ('index', torch.tensor([1j, 2])), ('phase', torch.zeros(2))):
        with pytest.raises(ValueError, match=f'x.pth: the tensor {name} holds'):
            load_weights(net, {**first.state_dict(), name: value}, 'x.pth')


def test_tensors_that_share_storage_stay_right(tmp_path):
    shared = torch.arange(12.0)
    torch.save({'a.weight': shared[:6].view(3, 2), 'b.weight': shared[3:9].view(3, 2)}, tmp_path / 'x.pth')
    net = nn.ModuleDict({'a': nn.Linear(2, 3, bias=False), 'b': nn.Linear(2, 3, bias=False)})
    assert load_network_weights(net, tmp_path / 'x.pth') == []
    assert net['a'].weight.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert net['b'].weight.flatten().tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    'name, value',
    [
        ('layers.999999999.residual_group.blocks.0.self_attention.A_logs', torch.zeros(4, 2)),
        ('layers.0.residual_group.blocks.0.self_attention.A_logs', torch.zeros(0, 0)),
        ('layers.0.residual_group.blocks.0.self_attention.A_logs', torch.zeros(3)),
        ('body.0.rdb1.conv1.weight', torch.zeros(())),
        ('body.999999999.conv1.weight', torch.zeros(3, 3, 3, 3)),
        ('conv_up1.weight', torch.zeros(0, 3, 3, 3)),
    ],
)
@pytest.mark.parametrize('first', [torch.zeros(4, 3, 3, 3), torch.zeros(0, 3, 3, 3), torch.zeros(3), torch.zeros(())])
def test_names_and_shapes_of_no_network_are_refused_at_once(name, value, first):
    with pytest.raises(ValueError, match=r'x\.pth fits no network that is known here'):
        network_options({'conv_first.weight': first, 'conv_last.weight': first, name: value}, 'x.pth')
