"""The fully connected layer on threads: some of the outputs each, and backward some of the inputs.

The weight is far larger than a batch: VGG's first has 411 MB. So it is what is divided, and each part of it read
once. W xᵀ takes two thirds of the time of x Wᵀ, whose weight BLAS would have to turn about.

With few images a product takes less time than BLAS needs to copy the weight into an order of its own first. OpenBLAS
for AVX-512 does not do so where a product is small. So there the weight is taken in blocks that make small products,
and what they give is added up::

    yₐ = Σᵦ Wₐᵦ xᵦ          ∂L/∂xᵦ = Σₐ gₐ Wₐᵦ          ∂L/∂Wₐᵦ = gₐᵀ xᵦ
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ...threads import pieces, run, wide_blas
from .. import linear
from .im2col import parts_of_row
from .scratch import Asked, longest, scratch

OUTPUTS, INPUTS = 256, 1024  # in a part
LEAST = 1 << 18  # numbers in a weight that is worth dividing
FEW = 32  # images
BLOCK_OUTPUTS, BLOCK_INPUTS, BLOCK_NUMBERS = 64, 1024, 1 << 13  # at most: rows and columns of a block, columns · images


def _simple(weight: np.ndarray, *others: np.ndarray | None) -> bool:
    """Whether this file's passes are for them: a large matrix, and everything of its dtype."""
    return weight.ndim == 2 and weight.size >= LEAST and all(x is None or x.dtype == weight.dtype for x in others)


def blocks(outs: int, ins: int, images: int) -> tuple[int, int] | None:
    """Into how many rows and columns of blocks to cut the weight; None where that is no gain, or they would differ."""
    if not wide_blas() or not 0 < images <= FEW:
        return None
    most = min(BLOCK_INPUTS, BLOCK_NUMBERS // images)
    down, across = parts_of_row(outs, BLOCK_OUTPUTS, BLOCK_OUTPUTS // 2), parts_of_row(ins, most, most // 2)
    fitting = outs <= down * BLOCK_OUTPUTS and ins <= across * most
    return (down, across) if fitting else None


def linear_scratch(outs: int, ins: int, images: int, dtype, needs, backward: bool) -> Iterator[Asked]:
    """Of a weight that is worth dividing."""
    cut = blocks(outs, ins, images)
    if backward:
        if cut is not None and needs[0]:
            yield Asked("product", dtype, cut[0] * images * (ins // cut[1]), cut[1])
    elif cut is None:
        parts = pieces(outs, OUTPUTS)
        yield Asked("product", dtype, longest(parts) * images, len(parts))
    else:
        parts = pieces(cut[0], OUTPUTS // BLOCK_OUTPUTS)
        yield Asked("product", dtype, longest(parts) * images * (outs // cut[0]) * cut[1], len(parts))


def _cut(matrix: np.ndarray, down: int, across: int) -> np.ndarray:
    """A matrix as its blocks, (down, across, rows, columns)."""
    rows, columns = matrix.shape
    return matrix.reshape(down, rows // down, across, columns // across).transpose(0, 2, 1, 3)


def _outputs(weight: np.ndarray, rows: np.ndarray, finish: Callable[[slice, np.ndarray], None]) -> None:
    """W xᵀ: gives some outputs after the other to ``finish(outputs, product)``."""
    outs, ins = weight.shape
    cut = blocks(outs, ins, len(rows))
    if cut is None:

        def multiply(part: slice) -> None:
            product = scratch("product", (part.stop - part.start, len(rows)), weight.dtype)
            finish(part, np.matmul(weight[part], rows.T, out=product))

        run(multiply, pieces(outs, OUTPUTS))
        return
    of_weight, size = _cut(weight, *cut), outs // cut[0]
    columns = np.ascontiguousarray(_cut(rows, 1, cut[1])[0].transpose(0, 2, 1))

    def multiply_blocks(part: slice) -> None:
        products = scratch("product", (part.stop - part.start, cut[1], size, len(rows)), weight.dtype)
        np.matmul(of_weight[part], columns, out=products)
        finish(slice(part.start * size, part.stop * size), products.sum(axis=1).reshape(-1, len(rows)))

    run(multiply_blocks, pieces(cut[0], OUTPUTS // BLOCK_OUTPUTS))


def _grad_rows(grads: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """g W, some inputs after the other."""
    outs, ins = weight.shape
    cut = blocks(outs, ins, len(grads))
    of_rows = np.empty((len(grads), ins), weight.dtype)
    if cut is None:
        run(lambda part: np.matmul(grads, weight[:, part], out=of_rows[:, part]), pieces(ins, INPUTS))
        return of_rows
    of_grads, of_weight, into = _cut(grads, 1, cut[0])[0], _cut(weight, *cut), _cut(of_rows, 1, cut[1])[0]

    def add_up(column: int) -> None:
        products = scratch("product", (cut[0], *into.shape[1:]), weight.dtype)
        np.sum(np.matmul(of_grads, of_weight[:, column], out=products), axis=0, out=into[column])

    run(add_up, range(cut[1]))
    return of_rows


def _grad_weight(grads: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """gᵀ x, some outputs after the other."""
    outs, ins = grads.shape[1], rows.shape[1]
    cut = blocks(outs, ins, len(rows))
    of_weight = np.empty((outs, ins), rows.dtype)
    if cut is None:
        run(lambda part: np.matmul(grads[:, part].T, rows, out=of_weight[part]), pieces(outs, OUTPUTS))
        return of_weight
    of_grads, of_rows, into = _cut(grads, 1, cut[0]).transpose(1, 0, 3, 2), _cut(rows, 1, cut[1]), _cut(of_weight, *cut)
    cut_outputs = pieces(cut[0], OUTPUTS // BLOCK_OUTPUTS)
    run(lambda part: np.matmul(of_grads[part], of_rows, out=into[part]), cut_outputs)
    return of_weight


def linear_forward(input, weight, bias):
    if not _simple(weight, input, bias) or (bias is not None and bias.ndim != 1):
        return linear.linear_forward(input, weight, bias)
    outs, ins = weight.shape
    rows = input.reshape(-1, ins)
    output = np.empty((len(rows), outs), weight.dtype)

    def finish(some: slice, product: np.ndarray) -> None:
        if bias is None:
            output[:, some] = product.T
        else:
            np.add(product.T, bias[some], out=output[:, some])

    _outputs(weight, rows, finish)
    return output.reshape(*input.shape[:-1], outs), (input, weight, None if bias is None else bias.shape)


def linear_backward(grad_output, saved, needs):
    input, weight, _ = saved
    if not _simple(weight, input, grad_output) or not (needs[0] or needs[1]):
        return linear.linear_backward(grad_output, saved, needs)
    outs, ins = weight.shape
    rows, grads = input.reshape(-1, ins), grad_output.reshape(-1, outs)
    grad_input = _grad_rows(grads, weight).reshape(input.shape) if needs[0] else None
    grad_weight = _grad_weight(grads, rows) if needs[1] else None
    _, _, grad_bias = linear.linear_backward(grad_output, saved, (False, False, needs[2]))
    return grad_input, grad_weight, grad_bias
