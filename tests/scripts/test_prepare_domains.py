"""prepare_domains.py, on archives that are made here."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from basicsr.data import build_dataset
from basicsr.data.archives import domain_report
from basicsr.data.archives.domain_sets import SETS, recognise

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'data_preparation' / 'prepare_domains.py'
DOMAINS, CLASSES = ('art_painting', 'cartoon', 'photo', 'sketch'), ('dog', 'house')


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(list(str(path).encode())).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def archive(tmp_path):
    for domain in DOMAINS:
        for name in CLASSES:
            for number in range(3):
                picture(tmp_path / 'PACS' / domain / name / f'{number}.png')
    return tmp_path / 'PACS'


@pytest.fixture
def run(capsys):
    """Runs the command; returns (exit code, output, errors)."""

    def call(*arguments) -> tuple[int, str, str]:
        main, code = runpy.run_path(str(SCRIPT))['main'], 0
        try:
            main('Looks.', [str(one) for one in arguments])
        except SystemExit as end:
            code = end.code
        found = capsys.readouterr()
        return code, found.out, re.sub(r'.*\r.*\n?', '', found.err)

    return call


def faulty(archive: Path) -> None:
    """Something of everything: a broken picture, one in two domains, in two classes, twice in a class; no picture."""
    (archive / 'photo' / 'dog' / '0.png').write_bytes(b'no picture')
    same = (archive / 'photo' / 'dog' / '1.png').read_bytes()
    (archive / 'sketch' / 'house' / 'leak.png').write_bytes(same)
    (archive / 'photo' / 'house' / '0.png').write_bytes((archive / 'photo' / 'dog' / '2.png').read_bytes())
    (archive / 'cartoon' / 'dog' / 'again.png').write_bytes((archive / 'cartoon' / 'dog' / '0.png').read_bytes())
    (archive / 'cartoon' / 'dog' / 'Thumbs.db').write_bytes(b'?')


def test_counts_beside_the_known_ones(archive, run):
    picture(archive / 'photo' / 'cat' / '0.png')
    code, out, err = run(archive)
    assert (code, err) == (0, '')
    rows = {line.split('  ')[0]: line.split()[-5:] for line in out.splitlines() if line}
    assert rows['class'] == [*DOMAINS, 'all']
    assert rows['cat'] == ['-', '-', '1', '-', '1'] and rows['dog'] == ['3', '3', '3', '3', '12']
    assert rows['all'] == ['6', '6', '7', '6', '25']
    assert rows['known of PACS'] == ['2,048', '2,344', '1,670', '3,929', '9,991']
    assert rows['difference'] == ['-2,042', '-2,338', '-1,663', '-3,923', '-9,966']
    for line in (
        'Recognised by its domains as PACS.',
        '9,966 of the 9,991 pictures of PACS are missing.',
        'photo: 7 of 1,670 pictures.',
        '3 classes of 7.',
        "Note: 1 classes are not in the domain 'sketch': cat",
        'All files can be read, and no two are the same.',
    ):
        assert line in out.splitlines()


def test_faults_are_named(archive, run):
    faulty(archive)
    code, out, _ = run(archive)
    assert code == 0
    assert "1 files cannot be read:\n  '" + str(archive / 'photo' / 'dog' / '0.png') + "' cannot be read as" in out
    assert '1 pictures are in several domains, byte by byte:\n  photo/dog/1.png = sketch/house/leak.png\n' in out
    assert 'in several classes of a domain, byte by byte:\n  photo/dog/2.png = photo/house/0.png\n' in out
    assert 'several times in a class, byte by byte:\n  cartoon/dog/0.png = cartoon/dog/again.png\n' in out
    assert "Note: 1 files of the domain 'cartoon' are ignored: no pictures, or in no class: dog/Thumbs.db" in out
    assert 'All files can be read' not in out


def test_json(archive, run, tmp_path):
    faulty(archive)
    assert run(archive, '--json', tmp_path / 'found.json')[0] == 0
    found = json.loads((tmp_path / 'found.json').read_text())
    assert (found['set'], found['total'], found['known_total']) == ('PACS', 26, 9991)
    assert found['domains']['sketch'] == {'dog': 3, 'house': 4} and found['known_domains']['sketch'] == 3929
    assert list(found['unreadable']) == ['photo/dog/0.png']
    assert found['leak'] == [['photo/dog/1.png', 'sketch/house/leak.png']]
    assert found['label'] == [['photo/dog/2.png', 'photo/house/0.png']]
    assert found['copy'] == [['cartoon/dog/0.png', 'cartoon/dog/again.png']]
    assert found['root'] == str(archive) and found['classes'] == list(CLASSES) and len(found['notes']) == 1


def test_the_lines_for_an_option_file_are_options(archive, run):
    _, out, _ = run(archive)
    sections = yaml.safe_load(out[out.index('datasets:') :])['datasets']
    assert sections['train']['batch_size_per_gpu'] == 96
    counts = {phase: len(build_dataset({**section, 'phase': phase})) for phase, section in sections.items()}
    assert counts == {'train': 12, 'val': 6, 'test': 6}


def test_a_clean_tree(archive, run, tmp_path):
    faulty(archive)
    picture(archive / 'cartoon' / 'dog' / 'a' / 'b.png')
    picture(archive / 'cartoon' / 'dog' / 'a_b.png')
    output = tmp_path / 'clean'
    code, _, err = run(archive, '--output', output)
    assert code == 2 and '--skip unreadable' in err and not output.exists()
    code, out, _ = run(archive, '--output', output, '--skip', 'unreadable')
    assert code == 0 and f'{output}: 27 files made, 0 files renewed, 0 files removed, 0 files kept; 1 left out' in out
    files = {path.relative_to(output).as_posix(): path for path in output.rglob('*.png')}
    assert len(files) == 27 and {'cartoon/dog/a_b.png', 'cartoon/dog/a_b_.png'} < set(files)
    assert all(path.is_symlink() and path.resolve().is_relative_to(archive) for path in files.values())
    code, out, _ = run(archive, '--output', output, '--skip', 'all')
    assert code == 0 and '4 files removed, 23 files kept; 5 left out' in out
    names = {path.relative_to(output).as_posix() for path in output.rglob('*.png')}
    assert {'photo/dog/1.png', 'cartoon/dog/0.png'} < names
    gone = {'photo/dog/0.png', 'sketch/house/leak.png', 'photo/dog/2.png', 'photo/house/0.png', 'cartoon/dog/again.png'}
    assert not gone & names
    assert f'dataroot: {output}' in out
    code, out, _ = run(output)
    assert code == 0 and 'All files can be read, and no two are the same.' in out


def test_a_tree_of_copies(archive, run, tmp_path):
    output = tmp_path / 'clean'
    assert run(archive, '--output', output, '--copy')[0] == 0
    copy = output / 'photo' / 'dog' / '1.png'
    assert not copy.is_symlink() and copy.read_bytes() == (archive / 'photo' / 'dog' / '1.png').read_bytes()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['{root}/nowhere'], "FOLDER: there is no folder '{root}/nowhere'"),
        (
            ['{root}/PACS/photo'],
            'hold pictures themselves: it is one domain, or one class too few; give the folder above',
        ),
        (
            ['{root}/PACS', '--output', '{root}/PACS/clean'],
            "--output: '{root}/PACS/clean' and '{root}/PACS' lie in one",
        ),
        (['{root}/PACS', '--output', '{root}'], "--output: '{root}' and '{root}/PACS' lie in one another"),
        (['{root}/PACS', '--skip', 'leak'], '--skip: is for --output; without it, nothing is laid out'),
        (['{root}/PACS', '--json', '{root}/no/such.json'], 'No such file or directory'),
    ],
)
def test_mistakes_end_in_one_message(archive, run, arguments, message):
    code, _, err = run(*[one.format(root=archive.parent) for one in arguments])
    assert code == 2 and err.startswith('error: ') and err.count('\n') == 1
    assert message.format(root=archive.parent) in err


def test_interrupted(archive, run, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(domain_report, 'look_at', interrupt)
    assert run(archive)[0] == 130


def test_the_command(archive):
    done = subprocess.run([sys.executable, SCRIPT, archive / 'photo' / 'dog'], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: FOLDER: '") and done.stderr.count('\n') == 1


@pytest.mark.parametrize(
    ('domains', 'name'),
    [
        (['art_painting', 'cartoon', 'photo', 'sketch'], 'PACS'),
        (['cartoon', 'photo', 'sketch'], 'PACS'),
        (['CALTECH', 'LABELME', 'PASCAL', 'SUN'], 'VLCS'),
        (['Art', 'Clipart', 'Product', 'RealWorld'], 'OfficeHome'),
        (['location_100', 'location_38', 'location_43', 'location_46'], 'TerraIncognita'),
        (['clipart', 'infograph', 'painting', 'quickdraw', 'real', 'sketch'], 'DomainNet'),
        (['sketch', 'daylight', 'night'], None),
    ],
)
def test_which_set_it_is(domains, name):
    found = recognise(domains)
    assert (found and found.name) == name


def test_the_known_numbers_add_up():
    for one in SETS:
        if None not in one.domains.values():
            assert sum(one.domains.values()) == one.total, one.name
