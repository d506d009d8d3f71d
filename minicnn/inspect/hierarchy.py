"""What ran, as a tree: operations inside the calls of the modules that they belong to, in rows from top to bottom.

A `Group` is one call of a module. Its items stand in rows, and its links lead from a row to the next one only: what
goes further has a `Lane` in each row that it passes, and what enters or leaves a group does so through a lane of the
group's first or last row. So each group can be drawn by itself, and folded, without a look at the others.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine import Node, Parameter, Scope, Tensor, module_path

FAMILIES = {
    "convolution": ("conv2d",),
    "pooling": ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
    "linear": ("linear", "matmul"),
    "activation": (
        "relu", "leaky_relu", "elu", "silu", "softplus", "sigmoid", "tanh", "softmax", "log_softmax",
    ),
    "norm": ("batch_norm", "batch_norm_eval", "local_response_norm"),
    "joint": ("add", "sub", "mul", "div", "cat"),
    "loss": ("cross_entropy", "soft_cross_entropy", "nll_loss", "mse_loss"),
}  # fmt: skip
FAMILY = {name: family for family, names in FAMILIES.items() for name in names}


@dataclass(eq=False)
class Item:
    """Something with a place in the drawing.

    Attributes:
        id: a number of its own in the graph.
        parent: the group that it stands in; None for the root.
    """

    id: int = field(default=-1, init=False)
    parent: Group | None = field(default=None, init=False, repr=False)


@dataclass(eq=False)
class Operation(Item):
    """An operation that ran.

    Attributes:
        node: of the engine's graph.
        label: its name, or the layer's class where the layer is this one operation.
        detail: the shape of its output without the batch, ``6×28×28``.
        note: its parameters and their shapes, ``weight 6×1×5×5, bias 6``.
        name: the layer's name in its group; empty for an operation of the group's own.
        path: the layer's dotted path.
    """

    node: Node
    label: str
    detail: str = ""
    note: str = ""
    name: str = ""
    path: str = ""

    @property
    def family(self) -> str:
        return FAMILY.get(self.node.op.name, "other")


@dataclass(eq=False)
class Source(Item):
    """A value that no operation here made, and that is no parameter: an input, a target or a constant."""

    tensor: Tensor = field(repr=False)
    label: str
    detail: str = ""


@dataclass(eq=False)
class Failure(Item):
    """Where an error ended the pass."""

    error: Exception
    path: str = ""


@dataclass(eq=False)
class Lane(Item):
    """A value on its way past a row or, in a group's first and last row, into the group and out of it."""

    value: Item


@dataclass(eq=False)
class Group(Item):
    """One call of a module, and what ran in it; the root stands for everything.

    Attributes:
        path: the module's dotted path; empty for the outermost module, and for the root.
        kind: the module's class; empty for the root.
        name: the module's name in the group around it.
        level: how many modules are around it; -1 for the root.
        folded: whether it is to be drawn as one box.
        items: what ran, in that order, sources first.
        inputs, outputs: the lanes in which values come in and go out, by the operation or source that made them.
        rows: the items and the lanes between them as they stand, from top to bottom and from left to right.
        links: from an item in a row to one in the next. An end at a group is its lane there, one of its `inputs` or
            `outputs`.
    """

    path: str = ""
    kind: str = ""
    name: str = ""
    level: int = -1
    module: Any = field(default=None, repr=False)
    folded: bool = False
    items: list[Item] = field(default_factory=list, repr=False)
    inputs: dict[Item, Lane] = field(default_factory=dict, repr=False)
    outputs: dict[Item, Lane] = field(default_factory=dict, repr=False)
    rows: list[list[Item]] = field(default_factory=list, repr=False)
    links: list[tuple[Item, Item]] = field(default_factory=list, repr=False)

    @property
    def title(self) -> str:
        return f"{self.name} ({self.kind})" if self.name else self.kind

    def add(self, item: Any) -> Any:
        self.items.append(item)
        item.parent = self
        return item

    def holding(self, item: Item) -> Item:
        """The end of one of this group's links as an item of its rows: for another group's lane, that group."""
        return item if item.parent is self or item.parent is None else item.parent

    def operations(self) -> Iterator[Operation]:
        """All in it, in the order they ran."""
        for item in self.items:
            if isinstance(item, Group):
                yield from item.operations()
            elif isinstance(item, Operation):
                yield item


