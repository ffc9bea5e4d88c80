"""Pack a folder of pictures into an LMDB, for `io_backend: {type: lmdb}`.

    python scripts/data_preparation/create_lmdb.py datasets/DF2K/HR_sub datasets/DF2K/HR_sub.lmdb

Many small files are slow on network disks; one large file is not. PNG files are stored as they are, others become PNG.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

from basicsr.data.data_util import IMG_EXTENSIONS, check_files_open, warn_of_other_pictures
from basicsr.utils.lmdb_util import make_lmdb
from basicsr.utils.misc import scandir


def pictures_by_key(folder: Path) -> dict[str, Path]:
    """The picture files below `folder`, by their relative paths without extension, sorted.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It contains no pictures, two with the same name, or links that lead nowhere.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {str(folder)!r}')
    names, files = list(scandir(folder, recursive=True)), {}
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension.lower() not in IMG_EXTENSIONS:
            continue
        if stem in files:
            raise ValueError(f'{str(files[stem])!r} and {name!r} would have the same key; rename one')
        files[stem] = folder / name
    if not files:
        raise ValueError(f'no image file is in {str(folder)!r}; looked for {", ".join(IMG_EXTENSIONS)}')
    check_files_open(folder, [str(path.relative_to(folder)) for path in files.values()], repr(str(folder)))
    warn_of_other_pictures(names, repr(str(folder)), folder)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder of pictures, searched with its subfolders')
    parser.add_argument('output', type=Path, help='folder to create; its name must end in .lmdb')
    parser.add_argument(
        '--compress', type=int, metavar='0-9', help='re-encode all pictures with this PNG compression level'
    )
    parser.add_argument('--workers', type=int, default=4, help='threads for reading and encoding, default 4')
    args = parser.parse_args()
    try:
        count = make_lmdb(pictures_by_key(args.folder), args.output, args.compress, args.workers)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f'error: {error}')
    print(f'{count} pictures are in {args.output}')


if __name__ == '__main__':
    main()
