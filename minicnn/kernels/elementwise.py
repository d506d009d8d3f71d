"""Arithmetic, entry by entry, with broadcasting.

Broadcasting copies an entry to many places, so backward adds up what comes back from them: `unbroadcast`.
"""

from __future__ import annotations

from ..backend import Array, array_module, device_of, to_device


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` over the axes along which an array of `shape` was broadcast to it."""
    if grad.shape == shape:
        return grad
    added = grad.ndim - len(shape)
    stretched = tuple(added + i for i, n in enumerate(shape) if n == 1 and grad.shape[added + i] != 1)
    return grad.sum(axis=tuple(range(added)) + stretched).reshape(shape)


def add_forward(input, other):
    return input + other, (input.shape, other.shape)


def add_backward(grad_output, saved, needs):
    shape_input, shape_other = saved
    grad_input = unbroadcast(grad_output, shape_input) if needs[0] else None
    grad_other = unbroadcast(grad_output, shape_other) if needs[1] else None
    return grad_input, grad_other


def sub_forward(input, other):
    return input - other, (input.shape, other.shape)


def sub_backward(grad_output, saved, needs):
    shape_input, shape_other = saved
    grad_input = unbroadcast(grad_output, shape_input) if needs[0] else None
    grad_other = unbroadcast(-grad_output, shape_other) if needs[1] else None
    return grad_input, grad_other


def mul_forward(input, other):
    return input * other, (input, other)


def mul_backward(grad_output, saved, needs):
    input, other = saved
    grad_input = unbroadcast(grad_output * other, input.shape) if needs[0] else None
    grad_other = unbroadcast(grad_output * input, other.shape) if needs[1] else None
    return grad_input, grad_other


def div_forward(input, other):
    return input / other, (input, other)


def div_backward(grad_output, saved, needs):
    input, other = saved
    grad_input = unbroadcast(grad_output / other, input.shape) if needs[0] else None
    grad_other = unbroadcast(-grad_output * (input / other) / other, other.shape) if needs[1] else None
    return grad_input, grad_other


def neg_forward(input):
    return -input, None


def neg_backward(grad_output, saved, needs):
    return (-grad_output,)


def pow_forward(input, exponent):
    return input**exponent, (input, exponent)


def pow_backward(grad_output, saved, needs):
    input, exponent = saved
    xp = array_module(input)
    grad_input = grad_exponent = None
    if needs[0]:  # n·xⁿ⁻¹, and 0 where n = 0, x = 0 included
        zero = exponent == 0
        slope = xp.where(zero, 0, exponent * input ** xp.where(zero, exponent + 1, exponent - 1))
        grad_input = unbroadcast(grad_output * slope, input.shape)
    if needs[1]:  # xⁿ·log x, and 0 where x = 0 and n ≥ 0 (the limit)
        base_zero = (input == 0) & (exponent >= 0)
        log = xp.log(xp.where(base_zero, 1, input))
        grad_exponent = unbroadcast(grad_output * input**exponent * log, exponent.shape)
    return grad_input, grad_exponent


def exp_forward(input):
    output = array_module(input).exp(input)
    return output, output


def exp_backward(grad_output, output, needs):
    return (grad_output * output,)


def log_forward(input):
    return array_module(input).log(input), input


def log_backward(grad_output, input, needs):
    return (grad_output / input,)


def sqrt_forward(input):
    output = array_module(input).sqrt(input)
    return output, output


def sqrt_backward(grad_output, output, needs):
    return (grad_output / (2 * output),)


def abs_forward(input):
    return array_module(input).abs(input), input


def abs_backward(grad_output, input, needs):
    xp = array_module(input)
    return (xp.where(input > 0, grad_output, xp.where(input < 0, -grad_output, 0)),)


def clamp_forward(input, min, max):
    """`min` and `max`: arrays that broadcast with `input`, or None; `max` wins where ``min > max``."""
    xp = array_module(input)
    output = input
    if min is not None:
        output = xp.maximum(output, min)
    if max is not None:
        output = xp.minimum(output, max)
    return output, (input, min, max)


def clamp_backward(grad_output, saved, needs):
    """The gradient goes to whichever of the three was let through; at a bound, to the input."""
    input, min, max = saved
    low = -float("inf") if min is None else min
    high = float("inf") if max is None else max

    def passed(where, shape):
        return unbroadcast(array_module(input).where(where, grad_output, 0), shape)

    grad_input = passed((low <= input) & (input <= high), input.shape) if needs[0] else None
    grad_min = passed((input < low) & (low < high), min.shape) if needs[1] else None
    grad_max = passed((input > high) | (low > high), max.shape) if needs[2] else None
    return grad_input, grad_min, grad_max


def to_dtype_forward(input, dtype):
    return input.astype(dtype), input.dtype


def to_dtype_backward(grad_output, input_dtype, needs, dtype):
    return (grad_output.astype(input_dtype),)


def to_device_forward(input, device):
    return to_device(input, device), device_of(input)


def to_device_backward(grad_output, input_device, needs, device):
    return (to_device(grad_output, input_device),)
