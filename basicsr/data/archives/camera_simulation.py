"""A simulated camera: one scene, photographed with a long lens (HR) and with one of a quarter of its length (LR).

The HR picture is sharp and free of noise. The LR picture goes through everything that degrades a real one. Both
share the camera's exposure, white balance, colours and tone curve, and show the same field of view:

    scene  = linear light of a photograph (IEC 61966-2-1 decoding), times the exposure
    LR     : lateral colour -> gaussian and defocus blur -> 4 x 4 pixel aperture -> shot and read noise
             -> 12 bit -> (Bayer mosaic, demosaicing, binning) -> development -> denoising -> sharpening -> JPEG
    HR     : development
    development = white balance -> colour matrix -> sRGB encoding -> gamma -> S-curve

The noise is gaussian with variance `shot * signal + read ** 2` (Foi et al., "Practical Poissonian-Gaussian noise
modeling and fitting for single-image raw-data", IEEE Transactions on Image Processing, 2008).
"""

from dataclasses import dataclass

import cv2
import numpy as np

SCALE = 4


@dataclass(frozen=True)
class Camera:
    """One camera. Lengths are in HR pixels, four of which make one LR pixel; colours are in the order R, G, B.

    Attributes:
        name: name of the folder of its pictures.
        blur: standard deviations of the gaussian blur along its two axes.
        angle: direction of the first axis, in degrees.
        defocus: radius of the disc of confusion.
        lateral_colour: magnification of red over green; blue has the reciprocal.
        decentring: shift (x, y) of red against green; blue has the opposite one.
        exposure: factor on the scene's linear light.
        shot: variance of the noise per unit of signal, full scale being 1.
        read: standard deviation of the noise in the dark.
        mosaic: whether the sensor has an RGGB filter; its photosites are then half an LR pixel wide, and four of them
            make a pixel after demosaicing. Without, every pixel measures all three colours.
        white_balance: gains that development leaves relative to a neutral grey.
        saturation: of the colour matrix; 1 changes nothing, 0 is grey.
        gamma: exponent after sRGB encoding; below 1 lifts the shadows.
        contrast: strength of the S-curve, 0 to 1.
        denoise: range (of 255) of the bilateral filter, 0 for none.
        sharpen: amount of unsharp masking at a radius of one LR pixel.
        jpeg: quality, 1 to 100.
    """

    name: str
    blur: tuple[float, float]
    angle: float
    defocus: float
    lateral_colour: float
    decentring: tuple[float, float]
    exposure: float
    shot: float
    read: float
    mosaic: bool
    white_balance: tuple[float, float, float]
    saturation: float
    gamma: float
    contrast: float
    denoise: float
    sharpen: float
    jpeg: int


def to_linear(encoded: np.ndarray) -> np.ndarray:
    """Decodes sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_encoded(linear: np.ndarray) -> np.ndarray:
    """Encodes linear light in [0, 1] as sRGB (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)


