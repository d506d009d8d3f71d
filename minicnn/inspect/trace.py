"""One forward pass without arithmetic: which operations run, in which layers, on which shapes.

Everything here follows from shapes. `summary`, the memory ledger and the facts read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Node, Tensor, dry_run, observe
from .storage import origin


@dataclass(frozen=True)
class Trace:
    """What a forward pass would do.

    Attributes:
        nodes: the operations in the order they run, with `no_grad` or without. An input that an operation made is that
            operation's node; all others are leaves.
        inputs: the network's inputs, as leaves.
        output: what the network returned (shapes and dtypes only).
    """

    nodes: list[Node]
    inputs: list[Tensor]
    output: Any
    listing: Listing

    def maker(self, tensor: Tensor) -> Node | Tensor:
        """The operation that made `tensor`, or the tensor itself."""
        return self.listing.maker(tensor)


class Listing:
    """Takes the operations down; where the engine remembers no history (`no_grad`, frozen weights), the arrays do."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.made: dict[int, tuple[Node, Any]] = {}  # by an array's id, which is its own while it is kept

    def forward(self, node: Node, output: Any) -> None:
        node.inputs = tuple(self.maker(x) if isinstance(x, Tensor) else x for x in node.inputs)
        self.nodes.append(node)
        self.made[id(output)] = node, output

    def maker(self, tensor: Tensor) -> Node | Tensor:
        return self.made.get(id(tensor.data), (tensor,))[0]


def shapes_of(input_shape: Any) -> list[tuple[int, ...]]:
    """One shape, or several: ``(1, 3, 32, 32)`` or ``[(1, 3, 32, 32), (1, 10)]``.

    Raises:
        ValueError: it is neither.
    """
    is_list = isinstance(input_shape, Sequence) and not isinstance(input_shape, str | bytes)
    several = is_list and len(input_shape) > 0 and all(isinstance(s, tuple | list) for s in input_shape)
    shapes = (list(input_shape) if several else [input_shape]) if is_list else []
    numbers = [n for shape in shapes for n in shape]
    if not shapes or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise ValueError(
            f"input_shape is {input_shape!r:.80}, and must be a shape of whole numbers that are not negative, as "
            "(1, 3, 32, 32), or a list of such shapes"
        )
    return [tuple(map(int, shape)) for shape in shapes]


def trace(model: Any, *input_shapes: tuple[int, ...], dtype: Any = "float32") -> Trace:
    """Run `model` (in the mode that it is in) on inputs of these shapes, computing shapes only.

    Raises:
        ValueError: shapes that the network cannot take, as its layers say.
    """
    inputs = [Tensor._of(np.broadcast_to(np.zeros((), dtype=dtype), shape)) for shape in input_shapes]
    listing = Listing()
    with dry_run(), observe(listing):
        output = model(*inputs)
    return Trace(listing.nodes, inputs, output, listing)


def multiply_adds(node: Node) -> int:
    """Products of a convolution, a fully connected layer or a matrix product, each with its addition; else 0.

    Biases, normalisation, activations and pooling are not counted, which is the papers' convention.
    """
    if node.op.name in ("conv2d", "linear"):
        return math.prod(node.shape) * math.prod(origin(node, 1).shape[1:] or origin(node, 1).shape)
    if node.op.name == "matmul":
        return math.prod(node.shape) * origin(node, 0).shape[-1]
    return 0


@dataclass(frozen=True)
class Field:
    """The part of the input that one entry depends on, height and width, and how far it moves for the next entry."""

    size: tuple[int, int] = (1, 1)
    jump: tuple[int, int] = (1, 1)

    def through(self, kernel: Any, stride: Any, dilation: Any = (1, 1)) -> Field:
        """The field behind a window over entries with this one."""
        grown = (s + (k - 1) * d * j for s, k, d, j in zip(self.size, kernel, dilation, self.jump, strict=True))
        jumps = (j * s for j, s in zip(self.jump, stride, strict=True))
        return Field(tuple(grown), tuple(jumps))


def receptive_fields(trace: Trace) -> dict[Node, Field | None]:
    """For each operation the receptive field of its output's entries, not cut at borders; None: all of the input."""
    fields: dict[Any, Field | None] = {x: Field() for x in trace.inputs}
    found: dict[Node, Field | None] = {}
    for node in trace.nodes:
        before = [fields[s] for s in node.inputs if s in fields]
        known = [f for f in before if f is not None]
        if not before:
            continue
        field = max(known, key=lambda f: f.size) if len(known) == len(before) else None
        params = node.params
        if field is not None and node.op.name == "conv2d":
            field = field.through(origin(node, 1).shape[2:], params["stride"], params["dilation"])
        elif field is not None and node.op.name in ("max_pool2d", "avg_pool2d"):
            field = field.through(params["kernel_size"], params["stride"], params.get("dilation", (1, 1)))
        elif node.op.name in ("linear", "matmul", "adaptive_avg_pool2d", "sum", "mean"):
            field = None
        fields[node] = found[node] = field
    return found
