"""Convolution at stride 1 with fewer multiplications: Winograd's F(4×4, 3×3) and F(2×2, 5×5).

Four neighbouring outputs of a kernel of three take 12 multiplications; Winograd's algorithm F(4, 3) takes 6. It
multiplies polynomials by evaluating them at the points 0, 1, −1, 2, −2 and ∞, multiplying the values, and
interpolating::

    y = Aᵀ [(G w) ⊙ (Bᵀ x)]          w (3,), x (6,) the inputs that four outputs see, y (4,)

In two dimensions the same is done to rows and then to columns, 36 multiplications for 16 outputs that take 144.
Written as small matrix products, for a tile of 6 × 6 inputs and 4 × 4 outputs, with ⊗ for the Kronecker product::

    U = (G ⊗ G) w                    (36,)      of each filter and channel, (36, O, C)
    V = (Bᵀ ⊗ Bᵀ) x                  (36,)      of each channel and tile, (36, C, T)
    Y = (Aᵀ ⊗ Aᵀ) (U · V)            (16,)      U · V: a product (O, C)·(C, T) for each of the 36, summing over channels

All steps are linear in w and in x, so the gradients are the same steps transposed::

    ∂L/∂U = M̂ · Vᵀ                   (36, O, C) with M̂ = (A ⊗ A) ∂L/∂Y, (36, O, T)
    ∂L/∂w = (Gᵀ ⊗ Gᵀ) ∂L/∂U
    ∂L/∂x                            the convolution of ∂L/∂y with the kernels turned about, by the same algorithm

The price is rounding: intermediate values are larger than the result, and float32 errors about 1e-5 of the largest
value.

S. Winograd, "Arithmetic complexity of computations", 1980; A. Lavin and S. Gray, "Fast algorithms for convolutional
neural networks", CVPR 2016, section 4 (arXiv:1509.09308).

A block of tiles that fits a core's cache passes through all steps on one thread. Where there are few tiles, threads
share a block: they divide V by channels, and then all the rest by filters. U of some filters is made there too, as all
of it would leave the cache (512 channels have 38 MB of it) only to be fetched again for the products. For ∂L/∂U they
divide V and M̂ by channels, and then the 36 products.
"""

from __future__ import annotations

from functools import cached_property, partial
from math import prod

import numpy as np

from ...threads import each, pieces, portions, run, wide_blas
from .im2col import UNPACKED, total
from .scratch import scratch, sum_of_maps

# fmt: off
B_T = np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])
# fmt: on
POINTS = np.array([0.0, 1, -1, 2, -2])  # and ∞
SCALES = np.array([4.0, -6, -6, 24, 24])  # ∏ (p − q) over the other points q: how B_T is scaled


def _kernel_transform(r: int) -> np.ndarray:
    """G (6, r): a kernel as a polynomial, evaluated at the points; its last coefficient at ∞."""
    return np.vstack([POINTS[:, None] ** np.arange(r) / SCALES[:, None], np.eye(r)[-1:]])


def _output_transform(m: int) -> np.ndarray:
    """Aᵀ (m, 6): powers of the points."""
    return np.hstack([POINTS ** np.arange(m)[:, None], np.eye(m)[:, -1:]])


TILE = 6
OUTPUTS = {3: 4, 5: 2}  # of a tile, for a kernel of so many; together 7

NUMBERS = 1 << 18  # of a block's V or U·V; 1 MB of float32
LEAST_TILES = 96  # of a block: products with fewer spend their time on packing U
LEAST_BLOCKS = 4  # with fewer, threads share each block
SHARED_NUMBERS = 1 << 22  # of a shared block's V
LEAST_FILTERS = 16  # in a product that is not packed; with fewer it is not worth it
PIECE = 1 << 18  # numbers that a transform works on at a time
SUMS = 8  # partial sums of the weight's gradient
CALLS = 9e5  # nanoseconds that its many calls take, for threads hand Python's lock to each other between them
LARGEST_SUM = 1 << 19  # numbers in one; where it would have more, threads share the blocks

