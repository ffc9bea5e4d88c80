"""Types of values that option files share."""

import pytest

from basicsr.options.check import check_section
from basicsr.options.types import Section, Time, iterations, option


class Timed(Section):
    time: Time = option(None, 'How long.')


@pytest.mark.parametrize(
    ('written', 'expected'),
    [(1, 1), (2.5, 2.5), (1e3, 1000), ('5%', 50), ('5 %', 50), ('0.05%', 0.5), ('12.5%', 125), ('250%', 2500)],
)
def test_a_time_is_a_number_of_iterations_or_a_share_of_the_run(written, expected):
    assert iterations(check_section(Timed, {'time': written}, 'train').time, 1000) == pytest.approx(expected)
    assert check_section(Timed, {'time': None}, 'train').time is None


@pytest.mark.parametrize(
    'written', [0, 0.9, -3, True, float('nan'), float('inf'), '5', '%', '0%', '0.00%', '-5%', '5%%', '5e2%', '5% ', [5]]
)
def test_what_is_no_time_is_said(written):
    expected = r'train\.time: must be a number of at least 1 or a share of train\.total_iter such as 5%, not '
    with pytest.raises(ValueError, match=expected):
        check_section(Timed, {'time': written}, 'train')
