"""im2col with a stride, for large maps: the image sorted into phases first, so that columns are long slices.

With a stride of 2 neighbours among a row of columns are every second pixel, and to collect them one by one takes as
long as the product. But entry (i, j) of all windows lies in the rows i, i + 2, … and the columns j, j + 2, …: in one
of four `phases` of the image, by odd and even rows and columns, as in `pool`. In its phase, a small image itself, entry
(i, j) of the window (r, c) is pixel (r + i // 2, c + j // 2). Laid out flat, with windows in rows as long as the
phase's, a row of columns is one slice of a phase, i // 2 rows and j // 2 pixels further on. The last windows of each
row begin too far right; they are left out of the output, and have no gradient: zeros, which make NaNs of infinite
pixels in more entries of the weight's gradient than see them.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from ...threads import each, pieces, portions, run, wide_blas
from .im2col import UNPACKED, Block, Im2col, inside, multiply, parts_of_row, sum_over_windows, total
from .layout import Epilogue
from .scratch import scratch

NUMBERS = 1 << 20  # of a block's columns; four megabytes of float32, as their calls are many
LEAST_WINDOWS = 28 * 28  # of an image; with fewer, the columns of several images are one matrix
LONG_ROW = 96  # windows: then the product of each row is written where it belongs


class Phased(Im2col):
    """One convolution's sizes, and its passes; all but the output and the weight's gradient are `Im2col`'s."""

    @staticmethod
    def pays(general: Im2col) -> bool:
        """Whether this is faster than a convolution's `general` form."""
        windows = general.out[0] * general.out[1]
        once = max(general.stride) > 1 and max(general.dilation) == general.groups == 1
        return once and general.taps > 1 and windows >= LEAST_WINDOWS and not general.small

    def __init__(self, input_shape, weight_shape, dtype, stride, padding, dilation, groups):
        super().__init__(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
        self.depth = self.channels * self.taps
        self.further = [(k - 1) // s for k, s in zip(self.kernel, self.stride, strict=True)]
        self.wide = self.out[1] + self.further[1]  # a row of a phase

    @cached_property
    def strips(self) -> list[Block]:
        rows = pieces(self.out[0], NUMBERS // max(self.depth * self.wide, 1))
        return [(slice(i, i + 1), part) for i in range(self.n) for part in rows]

    @cached_property
    def weight_shares(self) -> list[list[Block]]:
        """Lists of strips whose gradients of the weight are added up, for threads."""
        return portions(self.strips, self.sums())

    def phases(self, image: np.ndarray, rows: slice) -> np.ndarray:
        """What some rows of windows see of an image (C, H, W), flat: (sh, sw, C, rows · wide and a few zeros)."""
        (sh, sw), (ph, pw), (c, h, w) = self.stride, self.padding, image.shape
        high, top = rows.stop - rows.start + self.further[0], sh * rows.start - ph
        padded = scratch("padded", (c, sh * high, sw * self.wide), self.dtype)
        padded.fill(0)
        first, last = inside(top, sh * high, h)
        broad = max(min(sw * self.wide - pw, w), 0)
        padded[:, first - top : last - top, pw : pw + broad] = image[:, first:last, :broad]
        found = scratch("phases", (sh, sw, c, high * self.wide + self.further[1]), self.dtype)
        found[..., high * self.wide :] = 0
        sorted_pixels = padded.reshape(c, high, sh, self.wide, sw).transpose(2, 4, 0, 1, 3)
        found[..., : high * self.wide].reshape(sorted_pixels.shape)[...] = sorted_pixels
        return found

    def flat_columns(self, image: np.ndarray, rows: slice) -> np.ndarray:
        """(K, rows · wide)."""
        (sh, sw), (kh, kw), phases = self.stride, self.kernel, self.phases(image, rows)
        length, (_, _, of_channel, one) = (rows.stop - rows.start) * self.wide, phases.strides
        columns = scratch("columns", (len(image), kh, kw, length), self.dtype)
        for i in range(min(sh, kh)):
            for j in range(min(sw, kw)):
                into = columns[:, i::sh, j::sw]  # the entries in one phase
                steps = of_channel, self.wide * one, one, one
                into[...] = np.lib.stride_tricks.as_strided(phases[i, j], into.shape, steps)
        return columns.reshape(self.depth, length)

    def forward(
        self, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, epilogue: Epilogue | None = None
    ) -> np.ndarray:
        w = weight.reshape(self.filters, -1)
        output = np.empty((self.n, self.filters, *self.out), self.dtype)
        parts = parts_of_row(self.filters, max(UNPACKED / (self.depth * self.out[1]), 1), 1)  # not to be packed

        def work(block: Block) -> None:
            (images, rows), (_, high, _) = block, self.extent(block)
            columns = self.flat_columns(input[images.start], rows)
            out = output[images.start, :, rows]
            if self.by_row:
                of_rows = columns.reshape(self.depth, high, self.wide)[:, None, :, : self.out[1]].transpose(2, 1, 0, 3)
                into = out.reshape(parts, -1, high, self.out[1]).transpose(2, 0, 1, 3)
                np.matmul(w.reshape(parts, -1, self.depth), of_rows, out=into)
            else:
                product = scratch("product", (1, self.filters, columns.shape[1]), self.dtype)
                multiply(w[None], columns[None], product)
                out[...] = product.reshape(self.filters, high, self.wide)[:, :, : self.out[1]]
            if bias is not None:
                out += bias[:, None, None]
            if epilogue is not None:
                epilogue(output, (images, slice(0, self.filters), rows))

        run(work, self.strips)
        return output

    @property
    def by_row(self) -> bool:
        return self.out[1] >= LONG_ROW and wide_blas()

    def backward(self, grad_output, input, weight, needs):
        grad_input, _, grad_bias = super().backward(grad_output, input, weight, (needs[0], False, needs[2]))
        if not needs[1]:
            return grad_input, None, grad_bias
        shares = self.weight_shares
        of_weight = [np.empty((1, self.depth, self.filters), self.dtype) for _ in shares]

        def add_up(share: int, block: Block) -> None:
            (images, rows), (_, high, _) = block, self.extent(block)
            grad = scratch("product", (self.filters, high, self.wide), self.dtype)
            grad[:, :, : self.out[1]] = grad_output[images.start, :, rows]
            grad[:, :, self.out[1] :] = 0
            columns = self.flat_columns(input[images.start], rows)[None]
            sum_over_windows(columns, grad.reshape(1, self.filters, -1), of_weight[share], block is shares[share][0])

        run(lambda i: each(partial(add_up, i), shares[i]), range(len(shares)))
        return grad_input, np.ascontiguousarray(total(of_weight)[0].T).reshape(weight.shape), grad_bias

    def scratch(self, backward, needs, threads, ordered=False):
        found, others = super().scratch(True, (needs[0], False, needs[2]), threads) if backward else ([], 0)
        if backward and not needs[1]:
            return found, others
        high = max(self.extent(block)[1] for block in self.strips)
        of_phases = self.stride[0] * self.stride[1] * self.channels
        tall, shares = high + self.further[0], self.weight_shares if backward else self.strips
        for thread in range(min(threads, len(shares))):
            found.append((thread, "padded", of_phases * tall * self.wide))
            found.append((thread, "phases", of_phases * (tall * self.wide + self.further[1])))
            found.append((thread, "columns", self.depth * high * self.wide))
            if backward or not self.by_row:
                found.append((thread, "product", self.filters * high * self.wide))
        sums = len(shares) if backward else 0
        return found, max(others, sums * self.filters * self.depth)
