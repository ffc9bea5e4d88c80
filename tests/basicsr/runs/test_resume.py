"""Finding a training state, what stands in one, and the files of checkpoints beside it."""

import shutil
import zipfile
from collections import namedtuple

import pytest
import torch

from basicsr.data.data_sampler import EnlargedSampler
from basicsr.runs.checkpoint import load_checkpoint, prune_checkpoints, save_checkpoint
from basicsr.runs.resume import batches_done, keep_options, load_resume_state
from tests import small_run


def options(folder, auto_resume=True, seed=7, resume_state=None, name='x', **more):
    paths = {'training_states': str(folder / 'training_states'), 'resume_state': resume_state, **more}
    return {'name': name, 'auto_resume': auto_resume, 'manual_seed': seed, 'path': paths}


def resumed(opt, written=None):
    return load_resume_state(opt, written or {})


@pytest.fixture
def states(tmp_path):
    (tmp_path / 'training_states').mkdir()
    for number in (5, 10, 20):
        state = {'iter': number, 'epoch': 0, 'optimizers': [], 'schedulers': [], 'manual_seed': 7}
        save_checkpoint({**state, 'weights': torch.arange(1000.0)}, tmp_path / 'training_states' / f'{number}.state')
    return tmp_path / 'training_states'


def test_the_newest_state_is_taken_and_its_seed(states, logged):
    opt = {**options(states.parent, seed=1), 'seed_is_drawn': True}
    assert resumed(opt)['iter'] == 20
    assert opt['manual_seed'] == 7 and not logged.warnings()
    assert opt['path']['resume_network'] == str(states.parent / 'models' / 'net_g_20.pth')
    assert resumed(options(states.parent, auto_resume=False)) is None
    named = options(states.parent, auto_resume=False, resume_state=str(states / '10.state'))
    assert resumed(named)['iter'] == 10
    assert 'Newer training states are there (20.state), which --auto_resume would take' in ' '.join(logged.warnings())


def test_auto_resume_goes_back_to_one_that_can_be_read(states, logged):
    (states / '20.state').write_bytes((states / '20.state').read_bytes()[:3000])
    save_checkpoint({'params': {}}, states / '10.state')
    assert resumed(options(states.parent))['iter'] == 5
    warnings = logged.warnings()
    assert f'{states}/20.state is no readable checkpoint: it is truncated or damaged' in warnings[0]
    assert f'{states}/10.state is no training state' in warnings[1]
    (states / '5.state').write_text('')
    with pytest.raises(ValueError, match=r'(?s)no training state can be read:.*20\.state.*10\.state.*5\.state'):
        resumed(options(states.parent))
    named = options(states.parent, auto_resume=False, resume_state=str(states / '10.state'))
    with pytest.raises(ValueError, match=r'10\.state is no training state'):
        resumed(named)
    shutil.rmtree(states)
    assert resumed(options(states.parent)) is None
    named['path']['resume_state'] = str(states / '30.state')
    with pytest.raises(FileNotFoundError, match=r'30\.state'):
        resumed(named)


def test_a_byte_that_changed_on_the_disk_is_noticed(states):
    file, content = states / '20.state', (states / '20.state').read_bytes()
    with zipfile.ZipFile(file) as archive:
        tensor = max(archive.infolist(), key=lambda info: info.file_size)
    place = content.index(torch.arange(1000.0).numpy().tobytes())
    assert tensor.file_size == 4000
    file.write_bytes(content[: place + 2001] + bytes([content[place + 2001] ^ 4]) + content[place + 2002 :])
    with pytest.raises(ValueError, match=r'20\.state is no readable checkpoint: it is truncated or damaged'):
        load_checkpoint(file)


def test_a_disk_without_room_is_seen_before_a_byte_is_written(tmp_path, monkeypatch):
    path = tmp_path / 'a.state'
    save_checkpoint({'x': 1}, path)
    usage = namedtuple('usage', 'total used free')(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)
    with pytest.raises(OSError, match=r'a\.state needs 3\.9 KB, and 1000\.0 B are free there: make room'):
        save_checkpoint({'nested': [{'w': torch.zeros(1000)}]}, path)
    assert load_checkpoint(path) == {'x': 1} and [file.name for file in tmp_path.iterdir()] == ['a.state']
    save_checkpoint({'w': torch.zeros(10)}, path)
    assert load_checkpoint(path)['w'].shape == (10,)


