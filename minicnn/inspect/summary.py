"""`summary`: a network as a table, made from a pass without arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..engine import Node, Parameter
from ..nn import Module
from . import table
from .storage import is_view, kept_for_backward, size_in_bytes
from .trace import Trace, multiply_adds, receptive_fields, shapes_of, trace


@dataclass(frozen=True)
class Row:
    """One layer's call (or one operation outside of any layer).

    Attributes:
        path: the layer's dotted name.
        kind: its class, or the operation.
        output_shape: of what came out, the batch first.
        parameters: its own, counted at its first call.
        multiply_adds: of the whole batch.
        output_bytes: memory that its outputs take; 0 for a view.
        kept_bytes: memory that it is the first to keep for backward.
        receptive_field: (height, width) of the input that one entry depends on; None for all of it.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    output_bytes: int
    kept_bytes: int
    receptive_field: tuple[int, int] | None


COLUMNS = ("layer", "kind", "output", "parameters", "multiply-adds", "memory", "kept for backward", "receptive field")


@dataclass(frozen=True)
class Summary:
    """A network's layers in the order they run, and their sums; prints as a table, and draws one in a notebook.

    Attributes:
        network: its name, else its class.
        input_shape: what it was asked about, one shape or several.
        rows: a `Row` for each call of a layer.
        parameters: all of the network's, those of layers that this pass does not run included.
    """

    network: str
    input_shape: tuple[Any, ...]
    rows: tuple[Row, ...]
    parameters: int

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds for row in self.rows)

    @property
    def output_bytes(self) -> int:
        return sum(row.output_bytes for row in self.rows)

    @property
    def kept_bytes(self) -> int:
        return sum(row.kept_bytes for row in self.rows)

    @property
    def unused_parameters(self) -> int:
        """Those of layers that this pass does not run (auxiliary heads in evaluation)."""
        return self.parameters - sum(row.parameters for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts; memory in bytes."""
        totals = {name: getattr(self, name) for name in ("parameters", "multiply_adds", "output_bytes", "kept_bytes")}
        return {
            "network": self.network,
            "input_shape": list(self.input_shape),
            "rows": [asdict(row) for row in self.rows],
            **totals,
            "unused_parameters": self.unused_parameters,
        }

    def _table(self) -> tuple[str, Sequence[str], list[Sequence[str]], Sequence[str], str]:
        rows: list[Sequence[str]] = [
            (
                row.path or "(network)",
                row.kind,
                "×".join(map(str, row.output_shape)),
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.multiply_adds:,}" if row.multiply_adds else "",
                table.size(row.output_bytes),
                table.size(row.kept_bytes),
                "all" if row.receptive_field is None else "×".join(map(str, row.receptive_field)),
            )
            for row in self.rows
        ]
        memory = (table.size(self.output_bytes), table.size(self.kept_bytes))
        totals = ("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", *memory, "")
        unused = self.unused_parameters
        note = f"{unused:,} of the parameters belong to layers that this pass does not run" if unused else ""
        return f"{self.network}, input {table.shape(self.input_shape)}", COLUMNS, rows, totals, note

    def __str__(self) -> str:
        return table.as_text(*self._table(), words=3)

    __repr__ = __str__  # at a prompt, and in a notebook that shows no HTML

    def _repr_html_(self) -> str:
        return table.as_html(*self._table())

    def to_markdown(self) -> str:
        """The table for a README or a notebook."""
        _, columns, rows, totals, note = self._table()
        lines = [columns, ("---", "---", "---", "--:", "--:", "--:", "--:", "--:"), *rows, totals]
        return "\n".join(["| " + " | ".join(cells) + " |" for cells in lines] + (["", note] if note else []))


def summary(model: Module, input_shape: Sequence[Any]) -> Summary:
    """A table of the layers of `model`, in the mode that it is in, for inputs of `input_shape` (the batch first).

    Nothing is computed but shapes: VGG-19 takes a moment and no memory for its activations.

    Args:
        model: any module whose operations are minicnn's.
        input_shape: ``(1, 3, 224, 224)``, or a list of shapes for a model of several inputs.

    Raises:
        ValueError: a shape that the network cannot take, as the layer concerned says.
    """
    shapes = shapes_of(input_shape)
    traced = trace(model, *shapes)
    parameters = sum(p.data.size for p in model.parameters())
    shape: tuple[Any, ...] = tuple(shapes) if len(shapes) > 1 else shapes[0]
    return Summary(getattr(model, "architecture", type(model).__name__), shape, tuple(_rows(traced)), parameters)


def _rows(traced: Trace) -> list[Row]:
    fields = receptive_fields(traced)
    kept: set[Any] = set()
    counted: set[Parameter] = set()
    rows = []
    for call in by_call(traced.nodes):
        last, layer = call[-1], call[-1].scope[-1]
        own = {p for p in layer._parameters.values() if p is not None} - counted
        counted |= own
        keeps = {key: size for node in call for key, size in kept_for_backward(node) if key not in kept}
        kept |= keeps.keys()
        field = fields.get(last)
        rows.append(
            Row(
                path=last.path,
                kind=last.op.name if layer._modules else type(layer).__name__,
                output_shape=last.shape,
                parameters=sum(p.data.size for p in own),
                multiply_adds=sum(map(multiply_adds, call)),
                output_bytes=sum(size_in_bytes(node) for node in call if not is_view(node)),
                kept_bytes=sum(keeps.values()),
                receptive_field=None if field is None else field.size,
            )
        )
    return rows


def by_call(nodes: Sequence[Node]) -> list[list[Node]]:
    """The operations of each call of a layer together (calls of one layer in a row count as one call).

    Those outside of any layer, or of one that has layers inside, stand alone.
    """
    calls: list[list[Node]] = []
    for node in nodes:
        alone = not node.scope or node.scope[-1]._modules
        if calls and not alone and calls[-1][-1].scope == node.scope:
            calls[-1].append(node)
        else:
            calls.append([node])
    return calls
