"""What holds for the naive kernels alone. The other files hold their values and gradients to oracles."""

from __future__ import annotations

import inspect

import numpy as np

from minicnn.kernels import naive

from .helpers import families, normal, pairs_of

NEUTRAL = {name for pairs in families().values() for name in pairs}


def test_the_heavy_operations_are_there():
    """A convolutional network runs on these alone, but for what moves entries around."""
    pools = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"}
    norms = {"local_response_norm", "batch_norm_train", "batch_norm_eval"}
    assert {"conv2d", "linear"} | pools | norms <= set(pairs_of(naive)) <= NEUTRAL


def test_nothing_else_is_public():
    """The engine looks an operation up by its name: whatever is public here is taken for a kernel."""
    functions = {name for name, _ in inspect.getmembers(naive, inspect.isfunction) if not name.startswith("_")}
    assert functions == {f"{name}_{way}" for name in pairs_of(naive) for way in ("forward", "backward")}


def test_no_code_is_shared_with_what_it_is_the_oracle_of():
    imported = {module.__name__ for _, module in inspect.getmembers(naive, inspect.ismodule)}
    assert imported == {"math", "numpy"}
    assert all(f.__module__ == naive.__name__ for _, f in inspect.getmembers(naive, inspect.isfunction))


def test_every_pass_says_its_formula():
    for pair in pairs_of(naive).values():
        for function in pair:
            assert function.__doc__


def test_float32_is_summed_in_float64():
    """2²⁴ + 1 − 2²⁴: the one is lost in float32."""
    x = np.array([[2.0**24, 1.0, -(2.0**24)]], dtype=np.float32)
    ones = np.ones((1, 3), dtype=np.float32)
    output, saved = naive.linear_forward(x, ones, None)
    assert output == 1
    assert output.dtype == np.float32
    _, saved = naive.linear_forward(x.T, ones[:, :1], None)  # a batch of three
    assert naive.linear_backward(ones.T, saved, (False, True, False))[1] == 1
    params = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    assert naive.conv2d_forward(x.reshape(1, 3, 1, 1), ones.reshape(1, 3, 1, 1), None, **params)[0] == 1


def test_the_exponential_of_a_large_number_is_never_taken(rng):
    x = 1e3 * normal(rng, (2, 3))
    for dim in (0, 1):
        assert np.isfinite(naive.softmax_forward(x, dim)[0]).all()
        assert np.isfinite(naive.log_softmax_forward(x, dim)[0]).all()
    assert np.isfinite(naive.sigmoid_forward(x)[0]).all()
