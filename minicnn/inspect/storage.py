"""What operations leave in memory: what they save for backward, and what their kernels need while they run.

Tables, held to what the kernels do by tests, and the arithmetic on them. `summary` and `memory` read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import threads
from ..engine import Node, Parameter, Tensor
from ..kernels.fast import activation as fast_activation
from ..kernels.fast import conv as fast_conv
from ..kernels.fast import layout as fast_layout
from ..kernels.fast import linear as fast_linear
from ..kernels.fast import norm as fast_norm
from ..kernels.fast import pool as fast_pool
from ..kernels.fast import scratch as fast_scratch

VIEWS = ("reshape", "permute")  # their output is their input's memory; so is getitem's, for a simple index

# What each operation's forward kernel saves for backward. "input", "other", "third" (inputs in this order) and "output"
# are arrays that exist anyway, counted once however many operations save them; "own" ones are made to be saved.
KEEPS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("add", "sub", "neg", "sum", "mean", "to_dtype", "to_device", *VIEWS), ()),
    **dict.fromkeys(("getitem", "cat", "pad", "avg_pool2d", "adaptive_avg_pool2d"), ()),
    **dict.fromkeys(("mul", "div", "pow", "matmul", "dropout"), ("input", "other")),
    **dict.fromkeys(("log", "abs", "leaky_relu", "elu", "silu", "softplus"), ("input",)),
    **dict.fromkeys(("exp", "sqrt", "relu", "sigmoid", "tanh", "softmax", "log_softmax"), ("output",)),
    **dict.fromkeys(("conv2d", "linear"), ("input", "other")),
    "clamp": ("input", "other", "third"),
    "amax": ("input", "output"),
    "var": ("own input",),  # centred
    "max_pool2d": ("own winners",),  # for each output the number of a window's entry
    "local_response_norm": ("input", "own input"),  # the scale
    **dict.fromkeys(("batch_norm", "batch_norm_eval"), ("input", "other")),
    "cross_entropy": ("own input",),  # log p
    "soft_cross_entropy": ("own input", "own input"),  # log p, and the smoothed target
    "nll_loss": ("input",),
    "mse_loss": ("own input",),  # the difference
}


def origin(node: Node, i: int) -> Any:
    """What input `i` was made by, or the leaf that it is."""
    return node.inputs[i]


def size_in_bytes(x: Node | Tensor) -> int:
    return math.prod(x.shape) * x.dtype.itemsize


def is_view(node: Node) -> bool:
    """Whether the output is the input's memory."""
    if node.op.name != "getitem":
        return node.op.name in VIEWS
    index = node.params["index"]
    return not any(hasattr(part, "dtype") for part in (index if isinstance(index, tuple) else (index,)))


def owner(source: Node | Tensor) -> Node | Tensor:
    """Whose memory `source` is: a view's is that of what it looks at, and that of what is done in place its input's."""
    while isinstance(source, Node) and (source.in_place or is_view(source)) and source.inputs[0] is not None:
        source = source.inputs[0]
    return source


def kept_for_backward(node: Node) -> Iterator[tuple[Any, int]]:
    """What `saved` finds, where a backward pass will come; nothing elsewhere."""
    return saved(node) if True in node.needs else iter(())


def saved(node: Node) -> Iterator[tuple[Any, int]]:
    """The arrays that the forward kernel of `node` saves, each as (a key, bytes); one saved twice has the same key.

    The key of an array that exists anyway is who made it, the operation or the leaf; that of one made to be saved is a
    tuple. Parameters are left out.
    """
    for i, what in enumerate(KEEPS[node.op.name]):
        if what == "own winners":
            yield (node, i), math.prod(node.shape) * fast_pool.winner_dtype(node.params["kernel_size"]).itemsize
        elif what == "own input":
            yield (node, i), math.prod(origin(node, 0).shape) * node.dtype.itemsize
        else:
            source = node if what == "output" else origin(node, ("input", "other", "third").index(what))
            if source is not None and not isinstance(source, Parameter):
                yield owner(source), size_in_bytes(owner(source))


