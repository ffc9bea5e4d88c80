import cv2
import numpy as np
import pytest

from basicsr.results import plots


def colours_in(path, colour: str) -> int:
    """Counts the pixels that have about the colour '#rrggbb'."""
    bgr = np.array([int(colour[i : i + 2], 16) for i in (5, 3, 1)])
    return int((np.abs(cv2.imread(str(path)).astype(int) - bgr).max(axis=2) < 8).sum())


def layer_scores(count: int) -> dict[str, float]:
    values = 10 ** np.random.default_rng(0).normal(-8, 1, count)
    return {f'layers.{i // 50}.blocks.{i}.weight': float(value) for i, value in enumerate(values)}


@pytest.mark.parametrize('count', [1, 59, 1000])
def test_layer_scores_are_drawn_for_any_depth(tmp_path, count):
    scores = layer_scores(count)
    unstable = sorted(scores, key=scores.get)[count // 2 :]
    path = tmp_path / 'new' / 'scores.png'
    plots.plot_layer_scores(scores, unstable, path, title='gradient variance')

    height, width = cv2.imread(str(path)).shape[:2]
    assert 1000 < width < 2500
    assert 600 < height < 1500
    # More than the marker in the legend, which is there even for no layers.
    assert colours_in(path, plots.UNSTABLE_COLOUR) > 80
    assert (colours_in(path, plots.STABLE_COLOUR) > 80) == (count > 1)
    assert [file.name for file in path.parent.iterdir()] == ['scores.png']


@pytest.mark.parametrize('values', [[0, 0, 0, 0], [0, 1e-9, 1e-3, 1], [-1e-3, -1e-9, 0, 1e-5], [1e-30, 1, 1, 1e30]])
def test_zeros_and_any_sign_are_drawn(tmp_path, values):
    scores = dict(zip('abcd', values, strict=True))
    plots.plot_layer_scores(scores, ['c', 'd'], tmp_path / 'scores.png')
    assert colours_in(tmp_path / 'scores.png', plots.UNSTABLE_COLOUR) > 100
    assert colours_in(tmp_path / 'scores.png', plots.STABLE_COLOUR) > 100


@pytest.fixture
def figures(monkeypatch):
    """Collects the figures that would be written."""
    drawn = []
    monkeypatch.setattr(plots, 'save_figure', lambda figure, path, **options: drawn.append(figure))
    return drawn


def test_layer_scores_show_order_counts_and_threshold(figures):
    scores = {'late': 1e-2, 'early': 1e-6, 'middle': 1e-4}
    plots.plot_layer_scores(scores, ['late'], 'unused.png', title='T')
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ['late', 'early', 'middle']
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
        'stable: 2 layers',
        'unstable: 1 layers',
        'threshold: 0.001',
    ]
    assert axes.get_yscale() == 'log'
    stable, unstable = (points.get_offsets().tolist() for points in axes.collections)
    assert stable == [[1, 1e-6], [2, 1e-4]]
    assert unstable == [[0, 1e-2]]


def test_no_threshold_where_no_score_separates(figures):
    plots.plot_layer_scores({'a': 1.0, 'b': 3.0, 'c': 2.0}, ['a', 'c'], 'unused.png')
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ['stable: 1 layers', 'unstable: 2 layers']


