"""Data sets of classes in several domains: how they are recognised, and how many pictures they have."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

_LIKE_ENOUGH = 0.5
"""Share of the domains of both that a folder and a set must have in common."""


@dataclass(frozen=True)
class DomainSet:
    """A data set of several domains.

    Attributes:
        name: Its name.
        total: Pictures in all.
        domains: Pictures by domain, None where that is not known here.
        classes: Number of classes.
        aliases: Names that domains have in some archives.
    """

    name: str
    total: int
    domains: Mapping[str, int | None]
    classes: int
    aliases: Mapping[str, str] = field(default_factory=dict)

    def spelled(self, domain: str) -> str | None:
        """The set's name of a domain, whose spelling may differ in case, blanks and underscores; or None."""
        names = {_plain(name): name for name in self.domains}
        names |= {_plain(name): known for name, known in self.aliases.items()}
        return names.get(_plain(domain))

    def known(self, domain: str) -> int | None:
        """How many pictures a domain has, if that is known."""
        name = self.spelled(domain)
        return None if name is None else self.domains[name]


def _plain(name: str) -> str:
    return re.sub(r'[\W_]', '', name).casefold()


PACS = DomainSet('PACS', 9991, {'art_painting': 2048, 'cartoon': 2344, 'photo': 1670, 'sketch': 3929}, 7)
VLCS = DomainSet(
    'VLCS',
    10729,
    {'Caltech101': 1415, 'LabelMe': 2656, 'SUN09': 3282, 'VOC2007': 3376},
    5,
    {'Caltech': 'Caltech101', 'SUN': 'SUN09', 'PASCAL': 'VOC2007', 'VOC': 'VOC2007'},
)
OFFICE_HOME = DomainSet('OfficeHome', 15588, {'Art': 2427, 'Clipart': 4365, 'Product': 4439, 'Real World': 4357}, 65)
TERRA_INCOGNITA = DomainSet(
    'TerraIncognita',
    24788,
    dict.fromkeys(['location_38', 'location_43', 'location_46', 'location_100']),
    10,
    {'L38': 'location_38', 'L43': 'location_43', 'L46': 'location_46', 'L100': 'location_100'},
)
DOMAIN_NET = DomainSet(
    'DomainNet', 586575, dict.fromkeys(['clipart', 'infograph', 'painting', 'quickdraw', 'real', 'sketch']), 345
)
SETS = (PACS, VLCS, OFFICE_HOME, TERRA_INCOGNITA, DOMAIN_NET)


def recognise(domains: Collection[str]) -> DomainSet | None:
    """The set whose domains these are, most of them at least; None if there is none."""

    def likeness(one: DomainSet) -> float:
        common = {one.spelled(domain) for domain in domains} - {None}
        return len(common) / (len(one.domains) + len(domains) - len(common))

    best = max(SETS, key=likeness)
    return best if likeness(best) >= _LIKE_ENOUGH else None
