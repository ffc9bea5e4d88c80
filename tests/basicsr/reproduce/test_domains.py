"""Grids over domains: which data a cell gets, what is made of the results, and which mistakes are told first."""

import csv
import re
import shutil

import numpy as np
import pytest
import yaml

from basicsr.reproduce.domains import domain_splits
from basicsr.reproduce.grid import check_comparable, grid_section, read_grid
from basicsr.reproduce.grid_results import collect, paired_estimate
from basicsr.reproduce.report import write_report
from scripts.analysis import reproduce
from tests.basicsr.reproduce.domains_grid import GAINS, Stub, load, write_files, write_pictures


def arguments(file, *more):
    folder = file.parent
    given = ['-opt', str(file), '--data', str(folder / 'data'), '--output', str(folder / 'out'), *more]
    return reproduce.parser().parse_args(given)


def run(grid):
    cells = Stub(grid)
    assert cells.run(grid.cells) == {}
    return cells


def table(grid, cells):
    """Rows of table.csv by (domain, variant)."""
    file = next(path for path in write_report(grid, cells, '') if path.name == 'table.csv')
    with open(file) as opened:
        return {(row['domain'], row['variant']): row for row in csv.DictReader(opened)}


def test_each_domain_is_held_out_in_turn(tmp_path):
    grid = load(tmp_path)
    assert [cell.name for cell in grid.cells[:4]] == [
        *('fine-tuning_art_seed0', 'fine-tuning_photo_seed0', 'fine-tuning_sketch_seed0', 'fine-tuning_art_seed1')
    ]
    assert len(grid.cells) == 2 * 3 * 2 and grid.reference is None
    cell = grid.cells[1]
    train, val = cell.train['datasets']['train'], cell.train['datasets']['val']
    assert list(cell.train['datasets']) == ['train', 'val'], 'a training does not see the test sets'
    assert train['train_domains'] == val['train_domains'] == ['art', 'sketch'] and train['image_size'] == 16
    test, seen = (cell.test['datasets'][f'test_{name}'] for name in ('photo', 'seen'))
    assert list(cell.test['datasets']) == ['test_photo', 'test_seen']
    assert (test['name'], test['test_domains'], test.get('seen')) == ('photo', ['photo'], None)
    assert (seen['name'], seen['train_domains'], seen['seen']) == ('training domains', ['art', 'sketch'], True)
    assert test['image_size'] == seen['image_size'] == 24, 'tested as the validation set is'
    check_comparable(grid)


def test_changes_of_the_validation_set_are_for_the_test_sets_too(tmp_path):
    cell = load(tmp_path, 'datasets.val.image_size=8', 'datasets.train.image_size=12').cells[0]
    sizes = {phase: own['image_size'] for phase, own in {**cell.train['datasets'], **cell.test['datasets']}.items()}
    assert sizes == {'train': 12, 'val': 8, 'test_art': 8, 'test_seen': 8}
    with pytest.raises(
        ValueError, match=r'--set datasets.train.train_domains=\[art\]: .* would be ignored: the data of'
    ):
        load(tmp_path, 'datasets.train.train_domains=[art]')


def test_a_domain_called_seen_is_tested_like_any_other(tmp_path):
    write_pictures(tmp_path / 'data', ('seen', 'photo', 'sketch'))
    splits = domain_splits(tmp_path / 'data', False, None)
    tested = {own['name']: own['test_domains'] for phase, own in splits['seen'].items() if phase.startswith('test_')}
    assert tested == {'seen': ['seen'], 'training domains': None}
    (tmp_path / 'data' / 'photo').rename(tmp_path / 'data' / 'training domains')
    with pytest.raises(ValueError, match="a domain is called 'training domains'"):
        domain_splits(tmp_path / 'data', False, None)


def test_the_split_of_the_training_set_is_that_of_all_sets(tmp_path):
    base = yaml.safe_load((write_files(tmp_path).parent / 'base.yml').read_text())
    base['datasets']['train'].update(held_out=0.4, split_seed=3)
    (tmp_path / 'base.yml').write_text(yaml.safe_dump(base))
    grid = read_grid(
        tmp_path / 'grid.yml',
        grid_section(tmp_path / 'grid.yml')[0],
        tmp_path / 'out',
        splits=domain_splits(tmp_path / 'data', False, None),
    )
    for cell in grid.cells:
        for section in {**cell.train['datasets'], **cell.test['datasets']}.values():
            assert (section['held_out'], section['split_seed']) == (0.4, 3)


def test_one_source_and_many_targets(tmp_path):
    grid = load(tmp_path, single=True, chosen=['sketch', 'art'])
    assert [cell.name for cell in grid.cells[:2]] == ['fine-tuning_sketch_seed0', 'fine-tuning_art_seed0']
    datasets = {**grid.cells[0].train['datasets'], **grid.cells[0].test['datasets']}
    assert list(datasets) == ['train', 'val', 'test_art', 'test_photo', 'test_seen']
    assert datasets['train']['train_domains'] == datasets['test_seen']['train_domains'] == ['sketch']
    assert datasets['test_photo']['test_domains'] == ['photo']
    assert datasets['test_photo']['train_domains'] == ['sketch']


