"""Memory that is used again: each thread's scratch arrays.

A fresh large array costs more than filling it: the system hands out its pages one by one, and takes them back when it
is freed. So what a kernel needs only while it runs is asked for here by a role, and the next kernel finds it again.

For the memory ledger, which computes nothing, functions beside the kernels tell what they would ask for: `Asked`. So do
methods of the convolution's algorithms, thread by thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .layout import IMAGES_LAST, lie_last

LARGEST_KEPT = 40 << 20  # bytes; a larger array is not kept for the next who asks
LONG_SUM = 1 << 12  # numbers in a map; more of them, one added after the other, lose digits

_kept = threading.local()  # .arrays: by role and dtype


class Asked(NamedTuple):
    """A scratch array of so many numbers for each part of a pass; threads that take its parts keep one each."""

    role: str
    dtype: Any
    numbers: int
    parts: int


def longest(parts: Iterable[slice]) -> int:
    """Of slices, how long the longest is."""
    return max(part.stop - part.start for part in parts)


def scratch(role: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that is this thread's own until it asks for the same role again."""
    size, dtype = prod(shape), np.dtype(dtype)
    if size * dtype.itemsize > LARGEST_KEPT:
        return np.empty(shape, dtype)
    arrays = _kept.__dict__.setdefault("arrays", {})
    array = arrays.get((role, dtype))
    if array is None or array.size < size:
        array = arrays[role, dtype] = None  # before the larger one comes
        array = arrays[role, dtype] = np.empty(size, dtype)
    return array[:size].reshape(shape)


def sum_of_maps(maps: np.ndarray) -> np.ndarray:
    """(N, C, H, W) → (C,).

    Maps whose numbers lie side by side are multiplied by ones, which takes BLAS half the time of NumPy's sums or less;
    two threads were no faster. It adds up one number after the other, so long maps go row by row. NumPy adds up all
    others, as the broadcast gradient of a mean: BLAS cannot take them as they are.
    """
    if lie_last(maps):
        rows = maps.transpose(IMAGES_LAST).reshape(maps.shape[1], -1)
        return rows @ np.ones(rows.shape[1], maps.dtype)
    n, c, height, width = maps.shape
    if maps.strides[2:] != (width * maps.itemsize, maps.itemsize):
        return maps.sum(axis=(2, 3)).sum(axis=0)
    parts = height if height * width > LONG_SUM else 1
    sums = maps.reshape(n, c, parts, height * width // parts)
    return (sums @ np.ones(sums.shape[3], maps.dtype)).sum(axis=(0, 2))