def test_what_the_run_wrote_at_older_iterations_is_deleted_and_nothing_else(tmp_path, states):
    models = tmp_path / 'models'
    models.mkdir()
    others = {'net_g_best', 'net_g_best_7', 'net_g_latest', 'my_backup_5', 'net_g_5_copy', 'net_g_7'}
    for name in ('net_g_5', 'net_d_5', 'net_g_10', 'net_g_20', *others):
        (models / f'{name}.pth').touch()
    written = {n: {f'models/net_g_{n}.pth', f'training_states/{n}.state'} for n in (20, 5, 10)}
    written[5] |= {'models/net_d_5.pth', 'models/gone_5.pth'}
    prune_checkpoints(tmp_path, written, 2)
    assert {file.stem for file in models.iterdir()} == {'net_g_10', 'net_g_20', *others}
    assert {file.name for file in states.iterdir()} == {'10.state', '20.state'} and sorted(written) == [10, 20]


def test_a_resumed_run_deletes_its_own_files_and_not_those_of_users_or_of_another_run(tmp_path):
    small_run.make_pictures(tmp_path)
    few = {'train__total_iter': 4, 'logger__keep_checkpoints': 1, 'logger__save_checkpoint_freq': 1}
    small_run.train(tmp_path, **{**few, 'train__total_iter': 2, 'logger__keep_checkpoints': 2})
    folder = tmp_path / 'experiments' / 'small'
    backups = {folder / 'models' / f'{name}.pth' for name in ('my_backup_3', 'net_g_best_1', 'net_d_1')}
    for file in backups:
        file.write_text('precious')
    before = set((folder / 'training_states').iterdir()) | set((folder / 'models').iterdir())
    small_run.train(tmp_path, name='other', path__resume_state=str(folder / 'training_states' / '2.state'),
                    path__resume_another_run=True, **few)  # fmt: skip
    assert set((folder / 'training_states').iterdir()) | set((folder / 'models').iterdir()) == before
    small_run.train(tmp_path, auto_resume=True, **few)
    assert [file.name for file in (folder / 'training_states').iterdir()] == ['4.state']
    names = {'net_g_4.pth', 'net_g_best.pth', 'net_g_latest.pth', *(file.name for file in backups)}
    assert {file.name for file in (folder / 'models').iterdir()} == names


def test_options_that_changed_are_kept_beside_the_new_ones(tmp_path):
    keep_options({'lr': 1}, str(tmp_path), None)
    keep_options({'lr': 1}, str(tmp_path), 10)
    assert [file.name for file in tmp_path.iterdir()] == ['options.yml']
    keep_options({'lr': 2}, str(tmp_path), 20)
    assert (tmp_path / 'options.yml').read_text() == '{lr: 2}\n'
    assert (tmp_path / 'options_until_20.yml').read_text() == '{lr: 1}\n'


@pytest.mark.parametrize('half', ['', '{lr: 1', 'train: [1', 'lr: 1\nlr: 1\n'])
def test_half_written_options_do_not_keep_a_run_from_going_on(tmp_path, half):
    (tmp_path / 'options.yml').write_text(half)
    keep_options({'lr': 2}, str(tmp_path), 20)
    assert (tmp_path / 'options.yml').read_text() == '{lr: 2}\n'


def test_the_place_in_the_data_is_counted_in_samples(logged):
    sampler = EnlargedSampler(range(40), num_replicas=2, rank=0)
    state = {'place': {'samples': 16, 'epoch_size': 40}}
    assert batches_done(state, sampler, batch_size=4) == 2
    assert batches_done(state, sampler, batch_size=2) == 4
    assert batches_done({}, sampler, batch_size=4) == 0, "a state of BasicSR's"
    assert not logged.warnings()
    assert batches_done(state, EnlargedSampler(range(30), 2, 0), batch_size=4) == 0
    assert 'An epoch has 30 samples, and had 40' in logged.warnings()[0]


@pytest.mark.parametrize('make', [lambda folder: folder.write_text(''), lambda folder: folder.symlink_to(folder)])
def test_states_that_cannot_be_listed_are_no_reason_to_start_anew(tmp_path, make):
    make(tmp_path / 'training_states')
    with pytest.raises(OSError, match=r'training_states cannot be listed .* whether there are training states'):
        resumed(options(tmp_path))


def test_a_folder_that_nobody_may_read_is_said(tmp_path, states, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, 'Permission denied', folder)

    monkeypatch.setattr('basicsr.runs.resume.os.listdir', refuse)  # the tests may run as root, who may read anything
    with pytest.raises(OSError, match=r'training_states cannot be listed \(Permission denied\)'):
        resumed(options(tmp_path))
