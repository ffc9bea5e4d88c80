"""Recognise, by its first bytes, what a file is if it is not a checkpoint."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from basicsr.utils.misc import sizeof_fmt

_PICTURES = {
    b'\x89PNG': 'PNG', b'\xff\xd8\xff': 'JPEG', b'BM': 'BMP', b'II*\0': 'TIFF', b'MM\0*': 'TIFF', b'GIF8': 'GIF',
}  # fmt: skip
_ARCHIVES = {b'\x1f\x8b': 'gzip', b'7z\xbc\xaf': '7-Zip', b'Rar!': 'RAR', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz'}
_OTHER_WEIGHTS = {
    b'\x89HDF': 'an HDF5 file, as Keras saves weights', b'\x93NUMPY': 'an array of NumPy', b'GGUF': 'a GGUF file',
}  # fmt: skip
_WEB_PAGE = (b'<!doctype html', b'<html', b'<head', b'<?xml', b'<!--')
_SHOWN = 60


def other_kind(path: str | os.PathLike) -> str | None:
    """Say what a file is that is clearly not a torch checkpoint, and how to get one; None if it may be one.

    Args:
        path: An existing file.
    """
    size = Path(path).stat().st_size
    if size == 0:
        return 'it is empty; download or save it again'
    with open(path, 'rb') as file:
        head = file.read(512)
    if head.startswith(b'PK\x03\x04'):
        return _zip(path, size)
    for start, name in _ARCHIVES.items():
        if head.startswith(start):
            return f'it is an archive ({name}); unpack it, and name a .pth file that was in it'
    if head[257:262] == b'ustar':
        return 'it is an archive (tar); unpack it, and name a .pth file that was in it'
    for start, name in _PICTURES.items():
        if head.startswith(start):
            return f'it is a picture ({name}); the weights of a network are needed, a .pth file'
    for start, name in _OTHER_WEIGHTS.items():
        if head.startswith(start):
            return f'it is {name}; weights of PyTorch are needed, .pth or .safetensors'
    return None if is_safetensors(path) else _text(head)


def is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file begins like a safetensors file: the length of a header, and the header, which is JSON."""
    with open(path, 'rb') as file:
        head = file.read(9)
    return head[8:] == b'{' and int.from_bytes(head[:8], 'little') + 8 <= Path(path).stat().st_size


def _zip(path: str | os.PathLike, size: int) -> str | None:
    """Torch checkpoints are zip archives, too, with a `<name>/data.pkl`; TorchScript programs hold more than that."""
    if not zipfile.is_zipfile(path):
        return (
            f'it is truncated or damaged: its end is missing, {sizeof_fmt(size)} are there; download or save it again'
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inner = {name.partition('/')[2] for name in names}
    if 'constants.pkl' in inner:
        return 'it is a TorchScript program; a state dict is needed, as torch.save(net.state_dict(), …) writes it'
    if 'data.pkl' not in inner:
        held = ', '.join(names[:5]) + (', …' if len(names) > 5 else '') or 'nothing'
        return f'it is a zip archive that holds {held}; unpack it, and name a .pth file that was in it'
    return None


def _text(head: bytes) -> str | None:
    """Describe a web page, a git-lfs pointer or other text; None for bytes that are not text."""
    start = head.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if start.startswith(_WEB_PAGE):
        return (
            'it is a web page, which was saved in place of the file; download the file itself: on a release or '
            'repository page, by the link that its name is or the button beside it'
        )
    if start.startswith(b'version https://git-lfs'):
        return 'it is a pointer of git-lfs; `git lfs pull` in its checkout fetches the file that it stands for'
    try:
        text = head.decode('utf-8', 'strict' if len(head) < 512 else 'ignore')
    except UnicodeDecodeError:
        return None
    if len(text.encode()) < len(head) - 3 or not all(letter.isprintable() or letter in '\t\r\n' for letter in text):
        return None
    return f'it is a text file that begins {" ".join(text.split())[:_SHOWN]!r}'
