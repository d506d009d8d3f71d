"""Convolution and pooling: which windows saw an entry, and what they made of it.

The window of output (i, j) begins at row i·s − p and column j·s − p and takes every d-th entry (stride s, padding p,
dilation d; pairs, one for each axis).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .entry import Entry, Explain, Parts, numbers
from .explanation import Term, label

UNSEEN = "no window saw the entry: no gradient comes back"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _seen(at: int, out: int, size: int, stride: int, padding: int, dilation: int) -> list[tuple[int, int]]:
    """Along one axis, the windows that hold entry `at`, each with where in the window it is."""
    found = []
    for tap in range(size):
        i, rest = divmod(at + padding - tap * dilation, stride)
        if rest == 0 and 0 <= i < out:
            found.append((i, tap))
    return sorted(found)


# ------------------------------------------------------------------------------------------------ convolution


def _conv2d(entry: Entry) -> Parts:
    return (_conv2d_input, _conv2d_weight, _conv2d_bias)[entry.number](entry)


def _conv2d_input(entry: Entry) -> Parts:
    weight, params = entry.inputs[1], entry.params
    n, c, *at = entry.index
    per_group, filters = weight.shape[1], weight.shape[0] // params["groups"]
    group, own = divmod(c, per_group)
    first, last = group * filters, (group + 1) * filters - 1
    rows, columns = _windows_at(entry, at, weight.shape[2:])
    terms = []
    for o, (i, k), (j, l) in itertools.product(range(first, last + 1), rows, columns):
        weight_factor = (label("W", (o, own, k, l)), float(weight[o, own, k, l]))
        terms.append(Term(f"output (o={o}, i={i}, j={j}), kernel (k={k}, l={l})", (weight_factor, entry.g(n, o, i, j))))
    note = f"{_count(len(rows) * len(columns), 'window')} of each of {_count(filters, 'filter')} saw the entry"
    if not terms:
        note = UNSEEN
    if params["groups"] > 1:
        note += f"; channel {c} is number {own} of group {group}, which has the filters {first} to {last}"
    formula = "∂x[n,c,h,w] = Σ over o,k,l of W[o,c,k,l] · g[n,o,i,j], where i·s + k·d − p = h and j·s + l·d − p = w"
    return formula, terms, note


def _conv2d_weight(entry: Entry) -> Parts:
    x, weight, _ = entry.inputs
    params, (o, c, *taps) = entry.params, entry.index
    group = o // (weight.shape[0] // params["groups"])
    channel = group * weight.shape[1] + c
    # The rows and columns of x that this weight met, each with its output's; those in the padding left out.
    met = []
    for axis, tap in enumerate(taps):
        start = tap * params["dilation"][axis] - params["padding"][axis]
        reached = ((i, i * params["stride"][axis] + start) for i in range(entry.grad.shape[2 + axis]))
        met.append([(i, at) for i, at in reached if 0 <= at < x.shape[2 + axis]])
    rows, columns = met
    images = range(x.shape[0])
    values = numbers(x[:, channel][np.ix_(images, [h for _, h in rows], [w for _, w in columns])])
    grads = numbers(entry.grad[:, o][np.ix_(images, [i for i, _ in rows], [j for j, _ in columns])])
    terms = [
        Term(
            f"image {n}, output (o={o}, i={i}, j={j})",
            ((f"x[{n}, {channel}, {h}, {w}]", value), (f"g[{n}, {o}, {i}, {j}]", g)),
        )
        for (n, (i, h), (j, w)), value, g in zip(itertools.product(images, rows, columns), values, grads, strict=True)
    ]
    outside = entry.grad[:, o].size - len(terms)
    notes = []
    if outside:
        notes.append(f"{_count(outside, 'window')} had padding there, which contributes nothing")
    if params["groups"] > 1:
        notes.append(f"filter {o} is in group {group}, whose channels begin at {group * weight.shape[1]}")
    return "∂W[o,c,k,l] = Σ over n,i,j of x[n, c, i·s + k·d − p, j·s + l·d − p] · g[n,o,i,j]", terms, "; ".join(notes)


def _conv2d_bias(entry: Entry) -> Parts:
    (o,) = entry.index
    n, _, out_h, out_w = entry.grad.shape
    every = itertools.product(range(n), range(out_h), range(out_w))
    terms = [
        Term(f"image {n}, output (o={o}, i={i}, j={j})", ((f"g[{n}, {o}, {i}, {j}]", g),))
        for (n, i, j), g in zip(every, numbers(entry.grad[:, o]), strict=True)
    ]
    return "∂b[o] = Σ over n,i,j of g[n,o,i,j]", terms, "every output of the filter has the bias added"


def _windows_at(entry: Entry, at: Sequence[int], size: Sequence[int]) -> tuple[list[tuple[int, int]], ...]:
    """For rows and columns, the windows that hold the input's entry `at`."""
    params, out = entry.params, entry.grad.shape[2:]
    dilation = params.get("dilation", (1, 1))
    rows, columns = map(_seen, at, out, size, params["stride"], params["padding"], dilation)
    return rows, columns


