"""Activations, piece by piece, and without choosing entry by entry: ``where`` takes ten times as long as arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from .. import activation as neutral
from .entrywise import PIECE_OF_FUNCTION, entrywise, largest_piece
from .scratch import Asked, scratch

WHOLE_NUMBERS: dict[int, Any] = {4: np.int32, 8: np.int64}  # of the size of a float


def relu_forward(input):
    """max(0, x). The output alone is kept: it is positive just where the input is."""
    output = np.empty_like(input)
    entrywise(lambda x, out: x.clip(0, np.inf, out=out), input, output)  # three times as fast as np.maximum(x, 0)
    return output, output


def relu_backward(grad_output, output, needs):
    """g where the gate is open, else 0: the bits of g, as a whole number, times 1 or 0. No infinity becomes a NaN."""
    dtype = WHOLE_NUMBERS.get(output.dtype.itemsize)
    if dtype is None or grad_output.dtype != output.dtype:
        return neutral.relu_backward(grad_output, output, needs)
    grad_input = np.empty_like(output)

    def work(y: np.ndarray, g: np.ndarray, out: np.ndarray) -> None:
        gate = np.less_equal(y, 0, out=scratch("gate", y.shape, np.bool_))
        np.logical_not(gate, out=gate)  # and not y > 0, so that a NaN lets its gradient pass
        out[...] = gate.view(np.uint8)  # and then multiply: faster than to leave the conversion to np.multiply
        np.multiply(out, g, out=out)

    entrywise(work, output, grad_output.view(dtype), grad_input.view(dtype))
    return (grad_input,)


def relu_scratch(shape, dtype, last, needs, backward) -> Iterator[Asked]:
    if backward and dtype.itemsize in WHOLE_NUMBERS:
        yield Asked("gate", np.bool_, *largest_piece(prod(shape)))


def leaky_relu_forward(input, negative_slope):
    """max(x, a·x), for a slope between 0 and 1."""
    if not 0 < negative_slope <= 1:
        return neutral.leaky_relu_forward(input, negative_slope)
    output = np.empty_like(input)

    def work(x: np.ndarray, out: np.ndarray) -> None:
        np.multiply(x, negative_slope, out=out)
        np.maximum(x, out, out=out)

    entrywise(work, input, output)
    return output, input


def leaky_relu_backward(grad_output, input, needs, negative_slope):
    """g times the larger of the gate, 1 or 0, and the slope."""
    if not 0 < negative_slope <= 1:
        return neutral.leaky_relu_backward(grad_output, input, needs, negative_slope)
    grad_input = np.empty_like(input)

    def work(x: np.ndarray, g: np.ndarray, out: np.ndarray) -> None:
        np.maximum(np.greater(x, 0, out=scratch("gate", x.shape, np.bool_)), negative_slope, out=out, dtype=out.dtype)
        np.multiply(out, g, out=out)

    entrywise(work, input, grad_output, grad_input)
    return (grad_input,)


def leaky_relu_scratch(shape, dtype, last, needs, backward, negative_slope) -> Iterator[Asked]:
    if backward and 0 < negative_slope <= 1:
        yield Asked("gate", np.bool_, *largest_piece(prod(shape)))


def sigmoid_forward(input):
    """1 / (1 + e⁻ˣ) as max(e, [x ≥ 0]) / (1 + e) with e = e^−|x|, which is at most 1."""
    output = np.empty_like(input)

    def work(x: np.ndarray, out: np.ndarray) -> None:
        e = np.abs(x, out=scratch("numbers", x.shape, x.dtype))
        np.exp(np.negative(e, out=e), out=e)
        np.maximum(e, np.greater_equal(x, 0, out=scratch("gate", x.shape, np.bool_)), out=out)
        np.add(e, 1, out=e)
        np.divide(out, e, out=out)

    entrywise(work, input, output, most=PIECE_OF_FUNCTION)
    return output, output


def sigmoid_scratch(shape, dtype, last, needs, backward) -> Iterator[Asked]:
    if not backward:
        piece = largest_piece(prod(shape), PIECE_OF_FUNCTION)
        yield Asked("numbers", dtype, *piece)
        yield Asked("gate", np.bool_, *piece)


def sigmoid_backward(grad_output, output, needs):
    """σ' = σ (1 − σ)."""
    grad_input = np.empty_like(output)

    def work(y: np.ndarray, g: np.ndarray, out: np.ndarray) -> None:
        np.multiply(np.subtract(1, y, out=out), y, out=out)
        np.multiply(out, g, out=out)

    entrywise(work, output, grad_output, grad_input)
    return (grad_input,)


def tanh_forward(input):
    output = np.empty_like(input)
    entrywise(lambda x, out: np.tanh(x, out=out), input, output, most=PIECE_OF_FUNCTION)
    return output, output


def tanh_backward(grad_output, output, needs):
    """1 − y²."""
    grad_input = np.empty_like(output)

    def work(y: np.ndarray, g: np.ndarray, out: np.ndarray) -> None:
        np.subtract(1, np.multiply(y, y, out=out), out=out)
        np.multiply(out, g, out=out)

    entrywise(work, output, grad_output, grad_input)
    return (grad_input,)
