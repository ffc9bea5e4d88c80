"""Locks on files: held by one process at a time, and the others learn by whom and since when."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

_FAR = 1 << 30
"""Windows locks bytes that then cannot be read, so it locks one far behind the text."""
_POLL_SECONDS = 0.2
_descriptors: set[int] = set()
"""Of the locks that this process holds."""


def _drop_in_a_forked_child() -> None:
    """Loader workers may outlive a killed run by seconds, and must not keep its lock for as long."""
    while _descriptors:
        os.close(_descriptors.pop())


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_drop_in_a_forked_child)


class Held(ValueError):
    """Another process holds the lock; the message says which and since when."""


@contextmanager
def locked(
    path: str | os.PathLike, what: str, wait: float = 0.0, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path`, which holds a line about its holder and is removed at the end.

    The system releases it when the process ends, even by SIGKILL; children do not inherit it. It also works across the
    machines of an NFS mount. Where a file system has no locks, the holder's line decides.

    Args:
        path: The lock file. Its folder is made, and removed where it stays empty.
        what: What is locked, for the message: 'the run x4'.
        wait: Seconds to wait for another holder.
        say: Called once with the message if it has to wait.

    Raises:
        Held: Another process holds it, after `wait` seconds.
        OSError: The file cannot be made, or is a symbolic link.
    """
    path = Path(path)
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline, said = time.monotonic() + wait, False
    while (descriptor := _take(path)) is None:
        message = f'{what} is in use by {holder(path)}, see {path}'
        if time.monotonic() >= deadline:
            raise Held(message)
        if say is not None and not said:
            say(message)
            said = True
        time.sleep(_POLL_SECONDS)
    _descriptors.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _descriptors:  # not in a forked child
            _descriptors.discard(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(path)  # before it is released: whoever waits for it sees that it is gone, and makes another
                for folder in new:  # those that nothing has come into
                    os.rmdir(folder)
            os.close(descriptor)


def holder(path: str | os.PathLike) -> str:
    """Who holds the lock file, in words."""
    try:
        about = json.loads(Path(path).read_text(encoding='utf-8'))
        return f'process {about["pid"]} on {about["host"]} since {about["since"]}'
    except (OSError, ValueError, KeyError, TypeError):  # just being written, or by something else
        return 'another process'


def _take(path: Path) -> int | None:
    """The descriptor of the locked file, or None if it is held already."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_CLOEXEC', 0)
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(f'{path} is a symbolic link, and must be a lock file: remove it') from error
            raise
        try:
            if not _lock(descriptor, path):
                os.close(descriptor)
                return None
            if _key(path) == _key(descriptor):  # else its holder removed it in between
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _key(file: Path | int) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _lock(descriptor: int, path: Path) -> bool:
    """Try to lock the open file."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return not _names_a_living_process(path)
        raise


def _names_a_living_process(path: Path) -> bool:
    """Where there are no locks: whether a process that the file names runs on this machine, or may on another."""
    try:
        about = json.loads(path.read_text(encoding='utf-8'))
        pid, host = int(about['pid']), about['host']
    except (OSError, ValueError, KeyError, TypeError):
        return False
    logging.getLogger('basicsr').warning('The file system of %s has no locks: remove it if its process has ended', path)
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs for another user
        pass
    return True


def _sign(descriptor: int) -> None:
    about = {'pid': os.getpid(), 'host': socket.gethostname(), 'since': time.strftime('%Y-%m-%d %H:%M:%S')}
    with contextlib.suppress(OSError):  # a full disk does not weaken the lock
        os.ftruncate(descriptor, 0)
        os.write(descriptor, (json.dumps(about) + '\n').encode())
