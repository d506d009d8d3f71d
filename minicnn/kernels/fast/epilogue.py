"""The epilogue of a convolution in inference: batch norm, an addition and ReLU, on each part of its output.

One after the other, each of the three reads all of the maps and writes them: three more ways through memory. But a
convolution makes its output part by part, and a part that has just been made lies in the cache. So what shall follow is
done to it there and then, in place. Every number goes through the same operations as in the passes of their own, so no
bit differs.

`nn.through` sees which layers follow a convolution, and offers them; `conv2d_forward` takes what fits its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from itertools import takewhile
from typing import Any, Protocol

import numpy as np

from .layout import Place
from .norm import fixed


class Step(Protocol):
    """What a layer does to maps, in place."""

    def fits(self, shape: tuple[int, ...], dtype: np.dtype) -> bool:
        """Whether it does to maps of this kind just what the layer would."""

    def __call__(self, part: np.ndarray, place: Place) -> None:
        """Do it to that part of the maps which lies at this place."""


def _alike(x: Any, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return isinstance(x, np.ndarray) and x.shape == shape and x.dtype == dtype


class Norm:
    """Batch norm in evaluation; `arrays` (C,): γ and β, either may be None for 1 or 0, the mean and the variance."""

    def __init__(self, arrays: Sequence[Any], eps: float):
        self.arrays, self.eps = arrays, eps

    def fits(self, shape, dtype):
        if self.eps < 0 or not all(_alike(x, shape[1:2], dtype) for x in self.arrays if x is not None):
            return False
        weight, bias, mean, var = self.arrays
        self.centre, self.scale, self.shift = fixed(weight, bias, mean, (var + self.eps) ** -0.5)
        return True

    def __call__(self, part, place):
        _, channels, _ = place
        if self.centre is not None:
            part -= self.centre[channels, None, None]
        part *= self.scale[channels, None, None]
        part += self.shift[channels, None, None]


class Addition:
    """The sum with other maps; with None, nothing."""

    def __init__(self, maps: Any):
        self.maps = maps

    def fits(self, shape, dtype):
        return self.maps is None or _alike(self.maps, shape, dtype)

    def __call__(self, part, place):
        if self.maps is not None:
            part += self.maps[place]


class ReLU:
    """max(0, x), as `activation` has it."""

    def fits(self, shape, dtype):
        return True

    def __call__(self, part, place):
        part.clip(0, np.inf, out=part)


class Offer:
    """Steps that shall follow a convolution. The first `taken` of them were done by its kernel."""

    def __init__(self, steps: Sequence[Step]):
        self.steps, self.taken = steps, 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """All steps up to the first that does not fit."""
        self.steps = list(takewhile(lambda step: step.fits(shape, dtype), self.steps))
        self.taken = len(self.steps)

    def __call__(self, output: np.ndarray, place: Place) -> None:
        part = output[place]
        for step in self.steps:
            step(part, place)


offered: ContextVar[Offer | None] = ContextVar("epilogue", default=None)  # to the next convolution
