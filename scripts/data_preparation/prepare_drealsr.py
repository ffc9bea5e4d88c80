"""Lay out DRealSR by camera, for training on one and testing on others.

    python scripts/data_preparation/prepare_drealsr.py ROOT

ROOT is where the archives were unpacked, however nested: the script finds folders such as train_HR, train_LR, test_HR
and test_LR. Pictures are paired by name, checked, and linked as datasets/DRealSR/<camera>/{train,test}/{HR,LR}; the
cameras are P (Olympus), panasonic, sony, DSC (Nikon), IMG and Canon. After any change, run it again to update them.
"""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

from basicsr.data.archives.camera_sets import DREALSR
from basicsr.data.archives.preparation import main

if __name__ == '__main__':
    main(DREALSR, __doc__)
