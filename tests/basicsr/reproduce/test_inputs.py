"""What a finished cell depends on: a change of any of it is noticed and named, and nothing else is."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import basicsr.reproduce.inputs as inputs_module
from basicsr.reproduce.cells import Cells
from basicsr.reproduce.grid import grid_section, read_grid
from basicsr.reproduce.inputs import Inputs
from basicsr.reproduce.report import collect
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY
from scripts.analysis import reproduce
from tests.basicsr.reproduce.test_reproduce import Stub, folder, load, run, stub  # noqa: F401  fixtures


def rewrite(path: Path) -> None:
    """Other content of the same size and date, as `cp -p` of another picture leaves it."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)


def add(data: Path) -> None:
    for side in ('HR', 'LR'):
        shutil.copy(data / 'two' / side / '0.png', data / 'two' / side / '9.png')


def remove(data: Path) -> None:
    for side in ('HR', 'LR'):
        (data / 'two' / side / '2.png').unlink()


def rename(data: Path) -> None:
    for side in ('HR', 'LR'):
        (data / 'two' / side / '2.png').rename(data / 'two' / side / '7.png')


def link(data: Path) -> None:
    """To another picture of the same folder."""
    (data / 'two/HR/2.png').unlink()
    (data / 'two/HR/2.png').symlink_to(data / 'two/HR/1.png')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda data: rewrite(data / 'one/LR/0.png'), r'datasets\.train: 1 file is changed: \S+/one/LR/0\.png'),
        (lambda data: rewrite(data / 'one/LR/1.png'), r'datasets\.val: 1 file is changed: \S+/one/LR/1\.png'),
        (lambda data: rewrite(data / 'two/HR/0.png'), r'datasets\.test_two: 1 file is changed: \S+/two/HR/0\.png'),
        (add, r'datasets\.test_two: 2 files are new: \S+/two/LR/9\.png, \S+/two/HR/9\.png'),
        (remove, r'datasets\.test_two: 2 files are gone: \S+/two/LR/2\.png, \S+/two/HR/2\.png'),
        (rename, r'datasets\.test_two: 2 files are new: .*7.png; 2 files are gone: .*2\.png'),
        (link, r'datasets\.test_two: 1 file is changed: \S+/two/HR/2\.png'),
        (lambda data: shutil.rmtree(data / 'two/LR'), r'datasets\.test_two: other files'),
    ],
    ids=['train', 'val', 'test', 'new', 'gone', 'renamed', 'link', 'no folder'],
)
def test_a_changed_picture_is_named_and_its_cells_are_not_used_again(stub, folder, change, message):  # noqa: F811
    run(stub)
    grid = stub.grid
    change(folder / 'data')
    again = Stub(grid)
    with pytest.raises(
        ValueError, match=rf'(?s)cell fine-tuning_seed0 was run with other .*files:\n.*{message}.*--redo'
    ):
        again.check(grid.cells[0])
    assert collect(grid, again) is None, 'nor do they stand in a table'


def test_a_changed_list_is_named(stub, folder):  # noqa: F811
    run(stub)
    listed = Path(stub.grid.cells[0].train['datasets']['train']['meta_info_file'])
    listed.write_text('\n'.join(listed.read_text().split()[:-1]) + '\n')
    with pytest.raises(ValueError, match=rf'(?s)files\.{listed}: .*datasets\.train: 2 files are gone: '):
        Stub(stub.grid).check(stub.grid.cells[0])


def touch(data: Path) -> None:
    for path in data.rglob('*.png'):
        os.utime(path)


def restore(data: Path) -> None:
    """The same data from a backup: other times of change, other inodes."""
    shutil.copytree(data, data.with_name('backup'))
    shutil.rmtree(data)
    shutil.copytree(data.with_name('backup'), data, copy_function=shutil.copyfile)


def link_to_elsewhere(data: Path) -> None:
    data.rename(data.with_name('elsewhere'))
    data.symlink_to(data.with_name('elsewhere'))


def notes(data: Path) -> None:
    (data / 'two/HR/notes.txt').write_text('no picture')
    (data / 'two/HR/.hidden.png').write_bytes(b'')
    (data / 'notes/1.png').write_bytes(b'')


