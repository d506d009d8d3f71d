"""Reductions against Python's own sums over the entries that meet, for every choice of axes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .helpers import assert_close, drawn, dtypes, implementations, normal, run, seeds


def variance(values: list[float], correction: float) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - correction)


def variance_slopes(values: list[float], correction: float) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [2 * (v - mean) / (len(values) - correction) for v in values]


# name: value and slopes of the numbers that are reduced to one
FORMULAS = {
    "sum": (math.fsum, lambda values: [1.0] * len(values)),
    "mean": (lambda values: math.fsum(values) / len(values), lambda values: [1 / len(values)] * len(values)),
    "var": (lambda values: variance(values, 0.5), lambda values: variance_slopes(values, 0.5)),
    "amax": (max, lambda values: [(v == max(values)) / values.count(max(values)) for v in values]),
}


@st.composite
def reductions(draw):
    """(input, dim, keepdim): axes of length 1 or more, any of them reduced, all of them or none."""
    shape = draw(st.lists(st.integers(1, 3), max_size=4))
    dim = tuple(d for d in range(len(shape)) if draw(st.booleans()))
    rng = np.random.default_rng(draw(seeds))
    if draw(st.booleans()):
        values = rng.integers(-1, 2, shape)  # with ties
    else:
        values = normal(rng, shape)
    return np.asarray(values, dtype=draw(dtypes)), dim, draw(st.booleans())


@pytest.mark.parametrize("name", FORMULAS)
@given(reductions(), seeds)
@drawn
def test_reduction(name, case, seed):
    x, dim, keepdim = case
    value, slopes = FORMULAS[name]
    params = {"dim": dim, "keepdim": keepdim} | ({"correction": 0.5} if name == "var" else {})
    result = run(implementations(name)["neutral"], (x,), seed=seed, **params)
    kept = tuple(1 if d in dim else n for d, n in enumerate(x.shape))
    groups = {at: [] for at in np.ndindex(kept)}  # of each output the places that meet in it
    for at in np.ndindex(x.shape):
        groups[tuple(0 if d in dim else i for d, i in enumerate(at))].append(at)
    expected, grad = np.empty(kept), np.empty(x.shape)
    for out, places in groups.items():
        values = [float(x[at]) for at in places]
        expected[out] = value(values)
        for at, slope in zip(places, slopes(values), strict=True):
            grad[at] = result.grad_output.reshape(kept)[out] * slope
    shape = kept if keepdim else tuple(n for d, n in enumerate(x.shape) if d not in dim)
    assert_close(result.output, expected.reshape(shape).astype(x.dtype))
    assert_close(result.grads[0], grad.astype(x.dtype))


def test_a_sum_of_nothing_is_zero():
    result = run(implementations("sum")["neutral"], (np.empty((2, 0)),), dim=(1,), keepdim=False)
    np.testing.assert_array_equal(result.output, [0, 0])
    assert result.grads[0].shape == (2, 0)


def test_var_beside_a_large_mean(rng):
    """In float32 a mean of 10⁴ leaves a variance of 1 three digits, which a difference of squares would lose."""
    x = (1e4 + normal(rng, 1000)).astype(np.float32)
    output, _ = implementations("var")["neutral"].forward(x, dim=(0,), correction=1, keepdim=False)
    np.testing.assert_allclose(output, x.astype(float).var(ddof=1), rtol=1e-3)
