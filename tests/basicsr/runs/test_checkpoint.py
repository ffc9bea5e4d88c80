import os
import pickle

import pytest
import torch
from torch import nn

from basicsr.runs.checkpoint import (
    find_weights,
    load_checkpoint,
    load_weights,
    prune_checkpoints,
    save_checkpoint,
)
from basicsr.utils.misc import get_random_state, set_random_state


def test_round_trip_leaves_one_file(tmp_path):
    path = tmp_path / 'a.pth'
    save_checkpoint({'params': {'w': torch.arange(3)}}, path)
    assert torch.equal(load_checkpoint(path)['params']['w'], torch.arange(3))
    assert os.listdir(tmp_path) == ['a.pth']


def test_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / 'a.pth'
    save_checkpoint({'x': 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint({'x': lambda: 0}, path)
    assert load_checkpoint(path) == {'x': 1}
    assert os.listdir(tmp_path) == ['a.pth']


class Evil:
    def __reduce__(self):
        return os.system, ('touch owned',)


@pytest.mark.parametrize('how', ['truncated', 'text', 'empty', 'code', 'missing'])
def test_bad_files_are_refused_by_name(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'bad.pth'
    if how == 'truncated':
        save_checkpoint({'w': torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:1500])
    elif how == 'code':
        torch.save({'w': Evil()}, path)
    elif how != 'missing':
        path.write_text('hello' if how == 'text' else '')
    with pytest.raises((ValueError, FileNotFoundError), match=r'bad\.pth'):
        load_checkpoint(path)
    assert not (tmp_path / 'owned').exists()


@pytest.mark.parametrize('wrap', [lambda w: w, lambda w: {'params': w}, lambda w: {'params_ema': w, 'params': {}}])
def test_weights_are_found_and_prefixes_taken_off(wrap):
    weights = {'module.conv.weight': torch.zeros(1), '_orig_mod.conv.bias': torch.ones(1)}
    key = 'params_ema' if 'params_ema' in wrap(weights) else 'params'
    assert list(find_weights(wrap(weights), 'x.pth', key)) == ['conv.weight', 'conv.bias']


def test_no_weights_is_an_error():
    with pytest.raises(ValueError, match=r"x\.pth holds no weights under 'params'; it holds: epoch, iter"):
        find_weights({'epoch': 1, 'iter': 2}, 'x.pth')


def test_mismatch_lists_ten_at_most_or_loads_what_fits():
    net = nn.Sequential(*[nn.Linear(2, 2) for _ in range(8)])
    weights = {f'other.{index}': torch.zeros(1) for index in range(3)}
    weights['0.weight'] = torch.ones(2, 2)
    weights['1.weight'] = torch.ones(3, 2)
    with pytest.raises(ValueError) as error:
        load_weights(net, weights, 'x.pth')
    assert 'x.pth does not fit the network Sequential' in str(error.value)
    assert len(str(error.value).splitlines()) == 12
    differences = load_weights(net, weights, 'x.pth', strict=False)
    assert '1.weight: (3, 2) in the file, (2, 2) in the network' in differences
    assert torch.equal(net[0].weight, torch.ones(2, 2))


def test_random_states_survive_a_file(tmp_path):
    import random

    import numpy as np

    save_checkpoint(get_random_state(), tmp_path / 'r.state')
    first = (random.random(), np.random.rand(), torch.rand(1).item())
    set_random_state(load_checkpoint(tmp_path / 'r.state'))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_named(value, dtype):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weights['0.weight'] = weights['0.weight'].to(dtype)
    weights['0.weight'][1] = value
    weights['1.running_var'][2] = value
    before = net[0].weight.clone()
    with pytest.raises(ValueError, match=r'x\.pth holds weights that are not finite') as error:
        load_weights(net, weights, 'x.pth')
    assert '\n  0.weight: 2 of 6 values are NaN or infinite\n  1.running_var: 1 of 3 values' in str(error.value)
    assert torch.equal(net[0].weight, before), 'nothing is loaded of them'
    with pytest.raises(ValueError, match=r'0\.weight: 2 of 6'):
        load_weights(net, weights, 'x.pth', strict=False)


def test_a_mask_that_is_built_of_infinity_may_be_loaded():
    net = nn.Linear(2, 2)
    net.register_buffer('mask', torch.full((2, 2), -torch.inf).triu(1))
    assert load_weights(net, net.state_dict(), 'x.pth') == []


def test_a_checkpoint_that_cannot_be_deleted_ends_no_run(tmp_path, logged):
    for name in ('1', '2', '3'):
        (tmp_path / name).touch()
    (tmp_path / '1').unlink()
    (tmp_path / '1').mkdir()  # which `unlink` refuses, for root, too
    written = {1: {'1'}, 2: {'2'}, 3: {'3'}}
    prune_checkpoints(tmp_path, written, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['1', '3'] and written == {3: {'3'}}
    (said,) = logged.warnings()
    assert said.startswith(f'logger.keep_checkpoints: {tmp_path / "1"} could not be deleted: ')
