"""The epilogue of a convolution in inference: batch norm, an addition, ReLU and tanh, on each part of its output.

One after the other, each of them reads all of the maps and writes them: three more ways through memory. But a
convolution makes its output part by part, and a part that has just been made lies in the cache. So what shall follow is
done to it there and then, in place. Every number goes through the same operations as in the passes of their own, so no
bit differs.

`nn.through` sees which layers follow a convolution, and offers them; `conv2d_forward` takes what fits its output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from .layout import Place
from .norm import fixed

Work = Callable[[np.ndarray, Place], None]  # what a layer does, in place, to the part of maps that lies there
Step = Callable[[tuple[int, ...], np.dtype], Work | None]  # that for maps of a kind; None if the layer has to do it


def _alike(x: Any, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return isinstance(x, np.ndarray) and x.shape == shape and x.dtype == dtype


def batch_norm(arrays: Sequence[Any], eps: float) -> Step:
    """In evaluation, by γ, β, the mean and the variance, (C,) each; None for γ of 1 or β of 0."""
    weight, bias, mean, var = arrays

    def step(shape: tuple[int, ...], dtype: np.dtype) -> Work | None:
        given = [x for x in (weight, bias) if x is not None]
        if eps < 0 or not all(_alike(x, shape[1:2], dtype) for x in (*given, mean, var)):
            return None
        centre, scale, shift = fixed(weight, bias, mean, (var + eps) ** -0.5)

        def work(part: np.ndarray, place: Place) -> None:
            _, channels, _ = place
            if centre is not None:
                part -= centre[channels, None, None]
            part *= scale[channels, None, None]
            part += shift[channels, None, None]

        return work

    return step


def addition(other: Any) -> Step:
    """Of other maps of the same kind."""

    def work(part: np.ndarray, place: Place) -> None:
        part += other[place]

    return lambda shape, dtype: work if _alike(other, shape, dtype) else None


def relu() -> Step:
    """As `activation` has it."""

    def work(part: np.ndarray, place: Place) -> None:
        part.clip(0, np.inf, out=part)

    return lambda shape, dtype: work


def tanh() -> Step:
    def work(part: np.ndarray, place: Place) -> None:
        np.tanh(part, out=part)

    return lambda shape, dtype: work


def nothing() -> Step:
    return lambda shape, dtype: lambda part, place: None


class Offer:
    """Steps that shall follow the convolution of `input`; `taken` is the work of those that its kernel does."""

    def __init__(self, input: Any, steps: Sequence[Step]):
        self.input, self.steps = input, steps
        self.taken: list[Work] = []

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """All steps up to the first that does not fit maps of this kind."""
        for step in self.steps:
            if (work := step(shape, dtype)) is None:
                break
            self.taken.append(work)

    def __call__(self, output: np.ndarray, place: Place) -> None:
        part = output[place]
        for work in self.taken:
            work(part, place)


offered: ContextVar[Offer | None] = ContextVar("epilogue", default=None)


def taken(input: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> Offer | None:
    """What is offered to the convolution of `input`, whose output is of this kind; None if it is another's."""
    offer = offered.get()
    if offer is None or offer.input is not input:
        return None
    offer.take(shape, dtype)
    return offer
