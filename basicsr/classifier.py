"""Applying the checkpoint of a classifier to pictures, without an option file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import basicsr.models  # noqa: F401  registers networks
from basicsr.archs import build_network
from basicsr.archs.from_weights import network_options, options_beside
from basicsr.data.decoding import read_rgb
from basicsr.data.domain_folder_dataset import IMAGE_SIZE, DomainFolderDataset
from basicsr.data.prefetch_dataloader import read_ahead
from basicsr.data.transform_lists import PictureTransform
from basicsr.runs.checkpoint import find_weights, load_checkpoint, load_weights
from basicsr.utils.logger import get_root_logger
from basicsr.utils.misc import not_finite, write_text

TABLES = ('.csv', '.json')
"""Extensions of the tables that `write_predictions` writes."""
_BATCH = 32

Predictions = dict[str, list[float]]
"""By path, the probabilities of the classes."""


class Classifier:
    """Names the classes of pictures with the network of a checkpoint.

    Classes and transforms are those of the `options.yml` of its experiment, where there is one: class_names, and of
    datasets a section that validates or tests. Elsewhere classes are numbered, and pictures resized and normalised as
    ImageNet networks want them.

    Args:
        checkpoint: The file. The network is determined from it, see `network_options`.
        device: Where it runs.
        param_key: Key of the weights in the file; None: `params_ema`, the moving average, if present, else `params`.

    Attributes:
        net: The network.
        classes: Names of the classes, in the order of the logits.

    Raises:
        FileNotFoundError, ValueError: No such file, not a checkpoint, or not a known network for classes.
    """

    def __init__(
        self, checkpoint: str | os.PathLike, device: torch.device | str = 'cpu', param_key: str | None = None
    ) -> None:
        content = load_checkpoint(checkpoint)
        averaged = isinstance(content, dict) and 'params_ema' in content
        weights = find_weights(content, checkpoint, param_key or ('params_ema' if averaged else 'params'))
        self.device = torch.device(device)
        self.net = build_network(network_options(weights, checkpoint)).eval()
        load_weights(self.net, weights, checkpoint)
        self.net.to(self.device)
        found = options_beside(checkpoint)
        options = found[1] if found else {}
        self._transform = _transform(options, getattr(self.net, 'input_size', None))
        try:
            with torch.inference_mode():
                logits = self.net(torch.zeros(1, 3, *self._transform.size, device=self.device))
        except RuntimeError as error:
            size = 'x'.join(map(str, self._transform.size))
            raise ValueError(
                f'{checkpoint}: the network takes no pictures of 3 channels and {size}: {error}'
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(f'{checkpoint}: the network is no classifier, whose output is (N, classes)')
        self.classes = list(options.get('class_names') or map(str, range(logits.shape[1])))
        if len(self.classes) != logits.shape[1]:
            raise ValueError(
                f'{checkpoint}: makes {logits.shape[1]} logits, and {found[0]} names {len(self.classes)} classes'
            )

    def read(self, path: str | os.PathLike) -> Tensor:
        """A picture as the network takes it, (3, H, W).

        Raises:
            OSError, ValueError: It cannot be read, or is not a picture.
        """
        return self._transform(torch.from_numpy(read_rgb(path)))

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """The probabilities of the classes (N, classes), float32, of pictures (N, 3, H, W) from `read`.

        Raises:
            ValueError: The network's output is not finite.
        """
        logits = self.net(image.to(self.device)).float().cpu()
        if broken := not_finite(logits):
            raise ValueError(f'of what the network makes of it, {broken}')
        return logits.softmax(1)


def predict(classifier: Classifier, files: Sequence[Path]) -> tuple[Predictions, list[str]]:
    """(the probabilities for each picture, a line for each that cannot be read or has none)."""
    predictions: Predictions = {}
    failures: list[str] = []

    def read(file: Path) -> Tensor | None:
        try:
            return classifier.read(file)
        except (OSError, ValueError) as error:
            failures.append(f'{file}: {error}'.splitlines()[0])
            return None

    def classify(batch: list[tuple[Path, Tensor]]) -> None:
        try:
            probabilities = classifier(torch.stack([image for _, image in batch]))
        except ValueError as error:
            if len(batch) == 1:
                failures.append(f'{batch[0][0]}: {error}')
                return
            for one in batch:
                classify([one])
            return
        predictions.update({str(file): row for (file, _), row in zip(batch, probabilities.tolist(), strict=True)})

    batch: list[tuple[Path, Tensor]] = []
    for file, image in zip(
        tqdm(files, 'Classify', unit='image', disable=None), read_ahead(map(read, files)), strict=True
    ):
        batch += [(file, image)] if image is not None else []
        if len(batch) == _BATCH:
            classify(batch)
            batch = []
    if batch:
        classify(batch)
    return predictions, failures


def write_predictions(predictions: Predictions, classes: Sequence[str], path: Path) -> None:
    """Write a table with a row a picture, or JSON: the class, its probability, and those of all classes."""
    found = {file: (classes[max(range(len(row)), key=row.__getitem__)], row) for file, row in predictions.items()}
    if path.suffix.lower() == '.json':
        content = {
            file: {'class': name, 'probability': max(row), 'probabilities': dict(zip(classes, row, strict=True))}
            for file, (name, row) in found.items()
        }
        write_text(path, json.dumps(content, indent=1, allow_nan=False) + '\n')
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['file', 'class', 'probability', *classes])
    for file, (name, row) in found.items():
        writer.writerow([file, name, f'{max(row):.6f}', *(f'{value:.6f}' for value in row)])
    write_text(path, text.getvalue())


def _transform(options: dict[str, Any], input_size: tuple[int, int] | None) -> PictureTransform:
    """What tests of the training did with a picture; elsewhere, what is usual."""
    sections = {key: section for key, section in (options.get('datasets') or {}).items() if isinstance(section, dict)}
    known = [key for key in sections if sections[key].get('type') == DomainFolderDataset.__name__]
    for key in sorted(known, key=lambda key: str(key).startswith('train')):
        augmented = {'transforms': None} if str(key).startswith('train') else {}
        return DomainFolderDataset.transform_of({**sections[key], **augmented, 'phase': 'test'})
    if sections:
        get_root_logger().warning(
            'The options beside the checkpoint do not tell what was done to pictures: they are resized to %dx%d and '
            'normalised as ImageNet networks want them',
            *(input_size or (IMAGE_SIZE, IMAGE_SIZE)),
        )
    return DomainFolderDataset.transform_of({'phase': 'test', 'image_size': input_size})
