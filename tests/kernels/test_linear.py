"""Linear and matmul against sums over named axes."""

from __future__ import annotations

import functools
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import threads
from minicnn.kernels import fast, linear
from minicnn.kernels.fast import linear as fast_linear

from .helpers import (
    Pair,
    assert_adjoint,
    assert_close,
    drawn,
    dtypes,
    each_implementation,
    implementations,
    normal,
    run,
    seeds,
)

MATMUL = Pair(linear.matmul_forward, linear.matmul_backward)
lengths = st.integers(1, 4)


@st.composite
def layers(draw):
    """(input, weight, bias): a batch of no, one or more axes, also empty; a weight of one axis or two."""
    batch, inputs = draw(st.lists(st.integers(0, 3), max_size=3)), draw(lengths)
    outputs = draw(st.one_of(st.just(()), st.tuples(lengths)))
    bias = draw(st.sampled_from([None, (), (1,), outputs]))
    if outputs == () and bias == (1,):
        bias = ()  # would add an axis to the output
    rng, dtype, shapes = np.random.default_rng(draw(seeds)), draw(dtypes), ((*batch, inputs), (*outputs, inputs), bias)
    return tuple(None if shape is None else normal(rng, shape, dtype) for shape in shapes)


def linear_oracle(input, weight, bias):
    subscripts = "...c,oc->...o" if weight.ndim == 2 else "...c,c->..."
    return np.einsum(subscripts, input.astype(np.float64), weight.astype(np.float64)) + (0.0 if bias is None else bias)


@drawn
@given(layers(), seeds)
def test_linear(arrays, seed):
    input, weight, bias = arrays
    rng = np.random.default_rng([seed, 4])
    for pair in implementations("linear").values():
        result = run(pair, arrays, seed=seed)
        expected = np.asarray(linear_oracle(*arrays))
        assert_close(result.output, expected.astype(input.dtype))
        assert_adjoint(lambda d: linear_oracle(d, weight, None), result.grad_output, result.grads[0], rng)
        assert_adjoint(lambda d: linear_oracle(input, d, None), result.grad_output, result.grads[1], rng)
        if bias is not None:
            spread = functools.partial(np.broadcast_to, shape=expected.shape)
            assert_adjoint(spread, result.grad_output, result.grads[2], rng)


@each_implementation("linear")
def test_linear_by_hand(pair):
    x, w, b = (np.array(a, dtype=np.float32) for a in ([[1, 2], [3, 4]], [[5, 6], [7, 8], [9, 10]], [0.5, 0, -1]))
    output, saved = pair.forward(x, w, b)
    np.testing.assert_array_equal(output, [[17.5, 23, 28], [39.5, 53, 66]])
    grads = pair.backward(np.array([[1, 0, 2], [0, 1, 0]], dtype=np.float32), saved, (True, True, True))
    for grad, expected in zip(grads, ([[23, 26], [7, 8]], [[1, 2], [3, 4], [2, 4]], [1, 1, 2]), strict=True):
        np.testing.assert_array_equal(grad, expected)


@each_implementation("linear")
@pytest.mark.parametrize("shapes", [((2, 0), (3, 0), (3,)), ((2, 3), (0, 3), (0,))], ids=["no inputs", "no outputs"])
def test_linear_without_inputs_or_outputs(pair, shapes):
    """PyTorch allows either: a sum of nothing is 0."""
    arrays = tuple(map(np.ones, shapes))
    result = run(pair, arrays)
    np.testing.assert_array_equal(result.output, np.ones((2, shapes[1][0])))
    assert_close(result.grads[0], np.zeros(shapes[0]))
    assert_close(result.grads[1], np.zeros(shapes[1]))
    assert_close(result.grads[2], result.grad_output.sum(0))


SMALL = {"LEAST": 1, "OUTPUTS": 8, "INPUTS": 5, "FEW": 5, "BLOCK_OUTPUTS": 4, "BLOCK_INPUTS": 6, "BLOCK_NUMBERS": 18}