def shown(item: Item) -> Item:
    """`item`, or the outermost folded group that hides it."""
    groups = (group for group in around(item) if group.folded)
    return next(groups, item)


def around(item: Item) -> list[Group]:
    """The groups that `item` stands in, the root first."""
    groups: list[Group] = []
    group = item.parent
    while group is not None:
        groups.append(group)
        group = group.parent
    return groups[::-1]


# ------------------------------------------------------------------------------------------------ the tree


def grow(steps: Sequence[tuple[Operation | Failure, Scope]], depth: int | None) -> Group:
    """The root of a tree of the items in `steps`, each with the calls that it ran in. A layer that holds no others and
    ran a single operation is that operation."""
    root = Group()
    open_groups = [root]
    running: list[Scope] = []
    for item, scope in steps:
        before, running = running, _calls(scope)
        kept = agreeing(before, running)
        del open_groups[kept + 1 :]
        for module in scope[kept:]:
            parent = open_groups[-1]
            name = module_path((parent.module, module)) if parent.module is not None else ""
            path = f"{parent.path}.{name}" if parent.path and name else parent.path or name
            level = parent.level + 1
            folded = depth is not None and level >= depth
            group = Group(path, type(module).__name__, name, level, module, folded)
            open_groups.append(parent.add(group))
        item.path = open_groups[-1].path
        open_groups[-1].add(item)
    _collapse(root)
    return root


def _calls(scope: Scope) -> list[Scope]:
    """The calls around an operation, the outermost first."""
    calls = []
    while scope.outer is not None:
        calls.append(scope)
        scope = scope.outer
    return calls[::-1]


