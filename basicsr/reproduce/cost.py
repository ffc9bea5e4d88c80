"""The cost of each variant: time and memory of a step, time of a test."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from basicsr.archs import build_network
from basicsr.models import build_model
from basicsr.options.resolve import dict2str, parse_options
from basicsr.reproduce.grid import Cell, Grid
from basicsr.results.tables import in_format
from basicsr.runs.measuring import machine, peak_extra_bytes, timed
from basicsr.utils.misc import write_text

ROOT = Path(__file__).resolve().parents[2]
_NOTE = (
    'Steps on random pictures of the size of the training patches, variants by turns of {period}; medians, and the '
    "spread between the fastest and the slowest turn. Ratios are medians of each turn's ratio. Memory is that of "
    'tensors: weights, moments, gradients, activations.'
)
Batch = dict[str, torch.Tensor]
_ALTERNATE_EVERY = 10


class _OneBatch:
    """A stand-in for a training loader, sufficient for scoring and batch statistics."""

    sampler = None

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch


def _batch(opt: dict) -> Batch:
    section = opt['datasets']['train']
    generator = torch.Generator().manual_seed(0)
    channels = opt['network_g'].get('in_chans') or opt['network_g'].get('num_in_ch') or 3
    sides = {'lq': section['gt_size'] // opt['scale'], 'gt': section['gt_size']}
    count = section['batch_size_per_gpu'] * (opt['train'].get('accumulate') or 1)
    return {key: torch.rand(count, channels, side, side, generator=generator) for key, side in sides.items()}


class _Trainer:
    """A variant's model, ready to step.

    Args:
        cell: The variant.
        folder: Folder for its files.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        weights, options = folder / 'weights.pth', folder / f'{cell.name}.yml'
        torch.save({'params': build_network(cell.train['network_g']).state_dict()}, weights)
        opt = {**cell.train, 'path': {'pretrain_network_g': str(weights), 'output_root': str(folder)}}
        if opt['model_type'] == 'LDTModel':
            ldt = {**(opt['train'].get('ldt') or {}), 'scoring_batches': 2}  # a layer with a single entry needs two
            opt['train'] = {**opt['train'], 'ldt': ldt}
        options.write_text(dict2str(opt))
        args = argparse.Namespace(opt=str(options), set=[], launcher='none')
        self.opt, _ = parse_options(str(ROOT), is_train=True, args=args)
        Path(self.opt['path']['experiments_root']).mkdir(parents=True, exist_ok=True)
        self.batch, self.iteration = _batch(self.opt), 0
        self.model: Any = build_model(self.opt)
        self.model.train_loader = _OneBatch(self.batch)
        self.model.before_training(self.model.train_loader)
        self.device = self.model.device.type

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.iteration += 1
            self.model.train_step(self.batch, self.iteration)

    def picture(self) -> torch.Tensor:
        return self.batch['lq'][:1].to(self.model.device)


def measure_cost(grid: Grid, command: str, repeats: int = 10) -> str:
    """Measure every variant of a grid; write `table.md` into its folder.

    Args:
        grid: The grid; only its first seed is used.
        command: Printed below the table.
        repeats: Number of turns.

    Returns:
        The table.
    """
    cells = {cell.variant: cell for cell in reversed(grid.cells)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        period = max(map(_period, cells.values()))
        peaks = {label: _peak(cells[label], folder, period) for label in grid.variants}
        trainers = {label: _Trainer(cells[label], folder) for label in grid.variants}
        device = next(iter(trainers.values())).device
        runs = {label: partial(one.steps, period) for label, one in trainers.items()}
        steps = _by_turns(runs, device, repeats, 'Step', period)
        with ExitStack() as stack, torch.no_grad():
            lent = {label: stack.enter_context(one.model.published()) for label, one in trainers.items()}
            runs = {label: partial(one.model.infer, lent[label], one.picture()) for label, one in trainers.items()}
            tests = _by_turns(runs, device, repeats, 'Test')
    rows = [
        [label, *_times(steps[label], steps[grid.baseline]), f'{peaks[label] / 1e6:.3g}',
         f'{peaks[label] / peaks[grid.baseline]:.2f}', *_times(tests[label], tests[grid.baseline])]
        for label in grid.variants
    ]  # fmt: skip
    titles = ['', 'step s', 'spread', 'ratio', 'peak MB', 'ratio', 'test s', 'spread', 'ratio']
    parts = [
        f'# {grid.title}',
        machine(device),
        in_format((titles, rows)),
        _NOTE.format(period=period),
        f'    {command}',
    ]
    text = '\n\n'.join(parts) + '\n'
    grid.folder.mkdir(parents=True, exist_ok=True)
    write_text(grid.folder / 'table.md', text)
    return text


def _period(cell: Cell) -> int:
    """Period, in steps, of the cost of a step: an alternating strategy switches twice per period."""
    section = cell.train['train'].get('ldt') or {}
    alternates = cell.train['model_type'] == 'LDTModel' and section.get('strategy') == 'alternating'
    return 2 * (section.get('alternate_every') or _ALTERNATE_EVERY) if alternates else 1


def _peak(cell: Cell, folder: Path, period: int) -> int:
    """Peak memory of a training's tensors in bytes, its network included."""

    def run() -> None:
        _Trainer(cell, folder).steps(period + 1)

    device = 'cuda' if torch.cuda.is_available() and cell.train.get('num_gpu') != 0 else 'cpu'
    return peak_extra_bytes(run, device)


def _by_turns(runs: dict[str, Any], device: str, repeats: int, title: str, per_call: int = 1) -> dict[str, list[float]]:
    """Seconds per step of each, taken in turns after one warm-up call each; a call runs `per_call` steps."""
    times: dict[str, list[float]] = {label: [] for label in runs}
    for run in runs.values():
        run()
    for _ in tqdm(range(repeats), desc=title, leave=False, disable=None):
        for label, run in runs.items():
            times[label].append(timed(run, device) / per_call)
    return times


def _times(times: list[float], base: list[float]) -> list[str]:
    ratios = [one / other for one, other in zip(times, base, strict=True)]
    return [f'{statistics.median(times):.3f}', f'{max(times) - min(times):.3f}', f'{statistics.median(ratios):.2f}']