# ----------------------------------------------------------------------------------------- how results lie in memory

# Operations whose result lies as its input does, or as the first input of its shape.
FOLLOWERS = (
    "relu", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "softplus", "add", "sub", "mul", "div", "neg", "exp", "log",
    "sqrt", "abs", "pow", "clamp", "batch_norm", "batch_norm_eval", "max_pool2d", "avg_pool2d",
)  # fmt: skip


def images_last(source: Node | Tensor | None) -> bool:
    """Whether the images of an operation's output, or of a leaf, are the last axis in memory (`fast.layout`)."""
    while isinstance(source, Node) and source.op.name in FOLLOWERS:
        given = [x for x in source.inputs if x is not None]
        source = next((x for x in given if x.shape == source.shape), given[0])
    if isinstance(source, Node):
        return source.op.name == "conv2d" and _convolution(source).images_last
    return source is not None and fast_layout.lie_last(source.data)


def _sizes(conv: Node) -> tuple[tuple[int, ...], tuple[int, ...], np.dtype]:
    images, weight = origin(conv, 0), origin(conv, 1)
    return images.shape, weight.shape, np.result_type(images.dtype, weight.dtype)


def _convolution(conv: Node) -> Any:
    """What carries it out."""
    return fast_conv.plan(*_sizes(conv), **conv.params)


# -------------------------------------------------------------------------------------------- what kernels need
# Beside their inputs and what they return. All of it is gone when they return, but for scratch arrays.

Units = tuple[float, float]  # multiples of the bytes of the (first) input, and of the output

# Forward and backward of each operation: the arrays that exist at the fullest moment beside inputs, output and what is
# saved, or, backward, beside what arrived, was saved, and is returned. A mask of booleans is a quarter of a float32
# array. NumPy reuses the memory of an unnamed intermediate result of the same shape where it can, as in `g * (y * y)`.
# Operations that are neither here nor in `TELLERS` need nothing, or less than a hundredth of their input.
TEMPORARIES: dict[str, tuple[Units, Units]] = {
    "div": ((0, 0), (0, 1)),  # g·(a / b) before it is divided once more
    "pow": ((0, 0), (0, 1)),  # the slope
    "sqrt": ((0, 0), (0, 1)),  # 2y
    "abs": ((0, 0), (0, 1.5)),  # −g or 0, and two masks
    "clamp": ((0, 1), (0, 0.25)),  # clamped from below only; where it passes
    "var": ((1, 0), (1, 0)),  # squares; 2g times the centred input
    "amax": ((0, 0), (1.25, 0)),  # winners among ones, and the mask of where they are
    "linear": ((0, 1), (0, 0)),  # the product, before the bias is added
    "elu": ((0, 1.25), (0, 1.25)),
    "silu": ((0, 2.25), (0, 2.25)),  # the sigmoid and the parts it is made of
    "softplus": ((0, 3.25), (0, 3.5)),
    "softmax": ((0, 1), (0, 0)),  # the exponentials
    "log_softmax": ((0, 1), (0, 2)),  # the exponentials; probabilities, and times the sum
    "dropout": ((0, 0.25), (0, 0)),  # the mask as booleans
    "cross_entropy": ((1, 0), (2, 0)),  # the exponentials; the target, and the probabilities times its sum
    "soft_cross_entropy": ((1, 0), (2, 0)),
    "nll_loss": ((0, 0), (0.25, 0)),  # where the target is
    "mse_loss": ((1, 0), (0, 0)),  # the squares
}


