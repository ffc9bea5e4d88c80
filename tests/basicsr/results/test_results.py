"""What a test leaves behind: means with intervals, paired differences, files."""

import csv
import json
import math

import numpy as np
import pytest

from basicsr.results.scores import Results
from basicsr.results.statistics import estimate
from basicsr.results.tables import report, summary, write_results


def scores(values, metric='psnr'):
    return {f'image_{index}': {metric: value} for index, value in enumerate(values)}


@pytest.fixture
def results() -> Results:
    plain = {'near': scores([30.0, 31.0, 32.0]), 'far': scores([20.0, 22.0]), 'own': scores([40.0])}
    better = {domain: {n: {'psnr': s['psnr'] + 0.5} for n, s in own.items()} for domain, own in plain.items()}
    pictures = {domain: {'images': {name: {'lq': f'/lq/{name}.png'} for name in own}} for domain, own in plain.items()}
    return Results('trial', {'psnr': 'higher'}, {'plain': plain, 'trained': better}, ['own'], pictures)


def test_interval_is_that_of_the_resampled_mean():
    values = np.random.default_rng(1).normal(5, 2, 40)
    found = estimate(values)
    draws = np.random.default_rng(2).choice(values, (20_000, 40)).mean(1)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.03)
    assert found.count == 40
    assert estimate(values) == found, 'the same values give the same interval'


def test_domains_count_alike_and_are_resampled_apart():
    rng = np.random.default_rng(3)
    many, few = rng.normal(10, 1, 50), rng.normal(0, 4, 5)
    found = estimate(many, few)
    assert found.mean == pytest.approx((many.mean() + few.mean()) / 2)
    own = np.random.default_rng(4)
    draws = (own.choice(many, (20_000, 50)).mean(1) + own.choice(few, (20_000, 5)).mean(1)) / 2
    assert (found.low, found.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.06)


def test_what_has_no_interval():
    alone = estimate([3.0])
    assert alone.mean == 3 and math.isnan(alone.low) and not alone.excludes_zero
    assert math.isnan(estimate([3.0, float('inf')]).high), 'identical pictures have an infinite PSNR'
    same = estimate([0.5, 0.5, 0.5])
    assert (same.mean, same.low, same.high) == (0.5, 0.5, 0.5) and same.excludes_zero
    with pytest.raises(ValueError, match='at least one value'):
        estimate([1.0], [])


def test_differences_are_paired_by_picture(results):
    first = results.scores['trained']['near']
    results.scores['trained']['near'] = dict(reversed(first.items()))
    found = results.difference('trained', 'plain', ['near', 'far'], 'psnr')
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5)), 'by name, not by place'


def test_tables(results):
    lines = summary(results).splitlines()
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    assert cells[0] == ['domain', 'samples', 'plain psnr', 'trained psnr']
    assert cells[2:] == [
        ['near', '3', '31.00', '31.50'],
        ['far', '2', '21.00', '21.50'],
        ['own (seen)', '1', '40.00', '40.50'],
        ['mean of the unseen', '5', '26.00', '26.50'],
    ]
    text = report(results)
    assert 'What trained has more, paired by sample' in text
    assert '+0.500 [+0.500, +0.500] *' in text
    assert '| own (seen)         | 1         | to plain     | +0.500                    |' in text, (
        'one picture: no interval'
    )


def test_domain_without_ground_truth_stands_in_the_table_without_numbers(results):
    for network in results.networks:
        results.scores[network]['bare'] = {'image_0': {}}
    results.domains['bare'] = {'images': {'image_0': {}}}
    assert summary(results).splitlines()[-2].split('|')[1:5] == [
        *(cell for cell in (' bare               ', ' 1         ', ' not measured ', ' not measured   '))
    ]


def test_files(results, tmp_path):
    write_results(results, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *('images.csv', 'results.json', 'table.csv', 'table.md', 'table.txt'),
    ]
    images = list(csv.DictReader((tmp_path / 'images.csv').open()))
    assert len(images) == 12
    assert images[0] == {
        **{
            'domain': 'near',
            'seen': 'False',
            'sample': 'image_0',
            'network': 'plain',
            'metric': 'psnr',
            'value': '30.0',
        }
    }
    rows = list(csv.DictReader((tmp_path / 'table.csv').open()))
    mean = [row for row in rows if row['domain'] == 'mean of the unseen']
    assert [(row['network'], row['reference'], float(row['mean'])) for row in mean] == [
        *(('plain', '', 26.0), ('trained', '', 26.5), ('trained', 'plain', 0.5)),
    ]
    assert Results.load(tmp_path) == results
    assert json.loads((tmp_path / 'results.json').read_text())['networks'] == ['plain', 'trained']


def test_files_that_are_no_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'basicsr/test\.py'):
        Results.load(tmp_path)
    for text in ('{', '[]', '{"networks": []}', '{"networks": [], "name": "a", "metrics": {}, "odd": 1}'):
        (tmp_path / 'results.json').write_text(text)
        with pytest.raises(ValueError, match='holds no results'):
            Results.load(tmp_path)