Block = tuple[slice, slice]  # images, rows of tiles


class Tiles:
    """What the three steps do to maps (N, C, H, W) whose convolution is (N, O, H + 2·padding − 2, …)."""

    def __init__(self, shape, channels_out, kernel, padding, dtype, few_sums=False):
        self.step = OUTPUTS[kernel]
        self.n, self.channels, self.h, self.w = shape
        self.filters, self.padding, self.dtype = channels_out, padding, dtype
        self.out = (self.h + 2 * padding[0] - kernel + 1, self.w + 2 * padding[1] - kernel + 1)
        self.high, self.wide = (-(-size // self.step) for size in self.out)  # in tiles
        self.b_t, self.a_t = B_T.astype(dtype), _output_transform(self.step).astype(dtype)
        most = max(self.channels, self.filters)
        self.blocks = self._cut(max(NUMBERS // (TILE**2 * most), LEAST_TILES))
        self.shared = few_sums or len(self.blocks) < LEAST_BLOCKS
        if self.shared:
            self.blocks = self._cut(max(SHARED_NUMBERS // (TILE**2 * most), 1))

    def _cut(self, tiles: int) -> list[Block]:
        """Blocks of about so many tiles: rows of one image, or whole images."""
        of_image = self.high * self.wide
        if tiles < of_image:
            strips = pieces(self.high, round(tiles / self.wide))
            return [(slice(i, i + 1), strip) for i in range(self.n) for strip in strips]
        return [(images, slice(0, self.high)) for images in pieces(self.n, tiles // of_image)]

    def shares(self, most: int) -> list[list[Block]]:
        """Lists of blocks that threads add up; a single list, where threads share the blocks themselves."""
        return [self.blocks] if self.shared else portions(self.blocks, most)

    def size(self, block: Block) -> tuple[int, int, int]:
        """Images, rows and columns of tiles."""
        images, rows = block
        return images.stop - images.start, rows.stop - rows.start, self.wide

    def at_once(self, block: Block) -> int:
        """How many channels or filters a transform works on at a time."""
        return PIECE // (TILE**2 * prod(self.size(block)))

    def parts(self, total: int, block: Block) -> list[slice]:
        """All channels or filters for a transform; a shared block's are divided among threads."""
        most = self.at_once(block)
        return pieces(total, min(most, -(-total // LEAST_BLOCKS)), even=True) if self.shared else pieces(total, most)

    def products(self) -> list[slice]:
        """The 36, a shared block's in parts that threads take."""
        return pieces(TILE**2, 6 if self.shared else TILE**2)

    def some_filters(self, block: Block) -> list[slice]:
        """A shared block's filters, for threads to take; where it pays, so few that the products are not packed: not
        with rows of V that lie 512 bytes apart, as then they fall on each other in the cache."""
        tiles, most = prod(self.size(block)), -(-self.filters // LEAST_BLOCKS)
        unpacked = UNPACKED // (self.channels * tiles)
        pays = unpacked >= LEAST_FILTERS and tiles % 128
        return pieces(self.filters, min(unpacked, most) if pays else 2 * most, even=True)

    def _twice(self, matrix: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
        """(matrix ⊗ matrix) x, for x (i, j, N) and out (k, l, N): along a tile's rows, then along its columns.

        Each as products of N columns, that BLAS takes as they are; one with all the columns would be packed first.
        """
        rows = scratch("half", (len(x), len(matrix), x.shape[2]), self.dtype)
        np.matmul(matrix, x, out=rows)
        np.matmul(matrix, rows.transpose(1, 0, 2), out=out.transpose(1, 0, 2))

    def inputs(self, x: np.ndarray, block: Block, channels: slice, v: np.ndarray) -> None:
        """V of some channels, into their `v` (36, C, T)."""
        (images, rows), (n, high, wide), c = block, self.size(block), channels.stop - channels.start
        tall, broad = (self.step * size + TILE - self.step for size in (high, wide))
        padded = scratch("padded", (c, n, tall, broad), self.dtype)
        top, left = self.step * rows.start - self.padding[0], self.padding[1]
        first, last, right = max(top, 0), min(top + tall, self.h), min(left + self.w, broad)
        if (last - first, right - left) != (tall, broad):
            padded.fill(0)
        taken = x[images, channels, first:last, : right - left]
        padded[:, :, first - top : last - top, left:right] = taken.transpose(1, 0, 2, 3)
        of_channel, of_image, down, along = padded.strides
        strides = (down, along, of_channel, of_image, self.step * down, self.step * along)
        tiles = scratch("tiles", (TILE, TILE, c, n, high, wide), self.dtype)
        tiles[...] = np.ndarray(tiles.shape, self.dtype, padded, strides=strides)  # its windows
        self._twice(self.b_t, tiles.reshape(TILE, TILE, -1), _squared(v))

    def _strip(self, maps: np.ndarray, block: Block, filters: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The block's part of `maps`, (o, n, rows, columns); such an array whose tiles are all whole, itself if it can
        be; and the latter by place in a tile, (columns of a tile, its rows, o, n, high, wide)."""
        (images, rows), (n, high, wide), step = block, self.size(block), self.step
        strip = maps[images, filters, step * rows.start : step * rows.stop].transpose(1, 0, 2, 3)
        whole = (filters.stop - filters.start, n, step * high, step * wide)
        room = strip if strip.shape == whole else scratch("padded", whole, self.dtype)
        return strip, room, room.reshape(*whole[:2], high, step, wide, step).transpose(5, 3, 0, 1, 2, 4)

    def outputs(self, m: np.ndarray, block: Block, filters: slice, y: np.ndarray, bias: np.ndarray | None) -> None:
        """Y of some filters, from their `m` = U·V (36, O, T) into their part of `y`."""
        tiles = scratch("tiles", (self.step, self.step, filters.stop - filters.start, *self.size(block)), self.dtype)
        self._twice(self.a_t, _squared(m), tiles.reshape(self.step, self.step, -1))
        strip, room, columns = self._strip(y, block, filters)
        for j in range(self.step):
            if bias is None:
                columns[j] = tiles[:, j]
            else:
                np.add(tiles[:, j], bias[filters].reshape(-1, 1, 1, 1), out=columns[j])
        if room is not strip:  # the last tiles stick out
            strip[...] = room[:, :, : strip.shape[2], : strip.shape[3]]

    def gradients(self, grad_output: np.ndarray, block: Block, filters: slice, m: np.ndarray) -> None:
        """M̂ of some filters, into their `m` (36, O, T)."""
        tiles = scratch("tiles", (self.step, self.step, filters.stop - filters.start, *self.size(block)), self.dtype)
        strip, room, columns = self._strip(grad_output, block, filters)
        if room is not strip:
            room.fill(0)
            room[:, :, : strip.shape[2], : strip.shape[3]] = strip
        for j in range(self.step):
            tiles[:, j] = columns[j]
        self._twice(self.a_t.T, tiles.reshape(self.step, self.step, -1), _squared(m))

    def blank(self, role: str, channels: int, block: Block) -> np.ndarray:
        """A scratch array for V, U·V or M̂ of so many channels, (36, channels, T)."""
        return scratch(role, (TILE**2, channels, prod(self.size(block))), self.dtype)

    def all_inputs(self, x: np.ndarray, block: Block) -> np.ndarray:
        """V (36, C, T)."""
        v = self.blank("columns", self.channels, block)
        run(lambda part: self.inputs(x, block, part, v[:, part]), self.parts(self.channels, block))
        return v

    def all_gradients(self, grad_output: np.ndarray, block: Block) -> np.ndarray:
        """M̂ (36, O, T)."""
        m = self.blank("product", self.filters, block)
        run(lambda part: self.gradients(grad_output, block, part, m[:, part]), self.parts(self.filters, block))
        return m


def _squared(values: np.ndarray) -> np.ndarray:
    """V, U·V or M̂ (36, C, T) as (6, 6, numbers) in its memory."""
    return values.reshape(TILE, TILE, -1)


def _filters(weight: np.ndarray, turned: bool, some: slice) -> np.ndarray:
    """U of some filters, (36, O, C); of the kernels turned about, with inputs and outputs exchanged, (36, C, O)."""
    o, c, *kernel = weight.shape
    flat = weight.reshape(o, c, prod(kernel)).transpose(0, 2, 1)
    flat, matrix = (flat[:, :, some], _both(weight)[:, ::-1].copy()) if turned else (flat[some], _both(weight))
    u = scratch("filters", (len(flat), TILE**2, flat.shape[2]), weight.dtype)  # a filter's are written side by side
    most = min(PIECE // (TILE**2 * u.shape[2]), -(-len(u) // LEAST_BLOCKS))
    run(lambda part: np.matmul(matrix, flat[part], out=u[part]), pieces(len(u), most))
    return u.transpose(1, 2, 0) if turned else u.transpose(1, 0, 2)


def _both(weight: np.ndarray) -> np.ndarray:
    """G ⊗ G (36, r²)."""
    once = _kernel_transform(weight.shape[2])
    return np.kron(once, once).astype(weight.dtype)


def _convolve(tiles: Tiles, x: np.ndarray, weight: np.ndarray, turned: bool, bias: np.ndarray | None) -> np.ndarray:
    y = np.empty((tiles.n, tiles.filters, *tiles.out), tiles.dtype)

    def finish(block: Block, v: np.ndarray, filters: slice, u: np.ndarray) -> None:
        """From V to the outputs of some filters."""
        count = filters.stop - filters.start
        m = np.matmul(u, v, out=tiles.blank("product", count, block))
        for part in pieces(count, tiles.at_once(block)):
            tiles.outputs(m[:, part], block, slice(filters.start + part.start, filters.start + part.stop), y, bias)

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
    return y


class Winograd:
    """One convolution's sizes, and its passes."""

    name = "winograd"

    @staticmethod
    def applies(weight_shape, stride, padding, dilation, groups) -> bool:
        """Whether the algorithm can do it; whether it is the fastest is another matter."""
        r = weight_shape[2]
        square = weight_shape[3] == r in OUTPUTS
        return square and tuple(stride) == tuple(dilation) == (1, 1) and groups == 1 and max(padding) < r

    def __init__(self, input_shape, weight_shape, dtype, padding):
        self.input_shape, self.weight_shape, self.dtype, self.padding = input_shape, weight_shape, dtype, padding
        self.filters, self.channels, r, _ = weight_shape
        self.out = tuple(s + 2 * p - r + 1 for s, p in zip(input_shape[2:], padding, strict=True))

    def cost(self) -> float:
        """An estimate of the forward pass on one core, as `Im2col.cost`."""
        c, o, step = self.channels, self.filters, OUTPUTS[self.weight_shape[2]]
        tiles = self.input_shape[0] * prod(-(-size // step) for size in self.out)
        # V, Y, and the products
        of_tile = 40 * c + 25 * o + 0.42 * c * o if wide_blas() else 50 * c + 32 * o + 0.8 * c * o
        return tiles * of_tile + 25 * c * o + CALLS  # and U

    # Each pass cuts its maps when it comes to run.

    @cached_property
    def tiles(self) -> Tiles:
        return Tiles(self.input_shape, self.filters, self.weight_shape[2], self.padding, self.dtype)

    @cached_property
    def sums(self) -> Tiles:
        few = TILE**2 * self.channels * self.filters > LARGEST_SUM
        return Tiles(self.input_shape, self.filters, self.weight_shape[2], self.padding, self.dtype, few_sums=few)

    @cached_property
    def turned(self) -> Tiles:
        r = self.weight_shape[2]
        outside = (r - 1 - self.padding[0], r - 1 - self.padding[1])
        return Tiles((self.input_shape[0], self.filters, *self.out), self.channels, r, outside, self.dtype)

    def forward(self, input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        return _convolve(self.tiles, input, weight.astype(self.dtype, copy=False), False, bias)

    def backward(self, grad_output, input, weight, needs):
        weight = weight.astype(self.dtype, copy=False)
        grad_input = _convolve(self.turned, grad_output, weight, True, None) if needs[0] else None
        grad_weight = self._sum(grad_output, input, weight) if needs[1] else None
        return grad_input, grad_weight, sum_of_maps(grad_output) if needs[2] else None

    def _sum(self, grad_output: np.ndarray, input: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """∂L/∂w."""
        tiles, (o, c, *kernel) = self.sums, weight.shape
        shares = tiles.shares(SUMS)
        of_u = scratch("sums", (len(shares), TILE**2, o, c), self.dtype)

        def add(share: int, block: Block) -> None:
            v, m = tiles.all_inputs(input, block).transpose(0, 2, 1), tiles.all_gradients(grad_output, block)

            def multiply(some: slice) -> None:
                if block is shares[share][0]:
                    np.matmul(m[some], v[some], out=of_u[share, some])
                else:
                    of_u[share, some] += m[some] @ v[some]

            run(multiply, tiles.products())

        run(lambda i: each(partial(add, i), shares[i]), range(len(shares)))
        matrix, grad_weight = _both(weight), np.empty((o * c, prod(kernel)), self.dtype)
        whole = total(of_u).reshape(TILE**2, o * c)
        run(lambda part: np.matmul(whole[:, part].T, matrix, out=grad_weight[part]), pieces(o * c, PIECE // TILE**2))
        return grad_weight.reshape(weight.shape)

    def scratch(self, backward: bool, needs: tuple[bool, ...], threads: int) -> tuple[list[tuple[int, str, int]], int]:
        """What a pass takes beside its arguments and results; as `Im2col.scratch`."""
        o, c, *_ = self.weight_shape
        passes = [self.turned] * needs[0] + [self.sums] * needs[1] if backward else [self.tiles]
        found: list[tuple[int, str, int]] = []
        for tiles in passes:
            block = max(tiles.blocks, key=lambda block: prod(tiles.size(block)))
            n, high, wide = tiles.size(block)
            of_channel = TILE**2 * n * high * wide
            takers = range(min(threads, 6 if tiles.shared else len(tiles.shares(len(tiles.blocks)))))
            holders = range(1) if tiles.shared else takers
            found += [(thread, "columns", tiles.channels * of_channel) for thread in holders]
            channels, filters = (
                max(part.stop - part.start for part in tiles.parts(total, block))
                for total in (tiles.channels, tiles.filters)
            )
            if tiles is self.sums:
                found += [(thread, "product", tiles.filters * of_channel) for thread in holders]
                found.append((0, "sums", len(tiles.shares(SUMS)) * TILE**2 * o * c))
            else:
                cut = tiles.some_filters(block) if tiles.shared else [slice(0, tiles.filters)]
                some = max(part.stop - part.start for part in cut)
                found += [(thread, "product", some * of_channel) for thread in takers]
                sharers = takers[: len(cut)] if tiles.shared else range(1)
                found += [(thread, "filters", TILE**2 * some * tiles.channels) for thread in sharers]
                filters = min(some, tiles.at_once(block))
            channels, filters = channels * n, filters * n
            tall, broad = (tiles.step * size for size in (high, wide))
            border = TILE - tiles.step
            padded = channels * (tall + border) * (broad + border)
            if tiles.out != (tiles.step * tiles.high, tiles.step * tiles.wide):  # outputs stick out, and are cut off
                padded = max(padded, filters * tall * broad)
            most = TILE**2 * channels * high * wide
            half = max(most, TILE * tiles.step * filters * high * wide)
            for role, numbers in (("padded", padded), ("tiles", max(most, filters * tall * broad)), ("half", half)):
                found += [(thread, role, numbers) for thread in takers]
        largest: dict[tuple[int, str], int] = {}
        for thread, role, numbers in found:
            largest[thread, role] = max(largest.get((thread, role), 0), numbers)
        return [(*key, numbers) for key, numbers in largest.items()], 0
