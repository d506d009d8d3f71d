"""Walks through a computation, step by step: backward, which is `minicnn.backward_steps`, and forward."""

from __future__ import annotations

import difflib
import html
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np

from .. import backend
from ..backend import Array
from ..engine import Node, Parameter, Step, Tensor, backward_steps, recompute
from ..nn import Module
from .explain import argument_names
from .statistics import in_words, statistics
from .steps import BackwardStep, ForwardStep, Gradient, Input, Moment, kept_by, same

BARS = " ▁▂▃▄▅▆▇█"

S = TypeVar("S", ForwardStep, BackwardStep)


class Walk(Generic[S]):
    """Steps to go through, on and back. They are made as the walk reaches them, and kept.

    It is a sequence: ``len(walk)``, ``walk[3]``, ``for step in walk`` (which does not move it).

    Attributes:
        position: where the walk stands, −1 before its first step.
    """

    def __init__(self, steps: Iterator[S], count: int):
        self._coming: Iterator[S] = steps
        self._count = count
        self._made: list[S] = []
        self._failure: Exception | None = None  # what ended the making of steps before its time
        self.position = -1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> S: ...
    @overload
    def __getitem__(self, index: slice) -> list[S]: ...
    def __getitem__(self, index: int | slice) -> S | list[S]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"step {index}: the walk has {len(self)} steps, 0 to {len(self) - 1}")
        while len(self._made) <= place:
            if self._failure is not None:
                raise self._failure
            try:
                self._made.append(next(self._coming))
            except Exception as error:  # a wrong backward pass, say: the steps before it stay
                self._failure = error
                raise
        return self._made[place]

    def __iter__(self) -> Iterator[S]:
        return (self[i] for i in range(len(self)))

    @property
    def current(self) -> S | None:
        """The step at which the walk stands; None before the first."""
        return self[self.position] if self.position >= 0 else None

    def next(self) -> S | None:
        """Go one step on and return it; None, and no move, at the last."""
        if self.position + 1 == len(self):
            return None
        step = self[self.position + 1]
        self.position = step.index
        return step

    def back(self) -> S | None:
        """Go one step back and return it; None at the first, where the walk begins anew."""
        self.position = max(self.position - 1, -1)
        return self.current

    def goto(self, where: int | str) -> S:
        """Go to a step and return it.

        Args:
            where: its number from 0; or a layer (``"conv2"``, ``"features.3"``), an operation (``"max_pool2d"``), or
                both (``"conv2d in conv2"``), of which the first in this walk is taken.

        Raises:
            IndexError, ValueError: there is none; the message has the names that are nearest.
        """
        if not len(self):
            raise ValueError("goto: this walk has no steps, because no operation made what it is of")
        if hasattr(where, "__index__"):  # an int, NumPy's too
            step = self[operator.index(where)]
        elif not isinstance(where, str):
            raise TypeError(f"goto: {where!r} is neither a step's number nor the name of a layer or an operation")
        else:
            found = next((i for i, s in enumerate(self) if _is_at(s, where)), None)
            if found is None:
                names = sorted({name for s in self for name in (s.path, s.op.name) if name})
                near = difflib.get_close_matches(where, names, 3, 0.5) or names[:8]
                raise ValueError(f"goto: no step is at {where!r}. There are {', '.join(near)}")
            step = self[found]
        self.position = step.index
        return step

    def until(self, condition: Callable[[S], Any]) -> S | None:
        """Go on to the next step for which `condition` holds and return it; to the end and None where there is none."""
        while (step := self.next()) is not None:
            if condition(step):
                return step
        return None

    def run(self) -> S:
        """Go to the last step and return it."""
        return self.goto(len(self) - 1)

    def __str__(self) -> str:
        lines = [f"{'▶' if i == self.position else ' '} {line}" for i, line in enumerate(self._lines())]
        if self._failure is not None:
            lines.append(f"  ✗ {self._failure}")
        elif left := len(self) - len(self._made):
            lines.append(f"  … {left} more steps")
        return "\n".join(lines)

    __repr__ = __str__

    def _lines(self) -> list[str]:
        """The steps made so far, a line each; the bars show the arrays' norms on a logarithmic scale."""
        arrays = [s.grad_output if isinstance(s, BackwardStep) else s.output for s in self._made]
        norms = [statistics(array).norm for array in arrays]
        width = max((len(s.label) for s in self._made), default=0)
        what = "gradient" if any(isinstance(s, BackwardStep) for s in self._made) else "output"
        return [
            f"{s.index + 1:4}  {s.label.ljust(width)}  |{what}| {norm:9.3e} {bar}"
            for s, norm, bar in zip(self._made, norms, _bars(norms), strict=True)
        ]

    def _repr_html_(self) -> str | None:
        return f"<pre>{html.escape(str(self))}</pre>"


