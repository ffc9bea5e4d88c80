"""Compiled libraries: from folders that only this user can write, and byte by byte what was built."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from basicsr.ops.selective_scan import available_backends, cpu_scan, library_cache
from basicsr.ops.selective_scan.library_cache import is_intact, keep, private_folder
from tests.basicsr.ops.test_selective_scan import finish, start

needs_users = pytest.mark.skipif(not hasattr(os, 'getuid'), reason='folders of Windows have no owner and mode')


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Where temporary files go."""
    (tmp_path / 'temporary').mkdir(mode=0o700)
    monkeypatch.setattr(library_cache.tempfile, 'tempdir', str(tmp_path / 'temporary'))
    return tmp_path / 'temporary' / f'scan-{os.getuid()}'


@pytest.mark.parametrize('umask', [0o000, 0o002, 0o022, 0o077])
def test_a_new_folder_is_for_this_user_alone(tmp_path, elsewhere, umask):
    before = os.umask(umask)
    try:
        assert private_folder(tmp_path / 'cache' / 'extensions' / 'scan') == tmp_path / 'cache/extensions/scan'
    finally:
        os.umask(before)
    for name in ('cache', 'cache/extensions', 'cache/extensions/scan'):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077 == 0
    assert not elsewhere.exists()


@needs_users
@pytest.mark.parametrize('mode', [0o777, 0o770, 0o722, 0o1777])
@pytest.mark.parametrize('place', ['scan', ''])
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, elsewhere, logged, mode, place):
    """Neither itself nor one above it; in a folder with the sticky bit, such as /tmp, others cannot rename it."""
    wanted = tmp_path / 'cache' / 'scan'
    wanted.mkdir(parents=True, mode=0o700)
    (tmp_path / 'cache' / place).chmod(mode)
    if mode == 0o1777 and not place:
        assert private_folder(wanted) == wanted and not logged.warnings()
        return
    assert private_folder(wanted) == elsewhere and stat.S_IMODE(elsewhere.stat().st_mode) == 0o700
    (warning,) = logged.warnings()
    assert f'No compiled code is taken from {wanted}: others may write to {tmp_path / "cache" / place}' in warning
    assert str(elsewhere) in warning and 'chmod go-w' in warning


@needs_users
def test_a_folder_of_another_user_is_not_used(tmp_path, elsewhere, logged, monkeypatch):
    """Nor is the one among temporary files, whose name is known, if somebody else has made it."""
    (tmp_path / 'scan').mkdir(mode=0o700)
    (tmp_path / 'temporary' / f'scan-{os.getuid() + 1}').mkdir(mode=0o700)
    other = os.getuid() + 1
    monkeypatch.setattr(os, 'getuid', lambda: other)
    folder = private_folder(tmp_path / 'scan')
    assert folder.parent == tmp_path / 'temporary' and folder.name not in ('scan', f'scan-{os.getuid()}')
    assert 'belongs to another user' in logged.warnings()[0]


@needs_users
def test_links_in_the_path_count_where_they_lead(tmp_path, elsewhere):
    (tmp_path / 'own').mkdir(mode=0o700)
    (tmp_path / 'open').mkdir()
    (tmp_path / 'open').chmod(0o777)
    for name in ('own', 'open'):
        (tmp_path / f'to_{name}').symlink_to(tmp_path / name)
    assert private_folder(tmp_path / 'to_own' / 'scan') == tmp_path / 'own' / 'scan'
    assert private_folder(tmp_path / 'to_open' / 'scan') == elsewhere


def test_a_folder_that_cannot_be_made_has_another_in_its_place(tmp_path, elsewhere, logged):
    (tmp_path / 'file').touch()
    assert private_folder(tmp_path / 'file' / 'scan') == elsewhere
    assert 'No compiled code is taken from' in logged.warnings()[0]


@pytest.fixture
def library(tmp_path) -> Path:
    """One that was built and kept, under a umask that lets a group write."""
    before = os.umask(0o002)
    try:
        (tmp_path / 'build').mkdir()
        (tmp_path / 'build' / 'x.so').write_bytes(os.urandom(5000))
        keep(tmp_path / 'build' / 'x.so', tmp_path / 'scan.so', {'torch': '2'})
    finally:
        os.umask(before)
    assert is_intact(tmp_path / 'scan.so')
    return tmp_path / 'scan.so'


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2500] ^= 1
    path.write_bytes(content)


def _another(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def _link(path: Path) -> None:
    path.rename(path.with_name('moved'))
    path.symlink_to(path.with_name('moved'))


DAMAGE = {
    'truncated': lambda path: os.truncate(path, 4000),
    'empty': lambda path: os.truncate(path, 0),
    'longer': lambda path: os.truncate(path, 6000),
    'a bit': _flip,
    'another': _another,
    'a link to itself': _link,
    'absent': Path.unlink,
    'a pipe': lambda path: (path.unlink(), os.mkfifo(path)),
    'a folder': lambda path: (path.unlink(), path.mkdir()),
    'open to others': lambda path: path.chmod(0o777),
    'no record': lambda path: path.with_suffix('.json').unlink(),
    'a link as record': lambda path: _link(path.with_suffix('.json')),
    'half a record': lambda path: os.truncate(path.with_suffix('.json'), 20),
    'another record': lambda path: path.with_suffix('.json').write_text('[1]'),
    'a deep record': lambda path: path.with_suffix('.json').write_text('[' * 100_000),
}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_what_is_not_as_it_was_built_is_not_loaded(library, damage):
    damage(library)
    assert not is_intact(library)


@needs_users
def test_a_file_of_another_user_is_not_loaded(library, monkeypatch):
    other = os.getuid() + 1
    monkeypatch.setattr(os, 'getuid', lambda: other)
    assert not is_intact(library)


def test_the_name_of_a_build_tells_what_it_is_of(monkeypatch):
    """Source, flags, torch and machine: what one process has built is nothing to a process with another."""
    ingredients = cpu_scan._ingredients()
    names = {cpu_scan._library(ingredients).name}
    for key, other in (('source', '0'), ('flags', ['-O0']), ('torch', ['1.0']), ('machine', ['aarch64'])):
        names.add(cpu_scan._library({**ingredients, key: other}).name)
    assert len(names) == 5


@pytest.mark.skipif('cpu' not in available_backends('cpu'), reason='no compiler that builds it')
def test_half_a_library_and_a_planted_link_do_no_harm_even_without_a_compiler(tmp_path):
    """The link stands where the lock is made; a process that loaded the library would end by a signal."""
    built = cpu_scan._library(cpu_scan._ingredients())
    folder = tmp_path / 'basicsr_scan'
    folder.mkdir(mode=0o700)
    for file in (built, built.with_suffix('.json')):
        shutil.copy(file, folder)
    os.truncate(folder / built.name, built.stat().st_size // 2)
    (tmp_path / 'victim').write_text('of somebody')
    (folder / f'{built.stem}.lock').symlink_to(tmp_path / 'victim')
    printed = finish(start(tmp_path, CXX='/bin/false'))
    assert 'is not what was built: building it again' in printed and 'Selective scan on cpu: backend torch' in printed
    assert (tmp_path / 'victim').read_text() == 'of somebody'
