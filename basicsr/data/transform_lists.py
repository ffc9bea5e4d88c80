"""Transforms of torchvision v2, from lists that YAML can hold."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from basicsr.runs.aside import random_numbers_kept
from basicsr.utils.registry import did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Entry = str | Mapping[str, Any]
"""`RandomHorizontalFlip`, `{RandomHorizontalFlip: {p: 0.5}}` or `{type: RandomHorizontalFlip, p: 0.5}`."""
_TRIED = (((480, 640), (640, 512)), ((2000, 2600), (2600, 2100)))
"""Sizes of pairs of pictures on which transforms are tried, the second pair for those that need larger ones. Where
results differ, the size of what comes out is open."""
_OF_BATCHES = ('CutMix', 'MixUp')
_NOT_FROM_FILES = ('Lambda', 'Transform')


def domainbed(size: tuple[int, int]) -> list[Entry]:
    """The augmentation of DomainBed: crop, flip, colour, grey (https://github.com/facebookresearch/DomainBed)."""
    return [
        {'RandomResizedCrop': {'size': list(size), 'scale': [0.7, 1.0]}},
        'RandomHorizontalFlip',
        {'ColorJitter': {'brightness': 0.3, 'contrast': 0.3, 'saturation': 0.3, 'hue': 0.3}},
        {'RandomGrayscale': {'p': 0.1}},
    ]


def resized(size: tuple[int, int]) -> list[Entry]:
    """What val and test do by default: the whole picture in that size, whatever its proportions, as in DomainBed."""
    return [{'Resize': {'size': list(size)}}]


@functools.cache
def choices() -> dict[str, type[v2.Transform]]:
    """The transforms that a file may name."""
    return {
        name: kind
        for name, kind in vars(v2).items()
        if inspect.isclass(kind) and issubclass(kind, v2.Transform) and name not in (*_OF_BATCHES, *_NOT_FROM_FILES)
    }


def build_transforms(entries: Sequence[Entry]) -> list[v2.Transform]:
    """Build the transforms of a list.

    Raises:
        ValueError: An entry names none, or has arguments that it does not take; the message says which entry.
    """
    if not isinstance(entries, list | tuple):
        raise ValueError(f'must be a list of transforms, not {entries!r}')
    return [_build(entry, f'entry {number}') for number, entry in enumerate(entries, 1)]


def normalises(entries: Sequence[Entry]) -> bool:
    """Whether a list has a `Normalize` of its own."""
    return any(_parts(entry, '')[0] == 'Normalize' for entry in entries)


def _parts(entry: Any, place: str) -> tuple[str, dict[str, Any] | Any]:
    """(name, arguments by name or the first one)."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and 'type' in entry:
        return entry['type'], {key: value for key, value in entry.items() if key != 'type'}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
        return name, {} if arguments is None else arguments
    raise ValueError(f'{place}: must be a name, `Name: {{argument: value}}` or `type: Name` beside arguments, '
                     f'not {entry!r}')  # fmt: skip


def _build(entry: Any, place: str) -> v2.Transform:
    name, given = _parts(entry, place)
    if name in _OF_BATCHES:
        raise ValueError(f'{place}: {name} mixes the pictures and labels of a batch; here are single pictures')
    kind = choices().get(name)
    if kind is None:
        near = did_you_mean(name, choices())
        raise ValueError(f'{place}: torchvision.transforms.v2 has no transform {name!r} for single pictures{near}')
    place, parameters = f'{place}, {name}', inspect.signature(kind).parameters
    if not isinstance(given, Mapping):
        given = {next(iter(parameters), 'nothing'): given}
    arguments = {}
    for key, value in given.items():
        if key not in parameters:
            known = ', '.join(parameters) or 'none'
            raise ValueError(f'{place}: has no argument {key!r}{did_you_mean(key, parameters)} It takes: {known}')
        arguments[key] = _value(value, parameters[key], place)
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{place}: {error}') from error


def _value(value: Any, parameter: inspect.Parameter, place: str) -> Any:
    """What a file says, as torchvision takes it: names of types and of choices, transforms within transforms."""
    if parameter.name == 'transforms':
        one_by_one = isinstance(value, list | tuple)
        inner = [_build(entry, f'{place}, entry {at}') for at, entry in enumerate(value if one_by_one else [value], 1)]
        return inner if one_by_one else inner[0]
    if not isinstance(value, str):
        return value
    if parameter.name == 'dtype':
        kind = getattr(torch, value, None)
        if not isinstance(kind, torch.dtype):
            raise ValueError(f'{place}: dtype must be a type of torch such as float32, not {value!r}')
        return kind
    kind = v2.InterpolationMode if parameter.name == 'interpolation' else type(parameter.default)
    if issubclass(kind, enum.Enum):
        known = {one.value: one for one in kind}
        if value not in known:
            near = did_you_mean(value, known)
            raise ValueError(f'{place}: {parameter.name} is one of {", ".join(known)}, not {value!r}{near}')
        return known[value]
    return value


class PictureTransform:
    """Makes a float tensor of one size from a picture.

    Where the size that transforms give depends on the picture, it is resized in the end.

    Args:
        entries: The transforms; they get uint8, (3, h, w).
        size: Height and width for what leaves its size open.
        mean, std: By channel, of values in [0, 1], for the normalisation after all; None for none.

    Attributes:
        size: Height and width of what comes out.

    Raises:
        ValueError: An entry is wrong, or fails for a picture of usual size.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        size: tuple[int, int],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        steps = [*build_transforms(entries), v2.ToDtype(torch.float32, scale=True)]
        last = [] if mean is None else [v2.Normalize(list(mean), list(std))]
        self._steps = v2.Compose([*steps, *last])
        with random_numbers_kept():
            sizes = self._sizes()
            if len(sizes) > 1:
                self._steps = v2.Compose([*steps, v2.Resize(list(size)), *last])
                sizes = self._sizes()
        (self.size,) = sizes

    def _sizes(self) -> set[tuple[int, int]]:
        """Those of what becomes of two pictures."""
        try:
            return {self._tried(height, width) for height, width in _TRIED[0]}
        except ValueError:
            return {self._tried(height, width) for height, width in _TRIED[1]}

    def _tried(self, height: int, width: int) -> tuple[int, int]:
        try:
            made = self._steps(torch.zeros(3, height, width, dtype=torch.uint8))
        except Exception as error:  # whatever torchvision says to arguments that it took when it was built
            raise ValueError(f'a picture of {height}x{width} cannot pass: {error}') from error
        if not isinstance(made, Tensor) or made.ndim != 3 or not made.is_floating_point() or made.shape[0] != 3:
            what = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f'must make a float tensor (3, h, w) of a picture, not {what}')
        return tuple(made.shape[-2:])

    def __call__(self, picture: Tensor) -> Tensor:
        """Transform a picture.

        Args:
            picture: uint8, (h, w, 3).

        Returns:
            float32, (3, *size).

        Raises:
            ValueError: A transform fails, or gives another size.
        """
        height, width = picture.shape[:2]
        try:
            made = self._steps(picture.permute(2, 0, 1))
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(f'transforms: a picture of {height}x{width} cannot pass: {error}') from error
        if tuple(made.shape[-2:]) != self.size:
            raise ValueError(
                f'transforms: make {made.shape[-2]}x{made.shape[-1]} of {height}x{width}, and {self.size[0]}x'
                f'{self.size[1]} of others; end them with a Resize or a crop to one size'
            )
        return made.contiguous()