@pytest.mark.parametrize('change', [touch, restore, link_to_elsewhere, notes])
def test_the_same_pictures_are_no_change(stub, folder, change):  # noqa: F811
    run(stub)
    started = len(stub.started)
    change(folder / 'data')
    assert run(Stub(load(folder))) == {} and len(stub.started) == started
    assert collect(stub.grid, Stub(stub.grid)) is not None


def test_a_file_is_read_once(stub, folder, monkeypatch):  # noqa: F811
    """Nor does another process read it again, until its state is another; a table only asks for states."""
    monkeypatch.setattr(inputs_module, '_JUST_NOW', -1e9)
    read, plain = [], Inputs._read
    monkeypatch.setattr(Inputs, '_read', lambda self, file: read.append(file) or plain(self, file))
    run(stub)
    assert len(read) == len(set(read)), 'once each, for nine checks of seven cells'
    assert {path.name for path in read} >= {'train.txt', 'selection.txt', 'net_g_latest.pth', '0.png'}
    read.clear()
    run(Stub(stub.grid))
    assert not read
    os.utime(folder / 'data/two/HR/0.png')
    run(Stub(stub.grid))
    assert read == [folder / 'data/two/HR/0.png']


@pytest.mark.parametrize(
    'content', ['', '[]', '{"%s": 5}', '{"%s": [[1, 2, 3, 4]]}', '{"%s": [[1, 2, 3, 4], "0"]}', '[' * 100_000]
)
def test_digests_that_are_damaged_are_made_again(tmp_path, content):
    (tmp_path / 'file').write_bytes(b'content')
    (tmp_path / 'files.json').write_text(content.replace('%s', str(tmp_path / 'file')))
    expected = hashlib.sha256(b'content').hexdigest()
    assert Inputs(tmp_path)._digest(tmp_path / 'file') == expected


def test_a_file_that_changes_twice_in_an_instant_is_read_again(tmp_path, monkeypatch):
    """Its times may be the same then: clocks of file systems tick slowly."""
    monkeypatch.setattr(inputs_module, '_state_of', lambda file: [1, 1, 10**30, 1])
    inputs = Inputs(tmp_path / 'inputs')
    digests = []
    for content in (b'one', b'two'):
        (tmp_path / 'file').write_bytes(content)
        digests.append(inputs._list([tmp_path / 'file']))
    assert digests[0] != digests[1]


def grid_with(folder: Path, **base):  # noqa: F811
    """The grid, whose base gets these entries."""
    file = folder / 'base.yml'
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **base}, sort_keys=False))
    return load(folder)


