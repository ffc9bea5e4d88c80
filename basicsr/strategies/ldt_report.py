"""What a decomposition leaves and says: the partition, the scores of its layers, how fast they follow."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

import ldt
from basicsr.results.plots import plot_layer_scores
from basicsr.strategies.ldt_options import LDTSection
from basicsr.strategies.strategy import Setting
from basicsr.strategies.warm_up import WarmUp
from basicsr.utils.dist_util import master_only
from basicsr.utils.img_util import imfrombytes
from basicsr.utils.logger import get_root_logger, not_essential
from basicsr.utils.misc import read_file


def partition_files(partition: ldt.Partition, folder: str | None) -> dict[str, str]:
    """The files of a partition in `folder`, by what they are; none without a folder."""
    if folder is None:
        return {}
    files = {'partition': os.path.join(folder, 'partition.json')}
    if partition.scores:
        files['layer scores'] = os.path.join(folder, 'layer_scores.png')
    return files


@master_only
def report_partition(
    branches: ldt.Decomposition,
    options: LDTSection,
    setting: Setting,
    iteration: int,
    warm_up: WarmUp | None = None,
) -> None:
    """Write the files, log the groups and their time constants, and show both in TensorBoard."""
    partition, logger = branches.partition, get_root_logger()
    files = partition_files(partition, setting.folder)
    if 'partition' in files:
        with not_essential(files['partition']):
            replace(partition, samples=warm_up.record() if warm_up else {}).save(files['partition'])
    if 'layer scores' in files:
        title = f'{setting.name}: gradient {partition.criterion.replace("_", " ")} of every layer'
        with not_essential(files['layer scores']):
            plot_layer_scores(partition.scores, partition.unstable_layers, files['layer scores'], title)
    chosen = options.unstable_ratio == 'auto' and partition.unstable_ratio is not None
    logger.info(
        'LDT: %d stable and %d unstable layers by %s%s; exchange every %d of %d iterations',
        len(partition.stable_layers),
        len(partition.unstable_layers),
        partition.criterion,
        f" (auto: Otsu's threshold makes {partition.unstable_ratio:.3f} unstable)" if chosen else '',
        branches.exchange_every,
        setting.total_iter,
    )
    _show(branches, files, setting, iteration)
    _log_time_constants(branches, options, setting.total_iter)


def _log_time_constants(branches: ldt.Decomposition, options: LDTSection, total_iter: int) -> None:
    logger = get_root_logger()
    for stats in ldt.time_constant_stats(branches.partition, branches.decay, branches.exchange_every, total_iter):
        logger.info(
            'Time constants of the %s layers: %.0f to %.0f iterations, median %.0f; the run has %d',
            stats.group,
            stats.fastest,
            stats.slowest,
            stats.median,
            total_iter,
        )
        if stats.mostly_slow:
            logger.warning(
                '%d of %d %s layers have a time constant longer than the run and will hardly leave their initial '
                'values: lower train.ldt.%s or train.ldt.%s, or train longer',
                stats.slow,
                stats.layers,
                stats.group,
                options.decay_option(stats.group),
                'alternate_every' if options.strategy == 'alternating' else 'exchange_every',
            )


def _show(branches: ldt.Decomposition, files: dict[str, str], setting: Setting, iteration: int) -> None:
    """The plot of the scores, and the decays of either group as a histogram, in TensorBoard."""
    writer, partition = setting.writer(), branches.partition
    if writer is None:
        return
    if os.path.isfile(files.get('layer scores', '')):
        plot = imfrombytes(read_file(files['layer scores']))
        writer.add_image('ldt/layer_scores', plot[..., ::-1].copy(), iteration, dataformats='HWC')
    for group, layers in (('stable', partition.stable_layers), ('unstable', partition.unstable_layers)):
        decays = torch.tensor([branches.decay[names[0]] for names in layers.values()])
        writer.add_histogram(f'ldt/decay_{group}', decays, iteration)
