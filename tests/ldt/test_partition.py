import json
import math
import random
import statistics

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


def otsu_by_hand(scores):
    """The variance between the classes, as it is defined, for every threshold."""
    logs = [math.log(score) for score in sorted(scores)]

    def between(split):
        classes = logs[:split], logs[split:]
        means = [statistics.fmean(group) for group in classes]
        return len(classes[0]) * len(classes[1]) * (means[0] - means[1]) ** 2 / len(logs) ** 2

    return max(range(1, len(logs)), key=between)


@pytest.mark.parametrize('seed', range(5))
def test_auto_is_otsus_threshold_on_log_scores(seed):
    draw = random.Random(seed)
    share = draw.uniform(0.2, 0.8)
    scores = {str(i): math.exp(draw.gauss(-9 if draw.random() < share else 0, 2)) for i in range(60)}
    partition = ldt.Partition.from_scores(scores, 'auto')
    assert len(partition.stable) == otsu_by_hand(scores.values())
    assert partition.unstable_ratio == pytest.approx(len(partition.unstable) / 60)
    assert ldt.Partition.from_scores(dict(reversed(scores.items())), 'auto').unstable == partition.unstable
    zeros = {f'zero{i}': 0.0 for i in range(30)}
    with_zeros = ldt.Partition.from_scores({**scores, **zeros}, 'auto')
    assert with_zeros.unstable == partition.unstable and with_zeros.stable == [*zeros, *partition.stable]


def test_auto_tears_no_equal_scores_apart_and_says_where_it_finds_nothing():
    assert ldt.Partition.from_scores({'a': 1, 'b': 1, 'c': 1, 'd': 5, 'e': 5}, 'auto').stable == ['a', 'b', 'c']
    assert ldt.Partition.from_scores({'a': 1, 'b': 10, 'c': 100}, 'auto').stable == ['a'], 'the lowest of equals'
    for scores in ({'a': 1, 'b': 1}, {'a': 0, 'b': 2}, {'a': 0, 'b': 0}, {'a': 3}, {}):
        with pytest.raises(ValueError, match='finds no two groups'):
            ldt.Partition.from_scores(scores, 'auto')
    with pytest.raises(ValueError, match='scores must be at least 0; the lowest is -1'):
        ldt.Partition.from_scores({'a': -1, 'b': 2}, 'auto')
    with pytest.raises(ValueError, match='or be "auto"; it is half'):
        ldt.Partition.from_scores({'a': 1, 'b': 2}, 'half')


def test_modules_as_layers(tmp_path):
    net = FourConvs()
    layers = ldt.layers_of(net, 'module')
    assert layers['tail'] == ['tail.weight', 'tail.bias'] and list(layers) == ['head', 'body1', 'body2', 'tail']
    assert ldt.layers_of(net) == {name: [name] for name, _ in net.named_parameters()}
    assert ldt.layers_of(['w', 'a.w', 'a.b.w'], 'module') == {'(network)': ['w'], 'a': ['a.w'], 'a.b': ['a.b.w']}
    scores = {'head': 4.0, 'body1': 1.0, 'body2': 3.0, 'tail': 2.0}
    partition = ldt.Partition.from_scores(scores, 0.25, layers=layers)
    partition.check(net)
    assert partition.stable == [
        f'{layer}.{kind}' for layer in ('body1', 'tail', 'body2') for kind in ('weight', 'bias')
    ]
    assert list(partition.stable_layers) == ['body1', 'tail', 'body2'] and list(partition.unstable_layers) == ['head']
    partition.save(tmp_path / 'partition.json')
    assert ldt.Partition.load(tmp_path / 'partition.json') == partition
    with pytest.raises(ValueError, match=r'some of their tensors in each: head'):
        ldt.Partition(['head.weight'], ['head.bias'], layers={'head': ['head.weight', 'head.bias']})
    with pytest.raises(ValueError, match=r'do not have the names of the groups, each once: tail\.bias'):
        ldt.Partition(['head.weight'], ['tail.weight'], layers={'head': ['head.weight'], 'tail': layers['tail']})
    with pytest.raises(ValueError, match='differ in tail'):
        ldt.Partition.from_scores({'head': 1.0, 'body1': 2.0, 'body2': 3.0}, layers=layers)
    with pytest.raises(ValueError, match='no granularity'):
        ldt.layers_of(net, 'block')


def test_partitions_of_before_there_were_layers_load():
    old = json.loads(ldt.Partition.from_scores(SCORES, 0.4).to_json())
    del old['layers']
    partition = ldt.Partition.from_dict(old)
    assert partition.layers == {} and list(partition.unstable_layers) == ['c', 'a']


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
