"""Activations against Python's own arithmetic, one number at a time, and at the ends of what floats can hold."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn.kernels import activation

from .helpers import assert_close, assert_same, central_difference, drawn, dtypes, implementations, normal, run, seeds


def log1p_exp(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


FORMULAS = {
    "relu": ({}, lambda x: max(x, 0.0)),
    "leaky_relu": ({"negative_slope": 0.2}, lambda x: x if x > 0 else 0.2 * x),
    "elu": ({"alpha": 1.5}, lambda x: x if x > 0 else 1.5 * math.expm1(x)),
    "sigmoid": ({}, sigmoid),
    "tanh": ({}, math.tanh),
    "silu": ({}, lambda x: x * sigmoid(x)),
    "softplus": ({"beta": 2.0, "threshold": 20.0}, lambda x: log1p_exp(2 * x) / 2),
}
each = pytest.mark.parametrize(("name", "pair"), [
    pytest.param(name, pair, id=f"{name}-{form}") for name in FORMULAS for form, pair in implementations(name).items()
])  # fmt: skip


@each
@given(dtypes, seeds)
@drawn
def test_values_and_slopes(name, pair, dtype, seed):
    params, formula = FORMULAS[name]
    x = 3 * normal(np.random.default_rng(seed), (2, 3)).astype(dtype)
    x = np.where(abs(x) < 0.01, 0.01, x).astype(dtype)  # a step away from the kinks
    result = run(pair, (x,), seed=seed, **params)

    def everywhere(values):
        return np.array([formula(v) for v in values.ravel().tolist()]).reshape(values.shape)

    assert_close(result.output, everywhere(x).astype(dtype))
    expected = central_difference(everywhere, x.astype(np.float64), result.grad_output)
    assert_close(result.grads[0], expected.astype(dtype), 1e-8 if dtype == np.float64 else 1e-5)


# What each tends to, and its slope there. Warnings are errors, so nothing may overflow on the way.
LIMITS = {
    "relu": ((0, 0), (1e4, 1)),
    "leaky_relu": ((-2e3, 0.2), (1e4, 1)),
    "elu": ((-1.5, 0), (1e4, 1)),
    "sigmoid": ((0, 0), (1, 0)),
    "tanh": ((-1, 0), (1, 0)),
    "silu": ((0, 0), (1e4, 1)),
    "softplus": ((0, 0), (1e4, 1)),
}


@each
def test_far_out(name, pair):
    params, _ = FORMULAS[name]
    for dtype in (np.float32, np.float64):
        x = np.array([-1e4, 1e4], dtype=dtype)
        output, saved = pair.forward(x, **params)
        (slope,) = pair.backward(np.ones(2, dtype=dtype), saved, (True,), **params)
        np.testing.assert_allclose(output, [end[0] for end in LIMITS[name]], rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(slope, [end[1] for end in LIMITS[name]], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", 0.2), ("elu", 1.5)])
def test_the_slope_at_the_kink_is_the_left_one(name, slope):
    """Where the two sides differ PyTorch takes the slope for x < 0, and so does this."""
    params, _ = FORMULAS[name]
    for pair in implementations(name).values():
        for zero in (0.0, -0.0):
            output, saved = pair.forward(np.array([zero]), **params)
            assert output[0] == 0
            assert pair.backward(np.array([1.0]), saved, (True,), **params)[0][0] == slope


@each
def test_a_nan_stays_a_nan(name, pair):
    assert np.isnan(pair.forward(np.array([np.nan]), **FORMULAS[name][0])[0]).all()


@pytest.mark.parametrize(("name", "slope"), [("relu", 1.0), ("leaky_relu", 0.2)])
def test_the_gradient_of_a_nan_is_the_one_that_pytorch_gives(name, slope):
    for pair in implementations(name).values():
        result = run(pair, (np.array([np.nan]),), **FORMULAS[name][0])
        np.testing.assert_array_equal(result.grads[0], slope * result.grad_output)


def test_softplus_is_the_identity_beyond_its_threshold():
    x = np.array([0.9, 1.1])  # of βx = 2 with the threshold at 2: below and beyond
    result = run(implementations("softplus")["neutral"], (x,), beta=2.0, threshold=2.0)
    assert_close(result.output, np.array([log1p_exp(1.8) / 2, 1.1]))
    assert_close(result.grads[0], result.grad_output * np.array([sigmoid(1.8), 1.0]))


# -------------------------------------------------------------------------------------------------- softmax

@drawn
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3), dtypes, seeds)
def test_softmax_and_its_logarithm(shape, dim, dtype, seed):
    """By exact fractions: the exponentials are rounded once, the division not at all."""
    dim %= len(shape)
    rng = np.random.default_rng(seed)
    x = 3 * normal(rng, shape).astype(dtype)
    expected = np.empty(shape)
    for at in np.ndindex(*shape[:dim], *shape[dim + 1 :]):
        line = (*at[:dim], slice(None), *at[dim:])
        powers = [Fraction(math.exp(v)) for v in x[line].tolist()]
        expected[line] = [float(p / sum(powers)) for p in powers]
    for name, values in (("softmax", expected), ("log_softmax", np.log(expected))):
        neutral, *others = (run(pair, (x,), seed=seed, dim=dim) for pair in implementations(name).values())
        assert_close(neutral.output, values.astype(dtype))
        for other in others:
            assert_same(other, neutral)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_large_scores_and_of_minus_infinity(name):
    """Only differences count; a class at −∞ is out, and everybody else's gradient is that of the rest."""
    x = np.array([[1e4, 1e4 - 1, -np.inf], [-1e4, -1e4 - 1, -np.inf]])
    rest = np.array([[1.0, 0.0], [1.0, 0.0]])
    for pair in implementations(name).values():
        output, saved = pair.forward(x, dim=1)
        expected, saved_rest = pair.forward(rest, dim=1)
        assert_close(output[:, :2], expected)
        assert (output[:, 2] == (0 if name == "softmax" else -np.inf)).all()
        (grad,) = pair.backward(np.array([[1.0, 2.0, 0.0], [3.0, 5.0, 0.0]]), saved, (True,), dim=1)
        assert_close(grad[:, :2], pair.backward(np.array([[1.0, 2.0], [3.0, 5.0]]), saved_rest, (True,), dim=1)[0])
        np.testing.assert_array_equal(grad[:, 2], 0)


def test_relu_keeps_one_array_not_two():
    """The output, which the next operation holds anyway, tells where the gate was open."""
    output, saved = activation.relu_forward(np.array([-1.0, 2.0]))
    assert saved is output
