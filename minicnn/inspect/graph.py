"""`graph`: any model or loss as a drawing, made without another program."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import functional as F
from ..engine import NOWHERE, Node, Parameter, Scope, Tensor, dry_run, observe
from ..nn import Conv2d, Module
from ..weights import replacing
from . import svg
from .hierarchy import Failure, Group, Item, Operation, Source, agreeing, around, connect, grow, shown, sources_of
from .layout import Layout, lines_of, place
from .trace import Listing, shapes_of
from .walk import reachable

LOSSES = ("mse_loss", "soft_cross_entropy")  # whose second input is a target


class Graph:
    """A drawing of what ran; shows itself in a notebook, prints as an outline.

    Attributes:
        title: the network's name, or the operation that made the loss.
        root: everything, as a `Group` of groups in rows.
        edges: from each operation or source to each operation that uses its value, once for each use.
        error: what ended the pass before its time, else None.
    """

    def __init__(self, title: str, root: Group, edges: list[tuple[Item, Item]], error: Exception | None = None):
        self.title, self.root, self.edges, self.error = title, root, edges, error

    @cached_property
    def layout(self) -> Layout:
        """Where everything stands in the drawing."""
        return place(self.root)

    @cached_property
    def svg(self) -> str:
        """The drawing, as the text of an SVG file."""
        return svg.draw(self.root, self.layout, self.title)

    @property
    def dot(self) -> str:
        """The graph in Graphviz's language, a cluster for each module."""
        return svg.dot(self.root, self.edges, self.title)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the drawing (``.svg``) or the Graphviz text (``.dot``, ``.gv``), by the suffix of `path`.

        Raises:
            ValueError: another suffix.
            OSError: the file cannot be written; what was there before is still there.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".svg", ".dot", ".gv"):
            raise ValueError(f"graph: {os.fspath(path)} has the suffix {suffix!r}, and must have .svg, .dot or .gv")
        text = self.svg if suffix == ".svg" else self.dot
        with replacing(path) as file:
            file.write(text.encode())

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        inputs: dict[Item, list[Item]] = {}
        for tail, head in self.edges:
            inputs.setdefault(shown(head), []).append(shown(tail))
        lines = [self.title, *_outline(self.root, inputs, "  ")]
        return "\n".join([*lines, *([f"✗ {self.error}"] if self.error is not None else [])])

    __repr__ = __str__


def _outline(group: Group, inputs: dict[Item, list[Item]], indent: str) -> list[str]:
    """A line for each item; what an operation joins is named where there are several."""
    lines = []
    for item in group.items:
        if isinstance(item, Group):
            lines.append(indent + item.title + (f"  {lines_of(item)[1][1]}" if item.folded else ""))
            lines += [] if item.folded else _outline(item, inputs, indent + "  ")
        elif isinstance(item, Operation | Source):
            several = inputs.get(item, [])
            joined = f"  ← {', '.join(map(_called, several))}" if len(several) > 1 else ""
            name = f"{item.name} ({item.label})" if isinstance(item, Operation) and item.name else item.label
            lines.append(f"{indent}{name}  {item.detail}{joined}")
    return lines


def _called(item: Item) -> str:
    if isinstance(item, Operation) and not item.name:
        return f"{item.label} in {item.path}" if item.path else item.label
    return getattr(item, "path", "") or getattr(item, "label", "")


