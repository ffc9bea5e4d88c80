"""Faults of runs: killed, stopped, two by one name, workers killed, memory and disk full."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from importlib.util import find_spec

from tqdm import tqdm

from scripts.benchmark.fault_rows import Bench
from scripts.benchmark.trainings import (
    descendants,
    finish,
    kill_all,
    start,
    unreadable,
    weights,
    workers_of,
    write_options,
)


def _killed(bench: Bench, count: int, processes: int) -> None:
    """SIGKILL at random moments until `count` is reached; every run must end as if uninterrupted."""
    expected, taken = bench.whole(processes)
    done = survived = identical = runs = lost = 0
    progress = tqdm(total=count, desc=f'SIGKILL, {processes} processes', disable=None)
    while done < count:
        name, runs, went_on = f'killed{processes}_{runs}', runs + 1, True
        options = write_options(bench.folder, name)
        while went_on:
            process = start(options, '--auto_resume', processes=processes)
            if done < count:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(bench.random.uniform(0.2, 1.0) * taken)
                    went_on = False
                if went_on:
                    kill_all(process.pid)
                    process.communicate()
                    done += 1
                    progress.update()
                    lost += len(unreadable(bench.folder / 'experiments' / name))
                    continue
            text, went_on = finish(process), False
            survived += process.returncode == 0
            if process.returncode:
                print(text, file=sys.stderr)
            else:
                identical += weights(bench.folder, name) == expected
    what = f'SIGKILL at a random moment, {processes} process{"es" * (processes > 1)}'
    bench.row(what, done, done if survived == runs else 0, f'{identical} of {runs} runs', lost)


def kills(bench: Bench) -> None:
    """SIGKILL of runs of one process, and of half as many of two."""
    _killed(bench, bench.kills, 1)
    _killed(bench, bench.kills // 2, 2)


def signals(bench: Bench) -> None:
    """SIGINT, SIGTERM and SIGHUP: the run finishes the iteration, saves, and exits with the matching code."""
    expected, _ = bench.whole(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        name = number.name
        options = write_options(bench.folder, name, logger__save_checkpoint_freq=100)
        process = start(options)
        for text in process.stdout:
            if 'iter 9,' in text:
                break
        for process_id in descendants(process.pid):  # as a terminal and a cluster do
            os.kill(process_id, number)
        finish(process)
        stopped = process.returncode == 128 + number
        finish(again := start(options, '--auto_resume'))
        same = again.returncode == 0 and weights(bench.folder, name) == expected
        bench.row(f'{name} to all processes', 1, int(stopped), f'{int(same)} of 1 runs')


def same_name(bench: Bench) -> None:
    """A second run of a name, and one with --auto_resume, stop and say who runs; the first ends as if alone."""
    expected, _ = bench.whole(1)
    options, stopped = write_options(bench.folder, 'twice'), 0
    first = start(options)
    for text in first.stdout:
        if 'iter 3,' in text:
            break
    os.kill(first.pid, signal.SIGSTOP)  # lest it end before the others have come as far
    for more in ((), ('--auto_resume',)):
        text = finish(second := start(options, *more))
        stopped += second.returncode == 2 and f'is in use by process {first.pid} on' in text and 'Traceback' not in text
    os.kill(first.pid, signal.SIGCONT)
    finish(first)
    same = first.returncode == 0 and weights(bench.folder, 'twice') == expected
    lost = len(unreadable(bench.folder / 'experiments/twice'))
    bench.row('another run of the same name at once', 2, stopped, f'{int(same)} of 1 runs', lost)


def killed_workers(bench: Bench) -> None:
    """SIGKILL of a worker: the run is saved and ends with code 3, and goes on to the weights of a whole one."""
    (expected, _), count, survived, identical = bench.whole(1), max(1, bench.kills // 4), 0, 0
    for index in tqdm(range(count), desc='killed workers', disable=None):
        name = f'workerless_{index}'
        options = write_options(bench.folder, name, logger__save_checkpoint_freq=100)
        process, at = start(options), 10 * bench.random.randrange(3) + bench.random.randrange(1, 7)
        for text in process.stdout:  # the last of the ten batches of an epoch need no worker any more
            if f'iter {at},' in text:
                os.kill(bench.random.choice(workers_of(process.pid)), signal.SIGKILL)
                break
        saved = 'Saved at iteration ' in finish(process)
        survived += process.returncode == 0 or (saved and process.returncode == 3)  # 0: it was needed no more
        finish(again := start(options, '--auto_resume'))
        identical += again.returncode == 0 and weights(bench.folder, name) == expected
    bench.row('SIGKILL of a worker of a data loader', count, survived, f'{identical} of {count} runs')


def full_shared_memory(bench: Bench) -> None:
    """A /dev/shm of 32 KB, which only root can give a process: the run is saved and ends with code 3."""
    small = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o size=32k tmpfs /dev/shm && exec "$@"', 'sh']
    if subprocess.run([*small, 'true'], capture_output=True).returncode:
        sys.stderr.write('full /dev/shm: left out, since only root can make one\n')
        return
    options = write_options(bench.folder, 'cramped', datasets__train__batch_size_per_gpu=8)
    text = finish(process := start(options, before=small))
    survived = process.returncode == 3 and '--shm-size' in text and 'Traceback' not in text
    bench.row('full /dev/shm', 1, int(survived), '-', len(unreadable(bench.folder / 'experiments/cramped')))


def full_disk(bench: Bench) -> None:
    """A disk with room for few checkpoints: the run reports it and continues, and earlier files stay intact.

    All that is written beside checkpoints is on (wandb where it is installed), and must not end the run.
    """
    disk = bench.folder / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(disk)], stderr=subprocess.DEVNULL
    ).returncode == 0  # fmt: skip
    try:
        beside = {'logger__use_tb_logger': True, 'val__save_img': True}
        if find_spec('wandb'):
            beside['logger__wandb'] = {'project': 'faults'}
        options = write_options(bench.folder, 'full', path__output_root=str(disk), **beside)
        limit = {} if mounted else {'preexec_fn': lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2)}
        text = finish(process := start(options, **limit))
        said = text.count('The run goes on; what was saved before is as it was')
        went_on = 'iter 30,' in text and process.returncode in (0, 2) and 'Traceback' not in text
        what = 'full tmpfs' if mounted else 'limited file size'
        bench.row(f'{what}, checkpoints that did not fit', said, said * went_on, '-', len(unreadable(disk)))
        beside = text.count('The run goes on without it')
        bench.row(f'{what}, others that did not fit', beside, beside * went_on)
    finally:
        if mounted:
            subprocess.run(['umount', str(disk)], check=True)
