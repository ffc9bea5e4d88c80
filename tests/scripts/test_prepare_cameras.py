"""prepare_drealsr.py and prepare_realsr.py, on archives that are made here."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr.data.archives import linked_tree, preparation
from basicsr.data.archives.camera_sets import DREALSR, REALSR
from basicsr.data.paired_image_dataset import PairedImageDataset

# Test scenes of DRealSR, and scenes for training.
TESTED = {
    'P': ['P1140279', 'P1171051'],
    'panasonic': ['panasonic_158', 'panasonic_57'],
    'sony': ['sony_1'],
    'DSC': ['DSC_0988'],
    'IMG': ['IMG_140', 'IMG_107'],
    'Canon': ['Canon_10'],
}
TRAINED = {'P': ['P1150001'], 'Canon': ['Canon_3']}
PATCHES = 3
SCRIPTS = Path(__file__).resolve().parents[2] / 'scripts' / 'data_preparation'


def picture(path: Path, height: int = 16, width: int = 16) -> Path:
    """A PNG of its own content for each scene and patch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(str(path).encode()))
    cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return path


def archive(
    root: Path,
    folders: str = '{split}_{side}',
    name: str = '{scene}_x{mark}{patch}.png',
    marks: tuple[int, int] = (4, 1),
    scale: int = 4,
) -> Path:
    """Test pairs of every camera, one of a size that the scale does not divide, and patches for training."""
    for split, scenes in (('test', TESTED), ('train', TRAINED)):
        for scene in (scene for names in scenes.values() for scene in names):
            for patch in [''] if split == 'test' else [f'_{place}' for place in range(1, PATCHES + 1)]:
                for side, mark, size in zip(('HR', 'LR'), marks, (4 * scale, 4), strict=True):
                    folder = folders.format(
                        split=split, Split=split.title(), side=side, lower=side.lower(), scale=scale
                    )
                    odd = scene == 'sony_1' and side == 'HR'
                    file = name.format(scene=scene, mark=mark, patch=patch)
                    picture(root / folder / file, size + odd, size + odd)
    return root


EXPECTED = {f'{camera}/test': set(scenes) for camera, scenes in TESTED.items()} | {
    f'{camera}/train': {f'{scene}_{patch}' for scene in scenes for patch in range(1, PATCHES + 1)}
    for camera, scenes in TRAINED.items()
}


def laid_out(output: Path) -> dict[str, set[str]]:
    """Stems by camera and split; HR and LR have the same file names."""
    found = {}
    for folder in sorted(output.glob('*/*')):
        if folder.parent.name not in {*DREALSR.cameras, *REALSR.cameras}:
            continue
        names = {side: sorted(path.name for path in (folder / side).iterdir()) for side in ('HR', 'LR')}
        assert names['HR'] == names['LR']
        found[folder.relative_to(output).as_posix()] = {Path(name).stem for name in names['HR']}
    return found


def prepare(root, output, *options, camera_set=DREALSR, code=0):
    roots = root if isinstance(root, list) else [root]
    arguments = [*map(str, roots), '--output', str(output), '--workers', '2', *options]
    if code:
        with pytest.raises(SystemExit) as stop:
            preparation.main(camera_set, 'test', arguments)
        assert stop.value.code == code
    else:
        preparation.main(camera_set, 'test', arguments)


def state(folder: Path) -> dict:
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_ino, path.lstat().st_mtime_ns)
        for path in folder.rglob('*')
    }


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> Path:
    """An archive without faults; not to be changed."""
    return archive(tmp_path_factory.mktemp('whole'))


@pytest.fixture
def mine(whole, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / 'archive'))


@pytest.mark.parametrize(
    'variant',
    [
        {},
        {'marks': (1, 1)},
        {'marks': (4, 4)},
        {'name': '{scene}{patch}_x{mark}.png'},
        {'name': '{scene}{patch}.PNG'},
        {'folders': 'DRealSR/x{scale}/{Split}_x{scale}/{split}_{side}/{split}_{side}'},
        {'folders': '{side}/{split}ing'},
        {'folders': '{Split}{side}'},
        {'folders': '{Split} x{scale}/{lower}'},
    ],
    ids=lambda variant: ', '.join(map(str, variant.values())) or 'as the archive has it',
)
def test_naming_and_nesting(tmp_path, variant, capsys):
    prepare(archive(tmp_path / 'archive', **variant), tmp_path / 'new' / 'out')
    assert laid_out(tmp_path / 'new' / 'out') == EXPECTED
    assert '48 files made' not in capsys.readouterr().err


