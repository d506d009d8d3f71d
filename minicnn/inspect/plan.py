"""Which algorithm each convolution of a network takes on the CPU, and why: what each would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..engine import no_grad
from ..kernels.fast import conv
from ..nn import Module
from . import table
from .storage import origin
from .summary import by_call
from .trace import multiply_adds, shapes_of, trace


@dataclass(frozen=True)
class Row:
    """One convolution of a forward pass.

    Attributes:
        path: of its layer.
        input, weight: their shapes.
        multiply_adds: of the convolution as it is defined.
        algorithm: ``"im2col"`` or ``"winograd"``; a gradient may be made by the other.
        estimates: of the forward pass by each algorithm that can do it, milliseconds on one core of about 100 thousand
            million operations a second. They are for choosing between algorithms, and say little about this computer.
    """

    path: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    multiply_adds: int
    algorithm: str
    estimates: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """The convolutions of a network in the order they run; prints as a table."""

    network: str
    input_shape: tuple[Any, ...]
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts."""
        return asdict(self)

    def _table(self) -> tuple[str, Sequence[str], list[Sequence[str]]]:
        times = [f"{name}, ms" for name in conv.ALGORITHMS]
        columns = ("layer", "algorithm", "input", "weight", "multiply-adds", *times)
        rows: list[Sequence[str]] = [
            (
                row.path, row.algorithm, table.dimensions(row.input), table.dimensions(row.weight),
                f"{row.multiply_adds:,}",
                *(f"{row.estimates[name]:,.2f}" if name in row.estimates else "" for name in conv.ALGORITHMS),
            )
            for row in self.rows
        ]  # fmt: skip
        return f"{self.network}, input {table.shape(self.input_shape)}: convolutions on the CPU", columns, rows

    def __str__(self) -> str:
        return table.as_text(*self._table(), words=2)

    __repr__ = __str__  # at a prompt, and in a notebook that shows no HTML

    def _repr_html_(self) -> str:
        return table.as_html(*self._table())


def plan(model: Module, input_shape: Sequence[Any]) -> Plan:
    """Which algorithm the fast kernels take for each convolution of `model` forward; backward may take another where
    maps or channels are few. Nothing is computed but shapes.

    ``minicnn.use_kernels("fast", convolution="im2col")`` forces one.

    Args:
        model: any module whose operations are minicnn's.
        input_shape: of the input (the batch first), or a list of shapes for several.

    Raises:
        ValueError: shapes that the network cannot take, as its layers say.
    """
    shapes = shapes_of(input_shape)
    with no_grad():
        traced = trace(model, *shapes)
    rows = []
    for call in by_call(traced.nodes):
        for node in (node for node in call if node.op.name == "conv2d"):
            input, weight = origin(node, 0), origin(node, 1)
            arguments = (input.shape, weight.shape, np.result_type(input.dtype, weight.dtype))
            chosen = conv.plan(*arguments, **node.params)
            able = conv.algorithms(*arguments, **node.params)
            estimates = {name: algorithm.cost() / 1e6 for name, algorithm in able.items()}
            rows.append(Row(node.path, input.shape, weight.shape, multiply_adds(node), chosen.name, estimates))
    name = getattr(model, "architecture", type(model).__name__)
    return Plan(name, tuple(shapes) if len(shapes) > 1 else shapes[0], tuple(rows))
