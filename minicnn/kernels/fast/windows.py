"""Pooling where images lie last in memory (`layout`), and what all pooling shares: where windows are.

A map is (C, H, W, N) then: each of its places holds a row of numbers, one an image. The entry (i, j) of all windows is
a slice of places, from (i, j) on and as far apart as the stride. So a pass over the window's entries is arithmetic on
long rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np

from ...threads import pieces, run
from .. import pool as neutral
from .. import recording
from .entrywise import PIECE
from .layout import IMAGES_LAST, empty_maps
from .scratch import Asked, scratch


class Windows:
    """The sizes of a pooling of maps of a `shape` (N, C, H, W)."""

    def __init__(self, shape, kernel_size, stride, padding, dilation, ceil_mode):
        self.shape, self.size, self.stride, self.padding = shape, shape[2:], stride, padding
        self.out, _ = neutral._geometry(shape, kernel_size, stride, padding, dilation, ceil_mode)
        self.starts = [[d * i for i in range(k)] for d, k in zip(dilation, kernel_size, strict=True)]
        self.seen = [(o - 1) * s + of[-1] + 1 for o, s, of in zip(self.out, stride, self.starts, strict=True)]
        self.bordered = max(padding) > 0 or any(m > n for m, n in zip(self.seen, self.size, strict=True))
        self.overlapping = any(s <= of[-1] for s, of in zip(stride, self.starts, strict=True))
        steps = zip(stride, self.starts, self.seen, self.size, strict=True)
        self.tiling = not self.bordered and all(of == list(range(s)) and m == n for s, of, m, n in steps)
        # For each row of the window, where it lies for all outputs; and for each column.
        self.rows, self.columns = (
            [slice(a, a + (o - 1) * s + 1, s) for a in of]
            for of, o, s in zip(self.starts, self.out, stride, strict=True)
        )

    def blocks_by_images(self) -> Sequence[slice]:
        """Channels of (C, H, W, N) that are a piece."""
        return pieces(self.shape[1], PIECE // max(prod(self.seen) * self.shape[0], 1)) if self.shape[1] else ()

    def _inside(self) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """What windows see of planes (P, H, W, *): where it lies among the border, and in the planes."""
        seen = [min(n, m - p) for n, m, p in zip(self.size, self.seen, self.padding, strict=True)]
        places = (slice(p, p + m) for p, m in zip(self.padding, seen, strict=True))
        return (slice(None), *places), (slice(None), *(slice(0, m) for m in seen))

    def room(self, planes: np.ndarray) -> np.ndarray:
        """A scratch array for planes (P, H, W, *) with the border that windows see."""
        return scratch("padded", (len(planes), *self.seen, *planes.shape[3:]), planes.dtype)

    def with_border(self, planes: np.ndarray, border: float) -> np.ndarray:
        """Planes as far as windows see them, padding included."""
        if not self.bordered:
            return planes
        padded, (place, there) = self.room(planes), self._inside()
        padded.fill(border)
        padded[place] = planes[there]
        return padded

    def border_scratch(self, planes: int, dtype: np.dtype, parts: int) -> Iterator[Asked]:
        """What `room` asks for, for so many `planes` (H, W): a part's channels, times images where they lie last."""
        if self.bordered:
            yield Asked("padded", dtype, planes * prod(self.seen), parts)

    def reduction_scratch(self, planes: int, dtype: np.dtype, parts: int) -> Iterator[Asked]:
        """What `reduce` asks for."""
        yield from self.border_scratch(planes, dtype, parts)
        yield Asked("row", dtype, planes * self.out[0] * (self.seen if self.bordered else self.size)[1], parts)

    def entries(self, planes: np.ndarray) -> Iterator[np.ndarray]:
        """Each entry of the window, for all outputs, in planes that have their border."""
        return (planes[:, row, column] for row in self.rows for column in self.columns)

    def reduce(self, operation: np.ufunc, planes: np.ndarray, border: float, out: np.ndarray) -> None:
        """Each window's largest entry, or their sum: first of its rows, which other windows share."""
        planes = self.with_border(planes, border)
        of_rows = scratch("row", (len(planes), self.out[0], *planes.shape[2:]), planes.dtype)
        _reduce(operation, (planes[:, row] for row in self.rows), of_rows)
        _reduce(operation, (of_rows[:, :, column] for column in self.columns), out)

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """In the memory of a plane (H, W): where the window's first entry is for each output, (out_h·out_w, 1), and how
        much further each of its entries; and which outputs see nothing but padding, if some do, whose place is 0."""
        w, (down, along) = self.size[1], (np.array(of) for of in self.starts)
        top, left = (np.arange(o) * s - p for o, s, p in zip(self.out, self.stride, self.padding, strict=True))
        sighted = [
            ((first[:, None] + of >= 0) & (first[:, None] + of < length)).any(axis=1)
            for first, of, length in zip((top, left), (down, along), self.size, strict=True)
        ]
        blind = ~(sighted[0][:, None] & sighted[1])
        first = np.where(blind, 0, top[:, None] * w + left).reshape(-1, 1)
        return first, (down[:, None] * w + along).reshape(-1), blind.reshape(-1, 1) if blind.any() else None

    def give_back(self, share: np.ndarray, planes: np.ndarray) -> None:
        """Into planes, to each entry of the window the `share` of all outputs; where windows overlap, the sum."""
        bordered = self.room(planes) if self.bordered else planes
        if not self.tiling:
            bordered.fill(0)
        for entries in self.entries(bordered):
            if self.overlapping:
                entries += share
            else:
                entries[...] = share
        if self.bordered:
            place, there = self._inside()
            planes.fill(0)
            planes[there] = bordered[place]


