"""Data sets that are generated: made whole or not at all, and recognised when they are there."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

MANIFEST = 'manifest.json'

Files = Iterable[tuple[str, bytes]]
"""(path below the root, content) of each file."""


def _entry(content: bytes) -> dict:
    return {'size': len(content), 'sha256': hashlib.sha256(content).hexdigest()}


def _write_tree(root: Path, parameters: dict, files: Files) -> None:
    """Write all files and, last, the manifest to the new folder `root`."""
    entries = {}
    for name, content in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        entries[name] = _entry(content)
    manifest = {'parameters': parameters, 'files': entries}
    (root / MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n', encoding='utf-8')


def _read_manifest(root: Path) -> dict:
    """The manifest in `root`, or an empty one if none can be read."""
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding='utf-8'))
        return {'parameters': manifest['parameters'], 'files': dict(manifest['files'])}
    except (OSError, ValueError, KeyError, TypeError):
        return {'parameters': None, 'files': {}}


def is_complete(root: Path, parameters: dict) -> bool:
    """Whether `root` holds the data set of these parameters with every file intact."""
    manifest = _read_manifest(root)
    return manifest['parameters'] == parameters and all(
        (root / name).is_file() and _entry((root / name).read_bytes()) == entry
        for name, entry in manifest['files'].items()
    )


def _check_replaceable(root: Path) -> None:
    """Raise a FileExistsError where `root` is a file, or holds files that no manifest lists."""
    if root.exists() and not root.is_dir():
        raise FileExistsError(f'{root} is a file; choose another folder for the quick start with --output')
    known = {MANIFEST, *_read_manifest(root)['files']}
    found = (path.relative_to(root).as_posix() for path in sorted(root.rglob('*')) if not path.is_dir())
    strangers = [name for name in found if name not in known]
    if strangers:
        raise FileExistsError(
            f'{root} holds {len(strangers)} file(s) that its {MANIFEST} does not list, such as {strangers[0]}; '
            'move or delete them, or choose another folder with --output'
        )


def generate(output: Path, parameters: dict, files: Callable[[], Files], force: bool = False) -> Path:
    """Make a data set, or do nothing if it is complete.

    It is made in a temporary folder beside `output` and renamed, so that an interrupted run leaves nothing behind
    that looks complete.

    Args:
        output: Root folder of the data set.
        parameters: All that determines its content, of JSON's types.
        files: Makes its files.
        force: Make it again even if it is complete.

    Returns:
        `output`.

    Raises:
        FileNotFoundError: What it is made of is not there.
        FileExistsError: `output` holds files that are not the data set's.
    """
    root, parameters = Path(output).resolve(), json.loads(json.dumps(parameters))
    if not force and is_complete(root, parameters):
        return output
    _check_replaceable(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        _write_tree(work / 'new', parameters, files())
        try:
            if root.exists():
                root.rename(work / 'old')
            (work / 'new').rename(root)
        except OSError:
            if not is_complete(root, parameters):  # else another process was quicker
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return output


def command(description: str, default: Path, make: Callable[[Path, bool], Path]) -> None:
    """The command line of a script that makes such a data set: `--output FOLDER` and `--force`.

    Args:
        description: Of the script.
        default: Its folder, where none is named.
        make: `make(folder, force)` makes it.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--output', type=Path, default=default, help='root folder (default: %(default)s)')
    parser.add_argument('--force', action='store_true', help='make it again even if it is complete')
    args = parser.parse_args()
    try:
        print(f'the data is in {make(args.output, args.force)}')
    except (ImportError, OSError) as error:
        sys.exit(f'error: {error}')
