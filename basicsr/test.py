"""Testing: a network on any number of data sets, with a table at the end."""

from __future__ import annotations

import argparse
import os
import runpy
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

from basicsr.archs.from_weights import outlive_its_first_file
from basicsr.check import check_pipeline
from basicsr.evaluation import build_loaders, build_networks, evaluate, networks_of
from basicsr.models.contract import is_of_users
from basicsr.options.resolve import check_files, dict2str, parse_options
from basicsr.rehearsal import rehearse_tests
from basicsr.results.tables import report, write_results
from basicsr.runs.command_line import make_parser, run_from_command_line
from basicsr.runs.own_folder import own_folder, refuse_to_move_inputs
from basicsr.utils.logger import get_env_info, get_root_logger
from basicsr.utils.misc import make_exp_dirs


def test_pipeline(root_path: str, args: argparse.Namespace | None = None) -> None:
    """Test what the option file describes, beside the networks of `compare`; tables go to `results/<name>/`.

    Args:
        root_path: Folder of the project.
        args: A parsed command line; None parses `sys.argv`.

    Raises:
        FileNotFoundError, ValueError, KeyError: Mistakes in the options or the data.
    """
    opt, args = parse_options(root_path, is_train=False, args=args)
    outlive_its_first_file(opt, opt['path'].get('pretrain_network_g'))
    check_files(opt)
    if opt['rank'] > 0:
        return
    with own_folder(opt):
        refuse_to_move_inputs(opt)
        _test(opt, args)


def _test(opt: dict, args: argparse.Namespace) -> None:
    loaders = build_loaders(opt, ['val', 'test'])
    pictures, save_img = opt['path']['visualization'], (opt.get('val') or {}).get('save_img', False)
    models = build_networks(opt, networks_of(opt), pictures, save_img)
    rehearse_tests(opt, models, loaders)
    if any(is_of_users(type(model)) for model in models.values()):  # which may leave a trace
        models = build_networks(opt, networks_of(opt), pictures, save_img)
    make_exp_dirs(opt)
    logger = get_root_logger(log_file=os.path.join(opt['path']['log'], f'test_{opt["name"]}.log'))
    logger.info(get_env_info())
    logger.info('Options:\n%s', dict2str(args.merged))
    results = evaluate(opt, models, loaders)
    written = write_results(results, opt['path']['results_root'])
    logger.info('%s:\n%s', opt['path'].get('pretrain_network_g') or opt['name'], report(results))
    logger.info('Written: %s', ', '.join(os.path.relpath(path) for path in written.values()))


def main() -> None:
    args = make_parser(is_train=False).parse_args()
    run = partial(check_pipeline, is_train=False) if args.check else test_pipeline
    run_from_command_line(lambda: run(str(ROOT), args), args.debug)


if __name__ == '__main__':
    main()