def test_what_is_laid_out_is_trained_and_tested_on(whole, tmp_path):
    prepare(whole, tmp_path / 'out')
    for camera, split in (('P', 'train'), ('sony', 'test')):
        roots = {f'dataroot_{key}': str(tmp_path / 'out' / camera / split / side) for key, side in
                 (('gt', 'HR'), ('lq', 'LR'))}  # fmt: skip
        dataset = PairedImageDataset({**roots, 'scale': 4, 'phase': split, 'gt_size': 16})
        item = dataset[0]
        assert item['gt'].shape == (3, 16, 16) and item['lq'].shape == (3, 4, 4)
    link = tmp_path / 'out/P/test/HR/P1140279.png'
    assert os.readlink(link) == str(whole.resolve() / 'test_HR/P1140279_x4.png')


def test_counts_stand_beside_the_known_ones(whole, tmp_path, capsys):
    prepare(whole, tmp_path / 'out')
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[1:7]}
    assert rows == {
        'P': ['3', '7097', '2', '19'],
        'panasonic': ['0', '7323', '2', '20'],
        'sony': ['0', '5905', '1', '17'],
        'DSC': ['0', '4022', '1', '20'],
        'IMG': ['0', '4122', '2', '12'],
        'Canon': ['3', '2033', '1', '5'],
    }
    assert 'warning: P/train has 3 pairs; the known number is 7097' in printed
    assert printed.count('warning:') == 12
    prepare(whole / 'test_HR', tmp_path / 'never', code=2)  # half of it


def test_no_warning_where_all_are_there(tmp_path, monkeypatch, capsys):
    known = {4: {'test': {camera: len(scenes) for camera, scenes in TESTED.items()}}}
    complete = preparation.CameraSet(**{**vars(DREALSR), 'known': known})
    prepare(archive(tmp_path / 'archive'), tmp_path / 'out', camera_set=complete)
    assert 'warning:' not in capsys.readouterr().out


def test_merged_cameras(whole, tmp_path, capsys):
    prepare(whole, tmp_path / 'out')
    prepare(whole, tmp_path / 'out', '--merge-canon')
    found = laid_out(tmp_path / 'out')
    assert 'IMG/test' not in found and not (tmp_path / 'out/IMG').exists()
    assert found['Canon/test'] == {'Canon_10', 'IMG_140', 'IMG_107'}
    assert re.search(r'Canon +3 +6155 +3 +17', capsys.readouterr().out)


def test_cameras_are_told_by_the_start_of_names(mine, tmp_path, capsys):
    for name in ('old_sony_3_x4.png', 'P11402_x4.png', 'IMG_x4.png', 'panasonic_12_edited_x4.png'):
        picture(mine / 'test_HR' / name)
    prepare(mine, tmp_path / 'out', code=2)
    refused = capsys.readouterr().err
    assert "refused: 4 pictures whose names are no known camera's (unnamed):" in refused
    assert str(mine / 'test_HR/old_sony_3_x4.png') in refused
    prepare(mine, tmp_path / 'out', '--skip', 'unnamed')
    assert laid_out(tmp_path / 'out') == EXPECTED


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


FAULTS = {
    'unpaired': (lambda root: (root / 'test_LR/DSC_0988_x1.png').unlink(), 'DSC_0988_x4.png (no LR)', 'DSC/test'),
    'unreadable': (lambda root: truncate(root / 'test_HR/DSC_0988_x4.png'), 'no complete picture', 'DSC/test'),
    'size': (lambda root: picture(root / 'test_LR/DSC_0988_x1.png', 4, 3), '16x16', 'DSC/test'),
    'leak': (
        lambda root: [picture(root / f'train_{side}/DSC_0988_{mark}_7.png', size, size)
                      for side, mark, size in (('HR', 'x4', 16), ('LR', 'x1', 4))],
        'DSC_0988_x4.png and 1 train picture, such as ', None,
    ),
    'duplicate': (lambda root: picture(root / 'more/test_LR/DSC_0988.png', 4, 4), 'more/test_LR', 'DSC/test'),
}  # fmt: skip


