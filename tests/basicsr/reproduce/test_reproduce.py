"""Grids of trainings: cells, their processes, what is used again and what is refused, and the table."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from scipy import stats

from basicsr.reproduce.cameras import prepare_cameras
from basicsr.reproduce.cells import CellFailed, Cells
from basicsr.reproduce.cost import measure_cost
from basicsr.reproduce.grid import grid_section, read_grid
from basicsr.reproduce.report import collect, paired_estimate, write_report
from basicsr.results.scores import Results
from basicsr.utils.registry import ARCH_REGISTRY

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / 'scripts' / 'analysis' / 'reproduce.py'


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three cameras x2 of tiny pictures, and a grid of two variants."""
    rng = np.random.default_rng(0)
    for camera, count in (('one', 6), ('two', 3), ('three', 2)):
        for index in range(count):
            for name, side in (('HR', 32), ('LR', 16)):
                path = tmp_path / 'data' / camera / name / f'{index}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), rng.integers(0, 256, (side, side, 3)).astype(np.uint8))
    (tmp_path / 'data' / 'notes').mkdir()
    train = {'type': 'PairedImageDataset', 'gt_size': 16, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    train.update(dataroot_gt='x', dataroot_lq='x', dataset_enlarge_ratio=4)
    network = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2}
    base = {
        **{'name': 'base', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0, 'network_g': network},
        'datasets': {'train': train},
        'train': {'total_iter': 4, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
    }
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    more = {'_base_': 'pretrain.yml', 'val': {'val_freq': 2, 'metrics': metrics}}
    grid = {
        **{
            'name': 'trial',
            'base': 'base.yml',
            'pretrain': 'pretrain.yml',
            'cameras': {'selection': 2},
            'seeds': [0, 1],
        },
        'variants': {
            'fine-tuning': {},
            'LDT': {'model_type': 'LDTModel', 'train': {'ldt': {'scoring_batches': 1, 'exchange_every': 1}}},
        },
    }
    more['logger'] = {'print_freq': 1, 'save_best': 'psnr'}
    for name, content in (('pretrain', base), ('base', more), ('grid', grid)):
        (tmp_path / f'{name}.yml').write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path


def load(folder, *changes, **grid):
    """The grid, whose file gets the entries `grid`."""
    file = folder / 'grid.yml'
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **grid}, sort_keys=False))
    section, _ = grid_section(file)
    datasets = prepare_cameras(folder / 'data', 'one', 2, 2, folder / 'out' / 'data')
    return read_grid(file, section, folder / 'out', changes, datasets)


class Stub(Cells):
    """Cells whose processes leave the files of a training and a test, and train nothing."""

    started: list = []

    def _process(self, name, slot, lock, script, *arguments):
        self.started.append((name, script))
        opt = yaml.safe_load(Path(arguments[1]).read_text())
        if script == 'Train_pip.py':
            models = self.grid.folder / 'experiments' / name / 'models'
            models.mkdir(parents=True)
            (models / 'net_g_latest.pth').write_bytes(name.encode())
            return
        gain = {'LDT': 1.0}.get(name.split('_')[0], 0.0)
        rng = np.random.default_rng(int(name[-1]) if name[-1].isdigit() else 9)
        scores = {
            section['name']: {f'{n}': {'psnr': 30 + gain + rng.normal(0, 0.1)} for n in range(4)}
            for section in opt['datasets'].values()
        }
        images = {camera: {'images': {picture: {} for picture in own}} for camera, own in scores.items()}
        networks = [*opt.get('compare', {}), opt['name']]
        results = Results(opt['name'], {'psnr': 'higher'}, dict.fromkeys(networks, scores), [], images)
        (self.grid.folder / 'results' / name).mkdir(parents=True)
        results.save(self.grid.folder / 'results' / name)


@pytest.fixture
def stub(folder, monkeypatch):
    monkeypatch.setattr(Stub, 'started', [])
    return Stub(load(folder))


def run(cells, grid=None):
    grid = grid or cells.grid
    everything = [grid.pretraining, grid.reference, *grid.cells]
    cells.check(everything[0])
    failed = cells.run(everything[:1])
    for cell in everything[1:]:
        cells.check(cell)
    return failed or cells.run(everything[1:])


