"""A training state knows which run it is of."""

import re

import pytest
import torch

from basicsr.options.resolve import dict2str
from basicsr.runs.checkpoint import load_checkpoint
from basicsr.runs.identity import check_identity, differences
from tests import small_run

WRITTEN = {
    'name': 'x4',
    'manual_seed': 3,
    'network_g': {'type': 'EDSR', 'num_feat': 8},
    'datasets': {'train': {'gt_size': 16}},
    'path': {'pretrain_network_g': 'a.pth'},
    'train': {'total_iter': 30, 'optim_g': {'lr': 1e-3}, 'ldt': {'exchange_every': 3, 'scoring_batches': 4}},
}


def changed(path, value):
    new = {key: dict(section) if isinstance(section, dict) else section for key, section in WRITTEN.items()}
    *sections, last = path.split('.')
    target = new
    for section in sections:
        target[section] = target = dict(target[section])
    target[last] = value
    return new


def check(written, tmp_path, state=None, drawn=False, **path):
    state = state or {'iter': 10, 'manual_seed': 3, 'options': dict2str(WRITTEN)}
    opt = {'name': written['name'], 'manual_seed': written['manual_seed'], 'seed_is_drawn': drawn, 'path': path}
    check_identity(state, str(tmp_path / 'training_states' / '10.state'), opt, written)
    return opt


def test_the_same_options_are_nothing_to_speak_of(tmp_path, logged):
    check(WRITTEN, tmp_path)
    assert not logged.records


@pytest.mark.parametrize(
    'option, value, meaning',
    [
        ('train.total_iter', 60, 'takes effect from here on'),
        ('train.ldt.scoring_batches', 8, 'takes effect from here on'),
        ('train.optim_g.lr', 0.1, 'without effect on a run that goes on, whose training state holds it'),
        ('train.ldt.exchange_every', 5, 'without effect on a run that goes on, whose training state holds it'),
        ('path.pretrain_network_g', 'b.pth', 'without effect on a run that goes on, whose training state holds it'),
        ('network_g.num_feat', 16, 'the weights of the state go on in another network'),
        ('datasets.train.gt_size', 32, 'it goes on with other training samples'),
    ],
)
def test_what_differs_is_named_with_both_values_and_what_it_means(tmp_path, logged, option, value, meaning):
    *sections, last = option.split('.')
    before = WRITTEN
    for section in [*sections, last]:
        before = before[section]
    check(changed(option, value), tmp_path)
    (warning,) = logged.warnings()
    assert warning.splitlines() == [
        'The state of iteration 10 was saved under other options, so that the run is neither of the two:',
        f'  {option}: {before!r}, now {value!r} ({meaning})',
    ]


@pytest.mark.parametrize(
    'option, value, difference',
    [('name', 'x3', 'name: x4, now x3'), ('manual_seed', 4, 'manual_seed: 3, now 4')],
)
def test_the_state_of_another_run_is_refused_unless_told_otherwise(tmp_path, logged, option, value, difference):
    with pytest.raises(ValueError) as error:
        check(changed(option, value), tmp_path)
    assert f'10.state is the training state of another run ({difference})' in str(error.value)
    assert 'path.resume_another_run: true' in str(error.value)
    opt = check(changed(option, value), tmp_path, resume_another_run=True)
    assert opt['manual_seed'] == 3, 'order and random numbers of the samples go on'
    said = ['The run goes on with the seed that it began with, 3, not with 4'] if option == 'manual_seed' else []
    assert logged.warnings() == said


def test_a_seed_that_nobody_asked_for_becomes_that_of_the_state(tmp_path, logged):
    assert check(changed('manual_seed', 77), tmp_path, drawn=True)['manual_seed'] == 3
    assert not logged.records


def test_a_state_without_a_record_is_compared_with_the_options_beside_it(tmp_path, logged):
    old = {'iter': 10, 'manual_seed': 3}
    check(changed('train.total_iter', 60), tmp_path, old)
    assert not logged.records, 'nothing is known'
    for half in ('', '{lr: 1', 'lr: 1\nlr: 1\n', 'a: [1'):
        (tmp_path / 'options.yml').write_text(half)
        check(WRITTEN, tmp_path, old)
    (tmp_path / 'options.yml').write_text(dict2str(WRITTEN))
    check(changed('train.total_iter', 60), tmp_path, old)
    assert '  train.total_iter: 30, now 60 (takes effect from here on)' in logged.warnings()[-1]
    with pytest.raises(ValueError, match='name: x4, now x3'):
        check(changed('name', 'x3'), tmp_path, old)


def test_differences_of_nested_dictionaries():
    assert differences({'a': {'b': 1, 'c': 2}, 'd': 3}, {'a': {'b': 1, 'c': 4}, 'e': None, 'f': 5}) == [
        *('a.c: 2, now 4', 'd: 3, now None', 'f: None, now 5')
    ]


def test_a_run_refuses_the_state_of_another_and_goes_on_from_its_own(tmp_path, logged):
    small_run.make_pictures(tmp_path)
    small_run.train(tmp_path)
    state = tmp_path / 'experiments' / 'small' / 'training_states' / '2.state'
    for changes in ({'manual_seed': 2}, {'name': 'other', 'path__resume_state': str(state)}):
        before = small_run.everything(tmp_path)
        with pytest.raises(ValueError, match='is the training state of another run'):
            small_run.train(tmp_path, auto_resume=True, **changes)
        assert small_run.everything(tmp_path) == before
    small_run.train(tmp_path, auto_resume=True, train__total_iter=4)
    assert 'train.total_iter: 3, now 4 (takes effect from here on)' in '\n'.join(logged.warnings())
    small_run.train(tmp_path, name='other', path__resume_state=str(state), path__resume_another_run=True)
    ends = [tmp_path / 'experiments' / name / 'models' / 'net_g_latest.pth' for name in ('small', 'other')]
    assert all(end.is_file() for end in ends)
    weights = load_checkpoint(state.parent.parent / 'models' / 'net_g_2.pth')['params']
    assert any(not torch.equal(weights[name], value) for name, value in load_checkpoint(ends[1])['params'].items())


def test_the_best_of_a_metric_that_changed_is_counted_anew(tmp_path, logged):
    small_run.make_pictures(tmp_path)
    small_run.train(tmp_path, train__total_iter=4, logger__save_checkpoint_freq=3)
    metrics = {
        'psnr': {'type': 'calculate_psnr', 'crop_border': 2},
        'ssim': {'type': 'calculate_psnr', 'crop_border': 4},
    }
    small_run.train(tmp_path, auto_resume=True, train__total_iter=6, val__metrics=metrics)
    assert 'Of ssim, whose options changed, the best result is counted from here on' in logged.warnings()
    texts = [record.getMessage() for record in logged.records if 'Validation val: ' in record.getMessage()]
    assert re.search(r'ssim \d\d\.\d+ \(best \d\d\.\d+ at [46]\)', texts[-1])
