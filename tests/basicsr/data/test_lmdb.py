import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.data_util import paired_paths_from_lmdb
from basicsr.utils.file_client import FileClient
from basicsr.utils.lmdb_util import lmdb_keys, make_lmdb, read_lmdb
from scripts.data_preparation import create_lmdb

pytest.importorskip('lmdb', reason='LMDB is an extra: pip install lmdb')
SCRIPT = Path(__file__).parents[3] / 'scripts' / 'data_preparation' / 'create_lmdb.py'
LMDB = {'type': 'lmdb'}


def picture(height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width, seed):
    return cv2.resize(picture(4, 5, seed), (width, height), interpolation=cv2.INTER_CUBIC)


def create(*arguments):
    """Run the script's `main`; returns what it says on leaving with an error, or None."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['create_lmdb.py', *map(str, arguments)])
        try:
            create_lmdb.main()
        except SystemExit as end:
            return str(end)
    return None


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Five pairs, x2, in folders and in LMDBs."""
    folder = tmp_path_factory.mktemp('lmdb')
    for index in range(5):
        gt = picture(24, 32, index)
        for name, img in (('gt', gt), ('lq', gt[::2, ::2])):
            (folder / name / 'sub').mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f'{index}.v1.png'), img)
    for name in ('gt', 'lq'):
        (folder / name / 'sub').rmdir()
        assert create(folder / name, folder / f'{name}.lmdb') is None
    return folder


def section(root, backend, **changes):
    end = '.lmdb' if backend == 'lmdb' else ''
    return {
        **{'name': 'Tiny', 'type': 'PairedImageDataset', 'phase': 'train', 'scale': 2, 'gt_size': 16},
        **{'dataroot_gt': str(root / f'gt{end}'), 'dataroot_lq': str(root / f'lq{end}')},
        **{'io_backend': {'type': backend}, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0},
        **{'use_hflip': True, 'use_rot': True, **changes},
    }


def batches(root, backend, **changes):
    opt = section(root, backend, **changes)
    dataset = build_dataset(opt)
    dataset[0]  # opens the LMDB before workers are forked
    loader = build_dataloader(dataset, opt, 0, sampler=EnlargedSampler(dataset, 1, 0, ratio=2), seed=1)
    return [batch for _ in range(2) for batch in loader]


@pytest.mark.parametrize(
    'changes',
    [{}, {'num_worker_per_gpu': 2}, {'prefetch_mode': 'cpu'}, {'task': 'denoising_gray', 'noise': 15, 'scale': 1}],
    ids=str,
)
def test_training_batches_equal_those_from_disk(root, changes):
    disk, lmdb = batches(root, 'disk', **{**changes, 'num_worker_per_gpu': 0}), batches(root, 'lmdb', **changes)
    assert len(disk) == len(lmdb) == 10
    for first, second in zip(disk, lmdb, strict=True):
        assert torch.equal(first['lq'], second['lq']) and torch.equal(first['gt'], second['gt'])
        names = [os.path.basename(path).removesuffix('.png') for path in first['gt_path']]
        assert second['gt_path'] == names


def test_two_data_sets_share_an_lmdb_and_travel_to_other_processes(root):
    first, second = (build_dataset(section(root, 'lmdb', phase='val')) for _ in range(2))
    assert torch.equal(first[3]['gt'], second[3]['gt'])
    assert torch.equal(pickle.loads(pickle.dumps(first))[3]['gt'], second[3]['gt'])
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, first[4]['gt'].numpy().tobytes()[:64])
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 64) == second[4]['gt'].numpy().tobytes()[:64]


