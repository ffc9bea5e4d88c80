"""A cell of a grid: one training and its tests."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

from basicsr.options.paths import missing_arguments, resolve_arguments
from basicsr.options.resolve import resolve_datasets

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder, to which paths in option files are relative."""


@dataclass(frozen=True)
class Cell:
    """One training and its tests.

    Attributes:
        name: Name of its files.
        variant, seed, domain: What identifies it in the grid; the domain is the one that is held out, or that is the
            single source, empty where the data is the same for all.
        train: Options of the training, without the test sets; empty if nothing is trained.
        test: Options of the test, but for the checkpoint.
        curve: Number of iterations at which the run is tested for the curve.
    """

    name: str
    variant: str
    seed: int
    train: dict = field(hash=False)
    test: dict = field(hash=False)
    domain: str = ''
    curve: int = 0

    @property
    def iterations(self) -> int:
        return self.train['train']['total_iter'] if self.train else 0

    @property
    def points(self) -> list[int]:
        """The iterations of the curve, see `curve_points`."""
        return curve_points(self.iterations, self.curve) if self.curve else []

    @property
    def curve_name(self) -> str:
        """Name of the files of the test for the curve."""
        return f'{self.name}_curve'

    def curve_test(self) -> dict:
        """Options of the test for the curve, but for the checkpoints: the test sets, and one at least that is seen.

        Where no test set is seen, the validation sets are: the samples of the training's own domains that select.
        """
        datasets = copy.deepcopy(self.test['datasets'])
        if not any(section.get('seen') for section in datasets.values()):
            names = {section.get('name') or phase for phase, section in datasets.items()}
            for phase, section in self.train['datasets'].items():
                if phase.split('_')[0] == 'val':
                    name = section.get('name') or phase
                    name = f'{name} (selection)' if name in names else name
                    datasets[f'test_{phase}'] = {**copy.deepcopy(section), 'name': name, 'seen': True}
        val = {**(self.test.get('val') or {}), 'save_img': False}
        return {**self.test, 'name': self.curve_name, 'val': val, 'datasets': datasets}

    def missing(self) -> list[str]:
        """Missing folders and files that the options name, each with its option."""
        opt = copy.deepcopy({**self.test, 'datasets': {**self.train.get('datasets', {}), **self.test['datasets']}})
        resolve_datasets(opt, ROOT)
        resolve_arguments({key: value for key, value in opt.items() if key != 'datasets'}, ROOT)
        weights = opt['path'].get('pretrain_network_g')
        absent = [f'path.pretrain_network_g: {weights}'] if weights and not (ROOT / weights).is_file() else []
        return [*missing_arguments(opt), *absent]


def curve_points(total: int, count: int) -> list[int]:
    """`count` evenly spaced iterations of a run of `total`, the last one among them; all of them if there are fewer.

    They are multiples of `curve_every`, but for the last, so that where `count` does not divide `total` they are the
    multiples that lie nearest.
    """
    every, count = curve_every(total, count), min(count, total)
    return [int(k * total / count / every + 0.5) * every for k in range(1, count)] + [total]


def curve_every(total: int, count: int) -> int:
    """Iterations between the checkpoints of which the curve takes its points."""
    return max(1, total // count)
