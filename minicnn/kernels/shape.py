"""Operations that move entries around: no arithmetic forward, and backward moves the gradients back."""

from __future__ import annotations

import numpy as np

from ..backend import Array, array_module


def reshape_forward(input, shape):
    return input.reshape(shape), input.shape


def reshape_backward(grad_output, input_shape, needs, shape):
    return (grad_output.reshape(input_shape),)


def permute_forward(input, dims):
    return input.transpose(dims), None


def permute_backward(grad_output, saved, needs, dims):
    inverse = sorted(range(len(dims)), key=dims.__getitem__)
    return (grad_output.transpose(inverse),)


def getitem_forward(input, index):
    output = input[index]
    if isinstance(output, np.generic):  # and so a copy: with an Ellipsis it is a view, as on a device
        output = input[(*index, ...) if isinstance(index, tuple) else (index, ...)]
    return output, input.shape


def getitem_backward(grad_output, input_shape, needs, index):
    """An entry that was taken twice gets both gradients, so arrays of integers need `add.at`."""
    xp = array_module(grad_output)
    grad_input = xp.zeros(input_shape, dtype=grad_output.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if any(hasattr(part, "dtype") and part.dtype.kind in "iu" for part in parts):
        xp.add.at(grad_input, index, grad_output)
    else:
        grad_input[index] = grad_output
    return (grad_input,)


def cat_forward(*inputs, dim):
    """Operands of shape (0,) are skipped beside others of more dimensions: PyTorch's legacy."""
    present = [x for x in inputs if x.shape != (0,)] or list(inputs)
    return array_module(inputs[0]).concatenate(present, axis=dim), [x.shape for x in inputs]


def cat_backward(grad_output, shapes, needs, dim):
    """Cut the gradient where the inputs were joined."""
    grads, start = [], 0
    cut: list[slice] = [slice(None)] * grad_output.ndim
    for shape, need in zip(shapes, needs, strict=True):
        size = 0 if shape == (0,) else shape[dim]
        cut[dim] = slice(start, start + size)
        grads.append(grad_output[tuple(cut)].reshape(shape) if need else None)
        start += size
    return tuple(grads)


def pad_forward(input, widths, value):
    """`widths`: one (before, after) pair per axis; negative ones cut off."""
    xp = array_module(input)
    shape = tuple(n + before + after for n, (before, after) in zip(input.shape, widths, strict=True))
    output = xp.full(shape, value, dtype=input.dtype)
    source, place = _overlap(input.shape, widths)
    output[place] = input[source]
    return output, input.shape


def pad_backward(grad_output, input_shape, needs, widths, value):
    grad_input = array_module(grad_output).zeros(input_shape, dtype=grad_output.dtype)
    source, place = _overlap(input_shape, widths)
    grad_input[source] = grad_output[place]
    return (grad_input,)


def _overlap(shape, widths) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What of the input is kept, and where it goes in the output."""
    source = tuple(slice(max(-b, 0), max(n - max(-a, 0), 0)) for n, (b, a) in zip(shape, widths, strict=True))
    place = tuple(slice(max(b, 0), max(n + b + min(a, 0), 0)) for n, (b, a) in zip(shape, widths, strict=True))
    return source, place


def pad2d(input: Array, padding: tuple[int, int], value: float = 0.0, extra: tuple[int, int] = (0, 0)) -> Array:
    """(N, C, H, W) with `padding` rows and columns of `value` on both sides, `extra` more at the end."""
    if padding == (0, 0) and extra == (0, 0):
        return input
    n, c, h, w = input.shape
    (ph, pw), (eh, ew) = padding, extra
    padded = array_module(input).full((n, c, h + 2 * ph + eh, w + 2 * pw + ew), value, dtype=input.dtype)
    padded[:, :, ph : ph + h, pw : pw + w] = input
    return padded
