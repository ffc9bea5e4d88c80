"""Train: `python Train_pip.py [-opt FILE] [--set a.b=value …]`.

Without -opt: the DRealSR experiment where its data is there, and otherwise the quick start.
"""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

    from basicsr.train import main

    main(str(ROOT))