@pytest.mark.parametrize(
    ('chosen', 'data', 'message'),
    [
        (['phot'], 'data', r"--domains: \S+data has no domain 'phot'; did you mean 'photo'\? There are art, photo"),
        (['art', 'art'], 'data', r'--domains: art is there twice'),
        (None, 'absent', r'--data: there is no folder \S+absent'),
        (None, 'data/art', r'--data: \S+ .*pictures themselves'),
    ],
)
def test_domains_that_are_none(tmp_path, chosen, data, message):
    write_pictures(tmp_path / 'data')
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        domain_splits(tmp_path / data, chosen=chosen)


def test_a_class_that_only_the_held_out_domain_has_is_told_first(tmp_path):
    data = write_pictures(tmp_path / 'data')
    for domain in ('photo', 'sketch'):
        shutil.rmtree(data / domain / 'dog')
        shutil.copytree(data / domain / 'cat', data / domain / 'owl')
    with pytest.raises(ValueError, match=r"test domain 'art' .*no training domain: dog"):
        domain_splits(data)


def test_the_table_has_a_column_for_each_held_out_domain(tmp_path):
    grid = load(tmp_path)
    cells = run(grid)
    rows = table(grid, cells)
    assert [title for title, label in rows if label == 'LDT'] == ['art', 'photo', 'sketch', 'average', 'seen']
    for domain, gain in GAINS.items():
        assert float(rows[domain, 'LDT']['difference']) == pytest.approx(gain), 'paired by seed and sample'
    average = rows['average', 'LDT']
    assert float(average['difference']) == pytest.approx(np.mean(list(GAINS.values())))
    by_seed = []
    for seed in (0, 1):
        noise = [np.random.default_rng([seed, *domain.encode()]).normal(0, 0.01, 6).mean() for domain in GAINS]
        by_seed.append(0.5 + np.mean(noise) + np.mean(list(GAINS.values())))
    assert float(average['mean']) == pytest.approx(np.mean(by_seed))
    assert float(average['deviation']) == pytest.approx(np.std(by_seed, ddof=1))
    assert float(rows['seen', 'LDT']['mean']) == pytest.approx(0.62, abs=0.01)
    assert float(rows['seen', 'fine-tuning']['mean']) == pytest.approx(float(rows['seen', 'LDT']['mean']))
    text = (tmp_path / 'out' / 'table.md').read_text()
    assert re.search(r'\| psnr +\| seeds +\| art \(6\) +\| photo \(6\) +\| sketch \(6\) +\| average +\| seen ', text)
    assert 'that was held out' in text and 'bicubic' not in text and 'are missing' not in text


def test_an_unfinished_grid_averages_nothing_that_lacks_a_domain(tmp_path):
    grid = load(tmp_path)
    cells = Stub(grid)
    cells.run(grid.cells[:8])  # all of fine-tuning; of LDT, seed 0 on art and photo
    rows = table(grid, cells)
    assert rows['average', 'LDT']['seeds'] == '0' and rows['average', 'LDT']['difference'] == ''
    assert rows['art', 'LDT']['seeds'] == '1' and rows['sketch', 'LDT']['seeds'] == '0'
    assert rows['seen', 'LDT']['seeds'] == '0' and rows['seen', 'fine-tuning']['seeds'] == '2', 'of other domains'
    assert float(rows['photo', 'LDT']['difference']) == pytest.approx(GAINS['photo'])
    text = (tmp_path / 'out' / 'table.md').read_text()
    assert '4 of 12 cells are missing' in text and 'LDT_sketch_seed0' in text


def test_a_column_of_a_single_source_is_the_mean_over_its_targets(tmp_path):
    grid = load(tmp_path, single=True, seeds=[0, 1, 2])
    cells = run(grid)
    rows = table(grid, cells)
    gains = {source: np.mean([gain for target, gain in GAINS.items() if target != source]) for source in GAINS}
    for source, gain in gains.items():
        assert float(rows[source, 'LDT']['difference']) == pytest.approx(gain)
        assert rows[source, 'LDT']['samples'] == '12'
    assert float(rows['average', 'LDT']['difference']) == pytest.approx(np.mean(list(gains.values())))
    assert 'trained on alone' in (tmp_path / 'out' / 'table.md').read_text()
    found = collect(grid, cells)
    assert found.difference('LDT', found.domains, 'psnr').count == 18, 'a sample that two sources share counts once'


def test_domains_that_weigh_more_by_hand():
    rng = np.random.default_rng(1)
    first, second = rng.normal(1, 1, (1, 30)), rng.normal(2, 1, (1, 20))
    found = paired_estimate([first, second], [2, 1])
    assert found.mean == pytest.approx((2 * first.mean() + second.mean()) / 3)
    variances = 4 / 9 * first.var(ddof=1) / 30, 1 / 9 * second.var(ddof=1) / 20
    wide = paired_estimate([first, second], [1, 1])
    assert found.high - found.mean == pytest.approx(np.sqrt(sum(variances)) * 2.02, rel=0.02)
    assert wide.mean == pytest.approx(paired_estimate([first, second]).mean)


