"""Compares the cost of an LDT step with a fine-tuning step, and of scoring with its own passes, in one run.

    python scripts/benchmark/ldt_step.py [--network full] [--batch 1] [--size 48] [--device cuda] [--amp bf16]

Both are steps of the models that `Train_pip.py` trains, taken in turns so that a slow minute affects both. The
arithmetic lower bound is 5/3 if a forward pass, the gradients of activations and those of weights cost the same.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from tqdm import tqdm

import ldt
from basicsr.models import build_model
from basicsr.runs.measuring import line, machine, peak_extra_bytes, timed

NETWORKS = {
    'small': {'embed_dim': 60, 'depths': [6, 6, 6, 6], 'mlp_ratio': 1.2, 'upsampler': 'pixelshuffledirect'},
    'full': {'embed_dim': 180, 'depths': [6] * 6, 'mlp_ratio': 2.0, 'upsampler': 'pixelshuffle'},
}
MOST_TIME, MOST_MEMORY, MOST_ALTERNATING, MOST_SCORING = 1.70, 1.10, 1.05, 1.10


def options(model_type: str, args: argparse.Namespace, folder: str) -> dict:
    """Options as `parse_options` would return them for a training file."""
    train = {'total_iter': 10**6, 'optim_g': {'type': 'Adam', 'lr': 1e-4, 'betas': [0, 0.992]}, 'amp': args.amp}
    train['pixel_opt'] = {'type': 'L1Loss'}
    return {
        **{'name': 'cost', 'model_type': model_type, 'scale': 4, 'num_gpu': int(args.device == 'cuda')},
        **{'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1, 'manual_seed': 0},
        'network_g': {'type': 'MambaIR', 'upscale': 4, 'd_state': 16, **NETWORKS[args.network]},
        'path': {'experiments_root': folder},
        'train': train,
    }


def batch(args: argparse.Namespace, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = {'lq': args.size, 'gt': 4 * args.size}
    return {key: torch.rand(args.batch, 3, side, side, generator=generator) for key, side in sides.items()}


STEPS = {
    'fine-tuning step': ('SRModel', {}),
    'LDT step': ('LDTModel', {}),
    'LDT-S step': ('LDTModel', {'strategy': 'alternating', 'alternate_every': 4}),
    'LDT-S step and a switch': ('LDTModel', {'strategy': 'alternating', 'alternate_every': 1}),
}
"""Model and options of the method, by name. A step that is not a multiple of `alternate_every` ends no turn."""


def trainer(what: str, args: argparse.Namespace, folder: str):
    """A model; if its method splits layers, it does so by the scores of one batch."""
    model_type, section = STEPS[what]
    torch.manual_seed(0)
    opt = options(model_type, args, folder)
    opt['train']['ldt'] = {'scoring_batches': 1, **section} if model_type == 'LDTModel' else None
    model = build_model(opt)

    class Loader:
        sampler = None

        def __iter__(self):
            yield batch(args, 0)

    model.before_training(Loader())
    return model


def step(model, args: argparse.Namespace, number: int = 1) -> None:
    model.train_step(batch(args, number), number)


def in_turns(runs: list, args: argparse.Namespace, title: str) -> list[list[float]]:
    """Seconds of each, taken in turns after one warm-up call each."""
    times = [[] for _ in runs]
    for run in runs:
        run()
    for _ in tqdm(range(args.repeats), desc=title, leave=False, disable=None):
        for run, taken in zip(runs, times, strict=True):
            taken.append(timed(run, args.device))
    return times


def row(what: str, times: list[float], base: list[float], peak: float, base_peak: float) -> str:
    """Print a row of the table; the time ratio is the median of the pairs' ratios."""
    ratios = [one / other for one, other in zip(times, base, strict=True)]
    cells = [f'{statistics.median(times):.3f}', f'{max(times) - min(times):.3f}', f'{statistics.median(ratios):.2f}']
    return line([what, *cells, f'{peak / 1e6:.0f}', f'{peak / base_peak:.2f}'])


def step_peak(what: str, args: argparse.Namespace, folder: str) -> int:
    """Peak bytes of a training's tensors: weights, moments, gradients, activations.

    On the CPU, the waiting values of LDT-S count, too; on a GPU they are not in its memory.
    """

    def run() -> None:
        model = trainer(what, args, folder)
        for number in range(1, 4):
            step(model, args, number)

    return peak_extra_bytes(run, args.device)


def scoring(args: argparse.Namespace, folder: str) -> None:
    """Print the cost of scoring relative to plain passes over the same batches, and how its memory grows."""
    model = trainer('fine-tuning step', args, folder)
    net, few, many = model.net_g, args.scored, 4 * args.scored

    def loss_fn(net, pair):
        return (net(pair['lq'].to(args.device)) - pair['gt'].to(args.device)).abs().mean()

    def passes() -> None:
        net.train()
        for number in range(few):
            net.zero_grad(set_to_none=True)
            loss_fn(net, batch(args, number)).backward()
        net.zero_grad(set_to_none=True)

    def score(count: int) -> None:
        ldt.score_layers(net, (batch(args, number) for number in range(count)), loss_fn, count)

    plain, scored = in_turns([passes, lambda: score(few)], args, 'Score')
    peaks = [peak_extra_bytes(run, args.device) for run in (passes, lambda: score(few), lambda: score(many))]
    print(row(f'{few} batches forward and backward', plain, plain, peaks[0], peaks[0]))
    print(row(f'scoring {few} batches', scored, plain, peaks[1], peaks[0]))
    print(line([f'scoring {many} batches', '-', '-', '-', f'{peaks[2] / 1e6:.0f}', f'{peaks[2] / peaks[0]:.2f}']))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=list(NETWORKS), default='small')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=32, help='side of the low-quality picture')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--amp', choices=['bf16', 'fp16'])
    parser.add_argument('--repeats', type=int, default=10, help='number of steps to time')
    parser.add_argument('--scored', type=int, default=3, help='number of batches to score')
    args = parser.parse_args()
    print(machine(args.device))
    print(f'MambaIR x4, {args.network}, {args.batch} x {args.size} x {args.size}, {args.amp or "float32"}')
    print(
        f'Goals: LDT {MOST_TIME} x the time, {MOST_MEMORY} x the memory; LDT-S {MOST_ALTERNATING} x either; '
        f'scoring {MOST_SCORING} x its passes.'
    )
    print(line(['what', 'seconds', 'spread', 'ratio', 'peak tensor MB', 'ratio']))
    print(line(['---'] * 6))
    with tempfile.TemporaryDirectory() as folder:
        peaks = [step_peak(what, args, folder) for what in STEPS]
        models = [trainer(what, args, folder) for what in STEPS]
        times = in_turns([lambda model=model: step(model, args) for model in models], args, 'Step')
        for what, taken, peak in zip(STEPS, times, peaks, strict=True):
            print(row(what, taken, times[0], peak, peaks[0]), flush=True)
        del models
        scoring(args, folder)


if __name__ == '__main__':
    main()