@pytest.mark.parametrize('kind', FAULTS)
def test_faults_are_named_and_refused_unless_they_are_left_out(mine, tmp_path, capsys, kind):
    damage, words, lost = FAULTS[kind]
    damage(mine)
    prepare(mine, tmp_path / 'out', code=2)
    said = capsys.readouterr().err
    assert re.search(rf'refused: 1 .*\({kind}\):', said) and words in said and f'--skip {kind}' in said
    assert not (tmp_path / 'out').exists()
    other = next(one for one in FAULTS if one != kind)
    prepare(mine, tmp_path / 'out', '--skip', other, code=2)
    for skip in (kind, 'all'):
        prepare(mine, tmp_path / skip, '--skip', skip)
        assert laid_out(tmp_path / skip) == {folder: names for folder, names in EXPECTED.items() if folder != lost}


def test_enlarged_lr_is_told(mine, tmp_path, capsys):
    picture(mine / 'train_LR/Canon_3_x1_2.png', 16, 16)
    prepare(mine, tmp_path / 'out', code=2)
    assert 'LR was enlarged to the size of HR' in capsys.readouterr().err


def test_the_same_file_under_another_name_is_a_leak(mine, tmp_path, capsys):
    shutil.copy(mine / 'test_HR/P1140279_x4.png', mine / 'train_HR/P1150001_x4_1.png')
    prepare(mine, tmp_path / 'out', code=2)
    assert 'test_HR/P1140279_x4.png and 1 train picture, such as' in capsys.readouterr().err
    prepare(mine, tmp_path / 'out', '--allow-leaks')
    assert laid_out(tmp_path / 'out') == EXPECTED


def test_a_copy_of_an_archive_within_itself_is_no_fault(mine, tmp_path):
    shutil.copytree(mine / 'test_HR', mine / 'again' / 'test_HR')
    prepare(mine, tmp_path / 'out')
    assert laid_out(tmp_path / 'out') == EXPECTED


def test_other_scales_and_what_is_no_picture_are_left_alone(tmp_path, capsys):
    mine = tmp_path / 'archive'
    archive(mine / 'DRealSR_x2', marks=(2, 1), scale=2)
    archive(mine, folders='x{scale}/{split}_{side}')
    (mine / 'x4/test_HR' / 'Thumbs.db').write_text('no picture')
    (mine / '__MACOSX/test_HR').mkdir(parents=True)
    (mine / '__MACOSX/test_HR/sony_3_x4.png').write_text('no picture')
    (mine / 'x4/test_HR' / '._sony_1_x4.png').write_text('no picture')
    picture(mine / 'figures' / 'sony_9_x4.png')
    prepare(mine, tmp_path / 'out')
    assert laid_out(tmp_path / 'out') == EXPECTED
    assert 'not taken: 30 pictures of scale 2' in capsys.readouterr().err
    prepare(mine, tmp_path / 'two', '--scale', '2')
    assert laid_out(tmp_path / 'two') == EXPECTED
    prepare(mine, tmp_path / 'out', '--scale', '3', code=2)
    assert re.search(r'no pictures of scale 3, but 30 of x2, 30 of x4; give --scale', capsys.readouterr().err)


def test_archives_in_several_places_and_the_output_among_them(whole, tmp_path):
    root = tmp_path / 'DRealSR'
    shutil.copytree(whole, root)
    parts = [tmp_path / 'test_part', tmp_path / 'train_part']
    for split, part in zip(('test', 'train'), parts, strict=True):
        for side in ('HR', 'LR'):
            shutil.copytree(whole / f'{split}_{side}', part / f'{split}_{side}')
    prepare(parts, tmp_path / 'joint')
    for part in parts:  # one after the other: the second run keeps what the first made
        prepare(part, tmp_path / 'out')
    for _ in range(2):
        prepare(root, root)
    for output in (tmp_path / 'joint', tmp_path / 'out', root):
        assert laid_out(output) == EXPECTED


