"""Pooling: its implementations against each other and against windows cut out one by one."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import Tensor, no_grad
from minicnn import functional as F
from minicnn.engine import observe
from minicnn.kernels import fast

from .helpers import (
    Windows,
    assert_adjoint,
    assert_close,
    drawn,
    dtypes,
    each_implementation,
    implementations,
    normal,
    run,
    seeds,
    windows,
)

NAN, INF = float("nan"), float("inf")
each_max, each_avg, each_adaptive = map(each_implementation, ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"))


@st.composite
def pools(draw, dilated: bool):
    """The two axes, params without dilation, and the shape of the input."""
    rows, columns = draw(windows(pool=True, dilated=dilated)), draw(windows(pool=True, dilated=dilated))
    params = {
        "kernel_size": (rows.kernel, columns.kernel),
        "stride": (rows.stride, columns.stride),
        "padding": (rows.padding, columns.padding),
        "ceil_mode": draw(st.booleans()),
    }
    return rows, columns, params, (draw(st.integers(0, 2)), draw(st.integers(1, 2)), rows.size, columns.size)


def starts(axis: Windows, ceil_mode: bool) -> list[int]:
    """Where the windows of one axis start in the padded input, by PyTorch's rule in words: one after the other, as
    long as they fit; with `ceil_mode` one more if there is something left, which must start before the right padding.
    """
    span, padded = axis.dilation * (axis.kernel - 1) + 1, axis.size + 2 * axis.padding
    found = [start for start in range(0, padded, axis.stride) if start + span <= padded]
    following = len(found) * axis.stride
    if ceil_mode and found[-1] + span < padded and following < axis.size + axis.padding:
        found.append(following)
    return found


def cut(padded: np.ndarray, rows: Windows, columns: Windows, ceil_mode: bool) -> Iterator[tuple[Any, np.ndarray]]:
    """((i, j), the window of output (i, j)) for a padded plane; a window that sticks out is cut off."""
    for i, top in enumerate(starts(rows, ceil_mode)):
        for j, left in enumerate(starts(columns, ceil_mode)):
            bottom, right = top + rows.dilation * rows.kernel, left + columns.dilation * columns.kernel
            yield (i, j), padded[top : bottom : rows.dilation, left : right : columns.dilation]


def pad(plane: np.ndarray, rows: Windows, columns: Windows, value) -> np.ndarray:
    return np.pad(plane, ((rows.padding, rows.padding), (columns.padding, columns.padding)), constant_values=value)


def out_shape(rows: Windows, columns: Windows, ceil_mode: bool) -> tuple[int, int]:
    return len(starts(rows, ceil_mode)), len(starts(columns, ceil_mode))


# -------------------------------------------------------------------------------------------------- maximum

def max_oracle(x: np.ndarray, rows: Windows, columns: Windows, ceil_mode: bool) -> tuple[np.ndarray, np.ndarray]:
    """The maxima, and the place of each in its flattened plane; the first NaN or else the first maximum wins."""
    maxima = np.empty((*x.shape[:2], *out_shape(rows, columns, ceil_mode)))
    winners = np.empty(maxima.shape, dtype=int)
    places = pad(np.arange(x[0, 0].size).reshape(x.shape[2:]), rows, columns, -1) if len(x) else None
    for n, c in np.ndindex(x.shape[:2]):
        values = cut(pad(x[n, c], rows, columns, -INF), rows, columns, ceil_mode)
        where = cut(places, rows, columns, ceil_mode)
        for (at, window), (_, place) in zip(values, where, strict=True):
            inside = [(v, p) for v, p in zip(window.ravel().tolist(), place.ravel().tolist(), strict=True) if p >= 0]
            nans = [(v, p) for v, p in inside if v != v]
            largest = max((v for v, _ in inside), default=-INF)
            maxima[(n, c, *at)], winners[(n, c, *at)] = (
                nans[0] if nans else next(((v, p) for v, p in inside if v == largest), (-INF, -1))
            )
    return maxima, winners


def max_gradient(x: np.ndarray, winners: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
    grad = np.zeros((*x.shape[:2], x.shape[2] * x.shape[3] + 1))  # the last entry takes what goes nowhere
    for at in np.ndindex(winners.shape):
        grad[(*at[:2], winners[at])] += grad_output[at]
    return grad[..., :-1].reshape(x.shape)


@drawn
@given(pools(dilated=True), dtypes, seeds, st.sampled_from([(), (NAN,), (INF, -INF), (NAN, -INF)]))
def test_max_pool_without_a_backward_pass(case, dtype, seed, special):
    """Then the largest entries are found in another way, and who they were is not noted."""
    rows, columns, params, shape = case
    params = params | {"dilation": (rows.dilation, columns.dilation)}
    rng = np.random.default_rng(seed)
    x = rng.choice(np.array([-2.0, -1, 0, 1, *special]), shape).astype(dtype)
    maxima, _ = max_oracle(x, rows, columns, params["ceil_mode"])
    with no_grad():
        output, saved = fast.max_pool2d_forward(x, **params)
    np.testing.assert_array_equal(output, maxima)
    assert output.dtype == dtype and saved is None


def test_a_last_window_that_sticks_out_without_padding(rng):
    x = normal(rng, (2, 3, 5, 7)) - 9  # no number is larger than what lies beyond the border, if that is not −∞
    params = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": True}
    expected = fast.max_pool2d_forward(x, **params)[0]
    with no_grad():
        output, _ = fast.max_pool2d_forward(x, **params)
    assert output.shape == (2, 3, 3, 4) and np.array_equal(output, expected)


@pytest.mark.host
def test_who_was_largest_is_noted_where_a_gradient_is_wanted(rng):
    """A network whose first layers are frozen takes the shorter way there."""
    x, params = normal(rng, (2, 3, 8, 8)), {"kernel_size": 2}
    nodes = []
    with observe(SimpleNamespace(forward=lambda node, output: nodes.append(node))):
        outputs = [F.max_pool2d(Tensor(x, requires_grad), **params) for requires_grad in (False, True)]
        with no_grad():
            outputs.append(F.max_pool2d(Tensor(x, True), **params))
    assert [node.saved is None for node in nodes] == [True, False, True]
    assert nodes[0].backward(np.ones(outputs[0].shape)) == (None,)
    assert np.array_equal(outputs[0].data, outputs[1].data) and np.array_equal(outputs[2].data, outputs[1].data)


@drawn
@given(pools(dilated=True), dtypes, seeds)
def test_max_pool_takes_the_first_maximum(case, dtype, seed):
    rows, columns, params, shape = case
    params = params | {"dilation": (rows.dilation, columns.dilation)}
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 2, shape).astype(dtype)  # so few values that there are ties everywhere
    maxima, winners = max_oracle(x, rows, columns, params["ceil_mode"])
    for pair in implementations("max_pool2d").values():
        result = run(pair, (x,), seed=seed, **params)
        np.testing.assert_array_equal(result.output, maxima)
        assert_close(result.grads[0], max_gradient(x, winners, result.grad_output).astype(dtype))
        if not params["ceil_mode"]:
            assert result.output.shape[2:] == (rows.out, columns.out)


@drawn
@given(pools(dilated=False), seeds)
def test_max_pool_of_infinities_and_nans(case, seed):
    rows, columns, params, shape = case
    params = params | {"dilation": (1, 1)}
    rng = np.random.default_rng(seed)
    x = rng.choice([-INF, 0.0, INF, NAN], shape, p=[0.85, 0.05, 0.05, 0.05])
    maxima, winners = max_oracle(x, rows, columns, params["ceil_mode"])
    for pair in implementations("max_pool2d").values():
        result = run(pair, (x,), seed=seed, **params)
        np.testing.assert_array_equal(result.output, maxima)
        assert_close(result.grads[0], max_gradient(x, winners, result.grad_output))


@each_max
def test_max_pool_by_hand(pair):
    """Overlapping windows that share a winner add up in it; all negative, so that a zero padding would win."""
    x = np.array([[-4, -3, -9], [-5, -1, -6], [-2, -8, -7]], dtype=np.float32)[None, None]
    params = {"kernel_size": (2, 2), "stride": (1, 1), "padding": (1, 0), "dilation": (1, 1), "ceil_mode": False}
    output, saved = pair.forward(x, **params)
    np.testing.assert_array_equal(output, [[[[-3, -3], [-1, -1], [-1, -1], [-2, -7]]]])
    grad_output = np.array([[1, 2], [4, 8], [16, 32], [64, 128]], dtype=np.float32)[None, None]
    (grad,) = pair.backward(grad_output, saved, (True,), **params)
    np.testing.assert_array_equal(grad, [[[[0, 3, 0], [0, 60, 0], [64, 0, 128]]]])


@each_max
def test_minus_infinity_in_the_input_wins_over_the_padding(pair):
    """Both are −∞, and the padding comes first, but no gradient may vanish into it."""
    x = np.full((1, 1, 2, 2), -INF)
    params = {"kernel_size": (2, 2), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "ceil_mode": False}
    output, saved = pair.forward(x, **params)
    np.testing.assert_array_equal(output, np.full((1, 1, 3, 3), -INF))
    (grad,) = pair.backward(np.arange(1.0, 10.0).reshape(1, 1, 3, 3), saved, (True,), **params)
    np.testing.assert_array_equal(grad, [[[[1 + 2 + 4 + 5, 3 + 6], [7 + 8, 9]]]])


@each_max
def test_the_first_nan_wins(pair):
    x = np.array([[[[1.0, NAN, 2.0, NAN]]]])
    params = {"kernel_size": (1, 4), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
    output, saved = pair.forward(x, **params)
    np.testing.assert_array_equal(output, [[[[NAN]]]])
    np.testing.assert_array_equal(pair.backward(np.array([[[[3.0]]]]), saved, (True,), **params)[0], [[[[0, 3, 0, 0]]]])


# -------------------------------------------------------------------------------------------------- average

def avg_oracle(x, rows, columns, ceil_mode, count_include_pad, divisor_override) -> np.ndarray:
    """The divisor is counted by pooling a plane of ones, whose padding holds ones too where it counts."""
    counted = pad(np.ones((rows.size, columns.size)), rows, columns, 1 if count_include_pad else 0)
    output = np.empty((*x.shape[:2], *out_shape(rows, columns, ceil_mode)))
    for n, c in np.ndindex(x.shape[:2]):
        values = cut(pad(x[n, c], rows, columns, 0), rows, columns, ceil_mode)
        for (at, window), (_, ones) in zip(values, cut(counted, rows, columns, ceil_mode), strict=True):
            output[(n, c, *at)] = window.sum() / (divisor_override or ones.sum())
    return output


@drawn
@given(pools(dilated=False), st.booleans(), st.sampled_from([None, None, 1, 5, -3]), dtypes, seeds)
def test_avg_pool_divides_as_pytorch_does(case, count_include_pad, divisor_override, dtype, seed):
    rows, columns, params, shape = case
    params = params | {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    rng = np.random.default_rng(seed)
    x = normal(rng, shape, dtype)

    def oracle(values):
        return avg_oracle(values, rows, columns, params["ceil_mode"], count_include_pad, divisor_override)

    for pair in implementations("avg_pool2d").values():
        result = run(pair, (x,), seed=seed, **params)
        assert_close(result.output, oracle(x).astype(dtype))
        assert_adjoint(oracle, result.grad_output, result.grads[0], rng)


@each_avg
def test_avg_pool_by_hand(pair):
    """3 wide, windows of 2 with stride 2, padded by 1: windows over (pad, 1), (2, 3), and in ceil mode none more."""
    x = np.array([[1.0, 2.0, 3.0]])[None, None]
    params = {"kernel_size": (1, 2), "stride": (1, 2), "padding": (0, 1), "ceil_mode": True, "divisor_override": None}
    np.testing.assert_allclose(pair.forward(x, count_include_pad=True, **params)[0], [[[[0.5, 2.5]]]])
    output, saved = pair.forward(x, count_include_pad=False, **params)
    np.testing.assert_allclose(output, [[[[1.0, 2.5]]]])
    (grad,) = pair.backward(np.array([[[[8.0, 4.0]]]]), saved, (True,), count_include_pad=False, **params)
    np.testing.assert_allclose(grad, [[[[8.0, 2.0, 2.0]]]])


@each_avg
def test_rows_that_ceil_mode_adds_are_not_counted(pair):
    """Window 3, stride 2 over 4 columns padded by 1: the last window holds column 3, one of padding and one beyond."""
    x = np.ones((1, 1, 1, 4))
    params = {"kernel_size": (1, 3), "stride": (1, 2), "padding": (0, 1), "ceil_mode": True, "divisor_override": None}
    np.testing.assert_allclose(pair.forward(x, count_include_pad=True, **params)[0], [[[[2 / 3, 1, 1 / 2]]]])
    np.testing.assert_allclose(pair.forward(x, count_include_pad=False, **params)[0], [[[[1, 1, 1]]]])


# ------------------------------------------------------------------------------------------------- adaptive

@drawn
@given(st.integers(0, 2), st.integers(1, 7), st.integers(1, 7), st.integers(1, 8), st.integers(1, 8), dtypes, seeds)
def test_adaptive_avg_pool_averages_bins(batch, height, width, out_h, out_w, dtype, seed):
    """Against the rule in real numbers: bin i touches all entries that overlap [i·size/out, (i+1)·size/out)."""
    rng = np.random.default_rng(seed)
    x = normal(rng, (batch, 2, height, width), dtype)

    def touched(size, out):  # (out, size) weights that average
        low, high = np.arange(out)[:, None] * size, (np.arange(out)[:, None] + 1) * size  # bounds, times out
        inside = (np.arange(size) * out < high) & ((np.arange(size) + 1) * out > low)
        return inside / inside.sum(axis=1, keepdims=True)

    def oracle(values):
        return np.einsum("ih,jw,nchw->ncij", touched(height, out_h), touched(width, out_w), values.astype(np.float64))

    for pair in implementations("adaptive_avg_pool2d").values():
        result = run(pair, (x,), seed=seed, output_size=(out_h, out_w))
        assert_close(result.output, oracle(x).astype(dtype))
        assert_adjoint(oracle, result.grad_output, result.grads[0], rng)


@each_adaptive
def test_adaptive_avg_pool_to_one_is_the_mean(pair, rng):
    x = normal(rng, (2, 3, 4, 5))
    result = run(pair, (x,), output_size=(1, 1))
    assert_close(result.output[..., 0, 0], x.mean((2, 3)))
    assert_close(result.grads[0], np.broadcast_to(result.grad_output / 20, x.shape))


@each_adaptive
def test_adaptive_avg_pool_to_nothing(pair):
    """An output of size 0 is allowed, as in PyTorch: nothing comes out, and no gradient comes back."""
    result = run(pair, (np.ones((2, 3, 4, 5)),), output_size=(0, 2))
    assert result.output.shape == (2, 3, 0, 2)
    np.testing.assert_array_equal(result.grads[0], np.zeros((2, 3, 4, 5)))
