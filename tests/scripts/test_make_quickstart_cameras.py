import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from basicsr.data.archives.generated import is_complete
from scripts.data_preparation import make_quickstart_cameras as quickstart

CAMERAS = [camera.name for camera in quickstart.CAMERAS]
FOLDERS = ['source_bicubic/train', 'source/train', 'source/val', *(f'{camera}/test' for camera in CAMERAS)]
LUMA = np.array([0.114, 0.587, 0.299])


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return quickstart.make(tmp_path_factory.mktemp('data') / 'sets' / 'quickstart')


def pairs(root: Path, folder: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    names = sorted(path.name for path in (root / folder / 'HR').iterdir())
    assert names == sorted(path.name for path in (root / folder / 'LR').iterdir())
    return [(name, *(cv2.imread(str(root / folder / kind / name), -1) for kind in ('HR', 'LR'))) for name in names]


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def psnr_of_bicubic(hr: np.ndarray, lr: np.ndarray) -> float:
    enlarged = cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    error = (hr @ LUMA - enlarged @ LUMA)[4:-4, 4:-4]
    return 10 * np.log10(255**2 / np.mean(error**2))


@pytest.mark.parametrize('folder', FOLDERS)
def test_pictures_are_paired(root, folder):
    found = pairs(root, folder)
    assert len(found) == {'train': 30, 'val': 4, 'test': 6}[folder.split('/')[1]]
    for name, hr, lr in found:
        assert hr.dtype == lr.dtype == np.uint8
        assert hr.shape == (4 * lr.shape[0], 4 * lr.shape[1], 3), name
        if folder.endswith('train'):
            assert min(hr.shape[:2]) >= 192 and max(hr.shape[:2]) <= 480, name
        else:
            assert hr.shape == (256, 256, 3), name


def test_folders_and_manifest_agree(root):
    files = content(root)
    manifest = json.loads(files.pop('manifest.json'))
    assert set(files) == set(manifest['files'])
    assert {name.rsplit('/', 2)[0] for name in files} == set(FOLDERS)
    assert str(Path.home()) not in json.dumps(manifest)


def test_scenes_stay_in_one_split(root):
    split_of = {}
    for photograph in quickstart.PHOTOGRAPHS:
        assert split_of.setdefault(photograph.scene, photograph.split) == photograph.split
    for folder in FOLDERS:
        allowed = {photograph.name for photograph in quickstart.PHOTOGRAPHS if photograph.split == folder.split('/')[1]}
        assert {name.rpartition('_')[0] for name, _, _ in pairs(root, folder)} == allowed


def test_no_held_out_picture_is_seen_in_training(root):
    """Looks for the middle of every held-out picture in every training picture, whatever the files are called."""
    seen = [lr for _, _, lr in pairs(root, 'source/train')]
    for folder in ('source/val', 'source/test'):
        for name, _, lr in pairs(root, folder):
            likeness = max(cv2.matchTemplate(img, lr[16:48, 16:48], cv2.TM_CCOEFF_NORMED).max() for img in seen)
            assert likeness < 0.7, name


@pytest.mark.parametrize('folder', FOLDERS)
def test_pairs_are_aligned(root, folder):
    """Compares in linear light, in which blur does not move edges; distances are in LR pixels."""
    for name, hr, lr in pairs(root, folder):
        light = [((img / 255) ** 2.2 @ LUMA).astype(np.float32) for img in (hr, lr)]
        light[0] = cv2.resize(cv2.GaussianBlur(light[0], (0, 0), 2.2), lr.shape[1::-1], interpolation=cv2.INTER_AREA)
        window = np.outer(*(np.hanning(side) for side in lr.shape[:2]))
        reference, moving = ((img - img.mean()) * window for img in light)
        shift, *_ = phase_cross_correlation(reference, moving, upsample_factor=50, normalization=None)
        assert np.hypot(*shift) < 0.15, name


def test_cameras_differ_in_picture_and_blur(root):
    first = {camera: pairs(root, f'{camera}/test')[0] for camera in CAMERAS}
    for i, one in enumerate(CAMERAS):
        for other in CAMERAS[:i]:
            for picture in (1, 2):
                difference = first[one][picture].astype(float) - first[other][picture]
                assert np.abs(difference).mean() > 3, (one, other)
    for camera in CAMERAS:
        found = pairs(root, f'{camera}/test')
        assert 23 < np.mean([psnr_of_bicubic(hr, lr) for _, hr, lr in found]) < 28


def test_camera_blurs_more_than_bicubic(root):
    sharpness = {}
    for folder in ('source_bicubic/train', 'source/train'):
        ratios = [cv2.Laplacian(lr, cv2.CV_64F).std() / hr.std() for _, hr, lr in pairs(root, folder)]
        sharpness[folder] = np.median(ratios)
    assert sharpness['source/train'] < 0.8 * sharpness['source_bicubic/train']


def test_the_same_bits_anywhere(root, tmp_path):
    assert content(quickstart.make(tmp_path / 'elsewhere')) == content(root)


def test_second_run_does_nothing(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    quickstart.make(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A data set of one photograph and one camera, quick to make."""
    monkeypatch.setattr(quickstart, 'PHOTOGRAPHS', quickstart.PHOTOGRAPHS[-1:])
    monkeypatch.setattr(quickstart, 'CAMERAS', quickstart.CAMERAS[:1])
    return tmp_path / 'quickstart'


@pytest.mark.parametrize('damage', ['lost', 'changed', 'older version', 'no manifest left'])
def test_damage_is_mended(small, damage, monkeypatch):
    complete = content(quickstart.make(small))
    picture = small / 'source/test/LR/camera_0.png'
    if damage == 'lost':
        picture.unlink()
    elif damage == 'changed':
        picture.write_bytes(picture.read_bytes()[:-1] + b'x')
    elif damage == 'older version':
        monkeypatch.setattr(quickstart, 'VERSION', quickstart.VERSION + 1)
        complete = {name: data for name, data in complete.items() if name != 'manifest.json'}
    else:
        (small / 'manifest.json').write_text('{')
        with pytest.raises(FileExistsError, match='does not list, such as source/test/HR/camera_0'):
            quickstart.make(small)
        return
    quickstart.make(small)
    assert complete.items() <= content(small).items()
    assert is_complete(small, json.loads(json.dumps(quickstart.parameters())))


def test_force_makes_it_anew(small):
    quickstart.make(small)
    picture = small / 'source/test/LR/camera_0.png'
    inode, data = picture.stat().st_ino, picture.read_bytes()
    quickstart.make(small, force=True)
    assert picture.read_bytes() == data
    assert picture.stat().st_ino != inode
    assert list(small.parent.iterdir()) == [small]


@pytest.mark.parametrize('stop', [KeyboardInterrupt, OSError('disk full')])
def test_interruption_leaves_nothing(small, monkeypatch, stop):
    render = quickstart.render

    def interrupted():
        yield next(render())
        raise stop

    monkeypatch.setattr(quickstart, 'render', interrupted)
    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        quickstart.make(small)
    assert not list(small.parent.iterdir())


def test_interruption_keeps_the_old_set(small, monkeypatch):
    complete = content(quickstart.make(small))
    monkeypatch.setattr(quickstart, 'files', lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        quickstart.make(small, force=True)
    assert content(small) == complete
    assert list(small.parent.iterdir()) == [small]


def test_files_of_others_are_never_deleted(small):
    quickstart.make(small)
    (small / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'1 file.*notes\.txt'):
        quickstart.make(small, force=True)
    assert (small / 'notes.txt').read_text() == 'mine'
    quickstart.make(small)

    file = small.parent / 'file'
    file.write_text('mine')
    with pytest.raises(FileExistsError, match='is a file'):
        quickstart.make(file)


def test_missing_photograph_is_named(small, monkeypatch):
    for path in ('skimage/data/unicorn.png', 'no_such_package/unicorn.png'):
        monkeypatch.setattr(quickstart, 'PHOTOGRAPHS', (quickstart.Photograph(path, 'test', 'unicorn', ((0, 0),)),))
        with pytest.raises(FileNotFoundError, match=f'{path} is not installed'):
            quickstart.make(small)
    assert not list(small.parent.iterdir())


def test_script_runs_from_anywhere(root, tmp_path):
    command = [sys.executable, quickstart.__file__, '--output', str(root)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, '')
    assert str(root) in result.stdout


def test_script_reports_errors_in_one_line(tmp_path, monkeypatch):
    (tmp_path / 'mine.txt').write_text('mine')
    monkeypatch.setattr(sys, 'argv', ['make_quickstart_cameras.py', '--output', str(tmp_path)])
    with pytest.raises(SystemExit, match=r'^error: .* such as mine\.txt; move or delete'):
        quickstart.main()
