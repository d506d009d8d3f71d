"""What an experiment returns: tidy rows, a sentence, a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import report
from ..inspect.plotting import COLOURS, as_csv

Row = Mapping[str, Any]
Progress = Callable[[float, str], None]  # the share that is done, and what is being done now

__all__ = ["COLOURS", "Progress", "Result", "Row", "plain", "rounded", "sentences", "where"]


@dataclass(frozen=True)
class Result:
    """The outcome of an experiment; the same arguments and seed give the same numbers.

    Attributes:
        name: of the experiment, ``"vanishing"``.
        question: what it asks, a sentence.
        settings: what it was run with, the seed included.
        rows: one observation each, a dict of plain numbers and texts; all have the same keys.
        sentence: the result in plain words, with its most important numbers.
        details: what else was found, a line each.
        draw: draws the picture on an empty figure of matplotlib's.
        size: of the figure, width and height in inches.
    """

    name: str
    question: str
    settings: dict[str, Any]
    rows: Sequence[Row]
    sentence: str
    draw: Callable[[Result, Any], None] = field(repr=False)
    size: tuple[float, float] = (8.0, 5.0)
    details: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the picture, as plain values for JSON; infinities and NaN are texts, as Python writes them."""
        return {
            "name": self.name,
            "question": self.question,
            "settings": plain(self.settings),
            "sentence": self.sentence,
            "details": list(self.details),
            "rows": [plain(row) for row in self.rows],
        }

    def to_csv(self) -> str:
        """The rows as comma-separated values, with a line of names."""
        return as_csv(self.rows)

    def where(self, **values: Any) -> list[Row]:
        """The rows that have these values: ``result.where(activation="relu", depth=30)``."""
        return where(self.rows, **values)

    def plot(self, figure: Any = None) -> Any:
        """Draw the picture.

        Args:
            figure: an empty figure of matplotlib's to draw on; a new one by default.

        Returns:
            The figure.

        Raises:
            ImportError: matplotlib is missing; the message names the extra.
        """
        if problem := report.missing():
            raise ImportError(problem)
        if figure is None:
            from matplotlib.figure import Figure

            figure = Figure(figsize=self.size, layout="constrained")
        self.draw(self, figure)
        return figure

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.plot().savefig(picture, format="png", dpi=110)
        return picture.getvalue()

    def __str__(self) -> str:
        return "\n".join([self.question, self.sentence, *(f"  {line}" for line in self.details)])


def where(rows: Iterable[Row], **values: Any) -> list[Row]:
    """Those of `rows` that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def sentences(parts: Sequence[str]) -> list[str]:
    """Each part with a capital and a full stop."""
    return [f"{part[0].upper()}{part[1:]}." for part in parts]


def rounded(value: float) -> str:
    """`value` with two significant digits: ``"4,100"``."""
    return f"{float(f'{value:.2g}'):,g}"


def plain(value: Any) -> Any:
    """`value` with numbers of NumPy's as Python's, and what JSON has no number for as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
