"""Classification: pictures of classes, cross-entropy, tests over whole data sets."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from basicsr.data.prefetch_dataloader import read_ahead
from basicsr.data.workers import WatchedLoader
from basicsr.losses import build_loss
from basicsr.metrics import is_of_a_set, is_of_classes
from basicsr.models.classes import check_classes, classes_of, with_classes
from basicsr.models.task import Task
from basicsr.results.class_plots import confusion_counts, confusion_figure, labelled_figure
from basicsr.results.plots import save_figure
from basicsr.runs.stopping import end_if_broken_off
from basicsr.utils.dist_util import all_gather, get_dist_info
from basicsr.utils.logger import get_root_logger, not_essential
from basicsr.utils.misc import not_finite, write_text
from basicsr.utils.registry import METRIC_REGISTRY, MODEL_REGISTRY

_SHOWN_PICTURES = 8
"""Pictures of each validation set that TensorBoard shows."""

Prediction = tuple[str, Tensor, int]
"""A sample's file, its logits (classes,) on the CPU, and its label."""


@MODEL_REGISTRY.register()
class ClassificationModel(Task):
    """Train and test `network_g` as a classifier, by the strategy that `train` asks for.

    A batch has `image` (N, C, H, W) and `label` (N,); its data set has `classes`, the classes' names in the order of
    the labels. The network takes pictures to logits (N, classes); where it has an argument `num_classes`, that is
    filled in. Metrics are taken over all samples of a set, see `basicsr.metrics.classification`.

    Attributes:
        classes: Names of the classes.
    """

    train_defaults = {'cls_opt': {'type': 'CrossEntropyLoss'}}
    loss_options = {'l_cls': 'train.cls_opt'}
    ignored_options = (
        'scale', 'val.tile_size', 'val.tile_overlap', 'val.tile_mode', 'val.selfensemble_testing',
        'val.patchwise_testing',
    )  # fmt: skip

    cri_cls: nn.Module

    def __init__(self, opt: dict) -> None:
        self.classes = classes_of(opt)
        opt['network_g'] = with_classes(opt['network_g'], self.classes)
        super().__init__(opt)

    def _load_pretrained(self, net: nn.Module, param_key: str | None = None) -> None:
        checkpoint = self.opt['path'].get('pretrain_network_g')
        if checkpoint and self.opt['path'].get('strict_load_g', True):
            try:
                check_classes(self.classes, checkpoint)
            except ValueError as error:
                raise ValueError(
                    f'path.pretrain_network_g: {error}; strict_load_g: false takes it all the same'
                ) from error
        super()._load_pretrained(net, param_key)

    def found_options(self) -> dict[str, Any]:
        found = {'class_names': self.classes}
        number = self.opt['network_g'].get('num_classes')
        return found if number is None else {**found, 'network_g': {'num_classes': number}}

    def init_losses(self) -> None:
        self.cri_cls = build_loss(self.opt['train']['cls_opt']).to(self.device)

    def batch_on_device(self, data: dict[str, Any]) -> dict[str, Any]:
        for key, ndim in (('image', 4), ('label', 1)):
            value = data.get(key) if isinstance(data, Mapping) else None
            if not isinstance(value, Tensor) or value.ndim != ndim:
                has = ', '.join(map(str, data)) if isinstance(data, Mapping) else f'a {type(data).__name__}'
                raise ValueError(
                    f'{type(self).__name__} needs image, a tensor (N, C, H, W), and label, (N,); a batch has {has}'
                )
        outside = (
            [int(one) for one in data['label'] if not 0 <= one < len(self.classes)] if data['label'].is_cpu else []
        )
        if outside:
            file = dict(zip(data['label'].tolist(), data.get('path') or (), strict=False)).get(outside[0])
            raise ValueError(
                f'the data set gives the label {outside[0]}{f" for {file}" if file else ""}, and labels are 0 to '
                f'{len(self.classes) - 1}, of {len(self.classes)} classes'
            )
        image = data['image'].to(self.device, non_blocking=True, memory_format=self._memory_format)
        return {'image': image, 'label': data['label'].to(self.device, non_blocking=True)}

    def losses(self, net: Callable, batch: dict[str, Any]) -> dict[str, Tensor]:
        """l_cls, of `train.cls_opt`."""
        return {'l_cls': self.cri_cls(self.infer(net, batch['image']), batch['label'])}

    def infer(self, net: Callable, image: Tensor) -> Tensor:
        """The logits (N, classes) of pictures (N, C, H, W), float32.

        Raises:
            ValueError: The network makes something else.
        """
        logits = net(image)
        expected = (len(image), len(self.classes))
        if not isinstance(logits, Tensor) or logits.shape != expected:
            made = f'a tensor {tuple(logits.shape)}' if isinstance(logits, Tensor) else f'a {type(logits).__name__}'
            raise ValueError(f'network_g: makes {made} of {len(image)} pictures; logits of the classes are {expected}')
        return logits.float()

    def rehearse_test(self, data: dict[str, Any], key: str) -> dict[str, Exception]:
        """Test and measure a sample; metrics that need more samples than one to say anything are tried all the same."""
        with self.rehearsed() as net, torch.inference_mode():
            batch = self.batch_on_device(data)
            if broken := not_finite(batch['image']):
                raise ValueError(f'datasets.{key}: of image, {broken}')
            labels = batch['label'].cpu()
            logits = self.infer(net, batch['image']).cpu()
        if broken := not_finite(logits):
            raise ValueError(f'network_g: of its output, {broken}')
        failed = {}
        for name, content in self._metrics().items():
            try:
                measure(content, logits, labels)
            except Exception as error:  # metrics of users raise anything
                failed[f'val.metrics.{name}'] = error
        return failed

    def _metrics(self) -> dict[str, dict]:
        return (self.opt.get('val') or {}).get('metrics') or {}

    @torch.no_grad()
    def note_loss(self, batch: dict[str, Any], dataset_name: str) -> None:
        """As every task's, a value for each sample: batches need not be of one size."""
        if self.strategy.needs_loss:
            with self.strategy.trained() as net:
                loss = self.validation_loss(net, batch, dataset_name).item()
            self._validation_losses += [loss] * len(batch['label'])

    def nondist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        predictions = list(self._predictions(dataloader, current_iter, tb_logger))
        self._conclude(predictions, dataloader.dataset, current_iter, tb_logger, save_img)

    def dist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """Validate every n-th sample in each of n processes; all of them have the results of all samples."""
        dataset, (rank, processes) = dataloader.dataset, get_dist_info()
        share = WatchedLoader(
            dataset, dataloader.batch_size, sampler=range(rank, len(dataset), processes),
            num_workers=dataloader.num_workers, generator=torch.Generator(),
        )  # fmt: skip
        shares = all_gather(list(self._predictions(share, current_iter, tb_logger)))
        in_order = [
            predictions[place] for place in range(len(shares[0])) for predictions in shares if place < len(predictions)
        ]
        self._conclude(in_order, dataset, current_iter, tb_logger, save_img and rank == 0)

    def _predictions(self, dataloader: Any, current_iter: int | str, tb_logger: Any) -> Iterator[Prediction]:
        """What the published network makes of each sample of a data set."""
        dataset, name, val = dataloader.dataset, dataloader.dataset.opt['name'], self.opt.get('val') or {}
        quiet = None if val.get('pbar', True) and self.opt['rank'] == 0 else True  # None: where there is no terminal
        batches = tqdm(read_ahead(dataloader), f'Validate {name}', len(dataloader), False, unit='batch', disable=quiet)
        with self.published() as net:
            for index, data in enumerate(batches):
                end_if_broken_off()
                batch = self.batch_on_device(data)
                with torch.no_grad():
                    logits = self.infer(net, batch['image']).cpu()
                self.note_loss(batch, name)
                if tb_logger and not index:
                    with not_essential('TensorBoard (pictures with labels)'):
                        self._show(batch['image'], logits, data['label'], dataset, current_iter, tb_logger)
                files = data.get('path') or [''] * len(logits)
                yield from zip(files, logits, data['label'].tolist(), strict=True)

    def _names(self, predictions: list[Prediction], dataset: Any) -> list[str]:
        """The samples' names in results: as the data set says, or else by class and file."""
        there = getattr(dataset, 'names', None)
        return there or [f'{self.classes[label]}/{Path(file).stem or "sample"}' for file, _, label in predictions]

    def _show(
        self, image: Tensor, logits: Tensor, labels: Tensor, dataset: Any, current_iter: int | str, tb_logger: Any
    ) -> None:
        """Give TensorBoard the first pictures, with their classes and what they were taken for."""
        pictures = image[:_SHOWN_PICTURES].float().cpu()
        for value, place in ((getattr(dataset, 'std', None), 'std'), (getattr(dataset, 'mean', None), 'mean')):
            if value is not None:
                value = torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1)
                pictures = pictures * value if place == 'std' else pictures + value
        if pictures.shape[1] not in (1, 3):
            return
        shown = [picture.expand(3, -1, -1).clamp(0, 1).permute(1, 2, 0).numpy() for picture in pictures]
        captions = []
        for row, label in zip(logits.softmax(1), labels.tolist(), strict=True):
            predicted = int(row.argmax())
            text = f'{self.classes[label]}\n→ {self.classes[predicted]} {row[predicted]:.2f}'
            captions.append((text, predicted == label))
        tb_logger.add_figure(
            f'{dataset.opt["name"]}/labels', labelled_figure(shown, captions[: len(shown)]), current_iter
        )

    def _conclude(
        self, predictions: list[Prediction], dataset: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        """Measure a whole set, and log what comes of it."""
        name = dataset.opt['name']
        names = self._names(predictions, dataset)
        logits = torch.stack([row for _, row, _ in predictions])
        labels = torch.tensor([label for _, _, label in predictions])
        broken = self._without_prediction(predictions, logits, name)
        scores: list[dict[str, float]] = [{} for _ in predictions]
        of_set = {}
        for metric, content in self._metrics().items():
            try:
                found = measure(content, torch.nan_to_num(logits), labels)
            except ValueError as error:
                raise ValueError(f'{name}: val.metrics.{metric}: {error}') from error
            if isinstance(found, float):
                of_set[metric] = math.nan if broken else found
                continue
            for index, value in enumerate(found):
                scores[index][metric] = math.nan if index in broken else value
        self._conclude_validation(list(zip(names, scores, strict=True)), name, current_iter, tb_logger, of_set)
        counts = confusion_counts(labels.numpy(), logits.argmax(1).numpy(), len(self.classes))
        if tb_logger:
            with not_essential('TensorBoard (confusion matrices)'):
                tb_logger.add_figure(f'{name}/confusion', confusion_figure(counts, self.classes, name), current_iter)
        if save_img:
            self._save(names, predictions, counts, name, current_iter)

    def _without_prediction(self, predictions: list[Prediction], logits: Tensor, name: str) -> set[int]:
        """The samples whose logits are not finite; in a training they are logged, elsewhere they are an error."""
        broken = [index for index, fine in enumerate(logits.isfinite().all(1).tolist()) if not fine]
        if broken:
            first, more = predictions[broken[0]], f', and of {len(broken) - 1} others' if len(broken) > 1 else ''
            where = first[0] or f'sample {broken[0]}'
            text = f'{name}, {where}{more}: of the output of the network, {not_finite(first[1])}'
            if not self.opt['is_train']:
                raise ValueError(text)
            get_root_logger().error('%s. Means that it is part of are NaN, and never the best', text)
        return set(broken)

    def _save(
        self, names: list[str], predictions: list[Prediction], counts: np.ndarray, name: str, current_iter: int | str
    ) -> None:
        """Write the confusion matrix, and the probabilities of every sample."""
        folder = Path(self.opt['path']['visualization']) / name
        label = str(current_iter) if self.opt['is_train'] else (self.opt['val'].get('suffix') or self.opt['name'])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(['sample', 'file', 'true', 'predicted', *self.classes])
        for sample, (file, row, own) in zip(names, predictions, strict=True):
            probabilities, predicted = row.softmax(0).tolist(), self.classes[int(row.argmax())]
            writer.writerow([sample, file, self.classes[own], predicted, *(f'{value:.6f}' for value in probabilities)])
        of_training = self.opt['is_train'] or self.opt.get('of_training')
        with not_essential(f'{folder} (predictions)') if of_training else nullcontext():
            os.makedirs(folder, exist_ok=True)
            write_text(folder / f'predictions_{label}.csv', text.getvalue())
            save_figure(confusion_figure(counts, self.classes, f'{name}, {label}'), folder / f'confusion_{label}.png',
                        dpi=120)  # fmt: skip


def measure(content: dict[str, Any], logits: Tensor, labels: Tensor) -> list[float] | float:
    """Take a metric over a whole set.

    Args:
        content: The metric's section.
        logits: (N, classes).
        labels: (N,).

    Returns:
        A value for each sample; or one, of a metric that belongs to the set.

    Raises:
        ValueError: It measures pictures, or has no finite value.
    """
    if not is_of_classes(content):
        raise ValueError(f'{content["type"]} measures pictures, and a classifier makes none: accuracy, for example')
    arguments = {key: value for key, value in content.items() if key not in ('type', 'better')}
    found = METRIC_REGISTRY.get(content['type'])(logits, labels, **arguments)
    values = torch.as_tensor(found, dtype=torch.float64)
    expected = () if is_of_a_set(content) else (len(labels),)
    if values.shape != expected:
        raise ValueError(f'{content["type"]} returns {tuple(values.shape)}, not {expected}')
    if not values.isfinite().all():
        raise ValueError(f'{content["type"]} is not finite: {not_finite(values)}')
    return values.tolist()
