"""WiSE-FT on top of each of the others: against the same run without it."""

import pytest
import torch

from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.basicsr.models.test_models import build, loader, pictures
from tests.basicsr.strategies import test_baselines
from tests.basicsr.strategies.test_baselines import TwoConvs, run
from tests.basicsr.strategies.test_strategies import (
    SMALL,
    begun,
    iterations,
    name_of,
    prepared,
    pretrained,
    published,
    same,
    section,
    written,
)

__all__ = ['pictures', 'pretrained', 'written']

folder = test_baselines.folder

BELOW = [label for label in SMALL if name_of(label) != 'wise_ft']


def interpolated(start, end, alpha):
    """In double precision."""
    return {name: (1 - alpha) * start[name].double() + alpha * end[name].double() for name in start}


def assert_near(found, expected):
    """To the precision of float32."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=3e-7, atol=3e-8)


@pytest.mark.parametrize('alpha', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('below', BELOW)
def test_wise_ft_interpolates_what_the_other_publishes(written, tmp_path, below, alpha):
    plain, opt = written([below]), written([below], wise_ft=alpha)
    start = published(prepared(plain))  # with its head warmed up, where that is asked for
    if 'warmed' not in below:
        assert same(dict(start), load_checkpoint(tmp_path / 'TwoConvs.pth')['params'])
    without, model = iterations(prepared(plain), plain, 1, 5), iterations(prepared(opt), opt, 1, 5)
    assert same(model.strategy.inner.state_dict(), without.strategy.state_dict()), 'it trains as if nothing were'
    other, found = published(without), published(model)
    assert not same(other, dict(start))
    assert_near(found, interpolated(start, other, alpha))
    if alpha in (0, 1):
        assert same(dict(found), dict(other if alpha else start)), 'to the bit'

    model.validation(loader(opt), 5, None)
    model.save(0, 5)
    file = tmp_path / 'models' / 'net_g_5.pth'
    assert same(load_checkpoint(file), {'params': dict(found)}), 'nothing else, over a moving average neither'
    alone = build({**opt, 'is_train': False, 'path': {**opt['path'], 'pretrain_network_g': str(file)}})
    alone.validation(loader(opt), 'alone', None)
    assert alone.metric_results == model.metric_results

    save_checkpoint({'params': TwoConvs().state_dict()}, tmp_path / 'TwoConvs.pth')  # others than it began with
    state = load_checkpoint(tmp_path / 'training_states' / '5.state')
    resumed = begun(opt)
    resumed.resume_training(state)
    assert same(published(resumed), found)
    assert same(published(iterations(resumed, opt, 6, 7)), published(iterations(model, opt, 6, 7)))


def test_a_moving_average_is_saved_beside_the_trained_weights(written, tmp_path):
    opt = written(['ema'])
    model = iterations(prepared(opt), opt, 1, 3)
    model.save(0, 3)
    saved = load_checkpoint(tmp_path / 'models' / 'net_g_3.pth')
    assert {*saved} == {'params', 'params_ema'}
    assert same(dict(saved['params']), dict(model.net_g.state_dict()))
    assert same(dict(saved['params_ema']), dict(published(model)))
    assert not same(saved['params'], saved['params_ema'])


@pytest.mark.parametrize('alpha', [0.0, 0.4])
@pytest.mark.parametrize('below', ['ldt', 'ldt, alternating', 'ema', 'swad', 'lp_ft'])
def test_wise_ft_from_an_option_file(folder, below, alpha):
    """With its base named as users name it, LDTModel, and what is selected as best."""
    changes = {f'train__{key}': value for key, value in section([below]).items()}
    changes.update(path__pretrain_network_g=str(folder / 'pretrained.pth'), logger__save_best='psnr')
    if below == 'ldt':
        changes['model_type'] = 'LDTModel'
    name = f'{below.replace(", ", "_")}_{alpha}'
    other, _ = run(folder, f'without_{name}', **changes)
    found, state = run(folder, name, **changes, train__wise_ft=alpha)
    start = load_checkpoint(folder / 'pretrained.pth')['params']
    assert {*found} == {'params'}
    assert_near(found['params'], interpolated(start, other.get('params_ema', other['params']), alpha))
    assert state['strategy']['names'][-1] == 'wise_ft'
    experiment = folder / 'experiments' / name
    best = load_checkpoint(experiment / 'models' / 'net_g_best.pth')
    at = [load_checkpoint(experiment / 'models' / f'net_g_{number}.pth') for number in range(2, 13, 2)]
    assert any(same(one, best) for one in at)
    resume = str(experiment / 'training_states' / '5.state')
    again, _ = run(
        folder,
        f'{name}_again',
        **changes,
        train__wise_ft=alpha,
        path__resume_state=resume,
        path__resume_another_run=True,
    )
    assert same(again, found)
