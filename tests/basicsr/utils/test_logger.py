"""What follows a run beside the text log."""

import sys
import types

import pytest

from basicsr.utils.logger import check_wandb, init_wandb_logger


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
