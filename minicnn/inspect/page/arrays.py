"""The arrays of a page: each once, whole or cut, and as text."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import backend
from ...backend import Array
from ..statistics import statistics

WHOLE = 2**62  # a limit that cuts nothing


@dataclass(frozen=True)
class Cut:
    """How much of the arrays is on the page: of a batch the first image alone, and of each array `limit` entries."""

    one_image: bool
    limit: int


def kept_shape(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """The corner of an array of `shape` that at most `limit` entries (at least 1) are left of.

    The last two axes are a map. As many whole maps as there is room for, those of the first image or filter first;
    where there is not room for one, its upper left part. A vector is cut at its end.
    """
    if math.prod(shape) <= limit:
        return shape
    if len(shape) < 2:
        return (limit,)
    *lead, height, width = shape
    maps = limit // (height * width)
    if not maps:
        side = math.isqrt(limit)
        rows = min(height, side)
        columns = min(width, limit // rows)
        return (*(1 for _ in lead), min(height, limit // columns), columns)
    kept: list[int] = []
    for length in reversed(lead):  # whole axes from the last one on, then a part of one, then one of each
        kept.insert(0, min(length, maps))
        maps = maps // length if maps >= length else 1
    return (*kept, height, width)


class Store:
    """The arrays in the order in which they were added, referred to by their numbers."""

    def __init__(self) -> None:
        self._arrays: list[Array] = []  # which keeps them alive, and so their ids their own
        self._batched: list[bool] = []
        self._numbers: dict[int, int] = {}
        self._heads: list[dict[str, Any]] = []
        self.batch = 1  # images

    def add(self, array: Array, batched: bool = False) -> int:
        """The number of `array`. The same array has the same number.

        Args:
            array: real numbers on any device.
            batched: whether its first axis may be the batch's.

        Raises:
            TypeError: complex numbers.
        """
        if id(array) not in self._numbers:
            if array.dtype.kind != "f":
                raise TypeError(f"the page: an array is {array.dtype}, and only real floating-point numbers are shown")
            self._numbers[id(array)] = len(self._arrays)
            self._arrays.append(array)
            self._batched.append(batched and array.ndim > 1)
            self._heads.append(_head(array))
        return self._numbers[id(array)]

    def norm(self, number: int) -> float:
        """The Euclidean norm of the whole array."""
        return float(self._heads[number]["statistics"][0])

    def _kept(self, number: int, cut: Cut) -> tuple[int, ...]:
        shape = self._arrays[number].shape
        if cut.one_image and self._batched[number] and shape[0] == self.batch:
            shape = (1, *shape[1:])
        return kept_shape(shape, cut.limit)

    def entries(self, cut: Cut, with_data: bool = True) -> list[dict[str, Any]]:
        """What the page is given for each array; `data` is base64 of its kept corner, little-endian, in rows."""
        found = []
        for number, (array, head) in enumerate(zip(self._arrays, self._heads, strict=True)):
            kept = self._kept(number, cut)
            data = ""
            if with_data:
                corner = backend.to_host(array[tuple(slice(n) for n in kept)])
                data = base64.b64encode(np.ascontiguousarray(corner, dtype=_code(array)).tobytes()).decode()
            found.append({**head, **({"kept": kept} if kept != array.shape else {}), "data": data})
        return found

    def data_length(self, cut: Cut) -> int:
        """How many letters the data of all arrays have."""
        lengths = (
            math.prod(self._kept(number, cut)) * np.dtype(_code(array)).itemsize
            for number, array in enumerate(self._arrays)
        )
        return sum(4 * -(-length // 3) for length in lengths)

    @property
    def smallest_cut(self) -> Cut:
        """One entry of each array."""
        return Cut(one_image=True, limit=1)

    def largest_cut(self, fits: Callable[[Cut], bool]) -> Cut | None:
        """The one that keeps the most of those that fit; None where none does."""
        for whole in (Cut(one_image=False, limit=WHOLE), Cut(one_image=True, limit=WHOLE)):
            if fits(whole):
                return whole
        if not fits(self.smallest_cut):
            return None
        low, high = 1, max(array.size for array in self._arrays)  # fits, does not fit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(Cut(True, middle)) else (low, middle)
        return Cut(True, low)

    def rule(self, cut: Cut) -> str:
        """What was cut, in words."""
        total = len(self._arrays)
        cuts = sum(self._kept(i, cut) != array.shape for i, array in enumerate(self._arrays))
        if not cuts:
            return f"Nothing is cut: all numbers of all {total} arrays are on this page."
        ways = []
        if cut.one_image and self.batch > 1:
            ways.append(f"of the batch of {self.batch} the first image")
        if cut.limit != WHOLE:
            ways.append(
                f"of each array at most {cut.limit:,} entries: whole maps, the first ones; where one map or matrix is "
                "larger, its upper left part"
            )
        how = "; ".join(ways)
        return f"For the size of the file {cuts} of {total} arrays are cut: {how}. Statistics are of the whole."


def _code(array: Array) -> str:
    """How its numbers are written: single precision, or double where it has more than that."""
    return "<f8" if array.dtype.itemsize > 4 else "<f4"


def _head(array: Array) -> dict[str, Any]:
    """All but the numbers."""
    s = statistics(array)
    numbers = (s.norm, s.minimum, s.maximum, s.mean, s.zeros, s.nan, s.infinite)
    return {
        "shape": s.shape,
        "dtype": s.dtype,
        "code": _code(array)[1:],
        "statistics": [number(float(f"{x:.9g}")) for x in numbers],
    }


def number(x: float) -> float | str:
    """`x` for JSON, which has neither NaN nor infinities: those in the words that JavaScript reads."""
    return x if math.isfinite(x) else "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"