@pytest.mark.parametrize('options', [[], ['--copy']])
def test_a_second_run_changes_nothing_and_a_changed_source_is_brought_up_to_date(mine, tmp_path, options, capsys):
    output = tmp_path / 'out'
    prepare(mine, output, *options)
    before = state(output)
    prepare(mine, output, *options)
    assert state(output) == before
    assert '0 files made, 0 files renewed, 0 files removed, 30 files kept' in capsys.readouterr().out

    changed = picture(mine / 'test_LR/sony_1_x1.png', 4, 4)
    new = cv2.imread(str(changed), -1) // 2
    cv2.imwrite(str(changed), new)
    os.utime(changed, (1, 1))
    for side, mark, size in (('HR', 4, 16), ('LR', 1, 4)):
        (mine / f'test_{side}/DSC_0988_x{mark}.png').unlink()
        picture(mine / f'test_{side}/sony_49_x{mark}.png', size, size)
    (output / 'notes.txt').write_text('mine')
    prepare(mine, output, *options)
    assert f'2 files made, {len(options)} files renewed, 2 files removed' in capsys.readouterr().out
    assert not (output / 'DSC').exists()
    assert (output / 'notes.txt').read_text() == 'mine'
    np.testing.assert_array_equal(cv2.imread(str(output / 'sony/test/LR/sony_1.png'), -1), new)
    assert (output / 'sony/test/LR/sony_49.png').exists()
    assert not list(output.glob('.*'))


def test_links_become_copies_and_back(whole, tmp_path):
    file = tmp_path / 'out/P/test/HR/P1140279.png'
    for options, is_link in (([], True), (['--copy'], False), ([], True)):
        prepare(whole, tmp_path / 'out', *options)
        assert file.is_symlink() == is_link
        assert file.read_bytes() == (whole / 'test_HR/P1140279_x4.png').read_bytes()


@pytest.mark.parametrize('options', [[], ['--copy']])
def test_files_of_others_are_never_replaced(mine, tmp_path, capsys, options):
    output = tmp_path / 'out'
    own = picture(output / 'P/test/HR/P1140279.png')
    before = state(output)
    prepare(mine, output, *options, code=2)
    assert re.search(r'1 file\(s\) .* stand in the way, such as .*P1140279\.png', capsys.readouterr().err)
    assert state(output) == before
    own.unlink()
    prepare(mine, output, *options)
    own.unlink()
    picture(own, 8, 8)  # what was made, and then changed by hand
    (mine / 'test_HR/P1140279_x4.png').unlink()
    prepare(mine, output, *options, '--skip', 'unpaired')
    assert cv2.imread(str(own)).shape == (8, 8, 3)
    (output / 'sony').rename(output / 'moved')
    (output / 'sony').write_text('mine')
    prepare(mine, output, *options, '--skip', 'unpaired', code=2)
    assert (output / 'sony').read_text() == 'mine'


@pytest.mark.parametrize('stop, code', [(KeyboardInterrupt(), 130), (OSError('No space left on device'), 2)])
@pytest.mark.parametrize('there', [False, True])
def test_what_stops_half_way_changes_nothing(whole, tmp_path, monkeypatch, capsys, stop, code, there):
    output = tmp_path / 'sub' / 'out'
    if there:
        prepare(whole / 'test_HR' / '..', output, '--merge-canon')
    before, made = state(tmp_path), []

    def stopping(source, path, copy):
        made.append(path)
        if len(made) == (3 if there else 20):
            raise stop
        path.symlink_to(source)
        return {'source': str(source)}

    monkeypatch.setattr(linked_tree, '_make', stopping)
    prepare(whole, output, code=code)
    assert ('interrupted; nothing was changed' if code == 130 else 'No space left') in capsys.readouterr().err
    assert {name: value[0] for name, value in state(tmp_path).items()} == {
        name: value[0] for name, value in before.items()
    }
    assert there == output.exists()


def test_a_run_that_was_killed_is_finished_by_the_next(mine, tmp_path, monkeypatch):
    """Killed while pictures were moved to their places, of which some are renewed."""
    prepare(mine, tmp_path / 'out', '--copy')
    for path in (mine / 'test_LR').iterdir():
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), -1))
        os.utime(path, (2, 2))
    replace, count = os.replace, []

    def killed(source, path):
        count.append(path)
        if len(count) == 6:
            raise SystemError('killed')
        replace(source, path)

    monkeypatch.setattr(linked_tree.os, 'replace', killed)
    monkeypatch.setattr(linked_tree.shutil, 'rmtree', lambda *args, **kwargs: None)
    with pytest.raises(SystemError):
        prepare(mine, tmp_path / 'out', '--copy')
    assert (tmp_path / 'out/.preparing').exists()
    monkeypatch.undo()
    prepare(mine, tmp_path / 'out', '--copy')
    assert laid_out(tmp_path / 'out') == EXPECTED
    for path in (mine / 'test_LR').iterdir():
        name = path.name.replace('_x1', '')
        assert next(tmp_path.glob(f'out/*/test/LR/{name}')).read_bytes() == path.read_bytes()
    assert not (tmp_path / 'out/.preparing').exists()


