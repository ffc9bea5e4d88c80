"""The curve of a grid: at which iterations, what is kept for it, and what is made of it."""

import csv
import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicsr.reproduce.cell import curve_every, curve_points
from basicsr.reproduce.curve import Point, curve_rows, curves_of
from basicsr.reproduce.plot import plot_curves, plot_unseen_against_seen
from basicsr.reproduce.report import write_report
from scripts.analysis import reproduce
from tests.basicsr.reproduce import test_reproduce
from tests.basicsr.reproduce.domains_grid import GAINS, Stub, load, write_files
from tests.basicsr.reproduce.test_reproduce import folder  # noqa: F401  a fixture


@pytest.mark.parametrize(
    ('total', 'count', 'points'),
    [
        (5000, 8, [625, 1250, 1875, 2500, 3125, 3750, 4375, 5000]),
        (12, 8, [2, 3, 5, 6, 8, 9, 11, 12]),
        (1000, 7, [142, 284, 426, 568, 710, 852, 1000]),
        (4, 9, [1, 2, 3, 4]),
        (5, 1, [5]),
    ],
)
def test_points_are_evenly_spaced(total, count, points):
    assert curve_points(total, count) == points


@given(st.integers(1, 3000), st.integers(1, 60))
def test_every_point_has_a_checkpoint(total, count):
    points, every = curve_points(total, count), curve_every(total, count)
    assert points == sorted(set(points)) and points[-1] == total and len(points) == min(total, count)
    assert all(point % every == 0 for point in points[:-1])
    assert all(abs(point - (k + 1) * total / len(points)) <= every / 2 for k, point in enumerate(points))


def run(grid):
    cells = Stub(grid)
    assert cells.run(grid.cells) == {}
    return cells


def test_each_run_is_tested_at_each_point_on_seen_and_unseen(tmp_path):
    grid = load(tmp_path, curve=4)
    cells = run(grid)
    names = [path.name for path in write_report(grid, cells, '')]
    assert names[3:] == ['curve.csv', 'differences_psnr.png', 'curve_psnr.png', 'unseen_against_seen_psnr.png']
    rows = list(csv.DictReader((tmp_path / 'out/curve.csv').open()))
    assert list(rows[0]) == ['variant', 'seed', 'domain', 'iteration', 'metric', 'seen', 'unseen']
    assert len(rows) == 2 * 3 * 2 * 4 and [row['iteration'] for row in rows[:4]] == ['3', '6', '9', '12']
    for row in rows:
        gain, iteration = GAINS[row['domain']] * (row['variant'] == 'LDT'), int(row['iteration'])
        assert float(row['unseen']) == pytest.approx(0.5 + gain + (6 - abs(iteration - 6)) / 100, abs=0.02)
        assert float(row['seen']) == pytest.approx(0.5 + iteration / 100, abs=0.02)
    for name in names[-2:]:
        assert cv2.imread(str(tmp_path / 'out' / name)).shape[0] > 400


def test_the_table_of_the_curve(tmp_path):
    grid = load(tmp_path, curve=4)
    write_report(grid, run(grid), '')
    lines = (tmp_path / 'out/table.md').read_text().splitlines()
    heading = next(index for index, line in enumerate(lines) if line.startswith('| psnr, unseen, on the curve'))
    cells = [cell.strip() for cell in lines[heading + 2].split('|')]
    values = [float(cell.split(' ± ')[0]) for cell in cells[3:6]]
    assert cells[1:3] == ['fine-tuning', '2']
    assert values[1] - values[2] == pytest.approx(0.06) and values[0] == values[2], 'seen is best at the end'
    assert '4 evenly spaced iterations' in '\n'.join(lines)


def test_what_was_kept_for_the_curve_is_deleted(tmp_path):
    grid = load(tmp_path, curve=4, seeds=[0])
    own = tmp_path / 'out/experiments' / grid.cells[0].name
    assert grid.cells[0].train['logger']['save_checkpoint_freq'] == 3
    assert grid.cells[0].train['logger']['keep_checkpoints'] is None
    cells = run(grid)
    foreign = own / 'models' / 'net_g_5.pth'
    foreign.write_bytes(b'')
    left = [own / 'models' / 'net_g_3.pth', own / 'training_states' / '6.state']
    for file in left:  # as a grid leaves them that is killed before it deletes
        assert not file.exists()
        file.write_bytes(b'')
    cells.run(grid.cells)
    assert not any(file.exists() for file in left)
    names = sorted(path.name for path in (own / 'models').iterdir())
    assert names == ['net_g_12.pth', 'net_g_5.pth', 'net_g_9.pth', 'net_g_latest.pth']


