"""The commands, as a user types them, in a copy of the project whose runs are cut to a few iterations."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from basicsr.options.resolve import yaml_load
from basicsr.train import DREALSR_OPTIONS, QUICK_START_OPTIONS

ROOT = Path(__file__).parents[2]
EXPERIMENT = 'experiments/LDT_MambaIR_quickstart'
TEST_OPTIONS = 'options/test/test_MambaIR_quickstart.yml'


def run(project: Path, *command: str, code: int = 0, **environment: str) -> str:
    """Run `python command` in the project; returns what it printed."""
    env = {**os.environ, 'PYTHONPATH': '', **environment}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope='module')
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('project')
    for name in ('basicsr', 'ldt', 'options', 'scripts'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('Train_pip.py', 'test_MambaIR_SR_x4.yml'):
        shutil.copy(ROOT / name, folder)
    for file, changes in (
        ('options/train/MambaIR/train_MambaIR_quickstart_pretrain.yml', {'total_iter': 2}),
        (QUICK_START_OPTIONS, {'total_iter': 4, 'ldt': {'scoring_batches': 2, 'exchange_every': 1}}),
    ):
        opt = yaml.safe_load((folder / file).read_text())
        opt['train'].update(changes)
        opt.setdefault('val', {})['val_freq'] = 2
        opt['logger'].update(print_freq=1, save_checkpoint_freq=2)
        (folder / file).write_text(yaml.safe_dump(opt))
    return folder


@pytest.fixture(scope='module')
def quick_start(project) -> str:
    """What `python Train_pip.py` printed."""
    return run(project, 'Train_pip.py')


def test_a_runs_log_begins_with_what_tells_it_from_others(project, quick_start):
    log = (project / EXPERIMENT / 'train_LDT_MambaIR_quickstart.log').read_text()
    header = log[: log.index('LDT: ')]
    assert re.search(r'Python 3\.\d+\.\d+, PyTorch \d.*(CPU, \d+ threads|NVIDIA).*, no git checkout', header)
    assert re.search(r'Selective scan: (cpu|torch|triton|mamba_ssm)', header)
    options = yaml.safe_load(header[header.index('Options:\n') + len('Options:\n') :].rpartition('\n20')[0])
    assert options['train']['ldt']['scoring_batches'] == 2 and isinstance(options['manual_seed'], int)


def test_tensorboard_shows_losses_pictures_scores_and_decays(project, quick_start):
    accumulator = EventAccumulator(str(project / 'tb_logger' / 'LDT_MambaIR_quickstart'), {'images': 0, 'scalars': 0})
    tags = accumulator.Reload().Tags()
    assert {'losses/l_pix_primary', 'losses/l_pix_auxiliary', 'lr', 'metrics/source/psnr'} <= {*tags['scalars']}
    assert [event.step for event in accumulator.Scalars('losses/l_pix_primary')] == [1, 2, 3, 4]
    assert [event.step for event in accumulator.Scalars('metrics/source/psnr')] == [2, 4]
    pictures = [tag for tag in tags['images'] if tag.startswith('source/')]
    assert len(pictures) == 4 and accumulator.Images(pictures[0])[0].width > 100
    assert accumulator.Images('ldt/layer_scores')[0].width > 300
    for group in ('stable', 'unstable'):
        histogram = accumulator.Histograms(f'ldt/decay_{group}')[0].histogram_value
        assert histogram.num > 10 and 0 < histogram.min < histogram.max < 1


def test_no_arguments_run_the_quick_start(project, quick_start):
    lines = quick_start.splitlines()
    assert 'DRealSR is not there' in lines[0] and 'datasets/DRealSR/P/train/HR' in lines[0]
    for name in ('MambaIR_quickstart_pretrain/models/net_g_latest', 'MambaIR_quickstart_finetune/models/net_g_best'):
        assert quick_start.count(f'{name}.pth is not there: training it first') == 1
    for camera in ('source \\(seen\\)', 'wide', 'night', 'phone'):
        assert re.search(rf'^\| {camera} +\| 6 +\|( \d\d\.\d\d / 0\.\d{{4}} +\|){{4}}$', quick_start, re.M), camera
    for name in ('partition.json', 'layer_scores.png', 'crops.png', 'table.md', 'models/net_g_best.pth', 'options.yml'):
        assert (project / EXPERIMENT / name).stat().st_size > 100, name
    for name in ('models/net_g_best.pth', 'partition.json', 'layer_scores.png', 'crops.png'):
        assert f'{EXPERIMENT}/{name}' in quick_start[quick_start.index('Results:\n  checkpoint') :]
    assert 'hardly leave their initial values' in quick_start, 'four iterations are too few for its coefficients'
    logged = [line for line in lines if re.match(r'\d{4}-\d\d-\d\d .* (INFO|WARNING): .*\d', line)]
    assert len(logged) > 20
    assert len(set(logged)) == len(logged), 'lines are printed twice'
    assert list((project / 'tb_logger' / 'LDT_MambaIR_quickstart').glob('events*'))
    assert not list(project.rglob('*.tmp'))


def test_its_checkpoint_is_tested(project, quick_start):
    printed = run(project, 'basicsr/test.py', '-opt', TEST_OPTIONS)
    after = re.findall(r'^\| (\w[^|]*?) +\| (\d+) +\|.*\| (\d\d\.\d\d / 0\.\d{4}) +\|$', quick_start, re.M)
    again = re.findall(r'^\| (\w[^|]*?) +\| (\d+) +\|.*\| (\d\d\.\d\d / 0\.\d{4}) +\|$', printed, re.M)
    assert len(again) == 5
    assert again == after
    table = project / 'results' / 'test_LDT_MambaIR_quickstart' / 'table.md'
    assert table.read_text().strip() in printed
    picture = (
        project / 'results/test_LDT_MambaIR_quickstart/visualization/night/chelsea_0_test_LDT_MambaIR_quickstart.png'
    )
    assert cv2.imread(str(picture)).shape == (256, 256, 3)


def test_run_goes_on_from_its_newest_state(project, quick_start):
    options = ('-opt', QUICK_START_OPTIONS, '--auto_resume', '--set', 'train.total_iter=6', 'datasets.test_1=null')
    printed = run(project, 'Train_pip.py', *options)
    assert 'Going on from epoch 0, iteration 4' in printed
    assert 'iter 5,' in printed and 'iter 4,' not in printed
    before = [re.search(r'\| night .*', text)[0].split('|')[4] for text in (quick_start, printed)]
    assert before[0] == before[1], 'the network before the training is the pre-trained one, resumed or not'
    best = re.search(r'best (\d+\.\d+) at (\d)', printed)
    own = re.findall(r'Validation source: psnr (\d+\.\d+) \(best', quick_start)[-2:]  # after fine-tuning's
    assert float(best[1]) >= max(map(float, own))
    assert 'Score layers' not in printed
    assert (project / EXPERIMENT / 'training_states' / '6.state').exists()


def test_saved_options_run_again(project, quick_start):
    saved = yaml_load(project / EXPERIMENT / 'options.yml')
    assert saved['train']['ldt']['scoring_batches'] == 2
    assert saved['datasets']['train']['dataroot_gt'] == 'datasets/quickstart/source/train/HR'


def test_two_processes_train_one_network(project, quick_start):
    shutil.rmtree(project / 'experiments' / 'MambaIR_quickstart_pretrain')  # so that both processes need it anew
    printed = run(
        project,
        *('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'Train_pip.py'),
        *('--launcher', 'pytorch', '-opt', QUICK_START_OPTIONS, '--set', 'name=two', 'train.total_iter=2'),
        OMP_NUM_THREADS='1',
    )
    assert printed.count('LDT: 60 stable and 60 unstable layers') == 1
    assert printed.count('training it first') == 1
    assert (project / 'experiments' / 'two' / 'models' / 'net_g_latest.pth').exists()


def test_misspelt_option_stops_before_anything_is_made(project):
    printed = run(
        project, 'Train_pip.py', '-opt', QUICK_START_OPTIONS, '--set', 'name=never', 'train.total_itr=5', code=2
    )
    assert "train.total_itr: unknown option; did you mean 'total_iter'?" in printed
    assert 'Traceback' not in printed
    assert not (project / 'experiments' / 'never').exists()


def test_missing_cameras_are_named_with_where_to_get_them(project):
    printed = run(project, 'basicsr/test.py', '-opt', 'test_MambaIR_SR_x4.yml', code=2)
    for camera in ('panasonic', 'sony', 'DSC', 'IMG', 'Canon'):
        assert str(project / 'datasets/DRealSR' / camera / 'test/HR') in printed
    assert 'download it from its authors' in printed
    assert 'Traceback' not in printed


def test_mistakes_keep_the_previous_run_where_it_is(project, quick_start):
    before = sorted(path.name for path in (project / 'experiments').iterdir())
    for change, message in (
        ('network_g.embed_dimm=3', "did you mean 'embed_dim'"),
        ('train.optim_g.type=Adamm', "did you mean 'Adam'"),
        ('val.metrics.psnr.test_y_chanel=true', "did you mean 'test_y_channel'"),
        ('val.tile_size=big', 'val.tile_size: must be a whole number'),
    ):
        printed = run(project, 'Train_pip.py', '-opt', QUICK_START_OPTIONS, '--set', change, code=2)
        assert message in printed and 'Traceback' not in printed
    assert sorted(path.name for path in (project / 'experiments').iterdir()) == before


def test_loss_that_is_not_finite_stops_the_run(project, quick_start):
    options = ('name=diverged', 'train.optim_g.lr=1e30', 'train.total_iter=50', 'val.val_freq=100')
    printed = run(project, 'Train_pip.py', '-opt', QUICK_START_OPTIONS, '--set', *options, code=2)
    assert re.search(r'Step skipped, 1 in a row and 1 in all: l_pix_primary is ', printed)
    assert re.search(r'in a row, more than train.max_bad_steps: \d+; .* checkpoint of iteration \d+', printed, re.S)
    assert 'Traceback' not in printed


def test_mistake_in_a_worker_is_one_message(project, quick_start, tmp_path):
    shutil.copytree(project / 'datasets/quickstart/source/train', tmp_path / 'train')
    options = [
        f'datasets.train.dataroot_{key}={tmp_path}/train/{folder}' for key, folder in (('gt', 'HR'), ('lq', 'LR'))
    ]
    options += ['name=broken', 'train.total_iter=100000', 'datasets.train.num_worker_per_gpu=1']
    command = [sys.executable, 'Train_pip.py', '-opt', QUICK_START_OPTIONS, '--set', *options]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        printed = ''
        for line in process.stderr:
            printed += line
            if 'iter 1,' in line:
                break
        for picture in (tmp_path / 'train' / 'HR').iterdir():  # whose beginnings were fine
            picture.write_bytes(picture.read_bytes()[:200])
        printed += process.stderr.read()
    assert process.returncode == 2
    assert re.search(r'^error: dataroot_gt: cannot read the picture .*/train/HR/', printed, re.M), printed
    assert 'Traceback' not in printed


def test_broken_training_picture_is_named_before_the_run(project, quick_start, tmp_path):
    shutil.copytree(project / 'datasets/quickstart/source/train', tmp_path / 'train')
    for picture in (tmp_path / 'train' / 'HR').iterdir():
        picture.write_bytes(picture.read_bytes()[:200])
    options = [
        f'datasets.train.dataroot_{key}={tmp_path}/train/{folder}' for key, folder in (('gt', 'HR'), ('lq', 'LR'))
    ]
    printed = run(project, 'Train_pip.py', '-opt', QUICK_START_OPTIONS, '--set', 'name=never', *options, code=2)
    found = r'^error: datasets\.train: dataroot_gt: cannot read the picture .*/train/HR/.*\(its smallest picture\)$'
    assert re.search(found, printed, re.M), printed
    assert 'Traceback' not in printed and not (project / 'experiments' / 'never').exists()


def test_broken_picture_is_named(project, quick_start):
    broken = project / 'datasets/quickstart/source/test/LR/camera_0.png'
    content = broken.read_bytes()
    try:
        broken.write_bytes(content[: len(content) // 2])
        printed = run(project, 'basicsr/test.py', '-opt', TEST_OPTIONS, code=2)
    finally:
        broken.write_bytes(content)
    assert f"cannot read the picture '{broken}'" in printed
    assert 'Traceback' not in printed


def test_ctrl_c_ends_a_run_with_one_message(project, quick_start):
    command = [sys.executable, 'Train_pip.py', '-opt', QUICK_START_OPTIONS, '--set', 'name=long']
    with subprocess.Popen(
        [*command, 'train.total_iter=100000'], cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        printed = ''
        deadline = time.monotonic() + 120
        for line in process.stderr:
            printed += line
            if 'iter 3,' in line or time.monotonic() > deadline:
                break
        os.killpg(process.pid, signal.SIGINT)
        printed += process.stderr.read()
    assert process.returncode == 130, printed
    stopped = re.search(r'^SIGINT: stopped after iteration (\d+) and saved it; --auto_resume goes on', printed, re.M)
    assert stopped and 'Traceback' not in printed, printed
    assert (project / f'experiments/long/training_states/{stopped[1]}.state').exists()


def test_another_basicsr_in_the_way_is_named(project, tmp_path):
    (tmp_path / 'basicsr').mkdir()
    (tmp_path / 'basicsr' / '__init__.py').write_text('raise ImportError("torchvision.transforms.functional_tensor")')
    for script in ('Train_pip.py', 'basicsr/train.py', 'basicsr/test.py'):
        code = f'import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); '
        code += f'sys.argv = [{script!r}, "-opt", "x"]; runpy.run_path({script!r}, run_name="__main__")'
        printed = run(project, '-c', code, code=1)
        assert f'Python imports another `basicsr`, from {tmp_path / "basicsr"}' in printed
        assert 'pip uninstall basicsr' in printed
        assert 'Traceback' not in printed


def test_scripts_run_from_any_folder(project, tmp_path):
    for script in ('Train_pip.py', 'basicsr/train.py', 'basicsr/test.py'):
        assert '--set' in run(tmp_path, str(project / script), '--help')


def test_drealsr_recipe():
    opt = yaml_load(ROOT / DREALSR_OPTIONS)
    assert opt['train']['total_iter'] == 200_000
    assert opt['train']['optim_g'] == {'type': 'Adam', 'lr': 1e-4, 'weight_decay': 0, 'betas': [0, 0.99**0.8]}
    assert 'scheduler' not in opt['train']
    assert opt['datasets']['train']['gt_size'] == 4 * 48
    assert [opt['datasets'][f'test_{index}']['name'] for index in range(1, 6)] == [
        *('panasonic', 'sony', 'DSC', 'IMG', 'Canon'),
    ]
    test = yaml_load(ROOT / 'test_MambaIR_SR_x4.yml')
    assert test['network_g'] == opt['network_g']
    assert test['val']['metrics'].keys() == opt['val']['metrics'].keys()


def test_the_readmes_example_runs(tmp_path):
    example = re.search(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S)[1]
    (tmp_path / 'example.py').write_text(example)
    printed = run(tmp_path, 'example.py', PYTHONPATH=str(ROOT))
    assert 0 < float(printed.split('loss:')[1]) < 0.5
    assert (tmp_path / 'network.pth').exists()
