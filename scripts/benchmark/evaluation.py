"""Compares the time of a test with that of the network alone: reading, scoring and writing overlap with it.

    python scripts/benchmark/evaluation.py [--network full] [--size 128] [--pictures 4] [--device cuda] [--save_img]

The network alone runs on pictures in memory. The two are timed in turns, so that a slow minute affects both.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import torch
from ldt_step import NETWORKS

from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.runs.measuring import line, machine, timed

METRIC = {'crop_border': 4, 'test_y_channel': True}


def pairs(folder: str, size: int, count: int) -> dict:
    """Write pairs x4 with lq of `size` pixels; returns the section of their data set."""
    rng = np.random.default_rng(0)
    for name, side in (('LR', size), ('HR', 4 * size)):
        (Path(folder) / name).mkdir()
        for index in range(count):
            cv2.imwrite(f'{folder}/{name}/{index}.png', rng.integers(0, 256, (side, side, 3)).astype(np.uint8))
    roots = {'dataroot_lq': f'{folder}/LR', 'dataroot_gt': f'{folder}/HR'}
    return {'name': 'noise', 'type': 'PairedImageDataset', 'phase': 'test', 'scale': 4, **roots}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=list(NETWORKS), default='full')
    parser.add_argument('--size', type=int, default=128, help='side of lq in pixels')
    parser.add_argument('--pictures', type=int, default=4, help='pictures of a test')
    parser.add_argument('--rounds', type=int, default=3, help='how many times each is timed')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--save_img', action='store_true', help='also write the pictures')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        section = pairs(folder, args.size, args.pictures)
        opt = {
            **{'name': 'benchmark', 'model_type': 'MambaIRModel', 'scale': 4, 'is_train': False, 'dist': False},
            **{'num_gpu': int(args.device == 'cuda'), 'rank': 0, 'path': {'visualization': f'{folder}/out'}},
            'network_g': {'type': 'MambaIR', 'upscale': 4, **NETWORKS[args.network]},
            'val': {'metrics': {n: {'type': f'calculate_{n}', **METRIC} for n in ('psnr', 'ssim')}, 'pbar': False},
        }
        model = build_model(opt)
        loader = build_dataloader(build_dataset(section), section)
        inputs = [loader.dataset[index]['lq'][None].to(model.device) for index in range(args.pictures)]

        def alone() -> None:
            with torch.no_grad(), model.published() as net:
                for lq in inputs:
                    net(lq)

        def test() -> None:
            model.validation(loader, 'benchmark', None, args.save_img)

        alone()
        times: dict[str, list[float]] = {'network alone': [], 'test': []}
        for _ in range(args.rounds):
            for name, run in (('network alone', alone), ('test', test)):
                times[name].append(timed(run, args.device) / args.pictures)
    print(machine(args.device))
    print(f'MambaIR x4, {args.network}, {args.pictures} pictures of {args.size} x {args.size}, PSNR and SSIM.')
    print(line(['what', 'seconds a picture', 'spread', 'ratio']))
    print(line(['---'] * 4))
    base = statistics.median(times['network alone'])
    for name, values in times.items():
        middle = statistics.median(values)
        print(line([name, f'{middle:.3f}', f'{max(values) - min(values):.3f}', f'{middle / base:.3f}']))


if __name__ == '__main__':
    main()
