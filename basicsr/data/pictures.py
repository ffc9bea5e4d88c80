"""Arguments shared by all data sets of pictures: their types and checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, Len

from basicsr.data.tasks import GREY_TASKS, TASKS

Size = Annotated[int, Ge(1)]
Noise = Annotated[float, Ge(0)]
Means = Annotated[Sequence[float], Len(1)]
Deviations = Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)]


def picture_mistakes(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Mistakes in task, color, mean and std, as (argument, message)."""
    task, color, mean, std = given.get('task', 'SR'), given.get('color', 'rgb'), given.get('mean'), given.get('std')
    if task not in TASKS:
        yield 'task', f'must be one of {", ".join(TASKS)}, not {task!r}'
    if color not in ('y', 'rgb'):
        yield 'color', f'must be y or rgb, not {color!r}'
    elif color == 'y' and task in GREY_TASKS:
        yield 'color', f'y does not go with task {task}, whose pictures are grey; leave it out'
    if (mean is None) != (std is None):
        yield 'std' if std is None else 'mean', 'missing; mean and std belong together'
    elif mean is not None and len(mean) != len(std):
        yield 'std', f'must have as many numbers as mean, {len(mean)}, not {len(std)}'
