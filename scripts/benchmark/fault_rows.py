"""What the rows of the benchmark of faults share."""

from __future__ import annotations

import functools
import random
import time
from dataclasses import dataclass
from pathlib import Path

from basicsr.runs.measuring import line
from scripts.benchmark.trainings import finish, make_pictures, start, weights, write_options


@dataclass
class Bench:
    """Where faults happen, and what they are compared with.

    Attributes:
        folder: Everything is written here.
        random: Draws moments and places.
        kills, damages: How many faults of either kind a row has.
        fuzzed: How many damaged fields and bits.
    """

    folder: Path
    random: random.Random
    kills: int = 20
    damages: int = 200
    fuzzed: int = 300

    def __post_init__(self) -> None:
        make_pictures(self.folder)
        self.whole = functools.cache(self._whole)

    def _whole(self, processes: int = 1) -> tuple[dict[str, str], float]:
        """(digests of the weights, seconds) of a run that nothing interrupts: `experiments/whole<processes>`."""
        name, before = f'whole{processes}', time.monotonic()
        text = finish(run := start(write_options(self.folder, name), processes=processes))
        if run.returncode:
            raise RuntimeError(text)
        return weights(self.folder, name), time.monotonic() - before

    def newest_state(self) -> Path:
        """The last training state of the whole run of one process."""
        self.whole(1)
        states = (self.folder / 'experiments/whole1/training_states').glob('*.state')
        return max(states, key=lambda file: int(file.stem))

    def damaged(self, content: bytes, truncated: bool) -> bytes:
        """`content` without its end, or with another byte."""
        place = self.random.randrange(len(content))
        if truncated:
            return content[:place]
        return content[:place] + bytes([content[place] ^ self.random.randrange(1, 256)]) + content[place + 1 :]

    def row(self, fault: str, faults: int, survived: int, identical: str = '-', lost: int = 0) -> None:
        """Print a row of (fault, faults, survived, bit-identical, files lost)."""
        print(line([fault, str(faults), str(survived), identical, str(lost)]), flush=True)
