"""The memory ledger: what a training step holds, predicted from shapes.

Three conventions. ``"cs231n"`` and ``"torchinfo"`` are sums over layers, as those two count. ``"actual"`` walks through
the step as the engine will: forward, an array lives from when it is made until its last user has run, or until backward
has passed the operation that saved it; backward, a gradient lives until it has been used. The fullest moment is the
answer, and what was there at that moment are its parts. It is what `tracemalloc` measures, to within a few per cent,
for NumPy arrays and the default kernels.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import functional as F
from ..engine import Node, Tensor, no_grad
from ..nn import Module
from ..optim.optimizer import BLOCK
from . import table
from .storage import (
    kept_for_backward,
    origin,
    owner,
    saved,
    scratch,
    size_in_bytes,
    temporaries,
)  # fmt: skip
from .summary import by_call
from .trace import Trace, shapes_of, trace

# For each optimiser, how many arrays of a parameter's size it remembers, and how many of its blocks an update takes.
OPTIMIZERS = {"none": (0, 1), "momentum": (1, 1), "adam": (2, 4)}

PARTS = {
    "parameters": "parameters",
    "gradients": "gradients of the parameters",
    "optimizer": "optimiser state",
    "buffers": "buffers (running statistics)",
    "input": "input",
    "activations": "activations saved for backward",
    "activation_gradients": "gradients of activations",
    "workspace": "workspace",
}


@dataclass(frozen=True)
class LayerMemory:
    """One call of a layer: bytes of its parameters (at its first call), and of its activations by the convention."""

    path: str
    kind: str
    parameters: int
    activations: int


@dataclass(frozen=True)
class Memory:
    """What a step takes, in bytes; prints as a table, and draws one in a notebook.

    Attributes:
        network, input_shape, convention, optimizer, training: what was asked.
        parts: bytes of each of ``"parameters"``, ``"gradients"``, ``"optimizer"``, ``"buffers"``, ``"input"``,
            ``"activations"`` (that wait for backward), ``"activation_gradients"`` and ``"workspace"`` (outputs on
            their way to the next layer, and what the kernels need beside their results).
        moment: when that is; only ``"actual"`` tells moments apart, for the others it is empty.
        layers: see `by_layer`.
    """

    network: str
    input_shape: tuple[Any, ...]
    convention: str
    optimizer: str
    training: bool
    parts: dict[str, int]
    moment: str
    layers: tuple[LayerMemory, ...]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def by_layer(self) -> tuple[LayerMemory, ...]:
        """The layers in the order they run, with their parameters and activations.

        Activations are, under ``"actual"``, what the layer is the first to save for backward; under ``"cs231n"`` the
        outputs that those notes count, the image first; under ``"torchinfo"`` the outputs that it counts. In a
        training step each has a gradient of the same size, which is not included.
        """
        return self.layers

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts, in bytes."""
        return {**asdict(self), "input_shape": list(self.input_shape), "total": self.total}

    def _table(self) -> tuple[str, Sequence[str], list[Sequence[str]], Sequence[str], str]:
        step = f"a training step with optimizer {self.optimizer!r}" if self.training else "evaluation"
        step = "one pass" if self.convention == "torchinfo" else step
        title = f"{self.network}, input {table.shape(self.input_shape)}: {step}, convention {self.convention!r}"
        sizes = [(PARTS[name], size) for name, size in self.parts.items() if size]
        rows: list[Sequence[str]] = [(name, table.size(size), f"{size / self.total:.1%}") for name, size in sizes]
        note = f"the fullest moment: {self.moment}" if self.moment else ""
        return title, ("what", "size", "share"), rows, ("total", table.size(self.total), ""), note

    def __str__(self) -> str:
        return table.as_text(*self._table())

    __repr__ = __str__  # at a prompt, and in a notebook that shows no HTML

    def _repr_html_(self) -> str:
        return table.as_html(*self._table())


