"""Look at an archive of classes in several domains, such as PACS, VLCS, OfficeHome, TerraIncognita or DomainNet.

    python scripts/data_preparation/prepare_domains.py FOLDER [--json FILE] [--output FOLDER [--skip FAULT …]]

FOLDER is where it was unpacked: <domain>/<class>/<picture>. Prints the numbers of pictures by domain and class beside
the known ones, files that cannot be read, pictures that are the same in several domains or classes, and the lines for
an option file. Training needs nothing else: --output is for archives that are to be tidied up.
"""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

from basicsr.data.archives.domain_report import main

if __name__ == '__main__':
    main(__doc__)
