"""The measurements of a test: networks on domains, picture by picture, and the file that stores them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from basicsr.metrics import perfect_in_words
from basicsr.metrics.psnr_ssim import PERFECT
from basicsr.results.statistics import Estimate, estimate
from basicsr.utils.misc import write_text

FILE = 'results.json'

Scores = dict[str, dict[str, float]]
"""By picture, then by metric."""


@dataclass
class Results:
    """Scores of networks on domains.

    Attributes:
        name: Name of the test.
        metrics: By name, which values are better: 'higher' or 'lower'.
        scores: By network, domain, picture and metric. All networks have the same domains and pictures.
        seen: Domains of the training camera, which are left out of the average.
        domains: By domain, `images`: by picture, the paths `lq` and `gt`, if known.
        main: The network under test; it is compared with each of the others.
        most: By name, the most that a value counts, of metrics that have such a bound: of a perfect picture.
    """

    name: str
    metrics: dict[str, str]
    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    domains: dict[str, dict[str, dict[str, dict[str, str]]]] = field(default_factory=dict)
    main: str = ''
    most: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.main = self.main or (self.networks[-1] if self.scores else '')

    @property
    def networks(self) -> list[str]:
        return list(self.scores)

    @property
    def others(self) -> list[str]:
        return [network for network in self.networks if network != self.main]

    @property
    def unseen(self) -> list[str]:
        return [domain for domain in self.domains if domain not in self.seen]

    def measured(self, domains: Iterable[str], everywhere: bool = True) -> list[str]:
        """The metrics that all pictures of `domains` have, or of all domains; without ground truth there are fewer."""
        pictures = [scores for domain in domains for scores in self.scores[self.networks[0]][domain].values()]
        found = all if everywhere else any
        return [metric for metric in self.metrics if pictures and found(metric in scores for scores in pictures)]

    def values(self, network: str, domain: str, metric: str) -> np.ndarray:
        """One number per picture, (n,), in the order of `domains`."""
        scores = self.scores[network][domain]
        return np.array([scores[picture][metric] for picture in self.domains[domain]['images']])

    def mean(self, network: str, domains: Iterable[str], metric: str) -> Estimate:
        """The average over `domains`, with an interval over their pictures."""
        return estimate(*(self.values(network, domain, metric) for domain in domains))

    def difference(self, network: str, other: str, domains: Iterable[str], metric: str) -> Estimate:
        """The same for the difference `network` minus `other` on each picture."""
        pairs = ((self.values(network, one, metric), self.values(other, one, metric)) for one in domains)
        return estimate(*(first - second for first, second in pairs))

    def perfect(self) -> list[str]:
        """For each metric, network and domain where pictures are perfect, a line that counts them."""
        lines = []
        for metric, most in self.most.items():
            for network, domains in self.scores.items():
                for domain, pictures in domains.items():
                    values = [scores[metric] for scores in pictures.values() if metric in scores]
                    if found := perfect_in_words(values, most):
                        lines.append(f'{metric} of {network} on {domain}: {found}.')
        return lines

    def save(self, folder: str | os.PathLike) -> None:
        """Write `results.json`.

        Raises:
            ValueError: A score is NaN or infinite, which JSON has no number for.
        """
        content = {**asdict(self), 'networks': self.networks}
        write_text(Path(folder) / FILE, json.dumps(content, indent=1, allow_nan=False) + '\n')

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Results:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no `results.json` in `folder`.
            ValueError: The file does not hold results.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(f'there is no {path}; basicsr/test.py and the end of a training write it')
        try:
            # Files of earlier versions hold `Infinity`, the PSNR of a perfect picture.
            content = json.loads(path.read_text(encoding='utf-8'), parse_constant={'Infinity': PERFECT}.__getitem__)
            del content['networks']
            return cls(**content)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{path} holds no results of a test: {error}') from error
