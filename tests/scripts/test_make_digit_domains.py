"""The digits of the classification quick start: six ways of drawing, no digit in two of them."""

from collections import Counter

import numpy as np
import pytest

from scripts.data_preparation import make_digit_domains as digits


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return digits.make(tmp_path_factory.mktemp('data') / 'digits')


def test_every_digit_is_in_one_domain(root):
    files = [file.relative_to(root).parts for file in root.rglob('*.png')]
    assert Counter(domain for domain, _, _ in files) == {
        **{'plain': 675, 'turned': 225, 'inverted': 225, 'noisy': 224, 'thin': 224, 'thick': 224}
    }
    assert len({name for _, _, name in files}) == len(files) == 1797
    assert {label for _, label, _ in files} == set(map(str, range(10)))


def test_domains_are_drawn_as_they_are_called():
    digit = np.zeros((8, 8))
    digit[1:7, 3:5] = 16  # a bar
    drawn = {name: digits.drawn(digit, name, np.random.default_rng(0)).astype(float) for name in digits.DOMAINS}
    assert drawn['thin'].mean() < 0.8 * drawn['plain'].mean() < 0.8 * 0.8 * drawn['thick'].mean()
    assert np.abs(drawn['inverted'] - (255 - drawn['plain'])).max() <= 1
    assert np.std(drawn['noisy'][:4]) > 30 > np.std(drawn['plain'][:4])
    upright = drawn['plain'].sum(0).argmax()
    assert drawn['turned'][:, upright].sum() < 0.9 * drawn['plain'][:, upright].sum()


def test_they_are_the_same_bits_anywhere_and_stay(root, tmp_path):
    again = digits.make(tmp_path / 'again')
    files = sorted(file.relative_to(root) for file in root.rglob('*') if file.is_file())
    assert all((root / file).read_bytes() == (again / file).read_bytes() for file in files)
    before = {file: (root / file).stat().st_mtime_ns for file in files}
    digits.make(root)
    assert {file: (root / file).stat().st_mtime_ns for file in files} == before
