"""Where everything in a graph's drawing stands: sizes from the inside out, then places from the outside in.

Within a group each row is as high as its highest item. Links bend in the space between two rows only; beside an item
that is lower than its row they run straight down. So no line can cross a box, whatever is inside the groups.
"""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .hierarchy import Failure, Group, Item, Lane, Operation, Source

HEADER = 22.0  # of a group, where its title stands
PADDING = 12.0  # between a group's frame and what is in it
BESIDE = 18.0  # between items of a row
BELOW = 24.0  # between rows, and more where lines go far to the side
LINE = 15.0  # from a line of text to the next
LANE = 10.0  # the width that a lane is given
SPREAD = 11.0  # between the heads of lines that enter one box
SIZE = 12.0  # of the letters

Ends = dict[Item, list[tuple[Item, float, float]]]  # what each item is linked to, how far beside it, how firmly


class Box(NamedTuple):
    """A rectangle; y grows downward."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> float:
        return self.x + self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


class Curve(NamedTuple):
    """A link as drawn: straight down from `start` to the end of the row at `turn`, then in a bend to `end`."""

    tail: Item
    head: Item
    start: tuple[float, float]
    turn: float
    end: tuple[float, float]


@dataclass
class Layout:
    """Places in units of pixels.

    Attributes:
        boxes: of every item that is drawn. A lane's has no width; that of a group's input is as high as the group's
            header, that of its output has no height.
        curves: of every link that is drawn, by the group that it is in.
    """

    boxes: dict[Item, Box] = field(default_factory=dict)
    curves: dict[Group, list[Curve]] = field(default_factory=dict)


def place(root: Group) -> Layout:
    """Find a place for everything in `root`; the upper left corner is (0, 0)."""
    plans: dict[Group, _Plan] = {}
    _plan(root, plans)
    layout = Layout()
    _settle(root, 0.0, 0.0, plans, layout)
    return layout


# ------------------------------------------------------------------------------------------------ text


def lines_of(item: Item) -> list[tuple[str, str]]:
    """The lines of text in a box, each as what stands out in it and the rest."""
    if isinstance(item, Operation):
        return [(item.label, item.name), *(("", text) for text in (item.detail, item.note) if text)]
    if isinstance(item, Source):
        return [(item.label, ""), *([("", item.detail)] if item.detail else [])]
    if isinstance(item, Failure):
        where, colon, why = str(item.error).partition(": ")
        if not colon or len(where) > 60:
            where, why = type(item.error).__name__, str(item.error)
        return [(f"✗ {where}", ""), *(("", line) for line in textwrap.wrap(why, 44, max_lines=6, placeholder=" …"))]
    if isinstance(item, Group):
        operations = list(item.operations())
        count = f"{len(operations)} operation" + ("s" if len(operations) != 1 else "")
        made = [maker.detail for maker in item.outputs if isinstance(maker, Operation)]
        detail = (made or [operations[-1].detail] if operations else [""])[0]
        return [(item.name or item.kind, f"({item.kind})" if item.name else ""), ("", detail), ("", count)]
    return []


def text_width(text: str, size: float = SIZE, bold: bool = False) -> float:
    """About how wide `text` is, in a wide sans-serif letter, so that it fits in others too."""
    units = 0.0
    for letter in text:
        if letter in "iljtfrI.,:;'|()[]! ·":
            units += 0.38
        elif letter in "mwMW@%" or unicodedata.east_asian_width(letter) in "WF":
            units += 1.0
        else:
            units += 0.72 if letter.isupper() or letter == "×" else 0.62
    return units * size * (1.08 if bold else 1.0)


def _text_size(item: Item) -> tuple[float, float]:
    lines = lines_of(item)
    widths = (
        text_width(strong, bold=True) + text_width(rest) + (5 if strong and rest else 0) for strong, rest in lines
    )
    return max(56.0, max(widths) + 20), len(lines) * LINE + 11


# ------------------------------------------------------------------------------------------------ sizes


@dataclass
class _Plan:
    """A group by itself: its size, and where in it things stand."""

    width: float
    height: float
    boxes: dict[Item, Box]
    bottoms: list[float]  # of its rows


def _plan(group: Group, plans: dict[Group, _Plan]) -> None:
    if group.folded:
        width, height = _text_size(group)
        ports: dict[Item, Box] = {}
        for lanes, y in ((group.rows[0], 0.0), (group.rows[-1], height)):
            among = [x for x in lanes if isinstance(x, Lane) and x in _ports(group)]
            ports.update({x: Box(width * (k + 1) / (len(among) + 1), y, 0, 0) for k, x in enumerate(among)})
        plans[group] = _Plan(width, height, ports, [])
        return
    size: dict[Item, tuple[float, float]] = {}
    for item in (item for row in group.rows for item in row):
        if isinstance(item, Group):
            _plan(item, plans)
            size[item] = plans[item].width, plans[item].height
        else:
            size[item] = (LANE, 0.0) if isinstance(item, Lane) else _text_size(item)
    centre = _columns(group, size, plans)
    left = min(centre[x] - size[x][0] / 2 for x in centre)
    right = max(centre[x] + size[x][0] / 2 for x in centre)
    titled = group.level >= 0
    title = text_width(group.title, bold=True) + 8 if titled else 0.0
    width = max(right - left + 2 * PADDING, title + 2 * PADDING)
    shift = width / 2 - (left + right) / 2

    reach = [0.0] * len(group.rows)  # how far the lines below each row go to the side
    row_of = {item: r for r, row in enumerate(group.rows) for item in row}
    for tail, head in group.links:
        r = row_of[group.holding(tail)]
        way = _end(group, tail, centre, plans) - _end(group, head, centre, plans)
        reach[r] = max(reach[r], abs(way))
    boxes: dict[Item, Box] = {}
    bottoms = []
    y = 0.0 if not titled or group.inputs else HEADER + PADDING
    for r, row in enumerate(group.rows):
        entry = bool(group.inputs) and r == 0
        height = HEADER if entry else max(size[x][1] for x in row)
        for item in row:
            w, h = size[item]
            x = centre[item] + shift
            if isinstance(item, Lane):
                boxes[item] = Box(x, y, 0, height)
            else:
                boxes[item] = Box(x - w / 2, y, w, h)
        y += height
        bottoms.append(y)
        if r + 1 < len(group.rows):
            y += (16 if entry else BELOW) + min(36.0, reach[r] / 9)
    if titled and not group.outputs:
        y += PADDING
    plans[group] = _Plan(width, y, boxes, bottoms)


def _ports(group: Group) -> set[Item]:
    return {*group.inputs.values(), *group.outputs.values()}


def _end(group: Group, end: Item, centre: dict[Item, float], plans: dict[Group, _Plan]) -> float:
    """Where a link of `group` ends, from left to right."""
    held = group.holding(end)
    if isinstance(held, Group):
        return centre[held] + plans[held].boxes[end].x - plans[held].width / 2
    return centre[held]


def _columns(group: Group, size: dict[Item, tuple[float, float]], plans: dict[Group, _Plan]) -> dict[Item, float]:
    """The centre of each item, from left to right: as near as can be to those that it is linked to, above and below."""
    centre: dict[Item, float] = {}
    for row in group.rows:
        x = 0.0
        for item in row:
            centre[item] = x + size[item][0] / 2
            x += size[item][0] + BESIDE
        for item in row:
            centre[item] -= x / 2
    ports = _ports(group)
    passing: set[Item] = {x for row in group.rows for x in row if isinstance(x, Lane) and x not in ports}
    above: Ends = defaultdict(list)
    below: Ends = defaultdict(list)
    main = _trunk(group, passing)
    for tail, head in group.links:
        a, b = group.holding(tail), group.holding(head)
        way = _end(group, tail, centre, plans) - centre[a] - (_end(group, head, centre, plans) - centre[b])
        above[b].append((a, way, main[a, b] if b not in passing else 1.0 if a in passing else 0.05))
        below[a].append((b, -way, main[a, b] if a not in passing else 1.0 if b in passing else 0.01))
    # Where there is no room for all, lanes give way, and what is beside the trunk.
    firm = {x: 1e-5 if x in passing else max((main[a, x] for a, _, _ in above[x]), default=1e-6) for x in centre}

    def settle(row: Sequence[Item], ends: Ends) -> None:
        wanted = []
        for item in row:
            total = sum(weight for _, _, weight in ends[item])
            mean = sum(weight * (centre[other] + way) for other, way, weight in ends[item]) / (total or 1.0)
            wanted.append(mean if total else centre[item])
        gaps = [
            (size[a][0] + size[b][0]) / 2 + (4.0 if a in passing and b in passing else BESIDE)
            for a, b in itertools.pairwise(row)
        ]
        centre.update(zip(row, nearest(wanted, gaps, [firm[item] for item in row]), strict=True))

    for _ in range(8):
        for row in group.rows:
            settle(row, above)
        for row in reversed(group.rows):
            settle(row, below)
    # At last boxes stand under what they follow; then lanes make room for the widest box that they pass, all the way.
    # What follows nothing stands over what it is for.
    down = {x: [e for e in above[x] if x not in passing or e[0] in passing] for x in centre}
    up = {x: [e for e in below[x] if (e[0] in passing if x in passing else not above[x])] for x in centre}
    for rows, ends in ((group.rows, down), (group.rows[::-1], up), (group.rows, down)):
        for row in rows:
            settle(row, ends)
    return centre


def _trunk(group: Group, passing: set[Item]) -> dict[tuple[Item, Item], float]:
    """How firmly the ends of each link are to stand below each other.

    The way on is to be straight: from each item to those with the longest way still before them, not to an auxiliary
    head; past the boxes of a residual branch, not along its shortcut; and from values that come from an input, not from
    constants or from what is made of parameters alone.
    """
    links = [(group.holding(tail), group.holding(head)) for tail, head in group.links]
    rest: dict[Item, int] = defaultdict(int)  # how many boxes the longest way on has
    row_of = {item: r for r, row in enumerate(group.rows) for item in row}
    for a, b in sorted(links, key=lambda link: -row_of[link[0]]):
        rest[a] = max(rest[a], rest[b] + (b not in passing))
    fed = {x for x in row_of if x in _ports(group) or (isinstance(x, Source) and x.label == "input")}
    for a, b in sorted(links, key=lambda link: row_of[link[0]]):
        if a in fed:
            fed.add(b)
    firmness = {}
    for a, b in links:
        if a not in fed:
            firmness[a, b] = 1e-6
        elif a in passing or b in passing:
            firmness[a, b] = 1e-5
        else:
            firmness[a, b] = 1.0 if rest[b] + 1 == rest[a] else 1e-4
    return firmness


def nearest(wanted: Sequence[float], gaps: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The places nearest to those that are wanted (by weighted squares) with at least `gaps[i]` from i to i + 1.

    Without the gaps this is isotonic regression, solved by joining neighbours that are in each other's way.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    blocks: list[list[float]] = []  # mean, weight, how many
    for want, offset, weight in zip(wanted, offsets, weights, strict=True):
        blocks.append([want - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean, w, n = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * w) / (last[1] + w)
            last[1], last[2] = last[1] + w, last[2] + n
    means = [mean for mean, _, n in blocks for _ in range(int(n))]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


# ------------------------------------------------------------------------------------------------ places


def _settle(group: Group, x: float, y: float, plans: dict[Group, _Plan], layout: Layout) -> None:
    """Turn the plans of `group` and of what is in it into places, its corner being at (x, y)."""
    plan = plans[group]
    layout.boxes[group] = Box(x, y, plan.width, plan.height)
    for item, box in plan.boxes.items():
        if isinstance(item, Group):
            _settle(item, x + box.x, y + box.y, plans, layout)
        else:
            layout.boxes[item] = Box(x + box.x, y + box.y, box.width, box.height)
    if group.folded:
        return
    row_of = {item: r for r, row in enumerate(group.rows) for item in row}
    arriving: dict[Item, list[int]] = defaultdict(list)
    for i, (_, head) in enumerate(group.links):
        arriving[head].append(i)
    entry = {}
    for head, links in arriving.items():
        box = layout.boxes[head]
        links.sort(key=lambda i: layout.boxes[group.links[i][0]].centre)
        room = max(box.width / 2 - 10, 0.0)
        wanted = [min(max(layout.boxes[group.links[i][0]].centre, box.centre - room), box.centre + room) for i in links]
        gap = min(SPREAD, box.width / (len(links) + 1))
        at = nearest(wanted, [gap] * (len(links) - 1), [1.0] * len(links))
        inside = max(at[-1] - box.right + 6, 0.0) or min(at[0] - box.x - 6, 0.0)
        entry.update({i: xx - inside for i, xx in zip(links, at, strict=True)})
    curves = layout.curves[group] = []
    for i, (tail, head) in enumerate(group.links):
        box = layout.boxes[tail]
        turn = y + plan.bottoms[row_of[group.holding(tail)]]
        end = layout.boxes[head].centre if isinstance(head, Lane) else entry[i], layout.boxes[head].y
        curves.append(Curve(tail, head, (box.centre, box.bottom), turn, end))
