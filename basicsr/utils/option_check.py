"""Is everything in an option file known, and are its numbers numbers? Asked before anything is built."""

from __future__ import annotations

from typing import Any

from basicsr.utils.registry import did_you_mean

# Sections that are not listed here (`network_g`, losses, metrics, …) are checked by the signature of what they name.
# Models and data sets of users have keys of their own, which nobody here knows.
_KEYS: dict[str, set[str]] = {
    '': {
        *('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'datasets', 'network_g', 'path', 'train', 'val'),
        *(
            'logger',
            'dist_params',
            'find_unused_parameters',
            'data_hint',
            'quickstart_data',
            'suffix',
            'crop_border',
            'save_img',
        ),
    },
    'datasets.*': {
        *('name', 'type', 'dataroot_gt', 'dataroot_lq', 'meta_info', 'meta_info_file', 'filename_tmpl', 'io_backend'),
        *('gt_size', 'use_hflip', 'use_rot', 'use_shuffle', 'num_worker_per_gpu', 'batch_size_per_gpu', 'color'),
        *('dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers'),
        *('mean', 'std', 'task', 'noise', 'seen'),
    },
    'path': {
        *('pretrain_network_g', 'pretrain_opt', 'strict_load_g', 'param_key_g', 'resume_state', 'output_root'),
    },
    'train': {
        *('ema_decay', 'optim_g', 'scheduler', 'total_iter', 'warmup_iter', 'pixel_opt', 'ldt'),
    },
    'val': {
        *('val_freq', 'save_img', 'suffix', 'metrics', 'tile_size', 'tile_overlap', 'selfensemble_testing'),
        *('patchwise_testing', 'pbar'),
    },
    'logger': {'print_freq', 'save_checkpoint_freq', 'save_best', 'use_tb_logger', 'wandb'},
    'dist_params': {'backend', 'port', 'timeout'},
}
_OWN_MODELS = {'SRModel', 'SwinIRModel', 'MambaIRModel', 'LDTModel'}
_OWN_DATASETS = {'PairedImageDataset', 'SingleImageDataset'}
_NOT_YET = ('logger.wandb.project',)

_LEAST = {
    **{'scale': 1, 'manual_seed': 0, 'train.total_iter': 1, 'val.val_freq': 1, 'logger.print_freq': 1},
    **{'logger.save_checkpoint_freq': 1, 'train.warmup_iter': -1, 'datasets.*.gt_size': 1},
    **{'datasets.*.batch_size_per_gpu': 1, 'datasets.*.num_worker_per_gpu': 0, 'datasets.*.dataset_enlarge_ratio': 1},
}
"""Options that are whole numbers, with the least of each."""


def check_keys(opt: dict) -> None:
    """Refuse keys that nothing reads.

    Raises:
        ValueError: Every unknown key, with its dotted path and the nearest known one.
    """
    mistakes = []

    def check(section: Any, path: str, known: set[str]) -> None:
        if section is None:
            return
        if not isinstance(section, dict):
            mistakes.append(f'{path} must be a section, not {section!r}')
            return
        for key in section:
            if key not in known:
                mistakes.append(f'{path}{"." if path else ""}{key}: unknown option{did_you_mean(key, known)}')

    if opt.get('model_type') in _OWN_MODELS or opt.get('model_type') is None:
        for name, known in _KEYS.items():
            if name != 'datasets.*':
                check(opt.get(name) if name else opt, name, known)
    datasets = opt.get('datasets') if isinstance(opt.get('datasets'), dict) else {}
    for phase, dataset in datasets.items():
        if not isinstance(dataset, dict) or dataset.get('type') in _OWN_DATASETS:
            check(dataset, f'datasets.{phase}', _KEYS['datasets.*'])
    sections = {phase: section for phase, section in datasets.items() if isinstance(section, dict)}
    tested = [section.get('name', phase) for phase, section in sections.items() if phase.startswith('test')]
    mistakes += [f'datasets: two test sets are called {name!r}' for name in set(tested) if tested.count(name) > 1]
    mistakes += _check_numbers(opt, sections)
    if '/' in str(opt.get('name', '')):
        mistakes.append(f'name: names a folder, so it cannot hold a slash: {opt["name"]!r}')
    mistakes += [f'{path}: not supported yet; leave it out' for path in _NOT_YET if _at(opt, path)]
    mistakes += [f'{key}: missing' for key in ('name', 'model_type', 'network_g', 'datasets') if not opt.get(key)]
    if mistakes:
        raise ValueError('the options have mistakes:\n  ' + '\n  '.join(mistakes))


def _check_numbers(opt: dict, datasets: dict) -> list[str]:
    """Mistakes in options that must be whole numbers; 5e3 is one."""
    mistakes = []
    for name, least in _LEAST.items():
        paths = [name] if '*' not in name else [name.replace('*', phase) for phase in datasets]
        for path in paths:
            value = _at(opt, path)
            if value is None:
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not float(value).is_integer()
                or value < least
            ):
                mistakes.append(f'{path}: must be a whole number of at least {least}, not {value!r}')
    return mistakes


def _at(opt: dict, path: str) -> Any:
    for key in path.split('.'):
        opt = opt.get(key) if isinstance(opt, dict) else None
    return opt
