"""`draw_blocks`: a network as a row of boxes, made from a pass without arithmetic."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

from ..engine import Node
from ..nn import Module
from .plotting import axes
from .trace import trace

# What is drawn, and in which of Okabe and Ito's colours, which colour-blind readers can tell apart too.
COLOURS = {
    "conv2d": ("convolution", "#0072B2"),
    "max_pool2d": ("pooling", "#999999"),
    "avg_pool2d": ("pooling", "#999999"),
    "adaptive_avg_pool2d": ("pooling", "#999999"),
    "linear": ("fully connected", "#D55E00"),
}
JOINTS = {"add": "+", "cat": "‖"}  # where branches meet


def columns(nodes: list[Node]) -> tuple[dict[Node, int], list[tuple[Node, Node]]]:
    """Where each operation that is drawn stands, and which follow each other.

    Returns:
        The column of each (how many drawn operations the longest way to it has), and the edges between them; what is
        not drawn (activations, normalisation, dropout, flattening) is passed through. A sum or concatenation of
        a single drawn operation is not drawn either (the bias of a layer).
    """
    shown: dict[Node, list[Node]] = {}  # the drawn operations that each operation's output comes from
    column: dict[Node, int] = {}
    edges = []
    for node in nodes:
        before = list(dict.fromkeys(n for s in node.inputs if isinstance(s, Node) for n in shown.get(s, [])))
        if node.op.name not in COLOURS and not (node.op.name in JOINTS and len(before) > 1):
            shown[node] = before
            continue
        shown[node] = [node]
        column[node] = 1 + max((column[n] for n in before), default=-1)
        edges += [(n, node) for n in before]
    return column, edges


def places(
    column: dict[Node, int], edges: list[tuple[Node, Node]], height: dict[Node, float]
) -> dict[Node, tuple[float, float]]:
    """The centre of each box: its column, and a row in it. A branch keeps its row until it meets the others."""
    before: dict[Any, Node] = {b: a for a, b in edges}
    branches = Counter(a for a, _ in edges)
    stacks: dict[int, list[Any]] = defaultdict(list)
    for node, position in column.items():
        stacks[position].append(node)
    for a, b in edges:
        for position in range(column[a] + 1, column[b] if branches[a] == 1 else 0):
            before[a, position] = a  # holds the row of a branch that is shorter than the others
            stacks[position].append((a, position))
    place: dict[Node, tuple[float, float]] = {}
    for position, stack in sorted(stacks.items()):
        stack.sort(key=lambda n: -place[before[n]][1] if n in before else 0)
        pitch = 0.18 + max(height.get(n, 0) for n in stack)
        for i, node in enumerate(stack):
            if node in column:
                place[node] = (position, pitch * ((len(stack) - 1) / 2 - i))
    return place


def draw_blocks(model: Module, input_shape: tuple[int, ...], ax: Any = None) -> Any:
    """Draw a network: a box for each convolution, pooling and fully connected layer, branches above each other.

    A box's height grows with the side of its maps, its width with their channels (logarithmically); lines show what
    follows what, so that inception's branches and residual shortcuts can be seen. Joints are + (sum) and ‖
    (concatenation).

    Args:
        model: any module, in the mode that it is in.
        input_shape: (N, C, H, W).
        ax: matplotlib's axes to draw on; new ones by default.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is missing; the message names the extra.
        ValueError: a shape that the network cannot take.
    """
    column, edges = columns(trace(model, tuple(input_shape)).nodes)
    side = {node: node.shape[2] if len(node.shape) == 4 else 1 for node in column}
    tallest = max(input_shape[2], 1)
    height = {node: 0.12 + 0.88 * math.sqrt(side[node] / tallest) for node in column}
    place = places(column, edges, height)
    last = max(column.values())
    ax = axes(ax, max(6, 0.28 * last), 3.2)
    from matplotlib.patches import Patch, Rectangle

    for a, b in edges:
        (xa, ya), (xb, yb) = place[a], place[b]
        line: list[tuple[float, float]] = [(xa, ya), (xb, yb)]
        if xb - xa > 1 and ya == yb:  # what passes other boxes goes above them
            above = ya + max((height[n] for n, (x, y) in place.items() if xa < x < xb and y == ya), default=0) / 2
            line[1:1] = [(xa + 0.4, above + 0.12), (xb - 0.4, above + 0.12)]
        elif xb - xa > 1:  # or stays in its own row as long as it can
            line[1:1] = [(xb - 0.6, ya)]
        ax.plot(*zip(*line, strict=True), color="#555555", lw=0.8, zorder=1)
    for node, (x, y) in place.items():
        if node.op.name in JOINTS:
            ax.text(x, y, JOINTS[node.op.name], ha="center", va="center", fontsize=8, zorder=3)
            ax.plot(x, y, "o", ms=9, mfc="white", mec="#555555", mew=0.8, zorder=2)
        else:
            w, h = 0.12 + 0.06 * math.log2(node.shape[1]), height[node]
            colour = COLOURS[node.op.name][1]
            ax.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fc=colour, ec="white", lw=0.4, zorder=2))
    drawn = dict.fromkeys(COLOURS[node.op.name] for node in place if node.op.name in COLOURS)
    legend = [Patch(fc=colour, label=label) for label, colour in drawn]
    ax.legend(handles=legend, loc="upper right", frameon=False, fontsize=8, ncols=len(legend))
    top = max(y + height[node] / 2 for node, (_, y) in place.items())
    ax.set(xlim=(-0.8, last + 0.8), ylim=(-top - 0.35, top + 0.5), aspect="auto")
    ax.set_title(f"{type(model).__name__}, {'×'.join(map(str, input_shape[1:]))}", loc="left", fontsize=10)
    ax.axis("off")
    return ax
