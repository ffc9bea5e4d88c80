"""The command that looks at an archive of domains, scripts/data_preparation/prepare_domains.py."""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from basicsr.data.archives.domain_sets import DomainSet, recognise
from basicsr.data.archives.linked_tree import lay_out
from basicsr.data.archives.preparation import ending_in_one_line
from basicsr.data.decoding import read_rgb
from basicsr.data.domains import DomainFolder, Picture, doubts, read_domains
from basicsr.runs.threads import in_threads
from basicsr.utils.misc import read_file, write_text

FAULTS = {
    'unreadable': 'files that are not complete pictures',
    'leak': 'pictures that are in several domains: of each, all but the first',
    'label': 'pictures that are in several classes: all of them',
    'copy': 'pictures that are several times in a class: of each, all but the first',
}
"""What can be left out of a tree, by the word that does so."""
_SHOWN = 10
_DEFAULT_BATCH = 32
"""Samples of each domain in a batch, as in DomainBed."""


@dataclass
class Findings:
    """What is in an archive, and what is wrong with it.

    Attributes:
        archive: The names of its files.
        known: The data set that it is, or None.
        broken: By name, why a picture cannot be read.
        same: Names of pictures that are the same, byte by byte, more than one in each entry.
    """

    archive: DomainFolder
    known: DomainSet | None
    broken: dict[str, str] = field(default_factory=dict)
    same: list[list[str]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures by domain and class, of domains that have any."""
        domains = self.archive.domains.items()
        return {domain: {name: len(found) for name, found in one.items()} for domain, one in domains if one}

    @property
    def repeated(self) -> dict[str, list[list[str]]]:
        """`same` by the word for it in `FAULTS`; what is in several domains is a leak, whatever its classes."""
        kinds: dict[str, list[list[str]]] = {'leak': [], 'label': [], 'copy': []}
        for names in self.same:
            domains, classes = ({name.split('/')[part] for name in names} for part in (0, 1))
            kinds['leak' if len(domains) > 1 else 'label' if len(classes) > 1 else 'copy'].append(names)
        return kinds

    def left_out(self, skip: Collection[str]) -> set[str]:
        """The names of pictures with faults of these kinds."""
        names = set(self.broken) if 'unreadable' in skip else set()
        for kind, groups in self.repeated.items():
            if kind in skip:
                names.update(name for group in groups for name in (group if kind == 'label' else group[1:]))
        return names


def look_at(root: Path, workers: int) -> Findings:
    """Read the names of an archive, and every file in it.

    Raises:
        FileNotFoundError, ValueError: As `read_domains`.
    """
    archive = read_domains(root, 'FOLDER')
    findings = Findings(archive, recognise([domain for domain, classes in archive.domains.items() if classes]))
    pictures = [one for classes in archive.domains.values() for found in classes.values() for one in found]
    by_content = defaultdict(list)
    for picture, (digest, why) in zip(pictures, in_threads(_look, pictures, workers, 'Decoding'), strict=True):
        if why:
            findings.broken[picture.name] = why
        else:
            by_content[digest].append(picture.name)
    findings.same = sorted(names for names in by_content.values() if len(names) > 1)
    return findings


def _look(picture: Picture) -> tuple[bytes, str]:
    """(digest of a file, why it cannot be read)."""
    try:
        digest = blake2b(read_file(picture.path), digest_size=16).digest()
        read_rgb(picture.path)
    except (OSError, ValueError) as error:
        return b'', str(error).split('; mend or remove it')[0]
    return digest, ''


def report(findings: Findings) -> Iterator[str]:
    """What was found, in lines."""
    archive, known, counts = findings.archive, findings.known, findings.counts
    total = sum(sum(one.values()) for one in counts.values())
    yield f'{archive.root}: {total:,} pictures of {len(archive.classes)} classes in {len(counts)} domains'
    yield f'Recognised by its domains as {known.name}.' if known else 'No data set is known here by these domains.'
    yield from (f'Note: {note}' for note in archive.notes)
    yield ''
    yield tabulate(_rows(findings), headers='firstrow', intfmt=',', missingval='-')
    yield ''
    yield from _compared(findings, known) if known else ()
    yield from (f'Note: {doubt}' for doubt in doubts(archive, list(counts)))
    yield from _some(f'{len(findings.broken)} files cannot be read', findings.broken.values())
    words = {
        'leak': 'in several domains',
        'label': 'in several classes of a domain',
        'copy': 'several times in a class',
    }
    for kind, groups in findings.repeated.items():
        yield from _some(f'{len(groups)} pictures are {words[kind]}, byte by byte', map(' = '.join, groups))
    if not findings.broken and not findings.same:
        yield 'All files can be read, and no two are the same.'


def _rows(findings: Findings) -> Iterator[list[Any]]:
    counts, known = findings.counts, findings.known
    yield ['class', *counts, 'all']
    for name in findings.archive.classes:
        row = [one.get(name) for one in counts.values()]
        yield [name, *row, sum(filter(None, row))]
    row = [sum(one.values()) for one in counts.values()]
    row.append(sum(row))
    yield ['all', *row]
    if known:
        expected = [*map(known.known, counts), known.total]
        yield [f'known of {known.name}', *expected]
        yield [
            'difference',
            *(None if one is None else number - one for number, one in zip(row, expected, strict=True)),
        ]


def _compared(findings: Findings, known: DomainSet) -> list[str]:
    """What sets an archive apart from the known data set."""
    counts, classes = findings.counts, len(findings.archive.classes)
    numbers = {domain: sum(one.values()) for domain, one in counts.items()}
    there = {known.spelled(domain) for domain in counts}
    more = sum(numbers.values()) - known.total
    found = [f'{-more:,} of the {known.total:,} pictures of {known.name} are missing.'] if more < 0 else []
    found += [f'{more:,} pictures more than the {known.total:,} of {known.name}.'] if more > 0 else []
    for domain, number in numbers.items():
        if known.spelled(domain) is None:
            found.append(f'{domain}: no domain of {known.name}.')
        elif known.known(domain) not in (None, number):
            found.append(f'{domain}: {number:,} of {known.known(domain):,} pictures.')
    found += [f'{domain}: not there.' for domain in known.domains if domain not in there]
    found += [f'{classes} classes of {known.classes}.'] if classes != known.classes else []
    return found or [f'It is {known.name}, as far as numbers tell.']


def _some(title: str, lines: Collection[str] | Iterator[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        yield f'{title}:'
        yield from (f'  {line}' for line in lines[:_SHOWN])
        yield from [f'  … and {len(lines) - _SHOWN} more'] if len(lines) > _SHOWN else []


def option_lines(root: str, domains: Sequence[str]) -> str:
    """The section `datasets` of an option file that leaves out the last domain."""
    sections = {
        phase: {'type': 'DomainFolderDataset', 'dataroot': root, 'test_domains': list(domains[1:][-1:])}
        for phase in ('train', 'val', 'test')
    }
    sections['train'].update(batch_size_per_gpu=_DEFAULT_BATCH * max(len(domains) - 1, 1), num_worker_per_gpu=4)
    return yaml.safe_dump({'datasets': sections}, sort_keys=False, default_flow_style=None, allow_unicode=True)


def as_json(findings: Findings) -> dict[str, Any]:
    """What was found, for programs."""
    archive, known, counts = findings.archive, findings.known, findings.counts
    return {
        'root': archive.root,
        'set': known.name if known else None,
        'total': sum(sum(one.values()) for one in counts.values()),
        'known_total': known.total if known else None,
        'classes': archive.classes,
        'domains': counts,
        'known_domains': {domain: known.known(domain) for domain in counts} if known else {},
        'notes': [*archive.notes, *doubts(archive, list(counts))],
        'unreadable': findings.broken,
        **findings.repeated,
    }


def tree(archive: DomainFolder, left_out: Collection[str]) -> dict[str, Path]:
    """The files of a clean tree, `<domain>/<class>/<file>`: by path in it, the absolute path of the source."""
    files: dict[str, Path] = {}
    for classes in archive.domains.values():
        for picture in (one for found in classes.values() for one in found if one.name not in left_out):
            domain, of_class, *rest = picture.name.split('/')
            name = f'{domain}/{of_class}/{"_".join(rest)}'
            while name in files:  # a/b.png beside a_b.png
                name = f'{name.removesuffix(Path(name).suffix)}_{Path(name).suffix}'
            files[name] = Path(picture.path).absolute()
    return files


def main(description: str, arguments: Sequence[str] | None = None) -> None:
    """Run the command; mistakes end in one message and exit code 2, Ctrl-C in 130."""
    args = _parser(description).parse_args(arguments)
    with ending_in_one_line():
        _prepare(args)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', metavar='FOLDER', type=Path, help='where the archive was unpacked')
    parser.add_argument('--json', metavar='FILE', type=Path, help='write what was found to a JSON file, too')
    parser.add_argument(
        '--output', metavar='FOLDER', type=Path, help='lay out <domain>/<class>/<file> there, of pictures alone'
    )
    parser.add_argument('--copy', action='store_true', help='with --output: copy the files; default: absolute links')
    parser.add_argument(
        '--skip', nargs='+', action='extend', default=[], choices=[*FAULTS, 'all'], metavar='FAULT',
        help='with --output: leave such pictures out. ' + '; '.join(f'{key}: {text}' for key, text in FAULTS.items()),
    )  # fmt: skip
    parser.add_argument('--workers', type=int, default=max(4, os.cpu_count() or 1), help='threads; default %(default)s')
    return parser


def _prepare(args: argparse.Namespace) -> None:
    output, skip = args.output, FAULTS if 'all' in args.skip else args.skip
    root = args.root.resolve()
    if output and (output.resolve().is_relative_to(root) or root.is_relative_to(output.resolve())):
        raise ValueError(f'--output: {str(output)!r} and {str(args.root)!r} lie in one another; name another folder')
    if args.skip and not output:
        raise ValueError('--skip: is for --output; without it, nothing is laid out')
    findings = look_at(args.root, args.workers)
    print('\n'.join(report(findings)))
    if args.json:
        write_text(args.json, json.dumps(as_json(findings), indent=2, ensure_ascii=False) + '\n')
    if output:
        _lay_out(findings, args, skip)
    options = option_lines(str((output or Path(findings.archive.root)).absolute()), list(findings.counts))
    print(f'\nFor an option file, with the last domain left out:\n\n{options}', end='')


def _lay_out(findings: Findings, args: argparse.Namespace, skip: Collection[str] | Mapping[str, str]) -> None:
    if findings.broken and 'unreadable' not in skip:
        raise ValueError(
            f'{len(findings.broken)} files cannot be read, and nothing is laid out; mend them, or leave them out: '
            '--skip unreadable'
        )
    left_out = findings.left_out(skip)
    files = tree(findings.archive, left_out)
    if not files:
        raise ValueError('no picture is left; nothing is laid out')
    changes = lay_out(files, args.output, [args.root.resolve()], args.copy, args.workers)
    counts = {name: len(getattr(changes, name)) for name in ('made', 'renewed', 'removed', 'kept')}
    print(f'\n{args.output}: ' + ', '.join(f'{count} files {name}' for name, count in counts.items())
          + (f'; {len(left_out)} left out' if left_out else ''))  # fmt: skip
