"""Check a claim: train and test a grid of variants with several seeds, and tabulate the results.

    python scripts/analysis/reproduce.py -opt options/experiments/drealsr_main.yml
    python scripts/analysis/reproduce.py -opt options/experiments/cameras_main.yml --data FOLDER --source CAMERA

Cells run as separate processes; finished ones are reused, and an interrupted run continues where it stopped. A cell
whose options, pictures, weights or modules have changed since it was run is refused. Everything goes to
`experiments/<name of the grid>/`.
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
from basicsr.reproduce.grid import Cell, Grid, check_comparable, grid_section, read_grid
from basicsr.reproduce.report import write_report
from basicsr.runs.command_line import add_import_argument, run_from_command_line
from basicsr.utils.registry import did_you_mean


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-opt', metavar='FILE', type=Path, required=True, help='grid file, see options/experiments')
    parser.add_argument(
        '--data', metavar='FOLDER', type=Path, help='folder of pictures for a cameras grid: <camera>/{LR,HR}'
    )
    parser.add_argument('--source', metavar='CAMERA', help='the camera of --data to train on')
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


def load(args: argparse.Namespace) -> Grid:
    """The grid that a command line describes, with its data."""
    section, base = grid_section(args.opt, args.name)
    folder, datasets = (args.output or ROOT / 'experiments' / section.name).resolve(), None
    if section.cameras:
        source = args.source or section.cameras.source
        if not args.data or not source:
            raise ValueError(f'{args.opt}: needs --data, a folder of <camera>/{{LR,HR}}, and --source, one of them')
        scale = merge(yaml_load(base), section.set or {}).get('scale')
        if not isinstance(scale, int) or isinstance(scale, bool) or scale < 1:
            raise ValueError(
                f'{base}: scale: must be a whole number of at least 1 for a grid of cameras, not {scale!r}'
            )
        prepared = (args.data.resolve(), source, section.cameras.selection, scale, folder / 'data')
        datasets = prepare_cameras(*prepared, write=not args.check)
    elif args.data or args.source:
        raise ValueError(f'{args.opt}: has data of its own; --data and --source belong to grids with `cameras`')
    return read_grid(args.opt, section, folder, args.set, datasets, args.seeds, args.imports)


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
    grid = load(args)
    wanted = asked_for(grid, args.variants)
    if grid.kind == 'quality':
        check_comparable(grid)
    print(f'{grid.name}: {len(grid.variants)} variants, {len(grid.cells)} cells, in {grid.folder}')
    missing = [line for cell in grid.cells[:1] for line in cell.missing() if not _is_made(grid, line)]
    if missing and not args.table and grid.kind == 'quality':
        hint = f'\n{grid.cells[0].train["data_hint"]}' if 'data_hint' in grid.cells[0].train else ''
        raise FileNotFoundError('not there:\n  ' + '\n  '.join(missing) + hint)
    if args.check:
        return
    if grid.kind == 'cost':
        print(measure_cost(grid, command()))
        return
    cells, failed = Cells(grid, args.jobs), {}
    if not args.table:
        if grid.pretraining:
            refuse_changed(cells, [grid.pretraining], args.redo)
            failed = cells.run([grid.pretraining])
        if not failed:
            refuse_changed(cells, [grid.reference, *wanted], args.redo)
            failed = cells.run([grid.reference, *wanted], on_done=lambda cell: write_report(grid, cells, command()))
    files = write_report(grid, cells, command())
    if files:
        print(files[0].read_text())
        print('Written: ' + ', '.join(map(str, files)))
    elif not failed:
        refuse_changed(cells, [cell for cell in grid.cells if cells.is_done(cell)], redo=False)
        raise ValueError(f'{grid.folder}: no cell is finished; run the grid without --table')
    if failed:
        raise CellFailed('\n'.join(f'{name}: {message}' for name, message in failed.items()))


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
