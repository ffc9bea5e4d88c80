import errno
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from basicsr.runs import lock
from basicsr.runs.lock import Held, locked

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import os, runpy, sys, time
sys.path.insert(0, sys.argv[1])
from basicsr.runs.lock import locked
with locked(sys.argv[2], 'the run'):
    if not sys.argv[3:] or os.fork() == 0:
        print('held', flush=True)
    time.sleep(30)
"""


@pytest.fixture
def holder(tmp_path):
    """Start another process that holds `tmp_path / '.x.lock'`; it and its children end with the test."""
    started = []

    def start(*more):
        process = subprocess.Popen(
            [sys.executable, '-c', HOLDER, str(ROOT), str(tmp_path / '.x.lock'), *more],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == 'held\n'
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_second_process_learns_who_holds_it_and_since_when(holder, tmp_path):
    process = holder()
    with pytest.raises(Held) as error, locked(tmp_path / '.x.lock', 'the run x'):
        pass
    said = (
        rf'the run x is in use by process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, see .*\.x\.lock'
    )
    assert re.fullmatch(said, str(error.value))


def test_a_killed_process_leaves_no_lock_even_if_a_child_that_it_forked_lives_on(holder, tmp_path):
    process = holder('and forks')
    process.kill()
    process.wait()
    os.killpg(process.pid, 0)  # the child is there
    with locked(tmp_path / '.x.lock', 'the run x'):
        assert str(os.getpid()) in (tmp_path / '.x.lock').read_text()


def test_no_file_is_left(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / 'new' / '.x.lock', 'the run x'):
        raise KeyError
    assert list(tmp_path.iterdir()) == [], 'nor an empty folder'
    with locked(tmp_path / 'new' / 'er' / '.x.lock', 'the run x'):
        (tmp_path / 'new' / 'file').touch()
    assert [path.name for path in tmp_path.rglob('*')] == ['new', 'file']


def test_a_process_is_kept_from_what_it_holds_itself_and_goes_on_holding_it(holder, tmp_path):
    path = tmp_path / '.x.lock'
    with locked(path, 'the run x'):
        with pytest.raises(Held, match=f'process {os.getpid()} on'), locked(path, 'the run x'):
            pass
        check = f'import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom basicsr.runs.lock import locked\n'
        check += f'with locked({str(path)!r}, "it"): pass'
        ended = subprocess.run([sys.executable, '-c', check], capture_output=True, text=True)
        assert ended.returncode == 1 and 'Held: it is in use' in ended.stderr
    with locked(path, 'the run x'):
        pass


def test_waiting_is_said_once(tmp_path):
    path, said, release = tmp_path / '.x.lock', [], threading.Event()

    def hold():
        with locked(path, 'the cache'):
            started.set()
            release.wait(20)

    started = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    started.wait(20)

    def say(message):
        said.append(message)
        release.set()

    with locked(path, 'the cache', wait=20, say=say):
        thread.join()
    assert len(said) == 1 and said[0].startswith('the cache is in use by process')


def test_a_link_is_not_followed(tmp_path):
    victim = tmp_path / 'victim'
    victim.write_text('precious')
    (tmp_path / '.x.lock').symlink_to(victim)
    with pytest.raises(OSError, match='symbolic link'), locked(tmp_path / '.x.lock', 'the run x'):
        pass
    assert victim.read_text() == 'precious'


@pytest.mark.parametrize('alive', [True, False])
def test_where_there_are_no_locks_the_holders_line_decides(alive, holder, tmp_path, monkeypatch, logged):
    path, process = tmp_path / '.x.lock', holder()
    if not alive:
        process.kill()
        process.wait()

    def refuse(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(lock.fcntl, 'flock', refuse)
    if alive:
        with pytest.raises(Held, match=f'process {process.pid}'), locked(path, 'the run x'):
            pass
    else:
        with locked(path, 'the run x'):
            pass
    assert len(logged.warnings()) == 1 and 'has no locks' in logged.warnings()[0]
