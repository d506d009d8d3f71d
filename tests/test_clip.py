"""Gradient clipping against sums over plain Python numbers, and against PyTorch where it is installed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend
from minicnn.engine import Parameter, Tensor
from minicnn.nn import utils
from minicnn.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

SHAPES = [(3, 4), (), (0,), (5,), (2, 1, 3)]
NORMS = [0.5, 1.0, 1.5, 2.0, 4.0, math.inf]


def with_gradients(seed, dtype="float64", scale=1.0):
    rng = np.random.default_rng(seed)
    params = [Parameter(np.zeros(shape, dtype)) for shape in SHAPES]
    for p in params:
        p.grad = np.asarray(scale * rng.normal(size=p.shape), dtype=dtype)
    return [*params, Parameter(np.zeros(2, dtype))]  # the last has none


def numbers(params):
    return [x for p in params if p.grad is not None for x in p.grad.ravel().tolist()]


def norm_of(xs, p):
    return max(map(abs, xs)) if p == math.inf else math.fsum(abs(x) ** p for x in xs) ** (1 / p)


@given(
    st.integers(0, 2**32),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(NORMS),
    st.floats(0.01, 20) | st.sampled_from([0, math.inf]),
)
def test_norm(seed, dtype, norm_type, max_norm):
    params = with_gradients(seed, dtype)
    before = [None if p.grad is None else p.grad.copy() for p in params]
    norm = norm_of(numbers(params), norm_type)
    got = clip_grad_norm_(params, max_norm, norm_type)
    assert type(got) is float
    assert got == pytest.approx(norm, rel=1e-12)
    factor = min(1, max_norm / (norm + 1e-6))
    for p, grad in zip(params, before, strict=True):
        if grad is None:
            assert p.grad is None
            continue
        assert p.grad.dtype == dtype and p.grad.shape == p.shape and backend.is_array(p.grad)
        np.testing.assert_allclose(p.grad, grad * factor, rtol=10 * np.finfo(dtype).eps)
    assert norm_of(numbers(params), norm_type) <= max(max_norm, 0) * (1 + 1e-6)


@given(st.integers(0, 2**32), st.sampled_from(["float32", "float64"]), st.floats(0.01, 3) | st.just(0))
def test_value(seed, dtype, clip_value):
    params = with_gradients(seed, dtype)
    want = [max(-clip_value, min(clip_value, x)) for x in numbers(params)]
    assert clip_grad_value_(params, clip_value) is None
    assert all(p.grad is None or (p.grad.dtype == dtype and p.grad.shape == p.shape) for p in params)
    np.testing.assert_allclose(numbers(params), want, rtol=1e-6 if dtype == "float32" else 0)


def test_value_of_infinity_and_nan():
    p = Parameter(np.zeros(3))
    p.grad = np.array([math.inf, -math.inf, math.nan])
    clip_grad_value_(p, 2.0)
    np.testing.assert_array_equal(p.grad, [2, -2, math.nan])


@pytest.mark.parametrize("call", [lambda ps: clip_grad_norm_(ps, 0.1), lambda ps: clip_grad_value_(ps, 0.1)])
def test_gradients_are_replaced_not_written_into(call):
    """Somebody may hold on to them: a recording of the backward pass."""
    params = with_gradients(1)
    held = [p.grad for p in params[:-1]]
    copies = [g.copy() for g in held]
    call(params)
    assert all(p.grad is not g for p, g in zip(params, held, strict=False))
    assert all(np.array_equal(a, b) for a, b in zip(held, copies, strict=True))


@pytest.mark.host
def test_a_small_norm_changes_nothing():
    params = with_gradients(1)
    before = [p.grad for p in params]
    clip_grad_norm_(params, 1e6)
    assert all(p.grad is g for p, g in zip(params, before, strict=True))


@pytest.mark.parametrize(
    "dtype, scale", [("float32", 1e30), ("float64", 1e300), ("float64", 1e-300), ("float32", 1e-42)]
)
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 4.0, math.inf])
def test_the_norm_overflows_and_vanishes_only_where_it_must(dtype, scale, norm_type):
    params = with_gradients(2, dtype, scale)
    norm = norm_of([x / scale for x in numbers(params)], norm_type) * scale
    assert clip_grad_norm_(params, math.inf, norm_type) == pytest.approx(norm, rel=1e-12)


def test_the_norm_in_blocks(monkeypatch):
    params = with_gradients(3)
    norm = norm_of(numbers(params), 2)
    monkeypatch.setattr(utils, "BLOCK", 4)
    assert clip_grad_norm_(params, math.inf) == pytest.approx(norm, rel=1e-13)


def test_kinds_of_parameters():
    p = with_gradients(4)[0]
    norm = norm_of(numbers([p]), 2)
    assert clip_grad_norm_(p, math.inf) == pytest.approx(norm)
    assert clip_grad_norm_((q for q in [p]), math.inf) == pytest.approx(norm)
    assert clip_grad_norm_([("weight", p)], math.inf) == pytest.approx(norm)
    assert clip_grad_norm_([], 1.0) == 0
    assert clip_grad_norm_([Parameter([1.0])], 1.0) == 0
    assert clip_grad_norm_([p], math.inf, "inf") == np.abs(p.grad).max()


def test_get_total_norm():
    arrays = [np.array([3.0]), np.array(4.0, np.float32)]
    assert get_total_norm(arrays) == 5
    assert get_total_norm(Tensor(arrays[0])) == 3
    assert get_total_norm(arrays[1]) == 4
    assert get_total_norm([]) == 0
    assert math.isnan(get_total_norm([np.array([math.nan, 1.0])]))
    assert get_total_norm([np.array([math.inf])], 3) == math.inf
    with pytest.raises(RuntimeError, match="norm of order 2 is inf"):
        get_total_norm([np.array([-math.inf])], error_if_nonfinite=True)


# ------------------------------------------------------------------------------------------------- not finite

@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm_type", NORMS)
def test_a_norm_that_is_not_finite_is_reported(bad, norm_type):
    params = with_gradients(5, "float32")
    params[0].grad[1, 2] = bad
    before = [None if p.grad is None else p.grad.copy() for p in params]
    what = "1 NaN and 0 infinite" if math.isnan(bad) else "0 NaN and 1 infinite"
    with pytest.raises(RuntimeError, match=rf"gradients of parameter 0 \(3, 4\): {what} of 12\. Nothing has been"):
        clip_grad_norm_(params, 1.0, norm_type)
    for p, grad in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.grad, grad)


def test_the_report_uses_names_and_stops_after_five():
    params = [Parameter(np.zeros(2)) for _ in range(8)]
    for p in params:
        p.grad = np.array([math.nan, math.inf])
    params[0].grad = np.ones(2)
    with pytest.raises(RuntimeError) as caught:
        clip_grad_norm_(((f"layer{i}.weight", p) for i, p in enumerate(params)), 1.0)
    message = str(caught.value)
    assert "layer0" not in message
    assert "layer1.weight (2,): 1 NaN and 1 infinite of 2; layer2" in message
    assert "layer5" in message and "layer6" not in message and "; and 2 more" in message
    assert "error_if_nonfinite=False" in message


def test_a_norm_too_large_for_float64():
    p = Parameter(np.zeros(4))
    p.grad = np.full(4, 1.7e308)
    with pytest.raises(RuntimeError, match="Every gradient is finite, only their norm is too large for float64"):
        clip_grad_norm_(p, 1.0)


def test_scaling_regardless_is_pytorchs_default():
    """Infinity: the finite gradients become 0. NaN: all become NaN."""
    p, q = Parameter(np.zeros(2)), Parameter(np.zeros(2))
    p.grad, q.grad = np.array([1.0, math.inf]), np.array([2.0, 3.0])
    assert clip_grad_norm_([p, q], 1.0, error_if_nonfinite=False) == math.inf
    np.testing.assert_array_equal(p.grad, [0, math.nan])
    np.testing.assert_array_equal(q.grad, [0, 0])
    p.grad, q.grad = np.array([1.0, math.nan]), np.array([2.0, 3.0])
    assert math.isnan(clip_grad_norm_([p, q], 1.0, error_if_nonfinite=False))
    assert np.isnan(p.grad).all() and np.isnan(q.grad).all()


# ------------------------------------------------------------------------------------------------------------ errors

@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda p: clip_grad_norm_(p, -1.0), ValueError, "max_norm is -1"),
        (lambda p: clip_grad_norm_(p, math.nan), ValueError, "max_norm is nan"),
        (lambda p: clip_grad_norm_(p, 1.0, 0), ValueError, "norm_type is 0"),
        (lambda p: clip_grad_norm_(p, 1.0, -math.inf), ValueError, "norm_type is -inf"),
        (lambda p: clip_grad_norm_([p, p.grad], 1.0), TypeError, "parameter 1 is a .*, and must be a Tensor"),
        (lambda p: clip_grad_norm_([("bias", 3)], 1.0), TypeError, "bias is a int"),
        (lambda p: clip_grad_value_(p, -1.0), ValueError, "clip_value is -1"),
        (lambda p: clip_grad_value_(p, math.nan), ValueError, "clip_value is nan"),
    ],
)
def test_errors(call, error, message):
    p = Parameter([1.0, 2.0])
    p.grad = np.ones(2, np.float32)
    with pytest.raises(error, match=message):
        call(p)
    assert p.grad.tolist() == [1, 1]


@pytest.mark.parametrize("call", [clip_grad_norm_, clip_grad_value_])
def test_a_generator_that_was_walked_before_warns(call):
    with pytest.warns(UserWarning, match=f"{call.__name__}: parameters is a generator that gave nothing"):
        call((p for p in ()), 1.0)


# ------------------------------------------------------------------------------------------- PyTorch, where installed

@given(
    st.integers(0, 2**32),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(NORMS),
    st.floats(0.01, 20),
    st.sampled_from([None, math.nan, math.inf]),
)
def test_equals_pytorch(seed, dtype, norm_type, max_norm, bad):
    torch = pytest.importorskip("torch")
    params = [p for p in with_gradients(seed, dtype) if p.size]  # PyTorch has no infinity norm of nothing
    if bad is not None:
        params[0].grad[0, 0] = bad
    theirs = []
    for p in params:
        theirs.append(torch.nn.Parameter(torch.from_numpy(p.data.copy())))
        if p.grad is not None:
            theirs[-1].grad = torch.from_numpy(p.grad.copy())
    norm = clip_grad_norm_(params, max_norm, norm_type, error_if_nonfinite=False)
    their_norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    rtol = 1e-4 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(norm, their_norm.item(), rtol=rtol)
    for p, q in zip(params, theirs, strict=True):
        if p.grad is not None:
            np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=rtol)
    clip_grad_value_(params, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    for p, q in zip(params, theirs, strict=True):
        if p.grad is not None:
            np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=rtol)
