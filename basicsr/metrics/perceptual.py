"""LPIPS and DISTS, computed by the package pyiqa, which downloads its weights on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from basicsr.metrics.metric_util import cropped_size, reorder_image
from basicsr.options.bounds import Border
from basicsr.utils.img_util import crop_border as crop_picture
from basicsr.utils.img_util import img2tensor
from basicsr.utils.misc import is_out_of_memory
from basicsr.utils.registry import METRIC_REGISTRY


@METRIC_REGISTRY.register()
def calculate_lpips(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: Border,
    input_order: Literal['HWC', 'CHW'] = 'HWC',
    net: Literal['alex', 'vgg', 'squeeze'] = 'alex',
    **kwargs: Any,
) -> float:
    """Return the learned perceptual distance of two pictures (Zhang et al., CVPR 2018), version 0.1; lower is better.

    Args:
        img: (h, w), (h, w, c) or, by `input_order`, (c, h, w); BGR in [0, 255].
        img2: As `img`.
        crop_border: Pixels to leave out at each side.
        input_order: HWC or CHW.
        net: Network whose features are compared; alex is the usual choice for evaluation.
        kwargs: Options that are not the metric's, such as `better`; ignored.

    Raises:
        ImportError: The package pyiqa is missing.
        FileNotFoundError: Its weights are not on this machine and cannot be downloaded.
        ValueError: The shapes differ, or the pictures are too small for the network.
    """
    return _distance(_model('lpips', net=net), img, img2, crop_border, input_order)


@METRIC_REGISTRY.register()
def calculate_dists(
    img: np.ndarray, img2: np.ndarray, crop_border: Border, input_order: Literal['HWC', 'CHW'] = 'HWC', **kwargs: Any
) -> float:
    """Return the distance of two pictures in structure and texture (Ding et al., TPAMI 2020); lower is better.

    Args:
        img: (h, w), (h, w, c) or, by `input_order`, (c, h, w); BGR in [0, 255].
        img2: As `img`.
        crop_border: Pixels to leave out at each side.
        input_order: HWC or CHW.
        kwargs: Options that are not the metric's, such as `better`; ignored.

    Raises:
        ImportError, ValueError: As `calculate_lpips`.
    """
    return _distance(_model('dists'), img, img2, crop_border, input_order)


def _check_with(make: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Iterator[tuple[str, str]]]:
    """Check before a run whether the metric can be computed; see `basicsr.options.choices`."""

    def check(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
        try:
            make(given)
        except (ImportError, OSError) as error:
            yield 'type', str(error)

    return check


calculate_lpips.check_size = calculate_dists.check_size = lambda height, width, given: cropped_size(
    height, width, given.get('crop_border', 0)
)
calculate_lpips.check_options = _check_with(lambda given: _model('lpips', net=given.get('net', 'alex')))
calculate_dists.check_options = _check_with(lambda given: _model('dists'))


@lru_cache(maxsize=4)
def _model(name: str, **options: Any) -> torch.nn.Module:
    """pyiqa's metric of that name, on the CPU: options are checked before a process knows its GPU."""
    try:
        import pyiqa
    except ImportError as error:
        raise ImportError(f'{name.upper()} needs the package pyiqa ({error}): pip install pyiqa') from error
    try:
        return pyiqa.create_metric(name, device=torch.device('cpu'), **options)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f'pyiqa cannot get the weights of {name.upper()} ({error}). It fetches them on first use: run once with a '
            f'connection to the internet, or copy {torch.hub.get_dir()} from a machine that has them'
        ) from error


def _distance(model: torch.nn.Module, img: np.ndarray, img2: np.ndarray, crop_border: int, input_order: str) -> float:
    if img.shape != img2.shape:
        raise ValueError(f'the pictures to compare differ in shape: {img.shape} and {img2.shape}')
    first, second = (_as_batch(crop_picture(reorder_image(one, input_order), crop_border)) for one in (img, img2))
    device = torch.device('cuda', torch.cuda.current_device()) if torch.cuda.is_available() else torch.device('cpu')
    try:
        with torch.inference_mode():
            return float(model.to(device)(first.to(device), second.to(device)))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        size = 'x'.join(map(str, first.shape[-2:]))
        reason = str(error).splitlines()[0]
        raise ValueError(
            f'the network of the metric does not take {size} pixels, the cropped size: {reason}'
        ) from error


def _as_batch(img: np.ndarray) -> Tensor:
    """(h, w, c), BGR or grey in [0, 255] -> (1, 3, h, w), RGB in [0, 1]."""
    tensor = img2tensor(img.astype(np.float32)) / 255
    return tensor.expand(3, -1, -1)[None]
