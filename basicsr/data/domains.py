"""Archives of classes in several domains, `<domain>/<class>/<picture>`: what is in them, and how domains are split."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from basicsr.data.data_util import check_folder, listed
from basicsr.data.names import CLASSIFIED_EXTENSIONS, OTHER_PICTURES
from basicsr.utils.misc import file_fault, scandir
from basicsr.utils.registry import did_you_mean

SPLITS = {'train', 'crossval', 'val', 'validation', 'test', 'full'}
"""Names of folders between domain and class, as in the full archive of VLCS."""
_WHOLE = 'full'
_NO_DOMAINS = {'__MACOSX', 'lost+found'}


class Picture(NamedTuple):
    """A file of an archive.

    Attributes:
        path: Where it is.
        name: `<domain>/<class>/<rest of the path>`, in one Unicode normalisation, and without folders above or between
            that belong to the archive's packaging: the same on every machine.
    """

    path: str
    name: str


@dataclass
class DomainFolder:
    """The contents of an archive.

    Attributes:
        root: The folder of the domains: that which was given, or one below it.
        domains: By domain, by class, the pictures, all in the order of names. Classes without pictures are not in it.
        others: By domain, files that are no pictures or belong to no class.
        empty: By domain, class folders without pictures.
        notes: How it differs from the plain layout, for the log.
    """

    root: str
    domains: dict[str, dict[str, list[Picture]]] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    empty: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The names of all classes that any domain has, sorted."""
        return sorted({name for classes in self.domains.values() for name in classes})


def read_domains(root: str | os.PathLike[str], option: str = 'dataroot') -> DomainFolder:
    """Read the names of an archive's files.

    Links are followed, hidden files are skipped. Folders below a class belong to it. Two oddities of packaging are
    seen through: one folder above the domains (`PACS/kfold/<domain>`), and splits between domain and class
    (`VLCS/<domain>/{full,train,…}/<class>`), of which `full` is read where it is there, or else all of them.

    Args:
        root: The folder.
        option: What names it, for errors.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no domains, or names of classes that differ in nothing but upper and lower case.
    """
    check_folder(root, option)
    archive = DomainFolder(_folder_of_the_domains(os.fspath(root)))
    if archive.root != os.fspath(root):
        archive.notes.append(f'the domains are in {archive.root!r}')
    for domain in _folders(archive.root):
        _read_domain(archive, domain)
    if not any(archive.domains.values()):
        raise ValueError(f'{option}: {_why_no_domains(archive)}')
    _check_spellings(archive, option)
    return archive


