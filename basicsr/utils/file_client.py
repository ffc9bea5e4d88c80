"""Reading files for the datasets, behind BasicSR's `io_backend` option."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class FileClient:
    """Reads files from the disk.

    Args:
        backend: `io_backend: {type: …}` of the options; only 'disk' is supported.
        kwargs: The section's other entries; the disk takes none.

    Raises:
        ValueError: Another backend, or an entry that the disk does not take.
    """

    def __init__(self, backend: str = 'disk', **kwargs: Any) -> None:
        if backend != 'disk':
            raise ValueError(
                f'io_backend: type {backend!r} is not supported, only disk is; unpack the data to image files, '
                'set `io_backend: {type: disk}` and point dataroot_gt and dataroot_lq to their folders'
            )
        if kwargs:
            raise ValueError(f'io_backend: type disk takes no other entries; remove {", ".join(sorted(kwargs))}')

    def get(self, filepath: str | Path, client_key: str = 'default') -> bytes:
        """Return the bytes of the file; `client_key` is there for BasicSR's callers and ignored."""
        return Path(filepath).read_bytes()

    def get_text(self, filepath: str | Path) -> str:
        """Return the file's text, read as UTF-8."""
        return Path(filepath).read_text(encoding='utf-8')
