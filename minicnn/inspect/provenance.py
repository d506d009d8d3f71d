"""Where a layer's gradient comes from: which loss, which way round each residual block, how many branches.

Backward is linear in the gradient that arrives at an operation. So the gradient can be sent back in parts, each under a
label: a part for each loss, or for each number of branches that a path went through. At every operation the parts add
up to the whole.
"""

from __future__ import annotations

import functools
import heapq
import operator
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .. import backend
from ..backend import Array
from ..engine import Node, Parameter, Tensor
from ..nn import Module
from ..nn.utils import get_total_norm
from . import table
from .flow import path_in
from .plotting import COLOURS, as_csv, axes, label_layers
from .walk import reachable

Label = Hashable
Parts = dict[Label, Array]


@dataclass(frozen=True)
class Joint:
    """A sum at which a residual block's branch and its shortcut meet.

    Attributes:
        node: the sum.
        start: the operation from whose output both lead there.
        branch: which input of the sum is the branch: the one with the longer way from `start`.
        name: of the block, its path.
    """

    node: Node
    start: Node
    branch: int
    name: str


def residual_joints(loss: Tensor, model: Module) -> list[Joint]:
    """The sums in `model` of two values that have a common origin, in the order they ran."""
    found = []
    for node in reachable(loss.node) if loss.node is not None else []:
        ways = [source for source in node.inputs if isinstance(source, Node)]
        if node.op.name != "add" or model not in node.scope or len(set(ways)) < 2:
            continue
        start = _common_origin(*ways)
        if start is not None:
            lengths = [_longest_way(way, start) for way in ways]
            found.append(Joint(node, start, int(lengths[1] > lengths[0]), path_in(node, model)))
    return found


def _common_origin(a: Node, b: Node) -> Node | None:
    """The last operation that both were made from (or are)."""
    reached: dict[Node, set[int]] = defaultdict(set)
    queue: list[tuple[int, Node]] = []
    for side, node in enumerate((a, b)):
        reached[node].add(side)
        heapq.heappush(queue, (-node.sequence, node))
    while queue:
        node = heapq.heappop(queue)[1]
        if len(reached[node]) == 2:
            return node
        for source in node.inputs:
            if isinstance(source, Node):
                if source not in reached:
                    heapq.heappush(queue, (-source.sequence, source))
                reached[source] |= reached[node]
    return None


def _longest_way(node: Node, start: Node) -> int:
    """How many operations the longest way from `start` to `node` has, both without `start` itself."""
    longest = {start: 0}
    inside = [n for n in reachable(node) if n.sequence > start.sequence]
    for n in inside:
        before = [longest[s] for s in n.inputs if isinstance(s, Node) and s in longest]
        if before:
            longest[n] = 1 + max(before)
    return longest[node]


@dataclass(frozen=True, eq=False)
class PartStep:
    """A step backward in parts.

    Attributes:
        node: the operation.
        grad_output: the parts of its output's gradient, by their labels.
        grad_inputs: for each input the parts of its gradient, by the labels that they go on under.
    """

    node: Node
    grad_output: Parts
    grad_inputs: tuple[Parts, ...]