def memory(
    model: Module,
    input_shape: Sequence[Any],
    convention: str = "actual",
    optimizer: str = "momentum",
    training: bool = True,
) -> Memory:
    """What one step of `model` holds, for inputs of `input_shape` (the batch first). Nothing is computed but shapes.

    Args:
        model: any module whose operations are minicnn's.
        input_shape: of the input, or a list of shapes for several.
        convention: ``"actual"``: the fullest moment of a step, as `tracemalloc` would see it once every layer has
            run before: zero_grad, forward, cross-entropy of each output, backward, optimiser. ``"cs231n"``: as that
            course's notes reckon. ``"torchinfo"``: that library's "estimated total size", which takes neither
            optimiser nor mode into account.
        optimizer: ``"momentum"`` (SGD; one array a parameter), ``"adam"`` (two), ``"none"`` (plain SGD).
        training: a whole step in training mode; else one evaluation without gradients.

    Raises:
        ValueError: an unknown convention or optimiser; shapes that the network cannot take, as its layers say.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"memory: convention is {convention!r}, and must be among {', '.join(map(repr, CONVENTIONS))}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"memory: optimizer is {optimizer!r}, and must be among {', '.join(map(repr, OPTIMIZERS))}")
    shapes = shapes_of(input_shape)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        outputs: list[Tensor] = []
        with nullcontext() if training else no_grad():
            traced = trace(lambda *inputs: _step(model(*inputs), outputs, training), *shapes)
    finally:
        for module, mode in modes:
            module.training = mode
    parts, moment, layers = CONVENTIONS[convention](model, traced, outputs, optimizer, training)
    shape = tuple(shapes) if len(shapes) > 1 else shapes[0]
    parts = {name: parts.get(name, 0) for name in PARTS}
    name = getattr(model, "architecture", type(model).__name__)
    return Memory(name, shape, convention, optimizer, training, parts, moment, tuple(layers))


def _step(output: Any, outputs: list[Tensor], training: bool) -> Tensor | None:
    """Note the network's outputs and, in training, go on to the loss: the sum of their cross-entropies."""
    outputs += tensors(output)
    if not training:
        return None
    losses = [
        F.cross_entropy(t, np.broadcast_to(0, (t.shape[0], *t.shape[2:]))) if t.ndim > 1 else t.sum() for t in outputs
    ]
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total


