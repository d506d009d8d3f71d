"""Sums of two arrays of one shape, as of a block and its shortcut; any others take the array-neutral form.

The sum lies in memory as the first of the two, whatever its size.
"""

from __future__ import annotations

import numpy as np

from .. import elementwise as neutral
from .entrywise import entrywise


def add_forward(input, other):
    if input.shape != other.shape or input.dtype != other.dtype:
        return neutral.add_forward(input, other)
    output = np.empty_like(input)
    entrywise(lambda a, b, out: np.add(a, b, out=out), input, other, output)
    return output, (input.shape, other.shape)


def add_backward(grad_output, saved, needs):
    return neutral.add_backward(grad_output, saved, needs)
