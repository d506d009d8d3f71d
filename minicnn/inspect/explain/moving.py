"""Operations that move entries, and reductions: the gradient is found where the entry went."""

from __future__ import annotations

import numpy as np

from ...backend import Array
from .entry import Entry, Explain, Parts, float64, place
from .explanation import Term, label

Index = tuple[int, ...]


def _moved(entry: Entry, formula: str, went: list[Index], note: str, *factors: tuple[str, float]) -> Parts:
    """The gradients at the places that the entry went to, times `factors`."""
    return formula, [Term(place(index), (entry.g(*index), *factors)) for index in went], note


def _reshape(entry: Entry) -> Parts:
    number = int(np.ravel_multi_index(entry.index, entry.source.shape)) if entry.index else 0
    went = tuple(map(int, np.unravel_index(number, entry.output.shape)))
    note = f"the entry is number {number:,} in both shapes, counted from 0, the last axis running fastest"
    return _moved(entry, "∂x = g, in x's shape", [went], note)


def _permute(entry: Entry) -> Parts:
    dims = entry.params["dims"]
    note = f"the output's axes are the input's axes {dims}"
    return _moved(entry, "∂x = g, with its axes put back", [tuple(entry.index[d] for d in dims)], note)


def _getitem(entry: Entry) -> Parts:
    # Which entry of x each entry of the output is, by its number.
    taken = np.arange(entry.source.size).reshape(entry.source.shape)[entry.params["index"]]
    number = np.ravel_multi_index(entry.index, entry.source.shape) if entry.index else 0
    went = [tuple(index) for index in np.argwhere(taken == number).tolist()]
    note = f"the entry was taken {'once' if len(went) == 1 else f'{len(went):,} times'}"
    if not went:
        note = "the entry was not taken: no gradient comes back"
    return _moved(entry, "∂x = Σ g over the places where x[index] has the entry", went, note)


def _cat(entry: Entry) -> Parts:
    dim = entry.params["dim"]
    start = sum(x.shape[dim] for x in entry.inputs[: entry.number] if x.shape != (0,))
    went = (*entry.index[:dim], entry.index[dim] + start, *entry.index[dim + 1 :])
    end = start + entry.source.shape[dim]
    note = f"along axis {dim} this input lies from {start} to {end - 1} of the output; the gradient is cut out there"
    return _moved(entry, "∂x = g, cut out where x was put", [went], note)


def _pad(entry: Entry) -> Parts:
    moved = tuple(i + before for i, (before, _) in zip(entry.index, entry.params["widths"], strict=True))
    kept = all(0 <= i < n for i, n in zip(moved, entry.output.shape, strict=True))
    note = "the border has no gradient to give back" if kept else "the entry was cut off: no gradient comes back"
    return _moved(entry, "∂x = g, without the border", [moved] if kept else [], note)


# ------------------------------------------------------------------------------------------------- reductions


def _reduced(entry: Entry) -> tuple[Index, Array, str]:
    """Where the entry went, all entries that went there, and how to say how many."""
    dim, keepdim = entry.params["dim"], entry.params["keepdim"]
    went = tuple(0 if d in dim else i for d, i in enumerate(entry.index) if keepdim or d not in dim)
    together = float64(entry.source[tuple(slice(None) if d in dim else i for d, i in enumerate(entry.index))])
    return went, together, f"{together.size:,} entries" if together.size != 1 else "one entry"


def _sum(entry: Entry) -> Parts:
    went, _, count = _reduced(entry)
    return _moved(entry, "∂x = g", [went], f"the sum is over {count}: each gets the gradient as it is")


def _mean(entry: Entry) -> Parts:
    went, together, count = _reduced(entry)
    note = f"the mean is over n = {count}: each gets its share"
    return _moved(entry, "∂x = g · 1/n", [went], note, ("1/n", 1 / together.size))


def _var(entry: Entry) -> Parts:
    went, together, count = _reduced(entry)
    mean, correction = together.mean(), entry.params["correction"]
    note = (
        f"n = {count}, c = {correction}, mean = {mean:.6g}; the way through the mean adds nothing, because the "
        "distances from it add up to 0"
    )
    return _moved(
        entry, "∂x = g · 2/(n − c) · (x − mean)", [went], note,
        ("2/(n − c)", float(np.float64(2) / (together.size - correction))),
        (f"({label('x', entry.index)} − mean)", float(entry.source[entry.index] - mean)),
    )  # fmt: skip


def _amax(entry: Entry) -> Parts:
    went, together, count = _reduced(entry)
    largest, own = together.max(), float(entry.source[entry.index])
    ties = int((together == largest).sum())
    note = f"the largest of {count} is {largest:.6g}" + (f", {ties} times" if ties > 1 else "")
    note += ": the entry is one of them" if own == largest and ties > 1 else ""
    note += ": this entry" if own == largest and ties == 1 else ", which this entry is not" if own != largest else ""
    share = ("share", 1 / ties if own == largest else 0.0)
    return _moved(entry, "∂x = g shared among the largest, else 0", [went], note, share)


EXPLANATIONS: dict[str, Explain] = {
    "reshape": _reshape, "permute": _permute, "getitem": _getitem, "cat": _cat, "pad": _pad,
    "sum": _sum, "mean": _mean, "var": _var, "amax": _amax,
}  # fmt: skip
