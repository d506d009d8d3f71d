"""Losses. The classes lie along axis 1; an item is what has one target. `w` are the class weights, if there are any."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...backend import Array
from .elementwise import Rule, by_rule
from .entry import Entry, Explain, Parts, float64, place
from .explanation import Term, label

IGNORED = "the item's target is ignore_index: no gradient"


def _item(entry: Entry) -> tuple[tuple[int, ...], int]:
    """The index of the entry's item, and the entry's class."""
    n, c, *rest = entry.index
    return (n, *rest), c


def _name(item: tuple[int, ...]) -> str:
    return f"item {item[0]}" if len(item) == 1 else place(item, "item")


def _arrived(entry: Entry) -> tuple[str, tuple[tuple[str, float], ...]]:
    """The gradient of the item's own loss, in symbols and in factors: `g`, and in a mean its share."""
    params = entry.params
    if params["reduction"] == "none":
        return "g", (entry.g(*_item(entry)[0]),)
    if params["reduction"] == "sum":
        return "g", (entry.g(),)
    name, divisor = "N", float(entry.source[:, 0].size)
    if "ignore_index" in params:  # a mean over the items that count, by their weights
        kept = params["target"][params["target"] != params["ignore_index"]]
        divisor = float(kept.size)
        if params["weight"] is not None:
            name, divisor = "Σw", float(float64(params["weight"])[kept].sum())
    return f"g · 1/{name}", (entry.g(), (f"1/{name}", 1 / (divisor or math.nan)))  # a mean of nothing is no number


def _probabilities(entry: Entry) -> Array:
    """The softmax of the entry's item, all classes."""
    n, _, *rest = entry.index
    scores = float64(entry.inputs[0][(n, slice(None), *rest)])
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def _class_weights(entry: Entry) -> Array:
    weight = entry.params["weight"]
    return np.ones(entry.source.shape[1]) if weight is None else float64(weight)


def _p_minus_y(entry: Entry, wanted: Array, adds_up: bool, what: str) -> Parts:
    """The gradient of −Σ y log p by a score.

    Args:
        entry: of the scores.
        wanted: y, of each class.
        adds_up: whether Σ y is 1 for certain.
        what: y is, in words.
    """
    (item, c), (symbols, arrived) = _item(entry), _arrived(entry)
    p, y, sum_y = float(_probabilities(entry)[c]), float(wanted[c]), 1.0 if adds_up else float(wanted.sum())
    scale = () if adds_up else (("Σy", sum_y),)
    terms = [
        Term(f"{_name(item)}, what softmax gives class {c}", (*arrived, (label("p", entry.index), p), *scale)),
        Term(f"{_name(item)}, what the target wants", (*arrived, (f"−{label('y', entry.index)}", -y))),
    ]
    formula = "p[n,c] − y[n,c]" if adds_up else "p[n,c]·Σy − y[n,c]"
    note = f"p = softmax of the scores = {p:.6g}; y = {what} = {y:.6g}; the difference is {p * sum_y - y:.6g}"
    return f"∂x[n,c] = {symbols} · ({formula})", terms, note


def _cross_entropy(entry: Entry) -> Parts:
    params = entry.params
    target, smoothing = int(params["target"][_item(entry)[0]]), params["label_smoothing"]
    if target == params["ignore_index"]:
        return f"∂x[n,c] = {_arrived(entry)[0]} · (p[n,c] − y[n,c])", [], IGNORED
    weights, classes = _class_weights(entry), entry.source.shape[1]
    wanted = smoothing / classes * weights
    wanted[target] += (1 - smoothing) * weights[target]
    what = f"{'1' if params['weight'] is None else 'w'} at the target, class {target}, else 0"
    if smoothing:
        what += f" (smoothed: {smoothing:g} of it spread over all classes)"
    return _p_minus_y(entry, wanted, params["weight"] is None, what)


def _soft_cross_entropy(entry: Entry) -> Parts:
    params = entry.params
    weights, smoothing, weighted = _class_weights(entry), params["label_smoothing"], params["weight"] is not None
    if entry.number == 0:
        n, _, *rest = entry.index
        target = float64(entry.inputs[1][(n, slice(None), *rest)])
        wanted = ((1 - smoothing) * target + smoothing / target.size) * weights
        what = "the target's share" + (" times w" if weighted else "")
        what += f" (smoothed by {smoothing:g})" if smoothing else ""
        return _p_minus_y(entry, wanted, False, what)
    (item, c), (symbols, arrived) = _item(entry), _arrived(entry)
    factors = [*arrived, (f"−log {label('p', entry.index)}", -float(np.log(_probabilities(entry)[c])))]
    if smoothing:
        factors.append(("(1 − ε)", 1 - smoothing))
    if weighted:
        factors.append((label("w", (c,)), float(weights[c])))
    shares = f"{' · (1 − ε)' if smoothing else ''}{' · w[c]' if weighted else ''}"
    note = "p is the softmax of the scores" + ("; ε is label_smoothing" if smoothing else "")
    return f"∂y[n,c] = {symbols} · (−log p[n,c]){shares}", [Term(_name(item), tuple(factors))], note


def _nll_loss(entry: Entry) -> Parts:
    params, (item, c), (symbols, arrived) = entry.params, _item(entry), _arrived(entry)
    target, weighted = int(params["target"][item]), params["weight"] is not None
    formula = f"∂x[n,c] = {symbols} · ({'−w[c]' if weighted else '−1'} at the target, else 0)"
    if target == params["ignore_index"]:
        return formula, [], IGNORED
    if c != target:
        return formula, [], f"the item's target is class {target}: the loss does not look at class {c}"
    slope = (f"−{label('w', (c,))}", -float(params["weight"][c])) if weighted else ("−1", -1.0)
    return formula, [Term(_name(item), (*arrived, slope))], f"class {c} is the item's target"


def _mse_loss(entry: Entry) -> Parts:
    x, t = entry.inputs
    shape = np.broadcast_shapes(x.shape, t.shape)
    count = math.prod(shape)
    symbol, two, text = (("x", 2, "2"), ("t", -2, "−2"))[entry.number]
    factors: list[Any] = [(text, lambda v: two), ("({x} − {t})", lambda v: v.x - v.t)]
    formula = "2 · (x − t)" if entry.number == 0 else "(−2) · (x − t)"
    if entry.params["reduction"] == "mean":
        factors.insert(0, ("1/N", lambda v: 1 / count))
        formula = f"1/N · {formula}"
    formula = f"g · {formula}"
    operands = {"x": x, "t": t, "g": entry.grad}
    return by_rule(entry, Rule(formula, tuple(factors)), symbol, operands, shape, where_in="difference")


EXPLANATIONS: dict[str, Explain] = {
    "cross_entropy": _cross_entropy, "soft_cross_entropy": _soft_cross_entropy, "nll_loss": _nll_loss,
    "mse_loss": _mse_loss,
}  # fmt: skip
