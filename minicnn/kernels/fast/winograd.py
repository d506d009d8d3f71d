"""Convolution at stride 1 with fewer multiplications: Winograd's F(4×4, 3×3) and F(4×4, 5×5).

Four neighbouring outputs of a kernel of three take 12 multiplications; Winograd's algorithm F(4, 3) takes 6. It
multiplies polynomials by evaluating them at the points 0, 1, −1, 2, −2 and ∞, multiplying the values, and
interpolating::

    y = Aᵀ [(G w) ⊙ (Bᵀ x)]          w (3,), x (6,) the inputs that four outputs see, y (4,)

In two dimensions the same is done along rows and along columns, 36 multiplications for 16 outputs that take 144.
Written as small matrix products, for a tile of 6 × 6 inputs and 4 × 4 outputs, with ⊗ for the Kronecker product::

    U = (G ⊗ G) w                    (36,)      of each filter and channel, (36, O, C)
    V = (Bᵀ ⊗ Bᵀ) x                  (36,)      of each channel and tile, (36, C, T)
    Y = (Aᵀ ⊗ Aᵀ) (U · V)            (16,)      U · V: a product (O, C)·(C, T) for each of the 36, summing over channels

All steps are linear in w and in x, so the gradients are the same steps transposed::

    ∂L/∂U = M̂ᵀ · Vᵀ                  (36, O, C) with M̂ = (A ⊗ A) ∂L/∂Y, (36, T, O)
    ∂L/∂w = (Gᵀ ⊗ Gᵀ) ∂L/∂U
    ∂L/∂x                            the convolution of ∂L/∂y with the kernels turned about, by the same algorithm

A kernel of five takes tiles of 8 × 8, with ½ and −½ for two more points: 64 multiplications instead of 400. Where 6 and
36 stand here, it has 8 and 64.

The price is rounding: intermediate values are larger than the result, and float32 errors about 1e-5 of the largest
value, with 512 channels up to 3e-5. float16 would lose half its digits, and is left to im2col.

S. Winograd, "Arithmetic complexity of computations", 1980; A. Lavin and S. Gray, "Fast algorithms for convolutional
neural networks", CVPR 2016, section 4 (arXiv:1509.09308).

A block of tiles that fits a core's cache passes through all steps on one thread. Where there are few tiles, threads
share a block: they divide V by channels, and then all the rest by filters. U of some filters is made there too, as all
of it would leave the cache (512 channels have 38 MB of it) only to be fetched again for the products. For ∂L/∂U they
divide V by channels and M̂ by tiles, and then the 36 products.

How long the steps take depends on how their numbers lie. A row of a tile is copied as a few large numbers. The
transform along it takes the tiles so, a row's numbers side by side, and the one along columns, as all products after
it, has the tiles side by side. OpenBLAS for AVX-512 takes small products as they are, without a copy in an order of its
own, so larger ones are divided; but two matrices that are both summed along their rows take it twice the time, which is
why M̂ has its filters side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from math import gcd, prod

import numpy as np

from ...threads import each, pieces, portions, run, wide_blas
from .im2col import UNPACKED, parts_of_row, total
from .layout import Epilogue, Place
from .scratch import longest, scratch, sum_of_maps

POINTS = np.array([0, 1, -1, 2, -2, 0.5, -0.5])  # and ∞; without the halves for a kernel of three
KERNELS = 3, 5  # their sides
OUTPUTS = 4  # of a tile along a side
LARGE = np.dtype("c16")  # to copy several numbers as one; there are no larger ones on all machines


def _inputs(r: int) -> int:
    """How many a tile has along a side."""
    return OUTPUTS + r - 1


def _points(r: int) -> np.ndarray:
    """But ∞: one fewer than a tile has inputs along a side."""
    return POINTS[: _inputs(r) - 1]


def _others(r: int) -> list[np.ndarray]:
    """For each point but ∞, the others."""
    return [np.delete(_points(r), i) for i in range(len(_points(r)))]


def _evaluation(r: int, length: int) -> np.ndarray:
    """(6, length): a polynomial of so many coefficients at the points; at ∞, its last coefficient."""
    return np.vstack([np.vander(_points(r), length, increasing=True), np.eye(length)[-1]])


def _input_transform(r: int) -> np.ndarray:
    """Bᵀ (6, 6): for each point the polynomial ∏ (x − q) over the others q; for ∞, over all."""
    rows = [np.append(np.poly(others)[::-1], 0) for others in _others(r)]
    return np.array([*rows, np.poly(_points(r))[::-1]])


def _kernel_transform(r: int) -> np.ndarray:
    """G (6, r): the kernel's polynomial at each point p, divided by ∏ (p − q), which Bᵀ is not."""
    scales = [np.prod(p - others) for p, others in zip(_points(r), _others(r), strict=True)]
    return _evaluation(r, r) / np.array([*scales, 1])[:, None]