@contextmanager
def divided(wide: bool):
    """Inside, the fast passes divide small weights or, as with a `wide` BLAS, cut them into blocks."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(fast_linear, name, value)
        patch.setattr(fast_linear, "wide_blas", lambda: wide)
        yield patch


sizes = st.integers(0, 25) | st.sampled_from([8, 12, 16, 20, 24])  # the latter for blocks


@pytest.mark.host
@pytest.mark.parametrize("wide", [False, True])
@drawn
@given(
    st.integers(0, 6) | st.just(40), sizes, sizes, st.booleans(), dtypes,
    st.sampled_from([(True, True, True), (True, False, False), (False, True, True), (False, False, True)]), seeds,
)  # fmt: skip
def test_linear_with_a_weight_in_parts(wide, images, ins, outs, has_bias, dtype, needs, seed):
    rng = np.random.default_rng(seed)
    x, w, g = (normal(rng, shape, dtype) for shape in ((images, ins), (outs, ins), (images, outs)))
    b = normal(rng, (outs,), dtype) if has_bias else None
    needs = (*needs[:2], needs[2] and has_bias)
    with divided(wide):
        output, saved = fast.linear_forward(x, w, b)
        grads = fast.linear_backward(g, saved, needs)
    assert_close(output, linear_oracle(x, w, b).astype(dtype))
    expected = (np.einsum("no,oc->nc", g, w), np.einsum("no,nc->oc", g, x), g.sum(0))
    for need, grad, right in zip(needs, grads, expected, strict=True):
        assert (grad is not None) == need
        if need:
            assert_close(grad, right)


@pytest.mark.host
def test_which_weights_are_cut_into_blocks(monkeypatch):
    monkeypatch.setattr(fast_linear, "wide_blas", lambda: True)
    assert fast_linear.blocks(4096, 9216, 16) == (64, 18)  # AlexNet's first: 64 outputs, 512 inputs
    assert fast_linear.blocks(4096, 25088, 4) == (64, 28)  # VGG's
    assert fast_linear.blocks(1000, 512, 8) == (20, 1)
    assert fast_linear.blocks(4096, 9216, 33) is None  # many images
    assert fast_linear.blocks(4096, 9217, 16) is None  # 13 · 709
    assert fast_linear.blocks(4099, 9216, 16) is None  # a prime
    assert fast_linear.blocks(512, 512, 10_000) is None  # more than numbers in a block
    monkeypatch.setattr(fast_linear, "wide_blas", lambda: False)
    assert fast_linear.blocks(4096, 9216, 16) is None


@pytest.mark.host
@pytest.mark.parametrize("wide", [False, True])
def test_what_is_not_divided_gives_what_the_neutral_form_gives(wide):
    """Dtypes that differ, a bias that is one number, a weight of one axis."""
    rng = np.random.default_rng(0)
    x, w = normal(rng, (5, 24), np.float32), normal(rng, (16, 24), np.float64)
    for arrays in ((x, w, None), (w, w, x[0, :16]), (w, w, w[0, 0]), (w, w[0], None)):
        with divided(wide):
            output, saved = fast.linear_forward(*arrays)
            grads = fast.linear_backward(np.ones_like(output), saved, (True, True, arrays[2] is not None))
        expected, saved = linear.linear_forward(*arrays)
        others = linear.linear_backward(np.ones_like(output), saved, (True, True, arrays[2] is not None))
        for found, right in zip((output, *grads), (expected, *others), strict=True):
            if right is not None:
                assert found.dtype == right.dtype and found.shape == right.shape
                np.testing.assert_allclose(found, right, rtol=1e-12 if right.dtype == np.float64 else 1e-4)


@pytest.mark.host
def test_blocks_on_several_threads_give_the_same_bits():
    rng = np.random.default_rng(0)
    x, w, b, g = (normal(rng, shape, np.float32) for shape in ((5, 24), (64, 24), (64,), (5, 64)))
    found = []
    for count in (1, 2, 4):
        with divided(wide=True) as patch:
            patch.setattr(threads, "_requested", count)
            output, saved = fast.linear_forward(x, w, b)
            found.append([output, *fast.linear_backward(g, saved, (True, True, True))])
    for again in found[1:]:
        for a, expected in zip(again, found[0], strict=True):
            np.testing.assert_array_equal(a, expected)


@st.composite
def products(draw):
    """Two operands: vectors, matrices, or stacks of matrices whose leading axes broadcast."""
    n, k, m = draw(st.integers(0, 3)), draw(lengths), draw(lengths)
    stack = draw(st.lists(lengths, max_size=2))

    def leading():
        kept = stack[draw(st.integers(0, len(stack))) :]
        return [draw(st.sampled_from([1, length])) for length in kept]

    rng, dtype = np.random.default_rng(draw(seeds)), draw(dtypes)
    left = draw(st.sampled_from([(k,), (*leading(), n, k)]))
    right = draw(st.sampled_from([(k,), (*leading(), k, m)]))
    return normal(rng, left, dtype), normal(rng, right, dtype)


def matmul_oracle(left, right):
    rows, columns = ("n" if left.ndim > 1 else ""), ("m" if right.ndim > 1 else "")
    left_axes, right_axes = ("..." if left.ndim > 2 else ""), ("..." if right.ndim > 2 else "")
    output = left_axes or right_axes
    subscripts = f"{left_axes}{rows}k,{right_axes}k{columns}->{output}{rows}{columns}"
    return np.einsum(subscripts, left.astype(np.float64), right.astype(np.float64))


@drawn
@given(products(), seeds)
def test_matmul(arrays, seed):
    left, right = arrays
    rng = np.random.default_rng([seed, 5])
    result = run(MATMUL, arrays, seed=seed)
    assert_close(result.output, np.asarray(matmul_oracle(left, right)).astype(left.dtype))
    assert_adjoint(lambda d: matmul_oracle(d, right), result.grad_output, result.grads[0], rng)
    assert_adjoint(lambda d: matmul_oracle(left, d), result.grad_output, result.grads[1], rng)