def backward_parts(
    losses: Mapping[Any, Tensor],
    relabel: Callable[[Node, int, Label], Label] = lambda node, i, label: label,
    arrive: Callable[[Node, Parts], Parts] = lambda node, parts: parts,
) -> Iterator[PartStep]:
    """Walk backward from several losses at once, each part of a gradient under a label.

    As `minicnn.backward_steps` it changes nothing, and takes operations in the reverse of the order they ran.

    Args:
        losses: what to differentiate, numbers of one element each, under the labels to begin with.
        relabel: the label under which a part goes on to input `i` of an operation; parts that meet under one are added.
        arrive: what becomes of the parts that have arrived at an operation's output, before it passes them on.

    Raises:
        RuntimeError: a loss does not require a gradient or is not one number, or its graph was freed.
    """
    waiting: dict[Node, Parts] = defaultdict(dict)
    queue: list[tuple[int, Node]] = []

    def send(node: Node, label: Label, grad: Array) -> None:
        if node not in waiting:
            heapq.heappush(queue, (-node.sequence, node))
        _add(waiting[node], label, grad)

    for label, loss in losses.items():
        if loss.node is None or loss.size != 1:
            raise RuntimeError(f"provenance: {label!r} must be one number that operations made, with a gradient")
        reachable(loss.node)  # says so if it was freed
        with backend.beside(loss.data):
            send(loss.node, label, backend.array_module(loss.data).ones_like(loss.data))
    while queue:
        node = heapq.heappop(queue)[1]
        parts = arrive(node, waiting.pop(node))
        passed: tuple[Parts, ...] = tuple({} for _ in node.inputs)
        for label, grad_output in parts.items():
            for i, grad in enumerate(node.backward(grad_output)):
                if grad is not None:
                    _add(passed[i], relabel(node, i, label), grad)
        for source, grads in zip(node.inputs, passed, strict=True):
            if isinstance(source, Node):
                for label, grad in grads.items():
                    send(source, label, grad)
        yield PartStep(node, parts, passed)


def _add(parts: Parts, label: Label, grad: Array) -> None:
    with backend.beside(grad):
        parts[label] = parts[label] + grad if label in parts else grad


@dataclass(frozen=True)
class Part:
    """A part of the gradient of one array.

    Attributes:
        path: the layer.
        array: ``"output"`` (of the operation named in `operation`) or the parameter's name, ``"weight"``.
        operation: ``"conv2d"``.
        part: what the part is, ``"auxiliary 1"``, ``"branch"``, ``"3"``.
        norm: Euclidean.
        share: ⟨part, whole⟩ / ⟨whole, whole⟩: how much of the whole it makes up. Shares add up to 1; one is negative
            where the part points against the whole. NaN where the whole is 0.
        number: of the array, counted from the first layer; the parts of one array have the same.
    """

    path: str
    array: str
    operation: str
    part: str
    norm: float
    share: float
    number: int = 0