def tensors(value: Any) -> list[Tensor]:
    """The tensors in what a network returned: one, or a tuple, list or dict of them."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [t for item in items for t in tensors(item)]


def _bytes(things: Iterable[Any]) -> int:
    return sum(t.data.nbytes for t in things)


def _layers(traced: Trace, activations: Callable[[list[Node]], int]) -> list[LayerMemory]:
    """A row for each call of a layer, `activations` of its operations."""
    counted: set[Tensor] = set()
    rows = []
    for call in by_call(traced.nodes):
        layer = call[-1].scope[-1] if call[-1].scope else None
        own = [] if layer is None else [p for p in layer._parameters.values() if p is not None and p not in counted]
        counted.update(own)
        rows.append(LayerMemory(call[-1].path, type(layer).__name__, _bytes(own), activations(call)))
    return [row for row in rows if row.parameters or row.activations]


# --------------------------------------------------------------------------------- the course's and the library's

def _cs231n(model: Module, traced: Trace, outputs: list[Tensor], optimizer: str, training: bool):
    """CS231n course notes, "Computational considerations" and "VGGNet in detail".

    Activations: the image and the outputs of convolutions, poolings and fully connected layers (ReLU is taken to work
    in place), 4 bytes each, and in training as much again for their gradients. Parameters, their gradients, and the
    step cache of the optimiser. (Averaging to the size that the maps have already is no layer of the notes.)
    """

    def counted(node: Node) -> bool:
        pool = node.op.name == "adaptive_avg_pool2d" and node.shape != origin(node, 0).shape
        return pool or node.op.name in ("conv2d", "max_pool2d", "avg_pool2d", "linear")

    image = LayerMemory("", "input", 0, 4 * sum(math.prod(x.shape) for x in traced.inputs))
    layers = [image, *_layers(traced, lambda call: sum(4 * math.prod(n.shape) for n in call if counted(n)))]
    activations = sum(row.activations for row in layers)
    parameters = 4 * sum(p.data.size for p in model.parameters())
    parts = {"parameters": parameters, "activations": activations}
    if training:
        cache = OPTIMIZERS[optimizer][0] * parameters
        parts |= {"gradients": parameters, "optimizer": cache, "activation_gradients": activations}
    return parts, "", layers


def _torchinfo(model: Module, traced: Trace, outputs: list[Tensor], optimizer: str, training: bool):
    """torchinfo 1.8.0, `ModelStatistics`: the input, the parameters of the layers that run, and twice the outputs of
    those that have parameters and no layers inside ("x2 for gradients")."""

    def output(call: list[Node]) -> int:
        layer = call[-1].scope[-1] if call[-1].scope else None
        leaf = layer is not None and not layer._modules and any(p is not None for p in layer._parameters.values())
        return size_in_bytes(call[-1]) if leaf else 0

    layers = _layers(traced, output)
    activations = sum(row.activations for row in layers)
    return {
        "parameters": sum(row.parameters for row in layers),
        "input": sum(map(size_in_bytes, traced.inputs)),
        "activations": activations,
        "activation_gradients": activations,
    }, "", layers  # fmt: skip


def _scratch(traced: Trace, training: bool) -> int:
    """Bytes of the scratch arrays that threads keep between operations: for each thread and role the largest."""
    largest: Counter[tuple[int, str, Any]] = Counter()
    for node in traced.nodes:
        for backward in (False, True)[: 1 + training]:
            for key, size in scratch(node, backward)[0].items():
                largest[key] = max(largest[key], size)
    return sum(largest.values())


# ------------------------------------------------------------------------------------------------- the timeline

class _Timeline:
    """Arrays that are alive, each held by one or more, and the fullest moment so far."""

    ORDER = {part: i for i, part in enumerate(PARTS)}  # an array that two hold counts for the one that comes first

    def __init__(self, always: dict[str, int]):
        self.parts = Counter(always)
        self.held: dict[Any, tuple[int, list[str]]] = {}
        self.fullest: dict[str, int] = {}
        self.label = ""

    def hold(self, array: Any, part: str, size: int) -> None:
        size, holders = self.held.setdefault(array, (size, []))
        self._count(size, holders, lambda: holders.append(part))

    def drop(self, array: Any, part: str) -> None:
        size, holders = self.held[array]
        self._count(size, holders, lambda: holders.remove(part))
        if not holders:
            del self.held[array]

    def _count(self, size: int, holders: list[str], change: Callable[[], None]) -> None:
        for sign in (-1, 1):
            if holders:
                self.parts[min(holders, key=self.ORDER.__getitem__)] += sign * size
            if sign < 0:
                change()

    def moment(self, label: str, workspace: int = 0) -> None:
        if self.parts.total() + workspace > sum(self.fullest.values()):
            self.fullest, self.label = dict(self.parts), label
            self.fullest["workspace"] = self.fullest.get("workspace", 0) + workspace


# Operations whose gradients are what arrived, or a view of it; a broadcast sum is one too.
PASSED_ON = ("add", "sub", "reshape", "permute", "cat", "sum", "mean", "to_device")


def _actual(model: Module, traced: Trace, outputs: list[Tensor], optimizer: str, training: bool):
    parameters = list(model.parameters())
    copies, blocks = OPTIMIZERS[optimizer] if training else (0, 0)
    trained = [p for p in parameters if p.requires_grad]
    timeline = _Timeline({
        "parameters": _bytes(parameters),
        "buffers": _bytes(model.buffers()),
        "input": sum(map(size_in_bytes, traced.inputs)),
        "optimizer": copies * _bytes(trained),
        "workspace": _scratch(traced, training),
    })  # fmt: skip
    there_anyway: set[Any] = {*parameters, *model.buffers(), *traced.inputs}
    timeline.moment("before the step")
    _forward(timeline, traced, there_anyway, {owner(traced.maker(t)) for t in outputs})
    if training:
        _backward(timeline, traced, there_anyway)
        largest = max((p.data.nbytes for p in trained), default=0)
        timeline.moment("the optimiser", blocks * min(4 * BLOCK, largest))
    seen: set[Any] = set(there_anyway)

    def first_kept(call: list[Node]) -> int:
        kept = {array: size for node in call for array, size in kept_for_backward(node) if array not in seen}
        seen.update(kept)
        return sum(kept.values())

    return timeline.fullest, timeline.label, _layers(traced, first_kept)


def _forward(timeline: _Timeline, traced: Trace, there_anyway: set[Any], outputs: set[Any]) -> None:
    """Run forward. What nobody uses, and what `outputs` names, stays to the end."""
    last_use: dict[Any, int] = {}
    until = _ends_of_calls(traced.nodes)
    for i, node in enumerate(traced.nodes):
        for source in node.inputs:
            if source is not None and owner(source) not in there_anyway:
                # Python holds a call's arguments until it ends: here, until the outermost call that got the array ends.
                known = len(_common(source.scope, node.scope)) if isinstance(source, Node) else len(node.scope)
                last_use[owner(source)] = max(last_use.get(owner(source), 0), until[i][known])
    ends: dict[int, list[Any]] = {}
    for array, i in last_use.items():
        ends.setdefault(i, []).append(array)
    for i, node in enumerate(traced.nodes):
        used = {owner(source) for source in node.inputs if source is not None} - there_anyway
        for source in used:
            if isinstance(source, Tensor) and source not in timeline.held:  # a constant, such as dropout's mask
                timeline.hold(source, "workspace", size_in_bytes(source))
        if owner(node) is node:
            timeline.hold(node, "workspace", size_in_bytes(node))
        kept = dict(kept_for_backward(node))
        for array, size in kept.items():
            if array not in there_anyway:
                timeline.hold(array, "activations", size)
        own = 0 if kept else sum(size for array, size in saved(node) if isinstance(array, tuple))
        timeline.moment(f"forward of {node.label}", temporaries(node, backward=False) + own)
        for array in ends.get(i, ()):
            if array not in outputs:
                timeline.drop(array, "workspace")


def _common(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """What two scopes begin with, both."""
    return tuple(x for x, _ in itertools.takewhile(lambda pair: pair[0] is pair[1], zip(a, b, strict=False)))


def _ends_of_calls(nodes: list[Node]) -> list[list[int]]:
    """For each operation, and each depth of its scope, the last operation of that call; beyond its scope, itself."""
    ends: list[list[int]] = []
    for i in reversed(range(len(nodes))):
        shared = len(_common(nodes[i].scope, nodes[i + 1].scope)) if i + 1 < len(nodes) else 0
        depth = len(nodes[i].scope)
        ends.append([ends[-1][d] if d < shared else i for d in range(depth)] + [i])
    return ends[::-1]


def _backward(timeline: _Timeline, traced: Trace, there_anyway: set[Any]) -> None:
    """Run backward from the last operation, the loss."""
    waiting: dict[Node, Any] = {}  # for each node, the array that holds its gradient
    gradient_of: set[Tensor] = set()  # leaves that have theirs

    def new(size: int) -> Any:
        array = object()
        timeline.hold(array, "activation_gradients", size)
        return array

    def release(array: Any) -> None:
        timeline.drop(array, "activation_gradients")

    if traced.nodes and True in traced.nodes[-1].needs:
        waiting[traced.nodes[-1]] = new(size_in_bytes(traced.nodes[-1]))
    for node in reversed(traced.nodes):
        if node not in waiting:
            continue
        arrived, label = waiting.pop(node), f"backward of {node.label}"
        results: list[tuple[Any, Any]] = []  # each operation among the inputs, and the array that holds its gradient
        of_leaves: list[tuple[Tensor, int]] = []  # each leaf among them, and the bytes of a new array for its gradient
        for source, need in zip(node.inputs, node.needs, strict=True):
            if not need or source is None:
                continue
            if isinstance(source, Tensor):
                of_leaves.append((source, 0 if _passes_on(node, source) else size_in_bytes(source)))
            elif _passes_on(node, source):
                timeline.hold(arrived, "activation_gradients", 0)
                results.append((source, arrived))
            else:
                results.append((source, new(size_in_bytes(source))))
        fresh = sum(size for _, size in of_leaves)
        timeline.moment(label, temporaries(node, backward=True) + fresh)
        for source, array in results:
            if source in waiting:  # another way back: the sum, made while both are there still
                total = new(size_in_bytes(source))
                timeline.moment(label, fresh)
                release(waiting[source])
                waiting[source] = total
            else:
                timeline.hold(array, "activation_gradients", 0)
                waiting[source] = array
        for leaf, size in of_leaves:
            if leaf in gradient_of or not size:  # the sum with what is there, or a copy of what is another's
                timeline.moment(label, fresh + size_in_bytes(leaf))
            fresh -= size
            if leaf not in gradient_of:
                gradient_of.add(leaf)
                timeline.parts["gradients"] += size_in_bytes(leaf)
        for array in dict(kept_for_backward(node)):
            if array not in there_anyway:
                timeline.drop(array, "activations")
        for _, array in results:
            release(array)
        release(arrived)


def _passes_on(node: Node, source: Node | Tensor) -> bool:
    """Whether the gradient of `source` is the memory that arrived, seen in another way."""
    name = node.op.name
    if name == "sub" and source is node.inputs[1]:
        return False
    if name in ("add", "sub"):
        return source.shape == node.shape
    return name in PASSED_ON


CONVENTIONS: dict[str, Callable[..., tuple[dict[str, int], str, list[LayerMemory]]]] = {
    "actual": _actual,
    "cs231n": _cs231n,
    "torchinfo": _torchinfo,
}
