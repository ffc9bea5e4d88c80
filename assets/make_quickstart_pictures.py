"""Takes `layer_scores.png` and `crops.png` from what the quick start left:

    python Train_pip.py -opt options/train/LDT/train_LDT_MambaIR_quickstart.yml
    python assets/make_quickstart_pictures.py [EXPERIMENT]

EXPERIMENT: the run's folder, by default experiments/LDT_MambaIR_quickstart.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, UnidentifiedImageError

ASSETS = Path(__file__).resolve().parent
EXPERIMENT = ASSETS.parent / 'experiments' / 'LDT_MambaIR_quickstart'
WIDTHS = {'layer_scores.png': 1200, 'crops.png': 1100}


def shrink(source: Path, target: Path, width: int) -> None:
    """Write the picture `source` as `target`, at most `width` pixels wide, with 64 levels a colour.

    Raises:
        FileNotFoundError: `source` does not exist, or is not a picture.
    """
    try:
        picture = Image.open(source).convert('RGB')
    except (FileNotFoundError, UnidentifiedImageError) as error:
        raise FileNotFoundError(f'{source} is missing or not a picture; run the training first') from error
    width = min(width, picture.width)
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.BOX)
    picture.point(lambda level: 255 if level > 253 else 4 * round(level / 4)).save(target, optimize=True)


if __name__ == '__main__':
    experiment = Path(sys.argv[1]) if len(sys.argv) > 1 else EXPERIMENT
    for name, width in WIDTHS.items():
        shrink(experiment / name, ASSETS / name, width)
        print(ASSETS / name)
