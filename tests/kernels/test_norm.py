"""Normalisation against the definitions, by NumPy's own statistics and by a banded matrix of neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend

from .helpers import (
    assert_close,
    assert_same,
    complex_step,
    drawn,
    dtypes,
    each_implementation,
    implementations,
    normal,
    run,
    seeds,
)

each_lrn, each_train = each_implementation("local_response_norm"), each_implementation("batch_norm_train")
places = st.lists(st.integers(1, 3), max_size=2)  # the axes after the channels


def column(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C,) to broadcast against (N, C, *)."""
    return values.reshape(1, -1, *[1] * (x.ndim - 2))


# ------------------------------------------------------------------------------ local response normalisation

def lrn_oracle(x, size, alpha, beta, k):
    """x / (k + α · B x² / size)^β, where row c of the matrix B is 1 at the channels in the window of c."""
    distance = np.arange(x.shape[1]) - np.arange(x.shape[1])[:, None]  # of column m from row c
    band = (distance >= -(size // 2)) & (distance <= (size - 1) // 2)
    return x / (k + alpha * np.einsum("cm,nm...->nc...", band, x**2) / size) ** beta


@drawn
@given(
    st.tuples(st.integers(0, 2), st.integers(1, 6)), places, st.integers(1, 8),
    st.floats(0, 2), st.floats(0, 2), st.floats(0.5, 3), dtypes, seeds,
)  # fmt: skip
def test_local_response_norm(items, place, size, alpha, beta, k, dtype, seed):
    x = normal(np.random.default_rng(seed), (*items, *place), dtype)
    params = {"size": size, "alpha": alpha, "beta": beta, "k": k}
    for pair in implementations("local_response_norm").values():
        result = run(pair, (x,), seed=seed, **params)
        assert_close(result.output, lrn_oracle(x.astype(np.float64), **params).astype(dtype))
        expected = complex_step(lambda z: lrn_oracle(z, **params), x.astype(np.float64), result.grad_output)
        assert_close(result.grads[0], expected.astype(dtype))


@each_lrn
def test_the_window_of_an_even_size_reaches_one_further_back(pair):
    x = np.zeros((1, 5, 1))
    x[0, 2] = 1.0
    ones = np.where(x == 0, 1e-30, x)  # the others so small that they read off the divisor
    output, _ = pair.forward(ones, size=2, alpha=2.0, beta=1.0, k=1.0)
    np.testing.assert_allclose((ones / output).ravel(), [1, 1, 2, 2, 1])  # in channel 3's window: 2 and 3


# -------------------------------------------------------------------------------------- batch normalisation

@st.composite
def batches(draw):
    """(input, weight, bias), with at least four values a channel, so that its variance is not nearly zero."""
    shape = (draw(st.integers(4, 6)), draw(st.integers(1, 4)), *draw(places))
    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    x = (3 * normal(rng, shape) + column(normal(rng, shape[1]), np.empty(shape))).astype(dtype)
    weight, bias = (normal(rng, shape[1], dtype) if draw(st.booleans()) else None for _ in range(2))
    return x, weight, bias


def tolerance_of(x: np.ndarray) -> float:
    """Dividing by a standard deviation that is small costs a digit or two."""
    return 1e-10 if x.dtype == np.float64 else 1e-4


def batch_norm_oracle(x, weight, bias, mean, var, eps):
    weight, bias = 1.0 if weight is None else column(weight, x), 0.0 if bias is None else column(bias, x)
    return weight * (x - column(mean, x)) / np.sqrt(column(var, x) + eps) + bias


def statistics(x):
    """The mean and the biased variance of each channel, the latter as E[x²] − E[x]²: complex numbers pass through."""
    rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    return rows.mean(1), (rows**2).mean(1) - rows.mean(1) ** 2


@drawn
@given(batches(), st.sampled_from([1e-5, 0.1, 2.0]), seeds)
def test_batch_norm_in_training(arrays, eps, seed):
    x, dtype, tolerance = arrays[0], arrays[0].dtype, tolerance_of(arrays[0])
    exact = [None if a is None else a.astype(np.float64) for a in arrays]

    def oracle(x):
        return batch_norm_oracle(x, *exact[1:], *statistics(x), eps)

    for pair in implementations("batch_norm_train").values():
        result = run(pair, arrays, seed=seed, eps=eps)
        mean, var, *_ = result.saved
        assert_close(mean, exact[0].mean((0, *range(2, x.ndim))).astype(dtype))
        assert_close(var, exact[0].var((0, *range(2, x.ndim))).astype(dtype))
        assert_close(result.output, oracle(exact[0]).astype(dtype), tolerance)
        expected = complex_step(oracle, exact[0], result.grad_output)
        assert_close(result.grads[0], expected.astype(dtype), tolerance)


@drawn
@given(batches(), st.sampled_from([1e-5, 0.1]), seeds)
def test_batch_norm_in_evaluation(arrays, eps, seed):
    x, rng = arrays[0], np.random.default_rng([seed, 3])
    mean, var = normal(rng, x.shape[1], x.dtype), (0.1 + rng.random(x.shape[1])).astype(x.dtype)
    exact = [None if a is None else a.astype(np.float64) for a in (*arrays, mean, var)]
    for pair in implementations("batch_norm_eval").values():
        result = run(pair, arrays, seed=seed, mean=mean, var=var, eps=eps)
        assert_close(result.output, batch_norm_oracle(*exact, eps).astype(x.dtype))
        expected = complex_step(lambda z: batch_norm_oracle(z, *exact[1:], eps), exact[0], result.grad_output)
        assert_close(result.grads[0], expected.astype(x.dtype))


@drawn
@given(batches(), st.tuples(st.booleans(), st.booleans(), st.booleans()), seeds)
def test_implementations_of_batch_norm_agree(arrays, needs, seed):
    needs = tuple(need and a is not None for need, a in zip(needs, arrays, strict=True))
    ones = np.ones(arrays[0].shape[1], arrays[0].dtype)
    for name, params in (("batch_norm_train", {}), ("batch_norm_eval", {"mean": ones, "var": 2 * ones})):
        forms = implementations(name).values()
        neutral, *others = (run(pair, arrays, needs, seed, eps=1e-3, **params) for pair in forms)
        for other in others:
            assert_same(other, neutral, tolerance_of(arrays[0]))


@each_train
def test_no_gradient_along_what_batch_norm_takes_out(pair, rng):
    """Shifting or (without ε) stretching a channel changes no output, so the gradient is orthogonal to both."""
    x = normal(rng, (4, 3, 2, 2))
    result = run(pair, (x, normal(rng, 3), None), eps=0.0)
    centred = x - x.mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(result.grads[0].sum((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose((result.grads[0] * centred).sum((0, 2, 3)), 0, atol=1e-12)


@each_train
def test_a_constant_channel_gives_its_bias(pair):
    """Its variance is 0: ε keeps the division defined. A hundred equal values in float32 must not drift apart."""
    x = np.full((10, 1, 10), 0.1, dtype=np.float32)
    output, saved = pair.forward(x, np.array([2.0], dtype=np.float32), np.array([3.0], dtype=np.float32), eps=1e-5)
    np.testing.assert_allclose(output, 3.0, atol=1e-4)
    assert saved[1] < 1e-12


@each_train
def test_a_large_mean_costs_batch_norm_no_accuracy(pair, rng):
    """E[x²] − E[x]² in float32 would lose the variance of 1 beside a mean of 1000 altogether."""
    spread = normal(rng, (8, 2, 8))
    result = run(pair, ((1000 + spread).astype(np.float32), None, None), eps=0.0)
    expected = (1000 + spread).astype(np.float32).astype(float).var((0, 2))
    np.testing.assert_allclose(backend.to_host(result.saved[1]), expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["batch_norm_train", "batch_norm_eval"])
def test_an_empty_batch_has_empty_gradients(name):
    """As in PyTorch: nothing comes out, and the weight's and bias's gradients are 0."""
    params = {} if name == "batch_norm_train" else {"mean": np.zeros(3), "var": np.ones(3)}
    for pair in implementations(name).values():
        result = run(pair, (np.empty((0, 3, 2)), np.ones(3), np.ones(3)), eps=1e-5, **params)
        assert result.output.shape == result.grads[0].shape == (0, 3, 2)
        np.testing.assert_array_equal(result.grads[1], np.zeros(3))
        np.testing.assert_array_equal(result.grads[2], np.zeros(3))