@dataclass(frozen=True)
class Provenance:
    """The parts that gradients consist of, in the order of the network's layers.

    Attributes:
        by: what they were divided by: ``"loss"``, ``"branches"`` or ``"blocks"``.
        parts: a `Part` for each part of each array.
    """

    by: str
    parts: tuple[Part, ...]
    title: str = field(default="")

    def of(self, path: str, array: str = "output") -> dict[str, float]:
        """The share of each part in one array's gradient; of several operations in a layer the last.

        Raises:
            ValueError: there is no such array.
        """
        found = [p for p in self.parts if (p.path, p.array) == (path, array)]
        if not found:
            known = dict.fromkeys(p.path for p in self.parts)
            raise ValueError(f"provenance: there is no {array} of {path!r}. Layers are {', '.join(known)}")
        return {p.part: p.share for p in found if p.number == found[-1].number}

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        return {"by": self.by, "parts": [asdict(part) for part in self.parts]}

    def to_csv(self) -> str:
        """A line for each part."""
        return as_csv([asdict(part) for part in self.parts])

    def _table(self) -> tuple[str, Sequence[str], list[Sequence[str]]]:
        names, arrays = self._names(), self._arrays()
        rows: list[Sequence[str]] = [
            (path or "(network)", f"{array} of {operation}" if array == "output" else array,
             *(f"{100 * shares[name]:.1f} %" if name in shares else "" for name in names))
            for (path, array, operation, _), shares in arrays.items()
        ]  # fmt: skip
        return self.title, ("layer", "gradient of", *names), rows

    def __str__(self) -> str:
        return table.as_text(*self._table(), words=2)

    __repr__ = __str__  # at a prompt, and in a notebook that shows no HTML

    def _repr_html_(self) -> str:
        return table.as_html(*self._table())

    def _names(self) -> list[str]:
        return list(dict.fromkeys(part.part for part in self.parts))

    def _arrays(self) -> dict[tuple[str, str, str, int], dict[str, float]]:
        """The shares of each array's parts, in order."""
        arrays: dict[tuple[str, str, str, int], dict[str, float]] = {}
        for p in self.parts:
            arrays.setdefault((p.path, p.array, p.operation, p.number), {})[p.part] = p.share
        return arrays

    def plot(self, ax: Any = None, array: str = "weight") -> Any:
        """Draw who feeds which layer: shares stacked on each other, the network's first layer at the left.

        Args:
            ax: matplotlib's axes; new ones by default.
            array: whose gradients: ``"weight"``, ``"output"``.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is missing; the message names the extra.
        """
        ax = axes(ax, width=9)
        columns = [(key[0], shares) for key, shares in self._arrays().items() if key[1] == array]
        above, below = np.zeros(len(columns)), np.zeros(len(columns))
        for i, name in enumerate(self._names()):
            shares = np.nan_to_num([shares.get(name, 0.0) for _, shares in columns])
            start = np.where(shares >= 0, above, below)  # parts against the whole hang below zero
            colour = _colour(i, len(self._names()))
            ax.bar(range(len(columns)), shares, bottom=start, width=0.9, color=colour, label=name)
            above, below = above + np.maximum(shares, 0), below + np.minimum(shares, 0)
        ax.axhline(1, color="black", lw=0.8, ls=":")
        ax.axhline(0, color="black", lw=0.8)
        label_layers(ax, range(len(columns)), {i: path for i, (path, _) in enumerate(columns)})
        ax.set(ylabel=f"share of the gradient of the {array}", xlim=(-0.6, len(columns) - 0.4))
        ax.set_title(self.title, loc="left", fontsize=10)
        ax.legend(title=self.by, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
        return ax


def _colour(i: int, count: int) -> Any:
    if count <= len(COLOURS):
        return COLOURS[i]
    from matplotlib import colormaps

    return colormaps["viridis"](i / (count - 1))  # a number of branches is an order


def provenance(losses: Tensor | Mapping[str, Tensor], model: Module, by: str = "loss") -> Provenance:
    """Divide the gradients of a network's layers into parts that add up to them.

    Args:
        losses: the loss; or its terms by their names, each with its weight in the sum::

                main, aux2, aux1 = (F.cross_entropy(scores, labels) for scores in model(images))
                provenance({"main": main, "auxiliary 2": 0.3 * aux2, "auxiliary 1": 0.3 * aux1}, model)

        model: whose layers are looked at.
        by: ``"loss"``: a part for each term.
            ``"branches"``: a part for each number of residual branches that a path went through, from 0 (all
            shortcuts) to the number of blocks (Veit et al. 2016, section 4). A block whose input is the network's own
            is not among them: no layer lies before it.
            ``"blocks"``: at the input of each residual block, what came through its shortcut, through its branch, and
            from elsewhere (another use of that value). Blocks are sums of two: ``x + f(x) + g(x)`` is one inside of
            another, and the shortcut is the shorter way. Of several in a module each is named ``"block (sum 1)"``.

    Raises:
        ValueError: no operation of `model` is behind the losses; another `by`; ``"branches"`` or ``"blocks"`` of a
            network that has no residual blocks.
        RuntimeError: as `backward_parts`.
    """
    terms = {"loss": losses} if isinstance(losses, Tensor) else dict(losses)
    if by not in ("loss", "branches", "blocks"):
        raise ValueError(f"provenance: by is {by!r}, and must be 'loss', 'branches' or 'blocks'")
    name = getattr(model, "architecture", type(model).__name__)
    title = f"{name}: where its gradients come from, by {by}"
    if not any(model in node.scope for loss in terms.values() if loss.node for node in reachable(loss.node)):
        given = ", ".join(terms) or "there are none"
        raise ValueError(f"provenance: no operation of {name} is behind the losses: {given}")
    if by == "loss":
        return Provenance(by, tuple(_parts_of_layers(backward_parts(terms), model, list(terms))), title)
    joints = {j.node: j for loss in terms.values() for j in residual_joints(loss, model)}
    if not joints:
        raise ValueError(f"provenance: {name} has no sum of a branch and a shortcut, so there is no by={by!r}")
    if by == "blocks":
        return Provenance(by, tuple(_parts_of_blocks(terms, model, joints)), title)

    def relabel(node: Node, i: int, label: Label) -> Label:
        return label + (node in joints and joints[node].branch == i)  # type: ignore[operator]

    steps = backward_parts({0: _sum(terms)}, relabel)
    return Provenance(by, tuple(_parts_of_layers(steps, model, range(len(joints) + 1))), title)


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    return functools.reduce(operator.add, terms.values())


def _parts_of_layers(steps: Iterator[PartStep], model: Module, order: Sequence[Label]) -> list[Part]:
    """The parts of every output's and every parameter's gradient, first layer first."""
    outputs: list[tuple[Node, list[tuple[str, float, float]]]] = []
    parameters: dict[Parameter, tuple[Node, Parts]] = {}
    for step in steps:
        node = step.node
        if model not in node.scope:
            continue
        outputs.append((node, _measured(step.grad_output, order)))
        for source, grads in zip(node.inputs, step.grad_inputs, strict=True):
            if isinstance(source, Parameter):
                first, parts = parameters.get(source, (node, {}))
                for label, grad in grads.items():
                    _add(parts, label, grad)
                parameters[source] = min(first, node, key=lambda n: n.sequence), parts
    names = {parameter: name for name, parameter in model.named_parameters()}
    of_node: dict[Node, list[tuple[str, str, Parts]]] = defaultdict(list)
    for parameter, (node, parts) in parameters.items():
        path, _, array = names.get(parameter, "?").rpartition(".")
        of_node[node].append((path, array, parts))
    arrays: list[tuple[str, str, str, list[tuple[str, float, float]]]] = []
    for node, measured in reversed(outputs):
        for path, array, parts in of_node[node]:
            arrays.append((path, array, node.op.name, _measured(parts, order)))
        arrays.append((path_in(node, model), "output", node.op.name, measured))
    return [
        Part(path, array, operation, *numbers, i)
        for i, (path, array, operation, measured) in enumerate(arrays)
        for numbers in measured
    ]


def _measured(parts: Parts, order: Sequence[Label]) -> list[tuple[str, float, float]]:
    """For each part its name, norm and share of the whole, in this order."""
    flat = {label: backend.to_host(grad).astype(np.float64).ravel() for label, grad in parts.items()}
    whole = np.sum(list(flat.values()), axis=0)
    size: float = get_total_norm(whole)
    with np.errstate(all="ignore"):
        direction = whole / size  # what the whole is divided by twice would be too small, or too large, if squared
        return [
            (str(label), get_total_norm(part), float(part / size @ direction))
            for label in order
            if (part := flat.get(label)) is not None
        ]


def _parts_of_blocks(terms: Mapping[str, Tensor], model: Module, joints: Mapping[Node, Joint]) -> list[Part]:
    """At the input of each block its parts. A label is the way so far: (joint, side) for each block it is inside of."""
    found: list[Part] = []
    starts: dict[Node, list[Joint]] = defaultdict(list)
    for joint in joints.values():
        starts[joint.start].append(joint)
    place = {joint: i for i, joint in enumerate(joints.values())}
    of_module: dict[str, list[Joint]] = defaultdict(list)
    for joint in joints.values():
        of_module[joint.name].append(joint)
    names = {
        joint: name if len(all_there) == 1 else f"{name} (sum {i})".strip()
        for name, all_there in of_module.items()
        for i, joint in enumerate(all_there, 1)
    }

    def relabel(node: Node, i: int, label: Any) -> Label:
        if node not in joints:
            return label
        return (*label, (node, "branch" if joints[node].branch == i else "shortcut"))

    def arrive(node: Node, parts: Parts) -> Parts:
        for joint in starts[node]:
            sides: Parts = {}
            merged: Parts = {}
            for label, grad in parts.items():
                here = dict(label)  # type: ignore[call-overload]
                _add(sides, here.pop(joint.node, "elsewhere"), grad)
                _add(merged, tuple(here.items()), grad)
            measured = _measured(sides, ("shortcut", "branch", "elsewhere"))
            found.extend(Part(names[joint], "input", "add", *numbers, place[joint]) for numbers in measured)
            parts = merged
        return parts

    for _ in backward_parts({(): _sum(terms)}, relabel, arrive):
        pass
    return sorted(found, key=lambda part: part.number)
