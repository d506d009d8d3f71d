"""Arithmetic: values by Python's operators, gradients of broadcasting by adding up copies, and the awkward points."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn.kernels import elementwise

from .helpers import assert_close, drawn, dtypes, implementations, normal, run, seeds

# y and its two derivatives at one pair of numbers
BINARY = {
    "add": (operator.add, lambda a, b: (1, 1)),
    "sub": (operator.sub, lambda a, b: (1, -1)),
    "mul": (operator.mul, lambda a, b: (b, a)),
    "div": (operator.truediv, lambda a, b: (1 / b, -a / b**2)),
    "pow": (operator.pow, lambda a, b: (b * a ** (b - 1), a**b * math.log(a))),
}
UNARY = {
    "neg": (operator.neg, lambda x: -1),
    "exp": (math.exp, math.exp),
    "log": (math.log, lambda x: 1 / x),
    "sqrt": (math.sqrt, lambda x: 0.5 / math.sqrt(x)),
    "abs": (abs, lambda x: 1),
}


def neutral(name):
    return implementations(name)["neutral"]


@st.composite
def broadcast_shapes(draw):
    """Two shapes that broadcast: some axes of length 1, some left out in front, some empty."""
    whole = draw(st.lists(st.integers(0, 3), max_size=3))

    def shrunk():
        kept = whole[draw(st.integers(0, len(whole))) :]
        return tuple(draw(st.sampled_from([1, n])) for n in kept)

    return shrunk(), shrunk()


@pytest.mark.parametrize("name", BINARY)
@given(broadcast_shapes(), dtypes, seeds)
@drawn
def test_binary_with_broadcasting(name, shapes, dtype, seed):
    formula, slopes = BINARY[name]
    rng = np.random.default_rng(seed)
    a, b = (0.5 + abs(normal(rng, shape)).astype(dtype) for shape in shapes)  # positive, for the division and the power
    result = run(neutral(name), (a, b), seed=seed)
    shape = np.broadcast_shapes(*shapes)
    assert result.output.shape == shape
    expected, grads = np.empty(shape), (np.zeros(shapes[0]), np.zeros(shapes[1]))
    # where in a and b the entry of the output came from
    origins = [np.broadcast_to(np.arange(x.size).reshape(x.shape), shape) for x in (a, b)]
    for at in np.ndindex(shape):
        places = [origin[at] for origin in origins]
        values = float(a.flat[places[0]]), float(b.flat[places[1]])
        expected[at] = formula(*values)
        for grad, place, slope in zip(grads, places, slopes(*values), strict=True):
            grad.flat[place] += result.grad_output[at] * slope
    assert_close(result.output, expected.astype(dtype))
    for found, grad in zip(result.grads, grads, strict=True):
        assert_close(found, grad.astype(dtype))


@pytest.mark.parametrize("name", UNARY)
@given(st.lists(st.integers(0, 3), max_size=3), dtypes, seeds)
@drawn
def test_unary(name, shape, dtype, seed):
    formula, slope = UNARY[name]
    x = 0.5 + abs(normal(np.random.default_rng(seed), shape)).astype(dtype)
    result = run(neutral(name), (x,), seed=seed)
    assert_close(result.output, np.array([formula(v) for v in x.ravel().tolist()], dtype=dtype).reshape(shape))
    slopes = np.array([slope(v) for v in x.ravel().tolist()]).reshape(shape)
    assert_close(result.grads[0], (result.grad_output * slopes).astype(dtype))


def test_abs_on_both_sides_and_at_zero():
    """The slope at 0 is 0, as PyTorch's."""
    result = run(neutral("abs"), (np.array([-2.0, 0.0, 3.0]),))
    np.testing.assert_array_equal(result.output, [2, 0, 3])
    np.testing.assert_array_equal(result.grads[0], result.grad_output * [-1, 0, 1])


@pytest.mark.parametrize(
    ("base", "exponent", "value", "slope", "slope_of_exponent"),
    [
        (0.0, 0.0, 1, 0, 0),  # x⁰ is 1 everywhere, and the slope of 0ⁿ in n taken as its limit from the right
        (0.0, 1.0, 0, 1, 0),
        (0.0, 2.0, 0, 0, 0),
        (0.0, 3.0, 0, 0, 0),
        (-2.0, 2.0, 4, -4, None),  # no logarithm of a negative number
        (-2.0, 3.0, -8, 12, None),
        (-2.0, 0.0, 1, 0, None),
        (2.0, -1.0, 0.5, -0.25, 0.5 * math.log(2)),
        (4.0, 0.5, 2, 0.25, 2 * math.log(4)),
    ],
)
def test_pow_at_awkward_points(base, exponent, value, slope, slope_of_exponent):
    needs = (True, slope_of_exponent is not None)
    result = run(neutral("pow"), (np.array([base]), np.array([exponent])), needs)
    np.testing.assert_allclose(result.output, value)
    np.testing.assert_allclose(result.grads[0], result.grad_output * slope)
    if slope_of_exponent is not None:
        np.testing.assert_allclose(result.grads[1], result.grad_output * slope_of_exponent)


@pytest.mark.parametrize(
    ("low", "high", "value", "receiver"),  # of x = 1; the receiver: 0 is x, 1 the lower bound, 2 the upper one
    [
        (0.0, 2.0, 1, 0), (1.5, 2.0, 1.5, 1), (-1.0, 0.5, 0.5, 2),
        (0.0, None, 1, 0), (1.5, None, 1.5, 1), (None, 2.0, 1, 0), (None, 0.5, 0.5, 2),
        (1.0, 2.0, 1, 0), (0.0, 1.0, 1, 0),  # at a bound: to the input
        (3.0, 2.0, 2, 2), (0.5, 0.0, 0, 2), (3.0, 1.5, 1.5, 2),  # bounds that cross: the upper one wins
    ],
)  # fmt: skip
def test_clamp_lets_one_of_three_through(low, high, value, receiver):
    arrays = tuple(None if v is None else np.array([v]) for v in (1.0, low, high))
    result = run(neutral("clamp"), arrays)
    np.testing.assert_array_equal(result.output, value)
    for i, grad in enumerate(result.grads):
        if grad is not None:
            np.testing.assert_array_equal(grad, result.grad_output if i == receiver else 0)


def test_unbroadcast_sums_what_was_copied():
    grad = np.arange(24.0).reshape(2, 3, 4)
    assert elementwise.unbroadcast(grad, (2, 3, 4)) is grad
    np.testing.assert_array_equal(elementwise.unbroadcast(grad, (3, 1)), [[60], [92], [124]])
    np.testing.assert_array_equal(elementwise.unbroadcast(grad, ()), 276)
    np.testing.assert_array_equal(elementwise.unbroadcast(np.ones((0, 3)), (1, 3)), np.zeros((1, 3)))  # of no copies: 0


def test_to_dtype_brings_the_gradient_back_in_the_old_one():
    result = run(neutral("to_dtype"), (np.array([1 + 1e-9, 2.0]),), dtype=np.dtype(np.float32))
    assert_close(result.output, np.array([1, 2], dtype=np.float32))
    assert_close(result.grads[0], result.grad_output.astype(np.float64))
