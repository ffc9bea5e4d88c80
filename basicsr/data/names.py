"""Names of pictures: what is a picture by its extension, lists of names, and names that are not written the same."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

IMG_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
OTHER_PICTURES = (
    '.gif', '.apng', '.heic', '.heif', '.avif', '.jp2', '.jxl', '.jfif', '.jpe', '.mpo', '.exr', '.hdr', '.tga', '.psd',
    '.svg', '.dng', '.cr2', '.nef', '.arw', '.pbm', '.pnm', '.npy',
)  # fmt: skip
"""Extensions of pictures that are not read."""
CLASSIFIED_EXTENSIONS = (*IMG_EXTENSIONS, '.gif', '.jfif', '.jpe', '.pbm', '.pnm')
"""Extensions of pictures whose class is to be told: there, eight bits a channel and one frame are enough."""
_ONE_NAME = re.compile(
    rf"""(["']?)(.+?(?:{'|'.join(map(re.escape, (*IMG_EXTENSIONS, *OTHER_PICTURES)))}))\1(?=\s|$)""", re.IGNORECASE
)
_SIZE = re.compile(r'\s+\(\d+,.*$')


@dataclass(frozen=True)
class NameList:
    """Names listed in a text file, or some of them.

    Attributes:
        file: The text file, for errors.
        names: Line number and name of each.
    """

    file: str
    names: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        return self.file


def read_names(meta_info_file: str | Path | NameList) -> NameList:
    """Read the name at the beginning of each non-blank line; a list that was read before is returned as it is.

    It ends with the extension of a picture, and may have spaces or stand in quotes. One without an extension, as a key
    of an LMDB, ends at a size in parentheses, or else at the first space. What follows is ignored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It names nothing, or is not UTF-8 text.
    """
    if isinstance(meta_info_file, NameList):
        return meta_info_file
    if not os.path.isfile(meta_info_file):
        raise FileNotFoundError(
            f'meta_info_file: there is no file {str(meta_info_file)!r} '
            f'(absolute path: {os.path.abspath(meta_info_file)}); correct the option or leave it out'
        )
    try:
        lines = Path(meta_info_file).read_text(encoding='utf-8-sig').split('\n')  # Windows may begin it with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f'meta_info_file: {str(meta_info_file)!r} is no text in UTF-8; save it as that') from error
    names = tuple((number, _name_in(line.strip())) for number, line in enumerate(lines, 1) if line.strip())
    if not names:
        raise ValueError(f'meta_info_file {str(meta_info_file)!r} names no files; each line begins with a file name')
    return NameList(str(meta_info_file), names)


def _name_in(line: str) -> str:
    if match := _ONE_NAME.match(line):
        return match[2]
    return _SIZE.sub('', line) if _SIZE.search(line) else line.split()[0]


def _spelled(name: str) -> str:
    """In one Unicode normalisation, as macOS and other systems use different ones, and with a lower-case extension."""
    stem, extension = os.path.splitext(name)
    return unicodedata.normalize('NFC', stem) + extension.lower()


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


RULES: tuple[Callable[[str], str], ...] = (str, _spelled, _stem, lambda name: _stem(_spelled(name)))
"""What two names must have in common to mean the same, strictest first; from the third on, extensions may differ."""
_WITH_EXTENSION = 2


class Spellings:
    """Finds names among others as these are written.

    Args:
        names: The others; of several that a rule does not tell apart, the first counts.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._found = [{rule(name): name for name in reversed(names)} for rule in RULES]

    def find(self, name: str, any_extension: bool = False) -> str | None:
        """The one that `name` means, by the strictest rule that finds one."""
        rules = RULES if any_extension else RULES[:_WITH_EXTENSION]
        return next((known[rule(name)] for rule, known in zip(rules, self._found, strict=False)
                     if rule(name) in known), None)  # fmt: skip
