"""What an entry is explained from, and where broadcasting took it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backend import Array, on_host
from ...engine import Op
from .explanation import Term, label

Parts = tuple[str, list[Term], str]  # an explanation's formula, its terms and its note


@dataclass(frozen=True)
class Entry:
    """An entry of a gradient, and all that there is to explain it. The arrays are on the host, in their own precision.

    Attributes:
        op: the operation, with `params`, its parameters.
        inputs: the values that went in, None where left out.
        output: the value that came out.
        grad: the gradient of `output`.
        number: which of the inputs the gradient belongs to.
        index: where in it the entry is; no negative numbers.
    """

    op: Op
    params: dict[str, Any]
    inputs: tuple[Any, ...]
    output: Array
    grad: Array
    number: int
    index: tuple[int, ...]

    @property
    def source(self) -> Array:
        """The input that the entry belongs to."""
        return self.inputs[self.number]

    def g(self, *index: int) -> tuple[str, float]:
        """The factor that is in every term: an entry of the gradient that arrived."""
        return label("g", index), float(self.grad[index])


Explain = Callable[[Entry], Parts]


def host(value: Any) -> Any:
    """`value` with the arrays in it on the host."""
    if isinstance(value, tuple):
        return tuple(map(host, value))
    return on_host(value)


def float64(values: Any) -> Array:
    """`values`, as wide as Python's own numbers."""
    return np.asarray(values, dtype=np.float64)


def numbers(values: Any) -> list[float]:
    """The entries of an array, in their order, as Python's numbers."""
    return float64(values).ravel().tolist()


def place(index: tuple[int, ...], of: str = "output") -> str:
    """``"output [0, 1]"``, or ``"the output"`` if that is one number."""
    return label(f"{of} ", index) if index else f"the {of}"


def places(shape: tuple[int, ...], target: tuple[int, ...], index: tuple[int, ...]) -> tuple[slice, ...]:
    """Where the entry at `index` of an array of `shape` goes when that is broadcast to `target`: a slice per axis."""
    added = len(target) - len(shape)
    where = [slice(0, n) for n in target]
    for axis, (length, i) in enumerate(zip(shape, index, strict=True), added):
        if length == target[axis]:
            where[axis] = slice(i, i + 1)
    return tuple(where)


def positions(where: tuple[slice, ...]) -> Iterator[tuple[int, ...]]:
    """The indices that `places` stands for, the last axis running fastest, as `ravel` has it."""
    return itertools.product(*(range(part.start, part.stop) for part in where))


def before_broadcast(shape: tuple[int, ...], position: tuple[int, ...]) -> tuple[int, ...]:
    """The entry of an array of `shape` that broadcasting took to `position`."""
    added = len(position) - len(shape)
    return tuple(0 if n == 1 else i for n, i in zip(shape, position[added:], strict=True))
