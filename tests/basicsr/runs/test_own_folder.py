"""A run's folder belongs to one run at a time, and holds nothing that another run begins with."""

import subprocess
import sys
from pathlib import Path

import pytest

from basicsr.runs.lock import locked
from basicsr.runs.own_folder import own_folder
from tests import small_run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = small_run.make_pictures(tmp_path_factory.mktemp('own'))
    small_run.train(folder)
    return folder


@pytest.mark.parametrize('auto_resume', [False, True])
def test_the_second_run_of_a_name_stops_before_it_touches_anything(folder, auto_resume):
    with locked(folder / 'experiments' / '.small.lock', 'the run'):
        before = small_run.everything(folder)
        with pytest.raises(
            ValueError, match=r'name: the folder \S+experiments/small is in use by process \d+ on \S+ since'
        ):
            small_run.train(folder, auto_resume)
        assert small_run.everything(folder) == before
    assert [path.name for path in (folder / 'experiments').iterdir()] == ['small']


def test_a_check_takes_no_lock(folder):
    with locked(folder / 'experiments' / '.small.lock', 'the run'):
        small_run.check(folder)


def test_a_test_owns_its_results(folder):
    opt = {'name': 'small', 'is_train': False, 'rank': 0, 'path': {'results_root': str(folder / 'results' / 'small')}}
    with own_folder(opt), pytest.raises(ValueError, match='results/small is in use'), own_folder(opt):
        pass
    assert not (folder / 'results').exists()


def test_a_living_run_keeps_its_folder_and_a_killed_one_does_not(tmp_path, logged):
    small_run.make_pictures(tmp_path)
    text = small_run.write(tmp_path, train__total_iter=10**6).read_text()
    (tmp_path / 'long.yml').write_text(
        text.replace('dataroot_gt: ', f'dataroot_gt: {tmp_path}/').replace('dataroot_lq: ', f'dataroot_lq: {tmp_path}/')
    )
    command = [sys.executable, str(ROOT / 'Train_pip.py'), '-opt', str(tmp_path / 'long.yml')]
    living = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert any('iter 4,' in line for line in living.stdout)
        second = subprocess.run([*command, '--auto_resume'], cwd=tmp_path, capture_output=True, text=True, timeout=180)
        assert living.poll() is None
    finally:
        living.kill()
        living.communicate()
    assert second.returncode == 2 and 'Traceback' not in second.stderr
    assert f'is in use by process {living.pid} on ' in second.stderr
    assert 'wait for its end, or give this run another name' in second.stderr
    assert sorted(path.name for path in (tmp_path / 'experiments').iterdir()) == ['.small.lock', 'small']
    states = (tmp_path / 'experiments' / 'small' / 'training_states').glob('*.state')
    newest = max(int(state.stem) for state in states)
    small_run.train(tmp_path, auto_resume=True, train__total_iter=newest + 1)
    assert any(f', iteration {newest};' in record.getMessage() for record in logged.records), 'it went on'
    assert [path.name for path in (tmp_path / 'experiments').iterdir()] == ['small']


@pytest.mark.parametrize('linked', [False, True])
def test_what_a_run_begins_with_is_not_moved_away_with_its_folder(folder, tmp_path, linked):
    weights = folder / 'experiments' / 'small' / 'models' / 'net_g_latest.pth'
    if linked:
        (tmp_path / 'net.pth').symlink_to(weights)
    given = str(tmp_path / 'net.pth' if linked else weights)
    before = small_run.everything(folder)
    for run in (small_run.train, small_run.check):
        with pytest.raises(ValueError) as error:
            run(folder, path__pretrain_network_g=given)
        assert f'path.pretrain_network_g: {given}' in str(error.value)
        assert 'these lie in the folder of the run small itself, which is moved aside when it begins anew' in str(
            error.value
        )
        assert small_run.everything(folder) == before
    small_run.train(folder, auto_resume=True, path__pretrain_network_g=given)  # nothing moves: the state goes on


def test_pictures_and_weights_to_compare_with_are_looked_at_too(folder):
    inside = folder / 'experiments' / 'small' / 'pictures'
    inside.mkdir()
    with pytest.raises(ValueError, match=r'(?s)datasets\.val\.dataroot_lq: .*compare\.old\.pretrain_network_g: '):
        small_run.train(
            folder,
            datasets__val__dataroot_lq=str(inside),
            compare={'old': {'pretrain_network_g': str(inside.parent / 'models' / 'net_g_latest.pth')}},
        )
    inside.rmdir()


def test_a_folder_that_is_reached_by_a_link_has_one_owner(folder, tmp_path):
    real = folder / 'experiments' / 'small'
    (tmp_path / 'experiments').mkdir()
    (tmp_path / 'experiments' / 'small').symlink_to(real)

    def of(root):
        return {'name': 'small', 'is_train': True, 'rank': 0, 'path': {'experiments_root': f'{root}/experiments/small'}}

    for first, second in ((folder, tmp_path), (tmp_path, folder)):
        with own_folder(of(first)), pytest.raises(ValueError, match='is in use by process'), own_folder(of(second)):
            pass
    assert sorted(path.name for path in (folder / 'experiments').iterdir()) == ['small']


def test_a_link_that_leads_nowhere_is_kept_beside_the_new_run(tmp_path):
    small_run.make_pictures(tmp_path)
    (tmp_path / 'experiments').mkdir()
    (tmp_path / 'experiments' / 'small').symlink_to(tmp_path / 'gone')
    with pytest.raises(OSError, match=r'experiments/small is a link to \S+/gone, which is not there'):
        small_run.train(tmp_path, auto_resume=True)
    small_run.train(tmp_path)
    kept, new = sorted((tmp_path / 'experiments').iterdir(), key=lambda path: not path.is_symlink())
    assert kept.name.startswith('small_archived_') and new.name == 'small' and (new / 'models').is_dir()
