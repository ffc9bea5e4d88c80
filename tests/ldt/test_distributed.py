"""Processes that score a share of the batches each agree with one process that scores them all."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import ldt
from ldt import criteria
from tests.ldt.own_criterion import MeanAbsoluteGradient
from tests.recipe import FourConvs, fill, l1_loss, scoring_batches

CASES = [
    (name, granularity) for name in (*ldt.CRITERIA, MeanAbsoluteGradient.name) for granularity in ldt.GRANULARITIES
]
SHARES = {
    'equal': [list(range(0, 12, 2)), list(range(1, 12, 2))],
    'unequal': [[0, 1, 2], list(range(3, 12))],
    'one has none': [[], list(range(12))],
}


def scored(batches: list) -> dict[tuple[str, str], dict[str, float]]:
    net = fill(FourConvs(), 3)
    return {
        (name, granularity): ldt.score_layers(net, batches, l1_loss, criterion=name, granularity=granularity)
        for name, granularity in CASES
    }


def score_share(rank: int, port: int, shares: list[list[int]], results) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=len(shares))
    ldt.register_criterion(MeanAbsoluteGradient)
    batches = [scoring_batches()[index] for index in shares[rank]]
    wrapped = DistributedDataParallel(fill(FourConvs(), 3))
    results[rank] = {**scored(batches), 'wrapped': ldt.score_layers(wrapped, batches, l1_loss)}
    assert_refused(wrapped, batches)
    dist.destroy_process_group()


def assert_refused(wrapped, batches) -> None:
    partition = ldt.Partition.from_prefixes(wrapped, 'tail')
    for call in (
        lambda: ldt.GradientStatistics(wrapped),
        lambda: ldt.score_layers(torch.nn.Sequential(wrapped), batches, l1_loss),
        lambda: ldt.LayerDecomposition(wrapped, partition, ldt.fixed_decay(partition)),
        lambda: ldt.AlternatingDecomposition(wrapped, partition, ldt.fixed_decay(partition)),
    ):
        with pytest.raises(ValueError, match=r'is a DistributedDataParallel, which averages.*network inside'):
            call()


@pytest.fixture(scope='module')
def alone():
    ldt.register_criterion(MeanAbsoluteGradient)
    yield scored(scoring_batches())
    del criteria._registered[MeanAbsoluteGradient.name]


@pytest.fixture(scope='module', params=SHARES.values(), ids=SHARES)
def together(request):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(score_share, (port, request.param, results), nprocs=2)
        return results[0], results[1]


@pytest.mark.parametrize(('name', 'granularity'), CASES)
def test_two_processes_agree_with_one(together, alone, name, granularity):
    (first, second), expected = (results[name, granularity] for results in together), alone[name, granularity]
    assert first == second, f'the processes disagree: look at all_reduce of {name}'
    assert list(first) == list(expected)
    assert first == pytest.approx(expected, rel=1e-5)
    layers = ldt.layers_of(FourConvs(), 'module') if granularity == 'module' else None
    for ratio in (0.25, 0.5, 0.75):
        both, one = (ldt.Partition.from_scores(scores, ratio, name, layers) for scores in (first, expected))
        assert (both.stable, both.unstable) == (one.stable, one.unstable)


def test_what_is_inside_distributed_data_parallel_is_scored(together, alone):
    """Gradients that are averaged over the processes would vary less."""
    first, second = (results['wrapped'] for results in together)
    assert first == second == together[0]['variance', 'parameter']
    assert first == pytest.approx(alone['variance', 'parameter'], rel=1e-5)
