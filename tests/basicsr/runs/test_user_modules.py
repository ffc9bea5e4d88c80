"""Modules of users: once by whatever spelling, in every process, beside their siblings; and what is wrong with one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import basicsr.models  # noqa: F401  registers the project's own
from basicsr.runs.user_modules import Entry, import_user_modules, on_command_line
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, AlreadyRegistered

ROOT = Path(__file__).parents[3]
NETWORK = """import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class {name}(torch.nn.Module):
    pass
"""


@pytest.fixture(autouse=True)
def undone():
    """Registries, Python's path and its modules are afterwards as they were."""
    kept = {registry: dict(registry._objects) for registry in (ARCH_REGISTRY, LOSS_REGISTRY)}
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], '__file__', None) and 'pytest-of' in sys.modules[name].__file__:
            del sys.modules[name]
    for registry, objects in kept.items():
        registry._objects = objects


def write(folder, **files):
    for name, text in files.items():
        file = folder / f'{name.replace("__", "/")}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def load(folder, *names, root=None):
    entries = [Entry(name, (folder,), place='trial.yml, line 3') for name in names]
    return import_user_modules(entries, root or folder)


def fault(folder, name):
    with pytest.raises((OSError, ImportError, ValueError)) as error:
        load(folder, name)
    text = str(error.value)
    assert text.startswith('imports: ') and text.endswith(' [trial.yml, line 3]') and '\n' not in text
    return type(error.value), text[len('imports: ') : -len(' [trial.yml, line 3]')]


def test_a_file_is_imported_once_by_any_spelling(tmp_path, monkeypatch):
    write(
        tmp_path, um_net=NETWORK.format(name='UmNet'), um_pkg____init__='', um_pkg__deep=NETWORK.format(name='UmDeep')
    )
    (tmp_path / 'um_pkg' / '__init__.py').write_text('')
    (tmp_path / 'um_link.py').symlink_to(tmp_path / 'um_net.py')
    names = ['um_net.py', './um_net.py', str(tmp_path / 'um_net.py'), 'um_link.py', 'um_net', 'um_pkg/../um_net.py']
    spelled, lines = load(tmp_path, *names)
    assert spelled == ['um_net.py'] and lines == ['imports: um_net.py registers arch UmNet']
    spelled, lines = load(tmp_path, 'um_pkg/deep.py', 'um_pkg.deep', 'um_pkg')
    assert spelled == ['um_pkg/deep.py', 'um_pkg'] and lines == ['imports: um_pkg/deep.py registers arch UmDeep']
    assert ARCH_REGISTRY.get('UmDeep').__module__ == 'um_pkg.deep'
    assert load(tmp_path, 'um_net.py', root=tmp_path / 'um_pkg')[0] == [str(tmp_path / 'um_net.py')], 'it lies outside'