def test_a_picture_of_a_domain_is_missed_where_it_counts(tmp_path):
    grid = load(tmp_path, seeds=[0])
    run(grid)
    (tmp_path / 'data/photo/cat/notes.txt').write_text('no picture')
    (tmp_path / 'data/photo/more').mkdir()
    assert all(map(Stub(grid).is_current, grid.cells)), 'what no data set reads is no change'
    (tmp_path / 'data/photo/cat/0.png').unlink()
    again = Stub(load(tmp_path, seeds=[0]))
    with pytest.raises(ValueError, match=r'(?s)datasets\.train: 1 file is gone: \S+photo/cat/0\.png.*--redo'):
        again.check(again.grid.cells[0])
    with pytest.raises(ValueError, match=r'(?s)datasets\.test_photo: 1 file is gone: '):
        again.check(again.grid.cells[1])


def test_networks_of_a_grid(tmp_path, monkeypatch, capsys):
    """The first is the grid itself; others have folders in it, and all of them a table together."""
    monkeypatch.setattr(reproduce, 'Cells', Stub)
    file = write_files(tmp_path, networks={'small': {}, 'large / 8': {'network_g': {'num_feat': 8}}}, seeds=[0])
    reproduce.run(arguments(file))
    assert (tmp_path / 'out/table.md').is_file() and not (tmp_path / 'out/networks.md').exists()
    reproduce.run(arguments(file, '--networks', 'small', 'large / 8'))
    own = (tmp_path / 'out/large_8/table.md').read_text()
    assert own.startswith('# trial: large / 8')
    text = (tmp_path / 'out/networks.md').read_text()
    assert re.search(r'\| network +\| psnr +\| seeds ', text)
    assert len(re.findall(r'\| small +\| (?:fine-tuning|LDT) ', text)) == 2
    assert len(re.findall(r'\| large / 8 +\| (?:fine-tuning|LDT) ', text)) == 2
    with open(tmp_path / 'out/networks.csv') as opened:
        assert {row['network'] for row in csv.DictReader(opened)} == {'small', 'large / 8'}
    assert r'\toprule' in (tmp_path / 'out/networks.tex').read_text()
    assert capsys.readouterr().out.count('Written: ') == 1 + 2 + 1


def test_weights_of_a_network_that_are_missing_are_told_first(tmp_path):
    vim = {'type': 'VisionMamba', 'img_size': 16, 'patch_size': 8, 'stride': 8, 'embed_dim': 8, 'depth': 1}
    networks = {'small': {}, 'Vim': {'network_g': {**vim, 'pretrained': 'absent.pth'}}}
    file = write_files(tmp_path, networks=networks)
    with pytest.raises(FileNotFoundError, match=r'not there:\n  network_g.pretrained: \S+absent\.pth'):
        reproduce.run(arguments(file, '--check', '--networks', 'small', 'Vim'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--networks', 'smal'], r"--networks: none is called 'smal'; did you mean 'small'\?"),
        (['--source', 'art'], r'--source belongs to grids with `cameras`'),
        (['--curve', '-1'], r'--curve must be at least 0, not -1'),
        (['--domains', 'phot'], r"no domain 'phot'; did you mean 'photo'"),
        (['--variants', 'LTD'], r"--variants: none is called 'LTD'; did you mean 'LDT'"),
    ],
)
def test_mistakes_of_the_command_line(tmp_path, more, message):
    file = write_files(tmp_path, networks={'small': {}})
    with pytest.raises(ValueError, match=message):
        reproduce.run(arguments(file, '--check', *more))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('grid', 'message'),
    [
        ({'networks': {}}, r'networks: must have one network at least'),
        ({'networks': {'a': 3}}, r'networks\.a: must be a section .*, not 3'),
        ({'networks': {'a': {'name': 'x'}}}, r'networks\.a\.name: would be ignored'),
        ({'cameras': {}}, r'domains: the data is that of `cameras` already'),
        ({'kind': 'cost'}, r'kind: cost measures steps on pictures'),
        ({'curve': 0}, r'curve: must be a whole number of at least 1, not 0'),
        ({'domains': {'single': True}}, r"domains\.single: unknown option; did you mean 'single_source'"),
        (
            {'set': {'datasets': {'train': {'train_domains': ['art'], 'image_size': 8}}}},
            r'set\.datasets\.train\.train_domains: would be ignored: the data of a grid with `domains` is that of',
        ),
    ],
)
def test_mistakes_of_a_file(tmp_path, grid, message):
    file = write_files(tmp_path, **grid)
    with pytest.raises(ValueError, match=message):
        grid_section(file)


def test_a_grid_of_domains_needs_data(tmp_path):
    file = write_files(tmp_path)
    with pytest.raises(ValueError, match=r'needs --data, a folder of <domain>/<class>/\*'):
        reproduce.run(reproduce.parser().parse_args(['-opt', str(file)]))
    own = write_files(tmp_path, domains=None)
    with pytest.raises(ValueError, match=r'--domains and --single-source belong to grids with `domains`'):
        reproduce.run(reproduce.parser().parse_args(['-opt', str(own), '--domains', 'art']))