def test_deep_networks_are_labelled_by_group(figures):
    names = ['conv_first.weight', *(f'layers.{i // 100}.blocks.{i}.weight' for i in range(300)), 'conv_last.weight']
    plots.plot_layer_scores(dict.fromkeys(names, 1.0), names[:10], 'unused.png')
    axes = figures[0].axes[0]
    labels = dict(zip((label.get_text() for label in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    assert labels == {'layers.0': 50.5, 'layers.1': 150.5, 'layers.2': 250.5, 'conv_first': 0, 'conv_last': 301}


@pytest.mark.parametrize(
    ('scores', 'unstable', 'message'),
    [
        ({}, [], 'no layer scores'),
        ({'a': 1.0, 'b': float('nan')}, [], r"\['b'\] are not finite"),
        ({'a': 1.0}, ['a', 'z'], r"\['z'\] have no score"),
    ],
)
def test_bad_scores_are_named(tmp_path, scores, unstable, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_layer_scores(scores, unstable, tmp_path / 'scores.png')
    assert not list(tmp_path.iterdir())


def test_crop_sheet_shows_every_cell_in_its_place(tmp_path):
    colours = [[(0, 0, 255), (0, 255, 0)], [(255, 0, 0), (0, 255, 255)]]
    rows = [(f'row {i}', [np.full((48, 64, 3), colour, np.uint8) for colour in row]) for i, row in enumerate(colours)]
    rows[1] = (rows[1][0], [(rows[1][1][0], '31.20 dB'), rows[1][1][1]])
    plots.crop_sheet(rows, ['before', 'after'], tmp_path / 'sheet.png')

    sheet = cv2.imread(str(tmp_path / 'sheet.png')).astype(int)
    centres = np.array(
        [[np.argwhere(np.abs(sheet - colour).max(axis=2) < 8).mean(axis=0) for colour in row] for row in colours]
    )
    assert (centres[1, :, 0] - centres[0, :, 0] > 100).all()
    assert (centres[:, 1, 1] - centres[:, 0, 1] > 100).all()
    for row in colours:
        for colour in row:
            assert (np.abs(sheet - colour).max(axis=2) < 8).sum() > 300 * 400 * 0.75


def test_crop_sheet_names_the_bad_row(tmp_path):
    img = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match='at least one row'):
        plots.crop_sheet([], ['a'], tmp_path / 'sheet.png')
    with pytest.raises(ValueError, match="row 'cat' has 1 cells for 2 columns"):
        plots.crop_sheet([('cat', [img])], ['a', 'b'], tmp_path / 'sheet.png')
    with pytest.raises(ValueError, match="row 'cat' has a cell of float32"):
        plots.crop_sheet([('cat', [img.astype(np.float32)])], ['a'], tmp_path / 'sheet.png')


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'scores.png'
    path.write_bytes(b'old')

    def fail(self, file, **options):
        raise OSError('disk full')

    monkeypatch.setattr('matplotlib.backends.backend_agg.FigureCanvasAgg.print_figure', fail)
    with pytest.raises(OSError, match='disk full'):
        plots.plot_layer_scores({'a': 1.0}, [], path)
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


def test_most_detailed_crop_finds_the_texture():
    img = np.full((120, 161, 3), 128, np.uint8)
    img[40:72, 100:132] = np.random.default_rng(0).integers(0, 255, (32, 32, 3))
    y, x = plots.most_detailed_crop(img, 40)
    assert y % 4 == 0 and x % 4 == 0
    assert 32 <= y <= 40 and 92 <= x <= 100
    assert plots.most_detailed_crop(img[..., 0], 40) in [(y, x), (y - 4, x), (y, x - 4), (y + 4, x), (y, x + 4)]
    assert plots.most_detailed_crop(img[:40, :40], 40) == (0, 0)
    with pytest.raises(ValueError, match='crop of 121 px does not fit in a picture of 120 x 161'):
        plots.most_detailed_crop(img, 121)


def test_most_different_crop_looks_for_detail():
    one = np.full((120, 160, 3), 90, np.uint8)
    one[80:100, 20:40] = np.random.default_rng(0).integers(0, 190, (20, 20, 3))
    other = one + 60  # brighter everywhere
    assert np.array_equal(plots.most_different_crop(one, one, 40), plots.most_detailed_crop(one, 40))
    other[8:24, 120:140] = np.random.default_rng(1).integers(0, 255, (16, 20, 3))
    y, x = plots.most_different_crop(one, other, 40)
    assert 0 <= y <= 8 and 100 <= x <= 120
    with pytest.raises(ValueError, match='crop of 121 px'):
        plots.most_different_crop(one, other, 121)


def test_difference_boxes_show_every_picture_of_every_domain(figures):
    differences = {'P': [0.5, 0.1, 0.3], 'sony': [-1.0, 1.0, 2.0, 4.0], 'Canon': [0.2]}
    plots.difference_boxes(differences, 'unused.png', 'gain', seen=['P'])
    axes = figures[0].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        'P (seen)\n3 samples', 'sony\n4 samples', 'Canon\n1 samples'
    ]  # fmt: skip
    points, means = axes.collections[::2], axes.collections[1::2]
    for place, (values, dots, mean) in enumerate(zip(differences.values(), points, means, strict=True)):
        assert dots.get_offsets()[:, 1].tolist() == values
        assert np.abs(dots.get_offsets()[:, 0] - place).max() < 0.2
        assert mean.get_offsets().tolist() == [[place, pytest.approx(np.mean(values))]]
    medians = [line.get_ydata()[0] for line in axes.lines if line.get_linewidth() == 2]
    assert medians == [0.3, 1.5, 0.2]
    with pytest.raises(ValueError, match='no differences to draw of IMG'):
        plots.difference_boxes({'IMG': []}, 'unused.png', 'gain')
    with pytest.raises(ValueError, match=r'no differences to draw$'):
        plots.difference_boxes({}, 'unused.png', 'gain')