# ---------------------------------------------------------------------------------------------------- pooling


def _max_pool2d(entry: Entry) -> Parts:
    n, c, *at = entry.index
    size = entry.params["kernel_size"]
    image = entry.source[n, c]
    rows, columns = _windows_at(entry, at, size)
    terms, won = [], []
    for (i, k), (j, l) in itertools.product(rows, columns):
        h, w = _winner(entry, i, j)
        wins = [h, w] == at
        if wins:
            won.append((k, l))
        where = f"window (i={i}, j={j}), won by {label('x', (n, c, h, w))} = {image[h, w]:.6g}"
        terms.append(Term(where, (entry.g(n, c, i, j), ("gate(it won)", float(wins)))))
    note = f"the entry was in {len(terms)} windows and won {len(won)}; of equals the first wins"
    if not terms:
        note = UNSEEN
    elif len(terms) == 1 and won:
        note = f"the window's largest is at {won[0]}, so the gradient goes there"
    elif len(terms) == 1:
        note = "another entry of the window is the largest, and gets all of the gradient"
    return "∂x[n,c,h,w] = Σ over the windows with x[n,c,h,w] in them of g[n,c,i,j] · (1 if it won, else 0)", terms, note


def _winner(entry: Entry, i: int, j: int) -> tuple[int, int]:
    """The row and column that won window (i, j): the first of the largest; the padding never wins."""
    params = entry.params
    inside = []
    for first, size, stride, padding, dilation, length in zip(
        (i, j), params["kernel_size"], params["stride"], params["padding"], params["dilation"],
        entry.source.shape[2:], strict=True,
    ):  # fmt: skip
        start = first * stride - padding
        inside.append([at for at in range(start, start + size * dilation, dilation) if 0 <= at < length])
    window = entry.source[entry.index[:2]][np.ix_(*inside)]
    row, column = np.unravel_index(int(window.argmax()), window.shape)
    return inside[0][row], inside[1][column]


def _avg_pool2d(entry: Entry) -> Parts:
    params = entry.params
    n, c, *at = entry.index
    rows, columns = _windows_at(entry, at, params["kernel_size"])
    terms = []
    for (i, _), (j, _) in itertools.product(rows, columns):
        count = params["divisor_override"]
        if count is None:
            count = _length(entry, 0, i) * _length(entry, 1, j)
        terms.append(Term(f"window (i={i}, j={j})", (entry.g(n, c, i, j), (f"1/{count}", 1 / count))))
    if not terms:
        note = UNSEEN
    elif params["divisor_override"] is not None:
        note = "n is divisor_override"
    else:
        note = f"n is the window's size, {'with' if params['count_include_pad'] else 'without'} its padding"
    return "∂x[n,c,h,w] = Σ over the windows with x[n,c,h,w] in them of g[n,c,i,j] · 1/n", terms, note


def _length(entry: Entry, axis: int, i: int) -> int:
    """How many entries of window `i` count along an axis; what ceil_mode adds beyond the padding never does."""
    params, length = entry.params, entry.source.shape[2 + axis]
    margin = params["padding"][axis] if params["count_include_pad"] else 0
    start = i * params["stride"][axis] - params["padding"][axis]
    return sum(-margin <= at < length + margin for at in range(start, start + params["kernel_size"][axis]))


def _adaptive_avg_pool2d(entry: Entry) -> Parts:
    n, c, *at = entry.index
    bins = []
    for place, length, out in zip(at, entry.source.shape[2:], entry.grad.shape[2:], strict=True):
        # Bin i covers ⌊i·H/n⌋ to ⌈(i + 1)·H/n⌉, the end not in it.
        edges = [(i, i * length // out, -(-(i + 1) * length // out)) for i in range(out)]
        bins.append([(i, end - start) for i, start, end in edges if start <= place < end])
    rows, columns = bins
    terms = [
        Term(f"bin (i={i}, j={j})", (entry.g(n, c, i, j), (f"1/({height}·{width})", 1 / (height * width))))
        for (i, height), (j, width) in itertools.product(rows, columns)
    ]
    note = f"the entry is in {_count(len(terms), 'bin')}"
    return "∂x[n,c,h,w] = Σ over the bins with x[n,c,h,w] in them of g[n,c,i,j] · 1/(height · width)", terms, note


EXPLANATIONS: dict[str, Explain] = {
    "conv2d": _conv2d, "max_pool2d": _max_pool2d, "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
}  # fmt: skip
