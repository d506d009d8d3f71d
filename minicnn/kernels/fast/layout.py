"""Where the numbers of maps (N, C, H, W) lie in memory: in that order or, for small convolutions, with images last.

A row of a small map is short, and what copies or adds short rows spends its time between them. The same numbers of all
images of a batch, side by side, are a long row. So the convolution leaves them, as (C, H, W, N); the array is a view of
that memory with its axes in the usual order, and whoever reads it need not know. It is cuda-convnet's order, in which
AlexNet was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

IMAGES_LAST = (1, 2, 3, 0)  # (N, C, H, W) as (C, H, W, N)
IMAGES_FIRST = (3, 0, 1, 2)  # and back
MANY_IMAGES = 16  # fewer are no long row

Place = tuple[slice, slice, slice]  # images, channels and rows of maps (N, C, H, W), all their columns
Epilogue = Callable[[np.ndarray, Place], None]  # does something to the part of maps that lies there


def lie_last(maps: np.ndarray) -> bool:
    """Whether images are the last axis in memory, without gaps, and enough of them."""
    if maps.ndim != 4 or len(maps) < MANY_IMAGES or maps.flags.c_contiguous:
        return False
    return maps.transpose(IMAGES_LAST).flags.c_contiguous


def empty_maps(shape: tuple[int, ...], dtype: Any, images_last: bool) -> np.ndarray:
    """An uninitialised array (N, C, H, W) in one of the two orders."""
    if not images_last:
        return np.empty(shape, dtype)
    n, *of_image = shape
    return np.empty((*of_image, n), dtype).transpose(IMAGES_FIRST)
