"""The fully connected layer on threads: some of the outputs each, and backward some of the inputs.

The weight is far larger than a batch: VGG's first has 411 MB. So it is what is divided, and each part of it read
once. W xᵀ takes two thirds of the time of x Wᵀ, whose weight BLAS would have to turn about.
"""

from __future__ import annotations

import numpy as np

from ...threads import pieces, run
from .. import linear
from .scratch import scratch

OUTPUTS, INPUTS = 256, 1024  # in a part
LEAST = 1 << 18  # numbers in a weight that is worth dividing


def _simple(weight: np.ndarray, *others: np.ndarray | None) -> bool:
    """Whether this file's passes are for them: a large matrix, and everything of its dtype."""
    return weight.ndim == 2 and weight.size >= LEAST and all(x is None or x.dtype == weight.dtype for x in others)


def linear_forward(input, weight, bias):
    if not _simple(weight, input, bias) or (bias is not None and bias.ndim != 1):
        return linear.linear_forward(input, weight, bias)
    outs, ins = weight.shape
    rows = input.reshape(-1, ins)
    output = np.empty((len(rows), outs), weight.dtype)

    def multiply(part: slice) -> None:
        product = scratch("product", (part.stop - part.start, len(rows)), weight.dtype)
        np.matmul(weight[part], rows.T, out=product)
        if bias is None:
            output[:, part] = product.T
        else:
            np.add(product.T, bias[part], out=output[:, part])

    run(multiply, pieces(outs, OUTPUTS))
    return output.reshape(*input.shape[:-1], outs), (input, weight, None if bias is None else bias.shape)


def linear_backward(grad_output, saved, needs):
    input, weight, _ = saved
    if not _simple(weight, input, grad_output) or not (needs[0] or needs[1]):
        return linear.linear_backward(grad_output, saved, needs)
    outs, ins = weight.shape
    rows, grads = input.reshape(-1, ins), grad_output.reshape(-1, outs)
    grad_input = grad_weight = None
    if needs[0]:
        of_rows = np.empty(rows.shape, weight.dtype)
        run(lambda part: np.matmul(grads, weight[:, part], out=of_rows[:, part]), pieces(ins, INPUTS))
        grad_input = of_rows.reshape(input.shape)
    if needs[1]:
        grad_weight = of_weight = np.empty(weight.shape, weight.dtype)
        run(lambda part: np.matmul(grads[:, part].T, rows, out=of_weight[part]), pieces(outs, OUTPUTS))
    _, _, grad_bias = linear.linear_backward(grad_output, saved, (False, False, needs[2]))
    return grad_input, grad_weight, grad_bias