def temporaries(node: Node, backward: bool) -> int:
    """Bytes that the kernel needs at its fullest moment beside inputs, saved arrays and results."""
    name, output, input = node.op.name, size_in_bytes(node), size_in_bytes(origin(node, 0))
    if name.startswith("batch_norm") and len(node.shape) == 2:  # copies by channels: of the input, and of what is made
        return (2 + (backward and node.needs[0])) * input
    if name in ("conv2d", *TELLERS):
        return scratch(node, backward)[1]
    if name == "adaptive_avg_pool2d":  # the means of rows, of every column, but for whole planes and few bins
        n, c, out_h, out_w = node.shape
        height, width = origin(node, 0).shape[2:]
        if (out_h, out_w) == (height, width) or 0 < out_h * out_w <= fast_pool.MOST_BINS:
            return 0
        return n * c * out_h * width * node.dtype.itemsize
    if name == "linear" and _is_divided(node):  # blocks are multiplied by a copy of the input, turned about
        (outs, ins), images = origin(node, 1).shape, math.prod(node.shape[:-1])
        blockwise = fast_linear.blocks(outs, ins, images) is not None
        return input if blockwise and not backward else 0
    if name == "linear" and node.inputs[2] is None:
        return 0
    of_input, of_output = TEMPORARIES.get(name, ((0, 0), (0, 0)))[backward]
    return round(of_input * input + of_output * output)


def _is_divided(linear: Node) -> bool:
    """Whether its weight is worth dividing among threads."""
    weight = origin(linear, 1)
    return len(weight.shape) == 2 and math.prod(weight.shape) >= fast_linear.LEAST


# Who tells the scratch arrays of an operation that goes through its arrays piece by piece.
TELLERS: dict[str, Callable[..., Iterator[fast_scratch.Asked]]] = {
    "relu": fast_activation.relu_scratch,
    "leaky_relu": fast_activation.leaky_relu_scratch,
    "sigmoid": fast_activation.sigmoid_scratch,
    "batch_norm": fast_norm.batch_norm_scratch,
    "batch_norm_eval": fast_norm.batch_norm_scratch,
    "local_response_norm": fast_norm.local_response_norm_scratch,
    "max_pool2d": fast_pool.max_pool2d_scratch,
    "avg_pool2d": fast_pool.avg_pool2d_scratch,
}


def scratch(node: Node, backward: bool) -> tuple[dict[tuple[int, str, Any], int], int]:
    """Bytes of the scratch arrays that stay for the next operation, by thread, role and dtype, and bytes of what is
    gone when the kernel returns."""
    workers = threads.get_num_threads() if threads.hold_blas() else 1
    others, found, sizes = 0, list[tuple[int, str, Any, int]](), dict[tuple[int, str, Any], int]()
    if node.op.name == "conv2d":
        arguments, ordered = _sizes(node), images_last(origin(node, 0))
        dtype, passes = arguments[2], [(_convolution(node), node.needs)]
        if backward:
            passes = fast_conv.plan_of_gradients(node.needs, *arguments, **node.params)
        for algorithm, needs in passes:
            arrays, more = algorithm.scratch(backward, needs, workers, ordered)
            others = max(others, more * dtype.itemsize)
            found += [(thread, role, dtype, numbers) for thread, role, numbers in arrays]
    else:
        for role, of_role, numbers, parts in _asked(node, backward):
            found += [(thread, role, np.dtype(of_role), numbers) for thread in range(min(workers, parts))]
    for thread, role, dtype, numbers in found:
        key = thread, role, dtype
        sizes[key] = max(sizes.get(key, 0), numbers * dtype.itemsize)
    kept = {key: size for key, size in sizes.items() if size <= fast_scratch.LARGEST_KEPT}
    return kept, sum(sizes.values()) - sum(kept.values()) + others


def _asked(node: Node, backward: bool) -> Iterator[fast_scratch.Asked]:
    if node.in_place or (backward and True not in node.needs):
        return
    input = origin(node, 0)
    if node.op.name == "linear" and _is_divided(node):
        (outs, ins), images = origin(node, 1).shape, math.prod(node.shape[:-1])
        yield from fast_linear.linear_scratch(outs, ins, images, node.dtype, node.needs, backward)
    elif node.op.name in TELLERS and 0 not in input.shape:
        tell = TELLERS[node.op.name]
        yield from tell(input.shape, node.dtype, images_last(input), node.needs, backward, **node.params)
