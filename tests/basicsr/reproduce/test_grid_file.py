"""Grid files: each mistake is one sentence, at once, and nothing that is written in one is ignored."""

from pathlib import Path

import pytest
import yaml

import basicsr.models  # noqa: F401  registers what option files name
from basicsr.reproduce.grid import check_comparable, read_grid
from basicsr.reproduce.grid_file import grid_section
from scripts.analysis import reproduce


def pair(camera: str) -> dict:
    return {'type': 'PairedImageDataset', 'dataroot_gt': f'{camera}/HR', 'dataroot_lq': f'{camera}/LR'}


def base() -> dict:
    return {
        **{'name': 'base', 'model_type': 'SRModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 7},
        'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 2},
        'datasets': {
            'train': {**pair('one'), 'gt_size': 16, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0},
            'test_two': pair('two'),
        },
        'train': {'total_iter': 4, 'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'pixel_opt': {'type': 'L1Loss'}},
        'val': {'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
    }


def read(folder: Path, grid: dict, changes=(), seeds=None, of_base=None):
    """The grid of a file with these entries; None takes one out."""
    written = {'name': 'trial', 'base': 'base.yml', 'variants': {'a': {}, 'b': {'train': {'total_iter': 5}}}, **grid}
    written = {key: value for key, value in written.items() if value is not None}
    (folder / 'grid.yml').write_text(yaml.safe_dump(written, sort_keys=False))
    (folder / 'base.yml').write_text(yaml.safe_dump({**base(), **(of_base or {})}, sort_keys=False))
    (folder / 'pretrain.yml').write_text(yaml.safe_dump(base(), sort_keys=False))
    grid = read_grid(folder / 'grid.yml', grid_section(folder / 'grid.yml')[0], folder / 'out', changes, seeds=seeds)
    check_comparable(grid)
    return grid


def test_the_seeds_of_a_grid_are_those_of_its_cells(tmp_path):
    grid = read(tmp_path, {'seeds': [3, 5]})
    assert [(cell.name, cell.train['manual_seed'], cell.test['manual_seed']) for cell in grid.cells] == [
        *(('a_seed3', 3, 3), ('a_seed5', 5, 5), ('b_seed3', 3, 3), ('b_seed5', 5, 5)),
    ]


MISTAKES = [
    ({'variants': {}}, r'grid\.variants: must have one variant at least'),
    ({'variants': {'a': 5}}, r'grid\.variants\.a: must be a section .*, not 5'),
    ({'variants': {'a': [1]}}, r'grid\.variants\.a: must be a section .*, not \[1\]'),
    (
        {'variants': {'a': 'x', 'b': True}},
        r'(?s)2 mistakes.*variants\.a: .*variants\.b: must be a section .*, not True',
    ),
    ({'variants': ['a']}, r'grid\.variants: must be a section'),
    ({'variants': {1: {}}}, r"variants\.'1': labels are text .*put numbers in quotes"),
    ({'variants': {'': {}}}, r"variants\.'': labels are text"),
    ({'variants': {'a\nb': {}}}, r'variants\..*: labels are text .* in one line'),
    ({'variants': {'a\0b': {}}}, r'variants\..*: labels are text'),
    ({'variants': {'x' * 300: {}}}, r"variants\.'x{20}': labels are text of 1 to 100 letters"),
    ({'variants': {'a b': {}, 'a_b': {}}}, r"files a_b_seed0: rename one of 'a b' and 'a_b'"),
    ({'variants': {'a': {'manual_seed': 3}}}, r'variants\.a\.manual_seed: would be ignored: .*`seeds`'),
    ({'set': {'manual_seed': 3}}, r'grid\.set\.manual_seed: would be ignored: .*`seeds`'),
    ({'manual_seed': 3}, r'grid\.manual_seed: unknown option'),
    ({'variants': {'a': {'name': 'x'}}}, r'variants\.a\.name: would be ignored'),
    ({'variants': {'a': {'_base_': 'pretrain.yml'}}}, r'variants\.a\._base_: would be ignored: .*`base`'),
    ({'variants': {'a': {'compare': {'x': {}}}}}, r'variants\.a\.compare: would be ignored'),
    ({'set': {'path': {'output_root': 'x'}}}, r'set\.path\.output_root: would be ignored: .*--output'),
    (
        {'pretrain': 'pretrain.yml', 'variants': {'a': {'path': {'pretrain_network_g': 'x.pth'}}}},
        r'variants\.a\.path\.pretrain_network_g: would be ignored: .*`pretrain`',
    ),
    (
        {'cameras': {}, 'variants': {'a': {'datasets': {'train': {'dataroot_gt': 'x'}, 'test_x': pair('one')}}}},
        r'(?s)2 mistakes.*a\.datasets\.train\.dataroot_gt: would be ignored.*a\.datasets\.test_x: would be ignored',
    ),
    ({'seeds': []}, r'grid\.seeds: must be a list of 1 or more whole numbers .*, not \[\]'),
    ({'seeds': [-1]}, r'grid\.seeds: must be a list of 1 or more whole numbers of at least 0'),
    ({'seeds': [2**31]}, r'grid\.seeds: .*at most 2147483647'),
    ({'seeds': [0, 1, 0]}, r'seeds: each runs once, and 0 is there twice'),
    ({'baseline': 'bb'}, r"grid\.baseline: no variant is called 'bb'"),
    ({'baseline': ''}, r"grid\.baseline: no variant is called ''"),
    ({'axis': '../x'}, r'grid\.axis: .*cannot hold a slash'),
    ({'name': '..'}, r'grid\.name: names a folder'),
    ({'set': 5}, r'grid\.set: must be a section'),
    ({'set': {'nope': 1}}, r'^\S+grid.yml:\na, b: the options have 1 mistake:\n  nope: unknown option$'),
    (
        {'variants': {'a': {'network_g': {'type': 'Nope'}}}},
        r"a: the options .*\n  network_g\.type: 'Nope' is no network",
    ),
    *(
        ({'variants': {'a': {section: 5}}}, rf'a: the options .*\n  {section}: must be a section .*, not 5')
        for section in ('train', 'path', 'logger', 'datasets', 'network_g', 'val')
    ),
    ({'variants': {'a': {'logger': [1]}}}, r'\n  logger: must be a section .*, not \[1\]'),
    ({'variants': {'a': {'datasets': {'train': 5}}}}, r'\n  datasets\.train: must be a section .*, not 5'),
    ({'variants': {'a': {'train': {'total_iter': float('inf')}}}}, r'train\.total_iter: must be a whole number .* inf'),
    ({'variants': {'a': {'train': {'total_iter': float('nan')}}}}, r'train\.total_iter: must be a whole number .* nan'),
    ({'variants': {'a': {}, 'b': {'datasets': {'test_two': None}}}}, r'b: has other test sets, or val.metrics, than a'),
    (
        {'variants': {'a': {}, 'b': {'val': {'metrics': {'ssim': {'type': 'calculate_ssim', 'crop_border': 0}}}}}},
        r'b: has other test sets, or val.metrics, than a',
    ),
    ({'base': 'grid.yml'}, r'\n  model_type: missing'),
]


@pytest.mark.parametrize(('grid', 'message'), MISTAKES)
def test_each_mistake_in_its_words(tmp_path, grid, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, grid)


@pytest.mark.parametrize(
    ('of_base', 'message'),
    [
        ({'datasets': {'train': base()['datasets']['train']}}, r'datasets: a grid needs test sets'),
        ({'val': None}, r'val\.metrics: missing; the variants are compared by them'),
        ({'datasets': None}, r'^\S+:\na, b: the options have 1 mistake:\n  datasets: missing'),
        ({'datasets': 5}, r'^\S+:\na, b: the options have 1 mistake:\n  datasets: must be a section'),
    ],
)
def test_mistakes_of_the_base_are_said_once(tmp_path, of_base, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {}, of_base=of_base)


@pytest.mark.parametrize(
    ('changes', 'seeds', 'message'),
    [
        (['manual_seed=3'], None, r'--set manual_seed=3: manual_seed would be ignored: .*`seeds`'),
        (['path.output_root=x'], None, r'--set path.output_root=x: .*would be ignored'),
        (['name=x'], None, r'--set name=x: name would be ignored'),
        (['a'], None, r'^--set a: write it as a.b=value$'),
        ([], [], r'seeds: there are none'),
        ([], [1, 1], r'seeds: each runs once, and 1 is there twice'),
        ([], [-1], r'a, b: .*\n  manual_seed: must be a whole number of at least 0'),
    ],
)
def test_mistakes_of_the_command_line(tmp_path, changes, seeds, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {}, changes, seeds)


def test_labels_with_signs_that_paths_have_stay_in_the_grid(tmp_path):
    grid = read(tmp_path, {'variants': {'../../x': {}, '/abs': {}, 'variance / mean': None}, 'seeds': [0]})
    assert [cell.name for cell in grid.cells] == ['.._.._x_seed0', 'abs_seed0', 'variance_mean_seed0']
    assert grid.variants == ['../../x', '/abs', 'variance / mean']


def test_the_command_says_mistakes_in_one_line_and_writes_nothing(tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match='variants'):
        read(tmp_path, {'variants': {'a': 5}})
    before = sorted(tmp_path.rglob('*'))
    monkeypatch.setattr('sys.argv', ['reproduce.py', '-opt', f'{tmp_path}/grid.yml', '--output', f'{tmp_path}/out'])
    with pytest.raises(SystemExit) as end:
        reproduce.main()
    printed = capsys.readouterr()
    assert end.value.code == 2 and 'variants.a: must be a section' in printed.err and 'Traceback' not in printed.err
    assert sorted(tmp_path.rglob('*')) == before


def test_a_grid_of_cameras_needs_a_scale(tmp_path):
    for camera in ('one', 'two'):
        for side in ('HR', 'LR'):
            (tmp_path / 'data' / camera / side).mkdir(parents=True)
    (tmp_path / 'base.yml').write_text(yaml.safe_dump({**base(), 'scale': None}))
    (tmp_path / 'grid.yml').write_text(
        yaml.safe_dump({'name': 'g', 'base': 'base.yml', 'cameras': {}, 'variants': {'a': {}}})
    )
    arguments = ['-opt', f'{tmp_path}/grid.yml', '--data', f'{tmp_path}/data', '--source', 'one', '--check']
    with pytest.raises(ValueError, match=r'base\.yml: scale: must be a whole number of at least 1'):
        reproduce.run(reproduce.parser().parse_args(arguments))
