"""What is on the page: the steps in words, numbers and references to arrays, ready for JSON."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ... import backend
from ...backend import Array
from ...engine import Node, Tensor
from ...kernels.activation import softmax_forward
from ..explain import Explanation
from ..graph import Graph
from ..mathml import mathml
from ..picture import NOT_A_NUMBER, colours
from ..statistics import in_words
from ..steps import BackwardStep, ForwardStep
from ..svg import COLOURS as FAMILIES
from ..walk import Walk
from .arrays import Store, number
from .network import drawing

SHADES = 255  # from −bound by 0 to bound
ITEMS = 4  # of a batch whose probabilities are written out
TERMS = 5  # of a worked example that are written out


class Shown(Protocol):
    """What a page shows: a `Debugger`, which imports this package, as far as it is needed here."""

    out: Tensor
    drawing: Graph | None
    forward: Walk[ForwardStep]

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[BackwardStep]: ...


def content(debugger: Shown, store: Store, title: str | None = None) -> dict[str, Any]:
    """Everything but the arrays, which are added to `store`, and the rule by which they are cut.

    Raises:
        ValueError: there is no operation to step through.
        TypeError: complex numbers.
    """
    forward, drawn = list(debugger.forward), debugger.drawing
    if drawn is None:
        raise ValueError("the page: there is no operation to step through, because the tensor is a leaf: give a loss")
    number_of = {step.node: i for i, step in enumerate(forward)}
    network = _network(forward)
    store.batch = _batch(forward)
    formulas: dict[str, int] = {}
    operations = [_operation(step, store, formulas) for step in forward]
    backward = [_backward(step, number_of, store) for step in debugger]
    shades = colours(np.linspace(-1, 1, SHADES), 1.0).tolist()
    return {
        "title": title or f"{network}, step by step",
        "network": network,
        "result": f"{forward[-1].op.name} = {_in_short(debugger.out.data)}",
        "operations": operations,
        "backward": backward,
        "formulas": [_statements(formula) for formula in formulas],
        "drawing": drawing(drawn.root, number_of),
        "families": FAMILIES,
        "palette": ["#" + bytes(rgb).hex() for rgb in shades],
        "notANumber": "#" + bytes(NOT_A_NUMBER).hex(),
    }


def _in_short(value: Array) -> str:
    return f"{value.item():.6g}" if value.size == 1 else in_words(value)


def _statements(formula: str) -> list[list[str]]:
    """The forward statement as MathML, and the backward ones."""
    forward, _, backward = formula.partition(";")
    return [[mathml(forward)], [mathml(part) for part in re.split(r",  +", backward.strip()) if part]]


def _network(steps: list[ForwardStep]) -> str:
    """The outermost modules' names, in the order in which they ran."""
    modules = dict.fromkeys(step.node.scope[0] for step in steps if step.node.scope)
    names = [str(getattr(module, "architecture", type(module).__name__)) for module in modules]
    return ", ".join(dict.fromkeys(names)) or "a computation"


def _batch(steps: list[ForwardStep]) -> int:
    """How many images went in: the length of the first leaf that is no parameter and has several axes."""
    leaves = (given for step in steps for given in step.inputs if given.made_by is None and not given.is_parameter)
    return next((leaf.value.shape[0] for leaf in leaves if leaf.value.ndim > 1), 1)