def test_a_curve_is_part_of_what_a_cell_was_run_with_but_may_be_left_out(tmp_path):
    run(load(tmp_path, curve=4, seeds=[0]))
    without = load(tmp_path, seeds=[0])
    cells = Stub(without)
    assert all(map(cells.is_current, without.cells)), 'a curve changes no other result'
    assert not [path for path in write_report(without, cells, '') if 'curve' in path.name]
    other = load(tmp_path, curve=3, seeds=[0])
    with pytest.raises(ValueError, match=r'(?s)curve: \[3, 6, 9, 12\], now \[4, 8, 12\].*--redo'):
        Stub(other).check(other.cells[0])
    Stub(other).forget(other.cells[0])
    assert not (tmp_path / f'out/results/{other.cells[0].curve_name}').exists()
    Stub(other).check(other.cells[0])


def test_the_command_line_asks_for_a_curve_or_leaves_it_out(tmp_path):
    file = write_files(tmp_path, curve=4)

    def points(*more):
        given = ['-opt', str(file), '--data', f'{tmp_path}/data', '--output', f'{tmp_path}/out', *more]
        return reproduce.load(reproduce.parser().parse_args(given))[''].cells[0].points

    assert (points(), points('--curve', '2'), points('--curve', '0')) == ([3, 6, 9, 12], [6, 12], [])


def test_of_pictures_the_selection_is_what_was_seen(folder):  # noqa: F811
    grid = test_reproduce.load(folder, curve=2)
    test = grid.cells[0].curve_test()
    assert {key: own.get('seen') for key, own in test['datasets'].items()} == {
        **{'test_three': None, 'test_two': None, 'test_val': True},
    }
    assert test['datasets']['test_val']['meta_info_file'].endswith('selection.txt')
    assert test['datasets']['test_val']['name'] == 'one' and test['name'] == 'fine-tuning_seed0_curve'
    cells = Stub(grid)
    cells.run([grid.pretraining])
    cells.run(grid.cells)
    write_report(grid, cells, '')
    rows = list(csv.DictReader((folder / 'out/curve.csv').open()))
    assert [(row['domain'], row['iteration']) for row in rows[:4]] == [
        *(('three', '2'), ('two', '2'), ('three', '4'), ('two', '4'))
    ]


def points(runs):
    """Of {(variant, seed, domain): [(seen, unseen), …]}."""
    return [
        Point(variant, seed, domain, 10 * (place + 1), 'm', seen, unseen)
        for (variant, seed, domain), values in runs.items()
        for place, (seen, unseen) in enumerate(values)
    ]


def test_curves_by_hand():
    runs = {
        ('a', 0, 'x'): [(1, 2), (3, 4)],
        ('a', 0, 'y'): [(5, 6), (7, 8)],
        ('a', 1, 'x'): [(2, 3), (4, 5)],
        ('a', 1, 'y'): [(6, 9), (8, 11)],
        ('b', 0, 'x'): [(0, 0), (0, 0)],
    }
    curves = curves_of(points(runs), 'm')
    assert list(curves) == ['a'], 'of b, a domain is missing'
    assert curves['a'].iterations == [10, 20]
    assert curves['a'].unseen.tolist() == [(4 + 6) / 2, (6 + 8) / 2]
    assert curves['a'].unseen_error.tolist() == pytest.approx([np.std([4, 6], ddof=1) / math.sqrt(2)] * 2)
    one = curves_of(points({key: own for key, own in runs.items() if key[1] == 0 and key[0] == 'a'}), 'm')
    assert np.isnan(one['a'].seen_error).all()


@pytest.mark.parametrize(('better', 'expected'), [('higher', ['2.00', '9.00', '2.00']), ('lower', ['9.00', '2.00'])])
def test_the_point_of_the_best_seen_value(better, expected):
    found = curve_rows(points({('a', 0, 'x'): [(1, 9), (2, 4), (3, 2)]}), 'm', better)[1]
    assert found[0][2:4] == expected[:2] and found[0][4] == '2.00'


@pytest.mark.parametrize('count', [1, 3])
def test_plots_of_one_point_and_of_many_variants(tmp_path, count):
    runs = {(f'variant {n}', seed, 'x'): [(n + k, n - k) for k in range(count)] for n in range(11) for seed in (0, 1)}
    curves = curves_of(points(runs), 'm')
    for plot in (plot_curves, plot_unseen_against_seen):
        plot(curves, 'm', tmp_path / f'{plot.__name__}.png', 'title')
        assert cv2.imread(str(tmp_path / f'{plot.__name__}.png')).std() > 5
