"""An operation that nobody explained: how each output moves when the entry does, by trying."""

from __future__ import annotations

import numpy as np

from .entry import Entry, Parts, float64, place
from .explanation import Term, label

STEP = 6e-6  # near the cube root of float64's rounding, where central differences err least


def by_slopes(entry: Entry) -> Parts:
    """The entry as Σ g[j] · ∂y[j]/∂x, the slopes by central differences through the operation's own forward."""
    inputs = [None if x is None else float64(x).copy() for x in entry.inputs]
    moved = inputs[entry.number]
    assert moved is not None
    middle = moved[entry.index]
    step = STEP * max(1.0, abs(middle))

    def output(value: float) -> np.ndarray:
        moved[entry.index] = value
        return float64(entry.op.forward(*(None if x is None else x.copy() for x in inputs), **entry.params)[0])

    high, low = middle + step, middle - step
    slopes = (output(high) - output(low)) / (high - low)
    terms = []
    for at in map(tuple, np.argwhere(slopes != 0).tolist()):
        terms.append(Term(place(at), (entry.g(*at), (f"∂{label('y', at)}/∂x", float(slopes[at])))))
    note = (
        f"nobody wrote an explanation of {entry.op.name}: the slopes are central differences of its forward, of step "
        f"{step:.1g}; {slopes.size - len(terms):,} outputs do not depend on the entry"
    )
    return "∂x = Σ over j of g[j] · ∂y[j]/∂x", terms, note