def _reduce(operation: np.ufunc, arrays: Iterable[np.ndarray], out: np.ndarray) -> None:
    first, *others = arrays
    if not others:
        out[...] = first
    for array in others:
        operation(first, array, out=out)
        first = out


def largest(entries: Iterable[tuple[np.ndarray, np.ndarray]], best: np.ndarray, winner: np.ndarray) -> None:
    """Into `best` the largest of arrays, place by place, and into `winner` whose it is; of equals the first's.

    Each array comes with its number, or with numbers, one a place, that are larger than all before. So who beats all
    before it has the largest number that ever won.
    """
    won, entries = scratch("gate", best.shape, np.bool_), iter(entries)
    best[...], winner[...] = next(entries)
    for entry, number in entries:
        np.greater(entry, best, out=won)
        np.maximum(entry, best, out=best)
        found = np.multiply(won.view(np.uint8), number, out=scratch("number", best.shape, winner.dtype))
        np.maximum(winner, found, out=winner)


def _in_a_row(array: np.ndarray, role: str) -> np.ndarray:
    """A copy without gaps, in scratch memory."""
    copy = scratch(role, array.shape, array.dtype)
    copy[...] = array
    return copy


# ---------------------------------------------------------------------------------------- images last: the passes


def maxima(input: np.ndarray, windows: Windows, index: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    """Each window's largest entry, and as the dtype `index` its number, if a backward pass may follow; both with images
    last. Numbers are those of the first of equals, but where a window holds a NaN or nothing above −∞."""
    x, output = input.transpose(IMAGES_LAST), empty_maps((*windows.shape[:2], *windows.out), input.dtype, True)
    made = output.transpose(IMAGES_LAST)
    if not recording.get():
        run(lambda block: windows.reduce(np.maximum, x[block], -np.inf, made[block]), windows.blocks_by_images())
        return output, None
    winner = empty_maps(output.shape, index, True)
    numbers, noted = np.arange(len(windows.rows) * len(windows.columns), dtype=index), winner.transpose(IMAGES_LAST)

    def work(block: slice) -> None:
        entries = windows.entries(windows.with_border(x[block], -np.inf))
        rows = (_in_a_row(entry, "entry") for entry in entries)
        largest(zip(rows, numbers, strict=True), made[block], noted[block])

    run(work, windows.blocks_by_images())
    return output, winner


def means(input: np.ndarray, windows: Windows, divisor) -> np.ndarray:
    """Each window's sum, divided by one number or by one for each place of the outputs; images last."""
    x, output = input.transpose(IMAGES_LAST), empty_maps((*windows.shape[:2], *windows.out), input.dtype, True)
    made = output.transpose(IMAGES_LAST)

    def work(block: slice) -> None:
        windows.reduce(np.add, x[block], 0.0, made[block])
        np.divide(made[block], _for_each_image(divisor), out=made[block])

    run(work, windows.blocks_by_images())
    return output


def means_back(grad_output: np.ndarray, windows: Windows, divisor) -> np.ndarray:
    """Every entry of a window gets the same share of its output's gradient."""
    grad_input = empty_maps(windows.shape, grad_output.dtype, True)
    g, made = (x.transpose(IMAGES_LAST) for x in (grad_output, grad_input))

    def work(block: slice) -> None:
        share = scratch("numbers", g[block].shape, g.dtype)
        np.divide(g[block], _for_each_image(divisor), out=share)
        windows.give_back(share, made[block])

    run(work, windows.blocks_by_images())
    return grad_input


def _for_each_image(divisor):
    return divisor[..., None] if isinstance(divisor, np.ndarray) else divisor