def test_cameras_become_data_sets(folder):
    sections = prepare_cameras(folder / 'data', 'one', 2, 2, folder / 'all')
    lists = Path(sections['train']['meta_info_file']).parent
    assert list(sections) == ['pretrain', 'train', 'val', 'test_three', 'test_two']
    chosen, training = ((lists / f'{name}.txt').read_text().split() for name in ('selection', 'train'))
    assert chosen == ['1.png', '4.png'] and training == ['0.png', '2.png', '3.png', '5.png']
    reduced = sorted(path.name for path in (lists / 'bicubic').iterdir())
    assert reduced == training, 'pictures that select are not trained on, in the pre-training neither'
    assert cv2.imread(str(lists / 'bicubic' / '0.png')).shape == (16, 16, 3)
    before = (lists / 'bicubic' / '0.png').stat().st_mtime_ns
    prepare_cameras(folder / 'data', 'one', 2, 2, folder / 'all')
    assert (lists / 'bicubic' / '0.png').stat().st_mtime_ns == before
    folders = {lists}
    for source, selection in (('two', 1), ('one', 3)):
        sections = prepare_cameras(folder / 'data', source, selection, 2, folder / 'all')
        folders.add(Path(sections['train']['meta_info_file']).parent)
    picture = folder / 'data/one/HR/0.png'
    cv2.imwrite(str(picture), cv2.imread(str(picture)) // 2)
    sections = prepare_cameras(folder / 'data', 'one', 2, 2, folder / 'all')
    folders.add(Path(sections['train']['meta_info_file']).parent)
    assert len(folders) == 4, 'another source, selection or picture has a folder of its own'


def test_reduced_pictures_are_of_one_scale_and_one_picture(folder):
    lists = [
        Path(prepare_cameras(folder / 'data', 'one', 2, scale, folder / 'all')['pretrain']['dataroot_lq'])
        for scale in (2, 4)
    ]
    assert [cv2.imread(str(path / '0.png')).shape[0] for path in lists] == [16, 8]
    for side in ('HR', 'LR'):
        (folder / 'data/one' / side / '0.bmp').write_bytes((folder / 'data/one' / side / '0.png').read_bytes())
    with pytest.raises(ValueError, match=r"one/HR has two pictures called '0'; rename one"):
        prepare_cameras(folder / 'data', 'one', 2, 2, folder / 'all')


@pytest.mark.parametrize(
    ('source', 'selection', 'data', 'message'),
    [
        ('four', 2, 'data', r"no camera 'four'; there are one, three, two"),
        ('one', 4, 'data', 'half of them at most'),
        ('one', 2, 'absent', r'--data: there is no folder .*absent'),
        ('one', 2, 'data/one', r'--data: .* needs two cameras or more.*found: none'),
    ],
)
def test_cameras_that_are_none(folder, source, selection, data, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_cameras(folder / data, source, selection, 2, folder / 'lists')
    assert not (folder / 'lists').exists()


def test_cells_have_the_variants_options(folder):
    grid = load(folder, 'train.total_iter=6')
    assert [cell.name for cell in grid.cells] == [
        *('fine-tuning_seed0', 'fine-tuning_seed1', 'LDT_seed0', 'LDT_seed1'),
    ]
    tuned, decomposed = grid.cells[0].train, grid.cells[3].train
    assert (tuned['model_type'], decomposed['model_type']) == ('SRModel', 'LDTModel')
    assert decomposed['manual_seed'] == 1 and decomposed['train']['total_iter'] == 6
    assert grid.pretraining.train['train']['total_iter'] == 4
    assert list(tuned['datasets']) == ['train', 'val'], 'a training does not see the unseen cameras'
    assert [one['name'] for one in grid.cells[0].test['datasets'].values()] == ['three', 'two']
    assert tuned['path']['pretrain_network_g'] == f'{folder}/out/experiments/pretraining/models/net_g_latest.pth'


def test_modules_of_users_are_part_of_every_cell(folder, monkeypatch):
    """Those of the option files, and what the command line imports; a cell of another list is another cell."""
    monkeypatch.setattr(ARCH_REGISTRY, '_objects', dict(ARCH_REGISTRY._objects))
    network = 'from basicsr.archs.srresnet_arch import MSRResNet\nfrom basicsr.utils.registry import ARCH_REGISTRY\n'
    for name in ('rp_net', 'rp_more'):
        kind = name.title().replace('_', '')
        text = f'{network}\n@ARCH_REGISTRY.register()\nclass {kind}(MSRResNet):\n    pass\n'
        (folder / f'{name}.py').write_text(text)
    file, base = folder / 'grid.yml', folder / 'base.yml'
    base.write_text(base.read_text() + f'imports: {folder}/rp_net.py\n')
    grid = yaml.safe_load(file.read_text())
    grid['variants'] = {'theirs': {'network_g': {'type': 'RpNet', 'num_feat': 4, 'upscale': 2}}, 'ours': {}}
    file.write_text(yaml.safe_dump(grid, sort_keys=False))
    section = grid_section(file)[0]
    datasets = prepare_cameras(folder / 'data', 'one', 2, 2, folder / 'out' / 'data')
    read = [
        read_grid(file, section, folder / 'out', (), datasets, imports=more) for more in ([], [f'{folder}/rp_more.py'])
    ]
    assert [cell.train['imports'] for cell in read[0].cells] == [[f'{folder}/rp_net.py']] * 4
    assert (
        read[1].cells[0].test['imports']
        == read[1].reference.test['imports']
        == [
            *(f'{folder}/rp_net.py', f'{folder}/rp_more.py'),
        ]
    )
    assert read[1].pretraining.train['imports'] == [f'{folder}/rp_more.py']
    cells = Stub(read[0])
    run(cells)
    assert yaml.safe_load((cells.folder / 'theirs_seed0_test.yml').read_text())['imports'] == [f'{folder}/rp_net.py']
    with pytest.raises(ValueError, match=r'(?s)cell theirs_seed0 .*train.imports: .*rp_net.py.*, now .*rp_more.py'):
        Stub(read[1]).check(read[1].cells[0])


def test_all_mistakes_of_a_grid_are_said_at_once(folder):
    with pytest.raises(ValueError, match=r"(?s)LDT: .*train.ldt.criterio.*did you mean 'criterion'.*other: .*lr"):
        load(
            folder,
            variants={
                'LDT': {'model_type': 'LDTModel', 'train': {'ldt': {'criterio': 'mean'}}},
                'other': {'train': {'optim_g': {'lr': -1}}},
            },
        )
    with pytest.raises(ValueError, match=r"grid.varients: unknown option; did you mean 'variants'"):
        load(folder, varients={})


def test_each_cell_runs_once(stub):
    assert run(stub) == {}
    assert stub.started[:3] == [
        *(('pretraining', 'Train_pip.py'), ('pre-trained', 'basicsr/test.py'), ('fine-tuning_seed0', 'Train_pip.py')),
    ]
    assert len(stub.started) == 2 + 2 * 4
    assert run(stub) == {}
    assert len(stub.started) == 10, 'what is done is used again'
    test = yaml.safe_load((stub.folder / 'LDT_seed1_test.yml').read_text())
    assert test['path']['pretrain_network_g'].endswith('experiments/LDT_seed1/models/net_g_latest.pth')


def test_changed_cells_are_refused_and_named(stub, folder):
    run(stub)
    changed = Stub(load(folder, 'train.optim_g.lr=0.5'))
    with pytest.raises(
        ValueError, match=r'(?s)cell fine-tuning_seed0 .*train.train.optim_g.lr: 0.001, now 0.5.*--redo'
    ):
        run(changed)
    assert write_report(changed.grid, changed, '') == [], 'nor do they stand in a table of other options'
    run(Stub(load(folder, 'logger.print_freq=77')))
    assert len(stub.started) == 10, 'how often a log has a line changes no result'
    weights = folder / 'out/experiments/pretraining/models/net_g_latest.pth'
    weights.write_bytes(b'trained again')
    with pytest.raises(ValueError, match=r'pretraining/models/net_g_latest.pth: '):
        run(Stub(load(folder)))
    changed.forget(changed.grid.cells[0])
    changed.check(changed.grid.cells[0])
    assert (folder / 'out/results/fine-tuning_seed0.before_1/results.json').exists()


def test_a_moving_average_is_what_is_tested(folder):
    grid = load(folder, variants={'ema': {'train': {'ema_decay': 0.9}}, 'plain': {}}, baseline=None)
    cells = Cells(grid)
    assert [cells.published(cell)['param_key_g'] for cell in grid.cells] == [
        *('params_ema', 'params_ema', 'params', 'params'),
    ]


def test_table(stub, folder):
    run(stub)
    files = write_report(stub.grid, stub, 'python reproduce.py')
    assert [path.name for path in files] == ['table.md', 'table.csv', 'table.tex', 'differences_psnr.png']
    text = files[0].read_text()
    rows = {row['variant']: row for row in csv.DictReader(files[1].open()) if row['domain'] == 'average'}
    assert list(rows) == ['bicubic', 'pre-trained', 'fine-tuning', 'LDT']
    assert float(rows['LDT']['difference']) == pytest.approx(1.0), 'seeds and pictures are paired'
    assert float(rows['LDT']['low']) == pytest.approx(1.0) and rows['fine-tuning']['difference'] == ''
    by_hand = [np.random.default_rng(seed).normal(0, 0.1, 8).mean() + 30 for seed in (0, 1)]
    assert float(rows['fine-tuning']['mean']) == pytest.approx(np.mean(by_hand))
    assert float(rows['fine-tuning']['deviation']) == pytest.approx(np.std(by_hand, ddof=1))
    assert re.search(r'\| LDT +\| \+1\.000 \[\+1\.000, \+1\.000\] \* ', text)
    assert '| three (4)' in text and 'python reproduce.py' in text and 'are missing' not in text
    assert r'\toprule' in files[2].read_text()
    assert cv2.imread(str(files[3])).shape[1] > 300


def test_table_of_an_unfinished_grid_says_what_is_missing(stub):
    cells = stub.grid.cells
    assert write_report(stub.grid, stub, '') == []
    stub.run([stub.grid.pretraining])
    stub.run(cells[:3])
    text = write_report(stub.grid, stub, '')[0].read_text()
    assert '1 of 4 cells are missing, or were run with other options: LDT_seed1' in text
    assert collect(stub.grid, stub).difference('LDT', ['two'], 'psnr').mean == pytest.approx(1.0), (
        'seeds that both have'
    )


@pytest.mark.parametrize(('of_seeds', 'of_pictures'), [(0.05, 0.02), (0.02, 0.2), (0.05, 0.2)])
def test_intervals_hold_the_truth_as_often_as_they_say(of_seeds, of_pictures):
    """Three seeds are few: whichever chance is larger, about 95 of 100 intervals hold the true difference."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(1000):
        seeds = rng.normal(0, of_seeds, (3, 1))
        found = paired_estimate([0.1 + seeds + rng.normal(0, of_pictures, (1, 15)) for _ in range(3)])
        held.append(found.low < 0.1 < found.high)
    assert 0.93 < np.mean(held) < 0.985


def test_intervals_by_hand():
    rng = np.random.default_rng(5)
    values = rng.normal(1, 1, (3, 20))
    found = paired_estimate([values])
    parts = values.mean(0).var(ddof=1) / 20, values.mean(1).var(ddof=1) / 3
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 19 + parts[1] ** 2 / 2)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts)))
    alone = paired_estimate([values[:1]])
    t = stats.ttest_1samp(values[0], 0).confidence_interval()
    assert (alone.low, alone.high) == pytest.approx((t.low, t.high)), 'with one seed, that of the pictures'


def test_a_cell_that_fails_is_told_and_the_others_go_on(folder):
    class Failing(Stub):
        def _process(self, name, *arguments):
            if name == 'LDT_seed0':
                raise CellFailed('no memory')
            super()._process(name, *arguments)

    cells = Failing(load(folder), jobs=2)
    assert run(cells) == {'LDT_seed0': 'no memory'}
    assert [cell.name for cell in cells.grid.cells if cells.is_done(cell)] == [
        *('fine-tuning_seed0', 'fine-tuning_seed1', 'LDT_seed1'),
    ]


def test_cells_are_told_where_there_is_no_bar(folder, capfd):
    cells = Stub(load(folder))
    assert run(cells) == {}
    lines = [line for line in capfd.readouterr().err.splitlines() if 'LDT' in line]
    assert [line.split(';')[0] for line in lines] == [
        *('trial: LDT_seed0 begins', 'trial: LDT_seed0 is done', 'trial: LDT_seed1 begins', 'trial: LDT_seed1 is done')
    ]
    assert re.search(r'LDT_seed0 is done; 0:00:\d\d left$', lines[1])


def test_a_change_of_a_section_that_a_variant_leaves_out_is_not_for_it(folder):
    variants = {'plain': {'model_type': 'SRModel', 'train': {'ldt': None}}, 'LDT': {'model_type': 'LDTModel'}}
    grid = load(folder, 'train.ldt.scoring_batches=3', variants=variants, seeds=[0])
    assert [(cell.train['train'].get('ldt') or {}).get('scoring_batches') for cell in grid.cells] == [None, 3]
    with pytest.raises(ValueError, match=r'--set train.ldt.exchange_every=3: would be ignored: every variant leaves'):
        load(folder, 'train.ldt.exchange_every=3', variants={'plain': variants['plain']})


def test_cost(folder):
    grid = load(folder, kind='cost', set={'network_g': {'num_feat': 1}})  # layers of one entry
    text = measure_cost(grid, 'python reproduce.py', repeats=2)
    rows = {line.split('|')[1].strip(): line.split('|')[2:] for line in text.splitlines() if line.startswith('| ')}
    assert {'fine-tuning', 'LDT'} <= rows.keys()
    assert rows['fine-tuning'][2].strip() == rows['fine-tuning'][4].strip() == '1.00'
    assert float(rows['LDT'][0]) > 0 and float(rows['LDT'][3]) > 0
    assert text == (folder / 'out' / 'table.md').read_text()


def test_shipped_grids_are_right():
    for file in sorted((ROOT / 'options' / 'experiments').glob('*.yml')):
        if 'variants' not in yaml.safe_load(file.read_text()):
            continue
        section, _ = grid_section(file)
        grid = read_grid(file, section, Path('nowhere'))
        assert len(grid.cells) == len(grid.variants) * len(section.seeds), file.name


def test_an_interrupted_grid_goes_on(folder):
    """The command, in processes as a user has them."""
    grid = yaml.safe_load((folder / 'grid.yml').read_text())
    grid['variants'].pop('LDT')
    (folder / 'grid.yml').write_text(yaml.safe_dump(grid))
    command = [sys.executable, SCRIPT, '-opt', folder / 'grid.yml', '--data', folder / 'data', '--source', 'one']
    command += ['--output', folder / 'out', '--jobs', '2']
    options = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    options['env'] = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, **options) as process:
        for _ in range(1200):
            if (folder / 'out/cells/pretraining.log').exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and 'Traceback' not in printed, printed
    assert not (folder / 'out/results').exists()
    done = subprocess.run(command, timeout=240, **options)
    assert done.returncode == 0, done.stdout
    assert re.search(r'\| fine-tuning +\| 2 +\| \d+\.\d\d ± ', done.stdout), done.stdout
    assert re.search(r'\| bicubic +\| - +\| \d', done.stdout)
    assert not list((folder / 'out').rglob('*.tmp'))


def test_a_grid_without_its_data_or_weights_says_so_first(folder):
    grid = yaml.safe_load((folder / 'grid.yml').read_text())
    del grid['pretrain'], grid['cameras']
    grid['set'] = {'path': {'pretrain_network_g': 'absent.pth'}}
    (folder / 'grid.yml').write_text(yaml.safe_dump(grid))
    section, _ = grid_section(folder / 'grid.yml')
    loaded = read_grid(folder / 'grid.yml', section, folder / 'out')
    assert [line.split(':')[0] for line in loaded.cells[0].missing()] == [
        *('datasets.train.dataroot_gt', 'datasets.train.dataroot_lq', 'path.pretrain_network_g'),
    ]
    grid['set']['path']['pretrain_opt'] = 'pretrain.yml'
    (folder / 'grid.yml').write_text(yaml.safe_dump(grid))
    with pytest.raises(ValueError, match=r'path.pretrain_opt: several cells would train'):
        read_grid(folder / 'grid.yml', grid_section(folder / 'grid.yml')[0], folder / 'out')
