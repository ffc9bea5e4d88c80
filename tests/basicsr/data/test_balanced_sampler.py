"""Batches balanced over domains: what is in them, whoever loads them."""

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from basicsr.data import build_dataloader
from basicsr.data.data_sampler import BalancedSampler, EnlargedSampler, SeededSampler
from basicsr.data.loaders import training_loader
from basicsr.utils.registry import DATASET_REGISTRY

domains = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(
    lambda sizes: [group for group, size in enumerate(sizes) for _ in range(size)]
)


def samplers(groups, together, processes, ratio=1, seed=7):
    """Samplers of all processes, each wrapped so that it yields samples with their seeds."""
    made = [BalancedSampler(groups, processes, rank, together // processes, ratio, seed) for rank in range(processes)]
    return [SeededSampler(sampler, seed) for sampler in made]


def parts(of_all, epoch, start=0):
    """Of each process, its batches of an epoch."""
    found = []
    for sampler in of_all:
        size = sampler.sampler.batch_size
        sampler.set_epoch(epoch, start)
        samples = list(sampler)
        assert len(samples) % size == 0
        found.append([samples[at : at + size] for at in range(0, len(samples), size)])
    return found


@settings(max_examples=60, deadline=None)
@given(domains, st.integers(1, 3), st.sampled_from([0.5, 1, 2]), st.integers(0, 3))
def test_the_same_batches_whatever_the_number_of_processes(groups, sixth, ratio, epoch):
    together = 6 * sixth
    alone = parts(samplers(groups, together, 1, ratio), epoch)[0]
    for processes in (2, 3):
        shared = parts(samplers(groups, together, processes, ratio), epoch)
        for whole, *pieces in zip(alone, *shared, strict=True):
            assert sorted(whole) == sorted(sample for piece in pieces for sample in piece)


@settings(max_examples=60, deadline=None)
@given(domains, st.integers(1, 9), st.integers(1, 3), st.integers(0, 3))
def test_each_part_of_a_batch_has_as_many_of_each_domain_or_one_less(groups, size, processes, epoch):
    count = max(groups) + 1
    for batches in parts(samplers(groups, size * processes, processes), epoch):
        for batch in batches:
            of_each = Counter(groups[index] for index, _ in batch)
            numbers = [of_each[group] for group in range(count)]
            assert max(numbers) - min(numbers) <= 1
            assert size < count or min(numbers) >= 1


@settings(max_examples=40, deadline=None)
@given(domains, st.integers(1, 5), st.integers(1, 2), st.integers(0, 40))
def test_an_epoch_goes_on_where_it_was_left(groups, size, processes, start):
    for sampler in samplers(groups, size * processes, processes):
        sampler.set_epoch(2)
        whole = list(sampler)
        sampler.set_epoch(2, start)
        assert list(sampler) == whole[start:]


@settings(max_examples=40, deadline=None)
@given(domains, st.integers(1, 5))
def test_every_domain_is_gone_through_whole_before_it_begins_anew(groups, size):
    sampler = BalancedSampler(groups, 1, 0, size, seed=1)
    drawn = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
    for group in range(max(groups) + 1):
        members = [index for index, one in enumerate(groups) if one == group]
        mine = [index for index in drawn if groups[index] == group]
        rounds = [mine[at : at + len(members)] for at in range(0, len(mine) - len(members) + 1, len(members))]
        assert rounds and all(sorted(one) == members for one in rounds)


def test_orders_differ_by_seed_by_domain_and_by_time():
    groups = [0] * 50 + [1] * 50

    def orders(seed):
        drawn = list(BalancedSampler(groups, 1, 0, 10, ratio=2, seed=seed))
        of_domain = [[index % 50 for index in drawn if groups[index] == group] for group in (0, 1)]
        return [tuple(order[at : at + 50]) for order in of_domain for at in (0, 50)]

    assert len({*orders(0), *orders(1)}) == 8


def test_the_other_samplers_places():
    sampler = EnlargedSampler(range(7), 2, 1, ratio=2)
    sampler.set_epoch(0, 2)
    assert list(sampler.places()) == [5, 7, 9, 11, 13]
    assert [seed for _, seed in SeededSampler(sampler, 3)] == [(3, 0, place) for place in (5, 7, 9, 11, 13)]


def test_what_is_there_is_balanced():
    groups = [0, 2, 2]
    assert [groups[index] for index in BalancedSampler(groups, 1, 0, 4)] == [0, 2, 0, 2]
    with pytest.raises(ValueError, match='cannot sample from an empty dataset'):
        BalancedSampler([], 1, 0, 3)


class Grouped(Dataset):
    """Items that are their own index, of three domains."""

    groups = [0] * 2 + [1] * 5 + [2] * 20

    def __init__(self, balanced: bool = True):
        self.balanced = balanced

    def __len__(self):
        return len(self.groups)

    def __getitem__(self, index):
        return {'domain': self.groups[index], 'random': torch.rand(1)}


@pytest.fixture
def loader():
    DATASET_REGISTRY.register(Grouped, name='Grouped')
    opt = {'world_size': 1, 'rank': 0, 'num_gpu': 0, 'dist': False, 'manual_seed': 5}

    def make(accumulate=1, rank=0, world_size=1, **section):
        section = {'type': 'Grouped', 'phase': 'train', 'batch_size_per_gpu': 6, 'num_worker_per_gpu': 0, **section}
        return training_loader({**opt, 'rank': rank, 'world_size': world_size}, section, accumulate)

    yield make
    del DATASET_REGISTRY._objects['Grouped']


def test_training_batches_are_balanced(loader):
    batches, sampler = loader()
    assert isinstance(sampler, BalancedSampler) and len(batches) == 5
    assert all(batch['domain'].bincount().tolist() == [2, 2, 2] for batch in batches)
    assert all(batch['domain'].bincount().tolist() == [4, 4, 4] for batch in loader(accumulate=2)[0])


def test_processes_share_a_batch_and_its_random_numbers(loader):
    alone = list(loader()[0])
    shared = [list(loader(rank=rank, world_size=2, batch_size_per_gpu=3)[0]) for rank in (0, 1)]
    for whole, *pieces in zip(alone, *shared, strict=True):
        for key, value in whole.items():
            assert torch.equal(value, torch.cat([piece[key] for piece in pieces]))


def test_balancing_can_be_left_out(loader):
    _, sampler = loader(balanced=False)
    assert type(sampler) is EnlargedSampler


def test_too_few_samples_for_the_domains(loader, caplog):
    with caplog.at_level(logging.WARNING, 'basicsr'):
        loader(batch_size_per_gpu=2)
    assert 'datasets.train.batch_size_per_gpu: 2 samples cannot be of all 3 training domains' in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, 'basicsr'):
        loader(batch_size_per_gpu=3)
    assert not caplog.text


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_batches_of_val_and_test(phase):
    data = Grouped()
    assert build_dataloader(data, {'phase': phase, 'batch_size_per_gpu': 4}).batch_size == 1
    data.test_batch_size = 8
    assert build_dataloader(data, {'phase': phase, 'batch_size_per_gpu': 4}).batch_size == 4
    loader = build_dataloader(data, {'phase': phase})
    assert [len(batch['domain']) for batch in loader] == [8, 8, 8, 3]


@pytest.mark.parametrize('kind', [list, np.array, torch.tensor, 'names'])
def test_domains_may_be_numbers_of_any_kind_or_names(kind):
    numbers = [0, 0, 1, 1, 1, 2]
    groups = [f'domain {number}' for number in numbers] if kind == 'names' else kind(numbers)
    expected, found = (BalancedSampler(one, 1, 0, 3, 4, 1) for one in (numbers, groups))
    assert list(found) == list(expected)
    assert sorted(numbers[index] for index in list(found)[:3]) == [0, 1, 2]
