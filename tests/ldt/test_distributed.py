"""Processes that score a share of the batches each agree with one process that scores them all."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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
    batches = scoring_batches()
    results[rank] = scored([batches[index] for index in shares[rank]])
    dist.destroy_process_group()


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
