"""Pictures in LMDB, a single file that holds many, in BasicSR's layout.

`<name>.lmdb` is a folder with `data.mdb`, `lock.mdb` and `meta_info.txt`. The database maps a picture's name without
extension to the bytes of a PNG file; the text file has a line for each, `<key>.png (<h>,<w>,<c>) <compression>`.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from basicsr.utils.img_util import imfrombytes
from basicsr.utils.lmdb_util.pages import check_lmdb_file
from basicsr.utils.misc import file_fault, read_file

META_INFO = 'meta_info.txt'
_CHUNK = 64
"""Pictures per transaction."""
_LONGEST_KEY = 511

# LMDB allows each environment only once per process, and none inherited by a fork. So data sets share them.
_environments: dict[str, Any] = {}
_needed: dict[tuple[str, int, int], int] = {}
"""By (file, size, time) of those that were looked at, the size that they need; forked workers need not look again."""
_lock = threading.Lock()


def _forget_environments() -> None:
    """In a forked process, the parent's environments are unusable, and its lock may be held for ever."""
    global _lock
    _lock = threading.Lock()
    for environment in _environments.values():
        environment.close()
    _environments.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget_environments)


def _lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(
            'reading LMDB needs a package that is not there: pip install "layer-decomposition-training[lmdb]", or '
            'pip install lmdb'
        ) from error
    return lmdb


def check_lmdb(folder: str | Path, option: str) -> None:
    """Make sure that `folder` holds a database, and that the package that reads it is installed.

    Raises:
        ImportError: The package lmdb is not installed.
        FileNotFoundError: The folder, its data or its list of pictures is missing.
        ValueError: Its name does not end in .lmdb; or it is truncated or damaged.
    """
    folder = Path(folder)
    if folder.suffix != '.lmdb':
        raise ValueError(
            f"{option}: io_backend is lmdb, so the folder's name must end in .lmdb, not be {str(folder)!r}; "
            'scripts/data_preparation/create_lmdb.py makes one of a folder of pictures'
        )
    for path, what in ((folder, 'no folder'), (folder / 'data.mdb', 'no LMDB'), (folder / META_INFO, 'no list')):
        fault = file_fault(path) if path != folder else '' if path.is_dir() else file_fault(path) or 'a file'
        if fault:
            it_is = '' if fault == 'absent' else f' (it is {fault})'
            raise FileNotFoundError(
                f'{option}: there is {what} {str(path)!r}{it_is}; scripts/data_preparation/create_lmdb.py makes an '
                'LMDB of a folder of pictures'
            )
    _lmdb()
    _size_needed(os.path.realpath(folder))


def _size_needed(folder: str) -> int:
    """How many bytes the database has, once it was looked at.

    Raises:
        ValueError: It is truncated or damaged.
    """
    file = os.path.join(folder, 'data.mdb')
    about = os.stat(file)
    key = file, about.st_size, about.st_mtime_ns
    if key not in _needed:
        try:
            _needed[key] = check_lmdb_file(file)
        except ValueError as error:
            raise ValueError(f'{file!r} cannot be opened as an LMDB: {error}; copy or make it again') from error
    return _needed[key]


def lmdb_keys(folder: str | Path, option: str) -> list[str]:
    """The pictures' keys, in the order of `meta_info.txt`.

    Raises:
        ImportError, FileNotFoundError, ValueError: As for `check_lmdb`; or the list is empty.
    """
    check_lmdb(folder, option)
    path = Path(folder) / META_INFO
    lines = [line.strip() for line in path.read_text(encoding='utf-8-sig', errors='surrogateescape').splitlines()]
    keys = [os.path.splitext(line.rsplit(' (', 1)[0])[0] for line in lines if line]
    if not keys:
        raise ValueError(f'{option}: {str(path)!r} names no pictures')
    odd = [key for key in keys if '\0' in key or os.path.basename(key) in ('', '.', '..')]
    if odd:
        raise ValueError(f'{option}: {str(path)!r} has the key {odd[0]!r}, after which no file can be named; mend it')
    return keys


def read_lmdb(folder: str | Path, key: str) -> bytes:
    """The bytes that `folder` holds under `key`. Safe in workers, in threads, and after a fork.

    Raises:
        FileNotFoundError: Nothing is stored under that key.
        ValueError: The folder does not hold an LMDB that can be opened.
    """
    folder = os.path.realpath(folder)
    with _lock:
        if folder not in _environments:
            _environments[folder] = _opened(folder)
        environment = _environments[folder]
    _size_needed(folder)  # it may have changed
    lmdb = _lmdb()
    try:
        with environment.begin() as transaction:
            content = transaction.get(_encoded_key(key))
    except lmdb.Error as error:
        raise ValueError(f'cannot read {key!r} of the LMDB {folder!r}: {error}; make it again') from error
    if content is None:
        raise FileNotFoundError(f'the LMDB {folder!r} has no key {key!r}, though {META_INFO} or an option names it')
    return content