def _output_transform(r: int) -> np.ndarray:
    """Aᵀ (4, 6)."""
    return _evaluation(r, OUTPUTS).T


NUMBERS = 1 << 18  # of a block's V or U·V; 1 MB of float32
LEAST_TILES = 96  # of a block: products with fewer spend their time on packing U
LEAST_BLOCKS = 4  # with fewer, threads share each block
SHARED_NUMBERS = 1 << 22  # of a shared block's V
LEAST_FILTERS = 16  # in a product that is not packed; with fewer it is not worth it
ROWS, COLUMNS = 32, 64  # of products that are divided so that they are not packed
MANY_CHANNELS = 128  # more of them in kernels turned about, which lie far apart, are better packed
PIECE = 1 << 18  # numbers that a transform works on at a time
SUMS = 8  # partial sums of the weight's gradient
CALLS = 8e5  # nanoseconds that its many calls take, for threads hand Python's lock to each other between them
LARGEST_SUM = 1 << 19  # numbers in one; where it would have more, threads share the blocks

Block = tuple[slice, slice]  # images, rows of tiles


class Tiles:
    """What the three steps do to maps (N, C, H, W) that are convolved into (N, O, H + 2·padding − r + 1, …)."""

    def __init__(self, shape, channels_out, kernel, padding, dtype, few_sums=False):
        self.tile = _inputs(kernel)
        self.n, self.channels, self.h, self.w = shape
        self.filters, self.padding, self.dtype = channels_out, padding, dtype
        self.out = (self.h + 2 * padding[0] - kernel + 1, self.w + 2 * padding[1] - kernel + 1)
        self.high, self.wide = (-(-size // OUTPUTS) for size in self.out)  # in tiles
        several = LARGE.itemsize // gcd(LARGE.itemsize, dtype.itemsize)
        self.window = -(-self.tile // several) * several  # a row of a tile's inputs, filled up to be copied so
        # In Fortran's order BLAS takes half the time along rows; in C's for the other.
        self.b_t = np.asfortranarray(_input_transform(kernel), dtype)
        self.a_t = _output_transform(kernel).astype(dtype)
        most = max(self.channels, self.filters)
        self.blocks = self._cut(max(NUMBERS // (self.tile**2 * most), LEAST_TILES))
        self.shared = few_sums or len(self.blocks) < LEAST_BLOCKS
        if self.shared:
            self.blocks = self._cut(max(SHARED_NUMBERS // (self.tile**2 * most), 1))

    def _cut(self, tiles: int, block: Block | None = None) -> list[Block]:
        """All, or a block, in blocks of about so many tiles: rows of one image, or whole images."""
        images, rows = block or (slice(0, self.n), slice(0, self.high))
        of_image = (rows.stop - rows.start) * self.wide
        if tiles < of_image:
            strips = [_within(rows, part) for part in pieces(rows.stop - rows.start, round(tiles / self.wide))]
            return [(slice(i, i + 1), strip) for i in range(images.start, images.stop) for strip in strips]
        parts = pieces(images.stop - images.start, tiles // of_image)
        return [(_within(images, part), rows) for part in parts]

    def shares(self, most: int) -> list[list[Block]]:
        """Lists of blocks that threads add up; a single list, where threads share the blocks themselves."""
        return [self.blocks] if self.shared else portions(self.blocks, most)

    def size(self, block: Block) -> tuple[int, int, int]:
        """Images, rows and columns of tiles."""
        images, rows = block
        return images.stop - images.start, rows.stop - rows.start, self.wide

    def at_once(self, block: Block) -> int:
        """How many channels or filters a transform works on at a time."""
        return PIECE // (self.tile**2 * prod(self.size(block)))

    def parts(self, total: int, block: Block) -> Sequence[slice]:
        """All channels or filters for a transform; a shared block's are divided among threads."""
        most = self.at_once(block)
        return pieces(total, min(most, -(-total // LEAST_BLOCKS)), even=True) if self.shared else pieces(total, most)

    def divided(self, block: Block) -> list[Block]:
        """Parts of a block for a transform of all filters; as `parts`."""
        most = PIECE // (self.tile**2 * self.filters)
        if self.shared:
            most = min(most, -(-prod(self.size(block)) // LEAST_BLOCKS))
        return self._cut(max(most, 1), block)

    def products(self) -> Sequence[slice]:
        """The 36, a shared block's in parts that threads take."""
        return pieces(self.tile**2, self.tile if self.shared else self.tile**2)

    def some_filters(self, block: Block) -> Sequence[slice]:
        """A shared block's filters, for threads to take; where it pays, so few that the products are not packed: not
        with rows of V that lie 512 bytes apart, as then they fall on each other in the cache."""
        tiles, most = prod(self.size(block)), -(-self.filters // LEAST_BLOCKS)
        unpacked = UNPACKED // (self.channels * tiles)
        pays = unpacked >= LEAST_FILTERS and tiles % 128
        return pieces(self.filters, min(unpacked, most) if pays else 2 * most, even=True)

    def inputs(self, x: np.ndarray, block: Block, channels: slice, v: np.ndarray) -> None:
        """V of some channels, into their `v` (36, C, T)."""
        (images, rows), (n, high, wide), c = block, self.size(block), channels.stop - channels.start
        tall, broad = OUTPUTS * (high - 1) + self.tile, OUTPUTS * (wide - 1) + self.window
        padded = scratch("padded", (c, n, tall, broad), self.dtype)
        top, left = OUTPUTS * rows.start - self.padding[0], self.padding[1]
        first, last = max(top, 0), min(top + tall, self.h)
        padded.fill(0)
        taken = x[images, channels, first:last].transpose(1, 0, 2, 3)
        padded[:, :, first - top : last - top, left : left + self.w] = taken
        # Its windows, neighbours in a row as if they were one large number.
        of_channel, of_image, down, along = padded.strides
        strides = (down, of_channel, of_image, OUTPUTS * down, OUTPUTS * along)
        tiles = scratch("tiles", (self.tile, c, n, high, wide, self.window), self.dtype)
        into = tiles.view(LARGE)
        for i in range(into.shape[-1]):
            into[..., i] = np.ndarray(into.shape[:-1], LARGE, padded, i * LARGE.itemsize, strides)
        # Along a tile's rows, then along its columns; each as 6 products, which BLAS takes as they are.
        tiles = tiles.reshape(self.tile, -1, self.window)[..., : self.tile].transpose(0, 2, 1)
        half = scratch("half", (self.tile, self.tile, tiles.shape[2]), self.dtype)
        np.matmul(self.b_t, tiles, out=half)
        np.matmul(self.b_t, half.transpose(1, 0, 2), out=self.squared(v).transpose(1, 0, 2))

    def outputs(self, m: np.ndarray, block: Block, filters: slice, y: np.ndarray, bias: np.ndarray | None) -> None:
        """Y of some filters, from their `m` = U·V (36, O, T) into their part of `y`."""
        m = self.squared(m)
        tiles = scratch("tiles", (OUTPUTS, m.shape[2], OUTPUTS), self.dtype)
        half = scratch("half", (OUTPUTS, self.tile, m.shape[2]), self.dtype)
        np.matmul(self.a_t, m.transpose(1, 0, 2), out=half.transpose(1, 0, 2))
        np.matmul(self.a_t, half, out=tiles.transpose(0, 2, 1))
        for of_maps, of_tiles in self._whole_and_cut(y, tiles, block, filters):
            if bias is None:
                of_maps[...] = of_tiles
            else:
                np.add(of_tiles, bias[filters].reshape(-1, *[1] * (of_maps.ndim - 2)), out=of_maps)

    def gradients(self, grad_output: np.ndarray, block: Block, m: np.ndarray) -> None:
        """M̂ of a block, into its `m` (36, T, O)."""
        (images, rows), (n, high, wide) = block, self.size(block)
        maps = grad_output[images, :, OUTPUTS * rows.start : OUTPUTS * rows.stop]
        # By channels they are far apart: side by side first.
        padded = scratch("padded", (n, self.filters, OUTPUTS * high, OUTPUTS * wide), self.dtype)
        if padded.shape != maps.shape:  # the last tiles stick out
            padded.fill(0)
        padded[:, :, : maps.shape[2], : maps.shape[3]] = maps
        tiles = scratch("tiles", (OUTPUTS, n, high, wide, self.filters, OUTPUTS), self.dtype)
        into = tiles.view(LARGE)
        columns = padded.view(LARGE).reshape(n, self.filters, high, OUTPUTS, wide, -1).transpose(5, 3, 0, 2, 4, 1)
        for i, column in enumerate(columns):
            into[..., i] = column
        half = scratch("half", (OUTPUTS, self.tile, m.shape[1] * m.shape[2]), self.dtype)
        np.matmul(self.a_t.T, tiles.reshape(OUTPUTS, -1, OUTPUTS).transpose(0, 2, 1), out=half)
        np.matmul(self.a_t.T, half.transpose(1, 0, 2), out=self.squared(m).transpose(1, 0, 2))

    def _whole_and_cut(
        self, maps: np.ndarray, tiles: np.ndarray, block: Block, filters: slice
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Which part of `maps` is which of the block's `tiles` (rows of a tile, T, columns of a tile): those whose rows
        are all there, and the last ones, if they stick out."""
        (images, rows), (n, high, wide) = block, self.size(block)
        strip = maps[images, filters, OUTPUTS * rows.start : OUTPUTS * rows.stop].transpose(1, 0, 2, 3)
        o, _, height, width = strip.shape
        lines = tiles.reshape(OUTPUTS, o, n, high, OUTPUTS * wide)[..., :width]
        whole, rest = divmod(height, OUTPUTS)
        of_whole = strip[:, :, : OUTPUTS * whole].reshape(o, n, whole, OUTPUTS, width)
        yield of_whole.transpose(3, 0, 1, 2, 4), lines[:, :, :, :whole]
        if rest:
            yield strip[:, :, OUTPUTS * whole :].transpose(2, 0, 1, 3), lines[:rest, :, :, whole]

    def blank(self, role: str, channels: int, block: Block) -> np.ndarray:
        """A scratch array for V or U·V of so many channels, (36, channels, T)."""
        return scratch(role, (self.tile**2, channels, prod(self.size(block))), self.dtype)

    def squared(self, values: np.ndarray) -> np.ndarray:
        """V or U·V (36, C, T), or M̂ (36, T, O), as (6, 6, numbers) in its memory."""
        return values.reshape(self.tile, self.tile, -1)

    def all_inputs(self, x: np.ndarray, block: Block) -> np.ndarray:
        """V (36, C, T)."""
        v = self.blank("columns", self.channels, block)
        run(lambda part: self.inputs(x, block, part, v[:, part]), self.parts(self.channels, block))
        return v

    def all_gradients(self, grad_output: np.ndarray, block: Block) -> np.ndarray:
        """M̂ (36, T, O)."""
        m = scratch("product", (self.tile**2, prod(self.size(block)), self.filters), self.dtype)
        images, rows = block

        def transform(part: Block) -> None:
            first = ((part[0].start - images.start) * (rows.stop - rows.start) + part[1].start - rows.start) * self.wide
            self.gradients(grad_output, part, m[:, first : first + prod(self.size(part))])

        run(transform, self.divided(block))
        return m


def _within(whole: slice, part: slice) -> slice:
    return slice(whole.start + part.start, whole.start + part.stop)


def _multiply(u: np.ndarray, v: np.ndarray, out: np.ndarray) -> np.ndarray:
    """U·V: u (36, O, C), v (36, C, T) into `out` (36, O, T)."""
    o, (_, c, t) = u.shape[1], v.shape
    fetched = c > MANY_CHANNELS and u.strides[2] > u.itemsize
    divides = wide_blas() and not fetched and o * c * t > UNPACKED
    parts = parts_of_row(o, min(UNPACKED // (c * t), COLUMNS), COLUMNS // 2) if divides else 1
    np.matmul(u.reshape(len(u), parts, -1, c), v[:, None], out=out.reshape(len(u), parts, -1, t))
    return out


def _sum_over_tiles(m: np.ndarray, v: np.ndarray, out: np.ndarray) -> None:
    """∂L/∂U: m (k, T, O), v (k, C, T) into `out` (k, O, C)."""
    (k, t, o), c = m.shape, v.shape[1]
    rows = columns = 1
    if wide_blas() and o * c * t > UNPACKED:
        most = min(UNPACKED // (ROWS * t), COLUMNS)
        columns = parts_of_row(c, most, COLUMNS // 2)
        rows = parts_of_row(o, ROWS, ROWS // 2) if c <= columns * most else 1
    m = m.reshape(k, t, rows, 1, o // rows).transpose(0, 2, 3, 4, 1)
    v = v.reshape(k, 1, columns, c // columns, t).transpose(0, 1, 2, 4, 3)
    np.matmul(m, v, out=out.reshape(k, rows, o // rows, columns, c // columns).transpose(0, 1, 3, 2, 4))


def _filters(weight: np.ndarray, turned: bool, some: slice) -> np.ndarray:
    """U of some filters, (36, O, C); of the kernels turned about, with inputs and outputs exchanged, (36, C, O)."""
    o, c, *kernel = weight.shape
    flat, matrix = weight.reshape(o, c, prod(kernel)).transpose(0, 2, 1), _both(kernel[0], weight.dtype)
    flat, matrix = (flat[:, :, some], matrix[:, ::-1].copy()) if turned else (flat[some], matrix)
    u = scratch("filters", (len(flat), len(matrix), flat.shape[2]), weight.dtype)  # a filter's are written side by side
    most = min(PIECE // prod(u.shape[1:]), -(-len(u) // LEAST_BLOCKS))
    run(lambda part: np.matmul(matrix, flat[part], out=u[part]), pieces(len(u), most))
    return u.transpose(1, 2, 0) if turned else u.transpose(1, 0, 2)


@cache
def _both(r: int, dtype: np.dtype) -> np.ndarray:
    """G ⊗ G (36, r²); made once, as each part of a shared block asks for it."""
    once = _kernel_transform(r)
    return np.kron(once, once).astype(dtype)


def _of_group(epilogue: Epilogue, output: np.ndarray, filters: slice, place: Place) -> None:
    images, some, rows = place
    epilogue(output, (images, _within(filters, some), rows))


def _convolve(
    tiles: Tiles, x: np.ndarray, weight: np.ndarray, turned: bool, bias: np.ndarray | None, y: np.ndarray,
    then: Callable[[Place], None] | None = None,
) -> None:  # fmt: skip
    """The convolution of `x` with one group's kernels, or with them turned about, into `y`; `then` something with each
    part of it."""

    def finish(block: Block, v: np.ndarray, filters: slice, u: np.ndarray) -> None:
        """From V to the outputs of some filters."""
        count = filters.stop - filters.start
        m = _multiply(u, v, tiles.blank("product", count, block))
        for part in pieces(count, tiles.at_once(block)):
            some, (images, rows) = _within(filters, part), block
            tiles.outputs(m[:, part], block, some, y, bias)
            if then is not None:
                then((images, some, slice(OUTPUTS * rows.start, OUTPUTS * rows.stop)))

    def share(block: Block) -> None:
        v = tiles.all_inputs(x, block)
        run(lambda some: finish(block, v, some, _filters(weight, turned, some)), tiles.some_filters(block))

    def pass_through(u: np.ndarray, block: Block) -> None:
        finish(block, tiles.all_inputs(x, block), slice(0, tiles.filters), u)

    if tiles.shared:
        each(share, tiles.blocks)
    else:
        u = _filters(weight, turned, slice(0, tiles.filters))
        run(partial(pass_through, u), tiles.blocks)


class Winograd:
    """One convolution's sizes, and its passes. Groups are taken one after the other, each a convolution of its own."""

    name, images_last, short = "winograd", False, False  # `CALLS` alone take longer than what is `SHORT`

    @staticmethod
    def applies(weight_shape, dtype, stride, padding, dilation) -> bool:
        """Whether the algorithm can do it; whether it is the fastest is another matter."""
        r = weight_shape[2]
        square, precise = weight_shape[3] == r in KERNELS, np.finfo(dtype).bits >= 32
        return square and precise and tuple(stride) == tuple(dilation) == (1, 1) and max(padding) < r

    def __init__(self, input_shape, weight_shape, dtype, padding, groups):
        self.input_shape, self.weight_shape, self.dtype, self.padding = input_shape, weight_shape, dtype, padding
        filters, self.channels, r, _ = weight_shape
        self.groups, self.filters = groups, filters // groups  # of one group, as the channels
        self.out = tuple(s + 2 * p - r + 1 for s, p in zip(input_shape[2:], padding, strict=True))
        self.tile = _inputs(r)

    def cost(self, of: str = "output") -> float:
        """An estimate as `Im2col.cost`. U goes to memory and comes back, and how long that takes differs most among
        machines; ∂L/∂U takes longer where products are so fast that it waits for memory. The input's gradient is said
        to take what the output does, though it has the maps' sizes exchanged: no choice became better by that."""
        c, o = self.channels, self.filters
        tiles = self.input_shape[0] * prod(-(-size // OUTPUTS) for size in self.out)
        # For V, Y, and the products, and for U, with 36 numbers each; those of 64 are said to take as much a number.
        of_tile, of_kernel = 40 * c + 26 * o + 0.8 * c * o, 50
        if wide_blas():
            of_tile, of_kernel = 23 * c + 14 * o + 0.38 * c * o, 30 if of == "weight" else 17
        return self.groups * ((tiles * of_tile + of_kernel * c * o) * self.tile**2 / 36 + CALLS)

    # Each pass cuts its maps when it comes to run.

    @cached_property
    def tiles(self) -> Tiles:
        return self._tiles()

    @cached_property
    def sums(self) -> Tiles:
        few = self.tile**2 * self.channels * self.filters > LARGEST_SUM
        return self._tiles(few_sums=few)

    @cached_property
    def turned(self) -> Tiles:
        r = self.weight_shape[2]
        outside = (r - 1 - self.padding[0], r - 1 - self.padding[1])
        return Tiles((self.input_shape[0], self.filters, *self.out), self.channels, r, outside, self.dtype)

    def _tiles(self, few_sums: bool = False) -> Tiles:
        n, _, *size = self.input_shape
        return Tiles((n, self.channels, *size), self.filters, self.weight_shape[2], self.padding, self.dtype, few_sums)

    def each_group(self) -> Iterator[tuple[slice, slice]]:
        """The channels and the filters of each."""
        for g in range(self.groups):
            yield slice(g * self.channels, (g + 1) * self.channels), slice(g * self.filters, (g + 1) * self.filters)

    def forward(
        self, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, epilogue: Epilogue | None = None
    ) -> np.ndarray:
        weight = weight.astype(self.dtype, copy=False)
        output = np.empty((len(input), len(weight), *self.out), self.dtype)
        for channels, filters in self.each_group():
            own_bias = None if bias is None else bias[filters]
            own_epilogue = None if epilogue is None else partial(_of_group, epilogue, output, filters)
            x, y = input[:, channels], output[:, filters]
            _convolve(self.tiles, x, weight[filters], False, own_bias, y, own_epilogue)
        return output

    def backward(self, grad_output, input, weight, needs):
        weight = weight.astype(self.dtype, copy=False)
        grad_input = np.empty(input.shape, self.dtype) if needs[0] else None
        grad_weight = np.empty(weight.shape, self.dtype) if needs[1] else None
        for channels, filters in self.each_group():
            grad, own = grad_output[:, filters], weight[filters]
            if grad_input is not None:
                _convolve(self.turned, grad, own, True, None, grad_input[:, channels])
            if grad_weight is not None:
                self._sum(grad, input[:, channels], grad_weight[filters])
        return grad_input, grad_weight, sum_of_maps(grad_output) if needs[2] else None

    def _sum(self, grad_output: np.ndarray, input: np.ndarray, grad_weight: np.ndarray) -> None:
        """∂L/∂w of one group, into `grad_weight`."""
        tiles, (o, c, *kernel) = self.sums, grad_weight.shape
        shares = tiles.shares(SUMS)
        of_u = scratch("sums", (len(shares), self.tile**2, o, c), self.dtype)

        def add(share: int, block: Block) -> None:
            v, m = tiles.all_inputs(input, block), tiles.all_gradients(grad_output, block)

            def multiply(some: slice) -> None:
                of_some = of_u[share, some]
                if block is shares[share][0]:
                    _sum_over_tiles(m[some], v[some], of_some)
                else:
                    more = np.empty_like(of_some)
                    _sum_over_tiles(m[some], v[some], more)
                    of_some += more

            run(multiply, tiles.products())

        run(lambda i: each(partial(add, i), shares[i]), range(len(shares)))
        matrix, flat = _both(kernel[0], self.dtype), grad_weight.reshape(o * c, prod(kernel))
        whole = total(of_u).reshape(self.tile**2, o * c)
        run(lambda part: np.matmul(whole[:, part].T, matrix, out=flat[part]), pieces(o * c, PIECE // self.tile**2))

    def scratch(
        self, backward: bool, needs: tuple[bool, ...], threads: int, ordered: bool = False
    ) -> tuple[list[tuple[int, str, int]], int]:
        """What a pass takes beside its arguments and results; as `Im2col.scratch`."""
        o, c = self.filters, self.channels
        passes = [self.turned] * needs[0] + [self.sums] * needs[1] if backward else [self.tiles]
        found: list[tuple[int, str, int]] = []
        for tiles in passes:
            for block in {tiles.size(block): block for block in tiles.blocks}.values():
                found += self._scratch_of_block(tiles, block, threads)
            if tiles is self.sums:
                found.append((0, "sums", len(tiles.shares(SUMS)) * self.tile**2 * o * c))
        return found, 0

    def _scratch_of_block(self, tiles: Tiles, block: Block, threads: int) -> Iterator[tuple[int, str, int]]:
        n, high, wide = tiles.size(block)
        count, tile = n * high * wide, tiles.tile
        shares = len(tiles.shares(SUMS if tiles is self.sums else len(tiles.blocks)))

        def takers(parts: Sequence[slice] | list[Block]) -> range:
            """Of the parts of a shared block, or of blocks."""
            return range(min(threads, len(parts) if tiles.shared else shares))

        of_channels = tiles.parts(tiles.channels, block)
        channels, holders = longest(of_channels), range(1) if tiles.shared else takers(of_channels)
        for thread in holders:
            yield thread, "columns", tile**2 * tiles.channels * count
        for thread in takers(of_channels):
            yield thread, "padded", channels * n * (OUTPUTS * (high - 1) + tile) * (OUTPUTS * (wide - 1) + tiles.window)
            yield thread, "tiles", tile * tiles.window * channels * count
            yield thread, "half", tile**2 * channels * count
        if tiles is self.sums:
            divided = tiles.divided(block)
            transformers = takers(divided)
            of_filters = tiles.filters * max(prod(tiles.size(part)) for part in divided)
            for thread in holders:
                yield thread, "product", tile**2 * tiles.filters * count
            for thread in transformers:
                yield thread, "padded", OUTPUTS**2 * of_filters
        else:
            cut = tiles.some_filters(block) if tiles.shared else [slice(0, tiles.filters)]
            transformers = takers(cut)
            lengths = {part.stop - part.start for part in cut}
            of_filters = count * max(longest(pieces(length, tiles.at_once(block))) for length in lengths)
            for thread in transformers:
                yield thread, "product", tile**2 * longest(cut) * count
            for thread in transformers if tiles.shared else range(1):
                yield thread, "filters", tile**2 * longest(cut) * tiles.channels
        for thread in transformers:
            yield thread, "tiles", OUTPUTS**2 * of_filters
            yield thread, "half", tile * OUTPUTS * of_filters
