"""Memory that is used again: each thread's scratch arrays, and how work is cut.

A fresh large array costs more than filling it: the system hands out its pages one by one, and takes them back when it
is freed. So what a kernel needs only while it runs is asked for here by a role, and the next kernel finds it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import numpy as np

from ...threads import run

LARGEST_KEPT = 40 << 20  # bytes; a larger array is not kept for the next who asks

_kept = threading.local()  # .arrays: by role and dtype


def scratch(role: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that is this thread's own until it asks for the same role again."""
    size, dtype = prod(shape), np.dtype(dtype)
    if size * dtype.itemsize > LARGEST_KEPT:
        return np.empty(shape, dtype)
    arrays = _kept.__dict__.setdefault("arrays", {})
    if (role, dtype) not in arrays or arrays[role, dtype].size < size:
        arrays.pop((role, dtype), None)  # before the larger one comes
        arrays[role, dtype] = np.empty(size, dtype)
    return arrays[role, dtype][:size].reshape(shape)


def pieces(total: int, most: int) -> list[slice]:
    """0 to `total` in slices of about the same length, none longer than `most` (or 1)."""
    count = max(-(-total // max(most, 1)), 1)
    return [slice(i * total // count, (i + 1) * total // count) for i in range(count)]


def portions(items: list, most: int) -> list[list]:
    """`items` in order, in at most so many lists of about the same length."""
    count = min(most, len(items))
    return [items[i * len(items) // count : (i + 1) * len(items) // count] for i in range(count)]


def each(work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Call ``work(item)`` for all of them, here and in order."""
    for item in items:
        work(item)


def sum_of_maps(maps: np.ndarray) -> np.ndarray:
    """(N, C, H, W) → (C,), a channel at a time."""
    sums = np.empty(maps.shape[1], maps.dtype)

    def add_up(channels: slice) -> None:
        sums[channels] = maps[:, channels].sum(axis=(2, 3)).sum(axis=0)

    run(add_up, pieces(maps.shape[1], -(-maps.shape[1] // 8)))
    return sums
