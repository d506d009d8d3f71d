"""Passes over large arrays, cut into pieces that stay in the cache.

A pass of NumPy's reads its arrays from memory and writes one back. An operation that takes several of them takes
memory's time several times, unless they all run over one piece before the next piece begins. The pieces are also what
threads share. They depend on the work alone, so the number of threads changes no bit.

A piece is larger than a core's own cache, because threads hand Python's lock to each other between two calls of
NumPy's: a call must last longer than waking a thread. For sums and products, which take a quarter of a nanosecond a
number, pieces of an eighth are no faster on two threads than on one. Functions like tanh take one to three nanoseconds,
so their pieces are smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...threads import pieces, run
from .scratch import longest

PIECE = 1 << 19  # numbers: two megabytes of float32
PIECE_OF_FUNCTION = 1 << 17  # where each takes a tanh or an exponential


def entrywise(work: Callable[..., object], *arrays: np.ndarray, most: int | None = None) -> None:
    """``work(*arrays)`` of arrays of one shape, where every entry is its own affair: if they have more than `most`
    numbers (`PIECE`), in pieces of no more.

    Pieces are views, flat where all arrays lie alike and without gaps, and else cut along the first axis in memory.
    """
    first, most = arrays[0], most or PIECE
    if first.size <= most:
        work(*arrays)
        return
    order = sorted(range(first.ndim), key=lambda axis: -first.strides[axis])  # as in the memory of the first
    arrays = tuple(x.transpose(order) for x in arrays)
    if all(x.flags.c_contiguous for x in arrays):
        flat = [x.reshape(-1) for x in arrays]
        run(lambda part: work(*(x[part] for x in flat)), pieces(first.size, most, even=True))
    elif first.ndim > 1:
        rows = len(arrays[0])
        run(lambda part: work(*(x[part] for x in arrays)), pieces(rows, most * rows // first.size, even=True))
    else:
        work(*arrays)


def largest_piece(size: int, most: int | None = None) -> tuple[int, int]:
    """How many of `size` numbers are in a piece of at most `most` (`PIECE`), and how many pieces there are."""
    cut = pieces(size, most or PIECE, even=True)
    return longest(cut), len(cut)
