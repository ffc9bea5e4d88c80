"""Data of a grid from any folder of `<domain>/<class>/*`: which domains train, and which are tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from basicsr.data.domains import DomainFolder, choose_domains, read_domains
from basicsr.utils.registry import did_you_mean

SEEN = 'training domains'
"""Name of the test set of the training domains' held-out parts."""


def find_domains(data: Path) -> DomainFolder:
    """The archive in `data`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has fewer than two domains with pictures.
    """
    if not data.is_dir():
        raise FileNotFoundError(f'--data: there is no folder {data}')
    archive = read_domains(data, '--data')
    full = [domain for domain, classes in archive.domains.items() if classes]
    if len(full) < 2:
        raise ValueError(
            f'--data: {data} needs two domains or more, folders of <class>/*, to train on some and test on another; '
            f'found: {", ".join(full)}'
        )
    return archive


def domain_splits(
    data: Path, single_source: bool = False, chosen: Sequence[str] | None = None
) -> dict[str, dict[str, dict]]:
    """Data sets of a grid, for each domain that is held out, or, with a single source, trained on.

    Args:
        data: Folder of `<domain>/<class>/*`.
        single_source: Train on one domain and test on each of the others, instead of the reverse.
        chosen: The held-out domains, or the sources. Default: each domain.

    Returns:
        By domain, sections by name: `train`, `val`, `test_<domain>` for each that is not trained on, and `test_seen`,
        the held-out parts of those that are.

    Raises:
        FileNotFoundError, ValueError: There are no domains; a chosen one is none of them, or is there twice; or one
            cannot be held out of these: it has a class that no other has, say.
    """
    archive = find_domains(data)
    domains = [domain for domain, classes in archive.domains.items() if classes]
    for name in chosen or ():
        if name not in domains:
            near = did_you_mean(name, domains)
            raise ValueError(f'--domains: {data} has no domain {name!r}{near} There are {", ".join(domains)}')
        if list(chosen).count(name) > 1:
            raise ValueError(f'--domains: {name} is there twice')
    if SEEN in domains:
        raise ValueError(f'--data: a domain is called {SEEN!r}, as the column of the held-out parts; rename its folder')
    splits = {}
    for name in chosen or domains:
        others = [domain for domain in domains if domain != name]
        training, tested = ([name], others) if single_source else (others, [name])
        choose_domains(archive, training, tested)
        seen = {'dataroot': str(data), 'train_domains': training, 'test_domains': None}
        splits[name] = {
            'train': {**seen, 'name': 'train'},
            'val': {**seen, 'name': SEEN},
            **{
                f'test_{domain}': {'dataroot': str(data), 'train_domains': training, 'test_domains': [domain]}
                | {'name': domain}
                for domain in tested
            },
            f'test_seen{"_parts" * ("seen" in tested)}': {**seen, 'name': SEEN, 'seen': True},
        }
    return splits
