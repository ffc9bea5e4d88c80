"""Processes of one run see the same options and the same files."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr.data import build_dataset
from basicsr.runs import agreement
from basicsr.runs.agreement import check_same_data, check_same_options
from basicsr.utils.lmdb_util import make_lmdb
from tests import small_run

ROOT = Path(__file__).resolve().parents[3]
AS_ONE_OF_TWO = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from basicsr.runs.command_line import run_from_command_line
from basicsr.train import train_pipeline
from tests import small_run
root = Path(sys.argv[2]) / os.environ['RANK']
args = small_run.command_line(root / 'options.yml', launcher='pytorch', auto_resume=False)
run_from_command_line(lambda: train_pipeline(str(root), args))
"""


def two_processes(monkeypatch, first, second):
    """Let the checks believe that process 1 has `second` where this one has `first`."""
    monkeypatch.setattr(agreement, 'get_dist_info', lambda: (0, 2))
    answers = iter(zip(first, second, strict=True))
    monkeypatch.setattr(agreement, 'all_gather', lambda own: list(next(answers)))


def samples(root, part='val', **more):
    section = {'type': 'PairedImageDataset', 'phase': 'val', 'scale': 2, 'name': part}
    roots = {f'dataroot_{key}': str(root / part / folder) for key, folder in (('gt', 'HR'), ('lq', 'LR'))}
    return list(agreement._samples(build_dataset({**section, **roots, **more})))


def test_a_copy_elsewhere_is_the_same(tmp_path):
    first, second = (samples(small_run.make_pictures(tmp_path / name)) for name in ('a', 'b/c'))
    assert first == second and len(first) == 2
    assert first[0].startswith('LR/0.png (') and ', HR/0.png (' in first[0]


@pytest.mark.parametrize(
    'change, difference',
    [
        (
            lambda root: [(root / 'val' / part / '1.png').unlink() for part in ('HR', 'LR')],
            'process 0 alone has LR/1.png',
        ),
        (lambda root: cv2.imwrite(str(root / 'val/HR/1.png'), np.zeros((40, 42, 3))), 'process 1 alone has LR/1.png'),
    ],
)
def test_files_that_differ_are_named(tmp_path, monkeypatch, change, difference):
    roots = [small_run.make_pictures(tmp_path / name) for name in ('a', 'b')]
    change(roots[1])
    dataset, (first, second) = object(), [samples(root) for root in roots]
    monkeypatch.setattr(agreement, '_samples', lambda dataset: first)
    digests = [{'datasets.val': agreement._digest(one)} for one in (first, second)]
    two_processes(monkeypatch, [digests[0], first], [digests[1], second])
    with pytest.raises(ValueError) as error:
        check_same_data({'datasets.val': dataset})
    assert str(error.value).startswith('datasets.val: the processes of this run do not see the same files: ')
    assert difference in str(error.value)


def test_databases_are_compared_by_their_keys_and_size(tmp_path):
    found = []
    for name, count in (('a', 2), ('b', 2), ('c', 3)):
        root = small_run.make_pictures(tmp_path / name, {'val': (28, 40, 36)[:count]})
        for part in ('HR', 'LR'):
            files = {path.stem: path for path in sorted((root / 'val' / part).iterdir())}
            make_lmdb(files, root / 'val' / f'{part}.lmdb')
        roots = {f'dataroot_{key}': str(root / 'val' / f'{part}.lmdb') for key, part in (('gt', 'HR'), ('lq', 'LR'))}
        found.append(samples(root, io_backend={'type': 'lmdb'}, **roots))
    assert found[0] == found[1] != found[2] and len(found[0]) == 2 + 2
    assert any('data.mdb (' in text for text in found[0])


def test_a_data_set_of_users_is_compared_by_its_length():
    assert list(agreement._samples(range(5))) == ['5 samples of range']


def test_options_that_differ_are_named(monkeypatch):
    own, other = {'train': {'total_iter': 3, 'ema_decay': 0.9}}, {'train': {'total_iter': 4, 'ema_decay': 0.9}}
    check_same_options(own)
    monkeypatch.setattr(agreement, 'all_gather', lambda written: [written, written, other])
    with pytest.raises(ValueError, match=r'train\.total_iter: 3 in process 0, 4 in process 2'):
        check_same_options(own)


@pytest.mark.parametrize(
    'changes, lacks, message',
    [
        ({}, True, 'datasets.val: the processes of this run do not see the same files: process 0 alone has LR/1.png ('),
        ({'train__total_iter': 4}, False, 'train.total_iter: 3 in process 0, 4 in process 1'),
    ],
)
def test_two_real_processes_end_before_anything_is_made(tmp_path, changes, lacks, message):
    for rank in (0, 1):
        root = small_run.make_pictures(tmp_path / str(rank))
        own = changes if rank else {}
        small_run.write(root, path__output_root=str(tmp_path / 'out'), **own)
    if lacks:
        for part in ('HR', 'LR'):
            (tmp_path / '1' / 'val' / part / '1.png').unlink()
    (tmp_path / 'run.py').write_text(AS_ONE_OF_TWO)
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    ended = subprocess.run(
        [*launch, str(tmp_path / 'run.py'), str(ROOT), str(tmp_path)], capture_output=True, text=True, timeout=180
    )
    assert ended.returncode != 0 and ended.stderr.count(message) == 1, ended.stderr
    assert not (tmp_path / 'out').exists()
