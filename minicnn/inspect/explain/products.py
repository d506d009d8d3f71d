"""Matrix products: an entry's gradient is a row times a column."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...backend import Array
from .elementwise import Rule, by_rule
from .entry import Entry, Explain, Parts, before_broadcast, numbers, place, places, positions
from .explanation import Term, label


def _linear(entry: Entry) -> Parts:
    """y[*, o] = Σ_k x[*, k] · W[o, k] + b[o]; a weight of one dimension is a single row, and y has no axis o then."""
    x, weight, bias = entry.inputs
    rows, outs = x.shape[:-1], weight.shape[:-1]
    if entry.number == 2:
        _, terms, _ = by_rule(entry, Rule("g"), "b", {"b": bias, "g": entry.grad}, entry.grad.shape)
        return "∂b[o] = Σ over the batch of g[*, o]", terms, "each item of the batch has the bias added"
    entry = replace(entry, grad=entry.grad.reshape((*rows, *outs)))  # a bias of shape (1,) may have added an axis
    *rest, k = entry.index
    terms = []
    if entry.number == 0:
        row = tuple(rest)
        for o in np.ndindex(outs):
            terms.append(Term(place((*row, *o)), ((label("W", (*o, k)), float(weight[(*o, k)])), entry.g(*row, *o))))
        note = "each output o saw the entry through a weight of its own"
        return "∂x[*, k] = Σ over o of W[o, k] · g[*, o]", terms, note
    o = tuple(rest)
    for row in np.ndindex(rows):
        terms.append(Term(place((*row, *o)), ((label("x", (*row, k)), float(x[(*row, k)])), entry.g(*row, *o))))
    note = "each item of the batch passes through the same weight"
    return "∂W[o, k] = Σ over the batch of x[*, k] · g[*, o]", terms, note


def _matmul(entry: Entry) -> Parts:
    """Y = A B over the last two axes. A vector is a row on the left, a column on the right."""
    a, b = entry.inputs
    row, column = a.ndim == 1, b.ndim == 1
    left, right = a[None, :] if row else a, b[:, None] if column else b  # (…, n, k) and (…, k, m)
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    grad = entry.grad.reshape(*batch, left.shape[-2], right.shape[-1])

    def without_added(index: tuple[int, ...], first: bool, last: bool) -> tuple[int, ...]:
        """`index` without the axes that a vector does not have."""
        *stack, i, j = index
        return (*stack, *(() if first else (i,)), *(() if last else (j,)))

    is_a = entry.number == 0
    own, other, symbol = (left, right, "B") if is_a else (right, left, "A")
    index = entry.index
    if is_a and row:
        index = (0, *index)
    if not is_a and column:
        index = (*index, 0)
    *stack, i, j = index
    where = places(own.shape[:-2], batch, tuple(stack))
    along = other.shape[-1] if is_a else other.shape[-2]  # m or n
    stretched: Array = np.broadcast_to(other, (*batch, *other.shape[-2:]))
    grads = numbers(grad[(*where, i)] if is_a else grad[(*where, slice(None), j)])
    others = numbers(stretched[(*where, j)] if is_a else stretched[(*where, slice(None), i)])
    terms = []
    every = ((position, m) for position in positions(where) for m in range(along))
    for (position, m), g, value in zip(every, grads, others, strict=True):
        at = without_added((*position, i, m) if is_a else (*position, m, j), row, column)
        of_other = before_broadcast(other.shape[:-2], position)
        if is_a:
            name = label(symbol, without_added((*of_other, j, m), False, column))
        else:
            name = label(symbol, without_added((*of_other, m, i), row, False))
        terms.append(Term(place(at), ((label("g", at), g), (name, value))))
    formula = "∂A[n, k] = Σ over m of g[n, m] · B[k, m]" if is_a else "∂B[k, m] = Σ over n of A[n, k] · g[n, m]"
    stacked = f"the matrix was broadcast: the sum goes over {len(terms) // max(along, 1)} products too"
    return formula, terms, stacked if own.shape[:-2] != batch else ""


EXPLANATIONS: dict[str, Explain] = {"linear": _linear, "matmul": _matmul}
