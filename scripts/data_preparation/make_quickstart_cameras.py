"""Makes the quick start's data: photographs from installed packages, seen through four simulated cameras.

The cameras are described in basicsr/data/archives/camera_simulation.py. docs/quickstart_data.md lists the photographs,
the split and the cameras. Nothing is downloaded.

    python scripts/data_preparation/make_quickstart_cameras.py [--output FOLDER] [--force]
"""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    sys.path.insert(0, str(REPOSITORY))

from basicsr.data.archives.camera_simulation import SCALE, Camera, photograph_scene, to_uint8
from basicsr.data.archives.generated import command, generate
from basicsr.utils.matlab_functions import imresize

VERSION = 1  # increase it with every change to the pictures: folders of other versions are then made again
TRAIN_TILE = 480
TEST_CROP = 256


@dataclass(frozen=True)
class Photograph:
    """One bundled photograph and its place in the split.

    Attributes:
        path: package, then the file inside it.
        split: 'train', 'val' or 'test'.
        scene: what is in view; photographs of one scene stay in one split.
        crops: top-left (y, x) of the HR crops, multiples of 4; none for training, where the whole picture is tiled.
        shrink: integer factor by which a photograph that is soft at full size is reduced first.
    """

    path: str
    split: str
    scene: str
    crops: tuple[tuple[int, int], ...] = ()
    shrink: int = 1

    @property
    def name(self) -> str:
        return Path(self.path).stem


PHOTOGRAPHS = (
    Photograph('skimage/data/motorcycle_left.png', 'train', 'motorcycle'),
    Photograph('skimage/data/motorcycle_right.png', 'train', 'motorcycle'),
    Photograph('skimage/data/ihc.png', 'train', 'tissue'),
    Photograph('skimage/data/retina.jpg', 'train', 'retina', shrink=2),
    Photograph('skimage/data/hubble_deep_field.jpg', 'train', 'galaxies', shrink=2),
    Photograph('skimage/data/gravel.png', 'train', 'gravel'),
    Photograph('skimage/data/grass.png', 'train', 'grass'),
    Photograph('matplotlib/mpl-data/sample_data/grace_hopper.jpg', 'train', 'grace_hopper'),
    Photograph('skimage/data/rocket.jpg', 'val', 'rocket', ((168, 8), (168, 264))),
    Photograph('skimage/data/coins.png', 'val', 'coins', ((24, 64),)),
    Photograph('skimage/data/brick.png', 'val', 'brick', ((128, 128),)),
    Photograph('skimage/data/astronaut.png', 'test', 'astronaut', ((0, 96), (256, 64))),
    Photograph('skimage/data/coffee.png', 'test', 'coffee', ((24, 80), (144, 336))),
    Photograph('skimage/data/chelsea.png', 'test', 'chelsea', ((8, 112),)),
    Photograph('skimage/data/camera.png', 'test', 'camera', ((56, 176),)),
)

# fmt: off
CAMERAS = (
    Camera(
        'source', blur=(1.9, 1.6), angle=20, defocus=1.5, lateral_colour=1.0003,
        decentring=(0.1, 0.0), exposure=0.95, shot=3e-5, read=0.0005, mosaic=False, white_balance=(1.02, 1.0, 0.98),
        saturation=1.05, gamma=1.0, contrast=0.10, denoise=0, sharpen=0.3, jpeg=97,
    ),
    Camera(
        'wide', blur=(2.6, 1.9), angle=75, defocus=2.0, lateral_colour=1.0012,
        decentring=(0.3, -0.2), exposure=1.0, shot=6e-5, read=0.0005, mosaic=False, white_balance=(0.96, 1.0, 1.05),
        saturation=0.95, gamma=0.95, contrast=0.05, denoise=0, sharpen=0.2, jpeg=95,
    ),
    Camera(
        'night', blur=(1.8, 1.8), angle=0, defocus=2.5, lateral_colour=1.0004,
        decentring=(-0.1, 0.1), exposure=0.6, shot=3e-4, read=0.001, mosaic=False, white_balance=(1.12, 1.0, 0.85),
        saturation=0.9, gamma=0.92, contrast=0.15, denoise=10, sharpen=0.3, jpeg=95,
    ),
    Camera(
        'phone', blur=(1.6, 1.4), angle=-30, defocus=1.0, lateral_colour=1.0006,
        decentring=(0.2, 0.2), exposure=1.0, shot=3e-4, read=0.001, mosaic=True, white_balance=(0.98, 1.0, 1.02),
        saturation=1.15, gamma=0.97, contrast=0.25, denoise=6, sharpen=0.5, jpeg=92,
    ),
)
# fmt: on

