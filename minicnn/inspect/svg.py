"""A graph's layout as SVG, and its structure as Graphviz text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from .hierarchy import Failure, Group, Item, Lane, Operation, Source, shown, sources_of
from .layout import HEADER, LINE, Box, Curve, Layout, lines_of

# Okabe and Ito's colours, which colour-blind readers can tell apart. Boxes have a light tint of them, so that text is
# read on a background almost as light (or dark) as the page.
COLOURS = {
    "convolution": "#0072B2",
    "pooling": "#808080",
    "linear": "#D55E00",
    "activation": "#009E73",
    "norm": "#CC79A7",
    "joint": "#E69F00",
    "loss": "#56B4E9",
    "other": "#999999",
}
MARGIN = 16.0
INK, PAPER = ("#1b1f24", "#e8eaed"), ("#ffffff", "#14171c")  # by day, by night

STYLE = "\n".join(
    [
        f".minicnn-graph{{color:{INK[0]};font:12px 'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif}}",
        f".minicnn-graph .paper{{fill:{PAPER[0]}}}",
        ".minicnn-graph text{fill:currentColor;stroke:none}",
        ".minicnn-graph .box text{text-anchor:middle}",
        ".minicnn-graph .strong{font-weight:600}",
        ".minicnn-graph .rest{fill-opacity:.78}",
        ".minicnn-graph .box>rect{fill-opacity:.2;stroke-width:1.3}",
        ".minicnn-graph .group>rect{fill:currentColor;fill-opacity:.02;stroke:currentColor;stroke-opacity:.3}",
        ".minicnn-graph .header{fill:currentColor;fill-opacity:.06}",
        ".minicnn-graph .link,.minicnn-graph .lane{fill:none;stroke:#7a838e;stroke-width:1.4}",
        ".minicnn-graph .head{fill:#7a838e;stroke:none}",
        ".minicnn-graph .folded>rect{fill:currentColor;fill-opacity:.06;stroke:currentColor;stroke-opacity:.55}",
        ".minicnn-graph .source>rect{fill:none;stroke:#7a838e;stroke-dasharray:4 3}",
        ".minicnn-graph .failure>rect{fill:#d1242f;fill-opacity:.14;stroke:#d1242f;stroke-width:2}",
        *(f".minicnn-graph .{name}>rect{{fill:{colour};stroke:{colour}}}" for name, colour in COLOURS.items()),
        f"@media (prefers-color-scheme:dark){{.minicnn-graph{{color:{INK[1]}}}"
        f".minicnn-graph .paper{{fill:{PAPER[1]}}}.minicnn-graph .operation>rect{{fill-opacity:.3}}}}",
    ]
)


def escaped(text: str) -> str:
    """`text` for XML, also in an attribute; characters that XML cannot have become �."""
    return html.escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))


def draw(root: Group, layout: Layout, title: str) -> str:
    """The drawing as one SVG element.

    Every box and every frame is a ``<g>`` with ``data-id`` and, in a layer, ``data-path``; its class says what it is
    (``operation``, ``source``, ``group``, ``failure``) and of which family. Lines have ``data-from`` and ``data-to``,
    the ids of the boxes, frames and lanes that they lead from and to.
    """
    box = layout.boxes[root]
    width, height = _n(box.width + 2 * MARGIN), _n(box.height + 2 * MARGIN)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="minicnn-graph" width="{width}" height="{height}" '
        f'viewBox="{_n(-MARGIN)} {_n(-MARGIN)} {width} {height}" role="img" aria-label="{escaped(title)}">'
    )
    paper = f'<rect class="paper" x="{_n(-MARGIN)}" y="{_n(-MARGIN)}" width="{width}" height="{height}"/>'
    parts = [opening, f"<title>{escaped(title)}</title>", f"<style>{STYLE}</style>", paper]
    return "\n".join([*parts, *_group(root, layout), "</svg>"]) + "\n"


def _n(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


def _rect(box: Box, radius: float) -> str:
    x, y, width, height = map(_n, box)
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{_n(radius)}"/>'


def _group(group: Group, layout: Layout) -> Iterator[str]:
    box = layout.boxes[group]
    titled = group.level >= 0
    yield f'<g class="{"group" if titled else "root"}"{_data(group)}>'
    if titled:
        yield f"<title>{escaped(tooltip(group))}</title>"
        yield _rect(box, 8)
        edge, corner, top = _n(box.y + HEADER), _n(box.y + 8), _n(box.width - 16)
        yield f'<path class="header" d="M{_n(box.x)} {edge}V{corner}q0 -8 8 -8h{top}q8 0 8 8V{edge}z"/>'
        rest = f'<tspan class="rest" dx="5">({escaped(group.kind)})</tspan>' if group.name else ""
        strong = escaped(group.name or group.kind)
        yield f'<text x="{_n(box.x + 10)}" y="{_n(box.y + 15)}"><tspan class="strong">{strong}</tspan>{rest}</text>'
    ports = {*group.inputs.values(), *group.outputs.values()}
    for item in (item for row in group.rows for item in row):
        if isinstance(item, Lane) and item not in ports:
            lane = layout.boxes[item]
            yield f'<path class="lane"{_data(item)} d="M{_n(lane.x)} {_n(lane.y)}V{_n(lane.bottom)}"/>'
    for curve in layout.curves[group]:
        yield from _curve(group, curve)
    for item in (item for row in group.rows for item in row):
        if isinstance(item, Group) and not item.folded:
            yield from _group(item, layout)
        elif not isinstance(item, Lane):
            yield from _box(item, layout.boxes[item])
    yield "</g>"


def _curve(group: Group, curve: Curve) -> Iterator[str]:
    (x, y), (end_x, end_y) = curve.start, curve.end
    middle = _n((curve.turn + end_y) / 2)
    straight = f"V{_n(curve.turn)}" if curve.turn - y > 0.05 else ""
    bend = f"C{_n(x)} {middle} {_n(end_x)} {middle} {_n(end_x)} {_n(end_y)}"
    ports = {*group.inputs.values(), *group.outputs.values()}
    ids = (group.id if end in ports else group.holding(end).id for end in (curve.tail, curve.head))
    ends = 'data-from="{}" data-to="{}"'.format(*ids)
    yield f'<path class="link" {ends} d="M{_n(x)} {_n(y)}{straight}{bend}"/>'
    head = group.holding(curve.head)
    if not isinstance(head, Lane) and not (isinstance(head, Group) and not head.folded):
        yield f'<path class="head" d="M{_n(end_x)} {_n(end_y)}l-4 -7q4 2 8 0z"/>'


def _box(item: Item, box: Box) -> Iterator[str]:
    if isinstance(item, Operation):
        kind = f"operation {item.family}"
    else:
        kind = {Source: "source", Failure: "failure", Group: "group folded"}[type(item)]
    radius = min(box.height / 2, 20) if kind in ("source", "operation joint") else 6
    yield f'<g class="box {kind}"{_data(item)}>'
    yield f"<title>{escaped(tooltip(item))}</title>"
    yield _rect(box, radius)
    lines = lines_of(item)
    y = box.y + box.height / 2 - LINE * (len(lines) - 1) / 2 + 4
    for i, (strong, rest) in enumerate(lines):
        spans = f'<tspan class="strong">{escaped(strong)}</tspan>' if strong else ""
        if rest:
            gap = ' dx="5"' if strong else ""
            spans += f'<tspan class="rest"{gap}>{escaped(rest)}</tspan>'
        yield f'<text x="{_n(box.centre)}" y="{_n(y + i * LINE)}">{spans}</text>'
    yield "</g>"


def _data(item: Item) -> str:
    path = getattr(item, "path", "")
    return f' data-id="{item.id}"' + (f' data-path="{escaped(path)}"' if path else "")


def tooltip(item: Item) -> str:
    """What there is to say of `item`, in lines."""
    if isinstance(item, Operation):
        node = item.node
        made_from = ", ".join(_shape(source.shape) for _, source in sources_of(item))
        shapes = f"{made_from} → {_shape(node.shape)}" if made_from else _shape(node.shape)
        kind = f" ({item.label})" if item.label != node.op.name else ""
        lines = [(f"{item.path}: " if item.path else "") + node.op.name + kind, shapes, item.note, node.op.formula]
    elif isinstance(item, Group):
        inner = lines_of(item)[1:]
        lines = [f"{item.path} ({item.kind})" if item.path else item.kind, *(rest for _, rest in inner)]
    elif isinstance(item, Failure):
        lines = [f"{type(item.error).__name__}: {item.error}"]
    elif isinstance(item, Source):
        lines = [item.label, _shape(item.tensor.shape)]
    else:
        lines = []
    return "\n".join(line for line in lines if line)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "one number"


# ------------------------------------------------------------------------------------------------ Graphviz


def dot(root: Group, edges: Sequence[tuple[Item, Item]], title: str) -> str:
    """The structure in Graphviz's language: a node for each box, a cluster for each group that is not folded."""
    lines = [
        f"digraph {_quoted(title)} {{",
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, fillcolor="#f4f4f4"];',
        '  graph [fontname="Helvetica", fontsize=11, style=rounded, color="#999999"];',
        *_cluster(root, "  "),
    ]
    seen = set()
    for ends in ((shown(tail), shown(head)) for tail, head in edges):
        through_folded = any(isinstance(end, Group) for end in ends)
        if ends[0] is not ends[1] and not (through_folded and ends in seen):
            lines.append(f"  n{ends[0].id} -> n{ends[1].id};")
        seen.add(ends)
    return "\n".join([*lines, "}"]) + "\n"


def _cluster(group: Group, indent: str) -> Iterator[str]:
    for item in group.items:
        if isinstance(item, Group) and not item.folded:
            yield f"{indent}subgraph cluster_{item.id} {{"
            yield f"{indent}  label={_quoted(item.title)};"
            yield from _cluster(item, indent + "  ")
            yield f"{indent}}}"
            continue
        text = "\n".join(f"{strong} {rest}".strip() for strong, rest in lines_of(item))
        attributes = f"label={_quoted(text)}, tooltip={_quoted(tooltip(item))}"
        if isinstance(item, Operation):
            attributes += f', color="{COLOURS[item.family]}", fillcolor="{COLOURS[item.family]}33"'
        elif isinstance(item, Source):
            attributes += ', style="rounded,dashed"'
        elif isinstance(item, Failure):
            attributes += ', color="#d1242f", fillcolor="#d1242f22"'
        yield f"{indent}n{item.id} [{attributes}];"


def _quoted(text: str) -> str:
    for plain, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", ""), ("\0", "")):
        text = text.replace(plain, written)
    return f'"{text}"'
