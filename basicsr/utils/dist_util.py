"""Distributed training, based on the environment that `torchrun` or Slurm sets."""

from __future__ import annotations

import atexit
import datetime
import functools
import gc
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.distributed as dist

TO_SPEAK = 5
"""Seconds that the others leave to the process that tells of an error: torchrun ends all of them with the first."""


def default_launcher() -> str:
    """`pytorch` if torchrun started this process, else `none`."""
    return 'pytorch' if 'TORCHELASTIC_RUN_ID' in os.environ else 'none'


def init_dist(launcher: str, backend: str = 'nccl', port: int | None = None, timeout: float = 1800, **kwargs) -> None:
    """Join the group of processes that `launcher` started; do nothing if already joined.

    Args:
        launcher: `pytorch` (torchrun) or `slurm`.
        backend: `nccl`, which needs one GPU per process and falls back to `gloo` without one, or `gloo`.
        port: Port of the rank 0 process, for Slurm; torchrun sets its own.
        timeout: Seconds that a process waits for the others before it gives up.
        **kwargs: Further arguments of `torch.distributed.init_process_group`.

    Raises:
        ValueError: Another launcher, or the launcher's environment variables are missing.
    """
    if dist.is_available() and dist.is_initialized():
        return
    if launcher == 'slurm':
        _environment_from_slurm(port)
    elif launcher != 'pytorch':
        raise ValueError(f'launcher is none, pytorch or slurm, not {launcher!r}')
    if 'RANK' not in os.environ:
        raise ValueError(
            '--launcher pytorch needs torchrun: torchrun --nproc_per_node=2 Train_pip.py --launcher pytorch …'
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count())
    elif backend == 'nccl':
        backend = 'gloo'
    dist.init_process_group(backend=backend, timeout=datetime.timedelta(seconds=timeout), **kwargs)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        gc.collect()  # what wraps networks must not outlive the group that it talks to
        dist.destroy_process_group()


def broadcast(value: Any) -> Any:
    """The `value` of rank 0, in every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def all_gather(value: Any) -> list[Any]:
    """Every process's `value`, by rank, in every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def highest(value: int) -> int:
    """The highest `value` of all processes, in every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    tensor = torch.tensor(value, device='cuda' if dist.get_backend() == 'nccl' else 'cpu')
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def raise_once(error: Exception) -> NoReturn:
    """End all processes for the same error, of which the first one tells; every process must call this."""
    if get_dist_info()[0] > 0:
        time.sleep(TO_SPEAK)
        raise SystemExit(2)
    raise error


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _environment_from_slurm(port: int | None) -> None:
    if 'SLURM_PROCID' not in os.environ:
        raise ValueError('--launcher slurm needs the environment of srun: SLURM_PROCID is not set')
    nodes = os.environ['SLURM_NODELIST']
    first = subprocess.run(['scontrol', 'show', 'hostname', nodes], capture_output=True, text=True, check=True)
    os.environ.setdefault('MASTER_ADDR', first.stdout.split()[0])
    os.environ.setdefault('MASTER_PORT', str(port or 29500))
    os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
    os.environ['RANK'] = os.environ['SLURM_PROCID']
    os.environ['LOCAL_RANK'] = os.environ.get('SLURM_LOCALID', '0')


def get_dist_info() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) without distribution."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def master_only(func: Callable) -> Callable:
    """Run `func` on rank 0 only; it returns None elsewhere."""

    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs) if get_dist_info()[0] == 0 else None

    return wrapper
