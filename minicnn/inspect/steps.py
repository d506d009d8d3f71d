"""The steps of a walk through a computation: what an operation was given, what it made, and how a step shows itself."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..engine import Node, Op, Tensor
from . import table
from .explain import Explanation, argument_names, explain
from .picture import heat_map
from .statistics import in_words, statistics
from .storage import KEEPS

OWN = " made for it"  # said of an array that an operation keeps for backward beside its inputs and output


@dataclass(frozen=True, eq=False)
class Input:
    """One input of an operation.

    Attributes:
        name: the argument, ``"weight"``.
        value: the array.
        source: where it came from: an operation (``"tanh in tanh1"``) or a leaf (``"conv1.weight"``).
        needs_gradient: whether backward computes a gradient for it.
        made_by: the number of the forward step that made it; None for a leaf.
        is_parameter: whether it is a `Parameter`, which a module trains.
    """

    name: str
    value: Array
    source: str
    needs_gradient: bool
    made_by: int | None
    is_parameter: bool


@dataclass(frozen=True, eq=False)
class Gradient:
    """A gradient that an operation's backward pass made, and where it goes.

    Attributes:
        name: of the argument that it is the gradient of, ``"weight"``.
        value: the array, of that argument's shape.
        to: the operation that it flows to next (``"tanh in tanh1"``), or the leaf's gradient (``"conv1.weight.grad"``).
        added: whether it is added to what was there before it; else it is written.
    """

    name: str
    value: Array
    to: str
    added: bool


@dataclass(frozen=True, eq=False)
class Moment:
    """What both kinds of step have.

    Attributes:
        index: its place in its walk, from 0.
        count: how many steps the walk has.
        node: the operation that was carried out.
        inputs: an `Input` each, those left out left out.
        output: the forward value.
        kept: what forward kept for backward: names of inputs, ``"output"``, and what arrays it made for that.
    """

    index: int
    count: int
    node: Node
    inputs: tuple[Input, ...]
    output: Array
    kept: tuple[str, ...]

    @property
    def op(self) -> Op:
        return self.node.op

    @property
    def path(self) -> str:
        """The layer, as a dotted path; empty outside of any."""
        return self.node.path

    @property
    def label(self) -> str:
        """``"conv2d in features.0"``."""
        return self.node.label

    @property
    def formula(self) -> str:
        """Forward and backward in symbols."""
        return self.node.op.formula

    def input(self, name: str) -> Array:
        """The value of the input `name`, ``"weight"``.

        Raises:
            ValueError: there is none of that name.
        """
        return _named("input", name, self.inputs, self)

    @property
    def saved(self) -> tuple[str, ...]:
        """What is still `kept`: nothing after a backward pass that freed the graph."""
        return () if self.node.freed else self.kept

    @property
    def settings(self) -> str:
        """The operation's parameters, ``"stride=(1, 1), padding=(0, 0)"``."""
        return ", ".join(f"{k}={_setting(v)}" for k, v in self.node.params.items() if v is not None)

    # -------------------------------------------------------------------------------- how a step shows itself

    def _title(self) -> str:
        raise NotImplementedError

    def _parts(self) -> list[tuple[str, str, str, Array]]:
        """A line for each array: (role, name, remark, array)."""
        saved = self.saved
        parts = [
            ("in", i.name, f"from {i.source}" + (", kept for backward" if i.name in saved else ""), i.value)
            for i in self.inputs
        ]
        remarks = ["kept for backward"] if "output" in saved else []
        if own := [name.removesuffix(OWN) for name in saved if name.endswith(OWN)]:
            remarks.append(f"besides it keeps {' and '.join(own)} of its own")
        return [*parts, ("out", "output", ", ".join(remarks), self.output)]

    def __str__(self) -> str:
        lines = [self._title(), f"    {self.formula}"]
        if self.settings:
            lines.append(f"    {self.settings}")
        parts = self._parts()
        width = max(len(name) for _, name, _, _ in parts)
        previous = None
        for role, name, remark, array in parts:
            lead = role if role != previous else ""
            lines.append(f"  {lead:4} {name.ljust(width)}  {in_words(array)}" + (f"  ({remark})" if remark else ""))
            previous = role
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{role}</td><td><b>{html.escape(name)}</b></td><td style='text-align:left'>{heat_map(array)}<br>"
            f"{html.escape(in_words(array))}</td><td style='text-align:left'>{html.escape(remark)}</td></tr>"
            for role, name, remark, array in self._parts()
        )
        return (
            f"<div><b>{html.escape(self._title())}</b><br><i>{html.escape(self.formula)}</i><br>"
            f"{html.escape(self.settings)}<table>{rows}</table></div>"
        )


