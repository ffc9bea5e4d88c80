"""Kills real training runs, fills a disk, damages checkpoints and pictures, and prints the outcome.

python scripts/benchmark/faults.py [--only FAULT …] [--kills 20] [--damages 200] [--fuzzed 300] [--seed 0]

Everything happens in a temporary folder; runs are killed after three minutes. The disk is a tmpfs, which only root can
mount; otherwise a limit on file sizes replaces it. libpng's complaints about the pictures go to stderr.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch

from basicsr.runs.measuring import line, machine
from scripts.benchmark import fault_files, fault_processes
from scripts.benchmark.fault_rows import Bench

FAULTS = {
    fault.__name__: fault
    for fault in (
        fault_processes.kills,
        fault_processes.signals,
        fault_processes.same_name,
        fault_processes.killed_workers,
        fault_processes.full_shared_memory,
        fault_processes.full_disk,
        fault_files.damaged_checkpoints,
        fault_files.fuzzed_checkpoints,
        fault_files.damaged_pictures,
        fault_files.not_finite,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--only', nargs='+', choices=FAULTS, default=list(FAULTS), metavar='FAULT', help=', '.join(FAULTS)
    )
    parser.add_argument('--kills', type=int, default=20, help='in runs of one process; half as many with two')
    parser.add_argument('--damages', type=int, default=200, help='damaged checkpoints, and as many damaged pictures')
    parser.add_argument('--fuzzed', type=int, default=300, help='bits and fields of a checkpoint and of a state')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random moments and places')
    args = parser.parse_args()
    print(machine('cpu'))
    print(line(['fault', 'faults', 'survived', 'bit-identical', 'files lost']))
    print(line(['---'] * 5))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix='faults_') as folder:
        bench = Bench(Path(folder), random.Random(args.seed), args.kills, args.damages, args.fuzzed)
        for name in args.only:
            FAULTS[name](bench)


if __name__ == '__main__':
    main()
