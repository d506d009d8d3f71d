"""Batch normalisation by blocks of channels, local response normalisation by patches of an image.

A channel's statistics need nothing of the other channels. So a block of channels is brought into the cache once, its
mean, its variance and its output are computed there, and the output leaves once. The input is kept for backward, not
x̂: the input is there already, and x̂ would be one more large array to write.

Sums over a channel are dot products (with ones for the mean), which BLAS computes at the speed of reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from ...threads import pieces, run
from ..norm import _count_per_channel
from .entrywise import PIECE
from .im2col import LEAST_LENGTH, parts_of_row
from .layout import IMAGES_FIRST, IMAGES_LAST, lie_last
from .scratch import Asked, longest, scratch

FAR = 4.0  # standard deviations: a mean so far from 0 costs two bits of the difference from it
FEW = 500  # results of a product, during which NumPy does not let other threads have Python's lock
LONG_ROW = 512  # numbers, with which NumPy repeats one number as fast as it reads as many (`backend.BUFFER`)
NEAR = 2.0  # and one so far costs two bits of E[x²] − E[x]²

# -------------------------------------------------------------------------------------- batch normalisation


def _columns(x: np.ndarray, last: bool = False) -> np.ndarray:
    """(N, C, *) → (N, C, L), or (1, C, L) where images lie `last`, and with nothing after the channels, as (N, C, 1)
    would be slow."""
    if last:
        return np.ascontiguousarray(x.transpose(IMAGES_LAST)).reshape(1, x.shape[1], -1)
    if x.ndim == 2:
        return np.ascontiguousarray(x.T)[None]
    return np.ascontiguousarray(x).reshape(*x.shape[:2], prod(x.shape[2:]))


def _restored(columns: np.ndarray, like: np.ndarray, last: bool = False) -> np.ndarray:
    """What `_columns` undoes."""
    if last:
        return columns.reshape(*like.shape[1:], len(like)).transpose(IMAGES_FIRST)
    return np.ascontiguousarray(columns[0].T) if like.ndim == 2 else columns.reshape(like.shape)


def blocks(shape: tuple[int, int, int]) -> Sequence[slice]:
    """Channels of (N, C, L) whose numbers fit into two pieces; two blocks at least, if all are more than a piece."""
    images, channels, length = shape
    most = 2 * PIECE // max(images * length, 1)  # the passes over a block are many, and threads wait between them
    return pieces(channels, min(most, -(-channels // 2)) if prod(shape) > PIECE else most, even=True)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ a·b over images and places, (n, c, L) → (c,).

    In parts, where results would be `FEW`, or a second thread would wait for the first.
    """
    n, c, length = a.shape
    parts = parts_of_row(length, max(a.size / (FEW + 1), 1), LEAST_LENGTH)
    a, b = (x.reshape(n, c, parts, length // parts) for x in (a, b))
    return np.matmul(a[..., None, :], b[..., None])[..., 0, 0].sum(axis=(0, 2))


def _sum(a: np.ndarray) -> np.ndarray:
    """Σ a over images and places, (n, c, L) → (c,)."""
    return _dot(a, np.broadcast_to(np.ones(a.shape[2], a.dtype), a.shape))


def _spread(values: np.ndarray, block: np.ndarray) -> np.ndarray:
    """(c,) for arithmetic with a block (n, c, L); used up before the next is asked for.

    NumPy takes twice the time for numbers that it has to repeat along short rows. So they are written out, for one
    image, where that is little beside the block.
    """
    n, c, length = block.shape
    if c == 1 or n < 4 or length >= LONG_ROW:
        return values[:, None]
    rows = scratch("rows", (c, length), values.dtype)
    rows[...] = values[:, None]
    return rows


def _is_near(mean: np.ndarray, inverse_std: np.ndarray) -> bool:
    """Whether no mean is so many deviations from 0 that it would swallow digits."""
    return bool((np.abs(mean) * inverse_std).max(initial=0) <= FAR)


def _near(block: np.ndarray, mean: np.ndarray, inverse_std: np.ndarray, own: np.ndarray) -> tuple[Any, Any]:
    """The block and its mean or, where that is not near, the block less its mean, in `own`, and 0."""
    if _is_near(mean, inverse_std):
        return block, mean
    return np.subtract(block, _spread(mean, block), out=own), np.zeros_like(mean)


def _scale_and_shift(weight, bias, mean, inverse_std) -> tuple[np.ndarray, np.ndarray]:
    """γ (x − mean)/std + β is x times the first, plus the second."""
    scale = inverse_std if weight is None else inverse_std * weight
    shift = -mean * scale
    return scale, shift if bias is None else bias + shift


def _of(channels: slice, values: np.ndarray | None) -> np.ndarray | None:
    return None if values is None else values[channels]


def batch_norm_train_forward(input, weight, bias, eps):
    """`saved` begins with the mean and the biased variance, as `functional.batch_norm` expects."""
    last = lie_last(input)
    x = _columns(input, last)
    count = _count_per_channel(input)
    mean, var = np.empty((2, x.shape[1]), x.dtype)
    output = np.empty_like(x)

    def work(channels: slice) -> None:
        block, out = x[:, channels], output[:, channels]
        centre = _sum(block) / count
        with np.errstate(over="ignore", invalid="ignore"):  # what gives no number, or digits too few, is not near
            variance = _dot(block, block) / count - centre * centre
            near = (centre * centre <= NEAR * NEAR * variance) & (variance < np.inf)
        mean[channels] = centre
        if not near.all():
            block = np.subtract(block, _spread(centre, block), out=out)
            centre = _sum(block) / count  # what rounding left
            mean[channels] += centre
            variance = _dot(block, block) / count
            variance -= np.where(variance < np.inf, centre * centre, 0)
        var[channels] = variance
        numbers = _scale_and_shift(_of(channels, weight), _of(channels, bias), centre, (variance + eps) ** -0.5)
        _pass(block, *numbers, out)

    run(work, blocks(x.shape))
    return _restored(output, input, last), (mean, var, input, (var + eps) ** -0.5, weight)


def _pass(block: np.ndarray, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    np.multiply(block, _spread(scale, block), out=out)
    np.add(out, _spread(shift, block), out=out)


def batch_norm_train_backward(grad_output, saved, needs, eps):
    """∂L/∂x = γ/std · (g − mean(g) − x̂ · mean(g x̂)), as p g + (q x + r) with three numbers a channel."""
    mean, _, input, inverse_std, weight = saved
    return _backward(grad_output, input, mean, inverse_std, weight, needs, _count_per_channel(input))


def fixed(weight, bias, mean, inverse_std) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Batch norm with fixed statistics is x less the first, times the second, plus the third; in two passes, without
    the first, where that costs no accuracy."""
    if _is_near(mean, inverse_std):
        return None, *_scale_and_shift(weight, bias, mean, inverse_std)
    return mean, *_scale_and_shift(weight, bias, np.zeros_like(mean), inverse_std)


def batch_norm_eval_forward(input, weight, bias, mean, var, eps):
    """Two passes, or three (`fixed`), while a block of channels is in the cache."""
    last = lie_last(input)
    x = _columns(input, last)
    inverse_std = (var + eps) ** -0.5
    centre, scale, shift = fixed(weight, bias, mean, inverse_std)
    output = np.empty_like(x)

    def work(channels: slice) -> None:
        block, out = x[:, channels], output[:, channels]
        if centre is not None:
            block = np.subtract(block, _spread(centre[channels], block), out=out)
        _pass(block, scale[channels], shift[channels], out)

    run(work, blocks(x.shape))
    return _restored(output, input, last), (input, mean.copy(), inverse_std, weight)  # who trains on moves the mean


def batch_norm_eval_backward(grad_output, saved, needs, mean, var, eps):
    input, mean, inverse_std, weight = saved
    return _backward(grad_output, input, mean, inverse_std, weight, needs, None)


def _backward(grad_output, input, mean, inverse_std, weight, needs, count):
    """With a `count` of entries a channel the mean and the variance are theirs; without, they are constants."""
    last = lie_last(input)
    g, x = _columns(grad_output, last), _columns(input, last)
    of_weight, of_bias = np.empty((2, g.shape[1]), g.dtype)
    slope = inverse_std if weight is None else weight * inverse_std
    grad_input = np.empty_like(g) if needs[0] else None
    through = needs[0] and count is not None

    def work(channels: slice) -> None:
        grad, block = g[:, channels], x[:, channels]
        if needs[1] or needs[2] or through:
            of_bias[channels] = _sum(grad)
        if needs[1] or through:
            own = scratch("numbers", block.shape, block.dtype) if grad_input is None else grad_input[:, channels]
            block, centre = _near(block, mean[channels], inverse_std[channels], own)
            of_weight[channels] = (_dot(grad, block) - centre * of_bias[channels]) * inverse_std[channels]
        if grad_input is None:
            return
        out = grad_input[:, channels]
        if not through:
            np.multiply(grad, _spread(slope[channels], grad), out=out)
            return
        turn = -inverse_std[channels] * of_weight[channels] / count
        np.multiply(block, _spread(turn, block), out=out)
        np.add(out, grad, out=out)
        _pass(out, slope[channels], slope[channels] * (-of_bias[channels] / count - turn * centre), out)

    run(work, blocks(g.shape))
    grad_input = None if grad_input is None else _restored(grad_input, input, last)
    return grad_input, of_weight if needs[1] else None, of_bias if needs[2] else None


def batch_norm_scratch(shape, dtype, last, needs, backward, **_) -> Iterator[Asked]:
    """In training and in evaluation; but for means so far from 0 that backward takes them off the input (`_near`)."""
    images, channels, length = shape[0], shape[1], prod(shape[2:])
    if last or len(shape) == 2:
        images, length = 1, images * length
    cut = blocks((images, channels, length))
    if longest(cut) > 1 and images >= 4 and length < LONG_ROW and (needs[0] or not backward):  # as `_spread` has it
        yield Asked("rows", dtype, longest(cut) * length, len(cut))
    if backward and needs[1] and not needs[0]:
        yield Asked("numbers", dtype, images * longest(cut) * length, len(cut))


# ------------------------------------------------------------------------------ local response normalisation


def patches(shape: tuple[int, int, int]) -> list[tuple[int, slice]]:
    """Places of one image of (N, C, P), with all their channels."""
    images, channels, places = shape
    cut = pieces(places, 2 * PIECE // max(channels, 1))  # a whole image is twice as fast as its parts
    return [(n, patch) for n in range(images) for patch in cut]


def _window_sum(values: np.ndarray, before: int, after: int, out: np.ndarray) -> np.ndarray:
    """Along axis 0, into `out`, the sum of each entry, `before` entries before it and `after` entries after it."""
    channels = len(values)
    out[...] = values
    for shift in range(1, min(before, channels - 1) + 1):
        np.add(out[shift:], values[:-shift], out=out[shift:])
    for shift in range(1, min(after, channels - 1) + 1):
        np.add(out[:-shift], values[shift:], out=out[:-shift])
    return out


def _damp(values: np.ndarray, scale: np.ndarray, beta: float, out: np.ndarray) -> None:
    """values / scaleᵝ. A power costs as much as twenty roots, and the papers' β is ¾: √d · ⁴√d."""
    if beta == 0.75:
        root = np.sqrt(scale, out=scratch("numbers", scale.shape, scale.dtype))
        power = np.sqrt(root, out=scratch("others", scale.shape, scale.dtype))
        np.multiply(power, root, out=power)
    else:
        power = np.power(scale, beta, out=scratch("others", scale.shape, scale.dtype))
    np.divide(values, power, out=out)


def local_response_norm_forward(input, size, alpha, beta, k):
    """b = a / dᵝ with d = k + α/size · Σ a² over `size` neighbouring channels; input (N, C, *)."""
    x = _columns(input)
    output, scale = np.empty_like(x), np.empty_like(x)

    def work(patch: tuple[int, slice]) -> None:
        n, places = patch
        values, d = x[n, :, places], scale[n, :, places]
        squares, total = scratch("numbers", values.shape, x.dtype), scratch("others", values.shape, x.dtype)
        np.multiply(values, values, out=squares)
        _window_sum(squares, size // 2, (size - 1) // 2, total)
        np.multiply(total, alpha / size, out=total)
        np.add(total, k, out=d)
        del squares, total  # used again
        _damp(values, d, beta, output[n, :, places])

    run(work, patches(x.shape))
    return _restored(output, input), (input, scale)


def local_response_norm_backward(grad_output, saved, needs, size, alpha, beta, k):
    """∂L/∂aᵢ = gᵢ dᵢ⁻ᵝ − 2αβ/size · aᵢ · Σⱼ gⱼ aⱼ dⱼ⁻ᵝ⁻¹ over the channels j whose windows hold i."""
    input, scale = saved
    g, x = _columns(grad_output), _columns(input)
    grad_input = np.empty_like(g)

    def work(patch: tuple[int, slice]) -> None:
        n, places = patch
        values, d, damped = x[n, :, places], scale[n, :, places], grad_input[n, :, places]
        _damp(g[n, :, places], d, beta, damped)
        ratio = np.multiply(damped, values, out=scratch("numbers", d.shape, d.dtype))
        np.divide(ratio, d, out=ratio)
        # i lies in j's window when j lies in i's window seen from the other side: before and after change places.
        neighbours = _window_sum(ratio, (size - 1) // 2, size // 2, scratch("others", d.shape, d.dtype))
        np.multiply(neighbours, values, out=neighbours)
        np.multiply(neighbours, 2 * alpha * beta / size, out=neighbours)
        np.subtract(damped, neighbours, out=damped)

    run(work, patches(x.shape))
    return (_restored(grad_input, input),)


def local_response_norm_scratch(shape, dtype, last, needs, backward, **_) -> Iterator[Asked]:
    """The same in both directions."""
    cut = patches((*shape[:2], prod(shape[2:])))
    for role in ("numbers", "others"):
        yield Asked(role, dtype, shape[1] * longest(places for _, places in cut), len(cut))
