"""im2col for many small images, by rows: pixels are copied once for each column of the kernel, not for each entry.

With images last (`layout`) a row of windows has out_w · N numbers for each entry of the kernel, which is long enough to
be copied fast. So an image's rows are laid beside themselves, from each column of the kernel on::

    X    (H + 2·padding, C, kw, out_w·N)

What the windows of row r see are the rows r to r + kh of X. They lie behind each other: a matrix (kh·C·kw, out_w·N) as
it stands, in which the next matrix begins one row of X further on. So there are kw copies of the image where im2col
makes kh·kw, and products are::

    y[r]      = w X[r : r + kh]                  w as (O, kh·C·kw)
    ∂L/∂w     = Σ over r of ∂L/∂y[r] X[r : r + kh]ᵀ
    ∂L/∂X[q]  = w′ G[q : q + kh]                 w′ (C·kw, kh·O), the kernel's rows in reverse; G the rows of ∂L/∂y,
                                                 with kh − 1 rows of zeros before and behind

and each row of ∂L/∂X goes to kw places of ∂L/∂x. A weight that is infinite or NaN meets the zeros in G, and more
entries become NaN than those that it reaches.

Threads take blocks of rows, each with the rows of X that it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

import numpy as np

from ...threads import pieces, run
from .im2col import LEAST_LENGTH, TINY, Im2col, divided, inside, multiply, parts_of_row, total
from .layout import IMAGES_LAST, MANY_IMAGES, Epilogue, empty_maps, lie_last
from .scratch import longest, scratch, sum_of_maps

NUMBERS = 1 << 20  # of X, or of its gradient, in a block; smaller ones copy the rows between two blocks more often
FEW_CHANNELS, SMALL_MAP = 8, 32 * 32  # at most, for images to lie last
LEAST_ROWS = 3  # in a block; of fewer, most of what is copied is copied again for the next
MOST_SUMMED = 1 << 10  # windows in a product for a tiny gradient of the weight


class ByRows(Im2col):
    """One convolution's sizes, and its passes."""

    images_last = True

    @staticmethod
    def pays(general: Im2col) -> bool:
        """Whether this is faster than a convolution's `general` form."""
        (out_h, out_w), n, channels = general.out, general.n, general.channels
        if max(*general.stride, *general.dilation) > 1 or general.taps == 1 or n < MANY_IMAGES:
            return False
        small = channels <= FEW_CHANNELS and 0 < out_h * out_w <= SMALL_MAP
        fits = 0 < LEAST_ROWS * channels * general.kernel[1] * n * out_w <= NUMBERS
        # Each row of windows has a product of its own for the weight's gradient.
        return small and fits and 0 < general.filters * general.kernel[0] <= n * out_w

    def __init__(self, input_shape, weight_shape, dtype, stride, padding, dilation, groups):
        super().__init__(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
        self.own = self.channels // groups  # a group's channels
        self.length = self.out[1] * self.n  # of a row of windows

    def cost(self, of="output"):
        depth, copies = self.channels * self.taps, 0.3 * self.channels * self.kernel[1] + 0.4 * self.filters
        return self.n * prod(self.out) * (self.of_product * depth * self.filters / self.groups + copies)

    def cut(self, rows: int, numbers: int) -> Sequence[slice]:
        """All rows, each of so many numbers, in blocks; two of them, so that two threads have work."""
        return pieces(rows, min(NUMBERS // numbers, -(-rows // 2)), even=True)

    @cached_property
    def rows_out(self) -> Sequence[slice]:
        return self.cut(self.out[0], self.channels * self.kernel[1] * self.length)

    @cached_property
    def rows_in(self) -> Sequence[slice]:
        numbers = max(self.channels * self.kernel[1], self.filters) * self.length
        return self.cut(self.size[0], numbers)

    def seen(self, input: np.ndarray, rows: slice) -> np.ndarray:
        """What some rows of windows see, (groups, rows, kh·C·kw of a group, out_w·N)."""
        (kh, kw), (ph, pw), (h, w), width = self.kernel, self.padding, self.size, self.out[1]
        tall, top = rows.stop - rows.start + kh - 1, rows.start - ph
        first, last = inside(top, tall, h)
        pixels = input[:, :, first:last].transpose(2, 1, 3, 0)
        if pw or len(pixels) < tall or not lie_last(input):
            padded = scratch("padded", (tall, self.channels, w + 2 * pw, self.n), self.dtype)
            padded.fill(0)
            padded[first - top : last - top, :, pw : pw + w] = pixels
            pixels = padded
        pixels = pixels.reshape(tall, self.groups, self.own, w + 2 * pw, self.n).swapaxes(0, 1)
        beside = scratch("columns", (self.groups, tall, self.own, kw, width, self.n), self.dtype)
        for j in range(kw):
            beside[:, :, :, j] = pixels[:, :, :, j : j + width]
        return self.overlapping(beside.reshape(self.groups, tall, self.own * kw, self.length))

    def overlapping(self, rows: np.ndarray) -> np.ndarray:
        """(groups, rows + kh − 1, K, L) as (groups, rows, kh·K, L), each with the next kh, in the same memory."""
        groups, tall, depth, length = rows.shape
        kh = self.kernel[0]
        return np.ndarray((groups, tall - kh + 1, kh * depth, length), rows.dtype, rows, 0, rows.strides)

    def forward(
        self, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, epilogue: Epilogue | None = None
    ) -> np.ndarray:
        output = empty_maps((self.n, self.filters, *self.out), self.dtype, True)
        made = self.in_rows(self.by_group(output))
        w = self.kernels(weight).transpose(0, 1, 3, 2, 4).reshape(self.groups, 1, made.shape[2], -1)

        def work(rows: slice) -> None:
            multiply(w, self.seen(input, rows), made[:, rows])
            of_rows = output[:, :, rows]
            if bias is not None:
                of_rows += bias[:, None, None]
            if epilogue is not None:
                epilogue(output, (slice(0, self.n), slice(0, self.filters), rows))

        run(work, self.rows_out)
        return output

    def by_group(self, maps: np.ndarray) -> np.ndarray:
        """(N, O, out_h, out_w) as (groups, out_h, O/groups, out_w, N)."""
        return maps.transpose(IMAGES_LAST).reshape(self.groups, -1, *self.out, self.n).swapaxes(1, 2)

    def in_rows(self, maps: np.ndarray) -> np.ndarray:
        """The same as (groups, out_h, O/groups, out_w·N); a copy, unless images lie last."""
        return maps.reshape(*maps.shape[:3], self.length)

    def kernels(self, weight: np.ndarray) -> np.ndarray:
        """(groups, O/groups, C/groups, kh, kw)."""
        return weight.reshape(self.groups, -1, *weight.shape[1:])

    def backward(self, grad_output, input, weight, needs):
        grad = self.by_group(grad_output)
        grad_input = self.gradient_of_input(grad, weight) if needs[0] else None
        grad_weight = self.gradient_of_weight(grad, input, weight) if needs[1] else None
        return grad_input, grad_weight, sum_of_maps(grad_output) if needs[2] else None

    @cached_property
    def parts_summed(self) -> int:
        """Of a row of windows, for the weight's gradient of a group."""
        tiny = self.weight_numbers // self.groups <= TINY
        return parts_of_row(self.length, MOST_SUMMED, LEAST_LENGTH) if tiny else 1

    def gradient_of_weight(self, grad: np.ndarray, input: np.ndarray, weight: np.ndarray) -> np.ndarray:
        filters, count = grad.shape[2], self.parts_summed
        sums = np.empty((len(self.rows_out), self.groups, self.own * self.taps, filters), self.dtype)

        def add_up(block: int) -> None:
            rows = self.rows_out[block]
            x, g = divided(self.seen(input, rows), count), divided(self.in_rows(grad[:, rows]), count)
            np.matmul(x, g.swapaxes(-1, -2)).sum(axis=(1, 2), out=sums[block])

        run(add_up, range(len(sums)))
        shape = self.groups, self.kernel[0], self.own, self.kernel[1], filters
        return total(sums).reshape(shape).transpose(0, 4, 2, 1, 3).reshape(weight.shape)

    def gradient_of_input(self, grad: np.ndarray, weight: np.ndarray) -> np.ndarray:
        (kh, kw), (ph, pw), (out_h, out_w), w = self.kernel, self.padding, self.out, self.size[1]
        grad_input = empty_maps((self.n, self.channels, *self.size), self.dtype, True)
        maps = grad_input.transpose(IMAGES_LAST).reshape(self.groups, self.own, *self.size, self.n).swapaxes(1, 2)
        turned = self.kernels(weight)[:, :, :, ::-1].transpose(0, 2, 4, 3, 1)
        turned = turned.reshape(self.groups, 1, self.own * kw, -1)

        def work(rows: slice) -> None:
            count = rows.stop - rows.start
            tall, top = count + kh - 1, rows.start + ph - (kh - 1)  # of the rows that look at these
            first, last = inside(top, tall, out_h)
            padded = scratch("product", (self.groups, tall, *grad.shape[2:]), self.dtype)
            padded[:, : first - top] = 0
            padded[:, last - top :] = 0
            padded[:, first - top : last - top] = grad[:, first:last]
            beside = scratch("columns", (self.groups, count, self.own, kw, out_w, self.n), self.dtype)
            of_rows = beside.reshape(self.groups, count, -1, self.length)
            multiply(turned, self.overlapping(self.in_rows(padded)), of_rows)
            into = maps[:, rows]
            into.fill(0)
            for j in range(kw):
                start = max(pw - j, 0)
                end = max(min(w + pw - j, out_w), start)
                into[:, :, :, start + j - pw : end + j - pw] += beside[:, :, :, j, start:end]

        run(work, self.rows_in)
        return grad_input

    def scratch(self, backward, needs, threads, ordered=False):
        (kh, kw), (ph, pw), width = self.kernel, self.padding, self.size[1]
        found: list[tuple[int, str, int]] = []
        others = 0
        if not backward or needs[1]:
            takers, rows = min(threads, len(self.rows_out)), longest(self.rows_out)
            for thread in range(takers):
                if (ph, pw) != (0, 0) or not ordered:
                    found.append((thread, "padded", (rows + kh - 1) * self.channels * (width + 2 * pw) * self.n))
                found.append((thread, "columns", (rows + kh - 1) * self.channels * kw * self.length))
            if backward:  # a product for each row, and a sum for each block
                others = (takers * rows * self.parts_summed + len(self.rows_out)) * self.weight_numbers
        if backward and needs[0]:
            rows = longest(self.rows_in)
            for thread in range(min(threads, len(self.rows_in))):
                found.append((thread, "product", (rows + kh - 1) * self.filters * self.length))
                found.append((thread, "columns", rows * self.channels * kw * self.length))
        return found, others
