"""Scores the layers of a network on its training data, without training, and writes tables and plots.

    python scripts/analysis/score_layers.py -opt FILE [--set a.b=value …] [--output FOLDER] [--batches N] [--head …]

FILE is an option file for training with any model_type; the loss is its train.pixel_opt, and criterion, ratio,
granularity and decays are those of train.ldt. With train.ldt.warmup_iter, the head warms up on one half of the samples,
as in training, and the rest is about the other half. Samples are split into two halves, whose batches alternate, so
that the scores on each half show how reliable the ranking is. FOLDER (default: results/<name>_layers) gets:

    layers.csv, layers.md         every layer; a summary
    scores.png, kinds.png         scores by place in the network, and by kind of layer
    head.png                      where the layers of the head rank among all (figure 2a of the paper)
    halves.png, decays.png        the two halves; how fast each layer would follow
    partition.json                the split, in the form that training saves
"""

from __future__ import annotations

import argparse
import csv
import runpy
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    runpy.run_path(str(ROOT / 'basicsr' / 'runs' / 'own_copy.py'))['use_own_copy'](ROOT)

import torch
from scipy.stats import spearmanr
from torch import nn
from tqdm import tqdm

import ldt
from basicsr.data.loaders import loader_beside_the_training, loader_of_some
from basicsr.models import build_model
from basicsr.options.check import check_section
from basicsr.options.resolve import check_files, parse_options
from basicsr.results.layer_plots import plot_halves, plot_head_ranks, plot_scores_by_kind, plot_time_constants
from basicsr.results.plots import plot_layer_scores
from basicsr.runs.command_line import add_import_argument, run_from_command_line
from basicsr.strategies.ldt_options import LDTSection
from basicsr.utils.registry import STRATEGY_REGISTRY

HEADS = ('conv_before_upsample', 'upsample', 'upconv1', 'upconv2', 'conv_hr', 'conv_last', 'head', 'fc', 'classifier')
"""What comes after the body in the networks here and in common ones."""


@dataclass(frozen=True)
class Scored:
    """A network's layers, scored and split.

    Attributes:
        partition: The groups and the scores.
        halves: Score by layer on each half of the samples.
        kinds: What each layer is: `Conv2d.weight`, or `Conv2d` for the layers of modules.
        entries: Number of entries of each layer.
        heads: The layers of the head.
        decay: W by layer.
        exchange_every: Iterations between two exchanges of a layer.
        batches: Number of batches scored.
    """

    partition: ldt.Partition
    halves: tuple[dict[str, float], dict[str, float]]
    kinds: dict[str, str]
    entries: dict[str, int]
    heads: list[str]
    decay: dict[str, float]
    exchange_every: int
    batches: int

    @property
    def correlation(self) -> float:
        """Spearman's correlation of the scores on the two halves."""
        return float(spearmanr(*(list(half.values()) for half in self.halves)).statistic)

    def percentile(self, layer: str) -> float:
        """Percentage of all layers whose score is at most that of `layer`."""
        scores = self.partition.scores
        return 100 * sum(score <= scores[layer] for score in scores.values()) / len(scores)

    def moved(self) -> int:
        """Number of layers that are unstable on one half of the samples only, with equally large groups on both."""
        count = len(self.partition.unstable_layers)
        first, second = ({*sorted(half, key=half.__getitem__)[-count:]} for half in self.halves)
        return len(first - second)


def half_loaders(opt: dict, loader: Any, samples: list[int] | None = None) -> list[Any]:
    """A loader of training batches for each half of the samples, drawn at random by the run's seed.

    Args:
        opt: The resolved options.
        loader: Of all training batches.
        samples: Which of its data set's; None: all.
    """
    samples = list(range(len(loader.dataset))) if samples is None else samples
    if len(samples) < 2:
        raise ValueError(f'datasets.train: {len(samples)} samples to score, and the comparison of two halves needs two')
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(opt['manual_seed'])).tolist()
    section = opt['datasets']['train']
    # Halves smaller than a batch use their samples more than once: augmentation differs.
    ratio = max(section.get('dataset_enlarge_ratio') or 1, 2 * section['batch_size_per_gpu'])
    datasets = {**opt['datasets'], 'train': {**section, 'dataset_enlarge_ratio': ratio}}
    halves = ([samples[place] for place in half] for half in (order[::2], order[1::2]))
    return [loader_of_some({**opt, 'datasets': datasets}, loader, half) for half in halves]


def in_turns(loaders: list[Any]) -> Iterator[Any]:
    """Batches of the two loaders in turn, endlessly."""
    epoch = 0
    while True:
        for loader in loaders:
            loader.sampler.sampler.set_epoch(epoch)
        for pair in zip(*loaders, strict=False):
            yield from pair
        epoch += 1