def _encoded_key(key: str) -> bytes:
    """As the name of a file, which need not be UTF-8."""
    return key.encode(errors='surrogateescape')


def _opened(folder: str) -> Any:
    lmdb = _lmdb()
    _size_needed(folder)
    try:
        return lmdb.open(folder, readonly=True, lock=False, readahead=False, meminit=False, create=False)
    except lmdb.Error as error:
        raise ValueError(f'cannot open {folder!r} as an LMDB: {error}; make it again') from error


def make_lmdb(files: dict[str, Path], output: str | Path, compress: int | None = None, workers: int = 4) -> int:
    """Write pictures into a new LMDB. It appears at `output` once complete; a failure leaves nothing behind.

    Args:
        files: Paths of the pictures, by key.
        output: A name that ends in .lmdb.
        compress: PNG compression level, 0 to 9, with which all pictures are re-encoded; None keeps the bytes of PNG
            files and encodes others with level 1.
        workers: Threads that read and encode.

    Returns:
        The number of pictures.

    Raises:
        OSError: `output` exists already, or could not be written.
        ImportError: The package lmdb is not installed.
        ValueError: No pictures, a file that is not a picture, or a wrong name or level.
    """
    output = Path(output)
    if output.suffix != '.lmdb':
        raise ValueError(f"the output's name must end in .lmdb, not be {str(output)!r}")
    if os.path.lexists(output):
        raise FileExistsError(f'{str(output)!r} is there already; remove it or choose another name')
    if not files:
        raise ValueError('there are no pictures to write')
    if compress is not None and not 0 <= compress <= 9:
        raise ValueError(f'the PNG compression is 0 to 9, not {compress}')
    long = [key for key in files if len(_encoded_key(key)) > _LONGEST_KEY]
    if long:
        raise ValueError(f'LMDB takes keys of at most {_LONGEST_KEY} bytes; rename {str(files[long[0]])!r}')
    lmdb = _lmdb()
    temporary = output.with_name(f'.{output.name}.{os.getpid()}.tmp')
    temporary.mkdir(parents=True)
    try:
        with lmdb.open(str(temporary), map_size=64 * 2**20) as environment:
            _fill(environment, files, temporary / META_INFO, compress, workers)
            environment.sync(True)
        os.rename(temporary, output)
    except lmdb.Error as error:  # a full disk, say
        raise OSError(f'could not write {str(output)!r}: {error}') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(files)


def _fill(environment: Any, files: dict[str, Path], meta_info: Path, compress: int | None, workers: int) -> None:
    encoded = _encoded(files, compress, workers)
    progress = tqdm(total=len(files), unit='image', disable=None)  # None: no bar without a terminal
    with open(meta_info, 'w', encoding='utf-8', errors='surrogateescape') as lines, progress:
        while chunk := list(islice(encoded, _CHUNK)):
            _put(environment, [(_encoded_key(key), content) for key, content, _ in chunk])
            lines.writelines(f'{key}.png {description}\n' for key, _, description in chunk)
            progress.update(len(chunk))


def _put(environment: Any, items: list[tuple[bytes, bytes]]) -> None:
    """Write `items` in one transaction, growing the map if it is full."""
    lmdb = _lmdb()
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, content in items:
                    transaction.put(key, content)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()['map_size'])


def _encoded(files: dict[str, Path], compress: int | None, workers: int) -> Iterator[tuple[str, bytes, str]]:
    """(key, PNG bytes, their description), in order; a few are prepared ahead."""
    pending: deque[Any] = deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for key, path in files.items():
                pending.append((key, pool.submit(_as_png, path, compress)))
                if len(pending) > 2 * workers:
                    key, future = pending.popleft()
                    yield key, *future.result()
            for key, future in pending:
                yield key, *future.result()
        finally:
            for _, future in pending:
                future.cancel()


def _as_png(path: Path, compress: int | None) -> tuple[bytes, str]:
    content = read_file(path)
    keep = compress is None and path.suffix.lower() == '.png'
    # Re-encoded pictures lose alpha and are turned upright, as the data sets would do when reading the file.
    try:
        image = imfrombytes(content, 'unchanged' if keep else 'upright')
    except ValueError as error:
        raise ValueError(f'cannot read the picture {str(path)!r}: {error}') from error
    height, width, channels = (*image.shape, 1)[:3]
    level = 1 if compress is None else compress
    if not keep:
        if image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f'{str(path)!r} holds {image.dtype}, which PNG cannot: give pictures of 8 or 16 bits')
        content = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()
    return content, f'({height},{width},{channels}) {level}'
