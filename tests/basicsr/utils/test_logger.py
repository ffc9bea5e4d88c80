"""What follows a run beside the text log."""

import logging
import shutil
import sys
import types

import pytest

from basicsr.utils.logger import (
    check_wandb,
    get_root_logger,
    init_wandb_logger,
    not_essential,
    say_what_was_not_written,
)


def options(**wandb):
    return {'name': 'run', 'logger': {'wandb': wandb, 'use_tb_logger': True}, 'path': {'log': 'folder'}}


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which wants an account; returns what `init` was called with."""
    calls = []

    def init(**arguments):
        calls.append(arguments)
        return types.SimpleNamespace(id=arguments['id'] or 'new')

    package = types.ModuleType('wandb')
    package.init, package.__spec__ = init, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, 'wandb', package)
    return calls


def test_wandb_follows_tensorboard(wandb, logged):
    opt = options(project='ldt', resume_id=None)
    check_wandb(opt)
    init_wandb_logger(opt)
    (arguments,) = wandb
    assert arguments['project'] == 'ldt' and arguments['sync_tensorboard'] and arguments['config'] is opt
    assert arguments['dir'] == 'folder' and arguments['id'] is None
    assert 'run new; logger.wandb.resume_id' in logged.records[-1].getMessage()
    init_wandb_logger(options(project='ldt', resume_id='abc'))
    assert wandb[1]['id'] == 'abc' and wandb[1]['resume'] == 'allow'


def test_without_a_project_nothing_is_asked_for(wandb):
    for opt in (options(), options(project=None, resume_id=None), {'logger': {}}):
        check_wandb(opt)
        init_wandb_logger(opt)
    assert not wandb


def test_wandb_that_is_not_installed_is_said_before_the_run(monkeypatch):
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'logger\.wandb\.project: the package wandb is not installed: pip install'):
        check_wandb(options(project='ldt'))


@pytest.mark.parametrize(
    'error', [RuntimeError('api_key not configured (no-tty)'), ConnectionError('no route to host')]
)
def test_a_run_goes_on_without_wandb(wandb, monkeypatch, logged, error):
    def init(**arguments):
        raise error

    monkeypatch.setattr('wandb.init', init)
    init_wandb_logger(options(project='ldt'))
    (said,) = logged.warnings()
    assert said == f'Weights & Biases, project ldt, could not be written: {error}. The run goes on without it'
    say_what_was_not_written()
    assert f'Weights & Biases, project ldt,: {error}' in logged.warnings()[-1]
    say_what_was_not_written()
    assert len(logged.warnings()) == 2, 'it is forgotten'


@pytest.mark.parametrize(
    'error', [OSError(28, 'No space left on device'), MemoryError(), KeyError('font'), SystemError('x')]
)
def test_each_thing_is_said_once(logged, error):
    for name in ('one', 'two', 'one', 'one'):
        with not_essential(name):
            raise error
    said = logged.warnings()
    assert [text.split()[0] for text in said] == ['one', 'two']
    say_what_was_not_written()
    assert logged.warnings()[-1].splitlines()[1:] == [f'  {name}: {reason_of(error)}' for name in ('one', 'two')]


def reason_of(error):
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


def test_what_ends_a_run_is_not_passed_over():
    with pytest.raises(KeyboardInterrupt), not_essential('a file'):
        raise KeyboardInterrupt


@pytest.fixture
def log(tmp_path):
    """A text log in a folder of its own."""
    file = tmp_path / 'run' / 'train.log'
    file.parent.mkdir()
    logger = get_root_logger(log_file=str(file))
    yield file
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def test_a_log_whose_folder_is_deleted_is_said_once_and_begun_again(log, logged, capfd):
    logger = get_root_logger()
    logger.info('first')
    shutil.rmtree(log.parent)
    for _ in range(3):
        logger.info('lost')
    assert [text for text in logged.warnings() if str(log) in text] == logged.warnings() and len(logged.warnings()) == 1
    log.parent.mkdir()
    logger.info('found — again')
    assert log.read_text(encoding='utf-8').endswith('INFO: found — again\n')
    say_what_was_not_written()
    assert f'{log}: No such file or directory' in log.read_text(encoding='utf-8')
    assert 'Traceback' not in capfd.readouterr().err


def test_a_log_that_is_deleted_is_made_again(log, logged):
    logger = get_root_logger()
    logger.info('first')
    log.unlink()
    logger.info('second')
    assert log.read_text().endswith('INFO: second\n') and not logged.warnings()