def test_a_list_of_names_chooses_pictures(root, tmp_path):
    (tmp_path / 'list.txt').write_text('3.v1.png (24,32,3)\n0.v1.png\n')
    meta = {'meta_info_file': str(tmp_path / 'list.txt'), 'phase': 'val'}
    dataset = build_dataset(section(root, 'lmdb', **meta))
    assert [dataset[index]['lq_path'] for index in range(len(dataset))] == ['3.v1', '0.v1']
    single = {'type': 'SingleImageDataset', 'dataroot_lq': str(root / 'lq.lmdb'), 'io_backend': LMDB, **meta}
    assert torch.equal(build_dataset(single)[1]['lq'], dataset[1]['lq'])
    assert len(build_dataset({**single, 'meta_info_file': None})) == 5
    (tmp_path / 'list.txt').write_text('0.v1.png\n7.png\n')
    with pytest.raises(FileNotFoundError, match=r'names keys that are absent: line 2: 7 \(dataroot_gt\)'):
        build_dataset(section(root, 'lmdb', **meta))


def test_the_layout_is_basicsrs(root, tmp_path):
    import lmdb

    folder = root / 'gt.lmdb'
    assert {path.name for path in folder.iterdir()} == {'data.mdb', 'lock.mdb', 'meta_info.txt'}
    lines = (folder / 'meta_info.txt').read_text().splitlines()
    assert lines == [f'{index}.v1.png (24,32,3) 1' for index in range(5)]
    assert read_lmdb(folder, '2.v1') == (root / 'gt' / '2.v1.png').read_bytes()
    with lmdb.open(str(tmp_path / 'theirs.lmdb')) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'a', b'bytes')
    (tmp_path / 'theirs.lmdb' / 'meta_info.txt').write_text('a.png (1,2,3) 1\n')
    assert lmdb_keys(tmp_path / 'theirs.lmdb', 'dataroot_gt') == ['a']
    client = FileClient('lmdb', db_paths=[str(folder), str(tmp_path / 'theirs.lmdb')], client_keys=['gt', 'lq'])
    assert client.get('a', 'lq') == b'bytes' and client.get('0.v1', 'gt').startswith(b'\x89PNG')


