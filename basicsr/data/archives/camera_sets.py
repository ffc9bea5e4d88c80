"""Data sets of real cameras, DRealSR and RealSR, and how their archives name pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

SPLITS = ('train', 'test')
SIDES = ('HR', 'LR')

_WORDS = re.compile(r'train(?:ing)?|test(?:ing)?|hr|gt|lr|lq|x\d(?!\d)|\dx(?![a-z])|[a-z]+|\d+')
_SPLIT = {'train': 'train', 'training': 'train', 'test': 'test', 'testing': 'test'}
_SIDE = {'hr': 'HR', 'gt': 'HR', 'lr': 'LR', 'lq': 'LR'}
_SCALE = {f'x{scale}': scale for scale in range(2, 9)} | {f'{scale}x': scale for scale in range(2, 9)}

_DREALSR_NAME = re.compile(
    r'(?P<scene>(?:(?P<olympus>P)1\d{6}|(?P<other>panasonic|sony|DSC|IMG|Canon)_\d+))'
    r'(?:_x(?P<scale>\d))?(?P<patch>(?:_\d+)*)(?:_x(?P<late_scale>\d))?'
)
_REALSR_NAME = re.compile(r'(?P<name>.+?)_(?:(?P<hr>HR)|LR(?P<scale>\d)?)', re.IGNORECASE)


@dataclass(frozen=True)
class Named:
    """What a picture's folders and name say about it.

    Attributes:
        camera: One of the set's cameras.
        split: train or test.
        side: HR or LR.
        name: The common name of both pictures of the pair, without extension.
        scene: The scene, if names tell it, unique within the camera; else None.
    """

    camera: str
    split: str
    side: str
    name: str
    scene: str | None


NotNamed = Literal['outside', 'unnamed'] | int
"""Why a picture is skipped: its folders do not tell train or test and HR or LR; unknown camera; other scale."""


@dataclass(frozen=True)
class CameraSet:
    """A data set of several cameras.

    Attributes:
        name: Name of the data set.
        cameras: In the order of tables.
        identify: Identifies a picture by its folders (outermost first), its name without extension, and the scale.
        folders: Folders of the archive, for messages.
        known: Numbers of pairs by scale, split and camera, if known.
        merges: Cameras that `--merge-canon` merges: from, to.
    """

    name: str
    cameras: tuple[str, ...]
    identify: Callable[[Sequence[str], str, int], Named | NotNamed]
    folders: str
    known: Mapping[int, Mapping[str, Mapping[str, int]]]
    merges: Mapping[str, str] = field(default_factory=dict)


def _innermost(folders: Sequence[str], meanings: Mapping[str, str | int]) -> str | int | None:
    """The meaning of the words in the innermost folder name that has an unambiguous one, or None."""
    for folder in reversed(folders):
        found = {meanings[word] for word in _WORDS.findall(folder.lower()) if word in meanings}
        if len(found) == 1:
            return found.pop()
    return None


def _identify_drealsr(folders: Sequence[str], stem: str, scale: int) -> Named | NotNamed:
    """`train_HR/P1140279_x4_12`: side and split by folder, camera by the start of the name."""
    split, side = _innermost(folders, _SPLIT), _innermost(folders, _SIDE)
    if not split or not side:
        return 'outside'
    folder_scale = _innermost(folders, _SCALE)
    if folder_scale not in (None, scale):
        return folder_scale
    match = _DREALSR_NAME.fullmatch(stem)
    if not match:
        return 'unnamed'
    name_scale = int(match['scale'] or match['late_scale'] or 1)
    if name_scale not in (1, scale):
        return name_scale
    return Named(match['olympus'] or match['other'], split, side, match['scene'] + match['patch'], match['scene'])


def _identify_realsr(folders: Sequence[str], stem: str, scale: int) -> Named | NotNamed:
    """`Canon/Train/4/Canon_012_LR4`: split by folder, side by folder or else by the end of the name.

    (Some copies of the set call both sides of a pair `Canon_012_LR4`.)
    """
    match = _REALSR_NAME.fullmatch(stem)
    split, side = _innermost(folders, _SPLIT), _innermost(folders, _SIDE)
    side = side or (match and ('HR' if match['hr'] else 'LR'))
    if not split or not side:
        return 'outside'
    plain = {str(number): number for number in _SCALE.values()}
    folder_scale = _innermost([folder for folder in folders if folder in plain], plain) or _innermost(folders, _SCALE)
    name_scale = int(match['scale']) if match and match['scale'] else None
    for found in (name_scale, folder_scale):
        if found not in (None, scale):
            return found
    name = match['name'] if match else stem
    for camera in ('Canon', 'Nikon'):
        if name.startswith(f'{camera}_'):
            return Named(camera, split, side, name, None)
    camera = _innermost(folders, {'canon': 'Canon', 'nikon': 'Nikon'})
    return Named(camera, split, side, name, None) if camera else 'unnamed'


DREALSR = CameraSet(
    name='DRealSR',
    cameras=('P', 'panasonic', 'sony', 'DSC', 'IMG', 'Canon'),
    identify=_identify_drealsr,
    folders='train_HR, train_LR, test_HR, test_LR',
    known={
        4: {
            'train': {'P': 7097, 'panasonic': 7323, 'sony': 5905, 'DSC': 4022, 'IMG': 4122, 'Canon': 2033},
            'test': {'P': 19, 'panasonic': 20, 'sony': 17, 'DSC': 20, 'IMG': 12, 'Canon': 5},
        }
    },
    merges={'IMG': 'Canon'},
)

REALSR = CameraSet(
    name='RealSR',
    cameras=('Canon', 'Nikon'),
    identify=_identify_realsr,
    folders='Canon/Train, Canon/Test, Nikon/Train, Nikon/Test',
    known={scale: {'test': {'Canon': 50, 'Nikon': 50}} for scale in (2, 3, 4)},
)