def graph(model_or_loss: Any, input_shape: Sequence[Any] | None = None, depth: int | None = None) -> Graph:
    """Draw a model, or what a loss was made from.

    Args:
        model_or_loss: a module, which runs in the mode that it is in, computing shapes only; or a tensor, whose graph
            is walked back as far as gradients go.
        input_shape: of a module's input, the batch first, ``(1, 3, 224, 224)``; a list of shapes for a module of
            several inputs. May be left out for the networks of `minicnn.models`.
        depth: how many levels of modules inside the network are shown; those in the last of them are folded, each a
            single box. None for all.

    Returns:
        The drawing. Where the model refuses the shapes (a ValueError, TypeError or IndexError), it ends with
        a box that says so, and the exception is its `error`.

    Raises:
        TypeError: neither a module nor a tensor.
        ValueError: `input_shape` is missing or no shape; `depth` is no count.
        RuntimeError: a tensor that no operation made, or whose graph was freed by a backward pass.
    """
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 0):
        raise ValueError(f"graph: depth is {depth!r}, and must be None (all) or the number of levels to show, from 0")
    if isinstance(model_or_loss, Tensor):
        if input_shape is not None:
            raise ValueError("graph: input_shape is for a module; a tensor's graph has its shapes")
        return _of_tensor(model_or_loss, depth)
    if not callable(model_or_loss):
        raise TypeError(
            f"graph: got {type(model_or_loss).__name__}, and draws a module or a tensor that operations made (a loss)"
        )
    shapes = _usual_shape(model_or_loss) if input_shape is None else shapes_of(input_shape)
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for s in shapes for n in s):
        raise ValueError(f"graph: input_shape is {input_shape!r}, and must be made of positive ints, the batch first")
    return _of_model(model_or_loss, shapes, depth)


def _usual_shape(model: Any) -> list[tuple[int, ...]]:
    """That of the images which a network of ours is sized for; two of them, as batch norm may need."""
    layers = model.modules() if isinstance(model, Module) else ()
    first = next((layer for layer in layers if isinstance(layer, Conv2d)), None)
    side = getattr(model, "input_size", None)
    if first is None or not isinstance(side, int):
        raise ValueError(
            f"graph: input_shape is missing, and {type(model).__name__} does not say what it takes. Give the shape of "
            "its input, the batch first, for instance input_shape=(1, 3, 224, 224)"
        )
    return [(2, first.in_channels, side, side)]


# ------------------------------------------------------------------------------------------------ what ran


def _of_model(model: Any, shapes: list[tuple[int, ...]], depth: int | None) -> Graph:
    parameters = model.parameters() if isinstance(model, Module) else iter(())
    dtype = next((p.dtype for p in parameters if p.dtype.kind == "f"), np.dtype("float32"))
    inputs = [Tensor._of(np.broadcast_to(np.zeros((), dtype=dtype), shape)) for shape in shapes]
    listing = Listing()
    error = None
    try:
        with dry_run(), observe(listing):
            model(*inputs)
    except (ValueError, TypeError, IndexError) as problem:
        error = problem
    title = str(getattr(model, "architecture", None) or getattr(model, "__name__", type(model).__name__))
    nodes = listing.nodes
    scopes = [node.scope for node in nodes]
    failure = None
    causes: list[Node | Tensor] = []
    if error is not None:
        failure = Failure(error)
        scope, causes = _where(error, listing, inputs)
        scopes.append(scope)
    return _Drawing(nodes, scopes, inputs, depth).finished(title, failure, causes)


