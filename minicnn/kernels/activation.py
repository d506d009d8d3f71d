"""Activations. Each backward multiplies the gradient by the slope at the entry, f'(x)."""

from __future__ import annotations

from ..backend import Array, array_module


def relu_forward(input):
    """max(0, x). The output alone is kept: it is positive just where the input is."""
    output = array_module(input).maximum(input, 0)
    return output, output


def relu_backward(grad_output, output, needs):
    """The gate: shut where x ≤ 0, so that at 0 the slope is 0, and a NaN lets its gradient pass."""
    return (array_module(output).where(output <= 0, 0, grad_output),)


def leaky_relu_forward(input, negative_slope):
    return array_module(input).where(input > 0, input, negative_slope * input), input


def leaky_relu_backward(grad_output, input, needs, negative_slope):
    return (array_module(input).where(input > 0, grad_output, negative_slope * grad_output),)


def elu_forward(input, alpha):
    """x where x > 0, else α (eˣ − 1). Clevert et al. 2016, eq. 15."""
    xp = array_module(input)
    return xp.where(input > 0, input, alpha * xp.expm1(xp.minimum(input, 0))), input


def elu_backward(grad_output, input, needs, alpha):
    xp = array_module(input)
    return (xp.where(input > 0, grad_output, grad_output * (alpha * xp.exp(xp.minimum(input, 0)))),)


def _sigmoid(input: Array) -> Array:
    """1 / (1 + e⁻ˣ), with the exponential of a negative number only, so that nothing overflows."""
    xp = array_module(input)
    positive = input >= 0
    e = xp.exp(xp.where(positive, -input, input))
    return xp.where(positive, 1, e) / (1 + e)


def sigmoid_forward(input):
    output = _sigmoid(input)
    return output, output


def sigmoid_backward(grad_output, output, needs):
    """σ' = σ (1 − σ), at most 1/4: the reason why deep sigmoid networks lose their gradient."""
    return (grad_output * (output * (1 - output)),)


def tanh_forward(input):
    output = array_module(input).tanh(input)
    return output, output


def tanh_backward(grad_output, output, needs):
    return (grad_output * (1 - output * output),)


def silu_forward(input):
    """x σ(x). Elfwing et al. 2018, eq. 5; Ramachandran et al. 2017 call it Swish."""
    return input * _sigmoid(input), input


def silu_backward(grad_output, input, needs):
    gate = _sigmoid(input)
    return (grad_output * (gate * (1 + input * (1 - gate))),)


def softplus_forward(input, beta, threshold):
    """log(1 + e^βx) / β; beyond βx > threshold, where the difference is below rounding, x itself."""
    xp = array_module(input)
    scaled = beta * input
    smooth = xp.maximum(scaled, 0) + xp.log1p(xp.exp(xp.where(scaled >= 0, -scaled, scaled)))
    return xp.where(scaled > threshold, input, smooth / beta), input


def softplus_backward(grad_output, input, needs, beta, threshold):
    scaled = beta * input
    return (array_module(input).where(scaled > threshold, grad_output, grad_output * _sigmoid(scaled)),)


def softmax_forward(input, dim):
    """eˣⁱ / Σⱼ eˣʲ along `dim`, shifted by the maximum, which cancels and keeps the exponentials at most 1."""
    e = array_module(input).exp(input - input.max(axis=dim, keepdims=True))
    output = e / e.sum(axis=dim, keepdims=True)
    return output, output


def softmax_backward(grad_output, output, needs, dim):
    inner = (grad_output * output).sum(axis=dim, keepdims=True)
    return (output * (grad_output - inner),)


def log_softmax_forward(input, dim):
    xp = array_module(input)
    shifted = input - input.max(axis=dim, keepdims=True)
    output = shifted - xp.log(xp.exp(shifted).sum(axis=dim, keepdims=True))
    return output, output


def log_softmax_backward(grad_output, output, needs, dim):
    probability = array_module(output).exp(output)
    return (grad_output - probability * grad_output.sum(axis=dim, keepdims=True),)
