"""Convolution by im2col, in blocks: the products of `kernels.conv`, on columns that stay in a core's cache.

A block is some rows of one image's output, or some images, so few that its columns take about a megabyte. Their
memory is used again for the next block, where the columns of a whole batch would be fetched from the system and given
back each time. Threads take blocks. Where a network has become deep and small (512 channels of 7 × 7), there are too
few blocks, and threads share one instead: they build its columns and divide the product by channels.

What is shorter than to wake a thread and to wait for Python's lock is left to one. Many small images with few channels
go by rows (`by_rows`), large maps with a stride by phases (`phased`).

A kernel of 1 × 1 at stride 1 needs no columns: a row of them would be a row of the input. And the product for one
image is its output as it stands, so it is written there.

Backward needs but the columns of a few channels at a time: they give those rows of the weight's gradient, and take
the gradient of those channels of the input. Sums over blocks are always added up in the same order, so that the
number of threads changes no bit.

How long a product takes depends on more than its size. BLAS copies its matrices into an order of its own first; but
OpenBLAS for AVX-512 does not where the product is small, so there products are divided, along the windows, into some
that are. And the sums over windows, for the weight's gradient, take much longer with a few filters as rows than as
columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property, partial
from math import prod

import numpy as np

from ...backend import sliding_windows
from ...threads import each, pieces, portions, run, wide_blas
from ..conv import output_size
from .layout import IMAGES_FIRST, IMAGES_LAST, Epilogue, lie_last
from .scratch import longest, scratch, sum_of_maps

NUMBERS = 1 << 18  # of a block's columns; a megabyte of float32
LEAST_COLUMNS = 192  # of a block: a product with fewer spends its time on packing the weight
WHOLE = 1.5  # times as many columns as fit may an image have before it is cut: halves are slower than one too large
LEAST_BLOCKS = 4  # with fewer, threads share each block
SMALL = 1 << 21  # numbers in all columns: two blocks then, as short calls spend their time waiting for Python's lock
HEAVY = 1400  # times as many numbers in the weight as windows: a gradient more of its size costs more than to share
SHORT = 3e5  # nanoseconds on one core; as much again is Python's, and threads take turns with its lock
SUMS = 8  # partial sums of the weight's gradient, at most
SUM_NUMBERS = 1 << 18  # in all of them, unless two alone have more
UNPACKED = 10**6  # multiplications in a product whose matrices OpenBLAS takes as they are
LEAST_LENGTH = 64  # of the parts of a row that make such products
TINY = 512  # numbers in a weight's gradient that is better summed part by part
FEW_FILTERS, MANY_WINDOWS = 64, 4096  # with either, it pays to turn the weight's gradient about

Block = tuple[slice, slice]  # images, rows of the output
Part = tuple[slice, slice, slice]  # channels; the groups that they are in; which channels of each group


class Im2col:
    """One convolution's sizes, and its passes."""

    name = "im2col"
    images_last = False  # in what the passes return (`layout`)

    def __init__(self, input_shape, weight_shape, dtype, stride, padding, dilation, groups):
        self.n, self.channels, *self.size = input_shape
        self.filters, _, *self.kernel = weight_shape
        self.dtype, self.stride, self.padding, self.dilation, self.groups = dtype, stride, padding, dilation, groups
        self.out = tuple(map(output_size, self.size, self.kernel, stride, padding, dilation))
        self.taps = prod(self.kernel)
        self.small = self.n * self.channels * self.taps * prod(self.out) <= SMALL
        # The order of windows in columns, and of (N, C, H, W) in the passes: images last where there are windows to
        # copy, for then what is copied at a time is long, also where maps are small; but for a stride, which keeps
        # neighbours apart.
        self.order = IMAGES_LAST if self.taps > 1 and max(stride) == 1 else (1, 0, 2, 3)
        self.back = IMAGES_FIRST if self.order == IMAGES_LAST else self.order
        self.pointwise = tuple(stride) == tuple(self.kernel) == (1, 1) and tuple(padding) == (0, 0)
        self.least_blocks = 2 if self.small else LEAST_BLOCKS
        self.weight_numbers = self.filters * self.channels // groups * self.taps
        self.heavy = self.small and self.weight_numbers > HEAVY * self.n * prod(self.out) > 0
        self.short = self.cost() < SHORT  # then a second thread is not worth waking

        # The weight's gradient is made as (groups, K, O/groups), and turned about at the end.
        filters = self.filters // groups
        few = filters <= FEW_FILTERS or self.n * prod(self.out) >= MANY_WINDOWS
        self.turned = few and filters < self.channels // groups * self.taps

    def cost(self, of: str = "output") -> float:
        """An estimate of the forward pass on one core, in nanoseconds, or of that part of the backward pass which makes
        the gradient `of` the ``"input"`` or the ``"weight"``; its numbers are fitted to measurements."""
        depth = self.channels * self.taps
        copies = 0.0 if self.pointwise else (0.6 if of == "input" else 0.4) * depth  # to add back takes longer
        of_window = self.of_product * depth * self.filters / self.groups + copies
        return self.n * prod(self.out) * of_window + 0.4 * depth * self.filters / self.groups  # and the weight's memory

    @property
    def of_product(self) -> float:
        """Nanoseconds of a multiplication in a product."""
        return 0.0095 if wide_blas() else 0.021

    # --------------------------------------------------------------------------------------- how the work is cut

    def blocks(self, strips: bool) -> list[Block]:
        """Of one image or more; `strips` allows a part of one."""
        (out_h, out_w), everything, depth = self.out, slice(0, self.out[0]), self.channels * self.taps
        work = self.filters * self.channels // self.groups * out_h * out_w  # multiplications for an image
        if self.pointwise and out_h * out_w >= LEAST_COLUMNS and work >= 2 * UNPACKED:  # then nothing is copied
            return [(slice(i, i + 1), everything) for i in range(self.n)]
        if self.small and self.n > 1:
            return [(part, everything) for part in pieces(self.n, -(-self.n // 2))]
        fitting = max(NUMBERS // max(depth, 1), LEAST_COLUMNS)  # columns in a block
        if strips and WHOLE * fitting < out_h * out_w:
            rows = pieces(out_h, fitting // out_w)
            return [(slice(i, i + 1), part) for i in range(self.n) for part in rows]
        images = min(max(fitting // max(out_h * out_w, 1), 1), max(self.n // LEAST_BLOCKS, 1))
        if images * out_h * out_w < LEAST_COLUMNS:  # then few and large, to be shared
            images = max(8 * NUMBERS // max(depth * out_h * out_w, 1), 1)
        return [(part, everything) for part in pieces(self.n, images)] if self.n else []

    def shares(self, blocks: list[Block], most: int) -> list[list[Block]]:
        """Lists of blocks that threads work through; a single list, where threads share the blocks themselves."""
        return portions(blocks, most if len(blocks) >= self.least_blocks and not self.short else 1)

    @cached_property
    def strips(self) -> list[Block]:
        return self.blocks(strips=True)

    @cached_property
    def forward_shares(self) -> list[list[Block]]:
        return self.shares(self.strips, len(self.strips))

    @cached_property
    def in_strips(self) -> list[list[Block]]:
        return self.shares(self.strips, self.sums())

    @cached_property
    def in_images(self) -> list[list[Block]]:
        return self.shares(self.blocks(strips=False), self.sums())

    def backward_shares(self, needs: tuple[bool, ...]) -> list[list[Block]]:
        """The input's gradient is made of whole images, unless windows do not overlap. A heavy weight's has a
        single block, as for each share there would be a gradient of the weight to write and to add up."""
        if self.heavy:
            return [[(slice(0, self.n), slice(0, self.out[0]))]]
        return self.in_strips if not needs[0] or self.pointwise else self.in_images

    def sums(self) -> int:
        """How many partial sums of the weight's gradient, a power of two, for threads: they have to be added up."""
        fitting = SUM_NUMBERS // max(self.weight_numbers, 1)
        return 1 << min(max(fitting, 2), SUMS).bit_length() - 1

    def parts(self, total: int, numbers: int, shared: bool) -> list[Part]:
        """All `total` channels (the input's, or the filters), some at a time; each brings so many `numbers` with it.

        A shared block's are divided among threads; the others' only if their columns are too many. Channels of one
        group may be divided; of several groups, each is whole.
        """
        size, most = total // self.groups, 8 * NUMBERS // max(numbers, 1)
        units, most = (total, most) if self.groups == 1 else (self.groups, most // max(size, 1))
        cut = pieces(units, min(most, -(-units // self.least_blocks)) if shared and not self.short else most)
        if self.groups == 1:
            return [(part, slice(0, 1), part) for part in cut]
        return [(slice(part.start * size, part.stop * size), part, slice(0, size)) for part in cut]

    def extent(self, block: Block) -> tuple[int, int, int]:
        """Images, rows, and windows of a block."""
        images, rows = block
        n, high = images.stop - images.start, rows.stop - rows.start
        return n, high, n * high * self.out[1]

    # ------------------------------------------------------------------------------------------------- the columns

    def columns(self, input: np.ndarray, block: Block, channels: slice, into: np.ndarray | None = None) -> np.ndarray:
        """im2col of some channels of a block: (channels·kh·kw, windows)."""
        (images, rows), (n, out_h, count), (ph, pw), (h, w) = block, self.extent(block), self.padding, self.size
        taken, c = input[images, channels], channels.stop - channels.start
        if into is None and self.pointwise and n == 1:
            return taken[0, :, rows].reshape(c, count)
        if into is None:
            into = scratch("columns", (c * self.taps, count), self.dtype)
        top = rows.start * self.stride[0] - ph  # of the input, may be above it
        tall = (out_h - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1
        first, last = inside(top, tall, h)
        taken = taken[:, :, first:last]
        if taken.shape[2] < tall or pw or (n > 1 and self.taps > 1 and not lie_last(input)):
            padded = self.array("padded", n, c, tall, w + 2 * pw)
            padded.fill(0)
            padded[:, :, first - top : last - top, pw : pw + w] = taken
            taken = padded
        windows = sliding_windows(taken, self.kernel, self.stride, self.dilation)  # (n, c, out_h, out_w, kh, kw)
        windows = windows.transpose(1, 4, 5, *self.order[1:])
        into.reshape(c, *self.kernel, *windows.shape[3:])[...] = windows
        return into

    def array(self, role: str, n: int, c: int, height: int, width: int) -> np.ndarray:
        """A scratch array (n, c, height, width), in memory in the order of the passes."""
        shape = (n, c, height, width)
        return scratch(role, tuple([shape[axis] for axis in self.order]), self.dtype).transpose(self.back)

    def add_back(self, columns: np.ndarray, sums: np.ndarray) -> None:
        """col2im of some channels, added to `sums` (n, c, H, W), borders included."""
        windows = sliding_windows(sums, self.kernel, self.stride, self.dilation).transpose(4, 5, *self.order)
        columns = columns.reshape(-1, *self.kernel, *windows.shape[3:]).transpose(1, 2, 0, 3, 4, 5)
        for of_row, columns_of_row in zip(windows, columns, strict=True):
            for entries, given in zip(of_row, columns_of_row, strict=True):
                entries += given  # one entry of all windows: no place twice

    def give_back(
        self, part: Part, block: Block, w: np.ndarray, grad: np.ndarray, grad_input: np.ndarray
    ) -> None:
        """Some channels of the input's gradient that belong to a block of ∂L/∂y, (groups, O/groups, windows)."""
        (images, rows), (n, _, count), (channels, groups, of_group) = block, self.extent(block), part
        k = slice(of_group.start * self.taps, of_group.stop * self.taps)
        back = w[groups, :, k].transpose(0, 2, 1)
        if self.pointwise and n == 1:
            of_image = grad_input[images.start].reshape(self.groups, -1, prod(self.size))
            span = slice(rows.start * self.out[1], rows.start * self.out[1] + count)
            multiply(back, grad, of_image[groups, of_group, span])
            return
        columns = scratch("columns", (len(grad), k.stop - k.start, count), self.dtype)
        multiply(back, grad, columns)
        (h, w), (ph, pw) = self.size, self.padding
        sums = self.array("padded", n, channels.stop - channels.start, h + 2 * ph, w + 2 * pw)
        sums.fill(0)
        self.add_back(columns, sums)
        grad_input[images, channels] = sums[:, :, ph : ph + h, pw : pw + w]

    def matrix(self, maps: np.ndarray, block: Block) -> np.ndarray | None:
        """A block of `maps` (N, O, out_h, out_w) as a matrix (groups, O/groups, windows), where it is one in memory: of
        one image."""
        (images, rows), (n, _, count) = block, self.extent(block)
        if n > 1 or not maps.flags.c_contiguous:
            return None
        first = rows.start * self.out[1]
        of_groups = maps[images.start].reshape(self.groups, self.filters // self.groups, -1)
        return of_groups[:, :, first : first + count]

    # ---------------------------------------------------------------------------------------------------- the passes

    def forward(
        self, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, epilogue: Epilogue | None = None
    ) -> np.ndarray:
        w = weight.reshape(self.groups, self.filters // self.groups, -1)  # (groups, O/groups, K)
        output = np.empty((self.n, self.filters, *self.out), self.dtype)
        shared = len(self.forward_shares) == 1

        def pass_through(block: Block) -> None:
            (images, rows), (n, _, count) = block, self.extent(block)
            product = in_place = self.matrix(output, block)
            if product is None:
                product = scratch("product", (self.groups, self.filters // self.groups, count), self.dtype)
            if self.pointwise and n == 1:
                columns = self.columns(input, block, slice(0, self.channels))
            else:
                columns = scratch("columns", (self.channels * self.taps, count), self.dtype)
                by_channel = columns.reshape(self.channels, self.taps, count)
                run(
                    lambda part: self.columns(input, block, part[0], by_channel[part[0]]),
                    self.parts(self.channels, count * self.taps, shared),
                )
            columns = columns.reshape(self.groups, -1, count)

            def apply(part: Part) -> None:
                filters, groups, of_group = part
                made = product[groups, of_group]
                multiply(w[groups, of_group], columns[groups], made)
                if in_place is None:
                    target = output[images, filters, rows].transpose(self.order)
                    made = product.reshape(self.filters, -1)[filters].reshape(target.shape)
                    if bias is None:
                        target[...] = made
                    else:
                        np.add(made, bias[filters].reshape(-1, 1, 1, 1), out=target)
                elif bias is not None:
                    made += bias[filters].reshape(len(made), -1, 1)
                if epilogue is not None:
                    epilogue(output, (images, filters, rows))

            run(apply, self.parts(self.filters, count, shared))

        run(lambda share: each(pass_through, share), self.forward_shares)
        return output

    def backward(self, grad_output, input, weight, needs):
        w = weight.reshape(self.groups, self.filters // self.groups, -1)  # (groups, O/groups, K)
        grad_input = np.empty(input.shape, self.dtype) if needs[0] else None
        shares = self.backward_shares(needs)
        shape = (self.groups, *w.shape[:0:-1]) if self.turned else w.shape
        of_weight = [np.empty(shape, self.dtype) for _ in shares] if needs[1] else None
        shared = len(shares) == 1

        def pass_through(share: int, block: Block) -> None:
            (images, rows), (_, _, count) = block, self.extent(block)
            grad = self.matrix(grad_output, block)  # ∂L/∂y, (groups, O/groups, windows)
            if grad is None:
                arranged = scratch("product", (self.filters, count), self.dtype)

                def arrange(part: Part) -> None:
                    taken = grad_output[images, part[0], rows].transpose(self.order)
                    arranged[part[0]].reshape(taken.shape)[...] = taken

                run(arrange, self.parts(self.filters, count, shared))
                grad = arranged.reshape(self.groups, -1, count)

            def take(part: Part) -> None:
                channels, groups, of_group = part
                k = slice(of_group.start * self.taps, of_group.stop * self.taps)
                if of_weight is not None:
                    columns = self.columns(input, block, channels).reshape(groups.stop - groups.start, -1, count)
                    first = block is shares[share][0]
                    if self.turned:
                        sum_over_windows(columns, grad[groups], of_weight[share][groups, k], first)
                    else:
                        sum_over_windows(grad[groups], columns, of_weight[share][groups, :, k], first)
                if grad_input is not None:
                    self.give_back(part, block, w, grad[groups], grad_input)

            run(take, self.parts(self.channels, count * self.taps, shared))

        if needs[0] or needs[1]:
            run(lambda i: each(partial(pass_through, i), shares[i]), range(len(shares)))
        grad_weight = None
        if of_weight is not None:
            grad_weight = total(of_weight or [np.zeros(shape, self.dtype)])
            grad_weight = (grad_weight.transpose(0, 2, 1) if self.turned else grad_weight).reshape(weight.shape)
        return grad_input, grad_weight, sum_of_maps(grad_output) if needs[2] else None

    def scratch(
        self, backward: bool, needs: tuple[bool, ...], threads: int, ordered: bool = False
    ) -> tuple[list[tuple[int, str, int]], int]:
        """What a pass takes beside its arguments and results, for the memory ledger: scratch arrays as (the number of a
        thread, role, how many numbers), and how many numbers else. In the input images lie last if it is `ordered`, in
        the gradient if they do in the output."""
        shares = self.backward_shares(needs) if backward else self.forward_shares
        blocks = [block for share in shares for block in share]
        if not blocks or (backward and not (needs[0] or needs[1])):
            return [], 0
        shared, (n, out_h, count) = len(shares) == 1, max(map(self.extent, blocks), key=lambda extent: extent[2])
        parts = self.parts(self.channels, count * self.taps, shared)
        channels = longest(part[0] for part in parts)
        takers = min(threads, len(parts if shared else shares))
        holders = 1 if shared else takers
        found: list[tuple[int, str, int]] = []
        if n > 1:
            found = [(thread, "product", self.filters * count) for thread in range(holders)]
        if not (self.pointwise and n == 1):
            if backward:
                found += [(thread, "columns", channels * self.taps * count) for thread in range(takers)]
            else:
                found += [(thread, "columns", self.channels * self.taps * count) for thread in range(holders)]
            (h, w), (ph, pw) = self.size, self.padding
            tall = (out_h - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1
            padded = [(h + 2 * ph) * (w + 2 * pw)] * (backward and needs[0])
            arranged = (ph, pw) != (0, 0) or (n > 1 and self.taps > 1 and not ordered)
            padded += [tall * (w + 2 * pw)] * ((not backward or needs[1]) and arranged)
            padded = [n * channels * numbers for numbers in padded]
            found += [(thread, "padded", max(padded)) for thread in range(takers) if padded]
        sums = len(shares) - 1 + self.turned if backward and needs[1] else 0
        return found, sums * self.weight_numbers


def inside(first: int, count: int, length: int) -> tuple[int, int]:
    """From where to where `count` rows from the `first` on, some maybe in the border, are in an image of `length`."""
    return min(max(first, 0), length), max(min(first + count, length), 0)


@cache
def parts_of_row(length: int, most: float, least: int) -> int:
    """In how many parts of one length, from `least` to `most`, a row can be divided; else 1."""
    if most < least:
        return 1
    counts = range(max(int(-(-length // most)), 1), length // least + 1)
    return next((count for count in counts if length % count == 0), 1)


def divided(matrices: np.ndarray, count: int) -> np.ndarray:
    """Matrices (…, rows, windows) as (…, `count`, rows, windows / `count`)."""
    *others, windows = matrices.shape
    return matrices.reshape(*others, count, windows // count).swapaxes(-3, -2)


def multiply(weights: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """weights (…, R, K) @ columns (…, K, windows) into `out` (…, R, windows)."""
    rows, depth = weights.shape[-2:]
    most = min(UNPACKED / max(rows, 1), NUMBERS / 2) / max(depth, 1)  # and half a block's columns
    count = parts_of_row(columns.shape[-1], most, LEAST_LENGTH) if wide_blas() else 1
    np.matmul(weights[..., None, :, :], divided(columns, count), out=divided(out, count))


def sum_over_windows(a: np.ndarray, b: np.ndarray, out: np.ndarray, first: bool) -> None:
    """a (groups, R, windows) @ b (groups, S, windows)ᵀ into `out` (groups, R, S), or added to it after the `first`."""
    numbers = a.shape[1] * b.shape[1]
    count = parts_of_row(a.shape[2], UNPACKED / max(numbers, 1), LEAST_LENGTH) if numbers <= TINY else 1
    if count > 1:
        found = np.matmul(divided(a, count), divided(b, count).swapaxes(-1, -2)).sum(axis=1)
    elif first:
        np.matmul(a, b.transpose(0, 2, 1), out=out)
        return
    else:
        found = a @ b.transpose(0, 2, 1)
    if first:
        out[...] = found
    else:
        out += found


def total(parts: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The partial sums added up in order, in the first of them."""
    flat = [part.reshape(-1) for part in parts]

    def add_up(piece: slice) -> None:
        for part in flat[1:]:
            flat[0][piece] += part[piece]

    if len(parts) > 1:
        run(add_up, pieces(flat[0].size, NUMBERS))
    return parts[0]
