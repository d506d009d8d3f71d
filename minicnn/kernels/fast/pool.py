"""Pooling by phases: a few planes at a time, sorted so that every entry of a window is a shift of one flat array.

With stride (2, 2) the entries that windows begin with are those in even rows and even columns. So a plane is taken
apart into four: even or odd rows, even or odd columns, each `phase` a small plane of its own, with its share of the
padding. In the phase that holds it, the window's entry (i, j) of output (r, c) lies at (r + i // 2, c + j // 2): always
the same distance behind (r, c). Laid out flat, with outputs in planes of the same rows and columns, all entries (i, j)
are one slice and all outputs another, and a pass over the window's entries is arithmetic on whole slices. It computes
some numbers for places at the planes' edges where no output is; they are left out at the end. Any stride and dilation
go the same way. Where images lie last, `windows` has something simpler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ...threads import pieces, run
from .. import pool as neutral
from .. import recording
from . import windows as by_images
from .entrywise import PIECE
from .layout import IMAGES_LAST, empty_maps, lie_last
from .scratch import Asked, longest, scratch
from .windows import Windows, largest


class Phases(Windows):
    """The sizes, and how a block of planes is taken apart and put together again."""

    def __init__(self, shape, kernel_size, stride, padding, dilation, ceil_mode):
        super().__init__(shape, kernel_size, stride, padding, dilation, ceil_mode)
        self.grid = tuple(o + of[-1] // s for o, of, s in zip(self.out, self.starts, stride, strict=True))
        # A window's rows and its columns: in which phases they are, and how far on.
        self.down, self.along = ([(i % s, i // s) for i in of] for of, s in zip(self.starts, stride, strict=True))
        self.down = [(a, down * self.grid[1]) for a, down in self.down]
        self.taps = [((a, b), down + along) for a, down in self.down for b, along in self.along]
        self.used = sorted({phase for phase, _ in self.taps})
        self.furthest = max(offset for _, offset in self.taps)
        self.planes = shape[0] * shape[1]
        numbers = prod(self.grid) * len(self.used)
        self.blocks = pieces(self.planes, PIECE // numbers) if self.planes else []

    def overlap(self, phase: tuple[int, int]) -> tuple[tuple, tuple]:
        """Where a phase holds entries of the plane, and which; the rest of the phase is padding."""
        places, entries = [], []
        for n, s, p, a, length in zip(self.size, self.stride, self.padding, phase, self.grid, strict=True):
            first, end = max(-(-(p - a) // s), 0), min((n - 1 + p - a) // s + 1, length)
            places.append(slice(first, max(end, first)))
            entries.append(slice(first * s + a - p, max((end - 1) * s + a - p + 1, 0) if end > first else 0, s))
        return (slice(None), *places), (slice(None), *entries)

    def apart(self, planes: np.ndarray, border: float) -> dict[tuple[int, int], np.ndarray]:
        """Each phase that windows touch, of planes (P, H, W), flat."""
        phases = {}
        for phase in self.used:
            array = scratch(f"phase {phase}", (len(planes), *self.grid), planes.dtype)
            place, entries = self.overlap(phase)
            if array[place].shape != array.shape:
                array.fill(border)
            array[place] = planes[entries]
            phases[phase] = array.reshape(-1)
        return phases

    def empty(self, planes: int, dtype, clear: bool) -> dict[tuple[int, int], np.ndarray]:
        """To be written to or, `clear`, zeros to add to."""
        phases = {phase: scratch(f"phase {phase}", (planes * prod(self.grid),), dtype) for phase in self.used}
        for array in phases.values() if clear else ():
            array.fill(0)
        return phases

    def together(self, phases: dict[tuple[int, int], np.ndarray], planes: np.ndarray) -> None:
        """Put the phases back into planes (P, H, W)."""
        if len(self.used) < prod(self.stride):
            planes.fill(0)
        else:  # entries behind the last window
            end = [(g - 1) * s + s - p for g, s, p in zip(self.grid, self.stride, self.padding, strict=True)]
            planes[:, max(end[0], 0) :] = 0
            planes[:, :, max(end[1], 0) :] = 0
        for phase, array in phases.items():
            place, entries = self.overlap(phase)
            planes[entries] = array.reshape(-1, *self.grid)[place]

    def slices(self, phases: dict[tuple[int, int], np.ndarray]) -> Iterator[np.ndarray]:
        """Each entry of the window, for all outputs."""
        return _shifts(phases, self.taps)

    def outputs(self, role: str, planes: int, dtype, clear: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Planes for outputs in the layout of the phases: the flat slice that passes run over, and (P, *out).

        With `clear` there are zeros where no output is.
        """
        flat = scratch(role, (planes * prod(self.grid),), dtype)
        if clear and self.grid != self.out:
            flat.fill(0)
        grid = flat.reshape(planes, *self.grid)
        return flat[: len(flat) - self.furthest], grid[:, : self.out[0], : self.out[1]]