def test_command_line_paths_start_here_or_else_in_the_project(tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    write(tmp_path, um_first='')
    write(tmp_path / 'here', um_second='')
    monkeypatch.chdir(tmp_path / 'here')
    spelled, lines = import_user_modules(on_command_line(['um_first.py', 'um_second'], tmp_path), tmp_path)
    assert spelled == ['um_first.py', 'here/um_second.py']
    assert lines == ['--import: um_first.py registers nothing', '--import: here/um_second.py registers nothing']


def test_siblings_are_found_and_nothing_of_the_project_is_shadowed(tmp_path):
    write(tmp_path, um_model='import um_blocks\nimport basicsr.archs\nfrom ldt import Partition\n', um_blocks='x = 1\n')
    write(tmp_path, basicsr____init__='raise RuntimeError', ldt='raise RuntimeError')
    (tmp_path / 'basicsr' / '__init__.py').write_text('raise RuntimeError')
    load(tmp_path, 'um_model.py')
    assert sys.modules['um_blocks'].__file__ == str(tmp_path / 'um_blocks.py') and sys.path[-1] == str(tmp_path)
    write(tmp_path / 'basicsr' / 'archs', __init__='', um_fork_arch=NETWORK.format(name='UmFork'))
    (tmp_path / 'basicsr' / 'archs' / '__init__.py').write_text('')
    load(tmp_path, 'basicsr/archs/um_fork_arch.py')
    assert ARCH_REGISTRY.get('UmFork').__module__ == 'um_fork_arch', 'a file of a fork works with this project'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x = (1,\ny = 2\n', "um_bad.py, line 1: SyntaxError: '(' was never closed"),
        ('if True:\nx = 1\n', 'um_bad.py, line 2: IndentationError: expected an indented block'),
        ('import torch\n\ntorch.nn.Linear()\n', 'um_bad.py, line 3: TypeError: '),
        ('\nraise RuntimeError("first\\nsecond")\n', 'um_bad.py, line 2: RuntimeError: first'),
        ('x = {}["key"]\n', 'um_bad.py, line 1: KeyError: key'),
        ('assert False\n', 'um_bad.py, line 1: AssertionError'),
        ('\nimport yamll\n', "um_bad.py, line 2: there is no module yamll; did you mean 'yaml'?"),
        ('import basicsr.archs.arch_utill\n', "there is no module basicsr.archs.arch_utill; did you mean 'arch_util'?"),
        ('from basicsr.archs.arch_util import nothing\n', "line 1: cannot import name 'nothing' from 'basicsr.archs."),
        ('from .blocks import x\n', 'line 1: attempted relative import with no known parent package: its folder is no'),
        ('import sys\nsys.exit(1)\n', 'um_bad.py, line 2: ends Python when it is imported (sys.exit)'),
        (
            NETWORK.format(name='MSRResNet'),
            "um_bad.py, line 4: 'MSRResNet' is already registered in the arch registry, by MSRResNet of "
            f'{ROOT}/basicsr/archs/srresnet_arch.py; choose another name',
        ),
        ('from basicsr.utils.registry import build, ARCH_REGISTRY\nbuild(ARCH_REGISTRY, {"a": 1})\n', 'line 2: Value'),
    ],
)
def test_a_fault_is_told_with_the_users_file_and_line(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, um_bad=text, um_over='import um_bad\n')
    kind, told = fault(tmp_path, 'um_bad.py')
    assert kind is ImportError and told.startswith('um_bad.py, line ') and message in told
    kind, told = fault(tmp_path, 'um_over.py')
    assert told.startswith('um_over.py: um_bad.py, line ') and message in told, 'and where another file imports it'
    assert 'um_bad' not in sys.modules


def test_what_a_failed_import_had_registered_is_forgotten(tmp_path):
    write(tmp_path, um_half=NETWORK.format(name='UmHalf') + 'broken\n', um_good=NETWORK.format(name='UmGood'))
    write(tmp_path, um_both='import um_good\nbroken\n')
    for name in ('um_half.py', 'um_both.py'):
        with pytest.raises(ImportError, match='NameError'):
            load(tmp_path, name)
    assert 'UmHalf' not in ARCH_REGISTRY and 'UmGood' in ARCH_REGISTRY, 'a sibling stays imported'
    write(tmp_path, um_half=NETWORK.format(name='UmHalf'))
    load(tmp_path, 'um_half.py')
    assert 'UmHalf' in ARCH_REGISTRY


@pytest.mark.parametrize(
    ('name', 'kind', 'message'),
    [
        ('um_nett.py', FileNotFoundError, "there is no file {folder}/um_nett.py; did you mean 'um_net.py'?"),
        ('absent/x.py', FileNotFoundError, 'there is no file {folder}/absent/x.py'),
        ('um_absent.models', ModuleNotFoundError, 'there is no module um_absent.models'),
        ('basicsr.archs.srresnet_arhc', ImportError, 'there is no module basicsr.archs.srresnet_arhc; did you mean'),
        ('my net', ValueError, "'my net' is neither a file that ends in .py nor the dotted name of a module"),
        ('', ValueError, "'' is neither a file"),
        ('plain/', ValueError, '{folder}/plain is a folder without __init__.py'),
        ('./notes.txt', ValueError, '{folder}/notes.txt is no Python file'),
        ('um.net.py', ValueError, '{folder}/um.net.py: modules have no dots in their names; rename it'),
        ('random.py', ImportError, 'the name random is taken, by '),
        ('um_shadowed.py', ImportError, 'line 2: `import yaml` leads to '),
    ],
)
def test_what_cannot_be_a_module(tmp_path, name, kind, message):
    write(tmp_path, um_net='', random='', yaml='', um_shadowed='import os\nimport yaml\n')
    (tmp_path / 'um.net.py').write_text('')
    (tmp_path / 'notes.txt').write_text('')
    (tmp_path / 'plain').mkdir()
    found, told = fault(tmp_path, name)
    assert found is kind and message.format(folder=tmp_path) in told


def test_registering_twice_is_basicsrs_assertion_too():
    for kind in (AssertionError, KeyError, AlreadyRegistered):
        with pytest.raises(kind, match='already registered'):
            ARCH_REGISTRY.register(type('Other', (), {}), name='MSRResNet')


def test_processes_that_are_spawned_find_what_they_unpickle(tmp_path):
    write(tmp_path / 'mine', um_data="""from torch.utils.data import Dataset
from um_sibling import VALUE
from basicsr.utils.registry import DATASET_REGISTRY

@DATASET_REGISTRY.register()
class UmData(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return VALUE + index
""", um_sibling='VALUE = 40\n')  # fmt: skip
    program = f"""import sys
sys.path.insert(0, {str(ROOT)!r})
if __name__ == '__main__':
    from pathlib import Path
    from torch.utils.data import DataLoader
    from basicsr.runs.user_modules import import_user_modules, on_command_line
    from basicsr.utils.registry import DATASET_REGISTRY
    import_user_modules(on_command_line(['mine/um_data.py'], Path.cwd()), Path.cwd())
    for context in ('spawn', 'forkserver', 'fork'):
        data = DATASET_REGISTRY.get('UmData')()
        print([int(one) for one in DataLoader(data, num_workers=1, multiprocessing_context=context)])
"""
    (tmp_path / 'main.py').write_text(program)
    env = {**os.environ, 'PYTHONPATH': ''}
    done = subprocess.run(
        [sys.executable, 'main.py'], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.stdout == '[40, 41]\n' * 3, done.stderr


def test_commands_end_in_one_line_and_debug_shows_the_traceback(tmp_path):
    (tmp_path / 'um_bad.py').write_text('\n1 / 0\n')
    for script in ('scripts/inference.py', 'Train_pip.py', 'scripts/analysis/options_schema.py'):
        more = ['a.png', 'b.png', '-c', 'c.pth'] if 'inference' in script else []
        more = more or (['-opt', str(ROOT / 'test_MambaIR_SR_x4.yml')] if 'Train' in script else ['--output', 'out'])
        (tmp_path / 'a.png').write_bytes(b'')
        for debug in ([], ['--debug']):
            done = subprocess.run(
                [sys.executable, ROOT / script, *more, '--import', 'um_bad.py', *debug],
                cwd=tmp_path, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            message = '--import: um_bad.py, line 2: ZeroDivisionError: division by zero'
            if debug:
                assert done.returncode == 1 and 'Traceback' in done.stderr and message in done.stderr
            else:
                assert (done.returncode, done.stderr) == (2, f'error: {message}\n(--debug shows where)\n')