def _operation(step: ForwardStep, store: Store, formulas: dict[str, int]) -> dict[str, Any]:
    node = step.node
    inputs = [
        {
            "name": given.name,
            "array": store.add(given.value, batched=not given.is_parameter),
            "isParameter": given.is_parameter,
            "source": given.source,
            "from": given.made_by,
            "saved": given.name in step.kept,
        }
        for given in step.inputs
    ]
    return {
        "op": node.op.name,
        "path": step.path,
        "label": step.label,
        "formula": formulas.setdefault(step.formula, len(formulas)),
        "settings": step.settings,
        "parameters": {name: value for name, value in node.params.items() if _is_plain(value)},
        "inputs": inputs,
        "output": store.add(step.output, batched=True),
        "outputSaved": "output" in step.kept,
        **({"scores": scores} if (scores := _scores(step, store)) else {}),
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _backward(step: BackwardStep, number_of: dict[Node, int], store: Store) -> dict[str, Any]:
    given = {each.name: each for each in step.inputs}
    gradients = [
        {
            "name": gradient.name,
            "array": store.add(gradient.value, batched=not given[gradient.name].is_parameter),
            "isParameter": given[gradient.name].is_parameter,
            "to": gradient.to,
            "toOperation": given[gradient.name].made_by,
            "added": gradient.added,
            "example": _example(step, gradient.name, gradient.value),
        }
        for gradient in step.gradients
    ]
    return {
        "operation": number_of[step.node],
        "gradient": store.add(step.grad_output, batched=True),
        "gradients": gradients,
    }


def _example(step: BackwardStep, name: str, gradient: Array) -> dict[str, Any] | None:
    """The gradient's largest entry as a sum of products; None where it has no entry."""
    size = np.abs(backend.to_host(gradient))
    if not size.size:
        return None
    place = np.unravel_index(int(np.where(np.isnan(size), np.inf, size).argmax()), size.shape)
    return example(step.explain(name, tuple(map(int, place))))


def example(explanation: Explanation) -> dict[str, Any]:
    """An explanation with its largest terms in words, and the others added up."""
    terms = explanation.terms
    size = [math.inf if math.isnan(term.value) else abs(term.value) for term in terms]
    largest = heapq.nlargest(TERMS, range(len(terms)), key=size.__getitem__)
    shown = set(largest)
    rest = [term.value for i, term in enumerate(terms) if i not in shown]
    return {
        "argument": explanation.argument,
        "index": explanation.index,
        "formula": explanation.formula,
        "terms": [
            [
                terms[i].where,
                " × ".join(name for name, _ in terms[i].factors),
                " × ".join(f"{value:.6g}" for _, value in terms[i].factors),
                f"{terms[i].value:.6g}",
            ]
            for i in largest
        ],
        "others": [len(rest), f"{sum(rest):.6g}"],
        "total": f"{explanation.total:.9g}",
        "value": f"{explanation.value:.9g}",
        "note": explanation.note,
    }


# ------------------------------------------------------------------------------------------------------ scores


def _scores(step: ForwardStep, store: Store) -> dict[str, Any] | None:
    """For a cross-entropy over classes its softmax p, its target y, Σy of the first items, and the share of an item in
    the loss; else None.

    With them ∂x = g · share · (p Σy − y), where Σy is 1 but with class weights and ignored items.
    """
    node, scores = step.node, backend.to_host(step.inputs[0].value)
    if node.op.name not in ("cross_entropy", "soft_cross_entropy") or scores.ndim != 2:
        return None
    probabilities, _ = softmax_forward(scores, dim=1)
    params = {name: backend.on_host(x) for name, x in node.params.items()}
    weights = np.ones(scores.shape[1]) if params["weight"] is None else params["weight"].astype(np.float64)
    smoothing, items = params["label_smoothing"], float(len(scores))
    if node.op.name == "cross_entropy":
        counted = params["target"] != params["ignore_index"]
        wanted = (np.arange(scores.shape[1]) == params["target"][:, None]).astype(np.float64)
        items = float(weights[params["target"][counted]].sum())
    else:
        counted, wanted = np.ones(len(scores), dtype=bool), backend.to_host(step.inputs[1].value).astype(np.float64)
    wanted = ((1 - smoothing) * wanted + smoothing / scores.shape[1]) * weights * counted[:, None]
    share = 1 / items if params["reduction"] == "mean" and items else 1.0
    return {
        "p": store.add(probabilities, batched=True),
        "t": store.add(wanted.astype(scores.dtype), batched=True),
        "sums": [number(float(total)) for total in wanted[:ITEMS].sum(axis=1)],
        "share": number(share),
    }