def test_check_makes_nothing(whole, tmp_path, capsys):
    prepare(whole, tmp_path / 'out', '--check')
    assert '15 pairs are good; nothing is made' in capsys.readouterr().out
    assert not (tmp_path / 'out').exists()


def test_what_is_not_there(tmp_path, capsys):
    for root, message in (('none', 'there is no folder'), ('empty', r'no pictures in folders like train_HR'),
                          ('strange', r'no picture is named as DRealSR does, such as .*cat\.png')):  # fmt: skip
        (tmp_path / 'empty').mkdir(exist_ok=True)
        picture(tmp_path / 'strange/test_HR/cat.png')
        prepare(tmp_path / root, tmp_path / 'out', code=2)
        assert re.search(f'^error: .*{message}', capsys.readouterr().err, re.M)
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    (damaged / 'prepared.json').write_text('{')
    prepare(archive(tmp_path / 'archive'), damaged, code=2)
    assert "prepared.json' is damaged" in capsys.readouterr().err


def listed(output: Path, name: str, target: Path, kind: str) -> None:
    """Enter a file, or the link, at `target` into the manifest of `output` as if it had been made by an earlier run."""
    manifest = json.loads((output / 'prepared.json').read_text())
    source = next(iter(manifest['files'].values()))['source']
    if kind == 'link':
        target.symlink_to(source)
        manifest['files'][name] = {'source': source}
    else:
        target.write_bytes(b'of somebody else')
        now = [target.stat().st_size, target.stat().st_mtime_ns]
        manifest['files'][name] = {'source': source, 'source_state': now, 'state': now}
    (output / 'prepared.json').write_text(json.dumps(manifest))


@pytest.mark.parametrize('kind', ['link', 'copy'])
@pytest.mark.parametrize(
    'name', ['../own.png', 'P/../../own.png', '{absolute}', 'P/./own.png', 'P//own.png', '', 'a\0b']
)
def test_a_manifest_that_leads_outside_deletes_nothing(mine, tmp_path, capsys, kind, name):
    output, name = tmp_path / 'out', name.format(absolute=tmp_path / 'own.png')
    prepare(mine, output)
    listed(output, name, tmp_path / 'own.png', kind)
    before = state(tmp_path)
    shutil.rmtree(mine / 'train_HR')  # so that entries are removed
    shutil.rmtree(mine / 'train_LR')
    prepare(mine, output, code=2)
    assert f'lists {name!r}, which is no file of that folder' in capsys.readouterr().err
    after = state(tmp_path)
    assert {key: after[key] for key in before if not key.startswith('archive')} == {
        key: value for key, value in before.items() if not key.startswith('archive')
    }


@pytest.mark.parametrize('name', ['prepared.json', '.preparing/x.png'])
def test_a_manifest_does_not_list_itself(mine, tmp_path, capsys, name):
    prepare(mine, tmp_path / 'out')
    (tmp_path / 'out' / name).parent.mkdir(exist_ok=True)
    manifest = json.loads((tmp_path / 'out/prepared.json').read_text())
    manifest['files'][name] = {'source': str(mine)}
    (tmp_path / 'out/prepared.json').write_text(json.dumps(manifest))
    prepare(mine, tmp_path / 'out', code=2)
    assert f'lists {name!r}, which is no file of that folder' in capsys.readouterr().err


@pytest.mark.parametrize('made_before', [True, False])
def test_links_that_lead_outside_are_not_followed(mine, tmp_path, capsys, made_before):
    """Neither deleting what an earlier run made nor making new files goes through a link in the folder."""
    output, outside = tmp_path / 'out', tmp_path / 'outside'
    if made_before:
        prepare(mine, output)
        shutil.move(output / 'P', outside)
        shutil.rmtree(mine / 'train_HR')
        shutil.rmtree(mine / 'train_LR')
    else:
        outside.mkdir()
        output.mkdir()
    (output / 'P').symlink_to(outside)
    before = state(outside), state(output)
    prepare(mine, output, code=2)
    assert re.search(r"the folder of 'P/\w+/\w+/.*png', leads by a link to '.*outside", capsys.readouterr().err)
    assert (state(outside), state(output)) == before


