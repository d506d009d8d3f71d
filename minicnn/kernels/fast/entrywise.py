"""Passes over large arrays, cut into pieces that stay in the cache.

A pass of NumPy's reads its arrays from memory and writes one back. An operation that takes several of them takes
memory's time several times, unless they all run over one piece before the next piece begins. The pieces are also what
threads share. They depend on the work alone, so the number of threads changes no bit.

A piece is larger than a core's own cache, because threads hand Python's lock to each other between two calls of
NumPy's: a call must last longer than waking a thread. Pieces of an eighth are no faster on two threads than on one.
That goes for sums and products, a quarter of a nanosecond a number. Functions like tanh take one to three.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...threads import pieces, run
from .scratch import longest

PIECE = 1 << 19  # numbers: two megabytes of float32
PIECE_OF_FUNCTION = 1 << 17  # where each takes a tanh or an exponential


def entrywise(work: Callable[..., object], *arrays: np.ndarray, most: int = PIECE) -> None:
    """``work(*arrays)`` of arrays of one shape, where every entry is its own affair: in pieces of at most so many.

    Pieces are views, flat where all arrays lie alike and without gaps, and else one along the first axis in memory.
    """
    first = arrays[0]
    if first.size <= most:
        work(*arrays)
        return
    order = sorted(range(first.ndim), key=lambda axis: -first.strides[axis])  # as in the memory of the first
    arrays = tuple(x.transpose(order) for x in arrays)
    if all(x.flags.c_contiguous for x in arrays):
        flat = [x.reshape(-1) for x in arrays]
        run(lambda part: work(*(x[part] for x in flat)), pieces(first.size, most, even=True))
    elif first.ndim > 1:
        run(lambda i: work(*(x[i] for x in arrays)), range(len(arrays[0])))
    else:
        work(*arrays)


def largest_piece(size: int, most: int = PIECE) -> tuple[int, int]:
    """How many of `size` numbers are in a piece of at most `most`, and how many pieces there are."""
    cut = pieces(size, most, even=True)
    return longest(cut), len(cut)
