"""What an explanation is: an entry of a gradient as a sum of products of named numbers, as text and as a table."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .. import table

SHOWN = 12  # terms that are written out; the others are added up in one line
COLUMNS = ("where", "factors", "in numbers", "product")


@dataclass(frozen=True)
class Term:
    """One product in the sum.

    Attributes:
        where: the patch, neighbour or position that it comes from: ``"image 0, output (o=2, i=3, j=4)"``.
        factors: numbers, each with its name, whose product the term is: ``(("x[0, 1]", 0.3), ("g[0, 2]", -0.1))``.
    """

    where: str
    factors: tuple[tuple[str, float], ...]

    @property
    def value(self) -> float:
        return math.prod(number for _, number in self.factors)


@dataclass(frozen=True, repr=False)
class Explanation:
    """One entry of a gradient, taken apart. ``print`` it, or let a notebook draw it.

    Attributes:
        op: the operation's name.
        argument: the argument of it whose gradient this is.
        index: of the entry.
        formula: the entry in symbols; `g` is the gradient that arrived at the operation's output.
        terms: what adds up to the entry, all of it.
        total: the sum of the terms.
        value: what the engine computed.
        note: what else there is to say, for instance who won the window of a max pool.
    """

    op: str
    argument: str
    index: tuple[int, ...]
    formula: str
    terms: tuple[Term, ...]
    total: float
    value: float
    note: str = ""

    def __repr__(self) -> str:
        entry = label(self.argument, self.index)
        return f"Explanation({self.op}, {entry}: {len(self.terms)} terms, total {self.total}, value {self.value})"

    def __str__(self) -> str:
        title = f"{self._heading}\n{self.formula}"
        return table.as_text(title, COLUMNS, self._rows(), self._sum, self._remarks("\n"), words=3)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # for notebooks; `repr` stays a line
        printer.text(str(self))

    def _repr_html_(self) -> str:
        title = f"{self._heading}: {self.formula}"
        return table.as_html(title, COLUMNS, self._rows(), self._sum, self._remarks(". "))

    @property
    def _heading(self) -> str:
        return f"{self.op}, the gradient of {label(self.argument, self.index)}"

    @property
    def _sum(self) -> tuple[str, ...]:
        count = len(self.terms)
        what = {0: "nothing to add up", 1: "the one term"}.get(count, f"the sum of {count:,} terms")
        return what, "", "", _text(self.total)

    def _remarks(self, separator: str) -> str:
        difference = abs(self.total - self.value)
        engine = f"The engine's value: {_text(self.value)}, a difference of {difference:.1g}"
        return separator.join(filter(None, [engine, self.note]))

    def _rows(self) -> list[tuple[str, ...]]:
        values = [term.value for term in self.terms]
        size = [(math.isnan(value), abs(value)) for value in values]  # what is no number comes first
        largest = heapq.nlargest(SHOWN, range(len(values)), key=size.__getitem__)
        rows: list[tuple[str, ...]] = [
            (
                self.terms[i].where,
                " × ".join(name for name, _ in self.terms[i].factors),
                " × ".join(_text(number) for _, number in self.terms[i].factors),
                _text(values[i]),
            )
            for i in largest
        ]
        if len(values) > SHOWN:
            shown = set(largest)
            others = total(value for i, value in enumerate(values) if i not in shown)
            rows.append((f"and {len(values) - SHOWN:,} more that add up to", "", "", _text(others)))
        return rows


def total(values: Iterable[float]) -> float:
    """The exact sum, rounded once; with infinities as floating-point numbers have it."""
    values = list(values)
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):  # ∞ − ∞, or a sum that is too large on the way
        return sum(values)


def label(symbol: str, index: Iterable[int]) -> str:
    """``"x[0, 1]"``; the symbol alone for an array of no dimensions."""
    text = ", ".join(map(str, index))
    return f"{symbol}[{text}]" if text else symbol


def _text(number: float) -> str:
    return f"{number + 0.0:.6g}"  # which makes 0 of −0
