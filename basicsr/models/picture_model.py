"""Validation: pictures of a data set, one after the other, scored and shown."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.data.prefetch_dataloader import read_ahead
from basicsr.data.workers import WatchedLoader
from basicsr.metrics import NoValue, calculate_metric, is_of_classes, needs_ground_truth
from basicsr.models.base_model import BaseModel
from basicsr.models.contract import is_replaced
from basicsr.runs.stopping import end_if_broken_off
from basicsr.utils.dist_util import all_gather, get_dist_info
from basicsr.utils.img_util import imwrite, tensor2img
from basicsr.utils.logger import get_root_logger, not_essential
from basicsr.utils.misc import not_finite

_UNSCORED = 4
"""Pictures of a validation that may wait to be scored and written."""
_SHOWN_PICTURES = 4
"""Pictures of each validation set that TensorBoard shows."""

BATCH = ('lq', 'gt', 'output')
"""Attributes that hold the batch in hand, and what was made of it."""


def picture_name(path: str) -> str:
    """The name of a picture's results: that of its file, or key in an LMDB, without folders and extension.

    Raises:
        ValueError: It names no file, and its results would lie elsewhere.
    """
    name = os.path.splitext(os.path.basename(path))[0]
    if name in ('', '.', '..') or '\0' in name:
        raise ValueError(f'the data set calls a picture {path!r}, a name that its results cannot have; rename it')
    return name


class PictureModel(BaseModel):
    """A model that makes a picture of a picture: `feed_data` takes one, `test` fills `output`.

    Attributes:
        lq, gt: The batch in hand, (N, C, H, W) and (N, C, H * scale, W * scale). Without one, or without a truth, there
            is no such attribute, as in BasicSR: models of users ask `hasattr(self, 'gt')`.
        output: What the network made of it, once `test` was called.
    """

    lq: Tensor
    gt: Tensor
    output: Tensor

    def test(self) -> None:
        """Fill `output` from `lq`."""
        raise NotImplementedError(f'{type(self).__name__} has no test()')

    def batch_on_device(self, data: dict[str, Any]) -> dict[str, Any]:
        """A batch, by way of `feed_data`, which models of users replace."""
        self.feed_data(data)
        return {'lq': self.lq, 'gt': getattr(self, 'gt', None)}

    def forget_batch(self) -> None:
        """Let go of the batch in hand."""
        for name in BATCH:
            vars(self).pop(name, None)

    def test_sample(self, data: dict[str, Any], dataset_name: str) -> dict[str, Tensor]:
        """Test one picture; returns the pictures lq, result and, where there is one, gt, on the CPU."""
        self.forget_batch()  # a `feed_data` of users may leave the truth of the batch before
        batch = self.batch_on_device(data)
        self.test()
        self.note_loss(batch, dataset_name)
        return self.get_current_visuals()  # waits for the device

    def rehearse_step(self, data: Any) -> None:
        try:
            super().rehearse_step(data)
        finally:
            self.forget_batch()

    def rehearse_test(self, data: dict[str, Any], key: str) -> dict[str, Exception]:
        if is_replaced(self, 'nondist_validation') or is_replaced(self, 'validation'):
            return super().rehearse_test(data, key)
        if 'lq_path' not in data:
            raise ValueError('items have no lq_path, by whose name the results of a picture are known')
        with self.rehearsed():
            visuals = self.test_sample(data, self.opt['datasets'][key].get('name', key))
            self.forget_batch()
        for name, option in (('lq', f'datasets.{key}: of lq'), ('gt', f'datasets.{key}: of gt')):
            if name in visuals and (broken := not_finite(visuals[name])):
                raise ValueError(f'{option}, {broken}')
        if broken := not_finite(visuals['result']):
            raise ValueError(f'network_g: of its output, {broken}')
        self.check_result(visuals, key)
        failed = {}
        for name, content in ((self.opt.get('val') or {}).get('metrics') or {}).items():
            try:
                if is_of_classes(content):
                    raise ValueError(f'{content["type"]} measures classes, and {type(self).__name__} makes pictures')
                without = self._scores(visuals, {name: content}, None)[1]
                if without:
                    raise ValueError(without[0])
            except Exception as error:  # metrics of users raise anything
                failed[f'val.metrics.{name}'] = error
        return failed

    def check_result(self, visuals: dict[str, Tensor], key: str) -> None:
        """Called in a rehearsal, before metrics compare what was made of a picture of `datasets.<key>` with its truth.

        Raises:
            ValueError: They cannot be compared; the message begins with the option to blame.
        """

    def dist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        """Validate every n-th picture in each of n processes; all of them have the results of all pictures."""
        if is_replaced(self, 'nondist_validation'):
            super().dist_validation(dataloader, current_iter, tb_logger, save_img)
            return
        dataset, (rank, processes) = dataloader.dataset, get_dist_info()
        share = WatchedLoader(
            dataset, 1, sampler=range(rank, len(dataset), processes), num_workers=dataloader.num_workers,
            generator=torch.Generator(),
        )  # fmt: skip
        results = all_gather(self._validate_pictures(share, current_iter, tb_logger, save_img))
        in_order = [images[index] for index in range(len(results[0])) for images in results if index < len(images)]
        self._conclude_validation(in_order, dataset.opt['name'], current_iter, tb_logger)

    def nondist_validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool) -> None:
        images = self._validate_pictures(dataloader, current_iter, tb_logger, save_img)
        self._conclude_validation(images, dataloader.dataset.opt['name'], current_iter, tb_logger)

    def _validate_pictures(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> list[tuple[str, dict[str, float]]]:
        dataset_name, val = dataloader.dataset.opt['name'], self.opt.get('val') or {}
        metrics, results = val.get('metrics') or {}, []
        quiet = None if val.get('pbar', True) and self.opt['rank'] == 0 else True  # None: where there is no terminal
        pictures = tqdm(
            read_ahead(dataloader), f'Validate {dataset_name}', len(dataloader), False, unit='image', disable=quiet
        )
        start, busy, seen = time.perf_counter(), 0.0, Counter()
        on_this_gpu = None  # where a thread begins with the first
        if self.device.type == 'cuda':
            on_this_gpu = partial(torch.cuda.set_device, torch.cuda.current_device())
        # It scores and writes while the network has the next picture.
        with ThreadPoolExecutor(1, initializer=on_this_gpu) as pool:
            for val_data in pictures:
                end_if_broken_off()
                img_name = picture_name(val_data['lq_path'][0])
                seen[img_name] += 1
                if seen[img_name] > 1:  # of another folder of the data set
                    img_name = f'{img_name} ({seen[img_name]})'
                begin = time.perf_counter()
                visuals = self.test_sample(val_data, dataset_name)
                busy += time.perf_counter() - begin
                if tb_logger and len(results) < _SHOWN_PICTURES and not not_finite(visuals['result']):
                    picture = visuals['result'][0].float().clamp(0, 1)
                    tb_logger.add_image(f'{dataset_name}/{img_name}', picture, current_iter)
                path = self._image_path(dataset_name, img_name, current_iter) if save_img else None
                picture = f'{dataset_name}, picture {val_data["lq_path"][0]}'
                results.append((img_name, pool.submit(self._measure, visuals, metrics, path, picture)))
                if len(results) > _UNSCORED:
                    results[-_UNSCORED][1].result()  # pictures must not pile up
                self.forget_batch()
            scored = [(img_name, scores.result()) for img_name, scores in results]
        if not self.opt['is_train'] and scored:
            took = time.perf_counter() - start
            get_root_logger().info(
                '%s, %s: %d pictures in %.1f s, %.2f s each, %.0f %% of it outside the network',
                dataset_name, current_iter, len(scored), took, took / len(scored), 100 * (1 - busy / took),
            )  # fmt: skip
        return scored

    def _measure(
        self, visuals: dict[str, Tensor], metrics: dict[str, dict], path: str | None, picture: str
    ) -> dict[str, float]:
        """As `_scores`. In a training a picture without a value is logged; elsewhere it is an error.

        Raises:
            ValueError: `picture` cannot be measured.
        """
        try:
            scores, without = self._scores(visuals, metrics, path)
            if without and not self.opt['is_train']:
                raise ValueError('; '.join(without))
        except ValueError as error:
            raise ValueError(f'{picture}: {error}') from error
        if without:
            get_root_logger().error('%s: %s. Means that it is part of are NaN, and never the best', picture,
                                    '; '.join(without))  # fmt: skip
        return scores

    def _scores(
        self, visuals: dict[str, Tensor], metrics: dict[str, dict], path: str | None
    ) -> tuple[dict[str, float], list[str]]:
        """Measure one picture, and write it to `path`; without ground truth, with metrics that need none.

        Returns:
            By metric, a finite value, or NaN where there is none; and why there is none.

        Raises:
            ValueError: A metric cannot compare such pictures.
        """
        metrics = {name: one for name, one in metrics.items() if 'gt' in visuals or not needs_ground_truth(one)}
        if broken := not_finite(visuals['result']):  # neither scored as a black picture, nor written as one
            of_lq = not_finite(visuals['lq']) if 'lq' in visuals else ''
            reason = f'of lq, {of_lq}' if of_lq else f'of the output of the network, {broken}'
            return dict.fromkeys(metrics, math.nan), [reason]
        pair = {'img': tensor2img([visuals['result']])}
        if path:
            self._write_picture(pair['img'], path)
        if 'gt' in visuals:
            if broken := not_finite(visuals['gt']):
                raise ValueError(f'of gt, {broken}')
            pair['img2'] = tensor2img([visuals['gt']])
        scores, without = {}, []
        for name, content in metrics.items():
            try:
                scores[name] = calculate_metric(pair, content)
                if not math.isfinite(scores[name]):
                    raise NoValue(f'is {scores[name]}')
            except NoValue as error:
                scores[name] = math.nan
                without.append(f'val.metrics.{name}: {error}')
            except ValueError as error:
                raise ValueError(f'val.metrics.{name}: {error}') from error
        return scores, without

    def _write_picture(self, img: np.ndarray, path: str) -> None:
        """Write a result: what a test is for, and what a training goes on without."""
        if self.opt['is_train'] or self.opt.get('of_training'):
            with not_essential(f'{self.opt["path"]["visualization"]} (pictures)'):
                imwrite(img, path)
        else:
            imwrite(img, path)

    def _image_path(self, dataset_name: str, img_name: str, current_iter: int | str) -> str:
        folder = self.opt['path']['visualization']
        if self.opt['is_train']:  # models of users set `is_train` to False for a validation
            return os.path.join(folder, img_name, f'{img_name}_{current_iter}.png')
        suffix = (self.opt.get('val') or {}).get('suffix')
        return os.path.join(folder, dataset_name, f'{img_name}_{suffix or self.opt["name"]}.png')

    def get_current_visuals(self) -> dict[str, Tensor]:
        visuals = {'lq': self.lq.detach().cpu(), 'result': self.output.detach().cpu()}
        if hasattr(self, 'gt'):
            visuals['gt'] = self.gt.detach().cpu()
        return visuals