def kind_of(net: nn.Module, names: list[str], granularity: str) -> str:
    module, _, leaf = names[0].rpartition('.')
    kind = type(net.get_submodule(module)).__name__
    return kind if granularity == 'module' else f'{kind}.{leaf}'


def score(opt: dict, options: LDTSection, count: int, heads: list[str] | None) -> Scored:
    """Score the layers of the options' network over `count` batches.

    Raises:
        ValueError: A criterion that measures nothing, too few batches, or a head that the network does not have.
    """
    if options.criterion not in ldt.CRITERIA or not ldt.CRITERIA[options.criterion].min_batches:
        raise ValueError(
            f'train.ldt.criterion: {options.criterion} measures nothing; --set train.ldt.criterion=variance, for one'
        )
    if count < 4:
        raise ValueError(f'--batches: two halves need at least two batches each, 4, not {count}')
    model = build_model(opt)
    model.train_loader = loader_beside_the_training(opt)
    net, samples = model.get_bare_model(model.net_g), None
    layers = ldt.layers_of(net, options.granularity)
    head_layers = find_heads(layers, heads or getattr(net, 'head_prefixes', None))
    if warm_up := getattr(model.strategy, 'warm_up', None):
        warm_up.run(net)
        samples = warm_up.halves[1]
    kept = {'granularity': options.granularity, 'criteria': options.criterion}
    halves = [ldt.GradientStatistics(net, **kept) for _ in range(2)]

    with tqdm(total=count, desc='Score layers', unit='batch', disable=None) as progress:

        def on_batch(done: int) -> None:
            halves[(done - 1) % 2].update()
            progress.update()

        scores = ldt.score_layers(
            net, in_turns(half_loaders(opt, model.train_loader, samples)), model.loss, count, options.criterion,
            granularity=options.granularity, on_batch=on_batch,
        )  # fmt: skip
    of_modules = layers if options.granularity == 'module' else None
    partition = ldt.Partition.from_scores(scores, options.unstable_ratio, options.criterion, of_modules)
    if warm_up:
        partition = replace(partition, samples=warm_up.record())
    decay, sizes = options.decay(partition, opt['train']['total_iter']), dict(net.named_parameters())
    return Scored(
        partition,
        tuple(half.scores(options.criterion) for half in halves),
        {layer: kind_of(net, names, options.granularity) for layer, names in layers.items()},
        {layer: sum(sizes[name].numel() for name in names) for layer, names in layers.items()},
        head_layers,
        {layer: decay[names[0]] for layer, names in layers.items()},
        options.interval,
        count,
    )


def find_heads(layers: dict[str, list[str]], prefixes: Sequence[str] | None) -> list[str]:
    """The layers whose names begin with one of the prefixes; without prefixes, those that match `HEADS`, if any."""
    known = {name.split('.')[0] for name in layers}
    prefixes = prefixes or [prefix for prefix in HEADS if prefix in known]
    return ldt.Partition.from_prefixes(layers, prefixes).unstable if prefixes else []


def write_csv(scored: Scored, path: Path) -> None:
    partition, names = scored.partition, list(scored.partition.scores)
    constants = ldt.time_constants(scored.decay, scored.exchange_every)
    unstable, heads = {*partition.unstable_layers}, {*scored.heads}
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(
            ['place', 'layer', 'kind', 'entries', 'head', 'group', 'score', 'percentile', 'score_half_1',
             'score_half_2', 'decay', 'time_constant']
        )  # fmt: skip
        for place, name in enumerate(names):
            writer.writerow(
                [place, name, scored.kinds[name], scored.entries[name], int(name in heads),
                 'unstable' if name in unstable else 'stable', partition.scores[name],
                 round(scored.percentile(name), 2), *(half[name] for half in scored.halves),
                 scored.decay[name], constants[name]]
            )  # fmt: skip