def _where(error: Exception, listing: Listing, inputs: list[Tensor]) -> tuple[Scope, list[Node | Tensor]]:
    """The modules that were being called when `error` was raised, and what the operation that failed was given."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = [frame.f_locals for frame in frames if frame.f_code is Module.__call__.__code__]
    given = [frame.f_locals for frame in frames if frame.f_globals is vars(F)]
    scope = calls[-1]["scope"] if calls else NOWHERE
    layer = scope[-1] if scope else None
    if layer is not None and not layer._modules and not (listing.nodes and layer in listing.nodes[-1].scope):
        given.insert(0, {"args": calls[-1]["args"]})  # it refused them itself
    known = {*listing.nodes, *inputs}
    for values in reversed(given):
        several = (value if isinstance(value, tuple | list) else (value,) for value in values.values())
        tensors = (x for each in several for x in each if isinstance(x, Tensor))
        makers = [maker for maker in map(listing.maker, tensors) if maker in known]
        if makers:
            return scope, list(dict.fromkeys(makers))
    return scope, [*listing.nodes[-1:]] or [*inputs]


def _of_tensor(tensor: Tensor, depth: int | None) -> Graph:
    if tensor.node is None:
        raise RuntimeError(
            "graph: no operation is remembered that made this tensor, because nothing it was made from requires a "
            "gradient, or because the graph was cut: by no_grad(), detach(), or a detour through .data or .numpy()"
        )
    nodes = reachable(tensor.node)
    drawing = _Drawing(nodes, [node.scope for node in nodes], None, depth)
    return drawing.finished(tensor.node.op.name)


class _Drawing:
    """Puts together what a `Graph` consists of.

    Args:
        nodes: the operations, in the order they ran.
        scopes: of the operations, and of what failed after them.
        inputs: the network's; None where they must be guessed from how they are used.
    """

    def __init__(
        self, nodes: list[Node], scopes: list[Scope], inputs: list[Tensor] | None, depth: int | None
    ):
        self.scopes, self.inputs, self.depth = scopes, inputs, depth
        self.made: dict[Node, Operation] = {node: Operation(node, node.op.name) for node in nodes}
        self.sources: dict[int, Source] = {}  # by the array, which an input that is wrapped twice shares
        self.edges: list[tuple[Item, Item]] = []
        for tensor in inputs or ():
            self._source(tensor, "input")
        for item in self.made.values():
            for i, source in sources_of(item):
                maker = self.made[source] if isinstance(source, Node) else self._source(source, self._role(item, i))
                self.edges.append((maker, item))

    def _source(self, tensor: Tensor, label: str) -> Source:
        return self.sources.setdefault(id(tensor.data), Source(tensor, label))

    def _role(self, user: Operation, i: int) -> str:
        node = user.node
        tensor = node.inputs[i]
        if node.op.name in LOSSES and i == 1:
            return "target"
        if self.inputs is not None or not isinstance(tensor, Tensor):
            return "constant"
        own = (buffer for module in node.scope for buffer in module._buffers.values())
        is_operand = tensor.size > 1 and (i == 0 or user.family == "joint") and all(b is not tensor for b in own)
        return "input" if tensor.requires_grad or is_operand else "constant"

    def finished(self, title: str, failure: Failure | None = None, causes: Sequence[Node | Tensor] = ()) -> Graph:
        self._describe()
        items: list[Operation | Failure] = [*self.made.values()]
        if failure is not None:
            items.append(failure)
            for cause in causes:
                maker = self.made[cause] if isinstance(cause, Node) else self._source(cause, "input")
                self.edges.append((maker, failure))
        root = grow(list(zip(items, self.scopes, strict=True)), self.depth)
        self._settle_sources(root)
        connect(root, self.edges)
        return Graph(title, root, self.edges, None if failure is None else failure.error)

    def _describe(self) -> None:
        """Write shapes: without the batch where they have it, which what follows from no input has not."""
        inputs = [source for source in self.sources.values() if source.label == "input"]
        batch = next((source.tensor.shape[0] for source in inputs if len(source.tensor.shape) > 1), None)
        batched: set[Item] = set(inputs)
        for source in self.sources.values():
            one = source.tensor.size == 1 and source.label == "constant"
            shape = _shape(source.tensor.shape, None if source.label == "constant" else batch)
            source.detail = f"{source.tensor.item():.4g}" if one else shape
        for maker, item in self.edges:
            if maker in batched:
                batched.add(item)
        for item in self.made.values():
            node = item.node
            item.detail = _shape(node.shape, batch if item in batched else None)
            own = node.scope[-1]._parameters.items() if node.scope else ()
            names = {parameter: name for name, parameter in own}
            given = [source for source in node.inputs if isinstance(source, Parameter)]
            item.note = ", ".join(f"{names.get(p, 'parameter')} {_shape(p.shape)}" for p in given)

    def _settle_sources(self, root: Group) -> None:
        """Inputs stand outside of everything, other sources in the innermost group that holds all their users."""
        homes: dict[Item, list[Group]] = {s: [root] for s in self.sources.values() if s.label == "input"}
        for maker, user in self.edges:
            if isinstance(maker, Source) and maker.label != "input":
                groups = around(user)
                homes[maker] = groups[: agreeing(homes.get(maker, groups), groups)]
        for source, home in reversed(homes.items()):
            home[-1].items.insert(0, source)
            source.parent = home[-1]


def _shape(shape: Sequence[int], batch: int | None = None) -> str:
    """``6×28×28``, without the batch, which comes first."""
    shape = shape[1:] if len(shape) > 1 and shape[0] == batch else shape
    return "×".join(map(str, shape)) or "one number"
