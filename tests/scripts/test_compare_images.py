import json
import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from basicsr.results.scores import Results
from basicsr.utils.matlab_functions import imresize
from scripts.analysis import compare_images

SCALE = 4
GAINS = {'own': {'coffee': 0.1}, 'far': {'camera': 1.5, 'cat': -0.8, 'moon': 0.4}}
"""What the network `ldt` has more than `tuned`, in dB."""


def photograph(name: str) -> np.ndarray:
    """(96, 128, 3), BGR."""
    img = {'coffee': data.coffee, 'camera': data.camera, 'cat': data.chelsea, 'moon': data.moon}[name]()
    img = img if img.ndim == 3 else np.stack([img] * 3, -1)
    return np.ascontiguousarray(img[100:196, 100:228, ::-1])


def write(path: Path, img: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), img)
    return str(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """What a test of three networks has left; the last one differs from the second in one corner of each picture."""
    folder = tmp_path / 'results'
    results = Results('trial', {'psnr': 'higher', 'lpips': 'lower'}, seen=['own'], main='ldt')
    results.scores = {network: {domain: {} for domain in GAINS} for network in ('tuned', 'ldt', 'other')}
    for domain, pictures in GAINS.items():
        results.domains[domain] = {'images': {}}
        for place, (name, gain) in enumerate(pictures.items()):
            truth = photograph(name)
            lq = (imresize(truth.astype(np.float32) / 255, 1 / SCALE).clip(0, 1) * 255).round().astype(np.uint8)
            files = {'lq': write(tmp_path / f'data/LR/{name}.png', lq)}
            # A test picture may be larger than its LR times the scale.
            larger = cv2.copyMakeBorder(truth, 0, 2, 0, 3, cv2.BORDER_REPLICATE)
            files['gt'] = write(tmp_path / f'data/HR/{name}.png', larger)
            results.domains[domain]['images'][name] = files
            blurred = cv2.GaussianBlur(truth, (0, 0), 2)
            better = blurred + 3  # brighter everywhere, which is no place to look at
            better[8:32, 88:120] = truth[8:32, 88:120]
            for network, img in (('tuned', blurred), ('ldt', better), ('other', blurred)):
                write(folder / f'visualization/{domain}/{name}_{network}.png', img)
                score = 30 + place + {'tuned': 0, 'ldt': gain, 'other': -gain}[network]
                results.scores[network][domain][name] = {'psnr': score, 'lpips': score / 100}
    results.save(folder)
    return folder


@pytest.fixture
def sheets(monkeypatch) -> dict:
    """Rows and titles of the sheets that would be drawn, by file name."""
    drawn = {}

    def keep(rows, titles, path):
        drawn[path.name] = (rows, titles)
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr(compare_images, 'crop_sheet', keep)
    return drawn


def labels(sheets: dict, name: str) -> list[list[str]]:
    return [label.split('\n') for label, _ in sheets[name][0]]


def test_gains_and_losses_are_shown_by_size(folder, sheets, capsys):
    compare_images.main([str(folder), '--size', '32'])
    assert labels(sheets, 'gains.png') == [
        ['far', 'camera', 'psnr +1.5000'],
        ['far', 'moon', 'psnr +0.4000'],
        ['own (seen)', 'coffee', 'psnr +0.1000'],
    ]
    assert labels(sheets, 'losses.png') == [['far', 'cat', 'psnr -0.8000']]
    rows, titles = sheets['gains.png']
    assert titles == ['LR', 'bicubic', 'tuned', 'ldt', 'other', 'truth']
    assert [caption for _, caption in rows[0][1]] == ['', '', '30.00', '31.50', '28.50', '']
    printed = capsys.readouterr().out
    assert '+1.5000  far/camera' in printed and str(folder / 'comparison/losses.png') in printed


def test_crops_are_of_one_place_where_the_networks_differ(folder, sheets):
    compare_images.main([str(folder), '--size', '40'])
    for label, cells in sheets['gains.png'][0]:
        truth = photograph(label.split('\n')[1])
        low, bicubic, tuned, ldt, _, shown = (img for img, _ in cells)
        assert all(img.shape == (40, 40, 3) for img, _ in cells)
        places = cv2.matchTemplate(truth, shown, cv2.TM_SQDIFF)
        top, left = np.unravel_index(places.argmin(), places.shape)
        np.testing.assert_array_equal(truth[top : top + 40, left : left + 40], shown)
        inside = (min(top + 40, 32) - max(top, 8)) * (min(left + 40, 120) - max(left, 88))
        assert inside >= 24 * 32 / 2, 'the corner in which they differ'
        # LR pixels are enlarged as they are, and lie where the others do.
        np.testing.assert_array_equal(low[::4, ::4], low[3::4, 3::4])
        mean = cv2.resize(shown, (10, 10), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(low[::4, ::4] - mean).mean() < np.abs(np.roll(low[::4, ::4], 1, 0) - mean).mean()
        assert (
            np.abs(bicubic.astype(float) - shown).mean() < np.abs(np.roll(bicubic, 4, 1).astype(float) - shown).mean()
        )
        blurred = cv2.GaussianBlur(truth, (0, 0), 2)[top : top + 40, left : left + 40]
        np.testing.assert_array_equal(tuned, blurred)
        assert (ldt == shown).all(2).sum() >= inside, 'the corner in which it has the truth'


def test_options_choose_networks_metric_and_number(folder, sheets, tmp_path, capsys):
    output = tmp_path / 'elsewhere'
    options = [
        '--reference',
        'tuned',
        '--network',
        'other',
        '--metric',
        'lpips',
        '--count',
        '1',
        '--output',
        str(output),
    ]
    compare_images.main([str(folder), *options])
    # Lower is better, and `other` is lower where `ldt` was higher.
    assert labels(sheets, 'gains.png') == [['far', 'camera', 'lpips +0.0150']]
    assert labels(sheets, 'losses.png') == [['far', 'cat', 'lpips -0.0080']]
    assert sorted(path.name for path in output.iterdir()) == ['differences.png', 'gains.png', 'losses.png']
    assert not (folder / 'comparison').exists()

    results = Results.load(folder)
    results.scores['other']['far']['cat']['psnr'] = 40.0
    for picture in ('moon', 'camera'):
        results.scores['other']['far'][picture].pop('psnr')
    results.scores['other']['own']['coffee']['psnr'] = 30.5
    results.save(folder)
    compare_images.main([str(folder), '--network', 'other', '--output', str(output)])
    assert sorted(row[1] for row in labels(sheets, 'gains.png')) == ['cat', 'coffee'], 'pictures with two values'
    assert 'losses in psnr, other over tuned: none' in capsys.readouterr().out
    assert not (output / 'losses.png').exists(), "the earlier comparison's"


def test_bicubic_of_the_run_is_shown_and_truth_may_be_absent(folder, sheets):
    results = Results.load(folder)
    results.scores = {'bicubic': results.scores['other'], **results.scores}
    for path in folder.glob('visualization/*/*_other.png'):
        img = np.full_like(cv2.imread(str(path)), 77)
        write(path.with_name(path.name.replace('_other', '_bicubic')), img)
    del results.domains['far']['images']['camera']['gt']
    results.save(folder)
    compare_images.main([str(folder)])
    rows, titles = sheets['gains.png']
    assert titles == ['LR', 'bicubic', 'tuned', 'ldt', 'other', 'truth']
    assert rows[0][0].startswith('far\ncamera') and (rows[0][1][1][0] == 77).all()
    assert (rows[0][1][5][0] == 255).all() and rows[1][1][5][0].std() > 5
    assert '+1.5' in rows[0][0], 'the gain over tuned, although bicubic comes first'


def damaged(folder: Path, change) -> None:
    content = json.loads((folder / 'results.json').read_text())
    change(content)
    (folder / 'results.json').write_text(json.dumps(content))


def only(network):
    return lambda content: content.update(networks=[network], scores={network: content['scores'][network]})


MISTAKES = {
    'no results': (lambda folder: (folder / 'results.json').unlink(), [], 'there is no .*results.json;'),
    'no network': (lambda folder: None, ['--network', 'ltd'], "--network: 'ltd' is none of .*; did you mean 'ldt'"),
    'itself': (lambda folder: None, ['--reference', 'ldt'], 'ldt is compared with itself'),
    'no metric': (lambda folder: None, ['--metric', 'ssim'], "--metric: 'ssim' is none of psnr, lpips"),
    'one network': (lambda folder: damaged(folder, only('ldt')), [], 'holds 1 networks .* need two networks'),
    'no picture': (
        lambda folder: (folder / 'visualization/far/camera_ldt.png').unlink(), [],
        r'no picture .*far/camera_ldt\.png.*--set val\.save_img=true',
    ),
    'no data': (lambda folder: (folder.parent / 'data/LR/cat.png').unlink(), [], 'data/LR/cat.png.*was the data moved'),
    'broken': (lambda folder: (folder / 'visualization/far/cat_ldt.png').write_text('x'), [], 'cannot read .*cat_ldt'),
    'small': (
        lambda folder: write(folder / 'visualization/far/cat_ldt.png', np.zeros((8, 8, 3), np.uint8)), [],
        r'cat of far: ldt has \(8, 8\) pixels, not \(96, 128\)',
    ),
}  # fmt: skip


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_end_in_one_message(folder, mistake, capsys):
    spoil, options, message = MISTAKES[mistake]
    spoil(folder)
    with pytest.raises(SystemExit) as stop:
        compare_images.main([str(folder), *options])
    assert stop.value.code == 2
    assert re.fullmatch(f'error: .*{message}.*', capsys.readouterr().err.strip())
    assert not (folder / 'comparison').exists()


def test_the_command(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [compare_images.__file__, str(folder), '--count', '1'])
    runpy.run_path(compare_images.__file__, run_name='__main__')
    for name in ('gains', 'losses', 'differences'):
        sheet = cv2.imread(str(folder / 'comparison' / f'{name}.png'))
        assert min(sheet.shape[:2]) > 300 and sheet.std() > 10
