import json

import pytest
from torch import nn

import ldt
from tests.recipe import FourConvs

SCORES = {'a': 3.0, 'b': 1.0, 'c': 2.0, 'd': 0.5, 'e': 1.0}


def test_ascending_score_ties_in_network_order():
    partition = ldt.Partition.from_scores(SCORES, 0.4)
    assert partition.stable == ['d', 'b', 'e']
    assert partition.unstable == ['c', 'a']
    assert list(partition.scores) == list(SCORES)


@pytest.mark.parametrize(('count', 'ratio', 'stable'), [(10, 0.9, 1), (10, 0.7, 3), (928, 0.5, 464), (5, 0.5, 2)])
def test_stable_count_is_the_floor(count, ratio, stable):
    partition = ldt.Partition.from_scores({str(index): index for index in range(count)}, ratio)
    assert len(partition.stable) == stable
    assert len(partition.unstable) == count - stable


@pytest.mark.parametrize('ratio', [0, 1, -0.1, 1.5, float('nan')])
def test_ratio_outside_is_an_error(ratio):
    with pytest.raises(ValueError, match='unstable_ratio must lie between 0 and 1'):
        ldt.Partition.from_scores(SCORES, ratio)


def test_ratio_that_empties_a_group_is_an_error():
    with pytest.raises(ValueError, match='makes 0 of 5 layers stable'):
        ldt.Partition.from_scores(SCORES, 0.95)


def test_scores_that_cannot_be_sorted_are_named():
    with pytest.raises(ValueError, match='NaN or Inf: b'):
        ldt.Partition.from_scores({**SCORES, 'b': float('nan')}, 0.5)


def test_prefixes_end_at_a_dot():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.head2, self.body = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)

    partition = ldt.Partition.from_prefixes(Net(), ['head', 'body.bias'])
    assert partition.unstable == ['head.weight', 'head.bias', 'body.bias']
    assert partition.stable == ['head2.weight', 'head2.bias', 'body.weight']
    assert ldt.Partition.from_prefixes(Net(), 'head.').unstable == ['head.weight', 'head.bias']
    with pytest.raises(ValueError, match=r"no layer has the prefix 'haed'.*head"):
        ldt.Partition.from_prefixes(Net(), 'haed')
    with pytest.raises(ValueError, match='stable group is empty'):
        ldt.Partition.from_prefixes(Net(), ['head', 'head2', 'body'])


def test_a_layer_stands_in_one_group_once():
    with pytest.raises(ValueError, match=r'more than once: a'):
        ldt.Partition(['a', 'b'], ['c', 'a'])


def test_json_round_trip(tmp_path):
    partition = ldt.Partition.from_scores(SCORES, 0.4, 'mean')
    assert ldt.Partition.from_json(partition.to_json()) == partition
    partition.save(tmp_path / 'partition.json')
    assert ldt.Partition.load(tmp_path / 'partition.json') == partition
    assert list(json.loads((tmp_path / 'partition.json').read_text())['scores']) == list(SCORES)
    assert [path.name for path in tmp_path.iterdir()] == ['partition.json']


@pytest.mark.parametrize('text', ['{"stable": ["a"]', '[]', '{"stable": ["a"], "who": 1}'])
def test_broken_file_is_named(tmp_path, text):
    path = tmp_path / 'partition.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'partition\.json holds no partition'):
        ldt.Partition.load(path)


def test_check_names_what_does_not_fit():
    net = FourConvs()
    names = [name for name, _ in net.named_parameters()]
    ldt.Partition(names[:4], names[4:]).check(net)
    with pytest.raises(ValueError, match=r'no trainable parameter of the network: haed\.weight'):
        ldt.Partition(['haed.weight', *names[1:4]], names[4:]).check(net)
    with pytest.raises(ValueError, match=r'neither group of the partition: tail\.bias'):
        ldt.Partition(names[:4], names[4:-1]).check(net)
    net.tail.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r'no trainable parameter of the network: tail\.bias'):
        ldt.Partition(names[:4], names[4:]).check(net)
