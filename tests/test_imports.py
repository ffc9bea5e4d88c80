"""Imports go one way: the method knows no framework, and parts of the framework know no models."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported(folder: Path) -> dict[str, list[str]]:
    """Absolute names of all that the files below `folder` import, by file."""
    found = {}
    for path in sorted(folder.rglob('*.py')):
        package = path.relative_to(ROOT).parent.parts
        names = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = '.'.join(package[: len(package) - node.level + 1]) + '.' if node.level else ''
                names += [f'{base}{node.module or ""}.{alias.name}' for alias in node.names]
        found[str(path.relative_to(ROOT))] = names
    return found


@pytest.mark.parametrize(
    ('folder', 'forbidden'),
    [
        ('ldt', ['basicsr']),
        *[
            (f'basicsr/{part}', ['basicsr.models', 'basicsr.train', 'ldt'])
            for part in ('archs', 'data', 'losses', 'metrics', 'ops')
        ],
        ('basicsr/utils', [f'basicsr.{part}' for part in ('archs', 'data', 'losses', 'metrics', 'models', 'ops')]),
    ],
)
def test_imports_go_one_way(folder, forbidden):
    files = imported(ROOT / folder)
    assert files
    for file, names in files.items():
        for name in names:
            assert not any(name == part or name.startswith(part + '.') for part in forbidden), f'{file} imports {name}'


def test_ldt_needs_torch_and_the_standard_library_alone():
    import sys

    for file, names in imported(ROOT / 'ldt').items():
        for name in names:
            top = name.split('.')[0]
            assert top in {'torch', 'ldt'} or top in sys.stdlib_module_names, f'{file} imports {name}'
