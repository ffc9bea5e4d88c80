"""A training framework for image restoration with BasicSR's names and habits.

Sub-packages are imported by name (`from basicsr.archs import build_network`); importing `basicsr` itself loads
no more than the version.
"""

from .version import __version__

__all__ = ['__version__']
