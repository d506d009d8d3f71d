"""What the pictures here share: axes to draw on, and colours."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

# Okabe and Ito's, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def axes(ax: Any, width: float, height: float = 3.5) -> Any:
    """`ax`, or where it is None new axes of matplotlib's on a figure of this size, in inches.

    Raises:
        ImportError: matplotlib is missing; the message names the extra.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need matplotlib: pip install -e '.[viz]' (in minicnn's folder)") from None
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def label_layers(ax: Any, places: Sequence[int], names: Mapping[int, str], most: int = 60) -> None:
    """Write layers' names below the horizontal axis; of more than `most` every second, third, … only."""
    shown = places[:: -(-len(places) // most) or 1]
    ax.set_xticks(shown, [names[i] for i in shown], rotation=90, fontsize=7)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated values: a line of names, then a line for each row; all rows have the same keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
