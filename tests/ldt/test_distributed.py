"""Processes that score a share of the batches each agree with one process that scores them all."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import ldt
from tests.recipe import FourConvs, fill, l1_loss, scoring_batches

CRITERIA = ('variance', 'mean', 'normalized_variance', 'between_sample_variance')


def score_share(rank: int, port: int, shares: list[list[int]], results) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=len(shares))
    batches = scoring_batches()
    own = [batches[index] for index in shares[rank]]
    net = fill(FourConvs(), 3)
    results[rank] = {criterion: ldt.score_layers(net, own, l1_loss, criterion=criterion) for criterion in CRITERIA}
    dist.destroy_process_group()


@pytest.mark.parametrize('shares', [[list(range(0, 12, 2)), list(range(1, 12, 2))], [[0, 1, 2], list(range(3, 12))]])
def test_two_processes_agree_with_one(shares):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(score_share, (port, shares, results), nprocs=2)
        first, second = results[0], results[1]
    net = fill(FourConvs(), 3)
    for criterion in CRITERIA:
        assert first[criterion] == second[criterion]
        alone = ldt.score_layers(net, scoring_batches(), l1_loss, criterion=criterion)
        assert first[criterion] == pytest.approx(alone, rel=1e-5)
        for ratio in (0.25, 0.5, 0.75):
            together = ldt.Partition.from_scores(first[criterion], ratio)
            apart = ldt.Partition.from_scores(alone, ratio)
            assert (together.stable, together.unstable) == (apart.stable, apart.unstable)