def summary(scored: Scored, opt: dict) -> str:
    """layers.md"""
    partition = scored.partition
    stable, unstable = partition.stable_layers, partition.unstable_layers
    lines = [
        f'# Layers of {opt["name"]}',
        '',
        f'{opt["network_g"]["type"]}, weights: {Path(opt["path"].get("pretrain_network_g") or "untrained").name}; '
        f'{partition.criterion.replace("_", " ")} of gradients over {scored.batches} batches of '
        f'{opt["datasets"]["train"]["batch_size_per_gpu"]}.',
        '',
        f'{len(stable)} stable and {len(unstable)} unstable layers (unstable_ratio {partition.unstable_ratio:.3f}).',
        '',
        f"Two halves of the samples: Spearman's correlation of the scores {scored.correlation:.4f}; "
        f'{scored.moved()} of {len(stable) + len(unstable)} layers are unstable by one half alone.',
        '',
    ]
    total_iter = opt['train']['total_iter']
    for stats in ldt.time_constant_stats(partition, _by_parameter(scored), scored.exchange_every, total_iter):
        span = f'{stats.fastest:.0f} to {stats.slowest:.0f} iterations, median {stats.median:.0f}'
        slow = f'{stats.slow} of {stats.layers} are longer than the run of {total_iter}'
        lines.append(f'Time constants of the {stats.group} layers: {span}; {slow}.\n')
    lines += ['| kind | layers | entries | median score | median percentile | unstable |', '|' + ' --- |' * 6]
    by_kind: dict[str, list[str]] = {}
    for name in partition.scores:
        by_kind.setdefault(scored.kinds[name], []).append(name)
    for kind, names in sorted(by_kind.items(), key=lambda item: -_median(partition.scores, item[1])):
        entries, share = sum(scored.entries[name] for name in names), sum(name in unstable for name in names)
        percentile = statistics.median(scored.percentile(name) for name in names)
        cells = [kind, len(names), entries, f'{_median(partition.scores, names):.3g}', f'{percentile:.0f}', share]
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    lines += ['', '| layer of the head | score | percentile | group |', '|' + ' --- |' * 4]
    for name in scored.heads:
        group = 'unstable' if name in unstable else 'stable'
        lines.append(f'| {name} | {partition.scores[name]:.3g} | {scored.percentile(name):.0f} | {group} |')
    return '\n'.join(lines if scored.heads else [*lines[:-2], 'No layer is known as the head: see --head.']) + '\n'


def _by_parameter(scored: Scored) -> dict[str, float]:
    layers = {**scored.partition.stable_layers, **scored.partition.unstable_layers}
    return {name: scored.decay[layer] for layer, names in layers.items() for name in names}


def _median(scores: dict[str, float], names: list[str]) -> float:
    return statistics.median(scores[name] for name in names)


def write(scored: Scored, opt: dict, folder: Path) -> None:
    """Write tables and plots to `folder`, creating it."""
    folder.mkdir(parents=True, exist_ok=True)
    partition, title = scored.partition, f'{opt["name"]}: gradient {scored.partition.criterion.replace("_", " ")}'
    write_csv(scored, folder / 'layers.csv')
    (folder / 'layers.md').write_text(summary(scored, opt), encoding='utf-8')
    partition.save(folder / 'partition.json')
    scores, unstable = partition.scores, partition.unstable_layers
    plot_layer_scores(scores, unstable, folder / 'scores.png', f'{title} of every layer')
    plot_scores_by_kind(scores, scored.kinds, unstable, folder / 'kinds.png', f'{title} by kind of layer')
    plot_halves(scored.halves, unstable, scored.correlation, folder / 'halves.png', f'{opt["name"]}: two halves')
    constants = ldt.time_constants(scored.decay, scored.exchange_every)
    groups = {'stable': [constants[name] for name in partition.stable_layers],
              'unstable': [constants[name] for name in unstable]}  # fmt: skip
    plot_time_constants(groups, opt['train']['total_iter'], folder / 'decays.png', f'{opt["name"]}: time constants')
    if scored.heads:
        ranks = {name: scored.percentile(name) for name in scored.heads}
        plot_head_ranks(ranks, scored.heads, folder / 'head.png', f'{opt["name"]}: the head among all layers')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-opt', metavar='FILE', required=True, help='option file of a training')
    parser.add_argument('--set', nargs='+', action='extend', default=[], metavar='a.b=value', help='change options')
    parser.add_argument('--output', type=Path, metavar='FOLDER', help='default: results/<name>_layers')
    parser.add_argument('--batches', type=int, metavar='N', help='default: train.ldt.scoring_batches')
    parser.add_argument('--head', nargs='+', metavar='PREFIX', help='names of the head begin like this')
    add_import_argument(parser)
    parser.add_argument('--debug', action='store_true', help='show tracebacks of errors in options and data')
    parser.set_defaults(launcher='none')
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = make_parser().parse_args(arguments)

    def run() -> None:
        # Nothing is trained, so strategies that are incompatible with LDT do not matter.
        others = (key for _, strategy in STRATEGY_REGISTRY for key in strategy.keys if key != 'ldt')
        args.set = [*args.set, *(f'train.{key}=null' for key in others)]
        opt, _ = parse_options(str(ROOT), True, args)
        check_files(opt)
        options = check_section(LDTSection, opt['train'].get('ldt') or {}, 'train.ldt')
        batches = args.batches or options.batches_to_score(opt['train']['total_iter'])
        scored = score(opt, options, batches, args.head)
        folder = args.output or Path(opt['path']['experiments_root']).parents[1] / 'results' / f'{opt["name"]}_layers'
        write(scored, opt, folder)
        print(summary(scored, opt))
        print(f'Tables and plots: {folder}')

    run_from_command_line(run, args.debug)


if __name__ == '__main__':
    main()