def _folders(folder: str) -> list[str]:
    """Names of the folders in a folder, and of links that lead nowhere, sorted."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith('.') and entry.name not in _NO_DOMAINS]
    return sorted(
        name for name in names if os.path.isdir(path := os.path.join(folder, name)) or not os.path.exists(path)
    )


def _folder_of_the_domains(root: str) -> str:
    """`root`, or the only folder in it where that is what holds domains: folders that share names of classes."""
    names = _folders(root)
    if len(names) != 1 or not os.path.isdir(below := os.path.join(root, names[0])):
        return root
    inner = [os.path.join(below, name) for name in _folders(below)]
    inner = [folder for folder in inner if os.path.isdir(folder)]
    shared = [set(_folders(folder)) for folder in inner]
    directly = any(_is_picture(name) for folder in inner for name in islice(scandir(folder), 99))
    if len(inner) < 2 or directly or len(set.intersection(*shared)) < 2:
        return root
    return below


def _is_picture(name: str) -> bool:
    return name.lower().endswith(CLASSIFIED_EXTENSIONS)


def _read_domain(archive: DomainFolder, domain: str) -> None:
    """Add a domain to the archive, with whatever pictures it has."""
    folder = os.path.join(archive.root, domain)
    if not os.path.isdir(folder):
        archive.notes.append(f'{folder!r} is {file_fault(folder)}')
        return
    if os.path.islink(folder) and Path(archive.root).resolve().is_relative_to(Path(folder).resolve()):
        archive.notes.append(f'{folder!r} links to a folder that it lies in: not read')
        return
    found = [name.split(os.sep) for name in scandir(folder, recursive=True)]
    pictures = [parts for parts in found if len(parts) > 1 and _is_picture(parts[-1])]
    archive.others[domain] = ['/'.join(parts) for parts in found if len(parts) == 1 or not _is_picture(parts[-1])]
    splits, skipped = {parts[0] for parts in pictures}, 0
    if splits and splits <= SPLITS and all(len(parts) > 2 for parts in pictures):
        read = {_WHOLE} if _WHOLE in splits else splits
        pictures, skipped = [parts for parts in pictures if parts[0] in read], 1
        archive.notes.append(f'{domain} has splits of its own, of which {", ".join(sorted(read))} is read as one')
    classes: dict[str, list[Picture]] = {}
    for parts in pictures:
        name = unicodedata.normalize('NFC', '/'.join([domain, parts[skipped], *parts[:skipped], *parts[skipped + 1 :]]))
        classes.setdefault(parts[skipped], []).append(Picture(os.path.join(folder, *parts), name))
    archive.domains[domain] = {name: sorted(classes[name], key=lambda one: one.name) for name in sorted(classes)}
    archive.empty[domain] = [] if skipped else [name for name in _folders(folder) if name not in classes]


def _why_no_domains(archive: DomainFolder) -> str:
    expected = f'{archive.root!r} (absolute path: {os.path.abspath(archive.root)}) should hold <domain>/<class>/<file>'
    direct = [domain for domain, names in archive.others.items() if any(map(_is_picture, names))]
    if direct:
        return (
            f'{expected}, but its folders, such as {direct[0]!r}, hold pictures themselves: it is one domain, or one '
            'class too few; give the folder above'
        )
    if archive.domains:
        return f'{expected}, but no picture is in its folders {", ".join(archive.domains)}'
    return f'{expected}, but has no folders; give the one into which the archive was unpacked'


def _check_spellings(archive: DomainFolder, option: str) -> None:
    known: dict[str, tuple[str, str]] = {}
    for domain, classes in archive.domains.items():
        for name in classes:
            spelled = unicodedata.normalize('NFC', name).casefold()
            other, elsewhere = known.setdefault(spelled, (name, domain))
            if other != name:
                raise ValueError(
                    f'{option}: the classes {other!r} of {elsewhere} and {name!r} of {domain} differ in upper and '
                    'lower case or in the bytes of accents alone, so that one class would count as two; rename one'
                )


# Which domains, and which of their pictures


class Domains(NamedTuple):
    """The domains of a training, and those that it never sees."""

    train: list[str]
    test: list[str]


def choose_domains(
    archive: DomainFolder, train: Sequence[str] | str | None, test: Sequence[str] | str | None
) -> Domains:
    """Look up the domains that options name; training domains default to all that are not for tests.

    Raises:
        ValueError: A domain is not there, has no pictures, or has one class alone; or training domains lack a class
            that those for tests have.
    """
    tested = _known(archive, 'test_domains', names_in(test))
    full = [domain for domain, classes in archive.domains.items() if classes]
    trained = _known(archive, 'train_domains', names_in(train)) or [name for name in full if name not in tested]
    known = {name for domain in trained for name in archive.domains[domain]}
    for domain in tested if trained else []:
        lacking = [name for name in archive.domains[domain] if name not in known]
        if lacking:
            raise ValueError(
                f'{listed(f"classes of the test domain {domain!r} are in no training domain", lacking)} (training '
                f'domains: {", ".join(trained)}); a network cannot learn them: add a training domain, or remove these'
            )
    return Domains(trained, tested)


def names_in(names: Sequence[str] | str | None) -> list[str]:
    """The domains of an option: one, several, or none."""
    return [names] if isinstance(names, str) else list(names or [])


def _known(archive: DomainFolder, option: str, names: list[str]) -> list[str]:
    for name in names:
        there = ', '.join(domain for domain, classes in archive.domains.items() if classes)
        if name not in archive.domains:
            fault = file_fault(os.path.join(archive.root, name))
            why = f' ({fault})' if fault not in ('', 'absent', 'a folder') else ''
            near = did_you_mean(name, archive.domains)
            raise ValueError(f'{option}: no domain is called {name!r}{why}{near} In {archive.root!r} are {there}')
        classes = archive.domains[name]
        if not classes:
            raise ValueError(
                f'{option}: the domain {name!r} has no picture below its classes, in '
                f'{os.path.join(archive.root, name)!r}; with pictures are {there}'
            )
        if len(classes) == 1 and len(archive.classes) > 1:
            raise ValueError(
                f'{option}: the domain {name!r} has pictures of one class alone, {next(iter(classes))!r}, of the '
                f'{len(archive.classes)} of {archive.root!r}; unpack the rest, or leave it out'
            )
    return names


def split(pictures: Sequence[Picture], held_out: float, seed: int) -> tuple[list[Picture], list[Picture]]:
    """Split one class of one domain in (training, held-out) pictures.

    Each picture gets a number that is a function of its name and the seed; those with the lowest are held out. So
    the split does not depend on the machine, on the order in which files are listed, or on other domains.

    Args:
        pictures: All pictures of the class.
        held_out: The share to hold out. Of two pictures or more at least one is on either side.
        seed: Another seed gives another split.
    """
    count = min(max(round(len(pictures) * held_out), 1), len(pictures) - 1)
    order = sorted(pictures, key=lambda one: blake2b(f'{seed}/{one.name}'.encode(errors='surrogateescape')).digest())
    out = set(order[:count])
    return [one for one in pictures if one not in out], [one for one in pictures if one in out]


def unique_names(names: Sequence[str]) -> list[str]:
    """Names without extensions, which are kept where names would be the same without them."""
    stems = [os.path.splitext(name)[0] for name in names]
    seen: dict[str, int] = {}
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
    return [stem if seen[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]


def doubts(archive: DomainFolder, chosen: Collection[str]) -> Iterator[str]:
    """What is allowed in these domains, and worth a warning."""
    classes = archive.classes
    for domain in chosen:
        empty = archive.empty[domain]
        if lacking := [name for name in classes if name not in archive.domains[domain] and name not in empty]:
            yield listed(f'classes are not in the domain {domain!r}', lacking)
        if empty:
            yield listed(f'class folders of the domain {domain!r} hold no pictures', empty)
        unread = [name for name in archive.others[domain] if name.lower().endswith(OTHER_PICTURES)
                  and not _is_picture(name)]  # fmt: skip
        if unread:
            yield listed(f'files of the domain {domain!r} are left out, whose formats are not read', unread)
        if others := [name for name in archive.others[domain] if name not in unread]:
            yield listed(f'files of the domain {domain!r} are ignored: no pictures, or in no class', others)
