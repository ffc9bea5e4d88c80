"""Make sure that `import basicsr` finds the copy beside the running script.

PyPI's package of the same name does not import with recent versions of torchvision. This file is run by path, before
either is imported, so it must not import anything from the project.
"""

import importlib.util
import sys
from pathlib import Path


def use_own_copy(root: Path) -> None:
    """Let `import basicsr` find the copy in `root`, or stop with a message that says what is in its way.

    Args:
        root: Folder of the project. It replaces the script's own folder on the import path, if Python put that there,
            so that `basicsr/data` is not importable as `data`.
    """
    script_folder = str(Path(sys.argv[0]).resolve().parent)
    if sys.path and sys.path[0] and str(Path(sys.path[0]).resolve()) == script_folder:
        sys.path[0] = str(root)
    spec = importlib.util.find_spec('basicsr')
    found = None if spec is None else Path(spec.origin or next(iter(spec.submodule_search_locations))).resolve()
    if found is None:
        sys.path.insert(0, str(root))
    elif found != (root / 'basicsr' / '__init__.py').resolve():
        sys.exit(
            f'Python imports another `basicsr`, from {found.parent}, instead of the one in {root / "basicsr"}.\n'
            'Remove it with `pip uninstall basicsr`, or keep it out of the way: run from a fresh virtual environment, '
            'and take its folder out of PYTHONPATH.'
        )
