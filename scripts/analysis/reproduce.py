"""Check a claim: train and test a grid of variants with several seeds, and tabulate the results.

    python scripts/analysis/reproduce.py -opt options/experiments/drealsr_main.yml
    python scripts/analysis/reproduce.py -opt options/experiments/cameras_main.yml --data FOLDER --source CAMERA
    python scripts/analysis/reproduce.py -opt options/experiments/domains_main.yml --data FOLDER

Cells run as separate processes; finished ones are reused, and an interrupted run continues where it stopped. A cell
whose options, data, weights or modules have changed since it was run is refused. Everything goes to
`experiments/<name of the grid>/`; of networks after the first of the file, to a folder in it.
"""

from __future__ import annotations

import argparse
import runpy
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

import basicsr.models  # noqa: F401  registers what option files name
from basicsr.options.file import merge, yaml_load
from basicsr.reproduce.cameras import prepare_cameras
from basicsr.reproduce.cells import CellFailed, Cells
from basicsr.reproduce.cost import measure_cost
from basicsr.reproduce.domains import domain_splits
from basicsr.reproduce.grid import Cell, Grid, GridSection, check_comparable, file_name, grid_section, read_grid
from basicsr.reproduce.report import write_report, write_summary
from basicsr.runs.command_line import add_import_argument, run_from_command_line
from basicsr.utils.registry import did_you_mean


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-opt', metavar='FILE', type=Path, required=True, help='grid file, see options/experiments')
    parser.add_argument(
        '--data', metavar='FOLDER', type=Path,
        help='data of a cameras grid: <camera>/{LR,HR}; of a domains grid: <domain>/<class>/*',
    )  # fmt: skip
    parser.add_argument('--source', metavar='CAMERA', help='the camera of --data to train on')
    parser.add_argument(
        '--domains', nargs='+', metavar='NAME', help='hold out these domains of --data alone; default each of them'
    )
    parser.add_argument(
        '--single-source', action='store_true', help='train on one domain and test on the others, by turns'
    )
    parser.add_argument('--networks', nargs='+', metavar='LABEL', help="of the file's `networks`; default the first")
    parser.add_argument(
        '--curve', type=int, metavar='N', help='test each run at N iterations, on seen and unseen; 0: do not'
    )
    parser.add_argument('--name', help="name of the grid and of its folder, instead of the file's")
    parser.add_argument('--output', metavar='FOLDER', type=Path, help='folder of the grid, default experiments/<name>')
    parser.add_argument('--jobs', type=int, default=1, help='cells that run at a time, default 1')
    parser.add_argument('--variants', nargs='+', metavar='LABEL', help='these variants alone')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='N', help="seeds, instead of the file's")
    parser.add_argument(
        '--set', nargs='+', action='extend', default=[], metavar='a.b=value', help='change options of every cell'
    )
    add_import_argument(parser)
    parser.add_argument(
        '--redo', action='store_true', help='run cells again whose options or files have changed; the old ones are kept'
    )
    parser.add_argument('--table', action='store_true', help='run nothing; make the table from the finished cells')
    parser.add_argument('--check', action='store_true', help='check all options; write nothing')
    parser.add_argument('--debug', action='store_true', help='show tracebacks of errors in options and data')
    return parser


def load(args: argparse.Namespace) -> dict[str, Grid]:
    """The grids that a command line describes, with their data, by network; there is one where none is named."""
    section, base = grid_section(args.opt, args.name)
    folder = (args.output or ROOT / 'experiments' / section.name).resolve()
    if args.curve is not None:
        if args.curve < 0:
            raise ValueError(f'--curve must be at least 0, not {args.curve}')
        section = section.model_copy(update={'curve': args.curve or None})
    datasets = splits = None
    _check_data_arguments(args, section)
    if section.cameras:
        datasets = _camera_data(args, section, base, folder)
    elif section.domains:
        single = args.single_source or section.domains.single_source
        splits = domain_splits(args.data.resolve(), single, args.domains)
    grids = {}
    for label, place, own in _networks(args, section):
        where = folder / place if place else folder
        grids[label] = read_grid(args.opt, own, where, args.set, datasets, args.seeds, args.imports, splits)
    return grids


def _check_data_arguments(args: argparse.Namespace, section: GridSection) -> None:
    """Raise a ValueError for a command line without the data that the grid needs, or with what it has no use for."""
    if section.cameras and not (args.data and (args.source or section.cameras.source)):
        raise ValueError(f'{args.opt}: needs --data, a folder of <camera>/{{LR,HR}}, and --source, one of them')
    if section.domains and not args.data:
        raise ValueError(f'{args.opt}: needs --data, a folder of <domain>/<class>/*')
    if not section.cameras and args.source:
        raise ValueError(f'{args.opt}: --source belongs to grids with `cameras`')
    if not section.domains and (args.domains or args.single_source):
        raise ValueError(f'{args.opt}: --domains and --single-source belong to grids with `domains`')
    if not (section.cameras or section.domains) and args.data:
        raise ValueError(f'{args.opt}: has data of its own; --data belongs to grids with `cameras` or `domains`')


