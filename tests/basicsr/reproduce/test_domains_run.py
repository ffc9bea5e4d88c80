"""A grid over domains, run as its users run it: trainings, tests, curve, tables."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import small_classes

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_grid_over_domains_from_data_to_curve(tmp_path):
    small_classes.make_archive(tmp_path / 'archive')
    base = small_classes.options(tmp_path, name=None, manual_seed=None, path=None, datasets__test_0=None)
    for section in base['datasets'].values():
        del section['dataroot'], section['test_domains']
        section.pop('name', None)
    base['name'] = 'base'
    grid = {
        **{'name': 'trial', 'base': 'base.yml', 'domains': {}, 'seeds': [0], 'curve': 2},
        'variants': {
            'fine-tuning': {},
            'LDT': {'train': {'ldt': {'scoring_batches': 2, 'exchange_every': 1, 'stable_time': ['50%', '50%']}}},
        },
    }
    grid['variants']['LDT']['train']['ldt']['unstable_time'] = ['50%', '100%']
    for name, content in (('base', base), ('grid', grid)):
        (tmp_path / f'{name}.yml').write_text(yaml.safe_dump(content, sort_keys=False))
    command = [sys.executable, 'scripts/analysis/reproduce.py', '-opt', f'{tmp_path}/grid.yml', '--data']
    command += [f'{tmp_path}/archive', '--output', f'{tmp_path}/out', '--domains', 'night', '--jobs', '2']
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert 'trial: LDT_night_seed0 is done' in done.stderr
    for name, key in (('table', 'mean'), ('curve', 'unseen')):
        rows = list(csv.DictReader((tmp_path / 'out' / f'{name}.csv').open()))
        accuracies = [row for row in rows if row['metric'] == 'accuracy']
        assert {row['variant'] for row in accuracies} == {'fine-tuning', 'LDT'}
        assert {row['domain'] for row in accuracies} == ({'night', 'seen'} if name == 'table' else {'night'})
        assert all(0 <= float(row[key]) <= 1 for row in accuracies)
        assert {row['metric'] for row in rows} == {'accuracy', 'balanced', 'nll', 'ece'}
    assert len(accuracies) == 4 and {row['iteration'] for row in accuracies} == {'3', '6'}
    text = (tmp_path / 'out/table.md').read_text()
    assert '| night (30)' in text and 'ece: difference to fine-tuning' in text
