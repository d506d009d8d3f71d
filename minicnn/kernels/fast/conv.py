"""Convolution in blocks of images: the array-neutral passes, on a few images at a time.

A block's columns fit into the cache and its memory is used again for the next, where the columns of a whole batch
would go out to memory and back; and blocks are independent, so threads share them. The weight's gradient is a sum
over blocks, always added up in the same order: the number of threads changes no bit.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ...threads import run
from .. import conv as whole_batch

COLUMNS_IN_A_BLOCK = 1 << 18  # 1 MB of float32, about what a core's own cache holds
LEAST_BLOCKS = 8  # so that a few threads can share the work evenly


def _blocks(images: int, columns_of_one: int) -> list[slice]:
    """The batch, cut into blocks by its size and the size of an image's columns alone."""
    fitting = max(COLUMNS_IN_A_BLOCK // max(columns_of_one, 1), 1)
    length = max(min(fitting, -(-images // LEAST_BLOCKS)), 1)
    return [slice(start, min(start + length, images)) for start in range(0, images, length)]


def _geometry(input, weight, stride, padding, dilation) -> tuple[tuple[int, ...], list[slice]]:
    """The output's shape, and the blocks."""
    hw = tuple(map(whole_batch.output_size, input.shape[2:], weight.shape[2:], stride, padding, dilation))
    columns_of_one = input.shape[1] * prod(weight.shape[2:]) * prod(hw)
    return (input.shape[0], weight.shape[0], *hw), _blocks(input.shape[0], columns_of_one)


def conv2d_forward(input, weight, bias, stride, padding, dilation, groups):
    shape, blocks = _geometry(input, weight, stride, padding, dilation)
    output = np.empty(shape, dtype=np.result_type(input, weight))

    def work(block: slice) -> None:
        output[block] = whole_batch.conv2d_forward(input[block], weight, bias, stride, padding, dilation, groups)[0]

    run(work, blocks)
    return output, (input, weight)


def conv2d_backward(grad_output, saved, needs, stride, padding, dilation, groups):
    input, weight = saved
    _, blocks = _geometry(input, weight, stride, padding, dilation)
    grad_input = np.empty_like(input) if needs[0] else None
    parts: list = [None] * len(blocks)  # of the weight's and the bias's gradient

    def work(i: int) -> None:
        saved = input[blocks[i]], weight
        grads = whole_batch.conv2d_backward(grad_output[blocks[i]], saved, needs, stride, padding, dilation, groups)
        if needs[0]:
            grad_input[blocks[i]] = grads[0]
        parts[i] = grads[1:]

    run(work, range(len(blocks)))

    def total(argument: int, shape: tuple[int, ...]):
        sum_of_blocks = np.zeros(shape, dtype=weight.dtype)
        for part in parts:
            sum_of_blocks += part[argument - 1]
        return sum_of_blocks

    grad_weight = total(1, weight.shape) if needs[1] else None
    grad_bias = total(2, weight.shape[:1]) if needs[2] else None
    return grad_input, grad_weight, grad_bias
