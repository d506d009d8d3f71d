"""What operations leave in memory: what they save for backward, and what their kernels need while they run.

Two tables, held to what the kernels do by tests, and the arithmetic on them. `summary` and `memory` read it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import threads
from ..engine import Node, Parameter, Tensor
from ..kernels.fast import conv as fast_conv

INDEX = np.dtype(np.intp).itemsize
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
    "max_pool2d": ("own winners",),  # an index for each output
    "local_response_norm": ("input", "own input"),  # the scale
    "batch_norm": ("own input", "other"),  # normalised
    "batch_norm_eval": ("own input", "other"),
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
    """Whose memory `source` is: a view's is that of what it looks at."""
    while isinstance(source, Node) and is_view(source) and source.inputs[0] is not None:
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
            yield (node, i), math.prod(node.shape) * INDEX
        elif what == "own input":
            yield (node, i), math.prod(origin(node, 0).shape) * node.dtype.itemsize
        else:
            source = node if what == "output" else origin(node, ("input", "other", "third").index(what))
            if source is not None and not isinstance(source, Parameter):
                yield owner(source), size_in_bytes(owner(source))


# -------------------------------------------------------------------------------------------- what kernels need
# Beside their inputs and what they return. All of it is gone when they return, but for the convolution's scratch.

Units = tuple[float, float]  # multiples of the bytes of the (first) input, and of the output

# Forward and backward of each operation: the arrays that exist at the fullest moment beside inputs, output and what is
# saved, or, backward, beside what arrived, was saved, and is returned. A mask of booleans is a quarter of a float32
# array. NumPy reuses the memory of an unnamed intermediate result of the same shape where it can, as in `g * (y * y)`.
# Operations that are not here need nothing, or less than a hundredth of their input.
TEMPORARIES: dict[str, tuple[Units, Units]] = {
    "div": ((0, 0), (0, 1)),  # g·(a / b) before it is divided once more
    "pow": ((0, 0), (0, 1)),  # the slope
    "sqrt": ((0, 0), (0, 1)),  # 2y
    "abs": ((0, 0), (0, 1.5)),  # −g or 0, and two masks
    "clamp": ((0, 1), (0, 0.25)),  # clamped from below only; where it passes
    "var": ((1, 0), (1, 0)),  # squares; 2g times the centred input
    "amax": ((0, 0), (1.25, 0)),  # winners among ones, and the mask of where they are
    "linear": ((0, 1), (0, 0)),  # the product, before the bias is added
    "local_response_norm": ((0, 0), (0, 3)),  # damped, the sum over neighbours, and what it is subtracted from
    "batch_norm": ((2, 0), (2, 0)),  # centred, and scaled but not shifted; the way through the variance, and the rest
    "batch_norm_eval": ((1, 0), (1, 0)),  # scaled but not shifted; g·x̂
    "relu": ((0, 0), (0, 0.25)),  # the gate
    "leaky_relu": ((0, 1.25), (0, 1.25)),  # both branches are computed everywhere, and a mask chooses
    "elu": ((0, 1.25), (0, 1.25)),
    "silu": ((0, 2.25), (0, 2.25)),  # the sigmoid and the parts it is made of
    "softplus": ((0, 3.25), (0, 3.5)),
    "sigmoid": ((0, 2.25), (0, 0)),
    "tanh": ((0, 0), (0, 1)),  # y²
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
    if name == "conv2d":
        return convolution(node).temporary(backward)
    if name == "max_pool2d":
        entries = math.prod(node.shape)
        if backward:  # where the tap won, and what it gets
            return output + entries
        windows = math.prod(node.params["kernel_size"]) * output
        # All windows side by side; winners before those of windows full of −∞ are put right, and where such are.
        return windows + INDEX * entries + entries
    if name == "avg_pool2d":
        return output if backward else output + (padded_size(node) if _is_padded(node) else 0)  # the share; the sum
    if name == "adaptive_avg_pool2d":  # the means of rows, of every column
        n, c, out_h, _ = node.shape
        return n * c * out_h * origin(node, 0).shape[3] * node.dtype.itemsize
    if name == "linear" and node.inputs[2] is None:
        return 0
    of_input, of_output = TEMPORARIES.get(name, ((0, 0), (0, 0)))[backward]
    return round(of_input * input + of_output * output)


def _is_padded(node: Node) -> bool:
    return tuple(node.params["padding"]) != (0, 0)


def padded_size(node: Node) -> int:
    """Bytes of a pooling's input with its padding: of such an array the gradient is a part."""
    n, c, h, w = origin(node, 0).shape
    ph, pw = node.params["padding"]
    return n * c * (h + 2 * ph) * (w + 2 * pw) * node.dtype.itemsize


@dataclass(frozen=True)
class Convolution:
    """What the blocks of `kernels.fast.conv` take: scratch arrays, one set a thread, and partial sums, one a block."""

    geometry: fast_conv.Geometry
    padding: bool
    weight: int  # bytes
    needs: tuple[bool, ...]

    @property
    def threads(self) -> int:
        return min(threads.get_num_threads() if threads.hold_blas() else 1, len(self.geometry.blocks))

    def roles(self, backward: bool) -> list[str]:
        """The scratch arrays that a pass uses."""
        padded = (self.padding and (self.needs[1] or not backward)) or (backward and self.needs[0])
        columns = not backward or self.needs[0] or self.needs[1]
        return ["product", *["columns"] * columns, *["padded"] * padded]

    def numbers(self, role: str) -> int:
        images = self.geometry.blocks[0]  # no block is larger
        return math.prod(self.geometry.shape(role, images.stop - images.start))

    def temporary(self, backward: bool) -> int:
        if not self.geometry.blocks:
            return 0
        numbers = map(self.numbers, self.roles(backward))
        scratch = self.threads * sum(n for n in numbers if n > fast_conv.LARGEST_KEPT) * self.geometry.dtype.itemsize
        if not backward or not self.needs[1]:
            return scratch
        # A gradient of the weight for each block. When they are added up the scratch is gone; before, the sum is not.
        return len(self.geometry.blocks) * self.weight + max(scratch - self.weight, 0)


def convolution(node: Node) -> Convolution:
    """How the kernel will cut the convolution up."""
    sources = [origin(node, i) for i in (0, 1)]
    input, weight = (np.broadcast_to(np.zeros((), s.dtype), s.shape) for s in sources)
    geometry = fast_conv.Geometry(input, weight, **node.params)
    return Convolution(geometry, _is_padded(node), size_in_bytes(sources[1]), node.needs)
