"""Tables of text cells: for a terminal and for a notebook. And how sizes and shapes are written in them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .trace import shapes_of

Cells = Sequence[str]


def as_text(
    title: str, columns: Cells, rows: Sequence[Cells], totals: Cells = (), note: str = "", words: int = 1
) -> str:
    """Lines for a terminal; the first `words` columns stand left, the others, numbers, right."""
    table = [columns, *rows, *filter(None, [totals])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = (c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    rule = "─" * max(map(len, lines))
    last = [rule, lines.pop()] if totals else []
    return "\n".join([title, rule, lines[0], rule, *lines[1:], *last, *filter(None, [note])])


def as_html(title: str, columns: Cells, rows: Sequence[Cells], totals: Cells = (), note: str = "") -> str:
    """An HTML table; everything in the cells is escaped."""

    def line(tag: str, cells: Cells) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    caption = html.escape(". ".join(filter(None, [title, note])))
    return (
        f"<table><caption>{caption}</caption><thead>{line('th', columns)}</thead>"
        f"<tbody>{''.join(line('td', cells) for cells in rows)}</tbody><tfoot>{line('th', totals)}</tfoot></table>"
    )


def size(count: int) -> str:
    """Bytes in the unit that reads best; a kilobyte is 1000 bytes, as in the papers' and courses' figures."""
    if count >= 10**9:
        return f"{count / 1e9:,.2f} GB"
    return (f"{count / 1e6:,.2f} MB" if count >= 10**5 else f"{count / 1e3:,.2f} kB") if count else ""


def dimensions(one_shape: Sequence[int]) -> str:
    """``(3, 224, 224)`` → ``3×224×224``; a single number has no dimensions."""
    return "×".join(map(str, one_shape)) or "one number"


def shape(input_shape: Sequence[Any]) -> str:
    """``(1, 3, 224, 224)`` → ``1×3×224×224``; several with commas."""
    return ", ".join(map(dimensions, shapes_of(input_shape)))