# Once for the sizes of a layer.
_windows, _phases, _places = lru_cache(256)(Windows), lru_cache(256)(Phases), lru_cache(32)(Windows.places)


def _shifts(arrays: dict[Any, np.ndarray], taps: list[tuple[Any, int]]) -> Iterator[np.ndarray]:
    """Each tap's array, from where it begins on; of one length."""
    furthest = max(offset for _, offset in taps)
    for phase, offset in taps:
        array = arrays[phase]
        yield array[offset : len(array) - furthest + offset]


def _planes(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) → (N·C, H, W)."""
    return np.ascontiguousarray(x).reshape(-1, *x.shape[2:])


def winner_dtype(kernel_size: tuple[int, int]) -> np.dtype:
    """Of the number of a window's entry."""
    return np.dtype(np.uint8 if prod(kernel_size) <= 256 else np.int32)


def _rows_first(entries: np.ndarray, phases: Phases, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """At stride 1, the largest of each row of a window, and the number of whose it is. A row belongs to several
    windows: for 3 × 3 four comparisons do instead of eight."""
    columns = list(_shifts({0: entries}, phases.along))
    row, whose = scratch("row", columns[0].shape, entries.dtype), scratch("row winner", columns[0].shape, numbers.dtype)
    largest(zip(columns, numbers, strict=False), row, whose)
    shifted = (_shifts({0: x}, phases.down) for x in (row, whose))

    def numbered(columns: np.ndarray, first: np.integer) -> np.ndarray:
        return np.add(columns, first, out=scratch("number", columns.shape, columns.dtype)) if first else columns

    firsts = numbers[:: len(phases.along)]
    return ((best, numbered(of_row, first)) for best, of_row, first in zip(*shifted, firsts, strict=True))


def max_pool2d_forward(input, kernel_size, stride, padding, dilation, ceil_mode):
    """The largest so far, entry by entry of the window; who beats it is noted, and so the first of equals stays. Where
    no backward pass can follow (`recording`), nobody is noted; a zero may have another sign then."""
    index = winner_dtype(kernel_size)
    if lie_last(input):
        windows = _windows(input.shape, kernel_size, stride, padding, dilation, ceil_mode)
        output, winners = by_images.maxima(input, windows, index)
        if winners is not None and not output.min(initial=np.inf) > -np.inf:
            winners[...] = neutral.max_pool2d_forward(input, kernel_size, stride, padding, dilation, ceil_mode)[1][0]
        return output, None if winners is None else (winners, input.shape)
    phases = _phases(input.shape, kernel_size, stride, padding, dilation, ceil_mode)
    x, shape = _planes(input), (*input.shape[:2], *phases.out)
    output = np.empty((len(x), *phases.out), x.dtype)
    if not recording.get():
        run(lambda block: phases.reduce(np.maximum, x[block], -np.inf, output[block]), phases.blocks)
        return output.reshape(shape), None
    winners, numbers = np.empty(output.shape, index), np.arange(prod(kernel_size), dtype=index)

    def work(block: slice) -> None:
        planes = x[block]
        parts = phases.apart(planes, -np.inf)
        if tuple(stride) == (1, 1):
            taps = _rows_first(parts[0, 0], phases, numbers)
        else:
            taps = zip(phases.slices(parts), numbers, strict=True)
        best, maxima = phases.outputs("numbers", len(planes), x.dtype)
        winner, entries = phases.outputs("winner", len(planes), index)
        largest(taps, best, winner)
        output[block], winners[block] = maxima, entries
        if not output[block].min() > -np.inf:  # a tie with the padding, or a NaN: as the neutral form has it
            args = (kernel_size, stride, padding, dilation, ceil_mode)
            winners[block] = neutral.max_pool2d_forward(planes[None], *args)[1][0][0]

    run(work, phases.blocks)
    return output.reshape(shape), (winners.reshape(shape), input.shape)


def max_pool2d_backward(grad_output, saved, needs, kernel_size, stride, padding, dilation, ceil_mode):
    """All of an output's gradient goes to the entry that won its window: added there, at its place in memory."""
    winner, shape = saved
    windows, last = _windows(shape, kernel_size, stride, padding, dilation, ceil_mode), lie_last(winner)
    grad_input = empty_maps(shape, grad_output.dtype, last)
    if last:
        g, winners, maps = (x.transpose(IMAGES_LAST) for x in (grad_output, winner, grad_input))
    else:
        g, winners, maps = _planes(grad_output), _planes(winner), _planes(grad_input)
    first, further, blind = _places(windows)
    images = shape[0] if last else 1
    start, further = first * images + np.arange(images), further * images  # (outputs, images)

    def work(block: slice) -> None:
        into = maps[block].reshape(-1)
        into.fill(0)
        who = scratch("winner", (len(maps[block]), *start.shape), np.intp)
        place = scratch("place", who.shape, np.intp)
        who[...] = winners[block].reshape(who.shape)
        further.take(who, out=place, mode="clip")  # with "raise" it would be buffered
        np.add(place, start, out=place)
        np.add(place, np.arange(0, into.size, maps[0].size)[:, None, None], out=place)
        grad = g[block] if blind is None else np.where(blind, 0, g[block].reshape(who.shape))
        if windows.overlapping:
            np.add.at(into, place.reshape(-1), grad.reshape(-1))
        else:
            into[place.reshape(-1)] = grad.reshape(-1)

    run(work, blocks_back(maps.shape))
    return (grad_input,)


def blocks_back(shape: tuple[int, ...]) -> Sequence[slice]:
    """Planes, or channels of maps whose images lie last, for max pooling's backward pass."""
    return pieces(shape[0], PIECE // 2 // max(prod(shape[1:]), 1)) if shape[0] else ()


def max_pool2d_scratch(
    shape, dtype, last, needs, backward, kernel_size, stride, padding, dilation, ceil_mode
) -> Iterator[Asked]:
    """Of maps (N, C, H, W) that have their images `last` or not. Where they do not, some arrays are a little shorter:
    by what lies behind the last output."""
    sizes, images = (shape, kernel_size, stride, padding, dilation, ceil_mode), shape[0] if last else 1
    if backward:
        blocks = blocks_back((shape[1], *shape[2:], images) if last else (prod(shape[:2]), *shape[2:]))
        for role in ("winner", "place"):
            yield Asked(role, np.intp, longest(blocks) * prod(_windows(*sizes).out) * images, len(blocks))
        return
    windows: Windows
    index, roles = winner_dtype(kernel_size), dict[str, Any](gate=np.bool_)
    if last:
        windows = _windows(*sizes)
        blocks, outputs = windows.blocks_by_images(), windows.out
        roles["entry"] = dtype
    else:
        windows = phases = _phases(*sizes)
        blocks, outputs = phases.blocks, phases.grid
        roles |= {"numbers": dtype, "winner": index, **{f"phase {phase}": dtype for phase in phases.used}}
        if tuple(stride) == (1, 1):
            roles |= {"row": dtype, "row winner": index}
    if prod(kernel_size) > 1:
        roles["number"] = index
    planes, parts = longest(blocks) * images, len(blocks)
    if True not in needs:  # nobody asks for winners
        yield from windows.reduction_scratch(planes, dtype, parts)
        return
    if last:
        yield from windows.border_scratch(planes, dtype, parts)
    for role, of_role in roles.items():
        yield Asked(role, of_role, planes * prod(outputs), parts)


def _product(entries: np.ndarray, shares: np.ndarray) -> np.ndarray | None:
    """entries @ shares, most of which are zeros; None where an infinity, times one of these, became a NaN."""
    with np.errstate(invalid="ignore"):
        product = entries @ shares
    return product if np.isfinite(product).all() else None


LONGEST_ROWS = 64  # numbers in the rows that a row of windows covers, for a product: every output reads all of them


def tiled(size: tuple[int, int], kernel_size, stride, padding) -> bool:
    """Whether windows tile planes that are so small that average pooling is best a product."""
    (h, w), (kh, kw) = size, kernel_size
    return (*stride, *padding, h % kh, w % kw) == (kh, kw, 0, 0, 0, 0) and kh * w <= LONGEST_ROWS


@lru_cache(maxsize=16)
def _tiling(width: int, kernel_size: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """(kh·W, out_w): 1 where an entry of the kh rows is in the window."""
    kh, kw = kernel_size
    return np.tile(np.kron(np.eye(width // kw, dtype=dtype), np.ones((kw, 1), dtype)), (kh, 1))


def avg_pool2d_forward(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """The window's entries one after the other; where windows tile a small plane, a product with ones and zeros."""
    if lie_last(input):
        of_images = _windows(input.shape, kernel_size, stride, padding, (1, 1), ceil_mode)
        divisor = neutral._divisor(
            input, of_images.out, kernel_size, stride, padding, count_include_pad, divisor_override
        )
        return by_images.means(input, of_images, divisor), (divisor, input.shape, of_images)
    x = _planes(input)
    if tiled(input.shape[2:], kernel_size, stride, padding):
        windows, divisor = _tiling(input.shape[3], kernel_size, x.dtype), divisor_override or prod(kernel_size)
        output = _product(x.reshape(-1, len(windows)), windows)
        if output is not None:
            output /= divisor
            out = (h // k for h, k in zip(input.shape[2:], kernel_size, strict=True))
            return output.reshape(*input.shape[:2], *out), (divisor, input.shape, None)
    phases = _phases(input.shape, kernel_size, stride, padding, (1, 1), ceil_mode)
    divisor = neutral._divisor(input, phases.out, kernel_size, stride, padding, count_include_pad, divisor_override)
    output = np.empty((len(x), *phases.out), x.dtype)

    def work(block: slice) -> None:
        planes = x[block]
        total, sums = phases.outputs("numbers", len(planes), x.dtype)
        for i, entry in enumerate(phases.slices(phases.apart(planes, 0.0))):
            if i == 0:
                total[...] = entry
            else:
                np.add(total, entry, out=total)
        np.divide(sums, divisor, out=output[block])

    run(work, phases.blocks)
    return output.reshape(*input.shape[:2], *phases.out), (divisor, input.shape, None)


def avg_pool2d_backward(
    grad_output, saved, needs, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    """Every entry of a window gets the same share of its output's gradient."""
    divisor, shape, of_images = saved
    if of_images is not None:
        return (by_images.means_back(grad_output, of_images, divisor),)
    g = _planes(grad_output)
    if tiled(shape[2:], kernel_size, stride, padding):
        windows = _tiling(shape[3], kernel_size, g.dtype)
        grad_input = _product(g.reshape(-1, windows.shape[1]), (windows / g.dtype.type(divisor)).T)
        if grad_input is not None:
            return (grad_input.reshape(shape),)
    phases = _phases(shape, kernel_size, stride, padding, (1, 1), ceil_mode)
    grad_input = np.empty((len(g), *shape[2:]), g.dtype)

    def work(block: slice) -> None:
        planes = grad_input[block]
        share, shares = phases.outputs("numbers", len(planes), g.dtype, clear=True)
        np.divide(g[block], divisor, out=shares)
        parts = phases.empty(len(planes), g.dtype, clear=True)
        for part in phases.slices(parts):
            np.add(part, share, out=part)
        phases.together(parts, planes)

    run(work, phases.blocks)
    return (grad_input.reshape(shape),)


def avg_pool2d_scratch(
    shape, dtype, last, needs, backward, kernel_size, stride, padding, ceil_mode, **_
) -> Iterator[Asked]:
    """As `max_pool2d_scratch`."""
    sizes = shape, kernel_size, stride, padding, (1, 1), ceil_mode
    if last:
        windows = _windows(*sizes)
        blocks = windows.blocks_by_images()
        planes, parts = longest(blocks) * shape[0], len(blocks)
        if backward:
            yield from windows.border_scratch(planes, dtype, parts)
            yield Asked("numbers", dtype, planes * prod(windows.out), parts)
        else:
            yield from windows.reduction_scratch(planes, dtype, parts)
    elif not tiled(shape[2:], kernel_size, stride, padding):
        phases = _phases(*sizes)
        for role in ("numbers", *(f"phase {phase}" for phase in phases.used)):
            yield Asked(role, dtype, longest(phases.blocks) * prod(phases.grid), len(phases.blocks))


MOST_BINS = 64  # of a plane, for a product: every bin reads the whole plane


def _means(size: tuple[int, int], output_size: tuple[int, int], dtype) -> np.ndarray | None:
    """(bins, H·W): what each entry of a plane counts in the mean of each bin; None where products would be slower."""
    if not 0 < prod(output_size) <= MOST_BINS:
        return None
    rows, columns = (np.zeros((out, length)) for out, length in zip(output_size, size, strict=True))
    for matrix in (rows, columns):
        for i, (start, end) in enumerate(neutral._bins(matrix.shape[1], len(matrix))):
            matrix[i, start:end] = 1 / (end - start)
    return np.kron(rows, columns).astype(dtype)


def adaptive_avg_pool2d_forward(input, output_size):
    """Few bins are a product with the matrix of their weights; a bin of one entry is a copy."""
    n, c, h, w = input.shape
    if output_size == (h, w):
        return input.copy(), input.shape
    means = _means((h, w), output_size, input.dtype)
    if means is not None:
        output = _product(np.ascontiguousarray(input).reshape(n, c, h * w), means.T)
        if output is not None:
            return output.reshape(n, c, *output_size), input.shape
    return neutral.adaptive_avg_pool2d_forward(input, output_size)


def adaptive_avg_pool2d_backward(grad_output, input_shape, needs, output_size):
    n, c, h, w = input_shape
    if output_size == (h, w):
        return (grad_output,)
    means = _means((h, w), output_size, grad_output.dtype)
    if means is not None:
        grad_input = _product(np.ascontiguousarray(grad_output).reshape(n, c, len(means)), means)
        if grad_input is not None:
            return (grad_input.reshape(input_shape),)
    return neutral.adaptive_avg_pool2d_backward(grad_output, input_shape, needs, output_size)
