"""Pooling: maximum and average over windows, and average over a fixed number of bins.

The loops below run over the entries of a window (kh·kw of them, each an array of all outputs), never over outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ..backend import Array, array_module, sliding_windows
from .shape import pad2d


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """As for a convolution; with `ceil_mode` rounded up, unless the last window would start beyond the input."""
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return reach // stride + 1
    out = -(-reach // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out


def _geometry(shape, size, stride, padding, dilation, ceil_mode) -> tuple[tuple[int, int], tuple[int, int]]:
    """The output's height and width, and how many rows and columns `ceil_mode` needs beyond the padding."""
    out, extra = [], []
    for n, k, s, p, d in zip(shape[2:], size, stride, padding, dilation, strict=True):
        out.append(output_size(n, k, s, p, d, ceil_mode))
        last = s * (out[-1] - 1) + d * (k - 1) + 1  # where the last window ends, counted from the padding's start
        extra.append(max(last - n - 2 * p, 0))
    return (out[0], out[1]), (extra[0], extra[1])


def _taps(padded: Array, out, size, stride, dilation) -> Iterator[Array]:
    """For each entry of a window, in rows, the view of `padded` that holds it for every output: (N, C, *out)."""
    (out_h, out_w), (sh, sw) = out, stride
    for i in range(0, dilation[0] * size[0], dilation[0]):
        for j in range(0, dilation[1] * size[1], dilation[1]):
            yield padded[:, :, i : i + sh * (out_h - 1) + 1 : sh, j : j + sw * (out_w - 1) + 1 : sw]


def max_pool2d_forward(input, kernel_size, stride, padding, dilation, ceil_mode):
    """(N, C, H, W) → (N, C, out_h, out_w). Of equals the first wins, but never the padding, which is −∞."""
    xp = array_module(input)
    out, extra = _geometry(input.shape, kernel_size, stride, padding, dilation, ceil_mode)

    def windows(image: Array, border: float) -> Array:  # (…, out_h, out_w, kh·kw)
        view = sliding_windows(pad2d(image, padding, border, extra), kernel_size, stride, dilation)
        return view[:, :, : out[0], : out[1]].reshape(*image.shape[:2], *out, prod(kernel_size))

    entries = windows(input, -float("inf"))
    winner = entries.argmax(axis=-1)  # (N, C, out_h, out_w)
    output = xp.take_along_axis(entries, winner[..., None], axis=-1)[..., 0]
    # Where all entries are −∞ too, argmax may have found the padding: take the first entry instead.
    inside = windows(xp.ones((1, 1, *input.shape[2:]), dtype=input.dtype), 0.0)
    return output, (xp.where(output == -float("inf"), inside.argmax(axis=-1), winner), input.shape)


def max_pool2d_backward(grad_output, saved, needs, kernel_size, stride, padding, dilation, ceil_mode):
    """All of an output's gradient goes to the entry that won its window."""
    winner, shape = saved
    xp = array_module(grad_output)
    (out, extra), (n, c, h, w) = _geometry(shape, kernel_size, stride, padding, dilation, ceil_mode), shape
    (ph, pw), (eh, ew) = padding, extra
    padded = xp.zeros((n, c, h + 2 * ph + eh, w + 2 * pw + ew), dtype=grad_output.dtype)
    for i, tap in enumerate(_taps(padded, out, kernel_size, stride, dilation)):
        tap += xp.where(winner == i, grad_output, 0)
    return (padded[:, :, ph : ph + h, pw : pw + w],)


def _divisor(input: Array, out, size, stride, padding, count_include_pad, divisor_override):
    """How many entries each output averages: a number, or an array (out_h, out_w) where windows stick out."""
    if divisor_override is not None:
        return divisor_override
    # Along each axis; rows that ceil_mode adds are never counted.
    sides = [
        (o, k, s, p, *((-p, n + p) if count_include_pad else (0, n)))
        for n, o, k, s, p in zip(input.shape[2:], out, size, stride, padding, strict=True)
    ]
    if all(low == -p and (o - 1) * s - p + k <= high for o, k, s, p, low, high in sides):
        return size[0] * size[1]
    xp = array_module(input)

    def counts(o: int, k: int, s: int, p: int, low: int, high: int) -> Array:
        starts = xp.arange(o, dtype=xp.int64) * s - p  # made where they are used: nothing crosses
        return (xp.minimum(starts + k, high) - xp.maximum(starts, low)).astype(input.dtype)

    rows, columns = (counts(*side) for side in sides)
    return rows[:, None] * columns


def avg_pool2d_forward(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    """(N, C, H, W) → (N, C, out_h, out_w)."""
    out, extra = _geometry(input.shape, kernel_size, stride, padding, (1, 1), ceil_mode)
    first, *others = _taps(pad2d(input, padding, 0.0, extra), out, kernel_size, stride, (1, 1))
    total = first.copy()
    for tap in others:
        total += tap
    divisor = _divisor(input, out, kernel_size, stride, padding, count_include_pad, divisor_override)
    return total / divisor, (divisor, input.shape)


def avg_pool2d_backward(
    grad_output, saved, needs, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    """Every entry of a window gets the same share of its output's gradient."""
    divisor, shape = saved
    (out, extra), (n, c, h, w) = _geometry(shape, kernel_size, stride, padding, (1, 1), ceil_mode), shape
    (ph, pw), (eh, ew) = padding, extra
    share = grad_output / divisor
    padded = array_module(grad_output).zeros((n, c, h + 2 * ph + eh, w + 2 * pw + ew), dtype=grad_output.dtype)
    for tap in _taps(padded, out, kernel_size, stride, (1, 1)):
        tap += share
    return (padded[:, :, ph : ph + h, pw : pw + w],)


def _bins(size: int, out: int) -> list[tuple[int, int]]:
    """`out` bins over `size` entries, as even as can be; they overlap where `out` does not divide `size`."""
    return [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]


def adaptive_avg_pool2d_forward(input, output_size):
    """(N, C, H, W) → (N, C, *output_size). A bin is a rectangle, so its mean is the mean of its columns' means."""
    xp = array_module(input)
    rows, columns = map(_bins, input.shape[2:], output_size)
    bands = xp.empty((*input.shape[:2], output_size[0], input.shape[3]), dtype=input.dtype)  # (N, C, out_h, W)
    for i, (start, end) in enumerate(rows):
        bands[:, :, i] = input[:, :, start:end].sum(axis=2) / (end - start)
    output = xp.empty((*bands.shape[:3], output_size[1]), dtype=input.dtype)
    for j, (start, end) in enumerate(columns):
        output[..., j] = bands[..., start:end].sum(axis=3) / (end - start)
    return output, input.shape


def adaptive_avg_pool2d_backward(grad_output, input_shape, needs, output_size):
    xp = array_module(grad_output)
    rows, columns = map(_bins, input_shape[2:], output_size)
    bands = xp.zeros((*grad_output.shape[:3], input_shape[3]), dtype=grad_output.dtype)  # (N, C, out_h, W)
    for j, (start, end) in enumerate(columns):
        bands[..., start:end] += grad_output[..., j : j + 1] / (end - start)
    grad_input = xp.zeros(input_shape, dtype=grad_output.dtype)
    for i, (start, end) in enumerate(rows):
        grad_input[:, :, start:end] += bands[:, :, i : i + 1] / (end - start)
    return (grad_input,)