def _camera_data(args: argparse.Namespace, section: GridSection, base: Path, folder: Path) -> dict[str, dict]:
    scale = merge(yaml_load(base), section.set or {}).get('scale')
    if not isinstance(scale, int) or isinstance(scale, bool) or scale < 1:
        raise ValueError(f'{base}: scale: must be a whole number of at least 1 for a grid of cameras, not {scale!r}')
    source = args.source or section.cameras.source
    prepared = (args.data.resolve(), source, section.cameras.selection, scale, folder / 'data')
    return prepare_cameras(*prepared, write=not args.check)


def _networks(args: argparse.Namespace, section: GridSection) -> list[tuple[str, str, GridSection]]:
    """(label, folder, grid) of each network that is asked for; the folder of the file's first is that of the grid."""
    known = section.networks or {}
    if args.networks and not known:
        raise ValueError(f'--networks: {args.opt} has no section `networks`')
    for label in args.networks or ():
        if label not in known:
            raise ValueError(f'--networks: none is called {label!r}{did_you_mean(label, known)}')
    if not known:
        return [('', '', section)]
    title = section.title or section.name
    found = []
    for label in dict.fromkeys(args.networks or [next(iter(known))]):
        changes = merge(section.set or {}, known[label] or {})
        place = '' if label == next(iter(known)) else file_name(label)
        found.append((label, place, section.model_copy(update={'set': changes, 'title': f'{title}: {label}'})))
    return found


def asked_for(grid: Grid, labels: list[str] | None) -> list[Cell]:
    """The cells of these variants; all of them for None."""
    unknown = [label for label in labels or [] if label not in grid.variants]
    if unknown:
        raise ValueError(f'--variants: none is called {unknown[0]!r}{did_you_mean(unknown[0], grid.variants)}')
    return [cell for cell in grid.cells if labels is None or cell.variant in labels]


def _is_made(grid: Grid, line: str) -> bool:
    """Whether the grid itself makes what a line of `Cell.missing` names: the pre-trained network, lists of pictures."""
    return Path(line.split(': ', 1)[1]).is_relative_to(grid.folder)


def refuse_changed(cells: Cells, which: list[Cell], redo: bool) -> None:
    """Raise a ValueError for cells that were run with other options or files, or move their files aside."""
    for cell in which:
        try:
            cells.check(cell)
        except ValueError:
            if not redo:
                raise
            cells.forget(cell)


def run(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise ValueError(f'--jobs must be at least 1, not {args.jobs}')
    grids = load(args)
    for grid in grids.values():
        check(grid, asked_for(grid, args.variants), args.table)
    if args.check:
        return
    failed = {}
    for grid in grids.values():
        if grid.kind == 'cost':
            print(measure_cost(grid, command()))
        else:
            failed |= run_grid(grid, args)
    if len(grids) > 1 and next(iter(grids.values())).kind == 'quality':
        section, _ = grid_section(args.opt, args.name)
        folder = (args.output or ROOT / 'experiments' / section.name).resolve()
        cells = {label: (grid, Cells(grid)) for label, grid in grids.items()}
        show(write_summary(section.title or section.name, cells, folder, command()))
    if failed:
        raise CellFailed('\n'.join(f'{name}: {message}' for name, message in failed.items()))


def check(grid: Grid, wanted: list[Cell], table: bool) -> None:
    """Refuse a grid that could not be run, before anything is.

    Raises:
        FileNotFoundError, ValueError: Its data is missing, or its variants cannot be compared.
    """
    if grid.kind == 'quality':
        check_comparable(grid)
    print(f'{grid.name}: {len(grid.variants)} variants, {len(grid.cells)} cells, in {grid.folder}')
    missing = [line for cell in grid.cells[:1] for line in cell.missing() if not _is_made(grid, line)]
    if missing and not table and grid.kind == 'quality':
        hint = f'\n{grid.cells[0].train["data_hint"]}' if 'data_hint' in grid.cells[0].train else ''
        raise FileNotFoundError('not there:\n  ' + '\n  '.join(missing) + hint)


def run_grid(grid: Grid, args: argparse.Namespace) -> dict[str, str]:
    """Run the cells that are asked for, and write the report; returns the error of each cell that failed."""
    cells, failed = Cells(grid, args.jobs), {}
    if not args.table:
        if grid.pretraining:
            refuse_changed(cells, [grid.pretraining], args.redo)
            failed = cells.run([grid.pretraining])
        if not failed:
            wanted = [*([grid.reference] if grid.reference else []), *asked_for(grid, args.variants)]
            refuse_changed(cells, wanted, args.redo)
            failed = cells.run(wanted, on_done=lambda cell: write_report(grid, cells, command()))
    files = write_report(grid, cells, command())
    if not files and not failed:
        refuse_changed(cells, [cell for cell in grid.cells if cells.is_done(cell)], redo=False)
        raise ValueError(f'{grid.folder}: no cell is finished; run the grid without --table')
    show(files)
    return failed


def show(files: list[Path]) -> None:
    """Print a report, and where its files are."""
    if files:
        print(files[0].read_text())
        print('Written: ' + ', '.join(map(str, files)))


def command() -> str:
    return shlex.join(['python', 'scripts/analysis/reproduce.py', *sys.argv[1:]])


def main() -> None:
    args = parser().parse_args()
    try:
        run_from_command_line(lambda: run(args), args.debug, 'repeat the command to continue; finished work is reused')
    except CellFailed as error:
        sys.stderr.write(f'error: {error}\n')
        sys.exit(2)


if __name__ == '__main__':
    main()