@pytest.mark.parametrize(
    'content',
    [
        '{"files": []}', '{"files": {"a": 5}}', '{"files": {"a": {}}}', '{"files": {"a": {"source": 5}}}', '[]', '\xff',
        '{"files": {"a": {"source": "x", "before": 5}}}', '{"files": {"a": {"source": "x", "before": {}}}}',
        '[' * 100_000,
    ],
    ids=lambda content: content[:40],
)  # fmt: skip
def test_damaged_manifests_are_one_sentence(whole, tmp_path, capsys, content):
    (tmp_path / 'prepared.json').write_bytes(content.encode('latin-1'))
    prepare(whole, tmp_path, code=2)
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1 and "prepared.json' is damaged" in printed[0]
    assert [path.name for path in tmp_path.iterdir()] == ['prepared.json']


@pytest.mark.parametrize('nesting', ['RealSR(V3)/RealSR(V3)/{camera}/{Split}/{scale}', '{Split}/{camera}/x{scale}'])
def test_realsr(tmp_path, capsys, nesting):
    root = tmp_path / 'archive'
    for camera in ('Canon', 'Nikon'):
        for split in ('train', 'test'):  # numbers begin anew in each: scenes are not told by them
            for scale in (2, 4):
                folder = root / nesting.format(camera=camera, Split=split.title(), scale=scale)
                for number in (1, 2):
                    picture(folder / f'{camera}_{number:03d}_HR.png', 16, 16)
                    picture(folder / f'{camera}_{number:03d}_LR{scale}.png', 16 // scale, 16 // scale)
    for scale in (2, 4):
        output = tmp_path / f'x{scale}'
        prepare(root, output, '--scale', str(scale), camera_set=REALSR)
        names = {camera: {f'{camera}_001', f'{camera}_002'} for camera in ('Canon', 'Nikon')}
        assert laid_out(output) == {
            f'{camera}/{split}': names[camera] for camera in names for split in ('train', 'test')
        }
        assert cv2.imread(str(output / 'Nikon/test/LR/Nikon_001.png')).shape[0] == 16 // scale
    assert re.search(r'Canon +2 +- +2 +50', capsys.readouterr().out)


def test_realsr_in_one_folder_or_in_folders_by_side(tmp_path):
    for number in (1, 2):
        picture(tmp_path / f'flat/Canon/Test/Canon_{number:03d}_HR.png', 12, 12)
        for scale in (2, 3, 4):
            picture(tmp_path / f'flat/Canon/Test/Canon_{number:03d}_LR{scale}.png', 12 // scale, 12 // scale)
        suffix = '_LR4' if number == 1 else ''
        picture(tmp_path / f'sides/test_HR/Nikon_{number:03d}{suffix}.png', 12, 12)
        picture(tmp_path / f'sides/test_LR/Nikon_{number:03d}{suffix}.png', 3, 3)
    prepare([tmp_path / 'flat', tmp_path / 'sides'], tmp_path / 'out', camera_set=REALSR)
    assert laid_out(tmp_path / 'out') == {f'{c}/test': {f'{c}_001', f'{c}_002'} for c in ('Canon', 'Nikon')}


def test_the_command_runs_from_anywhere(whole, tmp_path):
    command = [sys.executable, str(SCRIPTS / 'prepare_drealsr.py'), str(whole), '--output', 'out']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')
    assert laid_out(tmp_path / 'out') == EXPECTED


def test_the_command_for_realsr(tmp_path, monkeypatch, capsys):
    picture(tmp_path / 'Canon/Test/4/Canon_001_HR.png')
    picture(tmp_path / 'Canon/Test/4/Canon_001_LR4.png', 4, 4)
    script = str(SCRIPTS / 'prepare_realsr.py')
    monkeypatch.setattr(sys, 'argv', [script, str(tmp_path), '--output', str(tmp_path / 'out')])
    runpy.run_path(script, run_name='__main__')
    assert laid_out(tmp_path / 'out') == {'Canon/test': {'Canon_001'}}
    assert '2 files made' in capsys.readouterr().out
