"""Operations entry by entry: the gradient that arrived times the slope at the entry.

An entry that was broadcast went to many places. Its gradient is the sum over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from .entry import Entry, Explain, Parts, before_broadcast, float64, place, places, positions
from .explanation import Term, label

Factor = tuple[str, Callable[[Any], Any]]


@dataclass(frozen=True)
class Rule:
    """How an entry's gradient follows from the one that arrived.

    Attributes:
        formula: a term of it, in symbols.
        factors: what `g` is multiplied by: names, in which ``{x}`` becomes ``x[0, 1]``, and how each is computed from
            the values at the places that the entry went to (``v.x`` and so on, and the operation's parameters).
        note: what else there is to say of an entry that went to one place, or how to find it from its values.
    """

    formula: str
    factors: tuple[Factor, ...] = ()
    note: str | Callable[[Any], str] = ""


def by_rule(
    entry: Entry, rule: Rule, symbol: str, operands: dict[str, Any], shape: tuple[int, ...], where_in: str = "output"
) -> Parts:
    """Apply `rule` at each place that the entry went to.

    Args:
        entry: of the operand called `symbol`.
        rule: what to apply.
        symbol: its name in `operands`.
        operands: arrays by their symbols, ``"g"`` among them. They broadcast to `shape`.
        shape: of the place where the arithmetic happened, which is called `where_in`.
    """
    where = places(operands[symbol].shape, shape, entry.index)
    values = {s: float64(np.broadcast_to(x, shape)[where]).ravel() for s, x in operands.items()}
    count = values["g"].size
    v = SimpleNamespace(**{**entry.params, **values})
    factors = (("{g}", lambda v: v.g), *rule.factors)
    columns = [np.broadcast_to(float64(compute(v)), count).tolist() for _, compute in factors]
    templates = [template for template, _ in factors]
    used = {s: x.shape for s, x in operands.items() if any(f"{{{s}}}" in template for template in templates)}
    terms = []
    for position, factor_values in zip(positions(where), zip(*columns, strict=True), strict=True):
        labels = {s: label(s, before_broadcast(own, position)) for s, own in used.items()}
        names = (template.format(**labels) for template in templates)
        terms.append(Term(place(position, where_in), tuple(zip(names, factor_values, strict=True))))
    if operands[symbol].shape == shape:
        return f"∂{symbol} = {rule.formula}", terms, rule.note if isinstance(rule.note, str) else rule.note(v)
    note = f"{symbol} was broadcast: the entry went to {count:,} places, whose gradients are added up"
    return f"∂{symbol} = Σ {rule.formula} over the places the entry went to", terms, note


# --------------------------------------------------------------------------------------------------- the rules

COPIED = "the gradient is handed on as it is"
MINUS = ("−1", lambda v: -1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _relu_note(v) -> str:
    shut = v.x[0] <= 0  # NaN passes
    return "the entry was not positive: the gate is shut" if shut else "the entry was positive: the gate is open"


def _side(v) -> str:
    return "the entry was positive: the slope is 1" if not v.x[0] <= 0 else "the entry was not positive"


def _abs_note(v) -> str:
    return "the slope at 0 is taken as 0" if v.x[0] == 0 else ""


def _softplus_note(v) -> str:
    return "beyond the threshold the output is the input, and the slope 1" if v.beta * v.x[0] > v.threshold else ""


def _dropout_note(v) -> str:
    return "the entry was kept, and the mask makes up for those dropped" if v.m[0] else "the entry was dropped"


def _softplus_slope(v) -> np.ndarray:
    return np.where(v.beta * v.x > v.threshold, 1, sigmoid(v.beta * v.x))


def _power_slope(v) -> np.ndarray:
    """xⁿ⁻¹, where n = 0 and x = 0 taken as 0: there x⁰ has no slope."""
    return np.where((v.n == 0) & (v.x == 0), 0, v.x ** (v.n - 1))


def _power_log(v) -> np.ndarray:
    """log x, where x = 0 and n ≥ 0 taken as 0: xⁿ log x goes to 0."""
    return np.log(np.where((v.x == 0) & (v.n >= 0), 1, v.x))


# For each operation its arguments by their symbols, in their order. `y` is the output.
RULES: dict[str, dict[str, Rule]] = {
    "add": {"a": Rule("g", note=COPIED), "b": Rule("g", note=COPIED)},
    "sub": {"a": Rule("g", note=COPIED), "b": Rule("−g", (MINUS,))},
    "mul": {"a": Rule("g · b", (("{b}", lambda v: v.b),)), "b": Rule("g · a", (("{a}", lambda v: v.a),))},
    "div": {
        "a": Rule("g · 1/b", (("1/{b}", lambda v: 1 / v.b),)),
        "b": Rule("g · (−a/b) · 1/b", (("−{a}/{b}", lambda v: -v.a / v.b), ("1/{b}", lambda v: 1 / v.b))),
    },
    "neg": {"x": Rule("−g", (MINUS,))},
    "pow": {
        "x": Rule("g · n · xⁿ⁻¹", (("{n}", lambda v: v.n), ("{x}^({n} − 1)", _power_slope))),
        "n": Rule("g · xⁿ · log x", (("{y}", lambda v: v.y), ("log {x}", _power_log))),
    },
    "exp": {"x": Rule("g · eˣ", (("{y}", lambda v: v.y),), "the slope of eˣ is the output y itself")},
    "log": {"x": Rule("g · 1/x", (("1/{x}", lambda v: 1 / v.x),))},
    "sqrt": {"x": Rule("g · 1/(2y)", (("1/(2·{y})", lambda v: 1 / (2 * v.y)),))},
    "abs": {"x": Rule("g · sign x", (("sign {x}", lambda v: 1.0 * (v.x > 0) - (v.x < 0)),), _abs_note)},
    "to_dtype": {"x": Rule("g", note=f"another precision has the slope 1: {COPIED}")},
    "to_device": {"x": Rule("g", note=f"another device has the slope 1: {COPIED}")},
    "relu": {"x": Rule("g · (1 where x > 0, else 0)", (("gate({x} > 0)", lambda v: ~(v.x <= 0)),), _relu_note)},
    "leaky_relu": {
        "x": Rule(
            "g · (1 where x > 0, else a)", (("slope at {x}", lambda v: np.where(v.x > 0, 1, v.negative_slope)),), _side
        )
    },
    "elu": {
        "x": Rule(
            "g · (1 where x > 0, else α·eˣ)",
            (("slope at {x}", lambda v: np.where(v.x > 0, 1, v.alpha * np.exp(np.minimum(v.x, 0)))),),
            _side,
        )
    },
    "sigmoid": {"x": Rule("g · y · (1 − y)", (("{y}", lambda v: v.y), ("(1 − {y})", lambda v: 1 - v.y)))},
    "tanh": {"x": Rule("g · (1 − y²)", (("(1 − {y}²)", lambda v: 1 - v.y**2),))},
    "silu": {
        "x": Rule(
            "g · σ(x) · (1 + x·(1 − σ(x)))",
            (("σ({x})", lambda v: sigmoid(v.x)), ("(1 + {x}·(1 − σ({x})))", lambda v: 1 + v.x * (1 - sigmoid(v.x)))),
        )
    },
    "softplus": {"x": Rule("g · σ(β·x)", (("σ(β·{x})", _softplus_slope),), _softplus_note)},
    "dropout": {
        "x": Rule("g · m", (("{m}", lambda v: v.m),), _dropout_note),
        "m": Rule("g · x", (("{x}", lambda v: v.x),)),
    },
}


def _by_table(entry: Entry) -> Parts:
    rules = RULES[entry.op.name]
    symbol = list(rules)[entry.number]
    operands = dict(zip(rules, entry.inputs, strict=True), y=entry.output, g=entry.grad)
    return by_rule(entry, rules[symbol], symbol, operands, entry.output.shape)


def _clamp(entry: Entry) -> Parts:
    """The gradient goes to whichever of the three was let through; at a bound, to x; `hi` wins where lo > hi."""
    x, lo, hi = entry.inputs
    above, below = "" if lo is None else "{lo} ≤ ", "" if hi is None else " ≤ {hi}"
    under, over = "" if hi is None else " < {hi}", "" if lo is None else " or {lo} > {hi}"
    rules = {
        "x": Rule(
            "g · (1 where x was let through, else 0)",
            ((f"gate({above}{{x}}{below})", lambda v: (v.lo <= v.x) & (v.x <= v.hi)),),
            lambda v: "x is within the bounds" if v.lo[0] <= v.x[0] <= v.hi[0] else "x is out of bounds",
        ),
        "lo": Rule(
            "g · (1 where lo took over, else 0)",
            ((f"gate({{x}} < {{lo}}{under})", lambda v: (v.x < v.lo) & (v.lo < v.hi)),),
        ),
        "hi": Rule(
            "g · (1 where hi took over, else 0)",
            ((f"gate({{x}} > {{hi}}{over})", lambda v: (v.x > v.hi) | (v.lo > v.hi)),),
        ),
    }
    operands = {
        "x": x, "lo": np.array(-np.inf) if lo is None else lo, "hi": np.array(np.inf) if hi is None else hi,
        "g": entry.grad,
    }  # fmt: skip
    symbol = list(rules)[entry.number]
    return by_rule(entry, rules[symbol], symbol, operands, entry.output.shape)


EXPLANATIONS: dict[str, Explain] = {**dict.fromkeys(RULES, _by_table), "clamp": _clamp}
