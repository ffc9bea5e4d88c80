"""After a step that explodes, what is saved is what gave a finite loss last, whatever the strategy."""

import pytest
import torch

from basicsr.models.last_finite import LastFinite
from basicsr.models.stepping import NotFinite
from tests.basicsr.models.test_models import pictures
from tests.basicsr.models.test_stepping import batches
from tests.basicsr.strategies.test_strategies import (
    compositions,
    iterations,
    prepared,
    pretrained,
    published,
    same,
    written,
)

__all__ = ['pictures', 'pretrained', 'written']


@pytest.mark.parametrize('labels', [labels for labels in compositions() if len(labels) < 3], ids=' + '.join)
def test_the_weights_before_the_step_that_exploded_are_put_back(written, labels):
    opt = written(labels, max_bad_steps=1)
    model = prepared(opt)
    assert model.back_to_finite() is None, 'nothing is known to be finite yet'
    iterations(model, opt, 1, 5)
    good, batch = published(model), next(batches(opt))
    for group in model.optimizer_g.param_groups:
        group['lr'] = 1e30
    assert model.train_step(batch, 6), 'the loss before this step is finite'
    with pytest.raises(NotFinite):
        for iteration in range(7, 12):
            for group in model.optimizer_g.param_groups:
                group['lr'] = 1e30
            model.train_step(batch, iteration)
    last = model.back_to_finite()
    found = published(model)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert last >= 5
    if last == 5:  # in alternating turns, the network of the next turn may still be finite
        assert same(dict(found), dict(good))


def test_only_what_changed_is_copied_again():
    kept, fixed, moving = LastFinite(), torch.arange(3.0), torch.zeros(2)
    state = {'a': [fixed, {'b': moving}], 'n': 4}
    kept.keep(state, 1)
    first = kept.state()['a'][0]
    moving.add_(1)
    kept.keep(state, 2)
    assert kept.iteration == 2 and kept.state()['a'][0] is first
    assert kept.state() == {'a': [first, kept.state()['a'][1]], 'n': 4}
    moving.fill_(torch.nan)
    fixed.mul_(2)
    assert kept.state()['a'][1]['b'].tolist() == [1, 1] and first.tolist() == [0, 1, 2]
    swapped = torch.tensor([7.0, 8.0, 9.0])
    kept.keep({'a': [swapped, {'b': torch.zeros(5)}]}, 3)
    assert kept.state()['a'][0].tolist() == [7, 8, 9] and kept.state()['a'][1]['b'].tolist() == [0] * 5


def test_storage_that_was_swapped_is_copied_again():
    kept, one, other = LastFinite(), torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.ones(2))
    kept.keep({'one': one, 'other': other}, 1)
    one.data, other.data = other.data, one.data
    kept.keep({'one': one, 'other': other}, 2)
    assert kept.state()['one'].tolist() == [1, 1] and kept.state()['other'].tolist() == [0, 0]
