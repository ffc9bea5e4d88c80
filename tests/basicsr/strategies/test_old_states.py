"""Training states that were saved before they named their strategy go on, or say in one line why not."""

import copy

import pytest

from basicsr.runs.checkpoint import load_checkpoint, save_checkpoint
from tests.basicsr.models.test_models import pictures
from tests.basicsr.strategies.test_strategies import (
    begun,
    compositions,
    everything,
    iterations,
    prepared,
    pretrained,
    published,
    same,
    written,
)

__all__ = ['pictures', 'pretrained', 'written']

THEN = [
    labels
    for labels in compositions()
    if ('wise_ft' not in labels or labels == ('wise_ft',)) and not any('warmed up' in label for label in labels)
]
"""What could be trained then: WiSE-FT on top of plain training alone, and no warm-up."""


def as_it_was(state):
    """A training state in the shape that it had."""
    state = dict(state)
    strategy = state.pop('strategy')
    names, saved = strategy['names'], strategy['state']
    state['networks'] = {}
    if names == ['ldt']:
        return {**state, 'ldt': saved['decomposition']}
    if names[-1] in ('swad', 'wise_ft'):
        state['average'] = {'option': f'train.{names[-1]}', 'average': saved['averages']}
        saved, names = saved['inner'], names[:-1]
    if names[-1] == 'ema':
        state['networks']['net_g_ema'] = saved['average']
        saved, names = saved['inner'], names[:-1]
    assert names in (['plain'], ['lp_ft'])
    state['networks']['net_g'] = saved['network']
    return state


def saved_then(written, tmp_path, labels, network='TwoConvs'):
    """(a run of five iterations, its options, the file of its state as it was saved then after three)."""
    opt = written(labels, network)
    whole, file = iterations(prepared(opt), opt, 1, 3), tmp_path / 'then.state'
    whole.save(0, 3)
    state = as_it_was(load_checkpoint(tmp_path / 'training_states' / '3.state'))
    assert 'strategy' not in state
    save_checkpoint(state, file)
    return iterations(whole, opt, 4, 5), opt, file


@pytest.mark.parametrize('labels', THEN, ids=lambda labels: ' + '.join(labels) or 'plain')
def test_a_state_saved_then_goes_on(written, tmp_path, labels):
    whole, opt, file = saved_then(written, tmp_path, labels)
    resumed = begun(opt)
    resumed.resume_training(load_checkpoint(file))
    iterations(resumed, opt, 4, 5)
    for key in ('strategy', 'optimizers', 'buffers'):
        assert same(everything(resumed)[key], everything(whole)[key]), key
    assert same(published(resumed), published(whole))


@pytest.mark.parametrize(
    ('saved', 'asked', 'message'),
    [
        ('ldt', 'ema', r'saved by the strategy ldt, and the options ask for plain \+ ema; a run goes on'),
        ('ldt', 'ldt, alternating', r'train\.ldt\.strategy: .* saved with dual, and the options ask for alternating'),
        ('ldt, alternating', 'ldt', r'train\.ldt\.strategy: .* saved with alternating, and the options ask for dual'),
        ('ema', 'ldt', r'saved by the strategy plain \+ ema, and the options ask for ldt'),
        ('swad', 'wise_ft', r'saved by the strategy plain \+ swad, and the options ask for plain \+ wise_ft'),
        ('wise_ft', 'lp_ft', r'saved by the strategy lp_ft \+ wise_ft, and the options ask for lp_ft'),
    ],
)
def test_another_strategy_is_refused(written, tmp_path, saved, asked, message):
    _, _, file = saved_then(written, tmp_path, [saved])
    model = begun(written([asked]))
    before = copy.deepcopy(model.net_g.state_dict())
    with pytest.raises(ValueError, match=message) as error:
        model.resume_training(load_checkpoint(file))
    assert '\n' not in str(error.value)
    assert same(dict(model.net_g.state_dict()), dict(before))


def test_batch_statistics_of_a_moving_average_saved_then(written, tmp_path):
    """The average's own were copies of the trained network's; what is published has them computed, as always."""
    _, opt, file = saved_then(written, tmp_path, ['ema'], 'TwoConvsWithStatistics')
    resumed = begun(opt)
    resumed.resume_training(load_checkpoint(file))
    with resumed.published() as net:
        assert not same(net.batch_norm.running_mean, resumed.net_g.batch_norm.running_mean)
