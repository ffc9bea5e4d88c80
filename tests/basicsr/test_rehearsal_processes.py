"""Rehearsals of real processes: one, and two that train together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_run import everything, make_pictures, options, write

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LONGEST = 180
MODULE = '''
import os

import torch
from torch import nn

from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY


@ARCH_REGISTRY.register()
class Idle(nn.Module):
    """Half of it takes no part in the loss."""

    def __init__(self, fails: bool = False):
        super().__init__()
        self.conv, self.idle, self.fails = nn.Conv2d(3, 12, 3, 1, 1), nn.Conv2d(3, 12, 3, 1, 1), fails

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.conv(x) if not self.fails else self.conv(x[:, :2]), 2)


@DATASET_REGISTRY.register()
class SecondFails(torch.utils.data.Dataset):
    """Pictures that the second process alone cannot read."""

    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if os.environ.get('RANK') == '1':
            raise OSError('the network drive is gone')
        return {'lq': torch.rand(3, 8, 8), 'gt': torch.rand(3, 16, 16), 'lq_path': str(index)}


@MODEL_REGISTRY.register()
class OwnStep(SRModel):
    """A step of its own, in which processes wait for each other."""

    def optimize_parameters(self, current_iter):
        self.optimizer_g.zero_grad()
        loss = self.cri_pix(self.net_g(self.lq), self.gt)
        loss.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict({'l_pix': loss})
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'mine.py').write_text(MODULE)
    return make_pictures(tmp_path)


def run(folder, script, *more, processes=1, **changes):
    """Run a script on `options`, whose paths start in `folder`; (exit code, what it printed)."""
    opt = options(folder)['datasets']
    here = {
        f'datasets__{key}__{root}': str(folder / section[root])
        for key, section in opt.items()
        for root in ('dataroot_gt', 'dataroot_lq')
        if f'datasets__{key}' not in changes
    }
    file = write(folder, **{**here, 'imports': [str(folder / 'mine.py')], **changes})
    command = [sys.executable]
    if processes > 1:
        command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    done = subprocess.run(
        [*command, str(ROOT / script), '-opt', str(file), *more],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
    )
    return done.returncode, done.stdout


BROKEN = {'val__metrics__ssim__crop_border': 12, 'train__pixel_opt__reduction': 'none'}


def test_an_earlier_run_stays_where_it_is(folder):
    assert run(folder, 'Train_pip.py')[0] == 0
    before = everything(folder)
    for script, more in (('Train_pip.py', ()), ('Train_pip.py', ('--check',)), ('basicsr/test.py', ())):
        code, printed = run(folder, script, *more, **BROKEN)
        assert code == 2 and 'Traceback' not in printed and '(--debug shows where)' in printed
        assert (
            'val.metrics.ssim: SSIM needs at least 11x11 pixels after cropping, not 2x4; lower crop_border (' in printed
        )
        assert ('train.pixel_opt: the loss l_pix is 2x3x16x16 numbers' in printed) == (script == 'Train_pip.py')
        assert everything(folder) == before, (script, more)
    code, printed = run(folder, 'Train_pip.py', '--debug', **BROKEN)
    assert code == 1 and 'Traceback' in printed and '_check_terms' in printed
    code, printed = run(folder, 'Train_pip.py', '--check')
    assert code == 0 and printed.splitlines()[-1].endswith('options.yml: no mistakes found.')
    assert 'Tried: the first step, on a batch of datasets.train: lq of 2x3x8x8, gt of 2x3x16x16' in printed
    assert everything(folder) == before


def test_nothing_is_trained_first_where_what_follows_has_a_mistake(folder):
    roots = {key: str(folder / key) for key in ('train', 'val', 'test_0')}
    pairs = {f'datasets__{key}__dataroot_{kind}': f'{root}/{part}' for key, root in roots.items()
             for kind, part in (('gt', 'HR'), ('lq', 'LR'))}  # fmt: skip
    write(folder, 'before.yml', name='before', **pairs)
    weights = folder / 'experiments' / 'before' / 'models' / 'net_g_best.pth'
    chain = {'path__pretrain_network_g': str(weights), 'path__pretrain_opt': str(folder / 'before.yml')}
    before = everything(folder)
    code, printed = run(folder, 'Train_pip.py', **chain, **BROKEN)
    assert code == 2 and 'train.pixel_opt: the loss l_pix is ' in printed and 'training it first' not in printed
    assert everything(folder) == before
    code, printed = run(folder, 'Train_pip.py', **chain)
    assert code == 0 and printed.count('training it first') == 1 and weights.exists()


@pytest.mark.parametrize('model_type', ['SRModel', 'LDTModel', 'OwnStep'])
def test_two_processes_rehearse_and_train(folder, model_type):
    more = {'train__ldt': {'scoring_batches': 2}} if model_type == 'LDTModel' else {}
    code, printed = run(folder, 'Train_pip.py', processes=2, model_type=model_type, **more)
    assert code == 0 and printed.count('iter 3,') == 1, printed


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (BROKEN, 'error: train.pixel_opt: the loss l_pix is 2x3x16x16 numbers'),
        (
            {'network_g': {'type': 'Idle'}},
            'error: find_unused_parameters: must be true where several processes train, for 2 weights of the network '
            'take no part in the loss: idle.weight, idle.bias',
        ),
        ({'network_g': {'type': 'Idle', 'fails': True}, 'model_type': 'OwnStep'}, 'error: network_g: RuntimeError: '),
        (
            {'datasets__train': {'type': 'SecondFails', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}},
            'error: datasets.train: the network drive is gone (its smallest picture)',
        ),
    ],
)
def test_two_processes_stop_with_one_message(folder, changes, message):
    before = everything(folder)
    code, printed = run(folder, 'Train_pip.py', processes=2, **changes)
    assert code != 0 and printed.count('\nerror: ') + printed.startswith('error: ') == 1 and message in printed, printed
    killed_by_torchrun = ('experiments', 'experiments/.small.lock')  # a lock that nobody holds any more
    left = {path: at for path, at in everything(folder).items() if path not in killed_by_torchrun}
    assert left == {path: at for path, at in before.items() if path not in killed_by_torchrun}


def test_two_processes_find_unused_parameters_where_they_are_asked_to(folder):
    changes = {'network_g': {'type': 'Idle'}, 'find_unused_parameters': True}
    code, printed = run(folder, 'Train_pip.py', processes=2, **changes)
    assert code == 0 and printed.count('iter 3,') == 1, printed


def test_two_processes_check(folder):
    before = everything(folder)
    code, printed = run(folder, 'Train_pip.py', '--check', processes=2)
    assert code == 0 and printed.count('no mistakes found') == 1, printed
    code, printed = run(folder, 'Train_pip.py', '--check', processes=2, **BROKEN)
    assert code != 0 and printed.count('error: the check found:') == 1, printed
    assert everything(folder) == before
