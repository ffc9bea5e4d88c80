"""docs/your_modules.md in a copy of the project: its files are written, and trained, tested, gone on with and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from skimage import data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / 'docs' / 'your_modules.md').read_text(encoding='utf-8')
FILES = {name: text for name, text in re.findall(r'```(?:python|yaml)\n# (mine/\S+)\n(.*?)```', PAGE, re.S)}
FEW = ['--set', 'val.val_freq=2', 'logger.save_checkpoint_freq=2', 'logger.print_freq=1', 'num_gpu=0', 'manual_seed=1']


def run(project, *command, code=0):
    """Run `python command` in the project; returns what it printed."""
    env = {**os.environ, 'PYTHONPATH': '', 'OMP_NUM_THREADS': '1'}
    streams = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
    done = subprocess.run([sys.executable, *command], cwd=project, env=env, text=True, timeout=300, **streams)
    assert done.returncode == code, done.stdout
    return done.stdout


def train(project, file, iterations, *more, code=0):
    return run(project, 'Train_pip.py', '-opt', file, *FEW, f'train.total_iter={iterations}', *more, code=code)


@pytest.fixture(scope='module')
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('project')
    for name in ('basicsr', 'ldt', 'scripts'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'Train_pip.py', folder)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding='utf-8')
    (folder / 'mine' / 'pictures').mkdir()
    rows = ['camera,lq,gt']
    for index, picture in enumerate((data.astronaut(), data.coffee(), data.chelsea())):
        gt = cv2.cvtColor(picture[100:164, 100:164], cv2.COLOR_RGB2BGR)
        lq = cv2.resize(gt, (32, 32), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f'mine/pictures/{index}_gt.png'), gt)
        cv2.imwrite(str(folder / f'mine/pictures/{index}_lq.png'), lq)
        rows.append(f'{"night" if index == 2 else "phone"},pictures/{index}_lq.png,pictures/{index}_gt.png')
    (folder / 'mine' / 'pairs.csv').write_text('\n'.join(rows) + '\n')
    return folder


@pytest.fixture(scope='module')
def trained(project) -> str:
    return train(project, 'mine/train.yml', 2)


def test_the_page_has_an_example_of_each_kind():
    text = ''.join(FILES.values())
    for registry in ('ARCH', 'DATASET', 'LOSS', 'METRIC', 'MODEL', 'STRATEGY'):
        assert f'@{registry}_REGISTRY.register()' in text
    assert {'mine/train.yml', 'mine/test.yml', 'mine/gan.yml'} <= FILES.keys()
    assert '## A strategy\n' in PAGE


def test_check_says_what_registers_what_and_finds_mistakes_by_signature(project):
    printed = train(project, 'mine/train.yml', 2, '--check')
    assert 'imports: mine/measures.py registers loss EdgeLoss, metric calculate_mae' in printed
    assert 'no mistakes found' in printed and not (project / 'experiments').exists()
    wrong = ['network_g.widht=4', 'datasets.train.cammera=a', 'train.edge_opt.loss_weight=heavy']
    wrong += ['val.metrics.mae.crop_bordr=2', 'datasets.val.table=3']
    printed = train(project, 'mine/train.yml', 2, *wrong, code=2)
    for part in (
        "network_g.widht: unknown option; did you mean 'width'?",
        "datasets.train.cammera: unknown option; did you mean 'camera'?",
        "train.edge_opt.loss_weight: must be a number, not 'heavy'",
        "val.metrics.mae.crop_bordr: unknown option; did you mean 'crop_border'?",
        'datasets.val.table: must be ',
        'the options have 5 mistakes',
    ):
        assert part in printed


def test_it_trains_and_remembers_its_imports(project, trained):
    assert re.search(r'l_pix:? \d.*l_edge:? \d', trained), trained
    assert re.search(r'mae:? \d', trained) and (project / 'experiments/mine/models/net_g_best.pth').is_file()
    saved = yaml.safe_load((project / 'experiments/mine/options.yml').read_text())
    assert saved['imports'] == [f'mine/{name}.py' for name in ('net_arch', 'csv_dataset', 'measures', 'edge_model')]


def test_it_is_tested(project, trained):
    printed = run(project, 'basicsr/test.py', '-opt', 'mine/test.yml', '--set', 'num_gpu=0')
    assert re.search(r'\| night \(seen\) +\| 1 +\| \d\d\.\d+ / \d', printed), printed


def test_it_goes_on_from_its_own_options_anywhere(project, trained, tmp_path):
    printed = run(tmp_path, project / 'Train_pip.py', '-opt', project / 'experiments/mine/options.yml',
                  '--auto_resume', '--set', 'train.total_iter=4')  # fmt: skip
    assert 'Going on from epoch 0, iteration 2' in printed
    assert (project / 'experiments/mine/models/net_g_4.pth').is_file()


def test_it_restores_pictures_by_the_imports_of_its_experiment(project, trained, tmp_path):
    checkpoint = project / 'experiments/mine/models/net_g_best.pth'
    script, picture = project / 'scripts/inference.py', project / 'mine/pictures/2_lq.png'
    printed = run(tmp_path, script, picture, 'out.png', '-c', checkpoint)
    assert 'mine/net_arch.py registers arch PlainNet' in printed
    assert cv2.imread(str(tmp_path / 'out.png')).shape == (64, 64, 3)
    shutil.copy(checkpoint, tmp_path / 'alone.pth')
    printed = run(tmp_path, script, picture, 'alone.png', '-c', 'alone.pth', code=2)
    assert 'fits no network that is known here' in printed and 'registers' not in printed


def test_ldt_trains_it_in_two_processes_as_well(project):
    file = project / 'mine' / 'ldt.yml'
    ldt = {'scoring_batches': 2, 'exchange_every': 1}
    file.write_text(yaml.safe_dump({'_base_': 'train.yml', 'name': 'mine_ldt', 'train': {'ldt': ldt}}))
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    printed = run(project, *launch, 'Train_pip.py', '-opt', 'mine/ldt.yml', *FEW, 'train.total_iter=2',
                  'dist_params.backend=gloo')  # fmt: skip
    assert printed.count('mine/net_arch.py registers arch PlainNet') == 1
    assert (project / 'experiments/mine_ldt/partition.json').is_file()


def test_two_networks_in_basicsrs_manner(project):
    printed = train(project, 'mine/gan.yml', 2, 'network_d.widht=4', 'train.optim_d.lr=-1', code=2)
    assert "network_d.widht: unknown option; did you mean 'width'?" in printed
    assert 'train.optim_d.lr: must be a number above 0, not -1' in printed
    train(project, 'mine/gan.yml', 4)
    whole = torch.load(project / 'experiments/mine_gan/models/net_d_4.pth', weights_only=True)['params']
    shutil.rmtree(project / 'experiments/mine_gan')
    train(project, 'mine/gan.yml', 2)
    printed = train(project, 'mine/gan.yml', 4, '--auto_resume')
    assert re.search(r'l_fake:? \d', printed)
    resumed = torch.load(project / 'experiments/mine_gan/models/net_d_4.pth', weights_only=True)['params']
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_strategy_is_tested_selected_and_saved(project):
    printed = train(project, 'mine/latest.yml', 4, 'train.ldt={}', 'train.latest_weights=0', code=2)
    assert 'train.latest_weights: must be a whole number of at least 1, not 0' in printed
    printed = train(project, 'mine/latest.yml', 4, 'train.ldt={}', code=2)
    assert 'train.latest_weights: not with ldt: the composite of LDT is an average already; leave it out' in printed
    train(project, 'mine/latest.yml', 4)
    folder = project / 'experiments/mine_latest'
    state = torch.load(folder / 'training_states/4.state', weights_only=True)['strategy']
    saved = torch.load(folder / 'models/net_g_4.pth', weights_only=True)['params']
    assert state['names'] == ['plain', 'latest_weights']
    latest = state['state']['averages']['latest']
    assert len(latest) == 3
    for value, *steps in zip(saved.values(), *latest, strict=True):
        assert torch.equal(value, torch.stack(steps).mean(0))


def test_the_layers_are_scored_and_editors_know_the_keys(project):
    run(project, 'scripts/analysis/options_schema.py', '--import', 'mine/measures.py', '--output', 'mine')
    assert '### EdgeLoss' in (project / 'mine/options.md').read_text()
    assert '"EdgeLoss"' in (project / 'mine/options.schema.json').read_text()