def test_creating(tmp_path):
    source = tmp_path / 'source'
    (source / 'sub').mkdir(parents=True)
    deep = np.random.default_rng(0).integers(0, 65536, (9, 8)).astype(np.uint16)
    cv2.imwrite(str(source / 'sub' / 'deep.tif'), deep)
    cv2.imwrite(str(source / 'a.jpg'), smooth(20, 21, 0))
    cv2.imwrite(str(source / 'b.png'), smooth(20, 21, 1), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    output = tmp_path / 'new' / 'out.lmdb'
    result = subprocess.run([sys.executable, str(SCRIPT), source, output], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout == f'3 pictures are in {output}\n', result.stderr
    assert (output / 'meta_info.txt').read_text().splitlines() == [
        'a.png (20,21,3) 1', 'b.png (20,21,3) 1', 'sub/deep.png (9,8,1) 1',
    ]  # fmt: skip
    decoded = {key: cv2.imdecode(np.frombuffer(read_lmdb(output, key), np.uint8), -1) for key in ('a', 'b', 'sub/deep')}
    np.testing.assert_array_equal(decoded['sub/deep'], deep)
    np.testing.assert_array_equal(decoded['a'], cv2.imread(str(source / 'a.jpg')))
    assert read_lmdb(output, 'b') == (source / 'b.png').read_bytes()

    smaller = tmp_path / 'small.lmdb'
    assert create(source, smaller, '--compress', 9) is None
    assert len(read_lmdb(smaller, 'b')) < len(read_lmdb(output, 'b'))
    assert 'is there already; remove it' in create(source, output)
    assert 'the PNG compression is 0 to 9, not 10' in create(source, tmp_path / 'c.lmdb', '--compress', 10)


def test_the_map_grows_by_itself(tmp_path):
    rng = np.random.default_rng(0)
    source, files = tmp_path / 'big.png', {}
    cv2.imwrite(str(source), rng.integers(0, 256, (1000, 1000, 3), dtype=np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    files = {f'{index:02}': source for index in range(30)}
    assert make_lmdb(files, tmp_path / 'big.lmdb') == 30
    assert (tmp_path / 'big.lmdb' / 'data.mdb').stat().st_size > 64 * 2**20
    assert read_lmdb(tmp_path / 'big.lmdb', '29') == source.read_bytes()


@pytest.mark.parametrize('trouble, message', [('broken', 'no complete picture'), ('twice', 'same key'),
                                              ('empty', 'no image file'), ('float', 'holds float32')])  # fmt: skip
def test_what_cannot_be_packed_leaves_nothing_behind(tmp_path, trouble, message):
    source = tmp_path / 'source'
    source.mkdir()
    if trouble != 'empty':
        cv2.imwrite(str(source / 'a.png'), picture(8, 8, 0))
    if trouble == 'broken':
        (source / 'b.png').write_bytes((source / 'a.png').read_bytes()[:60])
    if trouble == 'twice':
        cv2.imwrite(str(source / 'a.jpg'), picture(8, 8, 0))
    if trouble == 'float':
        cv2.imwrite(str(source / 'b.tiff'), picture(8, 8, 0).astype(np.float32))
    said = create(source, tmp_path / 'out.lmdb')
    assert said.startswith('error: ') and message in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ['source']
    with pytest.raises(ValueError, match=r'must end in \.lmdb'):
        make_lmdb({'a': source}, tmp_path / 'out')


def copied(root, folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((root / 'gt.lmdb' / name).read_bytes())
    return str(folder)


def test_what_is_no_lmdb_is_named(root, tmp_path):
    def build(folder):
        return build_dataset(section(root, 'lmdb', dataroot_gt=folder, phase='val'))

    with pytest.raises(ValueError, match=r"dataroot_gt: io_backend is lmdb, so the folder's name must end in \.lmdb"):
        build(str(root / 'gt'))
    with pytest.raises(FileNotFoundError, match=r'dataroot_gt: there is no folder .*absent\.lmdb'):
        build(str(tmp_path / 'absent.lmdb'))
    with pytest.raises(FileNotFoundError, match=r'there is no LMDB .*data\.mdb'):
        build(copied(root, tmp_path / 'a.lmdb', 'meta_info.txt'))
    with pytest.raises(FileNotFoundError, match=r'there is no list .*meta_info\.txt'):
        build(copied(root, tmp_path / 'b.lmdb', 'data.mdb'))
    broken = Path(copied(root, tmp_path / 'c.lmdb', 'data.mdb', 'meta_info.txt'))
    (broken / 'data.mdb').write_bytes(b'x' * 9000)
    with pytest.raises(ValueError, match=r'c\.lmdb/data\.mdb. cannot be opened as an LMDB: it is no LMDB'):
        build(str(broken))[0]
    listed = Path(copied(root, tmp_path / 'd.lmdb', 'data.mdb', 'meta_info.txt'))
    with open(listed / 'meta_info.txt', 'a') as lines:
        lines.write('extra.png (24,32,3) 1\n')
    with pytest.raises(ValueError, match=r"1 keys of dataroot_gt .*d\.lmdb' without a partner: extra"):
        build(str(listed))
    with pytest.raises(FileNotFoundError, match=r"d\.lmdb' has no key 'extra'"):
        read_lmdb(listed, 'extra')
    folders = [str(root / 'lq.lmdb'), str(root / 'gt.lmdb')]
    with pytest.raises(ValueError, match=r'5 keys of dataroot_gt .* without a partner'):
        paired_paths_from_lmdb(folders, ['lq', 'gt'], filename_tmpl='{}x2')


def test_an_absent_package_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(ImportError, match=r'pip install "layer-decomposition-training\[lmdb\]"'):
        build_dataset(section(root, 'lmdb'))


@pytest.mark.parametrize('key', ['..', 'a/../..', 'a/', '/', '.'])
def test_keys_that_lead_outside_are_refused(root, tmp_path, key):
    """A result is called by the last part of its key."""
    shutil.copytree(root / 'gt.lmdb', tmp_path / 'gt.lmdb')
    with open(tmp_path / 'gt.lmdb' / 'meta_info.txt', 'a') as file:
        file.write(f'{key} (24,32,3) 1\n')
    with pytest.raises(ValueError, match=r"dataroot_gt: .*meta_info.txt' has the key .*mend it"):
        lmdb_keys(tmp_path / 'gt.lmdb', 'dataroot_gt')
