"""What a training writes beside its checkpoints fails, each in a real way: said once and at the end, and no more."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from basicsr import train as training
from basicsr.utils.misc import make_exp_dirs
from tests.small_run import LDT, command_line, make_pictures, train, weights, write

CHANGES = {
    **{'train__ldt': LDT, 'val__save_img': True, 'logger__use_tb_logger': True, 'train__total_iter': 4},
    'val__val_freq': 2,
}
EVERY = ('log', 'options.yml', 'partition.json', 'layer_scores.png', 'visualization', 'results.json', 'table.md',
         'table.txt', 'table.csv', 'images.csv', 'crops.png', 'tensorboard')  # fmt: skip


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp('secondary'))


@pytest.fixture(scope='module')
def expected(folder):
    """The weights where all is written."""
    train(folder, name='whole', **CHANGES)
    written = {path.name for path in (folder / 'experiments' / 'whole').iterdir()}
    assert {*EVERY[1:-1], 'train_whole.log'} <= written
    return weights(folder, 'whole')


def spoil(folder, name, what):
    """Let a file fail to be written; returns its path."""
    path = folder / 'experiments' / name / what
    if what == 'log':
        path = path.with_name(f'train_{name}.log')
        path.symlink_to('/dev/full')
    elif what == 'tensorboard':
        path = folder / 'tb_logger' / name
        shutil.rmtree(path)
        path.touch()
    elif what == 'visualization':
        path.rmdir()
        path.touch()
    else:
        path.mkdir()
    return path


def run(folder, monkeypatch, name, sabotage):
    """Train, with what `sabotage` does once the run's folders are there."""

    def make(opt):
        make_exp_dirs(opt)
        sabotage()

    with monkeypatch.context() as patch:
        patch.setattr(training, 'make_exp_dirs', make)
        train(folder, name=name, **CHANGES)


def check_run(folder, name, expected, logged, capfd, paths):
    """It has the right weights and its table, and each of `paths` is said not to be written, once and at the end."""
    found = weights(folder, name)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    warnings = logged.warnings()
    once = [text for text in warnings if 'could not be written' in text]
    assert len(once) == len(paths), once
    *_, last = warnings
    assert last.startswith('Not, or not completely, written:') and last.count('\n') == len(paths)
    for path in map(str, paths):
        assert sum(path in text for text in once) == 1 and path in last
    messages = [record.getMessage() for record in logged.records]
    assert any(f'after the training of {name}:\n| domain' in text for text in messages), 'the table'
    printed = capfd.readouterr().err
    assert 'Traceback' not in printed and 'Logging error' not in printed
    assert not list((folder / 'experiments' / name).rglob('*.tmp'))


@pytest.mark.parametrize('what', EVERY)
def test_one_that_fails(folder, expected, logged, capfd, monkeypatch, what):
    name, paths = f'without_{EVERY.index(what)}', []
    run(folder, monkeypatch, name, lambda: paths.append(spoil(folder, name, what)))
    check_run(folder, name, expected, logged, capfd, paths)


def test_all_of_them_fail(folder, expected, logged, capfd, monkeypatch):
    paths, drawn = [], [what for what in EVERY if what != 'crops.png']  # which are cut from the pictures
    run(folder, monkeypatch, 'alone', lambda: paths.extend(spoil(folder, 'alone', what) for what in drawn))
    check_run(folder, 'alone', expected, logged, capfd, paths)


def test_a_full_disk_under_tensorboard(folder, expected, logged, capfd, monkeypatch):
    """TensorBoard writes in a thread of its own, whose error comes later."""
    disk = folder / 'tb_logger' / 'full'
    mounted = []

    def fill():
        command = ['mount', '-t', 'tmpfs', '-o', 'size=4k', 'tmpfs', str(disk)]
        mounted.append(subprocess.run(command, capture_output=True).returncode == 0)
        if not mounted[0]:
            pytest.skip('only root can mount a small disk')

    try:
        run(folder, monkeypatch, 'full', fill)
    finally:
        if mounted == [True]:
            subprocess.run(['umount', str(disk)], check=True)
    check_run(folder, 'full', expected, logged, capfd, [disk])


@pytest.mark.parametrize('module', ['matplotlib.figure', 'torch.utils.tensorboard'])
def test_a_package_that_cannot_be_imported(folder, expected, logged, capfd, monkeypatch, module):
    name = module.replace('.', '_')
    root = folder / 'experiments' / name
    monkeypatch.setitem(sys.modules, module, None)
    run(folder, monkeypatch, name, lambda: None)
    plots = [root / 'layer_scores.png', root / 'crops.png']
    paths = plots if module.startswith('matplotlib') else [folder / 'tb_logger' / name]
    check_run(folder, name, expected, logged, capfd, paths)


def test_plots_without_fonts(folder, expected, logged, capfd, monkeypatch):
    def no_font(*arguments, **more):
        raise ValueError('Failed to find font DejaVu Sans, and fallback to the default font was disabled')

    monkeypatch.setattr('matplotlib.font_manager.FontManager.findfont', no_font)
    run(folder, monkeypatch, 'fontless', lambda: None)
    root = folder / 'experiments' / 'fontless'
    check_run(folder, 'fontless', expected, logged, capfd, [root / 'layer_scores.png', root / 'crops.png'])


def test_a_read_only_cache_of_matplotlib(tmp_path):
    """In a process of its own, since matplotlib looks for its cache when it is imported."""
    code = 'import sys; from basicsr.results.plots import plot_layer_scores as plot; '
    code += 'plot({"a": 1.0, "b": 2.0}, ["b"], sys.argv[1])'
    environment = {**os.environ, 'MPLCONFIGDIR': '/proc/nowhere'}
    command = [sys.executable, '-c', code, str(tmp_path / 'scores.png')]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and 'Traceback' not in done.stderr, done.stderr
    assert (tmp_path / 'scores.png').stat().st_size > 1000


def test_a_test_whose_results_cannot_be_written_is_an_error(folder, expected):
    from basicsr.evaluation import build_loaders, build_networks, evaluate
    from basicsr.options.resolve import parse_options
    from basicsr.results.tables import write_results

    opt, _ = parse_options(str(folder), True, command_line(write(folder, name='whole', **CHANGES), auto_resume=False))
    opt['is_train'] = False
    loaders = build_loaders(opt, ['test'])
    blocked = folder / 'blocked'
    blocked.touch()
    with pytest.raises(OSError, match='blocked'):
        evaluate(opt, build_networks(opt, {'whole': {}}, str(blocked), save_img=True), loaders)
    results = evaluate(opt, build_networks(opt, {'whole': {}}, str(folder / 'pictures'), save_img=True), loaders)
    with pytest.raises(OSError, match='blocked'):
        write_results(results, blocked)
