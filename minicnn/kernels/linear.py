"""Matrix products and the fully connected layer."""

from __future__ import annotations

from math import prod

from ..backend import array_module
from .elementwise import unbroadcast


def linear_forward(input, weight, bias):
    """y = x Wᵀ + b, with input (*, in), weight (out, in) or (in,), bias (out,), () or None."""
    output = input @ weight.T  # (*, out), or (*) for a weight of one dimension
    return output if bias is None else output + bias, (input, weight, None if bias is None else bias.shape)


def linear_backward(grad_output, saved, needs):
    """∂L/∂x = g W, ∂L/∂W = gᵀ x summed over the batch, ∂L/∂b = g summed over the batch."""
    input, weight, bias_shape = saved
    batch, outs, ins = prod(input.shape[:-1]), prod(weight.shape[:-1]), weight.shape[-1]
    matrix, rows, grad_rows = weight.reshape(outs, ins), input.reshape(batch, ins), grad_output.reshape(batch, outs)
    grad_input = (grad_rows @ matrix).reshape(input.shape) if needs[0] else None
    grad_weight = (grad_rows.T @ rows).reshape(weight.shape) if needs[1] else None
    grad_bias = unbroadcast(grad_output, bias_shape) if needs[2] else None
    return grad_input, grad_weight, grad_bias


def matmul_forward(input, other):
    """NumPy's and PyTorch's matrix product: the last two axes multiply, those before them broadcast."""
    return input @ other, (input, other)


def matmul_backward(grad_output, saved, needs):
    """∂L/∂A = G Bᵀ and ∂L/∂B = Aᵀ G; a vector counts as a row on the left, as a column on the right."""
    input, other = saved
    xp = array_module(input)
    left = input[None, :] if input.ndim == 1 else input  # (…, n, k)
    right = other[:, None] if other.ndim == 1 else other  # (…, k, m)
    grad = grad_output
    if other.ndim == 1:
        grad = grad[..., None]
    if input.ndim == 1:
        grad = grad[..., None, :]  # (…, n, m)
    grad_input = grad_other = None
    if needs[0]:
        grad_input = unbroadcast(grad @ xp.swapaxes(right, -1, -2), left.shape).reshape(input.shape)
    if needs[1]:
        grad_other = unbroadcast(xp.swapaxes(left, -1, -2) @ grad, right.shape).reshape(other.shape)
    return grad_input, grad_other
