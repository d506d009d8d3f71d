"""`detect_anomaly`: stop at the first operation, forward or backward, that makes a NaN or an infinity."""

from __future__ import annotations

import linecache
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from .. import backend
from ..backend import Array
from ..engine import Node, Step, Tensor, observe
from .explain import argument_names
from .statistics import in_words, statistics

PACKAGE = Path(__file__).parents[1]


class AnomalyError(ArithmeticError):
    """An operation made a NaN or an infinity.

    Attributes:
        node: the operation; ``node.path`` is its layer.
        direction: ``"forward"`` or ``"backward"``.
        line: where the operation was called, ``"net.py, line 12, in forward: h = x.log()"``; may be empty.
    """

    def __init__(self, message: str, node: Node, direction: str, line: str):
        super().__init__(message)
        self.node, self.direction, self.line = node, direction, line


class _Detector:
    """An observer that remembers the line that called each operation, and looks at what comes out of it."""

    def __init__(self) -> None:
        self.lines: WeakKeyDictionary[Node, str] = WeakKeyDictionary()
        self.outputs: WeakKeyDictionary[Node, Array] = WeakKeyDictionary()

    def forward(self, node: Node, output: Array) -> None:
        self.lines[node], self.outputs[node] = _users_line(), output
        if is_finite(output):
            return
        inputs = self._inputs(node)
        guilty = [f"its {name} held {_what(value)}" for name, value in inputs if not is_finite(value)]
        because = f", because {' and '.join(guilty)}" if guilty else ""
        message = [f"{node.label} made {_what(output)} on the way forward{because}", *self._where(node)]
        message += [f"  {name}: {in_words(value)}" for name, value in inputs]
        raise AnomalyError("\n".join([*message, f"  output: {statistics(output)}"]), node, "forward", self.lines[node])

    def backward(self, step: Step) -> None:
        node = step.node
        names = argument_names(node)
        bad = [(n, g) for n, g in zip(names, step.grad_inputs, strict=True) if g is not None and not is_finite(g)]
        if is_finite(step.grad_output) and not bad:
            return
        if not is_finite(step.grad_output):  # given to backward(), or the sum of finite gradients
            message = [f"{node.label}: the gradient that arrived holds {_what(step.grad_output)}", *self._where(node)]
        else:
            gradients = " and ".join(f"∂{name}" for name, _ in bad)
            message = [f"{node.label} made {_what(bad[0][1])} on the way backward, in {gradients}", *self._where(node)]
        message += [f"  {name}: {in_words(value)}" for name, value in self._inputs(node)]
        message.append(f"  gradient that arrived: {in_words(step.grad_output)}")
        message += [f"  ∂{name}: {statistics(grad)}" for name, grad in bad]
        raise AnomalyError("\n".join(message), node, "backward", self.lines.get(node, ""))

    def _where(self, node: Node) -> list[str]:
        line = self.lines.get(node)
        if line is None:
            return ["  (the forward pass ran outside of detect_anomaly(): inside, the line that called it is known)"]
        return [f"  called at {line}"] if line else []

    def _inputs(self, node: Node) -> list[tuple[str, Array]]:
        """The inputs' values, as far as they are known: what ran outside of the context is not."""
        found = []
        for name, source in zip(argument_names(node), node.inputs, strict=True):
            value = source.data if isinstance(source, Tensor) else self.outputs.get(source) if source else None
            if value is not None:
                found.append((name, value))
        return found


def detect_anomaly() -> AbstractContextManager[None]:
    """Inside ``with detect_anomaly():`` the first operation that makes a NaN or an infinity stops the program.

    Forward and backward passes are watched. The error names the operation, its layer, the line of the user's program
    that called it (the forward pass must run inside too) and the statistics of what went in. All values are looked at
    and kept, which costs time and memory: for finding an error, not for training.

    Raises:
        AnomalyError: on leaving the operation.
    """
    return observe(_Detector())


def is_finite(array: Array) -> bool:
    """Whether all its entries are; on a device this waits."""
    with backend.beside(array):
        return bool(backend.array_module(array).isfinite(array).all())


def _what(array: Array) -> str:
    found = statistics(array)
    return " and ".join(
        f"{count:,} {name}" for count, name in ((found.nan, "NaN"), (found.infinite, "infinite")) if count
    ) + f" of {array.size:,} numbers"


def _users_line() -> str:
    """The innermost line on the stack that is not minicnn's own."""
    frame: Any = sys._getframe(2)
    while frame is not None and PACKAGE in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    if frame is None:
        return ""
    name, number = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(name, number, frame.f_globals).strip()
    file = "the notebook's cell" if "ipykernel" in name or name.startswith("<ipython-input") else Path(name).name
    return f"{file}, line {number}, in {frame.f_code.co_name}" + (f": {code}" if code else "")
