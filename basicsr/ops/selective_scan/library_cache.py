"""A folder for compiled libraries, whose code runs in every process that loads it.

So nobody else may be able to write there, links in it are not followed, and a library is loaded only if its bytes are
those that were built: a truncated one would end the process by a signal.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def private_folder(wanted: Path) -> Path:
    """`wanted`, made if it is missing; or if others could write there, a folder of this user among temporary files.

    Raises:
        OSError: No folder can be made.
    """
    fault = _make(wanted)
    if fault is None:
        return wanted.resolve()
    own = Path(tempfile.gettempdir()) / f'{wanted.name}-{os.getuid() if hasattr(os, "getuid") else "own"}'
    if _make(own) is not None:
        own = Path(tempfile.mkdtemp(prefix=f'{wanted.name}-'))
        atexit.register(shutil.rmtree, own, ignore_errors=True)
    logging.getLogger('basicsr').warning('No compiled code is taken from %s: %s. It is kept in %s', wanted, fault, own)
    return own.resolve()


def _make(folder: Path) -> str | None:
    """Make the folder, for this user alone; returns why it cannot be used, or None."""
    try:
        for place in reversed([folder, *folder.parents]):
            if not place.exists():
                place.mkdir(mode=0o700, exist_ok=True)
        return _fault(folder.resolve())
    except OSError as error:
        return str(error)


def _fault(folder: Path) -> str | None:
    """Why others could change what lies in the folder, or None; whoever can rename one on the way can, too."""
    if not hasattr(os, 'getuid'):  # Windows: folders of a user are private by default
        return None
    for place in (folder, *folder.parents):
        found = place.lstat()
        if found.st_uid != os.getuid() and (place == folder or found.st_uid != 0):
            return f'{place} belongs to another user, number {found.st_uid}'
        if found.st_mode & _WRITABLE_BY_OTHERS and (place == folder or not found.st_mode & stat.S_ISVTX):
            return f'others may write to {place} (chmod go-w would end that)'
    return None


def is_intact(library: Path) -> bool:
    """Whether the file is there, and is byte by byte what `keep` has put there."""
    content, about = _read(library), _read(_about(library))
    try:
        return content is not None and json.loads(about or b'')['sha256'] == hashlib.sha256(content).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def keep(built: Path, library: Path, about: dict[str, Any]) -> None:
    """Move a library that was built to its place, in a folder of `private_folder`, with what it was built of."""
    record = {'sha256': hashlib.sha256(built.read_bytes()).hexdigest(), **about}
    written = built.with_name(_about(library).name)
    written.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    for file in (built, written):
        file.chmod(0o700)  # whatever the umask is
    os.replace(built, library)
    os.replace(written, _about(library))


def _about(library: Path) -> Path:
    return library.with_suffix('.json')


def _read(path: Path) -> bytes | None:
    """The bytes of a file of this user; None for links, for files that others own or may write to, and for none."""
    flags = (getattr(os, name, 0) for name in ('O_NOFOLLOW', 'O_NONBLOCK', 'O_BINARY'))
    try:
        descriptor = os.open(path, os.O_RDONLY | sum(flags))
    except OSError:
        return None
    found = os.fstat(descriptor)
    mine = not hasattr(os, 'getuid') or (found.st_uid == os.getuid() and not found.st_mode & _WRITABLE_BY_OTHERS)
    if not mine or not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        return None
    with open(descriptor, 'rb') as file:
        return file.read()
