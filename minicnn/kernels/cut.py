"""Convolution on a GPU: the passes of `conv`, a few images at a time, so that their columns stay within a bound.

The columns of VGG's second layer are 116 MB an image, 3.7 GB for a batch of 32, and backward would hold two sets of
them: those that it rebuilds and their gradient. Images are independent, so the batch is cut into blocks whose columns
take at most `backend.max_workspace_size` bytes (one image is the least), and a block's are freed before the next are
made.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import backend
from ..backend import Array, array_module
from ..threads import pieces
from . import conv


def _blocks(input: Array, weight: Array, stride, padding, dilation) -> Sequence[slice]:
    """Images whose columns fit the bound, as evenly as can be."""
    n, channels, *size = input.shape
    kernel = weight.shape[2:]
    out_h, out_w = map(conv.output_size, size, kernel, stride, padding, dilation)
    an_image = channels * kernel[0] * kernel[1] * out_h * out_w * input.dtype.itemsize  # bytes of its columns
    fitting = backend.max_workspace_size() // max(an_image, 1)
    return pieces(n, fitting)


def conv2d_forward(input, weight, bias, stride, padding, dilation, groups):
    blocks = _blocks(input, weight, stride, padding, dilation)
    if len(blocks) == 1:
        return conv.conv2d_forward(input, weight, bias, stride, padding, dilation, groups)
    output = None
    for block in blocks:
        part, _ = conv.conv2d_forward(input[block], weight, bias, stride, padding, dilation, groups)
        if output is None:
            output = array_module(part).empty((len(input), *part.shape[1:]), dtype=part.dtype)
        output[block] = part
        del part  # or it would live on while the next one is made
    return output, (input, weight)


def conv2d_backward(grad_output, saved, needs, stride, padding, dilation, groups):
    input, weight = saved
    xp = array_module(grad_output)
    grad_input = xp.empty(input.shape, dtype=grad_output.dtype) if needs[0] else None
    grad_weight = grad_bias = None
    for block in _blocks(input, weight, stride, padding, dilation):
        grad, images = grad_output[block], (input[block], weight)
        params = (stride, padding, dilation, groups)
        # One after the other, so that the columns of the one are gone before those of the other come.
        if grad_input is not None:
            grad_input[block] = conv.conv2d_backward(grad, images, (True, False, False), *params)[0]
        _, of_weight, of_bias = conv.conv2d_backward(grad, images, (False, *needs[1:]), *params)
        grad_weight, grad_bias = _plus(grad_weight, of_weight), _plus(grad_bias, of_bias)
    return grad_input, grad_weight, grad_bias


def _plus(total: Array | None, part: Array | None) -> Array | None:
    return part if total is None or part is None else total + part
