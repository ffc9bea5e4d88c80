import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from scipy.stats import spearmanr

import ldt
from basicsr.archs import build_network
from basicsr.data.loaders import loader_beside_the_training
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from scripts.analysis import score_layers

ROOT = Path(__file__).parents[2]
NETWORK = {'type': 'MSRResNet', 'upscale': 2, 'num_feat': 8, 'num_block': 2}
FILES = {'layers.csv', 'layers.md', 'partition.json', 'scores.png', 'kinds.png', 'halves.png', 'decays.png'}


@pytest.fixture(scope='module')
def options(tmp_path_factory) -> Path:
    """An option file of a plain training, its six pictures and its weights."""
    folder = tmp_path_factory.mktemp('scored')
    rng = np.random.default_rng(0)
    for side in ('HR', 'LR'):
        (folder / side).mkdir()
    for number in range(6):
        gt = cv2.resize(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / 'HR' / f'{number}.png'), gt)
        cv2.imwrite(str(folder / 'LR' / f'{number}.png'), cv2.resize(gt, (16, 16), interpolation=cv2.INTER_AREA))
    torch.manual_seed(0)
    torch.save({'params': build_network(NETWORK).state_dict()}, folder / 'net.pth')
    data = {'type': 'PairedImageDataset', 'dataroot_gt': str(folder / 'HR'), 'dataroot_lq': str(folder / 'LR')}
    opt = {
        **{'name': 'tiny', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 0, 'network_g': NETWORK},
        'datasets': {'train': {**data, 'gt_size': 32, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}},
        'path': {'pretrain_network_g': str(folder / 'net.pth'), 'output_root': str(folder / 'out')},
        'train': {
            **{'total_iter': 100, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
            'ema_decay': 0.9,
        },
    }
    file = folder / 'tiny.yml'
    file.write_text(yaml.safe_dump(opt))
    return file


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / 'layers.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def test_tables_and_plots_of_a_plain_training(options, tmp_path, capsys):
    score_layers.main(['-opt', str(options), '--output', str(tmp_path / 'new' / 'out'), '--batches', '6'])
    folder = tmp_path / 'new' / 'out'
    assert {file.name for file in folder.iterdir()} == FILES | {'head.png'}
    for file in folder.glob('*.png'):
        assert min(cv2.imread(str(file)).shape[:2]) > 300, file.name
    net, found = build_network(NETWORK), rows(folder)
    assert [row['layer'] for row in found] == [name for name, _ in net.named_parameters()]
    # Three batches of either half are all six pictures once: patches are whole pictures.
    net.load_state_dict(torch.load(options.parent / 'net.pth')['params'])
    loss = build_loss({'type': 'L1Loss'})
    whole = [batch for part in halves_of(options) for batch in list(part)[:3]]
    expected = ldt.score_layers(net, whole, lambda net, batch: loss(net(batch['lq']), batch['gt']), 6)
    scores = {row['layer']: float(row['score']) for row in found}
    assert scores == pytest.approx(expected, rel=1e-4)
    for row in found:
        rank = sum(score <= scores[row['layer']] for score in scores.values())
        assert float(row['percentile']) == pytest.approx(100 * rank / len(found), abs=0.01)
        assert int(row['head']) == row['layer'].startswith(('upconv1.', 'conv_hr.', 'conv_last.'))
        assert row['kind'] == f'Conv2d.{row["layer"].rpartition(".")[2]}'
        assert float(row['time_constant']) == pytest.approx(10 / (1 - float(row['decay'])))
    halves = [[float(row[f'score_half_{half}']) for row in found] for half in (1, 2)]
    assert halves[0] != halves[1]
    text = (folder / 'layers.md').read_text()
    assert f'correlation of the scores {spearmanr(*halves).statistic:.4f}' in text and text in capsys.readouterr().out
    assert ldt.Partition.load(folder / 'partition.json').unstable == sorted(scores, key=scores.get)[len(scores) // 2 :]


def opt_of(options: Path) -> dict:
    args = score_layers.make_parser().parse_args(['-opt', str(options)])
    return score_layers.parse_options(str(ROOT), True, args)[0]


def halves_of(options: Path) -> list:
    opt = opt_of(options)
    return score_layers.half_loaders(opt, loader_beside_the_training(opt))


def test_halves_share_no_picture_and_are_the_same_each_time(options):
    paths = [[{path for batch in part for path in batch['gt_path']} for part in halves_of(options)] for _ in range(2)]
    assert paths[0] == paths[1] and not paths[0][0] & paths[0][1]
    assert [len(half) for half in paths[0]] == [3, 3]


def test_a_head_that_warms_up(options, tmp_path, monkeypatch):
    """On half of the pictures, as in training; only the others are scored."""
    scored, loss = set(), SRModel.loss
    monkeypatch.setattr(
        SRModel, 'loss', lambda self, net, batch: scored.update(batch['gt_path']) or loss(self, net, batch)
    )
    changes = ['train.ldt.warmup_iter=3', 'train.ldt.head_prefixes=conv_last', 'train.ldt.unstable_ratio=0.5']
    score_layers.main(['-opt', str(options), '--batches', '4', '--output', str(tmp_path), '--set', *changes])
    samples = ldt.Partition.load(tmp_path / 'partition.json').samples
    assert samples['seed'] == 0 and sorted(samples['warm_up'] + samples['scoring']) == [f'{i}.png' for i in range(6)]
    assert {Path(path).name for path in scored} == {*samples['scoring']}


def test_modules_auto_and_a_head_of_ones_own(options, capsys):
    score_layers.main(
        ['-opt', str(options), '--batches', '4', '--head', 'body.1', '--set', 'train.ldt.granularity=module',
         'train.ldt.unstable_ratio=auto', 'train.ldt.strategy=alternating', 'train.ldt.stable_time=[25%, 50]']
    )  # fmt: skip
    folder = options.parent / 'out' / 'results' / 'tiny_layers'
    found = rows(folder)
    assert {row['layer'] for row in found if row['head'] == '1'} == {'body.1.conv1', 'body.1.conv2'}
    assert {row['kind'] for row in found} == {'Conv2d'}
    constants = [float(row['time_constant']) for row in found if row['group'] == 'stable']
    assert min(constants) == pytest.approx(25) and max(constants) < 50
    assert f'Tables and plots: {folder}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--head', 'upconv'], "no layer has the prefix 'upconv'; near it: upconv1"),
        (['--set', 'train.ldt.criterion=random'], 'train.ldt.criterion: random measures nothing'),
        (['--batches', '3'], '--batches: two halves need at least two batches each, 4, not 3'),
        (['--set', 'path.pretrain_network_g=nowhere.pth'], 'nowhere.pth'),
        (['--set', 'train.pixel_opt=~'], 'train.pixel_opt: missing'),
        (['--set', 'network_g.num_feat=6'], 'the file holds'),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing_behind(options, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stop:
        score_layers.main(['-opt', str(options), '--output', str(tmp_path / 'out'), *more])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.endswith('\n(--debug shows where)\n')
    assert not (tmp_path / 'out').exists()


def test_command_line(options, tmp_path):
    command = [sys.executable, str(ROOT / 'scripts/analysis/score_layers.py'), '-opt', str(options), '--batches', '4']
    done = subprocess.run([*command, '--output', str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == FILES | {'head.png'}
    assert '# Layers of tiny' in done.stdout
