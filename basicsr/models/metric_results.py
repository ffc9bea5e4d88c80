"""What a validation measured: means, the best so far, and how they are logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from basicsr.metrics import better_is, most_of, perfect_in_words
from basicsr.utils.logger import get_root_logger

Measured = Sequence[tuple[str, dict[str, float]]]
"""(sample's name, its metrics), in the data set's order."""


class MetricResults:
    """The results of a model's validations.

    Attributes:
        metric_results: After a validation: each metric, averaged over the samples.
        image_results: After a validation: (sample's name, its metrics) in the data set's order; empty where the model
            keeps means alone.
        set_results: After a validation: metrics of the set as a whole.
        best_metric_results: By data set and metric: `better`, the best value `val`, and its iteration `iter`.
    """

    opt: dict
    image_results: Measured
    set_results: dict[str, float]
    best_metric_results: dict[str, dict[str, dict]]

    def _initialize_best_metric_results(self, dataset_name: str) -> None:
        """Begin to count for the metrics of the options that are not counted yet: new ones of a resumed run, too."""
        counted = self.best_metric_results.setdefault(dataset_name, {})
        for metric, content in self.opt['val']['metrics'].items():
            better = better_is(content)
            if counted.get(metric, {}).get('better') != better:
                none = float('-inf') if better == 'higher' else float('inf')
                counted[metric] = {'better': better, 'val': none, 'iter': -1}

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        """Keep `val` where it is strictly better than those before; one that is not finite never is."""
        best = self.best_metric_results[dataset_name][metric]
        is_better = val > best['val'] if best['better'] == 'higher' else val < best['val']
        if math.isfinite(val) and (is_better or not math.isfinite(best['val'])):
            best['val'], best['iter'] = val, current_iter

    def _conclude_validation(
        self,
        samples: Measured,
        dataset_name: str,
        current_iter: int | str,
        tb_logger: Any,
        of_set: Mapping[str, float] | None = None,
    ) -> None:
        """Take in what was measured: of each sample, and of the set as a whole."""
        self.image_results, self.metric_results, self.set_results = samples, {}, dict(of_set or {})
        names = dict.fromkeys(name for _, scores in samples for name in scores)
        measured = [name for name in names if all(name in scores for _, scores in samples)]
        if len(measured) < len(names):
            missing = ', '.join(name for name in names if name not in measured)
            get_root_logger().warning('Validation %s: no mean of %s: samples are without gt', dataset_name, missing)
        means = {name: sum(scores[name] for _, scores in samples) / len(samples) for name in measured}
        if means or self.set_results:
            self.metric_results = {**means, **self.set_results}
            self._initialize_best_metric_results(dataset_name)
            for name, value in self.metric_results.items():
                self._update_best_metric_result(dataset_name, name, value, current_iter)
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)

    def _log_validation_metric_values(self, current_iter: int | str, dataset_name: str, tb_logger: Any) -> None:
        best = self.best_metric_results.get(dataset_name, {})  # validations of users may keep none
        parts = []
        for name, value in self.metric_results.items():
            parts.append(f'{name} {value:.4f}')
            content = (self.opt['val'].get('metrics') or {}).get(name, {})
            values = [scores[name] for _, scores in self.image_results if name in scores]
            perfect = perfect_in_words(values, most_of(content))
            notes = [perfect] if perfect else []
            if self.opt['is_train'] and name in best and best[name]['iter'] != -1:
                notes.append(f'best {best[name]["val"]:.4f} at {best[name]["iter"]}')
            parts[-1] += f' ({"; ".join(notes)})' if notes else ''
            if tb_logger:
                tb_logger.add_scalar(f'metrics/{dataset_name}/{name}', value, current_iter)
        get_root_logger().info('Validation %s: %s', dataset_name, ', '.join(parts))
