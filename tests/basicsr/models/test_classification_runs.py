"""Classifiers in processes of their own: killed and resumed, and two processes as one."""

import json
import signal

import pytest
import torch

from basicsr.archs import build_network
from basicsr.runs.checkpoint import load_checkpoint
from scripts.benchmark import trainings
from tests import small_classes

LDT = {
    **{'scoring_batches': 2, 'exchange_every': 1, 'warmup_iter': 2, 'repartition_every': 7},
    **{'stable_decay': [0.5, 0.4], 'unstable_decay': [0.6, 0.3]},
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    small_classes.make_archive(folder / 'archive')
    return folder


def options(folder, name, **changes):
    changes = {'train__total_iter': 24, 'val__val_freq': 6, 'logger__save_checkpoint_freq': 4, **changes}
    changes.setdefault('datasets__train__num_worker_per_gpu', 2)
    return small_classes.write(folder, f'{name}.yml', name=name, **changes)


def finished(run):
    text = trainings.finish(run)
    assert run.returncode == 0, text
    return text


@pytest.mark.slow
@pytest.mark.parametrize('strategy', [{'train__ldt': LDT}, {'train__ema_decay': 0.9}], ids=['ldt', 'ema'])
def test_killed_and_resumed_it_ends_bit_for_bit(folder, strategy):
    name = '_'.join(strategy)
    finished(trainings.start(options(folder, f'whole_{name}', **strategy)))
    file = options(folder, f'killed_{name}', **strategy)
    for iteration, more in ((9, ()), (17, ('--auto_resume',))):
        run = trainings.start(file, *more)
        for line in run.stdout:
            if f'iter {iteration},' in line:
                trainings.kill_all(run.pid)
        run.communicate()
        assert run.returncode == -signal.SIGKILL
    finished(trainings.start(file, '--auto_resume'))
    assert trainings.weights(folder, f'whole_{name}') == trainings.weights(folder, f'killed_{name}')
    results = [
        json.loads((folder / 'experiments' / f'{which}_{name}' / 'results.json').read_text())
        for which in ('whole', 'killed')
    ]
    for key in ('scores', 'of_sets'):
        assert results[0][key] == results[1][key]


@pytest.mark.slow
@pytest.mark.parametrize(
    'strategy',
    [
        {},
        {
            'train__ldt': {
                'criterion': 'prefix',
                'update': 'fixed',
                'fixed_decay': 0.5,
                'exchange_every': 1,
                'warmup_iter': 2,
            }
        },
    ],
    ids=['plain', 'ldt'],
)
def test_two_processes_are_one(folder, strategy):
    """The same pictures in each step, the same gradients, the same validations: up to the order of sums.

    Scores are not compared: they are of the batches of each process.
    """
    common = {
        'train__optim_g__type': 'SGD',
        'train__freeze_batch_statistics': True,
        'train__total_iter': 12,
        **strategy,
    }
    label = '_ldt' if strategy else '_plain'
    finished(trainings.start(options(folder, f'one{label}', datasets__train__batch_size_per_gpu=8, **common)))
    more = {'datasets__train__batch_size_per_gpu': 4, 'dist_params': {'backend': 'gloo'}, **common}
    finished(trainings.start(options(folder, f'two{label}', **more), '--launcher', 'pytorch', processes=2))
    experiments = [folder / 'experiments' / f'{name}{label}' for name in ('one', 'two')]
    nets = [load_checkpoint(one / 'models/net_g_latest.pth')['params'] for one in experiments]
    start = build_network({'type': 'SmallCNN', 'width': 4, 'stages': 2, 'num_classes': 3}).state_dict()
    assert list(nets[0]) == list(nets[1]) == list(start)
    for name, value in nets[0].items():
        torch.testing.assert_close(value, nets[1][name], rtol=1e-5, atol=1e-6)
    scores = [json.loads((one / 'results.json').read_text())['scores']['after']['night'] for one in experiments]
    assert list(scores[0]) == list(scores[1])
    for name, values in scores[0].items():
        assert values == pytest.approx(scores[1][name], rel=1e-4, abs=1e-6)
