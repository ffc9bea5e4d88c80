"""Imports go one way, as docs/design.md draws it; and `utils` holds nothing but what BasicSR calls so."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {'basicsr.utils', 'basicsr.version', 'basicsr'},
    {'ldt', 'basicsr.options', 'basicsr.runs'},
    {f'basicsr.{room}' for room in ('strategies', 'archs', 'data', 'losses', 'metrics', 'ops', 'results')},
    {'basicsr.models'},
    {'basicsr.evaluation', 'basicsr.inference', 'basicsr.classifier', 'basicsr.reproduce'},
    {'basicsr.rehearsal'},
    {'basicsr.check'},
    {'basicsr.train', 'basicsr.training_loop', 'basicsr.test'},
    {'Train_pip'},
)
"""From the ground up: a room imports from its own floor and from those below."""
NAMES_OF_BASICSR = {
    *('__init__', 'color_util', 'diffjpeg', 'dist_util', 'download_util', 'file_client', 'flow_util', 'img_util'),
    *('img_process_util', 'lmdb_util', 'logger', 'matlab_functions', 'misc', 'options', 'plot_util', 'registry'),
}
RE_EXPORTS = {'basicsr.utils.options': 'basicsr.options'}
"""Modules under names of BasicSR that hold nothing of their own, and the room in which the thing lives."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {
    module_of(path): path for path in [*ROOT.glob('*.py'), *ROOT.glob('ldt/**/*.py'), *ROOT.glob('basicsr/**/*.py')]
}
MODULES.pop('setup')


def imported_by(module: str) -> set[str]:
    """The modules that a module imports, wherever in it, by their absolute names."""
    path, names = MODULES[module], set()
    package = module.split('.') if path.name == '__init__.py' else module.split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = '.'.join([*base, *([node.module] if node.module else [])])
            names |= {f'{whole}.{alias.name}' if f'{whole}.{alias.name}' in MODULES else whole for alias in node.names}
    return names


def room_of(module: str) -> str:
    """`basicsr.<room>`, or the module itself where it lies beside the rooms."""
    return '.'.join(module.split('.')[:2]) if module.startswith('basicsr.') else module.split('.')[0]


def floor_of(module: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room_of(module) in rooms)


def test_every_room_has_its_floor():
    rooms = {room_of(module) for module in MODULES}
    assert rooms == set().union(*FLOORS), 'draw a new room in FLOORS and in docs/design.md'


@pytest.mark.parametrize('module', sorted(MODULES))
def test_imports_go_down(module):
    for name in imported_by(module):
        if name.split('.')[0] in ('basicsr', 'ldt') and name != RE_EXPORTS.get(module):
            if room_of(name) == RE_EXPORTS.get(module):
                continue
            assert floor_of(name) <= floor_of(module), f'{module} imports {name}, which lies above it'


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: imported_by(module) & MODULES.keys() for module in MODULES if module not in RE_EXPORTS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(' -> '.join(error.args[1]))


@pytest.mark.parametrize('module', RE_EXPORTS)
def test_re_exports_hold_nothing_of_their_own(module):
    body = ast.parse(MODULES[module].read_text()).body
    kinds = {type(node) for node in body[1:]}
    assert isinstance(body[0], ast.Expr) and kinds <= {ast.ImportFrom, ast.Assign}


def test_utils_holds_what_basicsr_calls_so():
    names = {path.stem for path in (ROOT / 'basicsr' / 'utils').glob('*.py')}
    assert names <= NAMES_OF_BASICSR


def test_ldt_needs_torch_and_the_standard_library_alone():
    for module in MODULES:
        for name in imported_by(module) if module.split('.')[0] == 'ldt' else ():
            top = name.split('.')[0]
            assert top in {'torch', 'ldt', *sys.stdlib_module_names}, f'{module} imports {name}'