class BackwardWalk(Walk[BackwardStep]):
    """The walk backward from `out`, and with it the walk forward.

    Attributes:
        out: what is differentiated.
        forward: the walk through the same operations in the order they ran.
    """

    def __init__(self, out: Tensor, gradient: Any = None, names: Mapping[str, Tensor] | None = None):
        self.out = out
        self._values: dict[Node, Array] = {}
        self._leaves: dict[Tensor, Array] = {}  # copies: an optimiser may write into the leaves
        self._names = _Names(names or {})
        steps = backward_steps(out, gradient)  # says what is wrong with its arguments
        nodes = reachable(out.node) if out.node is not None else []
        forward = list(self._forward(nodes))
        if forward and not _about_equal(forward[-1].output, out.data):
            raise RuntimeError(
                f"debug: {forward[-1].label} was {in_words(out.data)}, and computed again it is "
                f"{in_words(forward[-1].output)}, because something it was made from has changed since. Call debug "
                "before the optimiser's step, or run the forward pass inside minicnn.inspect.record()"
            )
        super().__init__(self._backward(steps, {step.node: step for step in forward}), len(nodes))
        self.forward: Walk[ForwardStep] = Walk(iter(forward), len(nodes))

    def _forward(self, nodes: Sequence[Node]) -> Iterator[ForwardStep]:
        numbers = {node: index for index, node in enumerate(nodes)}
        for node, index in numbers.items():
            inputs = []
            for i, (name, source) in enumerate(zip(argument_names(node), node.inputs, strict=True)):
                if source is None:
                    continue
                if isinstance(source, Node):
                    value, made_by = recompute(source, self._values), numbers[source]
                else:
                    value, made_by = self._leaves.setdefault(source, backend.copy(source.data)), None
                is_parameter = isinstance(source, Parameter)
                inputs.append(Input(name, value, self._names.of(node, i), node.needs[i], made_by, is_parameter))
            output = recompute(node, self._values)
            yield ForwardStep(index, len(nodes), node, tuple(inputs), output, kept_by(node, inputs, output))

    def _backward(self, steps: Iterator[Step], forward: Mapping[Node, ForwardStep]) -> Iterator[BackwardStep]:
        arrived: set[Node | Tensor] = set()
        for index, step in enumerate(steps):
            node, gradients = step.node, []
            for i, (name, grad) in enumerate(zip(argument_names(node), step.grad_inputs, strict=True)):
                source = node.inputs[i]
                if isinstance(source, Tensor) and not same(source.data, self._leaves[source]):
                    raise RuntimeError(
                        f"debug: {self._names.of(node, i)} has changed since debug() was called, so what is left would "
                        "be wrong. Finish the walk, with run(), before the optimiser's step"
                    )
                if grad is None or source is None:
                    continue
                added = source in arrived or (isinstance(source, Tensor) and source.grad is not None)
                arrived.add(source)
                to = self._names.of(node, i)
                gradients.append(Gradient(name, grad, to if isinstance(source, Node) else f"{to}.grad", added))
            there = forward[node]
            yield BackwardStep(
                index, len(forward), node, there.inputs, there.output, there.kept, step.grad_output, step.grad_inputs,
                tuple(gradients),
            )  # fmt: skip


def reachable(root: Node) -> list[Node]:
    """The operations that `root` was made by, itself included, in the order they ran.

    Raises:
        RuntimeError: a backward pass freed the graph, or a part of it.
    """
    seen: set[Node] = set()
    todo = [root]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        if node.freed:
            raise RuntimeError(
                f"what {node.label} was made from was freed by a backward pass. Look at the graph before it, or keep "
                "it with backward(retain_graph=True)"
            )
        seen.add(node)
        todo += [source for source in node.inputs if isinstance(source, Node)]
    return sorted(seen, key=lambda node: node.sequence)


class _Names:
    """What the inputs of operations are called."""

    def __init__(self, given: Mapping[str, Tensor]):
        self._given = {id(t): name for name, t in given.items()}
        self._parameters: dict[Module, dict[int, str]] = {}

    def of(self, node: Node, i: int) -> str:
        source = node.inputs[i]
        if isinstance(source, Node):
            return source.label
        if id(source) in self._given:
            return self._given[id(source)]
        if node.scope:
            model = node.scope[0]
            if model not in self._parameters:
                self._parameters[model] = {
                    id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())
                }
            if id(source) in self._parameters[model]:
                return self._parameters[model][id(source)]
        if node.op.name == "dropout":
            return "the mask drawn"
        if source is not None and source.size == 1 and not source.requires_grad:
            return "a constant"
        return "input"


def _about_equal(a: Array, b: Array) -> bool:
    """Up to rounding: without threadpoolctl a BLAS with threads of its own may not give the same bits twice."""
    tolerance = 64 * float(np.finfo(a.dtype).eps)
    return np.allclose(backend.to_host(a), backend.to_host(b), rtol=tolerance, atol=tolerance, equal_nan=True)


def _is_at(step: Moment, where: str) -> bool:
    return where in (step.path, step.op.name, step.label) or step.path.startswith(f"{where}.")


def _bars(norms: Sequence[float]) -> list[str]:
    """A bar for each number, its height the number's logarithm between the smallest and the largest."""
    logs = [math.log10(x) if 0 < x < math.inf else math.nan for x in norms]
    known = [x for x in logs if not math.isnan(x)]
    low, high = min(known, default=0), max(known, default=0)
    span = max(high - low, 1.0)  # less than a factor of ten is no drama
    return [BARS[0] if math.isnan(x) else BARS[1 + round((x - high + span) / span * 7)] for x in logs]
