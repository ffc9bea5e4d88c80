"""Numbers of train.ldt that may be shares of the run."""

import pytest

import basicsr.models  # noqa: F401  registers what option files name
from basicsr.options.check import check_section
from basicsr.strategies.ldt_options import LDTSection


@pytest.mark.parametrize(
    ('written', 'total', 'scored', 'warm_up'),
    [
        ({'scoring_batches': 7, 'warmup_iter': 30}, 12, 7, 30),
        ({'scoring_batches': '2%', 'warmup_iter': '4%'}, 5000, 100, 200),
        ({'scoring_batches': '2%', 'warmup_iter': '4%'}, 12, 2, 1),
        ({}, 12, 300, 0),
    ],
)
def test_batches_and_iterations_may_be_shares_of_the_run(written, total, scored, warm_up):
    section = check_section(LDTSection, written, 'train.ldt')
    assert (section.batches_to_score(total), section.warm_up_iterations(total)) == (scored, warm_up)


@pytest.mark.parametrize('key', ['scoring_batches', 'warmup_iter'])
def test_a_share_of_nothing_is_a_mistake(key):
    with pytest.raises(ValueError, match=rf'train\.ldt\.{key}: must be .*a share of train\.total_iter such as 5%'):
        check_section(LDTSection, {key: '0%'}, 'train.ldt')
