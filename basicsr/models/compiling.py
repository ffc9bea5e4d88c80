"""torch.compile, tried before a run counts on it."""

from __future__ import annotations

import random

import torch
from torch import Tensor


def check_compiler(device: torch.device) -> None:
    """Compile a line of code: torch.compile looks for its compiler no earlier than in the first step.

    Raises:
        ValueError: There is none, or it does not work.
    """
    factor = random.Random().random()  # what was compiled before needs no compiler

    def line(x: Tensor) -> Tensor:
        return (x * factor).sin()

    try:
        torch.compile(line)(torch.ones(8, device=device))
    except Exception as error:  # compilers, and what calls them, fail in many ways
        said = next((one for one in str(error).splitlines() if one and not one.endswith('raised:')), repr(error))
        raise ValueError(
            f'train.compile: torch.compile does not work here: {said}; install a C++ compiler (g++), or leave '
            'train.compile out'
        ) from error