def point_spread(camera: Camera) -> np.ndarray:
    """Returns the lens's point spread function: a rotated gaussian convolved with a disc, of sum 1."""
    radius = int(np.ceil(3 * max(camera.blur) + camera.defocus))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    turn = np.deg2rad(camera.angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    gaussian = np.exp(-0.5 * ((along / camera.blur[0]) ** 2 + (across / camera.blur[1]) ** 2))
    disc = np.clip(camera.defocus + 0.5 - np.hypot(x, y), 0, 1)
    kernel = cv2.filter2D(gaussian, -1, disc, borderType=cv2.BORDER_CONSTANT)
    return kernel / kernel.sum()


def expose(scene: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Takes the raw LR picture: lens, pixel aperture, noise, quantisation, colour filter.

    Args:
        scene: linear light (height, width, 3), BGR, in [0, 1].
        camera: the camera.
        rng: generator of the noise.

    Returns:
        Linear float32 BGR picture (height / 4, width / 4, 3) in [0, 1].
    """
    height, width = scene.shape[:2]
    image = scene.copy()
    for channel, sign in ((2, 1), (0, -1)):
        zoom = camera.lateral_colour**sign
        x, y = (sign * shift for shift in camera.decentring)
        matrix = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2 + x], [0, zoom, (1 - zoom) * (height - 1) / 2 + y]])
        image[..., channel] = cv2.warpAffine(
            image[..., channel], matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
    image = cv2.filter2D(image, -1, point_spread(camera), borderType=cv2.BORDER_REFLECT)
    pitch = SCALE // 2 if camera.mosaic else SCALE
    raw = cv2.resize(image, (width // pitch, height // pitch), interpolation=cv2.INTER_AREA).clip(0, 1)
    raw = raw + rng.standard_normal(raw.shape) * np.sqrt(camera.shot * raw + camera.read**2)
    raw = np.round(raw.clip(0, 1) * 4095).astype(np.uint16)
    if camera.mosaic:
        filtered = raw[..., 1].copy()
        filtered[0::2, 0::2] = raw[0::2, 0::2, 2]
        filtered[1::2, 1::2] = raw[1::2, 1::2, 0]
        raw = cv2.cvtColor(filtered, cv2.COLOR_BayerRGGB2BGR_EA)
        raw = cv2.resize(raw, (width // SCALE, height // SCALE), interpolation=cv2.INTER_AREA)
    return raw.astype(np.float32) / 4095


def develop(raw: np.ndarray, camera: Camera) -> np.ndarray:
    """Develops linear BGR light in [0, 1] to an encoded float32 picture in [0, 1] of the same shape.

    The S-curve is e - contrast * sin(2 pi e) / (2 pi): it keeps black, mid-grey and white, and is monotonic.
    """
    balanced = (raw * np.float32(camera.white_balance[::-1])).clip(0, 1)
    grey = balanced @ np.float32([0.0722, 0.7152, 0.2126])
    coloured = (grey[..., None] + camera.saturation * (balanced - grey[..., None])).clip(0, 1)
    encoded = to_encoded(coloured) ** camera.gamma
    return (encoded - camera.contrast * np.sin(2 * np.pi * encoded) / (2 * np.pi)).clip(0, 1).astype(np.float32)


def to_uint8(img: np.ndarray) -> np.ndarray:
    """Rounds a picture in [0, 1] to uint8."""
    return np.round(img * 255).clip(0, 255).astype(np.uint8)


def photograph_scene(img: np.ndarray, camera: Camera, seed: str) -> tuple[np.ndarray, np.ndarray]:
    """Takes both pictures of one scene.

    Args:
        img: uint8 BGR photograph (height, width, 3) that serves as the scene, sides multiples of 4.
        camera: the camera.
        seed: text that seeds the noise.

    Returns:
        HR (height, width, 3) and LR (height / 4, width / 4, 3), uint8 BGR.

    Raises:
        ValueError: `img` is not a uint8 colour picture with sides that are multiples of 4.
    """
    if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3 or img.shape[0] % SCALE or img.shape[1] % SCALE:
        raise ValueError(
            f'a scene is a uint8 (height, width, 3) picture with sides that are multiples of {SCALE}, '
            f'not {img.dtype} {img.shape}; convert or crop it'
        )
    scene = (to_linear(img.astype(np.float32) / 255) * camera.exposure).clip(0, 1)
    picture = develop(expose(scene, camera, np.random.default_rng(list(seed.encode()))), camera)
    if camera.denoise:
        picture = cv2.bilateralFilter(picture, 5, camera.denoise / 255, 1.5)
    picture = picture + camera.sharpen * (picture - cv2.GaussianBlur(picture, (0, 0), 1.0))
    _, stream = cv2.imencode('.jpg', to_uint8(picture), [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg])
    return to_uint8(develop(scene, camera)), cv2.imdecode(stream, cv2.IMREAD_COLOR)