def test_modules_and_what_they_import_are_inputs(folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(ARCH_REGISTRY, '_objects', dict(ARCH_REGISTRY._objects))
    (folder / 'in_helper.py').write_text('WIDTH = 4\n')
    (folder / 'in_package').mkdir()
    (folder / 'in_package/__init__.py').write_text('')
    (folder / 'in_package/part.py').write_text('')
    (folder / 'in_net.py').write_text(
        'import os, in_package\nfrom in_helper import WIDTH\nfrom basicsr.archs.srresnet_arch import MSRResNet\n'
        'from basicsr.utils.registry import ARCH_REGISTRY\n\n@ARCH_REGISTRY.register()\n'
        'class InNet(MSRResNet):\n    pass\n'
    )
    (folder / 'in_other.py').write_text('unrelated = 1\n')
    cells = Stub(grid_with(folder, imports=[f'{folder}/in_net.py']))
    run(cells)
    for name in ('in_net.py', 'in_helper.py', 'in_package/part.py'):
        before = (folder / name).read_text()
        (folder / name).write_text(f'{before}# changed\n')
        with pytest.raises(ValueError, match=rf'files\.{folder}/{name}: '):
            Stub(cells.grid).check(cells.grid.cells[0])
        (folder / name).write_text(before)
    (folder / 'in_other.py').write_text('unrelated = 2\n')
    Stub(cells.grid).check(cells.grid.cells[0])


@pytest.mark.parametrize(
    'opt',
    [
        {'network_g': {'type': 'spandrel', 'checkpoint': 'w.pth'}},
        {'path': {'pretrain_network_g': 'w.pth'}},
        {'path': {'pretrain_network_d': 'w.pth', 'output_root': '.', 'param_key_g': 'w.pth'}},
        {'path': {'resume_state': 'w.pth'}},
        {'compare': {'x': {'pretrain_network_g': 'w.pth'}}},
    ],
    ids=str,
)
def test_checkpoints_that_options_name_are_inputs(tmp_path, monkeypatch, opt):
    monkeypatch.setattr(inputs_module, 'ROOT', tmp_path)
    (tmp_path / 'w.pth').write_bytes(b'weights')
    assert list(inputs_module._files(opt)) == [('w.pth', tmp_path / 'w.pth')]


def test_databases_are_inputs(folder):  # noqa: F811
    pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
    from basicsr.utils.lmdb_util import make_lmdb

    for side in ('HR', 'LR'):
        files = {path.stem: path for path in sorted((folder / 'data/two' / side).iterdir())}
        make_lmdb(files, folder / f'{side}.lmdb')
    section = {'type': 'PairedImageDataset', 'phase': 'test', 'scale': 2, 'io_backend': {'type': 'lmdb'}}
    section.update(dataroot_gt=f'{folder}/HR.lmdb', dataroot_lq=f'{folder}/LR.lmdb')
    inputs = Inputs(folder / 'inputs')
    before = inputs._of_data_set(section, again=True)
    assert inputs._of_data_set(section, again=True) == before, 'reading a database changes nothing'
    rewrite(folder / 'LR.lmdb/data.mdb')
    after = inputs._of_data_set(section, again=True)
    assert inputs._named(before, after) == f'1 file is changed: {folder}/LR.lmdb/data.mdb'


def test_a_data_set_of_users_depends_on_all_that_is_in_its_folders(folder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(DATASET_REGISTRY, '_objects', dict(DATASET_REGISTRY._objects))

    @DATASET_REGISTRY.register()
    class InRaw:
        def __init__(self, root: str | os.PathLike, table: str | os.PathLike):
            raise AssertionError('is not built to look at its files')

    (folder / 'raw/deep').mkdir(parents=True)
    (folder / 'raw/deep/a.raw').write_bytes(b'1')
    (folder / 'raw/round').symlink_to(folder / 'raw')
    (folder / 'table.csv').write_text('1')
    section = {'type': 'InRaw', 'root': f'{folder}/raw', 'table': f'{folder}/table.csv'}
    inputs = Inputs(folder / 'inputs')
    before = inputs._of_data_set(section, again=True)
    (folder / 'raw/deep/a.raw').write_bytes(b'2')
    after = inputs._of_data_set(section, again=True)
    assert inputs._named(before, after) == f'1 file is changed: {folder}/raw/deep/a.raw'
    assert dict(inputs_module._files({'datasets': {'train': section}})) == {f'{folder}/table.csv': folder / 'table.csv'}


def test_records_of_earlier_versions_and_lost_ones_are_refused(stub):  # noqa: F811
    """Whether the pictures have changed since cannot be told; nor what results without a record are of."""
    run(stub)
    cell = stub.grid.cells[0]
    record = stub.folder / f'{cell.name}.json'
    whole = record.read_text()
    record.write_text(json.dumps({key: value for key, value in json.loads(whole).items() if key != 'data'}))
    with pytest.raises(ValueError, match=r'pictures and modules: an earlier version ran it, which did not record them'):
        Stub(stub.grid).check(cell)
    for content in (whole[: len(whole) // 2], '[1]', '5', '[' * 100_000):
        record.write_text(content)
        with pytest.raises(ValueError, match=r'fine-tuning_seed0.json is broken .*--redo'):
            Stub(stub.grid).check(cell)
    record.unlink()
    with pytest.raises(ValueError, match=r'results/fine-tuning_seed0 has no record .*--redo'):
        Stub(stub.grid).check(cell)
    assert not stub.is_current(cell)
    stub.forget(cell)
    assert 'data' in stub.check(cell), 'and so it runs again'


@pytest.mark.parametrize('renamed', [0, 1, 2, 3])
def test_forgetting_that_is_killed_half_way_leaves_nothing_to_be_used_again(stub, monkeypatch, renamed):  # noqa: F811
    run(stub)
    cell = stub.grid.cells[0]
    (stub.folder / f'{cell.name}.log').write_text('')
    rewrite(Path(cell.test['datasets']['test_two']['dataroot_gt']) / '0.png')
    plain, done = Path.rename, []

    def killed(self, target):
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(self)
        return plain(self, target)

    monkeypatch.setattr(Path, 'rename', killed)
    with pytest.raises(KeyboardInterrupt):
        stub.forget(cell)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r'--redo'):
        Stub(stub.grid).check(cell)


def test_pictures_that_change_while_a_grid_runs(folder):  # noqa: F811
    """Each cell is recorded with what was there when it started; one that had started before is not mixed."""
    grid, data = load(folder), folder / 'data'

    class Changing(Stub):
        def _process(self, name, slot, lock, script, *arguments):
            super()._process(name, slot, lock, script, *arguments)
            if name == 'fine-tuning_seed0' and script == 'Train_pip.py':
                rewrite(data / 'two/HR/0.png')

    assert run(Changing(grid)) == {}
    cells = Stub(grid)
    assert [cell.name for cell in grid.cells if not cells.is_current(cell)] == ['fine-tuning_seed0']
    half_done = grid.cells[1]
    shutil.rmtree(folder / 'out/results' / half_done.name)
    waiting = Stub(grid)
    waiting.check(half_done)
    rewrite(data / 'two/HR/0.png')
    assert 'datasets.test_two: 1 file is changed' in waiting.run([half_done])[half_done.name]


def test_a_table_of_nothing_says_why(folder, capsys):  # noqa: F811
    arguments = [
        '-opt',
        f'{folder}/grid.yml',
        '--data',
        f'{folder}/data',
        '--source',
        'one',
        '--output',
        f'{folder}/out',
    ]
    args = reproduce.parser().parse_args([*arguments, '--table'])
    with pytest.raises(ValueError, match=r'out: no cell is finished; run the grid without --table'):
        reproduce.run(args)
    run(Stub(reproduce.load(args)['']))
    reproduce.run(args)
    assert '| fine-tuning' in capsys.readouterr().out
    rewrite(folder / 'data/two/HR/0.png')
    with pytest.raises(ValueError, match=r'datasets\.test_two: 1 file is changed: \S+/two/HR/0\.png'):
        reproduce.run(args)


def test_a_grid_of_one_picture_and_nothing_else(tmp_path):
    """No cameras, no pre-training: the record still has all."""
    picture = np.zeros((16, 16, 3), np.uint8)
    for name, step in (('HR', 1), ('LR', 2)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'a.png'), picture[::step, ::step])
    pair = {'type': 'PairedImageDataset', 'dataroot_gt': f'{tmp_path}/HR', 'dataroot_lq': f'{tmp_path}/LR'}
    base = {
        **{'name': 'b', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0},
        'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2},
        'datasets': {'train': {**pair, 'gt_size': 8, 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}, 'test': pair},
        'train': {'total_iter': 1, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
    }
    (tmp_path / 'base.yml').write_text(yaml.safe_dump(base))
    grid = {'name': 'g', 'base': 'base.yml', 'seeds': [0], 'variants': {'a': {}}}
    (tmp_path / 'grid.yml').write_text(yaml.safe_dump(grid))
    cells = Cells(read_grid(tmp_path / 'grid.yml', grid_section(tmp_path / 'grid.yml')[0], tmp_path / 'out'))
    record = cells.check(cells.grid.cells[0])
    assert record['files'] == {} and list(record['data']) == ['train.datasets.train', 'test.datasets.test']
    listed = json.loads((tmp_path / 'out/cells/inputs' / f'{record["data"]["test.datasets.test"]}.json').read_text())
    assert list(listed) == [f'{tmp_path}/LR/a.png', f'{tmp_path}/HR/a.png']
    assert all(len(digest) == 64 for digest in listed.values())
