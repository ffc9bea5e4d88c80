"""The version has one source, and asking for it loads nothing else."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command):
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_the_package_is_light():
    code = 'import sys, basicsr; print(basicsr.__version__, *sorted(m for m in sys.modules if m.split(".")[0] in {})) '
    heavy = {'torch', 'numpy', 'cv2', 'basicsr'}
    version, *modules = run('-c', code.format(heavy)).split()
    assert modules == ['basicsr', 'basicsr.version']
    assert version == run('-c', 'from basicsr.version import version_info; print(*version_info, sep=".")').strip()
    assert version == run('setup.py', '--version').split()[-1]


def test_names_that_basicsr_exports_from_utils():
    import basicsr.utils
    from basicsr.options.file import yaml_load

    for name in basicsr.utils.__all__:
        assert callable(getattr(basicsr.utils, name))
    assert {'DiffJPEG', 'USMSharp', 'usm_sharp', 'FileClient', 'init_wandb_logger'} <= set(basicsr.utils.__all__)
    assert basicsr.utils.yaml_load is yaml_load and not hasattr(basicsr.utils, 'no_such_thing')
