"""Classifiers in processes of their own: killed and resumed, and two processes as one."""

import json
import signal

import pytest
import torch

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
def test_two_processes_are_one(folder):
    """The same pictures in each step, the same gradients, the same validations: up to the order of sums."""
    common = {'train__optim_g__type': 'SGD', 'train__freeze_batch_statistics': True, 'train__ldt': LDT}
    finished(trainings.start(options(folder, 'one', datasets__train__batch_size_per_gpu=8, **common)))
    two = options(folder, 'two', datasets__train__batch_size_per_gpu=4, dist_params={'backend': 'gloo'}, **common)
    text = finished(trainings.start(two, '--launcher', 'pytorch', processes=2))
    assert 'Validation seen' in text
    nets = [
        load_checkpoint(folder / 'experiments' / name / 'models/net_g_latest.pth')['params'] for name in ('one', 'two')
    ]
    for name, value in nets[0].items():
        torch.testing.assert_close(
            value, nets[1][name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f'{name}: {text}'
        )
    partitions = [json.loads((folder / 'experiments' / name / 'partition.json').read_text()) for name in ('one', 'two')]
    assert sorted(partitions[0]['stable']) == sorted(partitions[1]['stable'])