def agreeing(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items, from the first on, are the same in both."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x is not y), min(len(a), len(b)))


def _collapse(group: Group) -> None:
    """Put the single operation of a layer that holds no others in the layer's place."""
    for i, child in enumerate(group.items):
        if not isinstance(child, Group):
            continue
        _collapse(child)
        only = child.items[0]
        if len(child.items) == 1 and not getattr(child.module, "_modules", None) and not isinstance(only, Group):
            group.items[i], only.parent = only, group
            if isinstance(only, Operation):
                only.label, only.name = child.kind, child.name


def sources_of(item: Operation) -> Iterator[tuple[int, Node | Tensor]]:
    """What an operation was made from, with its argument's position; without parameters and dropout's mask."""
    for i, source in enumerate(item.node.inputs):
        if source is None or isinstance(source, Parameter) or (item.node.op.name == "dropout" and i == 1):
            continue
        yield i, source


def connect(root: Group, edges: Sequence[tuple[Item, Item]]) -> None:
    """Lead each edge through the groups between its ends, put what is in them into rows, and give all their ids."""
    wires: dict[Group, list[tuple[Item, Item]]] = defaultdict(list)
    for maker, user in edges:
        groups, target_groups = around(maker), around(user)
        common = agreeing(groups, target_groups)
        tail, head = maker, user
        for group in groups[: common - 1 : -1]:
            if maker not in group.outputs:
                group.outputs[maker] = _port(group, maker)
                wires[group].append((tail, group.outputs[maker]))
            tail = group.outputs[maker]
        for group in target_groups[: common - 1 : -1]:
            known = maker in group.inputs
            if not known:
                group.inputs[maker] = _port(group, maker)
            wires[group].append((group.inputs[maker], head))
            head = group.inputs[maker]
            if known:
                break
        else:
            wires[groups[common - 1]].append((tail, head))
    _arrange(root, wires)
    _number(root)


def _port(group: Group, maker: Item) -> Lane:
    lane = Lane(maker)
    lane.parent = group
    return lane


# ------------------------------------------------------------------------------------------------ rows


def _arrange(group: Group, wires: dict[Group, list[tuple[Item, Item]]]) -> None:
    """Put the items of `group`, and of the groups in it, into rows."""
    for item in group.items:
        if isinstance(item, Group):
            _arrange(item, wires)
    row = _ranks(group, wires[group])
    levels = {level: i for i, level in enumerate(sorted(set(row.values())))}
    group.rows = [[] for _ in levels]
    for item, level in row.items():
        row[item] = levels[level]
        group.rows[levels[level]].append(item)
    lanes: dict[tuple[Item, int], Lane] = {}
    for tail, head in wires[group]:
        here, value = tail, tail.value if isinstance(tail, Lane) else tail
        for level in range(row[group.holding(tail)] + 1, row[group.holding(head)]):
            if (tail, level) not in lanes:
                lanes[tail, level] = _port(group, value)
                group.rows[level].append(lanes[tail, level])
                group.links.append((here, lanes[tail, level]))
            here = lanes[tail, level]
        group.links.append((here, head))
    _untangle(group)


def _ranks(group: Group, wires: list[tuple[Item, Item]]) -> dict[Item, int]:
    """The row of each item: as many rows down as the longest way to it has steps."""
    before: dict[Item, list[Item]] = defaultdict(list)
    after: dict[Item, list[Item]] = defaultdict(list)
    for tail, head in wires:
        before[group.holding(head)].append(group.holding(tail))
        after[group.holding(tail)].append(group.holding(head))
    row: dict[Item, int] = dict.fromkeys(group.inputs.values(), 0)
    for item in group.items:
        row[item] = max((row[b] + 1 for b in before[item]), default=1 if group.inputs else 0)
    row.update(dict.fromkeys(group.outputs.values(), max(row.values(), default=-1) + 1))
    # What follows from no input (a constant, what is made of parameters alone) stands just above what it is for.
    grounded: set[Item] = {i for i in row if isinstance(i, Lane) or (isinstance(i, Source) and i.label == "input")}
    for item in group.items:
        if any(b in grounded for b in before[item]):
            grounded.add(item)
    for item in reversed(group.items):
        if after[item] and (item not in grounded or not before[item]):
            row[item] = min(row[a] for a in after[item]) - 1
    return row


def _untangle(group: Group, sweeps: int = 8) -> None:
    """Order each row by where the neighbours of its items stand, and keep the order with the fewest crossings."""
    above: dict[Item, list[Item]] = defaultdict(list)
    below: dict[Item, list[Item]] = defaultdict(list)
    for tail, head in group.links:
        below[group.holding(tail)].append(head)
        above[group.holding(head)].append(tail)
    best, fewest = group.rows, _crossings(group)
    for sweep in range(sweeps):
        if not fewest:
            break
        group.rows = [list(row) for row in group.rows]
        place = _places(group)
        for row in group.rows if sweep % 2 == 0 else group.rows[::-1]:
            ends = above if sweep % 2 == 0 else below
            mean = {x: sum(place[e] for e in ends[x]) / len(ends[x]) if ends[x] else place[x] for x in row}
            if sweep % 4 >= 2:  # those of equal means the other way round
                row.reverse()
            row.sort(key=mean.__getitem__)
            place.update(_places(group, row))
        _switch(group, above, below)
        crossings = _crossings(group)
        if crossings < fewest:
            best, fewest = group.rows, crossings
    group.rows = best


def _switch(group: Group, above: dict[Item, list[Item]], below: dict[Item, list[Item]]) -> None:
    """Exchange neighbours in a row wherever their own links then cross less, until there are no such."""
    place = _places(group)

    def crossing(a: Item, b: Item) -> int:
        return sum(place[x] > place[y] for side in (above, below) for x in side[a] for y in side[b])

    changed = True
    while changed:
        changed = False
        for row in group.rows:
            for i in range(len(row) - 1):
                if crossing(row[i], row[i + 1]) > crossing(row[i + 1], row[i]):
                    row[i], row[i + 1] = row[i + 1], row[i]
                    place.update(_places(group, row))
                    changed = True


def _places(group: Group, *rows: list[Item]) -> dict[Item, float]:
    """Where each end of a link stands in its row; the lanes of a group in it side by side within its place."""
    place: dict[Item, float] = {}
    for row in rows or group.rows:
        for i, item in enumerate(row):
            place[item] = i
            if isinstance(item, Group):
                for ports in (item.inputs, item.outputs):
                    lanes = [x for x in (*item.rows[0], *item.rows[-1]) if x in set(ports.values())]
                    place.update({x: i + (k + 1) / (len(lanes) + 1) - 0.5 for k, x in enumerate(lanes)})
    return place


def _crossings(group: Group) -> int:
    place = _places(group)
    row = {item: r for r, items in enumerate(group.rows) for item in items}
    between: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for tail, head in group.links:
        between[row[group.holding(tail)]].append((place[tail], place[head]))
    pairs = (pair for ends in between.values() for pair in itertools.combinations(ends, 2))
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in pairs)


def _number(root: Group) -> None:
    ids = itertools.count()

    def visit(item: Item) -> None:
        item.id = next(ids)
        if isinstance(item, Group):
            for row in item.rows:
                for each in row:
                    visit(each)

    visit(root)
