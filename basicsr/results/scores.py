"""The measurements of a test: networks on domains, sample by sample, and the file that stores them."""

from __future__ import annotations

import json
import math
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
"""By sample, then by metric."""


@dataclass
class Results:
    """Scores of networks on domains.

    Attributes:
        name: Name of the test.
        metrics: By name, which values are better: 'higher' or 'lower'.
        scores: By network, domain, sample and metric. All networks have the same domains and samples.
        seen: Domains that are trained on, which are left out of the average.
        domains: By domain, `images`: by sample, the paths `lq` and `gt`, or `path`, if known.
        main: The network under test; it is compared with each of the others.
        most: By name, the most that a value counts, of metrics that have such a bound: of a perfect picture.
        of_sets: By network, domain and metric, values of metrics that belong to a set as a whole, which samples have
            not; they have no intervals.
    """

    name: str
    metrics: dict[str, str]
    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    domains: dict[str, dict[str, dict[str, dict[str, str]]]] = field(default_factory=dict)
    main: str = ''
    most: dict[str, float] = field(default_factory=dict)
    of_sets: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

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
        """The metrics that all samples of `domains` have, or of all domains; without ground truth there are fewer."""
        domains, first = list(domains), self.networks[0]
        samples = [scores for domain in domains for scores in self.scores[first][domain].values()]
        found = all if everywhere else any
        return [
            metric
            for metric in self.metrics
            if samples
            and (
                found(metric in scores for scores in samples)
                or found(self._is_of_set(first, domain, metric) for domain in domains)
            )
        ]

    def _is_of_set(self, network: str, domain: str, metric: str) -> bool:
        return metric in self.of_sets.get(network, {}).get(domain, {})

    def is_of_sets(self, metric: str) -> bool:
        """Whether a metric has one value for each domain, and none for its samples."""
        return any(metric in values for domains in self.of_sets.values() for values in domains.values())

    def values(self, network: str, domain: str, metric: str) -> np.ndarray:
        """One number per sample, (n,), in the order of `domains`."""
        scores = self.scores[network][domain]
        return np.array([scores[sample][metric] for sample in self.domains[domain]['images']])

    def value(self, network: str, domain: str, metric: str) -> float:
        """The metric of a domain: the mean over its samples, or that of the set."""
        if self._is_of_set(network, domain, metric):
            return self.of_sets[network][domain][metric]
        return float(self.values(network, domain, metric).mean())

    def mean(self, network: str, domains: Iterable[str], metric: str) -> Estimate:
        """The average over `domains`, with an interval over their samples, where these have values of their own."""
        domains = list(domains)
        if self.is_of_sets(metric):
            return self._without_interval((self.value(network, domain, metric) for domain in domains), domains)
        return estimate(*(self.values(network, domain, metric) for domain in domains))

    def difference(self, network: str, other: str, domains: Iterable[str], metric: str) -> Estimate:
        """The same for the difference `network` minus `other` on each sample."""
        domains = list(domains)
        if self.is_of_sets(metric):
            found = (self.value(network, one, metric) - self.value(other, one, metric) for one in domains)
            return self._without_interval(found, domains)
        pairs = ((self.values(network, one, metric), self.values(other, one, metric)) for one in domains)
        return estimate(*(first - second for first, second in pairs))

    def _without_interval(self, values: Iterable[float], domains: list[str]) -> Estimate:
        count = sum(len(self.domains[domain]['images']) for domain in domains)
        return Estimate(float(np.mean(list(values))), math.nan, math.nan, count)

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
