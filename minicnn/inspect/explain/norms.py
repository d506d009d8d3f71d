"""Normalisation: over neighbouring channels, over the batch, and softmax, whose outputs add up to 1."""

from __future__ import annotations

import numpy as np

from .entry import Entry, Explain, Parts, float64, numbers, place
from .explanation import Term, label


def _local_response_norm(entry: Entry) -> Parts:
    """y = x / dᵝ, d = k + α/size · Σ x² over `size` channels, ``size // 2`` of them before."""
    p, (n, own, *rest) = entry.params, entry.index
    line = (n, slice(None), *rest)
    x, grad = float64(entry.source[line]), float64(entry.grad[line])
    before, after = p["size"] // 2, (p["size"] - 1) // 2
    share = p["alpha"] / p["size"]
    d = np.array([p["k"] + share * (x[max(c - before, 0) : c + after + 1] ** 2).sum() for c in range(x.size)])

    def at(symbol: str, channel: int) -> str:
        return label(symbol, (n, channel, *rest))

    damping = (f"{at('d', own)}^−β", float(d[own] ** -p["beta"]))
    terms = [Term("its own numerator", ((at("g", own), float(grad[own])), damping))]
    for c in range(max(own - after, 0), min(own + before + 1, x.size)):  # the channels whose windows hold this one
        where = f"the denominator of channel {c}" + (", its own" if c == own else "")
        terms.append(
            Term(
                where,
                (
                    ("−2αβ/n", -2 * p["beta"] * share), (at("x", own), float(x[own])), (at("g", c), float(grad[c])),
                    (at("x", c), float(x[c])), (f"{at('d', c)}^(−β−1)", float(d[c] ** (-p["beta"] - 1))),
                ),
            )
        )  # fmt: skip
    note = (
        f"n = {p['size']}, α = {p['alpha']:g}, β = {p['beta']:g}, k = {p['k']:g}; d = k + α/n · Σ x² over "
        f"a channel, {before} before it and {after} after it"
    )
    return "∂x[i] = g[i] · d[i]^−β − 2αβ/n · x[i] · Σ over j near i of g[j] · x[j] · d[j]^(−β−1)", terms, note


# ---------------------------------------------------------------------------------------- batch normalisation


def _batch_norm(entry: Entry) -> Parts:
    x = float64(entry.inputs[0][:, _channel(entry)])
    mean, var = x.mean(), ((x - x.mean()) ** 2).mean()
    if entry.number > 0:
        return _scale_or_shift(entry, mean, var)
    n, c, *rest = entry.index
    inner = (n, *rest)
    grad = float64(entry.grad[:, c])
    slope, note = _slope(entry, mean, var)
    normalised = (x - mean) / np.sqrt(var + entry.params["eps"])
    own = f"({label('x', entry.index)} − mean)/std"
    terms = [
        Term("direct", (slope, entry.g(*entry.index))),
        Term("through the mean", (slope, ("−mean(g)", float(-grad.mean())))),
        Term(
            "through the variance",
            (slope, (own, float(normalised[inner])), ("−mean(g·(x − mean)/std)", float(-(grad * normalised).mean()))),
        ),
    ]
    note += f"; the means are over the channel's {x.size:,} entries; x̂ = (x − mean)/std"
    return "∂x = γ/std · (g − mean(g) − x̂ · mean(g·x̂))", terms, note


def _batch_norm_eval(entry: Entry) -> Parts:
    c = _channel(entry)
    mean, var = np.float64(entry.params["mean"][c]), np.float64(entry.params["var"][c])
    if entry.number > 0:
        return _scale_or_shift(entry, mean, var)
    slope, note = _slope(entry, mean, var)
    terms = [Term("direct", (slope, entry.g(*entry.index)))]
    return "∂x = γ/std · g", terms, f"{note}; the running statistics do not depend on the input, so this is all"


def _channel(entry: Entry) -> int:
    return entry.index[1] if entry.number == 0 else entry.index[0]


def _slope(entry: Entry, mean: np.float64, var: np.float64) -> tuple[tuple[str, float], str]:
    """The factor γ/std, and the numbers behind it."""
    c, weight = _channel(entry), entry.inputs[1]
    std = np.sqrt(var + entry.params["eps"])
    note = f"channel {c}: mean = {mean:.6g}, std = √(var + eps) = {std:.6g}"
    if weight is None:
        return ("1/std", float(1 / std)), note
    return (f"γ[{c}]/std", float(np.float64(weight[c]) / std)), f"{note}, γ = {weight[c]:.6g}"


def _scale_or_shift(entry: Entry, mean: np.float64, var: np.float64) -> Parts:
    """∂γ and ∂β: every entry of the channel has the same γ and β."""
    c = _channel(entry)
    grad = entry.grad[:, c]
    x = float64(entry.inputs[0][:, c])
    normalised = numbers((x - mean) / np.sqrt(var + entry.params["eps"]))
    terms = []
    for (n, *rest), g, own in zip(np.ndindex(grad.shape), numbers(grad), normalised, strict=True):
        at = (n, c, *rest)
        factors = [(label("g", at), g)]
        if entry.number == 1:
            factors.append((f"({label('x', at)} − mean)/std", own))
        terms.append(Term(place(at), tuple(factors)))
    if entry.number == 2:
        return "∂β[c] = Σ over the channel of g", terms, "every entry of the channel has the same β added"
    return "∂γ[c] = Σ over the channel of g · (x − mean)/std", terms, _slope(entry, mean, var)[1]


# ---------------------------------------------------------------------------------------------------- softmax


def _softmax(entry: Entry) -> Parts:
    """∂yⱼ/∂xᵢ = yⱼ ((1 if i = j, else 0) − yᵢ)."""
    before, own, after = _around(entry)
    y = numbers(entry.output[(*before, slice(None), *after)])
    name = label("y", entry.index)
    terms = []
    for j, value in enumerate(y):
        at = (*before, j, *after)
        slope = (f"(1 − {name})", 1 - y[own]) if j == own else (f"−{name}", -y[own])
        terms.append(Term(place(at), (entry.g(*at), (label("y", at), value), slope)))
    note = "raising one score lowers the other outputs, because they add up to 1"
    return "∂x[i] = Σ over j of g[j] · y[j] · ((1 if i = j, else 0) − y[i])", terms, note


def _log_softmax(entry: Entry) -> Parts:
    """∂yⱼ/∂xᵢ = (1 if i = j, else 0) − pᵢ with p = eʸ."""
    before, own, after = _around(entry)
    p = float(np.exp(float64(entry.output[entry.index])))
    name = label("p", entry.index)
    terms = []
    for j in range(entry.output.shape[entry.params["dim"]]):
        at = (*before, j, *after)
        terms.append(Term(place(at), (entry.g(*at), (f"(1 − {name})", 1 - p) if j == own else (f"−{name}", -p))))
    return "∂x[i] = Σ over j of g[j] · ((1 if i = j, else 0) − p[i]),  p = eʸ", terms, "p is the softmax of x"


def _around(entry: Entry) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """The entry's index along softmax's axis, and what comes before and after."""
    dim = entry.params["dim"]
    return entry.index[:dim], entry.index[dim], entry.index[dim + 1 :]


EXPLANATIONS: dict[str, Explain] = {
    "local_response_norm": _local_response_norm, "batch_norm": _batch_norm, "batch_norm_eval": _batch_norm_eval,
    "softmax": _softmax, "log_softmax": _log_softmax,
}  # fmt: skip
