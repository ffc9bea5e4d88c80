"""Lay out RealSR by camera, for training on one and testing on others.

    python scripts/data_preparation/prepare_realsr.py ROOT

ROOT is where the archive was unpacked: the script finds folders such as Canon/Train/4 with pictures such as
Canon_001_HR.png and Canon_001_LR4.png. They are paired by name, checked, and linked as
datasets/RealSR/<camera>/{train,test}/{HR,LR}; the cameras are Canon and Nikon. After any change, run it again to update
the links.
"""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

from basicsr.data.archives.camera_sets import REALSR
from basicsr.data.archives.preparation import main

if __name__ == '__main__':
    main(REALSR, __doc__)
