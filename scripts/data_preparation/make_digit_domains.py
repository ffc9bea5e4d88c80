"""Makes the data of the classification quick start: scikit-learn's handwritten digits, drawn in six ways.

Each way is a domain, with digits of its own. docs/quickstart_data.md describes them. Nothing is downloaded.

    python scripts/data_preparation/make_digit_domains.py [--output FOLDER] [--force]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
if __name__ == '__main__':
    sys.path.insert(0, str(REPOSITORY))

from basicsr.data.archives.generated import command, generate

VERSION = 1  # increase it with every change to the pictures: folders of other versions are then made again
SIDE = 32
MARGIN = 6
MOST_TURNED = 45
"""Degrees, either way."""
NOISE = 0.35
"""Standard deviation, of values in [0, 1]."""
DOMAINS = ('plain', 'turned', 'inverted', 'noisy', 'thin', 'thick')
SHARES = (3, 1, 1, 1, 1, 1)
"""Of the digits; a network is pre-trained on the first domain."""


def drawn(digit: np.ndarray, domain: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a digit as its domain does.

    Args:
        digit: (8, 8), strokes bright, in [0, 16].
        domain: one of `DOMAINS`.
        rng: for what is random.

    Returns:
        uint8 (32, 32).
    """
    inner = SIDE - 2 * MARGIN
    picture = cv2.resize(digit.astype(np.float32) / 16, (inner, inner), interpolation=cv2.INTER_CUBIC)
    picture = np.pad(picture.clip(0, 1), MARGIN)
    if domain == 'turned':
        degrees = rng.uniform(MOST_TURNED / 3, MOST_TURNED) * rng.choice((-1, 1))
        turn = cv2.getRotationMatrix2D(((SIDE - 1) / 2, (SIDE - 1) / 2), degrees, 1)
        picture = cv2.warpAffine(picture, turn, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    elif domain == 'inverted':
        picture = 1 - picture
    elif domain == 'noisy':
        picture = picture + rng.normal(0, NOISE, picture.shape)
    elif domain == 'thin':
        picture = cv2.erode(picture, np.ones((3, 3), np.uint8))
        picture = picture / max(picture.max(), 0.1)
    elif domain == 'thick':
        picture = cv2.dilate(picture, np.ones((3, 3), np.uint8))
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def parameters() -> dict:
    """Returns everything that determines the content of the data set."""
    return {
        'version': VERSION, 'side': SIDE, 'margin': MARGIN, 'most_turned': MOST_TURNED, 'noise': NOISE,
        'domains': DOMAINS, 'shares': SHARES,
    }  # fmt: skip


def files() -> Iterator[tuple[str, bytes]]:
    """Yields every file: its path below the root, `<domain>/<digit>/<place in scikit-learn's list>.png`, its content.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install -e '.[digits]'"
        ) from error
    digits = load_digits()
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(len(DOMAINS)), SHARES)
    for place, (digit, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        domain = DOMAINS[owners[place % len(owners)]]
        picture = cv2.imencode('.png', drawn(digit, domain, rng))[1].tobytes()
        yield f'{domain}/{label}/{place:04d}.png', picture


def make(output: Path, force: bool = False) -> Path:
    """Makes the data set, or does nothing if it is complete; see `basicsr.data.archives.generated.generate`."""
    return generate(output, parameters(), files, force)


def main() -> None:
    """Parses the arguments and makes the data set."""
    command(__doc__.splitlines()[0], REPOSITORY / 'datasets' / 'digits', make)


if __name__ == '__main__':
    main()