class ForwardStep(Moment):
    """An operation on the way forward: what went in, what came out."""

    def _title(self) -> str:
        return f"forward step {self.index + 1} of {self.count}: {self.label}"


@dataclass(frozen=True, eq=False, repr=False)
class BackwardStep(Moment):
    """An operation on the way backward.

    Beside what every step has:
        grad_output: the gradient that arrived, complete, of the output's shape.
        grad_inputs: one gradient for each input of the node, None where none is needed, as the engine computed them.
        gradients: those that are there, with their names and where they go.
    """

    grad_output: Array
    grad_inputs: tuple[Array | None, ...]
    gradients: tuple[Gradient, ...]

    @property
    def grad_norm(self) -> float:
        """The Euclidean norm of the gradient that arrived, computed in float64."""
        return statistics(self.grad_output).norm

    def gradient(self, name: str) -> Array:
        """The gradient that was made for the input `name`, ``"weight"``.

        Raises:
            ValueError: there is none of that name, or it needs no gradient.
        """
        return _named("gradient", name, self.gradients, self)

    def explain(self, argument: str | int, index: int | tuple[int, ...] = ()) -> Explanation:
        """One entry of a gradient in numbers: the terms it is the sum of, each a product.

        Args:
            argument: the input whose gradient it is, ``"weight"`` (or its number).
            index: the entry, ``(0, 2, 1, 1)``.

        Raises:
            ValueError: there is no such argument or entry, or the argument has no gradient.
        """
        known = {i.name: i.value for i in self.inputs}
        inputs = [known.get(name) for name in argument_names(self.node)]
        return explain(self.node, inputs, self.output, self.grad_output, self.grad_inputs, argument, index)

    def _title(self) -> str:
        return f"backward step {self.index + 1} of {self.count}: {self.label}"

    def _parts(self) -> list[tuple[str, str, str, Array]]:
        passed = [
            ("then", f"∂{g.name}", f"{'added to' if g.added else 'to'} {g.to}", g.value) for g in self.gradients
        ]
        return [*super()._parts(), ("grad", "g", "the gradient that arrived", self.grad_output), *passed]


def kept_by(node: Node, inputs: Sequence[Input], output: Array) -> tuple[str, ...]:
    """What `node`, which no backward pass has freed, keeps for backward, as `Moment.kept` has it."""
    names = argument_names(node)
    roles = dict(zip(("input", "other", "third"), names, strict=False))
    keeps = {roles.get(role, role) for role in KEEPS.get(node.op.name, ())}
    values = [*((i.name, i.value) for i in inputs), ("output", output)]
    known = [(name, value) for name, value in values if name in keeps or node.op.name not in KEEPS]
    leaves = dict(zip(names, node.inputs, strict=True))
    kept: list[str] = []
    for array in _arrays(node.saved):
        found = [name for name, leaf in leaves.items() if isinstance(leaf, Tensor) and leaf.data is array]
        found = found or [name for name, value in known if same(array, value)]
        kept += found or [f"{table.dimensions(array.shape)}{OWN}"]
    return tuple(dict.fromkeys(kept))


def _named(kind: str, name: str, things: Sequence[Input] | Sequence[Gradient], step: Moment) -> Array:
    found = {thing.name: thing.value for thing in things}
    if name not in found:
        raise ValueError(f"{step.label} has no {kind} {name!r}: there are {', '.join(found) or 'none'}")
    return found[name]


def _arrays(saved: Any) -> Iterator[Array]:
    if backend.is_array(saved):
        yield np.asarray(saved) if isinstance(saved, np.generic) else saved
    elif isinstance(saved, tuple | list):
        for part in saved:
            yield from _arrays(part)


def same(a: Array, b: Array) -> bool:
    """Whether two arrays hold the same numbers; NaN is the same as NaN."""
    if a is b:
        return True
    with backend.beside(a):
        return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def _setting(value: Any) -> str:
    return in_words(value) if backend.is_array(value) else str(value)
