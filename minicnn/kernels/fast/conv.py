"""Convolution in blocks of images: the products of `kernels.conv`, a few images at a time.

The columns of a block fit into a core's own cache, and their memory is used again for the next block, where those of
a whole batch would be fetched from the system and given back each time. Blocks are independent, so threads share
them. The gradient of the weight is a sum over blocks, always added up in the same order, so that the number of threads
changes no bit.
"""

from __future__ import annotations

import threading
from math import prod

import numpy as np

from ...backend import sliding_windows
from ...threads import run
from ..conv import output_size

COLUMNS_IN_A_BLOCK = 1 << 18  # numbers; 1 MB of float32
LEAST_BLOCKS = 8  # so that a few threads can share the work evenly
LARGEST_KEPT = 1 << 22  # numbers; a larger scratch array (one image is a block at least) is not kept for the next

_kept = threading.local()  # .scratch: each thread's scratch arrays


def _scratch(role: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array that is this thread's own until it asks for the same role again."""
    size = prod(shape)
    if size > LARGEST_KEPT:
        return np.empty(shape, dtype)
    arrays = _kept.__dict__.setdefault("scratch", {})
    flat = arrays.get((role, dtype))
    if flat is None or flat.size < size:
        flat = arrays[role, dtype] = np.empty(size, dtype)
    return flat[:size].reshape(shape)


class Geometry:
    """The sizes that all passes need, and the batch cut into blocks (by its sizes alone).

    `minicnn.inspect.memory` asks it too, what a convolution takes: it needs but the shapes and dtypes of the arrays.
    """

    def __init__(self, input, weight, stride, padding, dilation, groups):
        n, c, h, w = input.shape
        self.out_channels, _, self.kh, self.kw = weight.shape
        self.out = tuple(map(output_size, (h, w), weight.shape[2:], stride, padding, dilation))
        self.channels, self.groups, self.stride, self.padding, self.dilation = c, groups, stride, padding, dilation
        self.padded = (h + 2 * padding[0], w + 2 * padding[1])
        self.inside = (..., slice(padding[0], padding[0] + h), slice(padding[1], padding[1] + w))
        self.dtype = np.result_type(input, weight)
        fitting = COLUMNS_IN_A_BLOCK // max(c * self.kh * self.kw * prod(self.out), 1)
        length = max(min(fitting, -(-n // LEAST_BLOCKS)), 1)
        self.blocks = [slice(start, min(start + length, n)) for start in range(0, n, length)]

    def shape(self, role: str, images: int) -> tuple[int, ...]:
        """Of a scratch array for a block of so many images."""
        windows = images * prod(self.out)
        return {
            "padded": (images, self.channels, *self.padded),
            "columns": (self.groups, self.channels // self.groups * self.kh * self.kw, windows),
            "product": (self.groups, self.out_channels // self.groups, windows),
        }[role]

    def scratch(self, role: str, images: int) -> np.ndarray:
        return _scratch(role, self.shape(role, images), self.dtype)

    def columns(self, images: np.ndarray) -> np.ndarray:
        """im2col of a block (n, C, H, W) → (groups, C/groups·kh·kw, n·out_h·out_w)."""
        n, c = len(images), self.channels
        if self.padding != (0, 0):
            padded = self.scratch("padded", n)
            padded.fill(0)
            padded[self.inside] = images
            images = padded
        windows = sliding_windows(images, (self.kh, self.kw), self.stride, self.dilation)
        columns = self.scratch("columns", n)
        columns.reshape(c, self.kh, self.kw, n, *self.out)[...] = windows.transpose(1, 4, 5, 0, 2, 3)
        return columns

    def add_back(self, columns: np.ndarray, images: np.ndarray) -> None:
        """col2im of a block, into `images` (n, C, H, W)."""
        n, c = len(images), self.channels
        columns = columns.reshape(c, self.kh, self.kw, n, *self.out)
        padded = self.scratch("padded", n).reshape(c, n, *self.padded)
        padded.fill(0)
        (sh, sw), (dh, dw), (out_h, out_w) = self.stride, self.dilation, self.out
        for i in range(self.kh):
            for j in range(self.kw):
                rows = slice(i * dh, i * dh + sh * (out_h - 1) + 1, sh)
                padded[:, :, rows, j * dw : j * dw + sw * (out_w - 1) + 1 : sw] += columns[:, i, j]
        images[...] = padded[self.inside].transpose(1, 0, 2, 3)


def conv2d_forward(input, weight, bias, stride, padding, dilation, groups):
    g = Geometry(input, weight, stride, padding, dilation, groups)
    filters = weight.reshape(groups, g.out_channels // groups, -1)  # (groups, O/groups, K)
    output = np.empty((len(input), g.out_channels, *g.out), g.dtype)

    def work(block: slice) -> None:
        images = input[block]
        product = g.scratch("product", len(images))
        np.matmul(filters, g.columns(images), out=product)
        by_image = product.reshape(g.out_channels, len(images), *g.out).transpose(1, 0, 2, 3)
        if bias is None:
            output[block] = by_image
        else:
            np.add(by_image, bias.reshape(-1, 1, 1), out=output[block])

    run(work, g.blocks)
    return output, (input, weight)


def conv2d_backward(grad_output, saved, needs, stride, padding, dilation, groups):
    input, weight = saved
    g = Geometry(input, weight, stride, padding, dilation, groups)
    transposed = weight.reshape(groups, g.out_channels // groups, -1).transpose(0, 2, 1)  # (groups, K, O/groups)
    grad_input = np.empty(input.shape, input.dtype) if needs[0] else None
    of_weight: list = [None] * len(g.blocks)
    of_bias: list = [None] * len(g.blocks)

    def work(i: int) -> None:
        images, block = input[g.blocks[i]], grad_output[g.blocks[i]]
        grad = g.scratch("product", len(images))  # (groups, O/groups, P)
        grad.reshape(g.out_channels, len(images), *g.out)[...] = block.transpose(1, 0, 2, 3)
        if needs[1]:
            of_weight[i] = grad @ g.columns(images).transpose(0, 2, 1)
        if needs[2]:
            of_bias[i] = grad.sum(axis=2)
        if grad_input is not None:
            columns = g.scratch("columns", len(images))
            g.add_back(np.matmul(transposed, grad, out=columns), grad_input[g.blocks[i]])

    run(work, range(len(g.blocks)))
    grad_weight = _total(of_weight, weight) if needs[1] else None
    grad_bias = _total(of_bias, weight[:, 0, 0, 0]) if needs[2] else None
    return grad_input, grad_weight, grad_bias


def _total(parts: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """The parts added up in order, in the shape and dtype of `like`."""
    total = np.zeros(like.shape, like.dtype)
    for part in parts:
        total += part.reshape(like.shape)
    return total
