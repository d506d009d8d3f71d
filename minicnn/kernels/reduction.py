"""Reductions over some axes. `dim` is a tuple of axes, none of them negative; `keepdim` leaves axes of length 1.

Backward spreads a gradient over the entries that were reduced: `_spread` gives it the reduced axes back.
"""

from __future__ import annotations

from math import prod

from ..backend import Array, array_module


def _spread(grad: Array, dim: tuple[int, ...], keepdim: bool) -> Array:
    """`grad` with the reduced axes in place, of length 1, so that it broadcasts against the input."""
    return grad if keepdim else array_module(grad).expand_dims(grad, dim)


def sum_forward(input, dim, keepdim):
    return input.sum(axis=dim, keepdims=keepdim), input.shape


def sum_backward(grad_output, input_shape, needs, dim, keepdim):
    return (array_module(grad_output).broadcast_to(_spread(grad_output, dim, keepdim), input_shape),)


def mean_forward(input, dim, keepdim):
    count = prod(input.shape[d] for d in dim) or float("nan")  # the mean of nothing, without NumPy's warning of 0/0
    return input.sum(axis=dim, keepdims=keepdim) / count, input.shape


def mean_backward(grad_output, input_shape, needs, dim, keepdim):
    count = prod(input_shape[d] for d in dim) or float("nan")
    share = _spread(grad_output, dim, keepdim) / count
    return (array_module(grad_output).broadcast_to(share, input_shape),)


def var_forward(input, dim, correction, keepdim):
    """Σ (x − mean)² / (n − correction); written out, because `np.var` takes the modulus of complex numbers."""
    count = prod(input.shape[d] for d in dim)
    centred = input - input.sum(axis=dim, keepdims=True) / count
    output = (centred * centred).sum(axis=dim, keepdims=keepdim) / max(count - correction, 0)
    return output, centred


def var_backward(grad_output, centred, needs, dim, correction, keepdim):
    """The mean's own part vanishes, since Σ (x − mean) = 0."""
    count = prod(centred.shape[d] for d in dim)
    return (_spread(grad_output, dim, keepdim) * 2 * centred / (count - correction),)


def amax_forward(input, dim, keepdim):
    output = input.max(axis=dim, keepdims=True)
    return output if keepdim else output.reshape([n for d, n in enumerate(input.shape) if d not in dim]), (
        input,
        output,
    )


def amax_backward(grad_output, saved, needs, dim, keepdim):
    """Entries that tie for the maximum share its gradient equally, as PyTorch's `amax` has it."""
    input, output = saved
    xp = array_module(input)
    winners = xp.where(input == output, xp.ones_like(input), 0)
    return (winners * (_spread(grad_output, dim, keepdim) / winners.sum(axis=dim, keepdims=True)),)