SPLITS = {'source': ('train', 'val', 'test'), 'wide': ('test',), 'night': ('test',), 'phone': ('test',)}


def read_photograph(photograph: Photograph) -> np.ndarray:
    """Reads a photograph from the package that contains it.

    Returns:
        uint8 BGR picture (height, width, 3), both sides multiples of 4.

    Raises:
        FileNotFoundError: the installed package does not contain the file.
    """
    package, _, inside = photograph.path.partition('/')
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"the quick start's photograph {photograph.path} is not installed; "
            'reinstall its package with: pip install --force-reinstall scikit-image matplotlib'
        )
    img = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    height, width = (side // photograph.shrink for side in img.shape[:2])
    if photograph.shrink > 1:
        img = cv2.resize(img, (width, height), interpolation=cv2.INTER_AREA)
    return img[: height // SCALE * SCALE, : width // SCALE * SCALE]


def windows(photograph: Photograph, shape: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Returns the HR windows (y, x, height, width) of a photograph, all multiples of 4.

    A training photograph is cut into equal tiles of at most 480 px; the others give their crops of 256 px.
    """
    if photograph.crops:
        return [(y, x, TEST_CROP, TEST_CROP) for y, x in photograph.crops]
    counts = [-(-side // TRAIN_TILE) for side in shape[:2]]
    height, width = (side // count // SCALE * SCALE for side, count in zip(shape[:2], counts, strict=True))
    return [(y * height, x * width, height, width) for y in range(counts[0]) for x in range(counts[1])]


def render() -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yields every pair: its folder below the root, its file name, HR and LR (uint8 BGR)."""
    for photograph in PHOTOGRAPHS:
        img = read_photograph(photograph)
        views = {
            f'{camera.name}/{photograph.split}': photograph_scene(img, camera, f'{camera.name}/{photograph.name}')
            for camera in CAMERAS
            if photograph.split in SPLITS[camera.name]
        }
        if photograph.split == 'train':
            views['source_bicubic/train'] = (img, to_uint8(imresize(img.astype(np.float32) / 255, 1 / SCALE)))
        for folder, (hr, lr) in views.items():
            for index, (y, x, height, width) in enumerate(windows(photograph, img.shape)):
                low = tuple(slice(start // SCALE, (start + size) // SCALE) for start, size in ((y, height), (x, width)))
                yield folder, f'{photograph.name}_{index}.png', hr[y : y + height, x : x + width], lr[low]


def parameters() -> dict:
    """Returns everything that determines the content of the data set."""
    return {
        'version': VERSION,
        'scale': SCALE,
        'train_tile': TRAIN_TILE,
        'test_crop': TEST_CROP,
        'photographs': [asdict(photograph) for photograph in PHOTOGRAPHS],
        'cameras': [asdict(camera) for camera in CAMERAS],
        'splits': SPLITS,
    }


def files() -> Iterator[tuple[str, bytes]]:
    """Yields every file: its path below the root, and its content."""
    for folder, name, hr, lr in render():
        for kind, img in (('HR', hr), ('LR', lr)):
            yield f'{folder}/{kind}/{name}', cv2.imencode('.png', img)[1].tobytes()


def make(output: Path, force: bool = False) -> Path:
    """Makes the data set, or does nothing if it is complete; see `basicsr.data.archives.generated.generate`."""
    return generate(output, parameters(), files, force)


def main() -> None:
    """Parses the arguments and makes the data set."""
    command(__doc__.splitlines()[0], REPOSITORY / 'datasets' / 'quickstart', make)


if __name__ == '__main__':
    main()
