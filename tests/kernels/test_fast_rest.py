"""The fast kernels of everything but products, on arrays that they cut into pieces, against the neutral form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import no_grad, optim, threads
from minicnn.engine import Parameter
from minicnn.kernels import fast
from minicnn.kernels.fast import pool
from minicnn.kernels.fast.entrywise import entrywise
from minicnn.kernels.fast.layout import lie_last

from . import helpers
from .helpers import Pair, arrays_in, assert_same, drawn, dtypes, implementations, normal, pairs_of, run, seeds

pytestmark = pytest.mark.host

POOL = {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": False}
LRN = {"size": 5, "alpha": 0.1, "beta": 0.75, "k": 2.0}
# Shapes and params that make several pieces each, and pieces of different sizes.
LARGE = {
    "batch_norm_train": (((5, 90, 60, 61), (90,), (90,)), {"eps": 1e-5}),
    "batch_norm_eval": (((5, 90, 60, 61), (90,), (90,)), {"mean": np.full(90, 0.1), "var": np.ones(90), "eps": 1e-5}),
    "local_response_norm": (((3, 48, 165, 167),), LRN),
    "relu": (((7, 300, 601),), {}),
    "leaky_relu": (((7, 300, 601),), {"negative_slope": 0.1}),
    "sigmoid": (((7, 300, 601),), {}),
    "tanh": (((7, 300, 601),), {}),
    "add": (((7, 300, 601), (7, 300, 601)), {}),
    "cat": (((7, 100, 601), (7, 200, 601)), {"dim": 1}),
    "max_pool2d": (((4, 17, 151, 152),), POOL | {"dilation": (1, 1)}),
    "avg_pool2d": (((4, 17, 151, 152),), POOL | {"count_include_pad": False, "divisor_override": None}),
    "adaptive_avg_pool2d": (((4, 7, 51, 52),), {"output_size": (1, 1)}),
}
FAST = {name: pair for name, pair in pairs_of(fast).items() if name not in ("conv2d", "linear")}


def test_every_operation_has_a_large_case():
    assert set(LARGE) == set(FAST)


def case(name: str, dtype=np.float32, seed: int = 3):
    shapes, params = LARGE[name]
    rng = np.random.default_rng(seed)
    params = {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in params.items()}
    return [normal(rng, shape, dtype) for shape in shapes], params


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_arrays(name, dtype):
    arrays, params = case(name, dtype)
    neutral, other = (run(implementations(name)[form], arrays, **params) for form in ("neutral", "fast"))
    assert_same(other, neutral, 2e-5 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("name", LARGE)
def test_the_number_of_threads_changes_no_bit(name, monkeypatch):
    arrays, params = case(name)
    results = []
    for number in (1, 2, 4):
        monkeypatch.setattr(threads, "_requested", number)
        results.append(run(FAST[name], arrays, **params))
    for other in results[1:]:
        np.testing.assert_array_equal(other.output, results[0].output)
        for a, b in zip(other.grads, results[0].grads, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", LARGE)
def test_views_of_larger_arrays(name):
    """As a gradient that `cat` has cut out: each image is contiguous, but not all of them."""
    arrays, params = case(name)
    plain = run(FAST[name], arrays, **params)

    def cut_out(x):
        if x.ndim == 1:
            return x
        larger = np.full((len(x), x.shape[1] + 2, *x.shape[2:]), np.nan, x.dtype)
        larger[:, 1:-1] = x
        return larger[:, 1:-1]

    views = [cut_out(x) for x in arrays]
    output, saved = FAST[name].forward(*views, **params)
    np.testing.assert_array_equal(output, plain.output)
    grads = FAST[name].backward(cut_out(plain.grad_output), saved, (True,) * len(views), **params)
    for grad, expected in zip(grads, plain.grads, strict=True):
        np.testing.assert_array_equal(grad, expected)


@pytest.mark.parametrize("name", LARGE)
def test_nothing_is_written_to_what_was_given(name):
    arrays, params = case(name)
    given = [(x, x.copy()) for x in arrays_in(arrays, params)]
    output, saved = FAST[name].forward(*arrays, **params)
    gradient = normal(np.random.default_rng(1), output.shape, output.dtype)
    given += [(x, x.copy()) for x in arrays_in(output, saved, gradient)]
    FAST[name].backward(gradient, saved, (True,) * len(arrays), **params)
    for x, before in given:
        np.testing.assert_array_equal(x, before)


BY_IMAGES = {  # several pieces each, too
    "batch_norm_train": LARGE["batch_norm_train"][1],
    "batch_norm_eval": LARGE["batch_norm_eval"][1],
    "relu": {}, "leaky_relu": {"negative_slope": 0.1}, "sigmoid": {}, "tanh": {}, "add": {},
    "max_pool2d": LARGE["max_pool2d"][1],
    "avg_pool2d": LARGE["avg_pool2d"][1],
}  # fmt: skip


@pytest.mark.parametrize("name", BY_IMAGES)
@pytest.mark.parametrize("gradient_too", [True, False])
def test_images_that_lie_last(name, gradient_too, monkeypatch):
    """Results lie so again, are the neutral form's, and the same on any number of threads."""
    params = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in BY_IMAGES[name].items()}
    rng = np.random.default_rng(3)
    shapes = [(20, 90, 28, 30)] * (2 if name == "add" else 1) + [(90,)] * (2 if "norm" in name else 0)
    arrays = [helpers.with_images_last(normal(rng, shape, np.float32)) for shape in shapes]
    neutral = run(implementations(name)["neutral"], arrays, **params)
    gradient = helpers.with_images_last(neutral.grad_output) if gradient_too else neutral.grad_output
    bits = []
    for number in (1, 2, 4):
        monkeypatch.setattr(threads, "_requested", number)
        output, saved = FAST[name].forward(*arrays, **params)
        grads = FAST[name].backward(gradient, saved, (True,) * len(arrays), **params)
        assert_same(neutral._replace(output=output, grads=grads), neutral, 2e-5)
        if name != "add":  # whose gradient is what came
            assert lie_last(output) and lie_last(grads[0])
        bits.append([x.tobytes() for x in (output, *grads)])
    assert bits[0] == bits[1] == bits[2]


@drawn
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(0, 1), st.integers(0, 1)), st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(0, 7), st.integers(0, 7)), st.booleans(), st.booleans(), st.booleans(), dtypes, seeds,
)  # fmt: skip
def test_pooling_where_images_lie_last(
    kernel_size, stride, padding, dilation, more, ceil_mode, of_maxima, special, dtype, seed
):  # fmt: skip
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel_size, strict=True))
    dilation = dilation if of_maxima else (1, 1)
    size = tuple(  # down to a window that sees nothing but padding
        max(d * (k - 1) + 1 + m - 2 * p, 1)
        for d, k, m, p in zip(dilation, kernel_size, more, padding, strict=True)
    )
    rng = np.random.default_rng(seed)
    x = helpers.with_images_last(normal(rng, (16, 2, *size), dtype).round())  # with ties
    if special:
        x[rng.integers(0, 3, x.shape) == 0] = -np.inf
        x[rng.integers(0, 99, x.shape) == 0] = np.nan
    params = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    if of_maxima:
        params["dilation"] = dilation
    else:
        params |= {"count_include_pad": bool(seed % 2), "divisor_override": (None, 3)[seed % 3 % 2]}
    x = x if seed % 4 else np.ascontiguousarray(x)  # by planes too
    name = "max_pool2d" if of_maxima else "avg_pool2d"
    with np.errstate(invalid="ignore"):
        neutral = run(implementations(name)["neutral"], (x,), **params)
        output, saved = FAST[name].forward(x, **params)
        grads = FAST[name].backward(helpers.with_images_last(neutral.grad_output), saved, (True,), **params)
        assert_same(neutral._replace(output=output, grads=grads), neutral, 1e-5 if dtype == np.float32 else 1e-12)
        with no_grad():
            np.testing.assert_allclose(FAST[name].forward(x, **params)[0], output, rtol=1e-12)


def test_a_window_that_sees_nothing_but_padding_gives_to_nobody():
    x = normal(np.random.default_rng(0), (1, 1, 2, 2))
    params = {"kernel_size": (2, 2), "stride": (1, 1), "padding": (1, 1), "dilation": (3, 3), "ceil_mode": False}
    neutral, other = (run(implementations("max_pool2d")[form], (x,), **params) for form in ("neutral", "fast"))
    assert_same(other, neutral)


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan, -np.nan], np.float32)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_infinities_and_nans(name, dtype):
    """Every value meets every gradient: 0 times an infinite gradient is 0 where the gate is shut."""
    x, gradient = (a.ravel().astype(dtype) for a in np.meshgrid(SPECIAL, SPECIAL))
    params = {"negative_slope": 0.25} if name == "leaky_relu" else {}
    results = []
    with np.errstate(all="ignore"):
        for form in ("neutral", "fast"):
            pair: Pair = implementations(name)[form]
            output, saved = pair.forward(x, **params)
            results.append((output, pair.backward(gradient, saved, (True,), **params)[0]))
    for expected, found in zip(*results, strict=True):
        np.testing.assert_array_equal(found, expected)


@drawn
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3)), st.tuples(st.integers(1, 9), st.integers(1, 9)), dtypes,
    st.sampled_from([None, 3, -2]), st.sampled_from([None, np.inf, -np.inf, np.nan]), seeds,
)  # fmt: skip
def test_average_pooling_whose_windows_tile_the_plane(kernel_size, out, dtype, divisor_override, special, seed):
    """A product with ones and zeros, where an infinity in one window is none of the next one's business."""
    size = tuple(k * o for k, o in zip(kernel_size, out, strict=True))
    assert pool.tiled(size, kernel_size, kernel_size, (0, 0)) == (kernel_size[0] * size[1] <= 64)
    rng = np.random.default_rng(seed)
    input, gradient = normal(rng, (2, 3, *size), dtype), normal(rng, (2, 3, *out), dtype)
    if special is not None:
        input[1, 2, 0, -1] = gradient[0, 1, -1, 0] = special
    params = {"kernel_size": kernel_size, "stride": kernel_size, "padding": (0, 0), "ceil_mode": bool(seed % 2),
              "count_include_pad": True, "divisor_override": divisor_override}  # fmt: skip
    results = []
    for form in ("neutral", "fast"):
        pair: Pair = implementations("avg_pool2d")[form]
        output, saved = pair.forward(input, **params)
        results.append((output, pair.backward(gradient, saved, (True,), **params)[0]))
    for expected, found in zip(*results, strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-5)


@drawn
@given(
    st.tuples(st.integers(4, 9), st.integers(1, 9), st.integers(1, 40)), st.sampled_from([0.0, 3.0, 50.0]), dtypes,
    st.booleans(), seeds,
)  # fmt: skip
def test_batch_norm_of_means_near_and_far(shape, mean, dtype, training, seed):
    """A mean of many standard deviations takes another way than one of few."""
    rng = np.random.default_rng(seed)
    x = (normal(rng, shape) + mean * (np.arange(shape[1]) % 2)[:, None]).astype(dtype)
    arrays = (x, normal(rng, shape[1], dtype), normal(rng, shape[1], dtype))
    fixed = {"mean": x.mean((0, 2)), "var": x.var((0, 2)) + dtype(0.1)}
    name, params = ("batch_norm_train", {}) if training else ("batch_norm_eval", fixed)
    neutral, other = (run(implementations(name)[form], arrays, eps=1e-3, **params) for form in ("neutral", "fast"))
    assert_same(other, neutral, 1e-10 if dtype == np.float64 else 2e-4)


def test_a_mean_far_from_zero_costs_no_accuracy():
    """x·γ/std − mean·γ/std would be the difference of two numbers of 3000, with errors of 1e-4 each."""
    rng = np.random.default_rng(0)
    x = (normal(rng, (8, 3, 50)) + 3000).astype(np.float32)
    mean, var = np.full(3, 3000, np.float32), np.ones(3, np.float32)
    arrays = (x, normal(rng, 3, np.float32), normal(rng, 3, np.float32))
    params = {"mean": mean, "var": var, "eps": 0.0}
    neutral, other = (run(implementations("batch_norm_eval")[form], arrays, **params) for form in ("neutral", "fast"))
    assert_same(other, neutral, 2e-6)


@pytest.mark.parametrize("offset", [0.0, 1.9, 2.1, 3.9, 10.0, 3000.0])
@pytest.mark.parametrize("far", [1, 3])
def test_how_far_the_mean_is_costs_no_digits(offset, far):
    """E[x²] − E[x]² of `far` channels may be the difference of two numbers of 9 million, with errors of 1 each."""
    rng = np.random.default_rng(0)
    x = normal(rng, (8, 3, 5000))
    x[:, :far] += offset
    x = x.astype(np.float32)
    arrays = (x, normal(rng, 3, np.float32), normal(rng, 3, np.float32))
    exact = run(implementations("batch_norm_train")["neutral"], [a.astype(np.float64) for a in arrays], eps=1e-5)
    found = run(implementations("batch_norm_train")["fast"], arrays, eps=1e-5)
    np.testing.assert_allclose(found.saved[0], exact.saved[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.saved[1], exact.saved[1], rtol=1e-6)
    np.testing.assert_allclose(found.output, exact.output, atol=3e-6)


def test_sums_of_numbers_that_round_alike():
    """Two values, 400,000 times: each addition errs the same way, and the mean by a hundred thousandth."""
    x = np.where(np.random.default_rng(0).random((32, 2, 12544)) < 0.5, 0.3, 0.8).astype(np.float32)
    output, (mean, *_) = fast.batch_norm_train_forward(x, None, None, np.float32(1e-5))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 2)), rtol=2e-7)
    centred = exact - exact.mean((0, 2))[:, None]
    np.testing.assert_allclose(output, centred / np.sqrt(exact.var((0, 2)) + 1e-5)[:, None], atol=2e-6)


@pytest.mark.parametrize("kind", ["constant", "squares that overflow", "squares that are 0"])
def test_variances_of_numbers_whose_squares_are_none(kind):
    """Without a warning, which would be an error here."""
    noise = normal(np.random.default_rng(0), (4, 3, 500))
    x = {
        "constant": np.full((4, 3, 500), 1e20),
        "squares that overflow": 1.5e19 * (1 + noise / 100),
        "squares that are 0": 1e-25 * (1 + noise),
    }[kind].astype(np.float32)
    output, (_, var, *_) = fast.batch_norm_train_forward(x, None, None, np.float32(1e-5))
    exact = x.astype(np.float64).var((0, 2))
    np.testing.assert_allclose(var, exact, rtol=1e-5, atol=1e-30)
    centred = x - x.astype(np.float64).mean((0, 2))[:, None]
    np.testing.assert_allclose(output, centred / np.sqrt(exact + 1e-5)[:, None], atol=1e-5)


def test_a_variance_that_overflows_is_infinite():
    """And the output 0, as in the neutral form: a training that diverged names what is not finite."""
    x = (1e32 * normal(np.random.default_rng(0), (4, 3, 500))).astype(np.float32)
    with np.errstate(all="ignore"):
        output, (_, var, *_) = fast.batch_norm_train_forward(x, None, None, np.float32(1e-5))
    assert np.isinf(var).all() and not output.any()


def test_batch_norm_in_evaluation_remembers_the_mean_of_its_forward_pass():
    """A later step of training moves the running mean in place."""
    rng = np.random.default_rng(0)
    x, weight, mean = normal(rng, (4, 3, 5)), normal(rng, 3), np.zeros(3)
    params = {"mean": mean, "var": np.ones(3), "eps": 0.0}
    output, saved = fast.batch_norm_eval_forward(x, weight, None, **params)
    gradient = normal(rng, output.shape)
    expected = (gradient * x).sum((0, 2))
    mean += 1.0
    grads = fast.batch_norm_eval_backward(gradient, saved, (True, True, False), **params)
    np.testing.assert_allclose(grads[1], expected)


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (17, 16)])
def test_a_winner_takes_one_byte_where_it_can(size):
    x = normal(np.random.default_rng(0), (1, 2, 40, 40))
    params = {"kernel_size": size, "stride": (3, 3), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
    neutral, other = (run(implementations("max_pool2d")[form], (x,), **params) for form in ("neutral", "fast"))
    assert_same(other, neutral)
    assert (other.saved[0].dtype == np.uint8) == (size[0] * size[1] <= 256)


def test_largest_entries_without_a_backward_pass(monkeypatch):
    """Of several pieces, on any number of threads."""
    (x,), params = case("max_pool2d")
    expected = run(FAST["max_pool2d"], (x,), **params).output
    for number in (1, 2, 4):
        monkeypatch.setattr(threads, "_requested", number)
        with no_grad():
            output, saved = fast.max_pool2d_forward(x, **params)
        np.testing.assert_array_equal(output, expected)
        assert saved is None


RULES = {
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p),
    "rmsprop": lambda p: optim.RMSprop(p, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("rule", RULES)
def test_optimisers_give_the_same_bits_in_blocks_and_threads(rule, monkeypatch):
    """Against small parameters, which are updated whole."""
    rng = np.random.default_rng(0)
    weights, gradients = normal(rng, (3, 250_001), np.float32), normal(rng, (3, 3, 250_001), np.float32)

    def trained(parameters, gradients_of):
        rule_ = RULES[rule](parameters)
        for step in range(3):
            for p, gradient in zip(parameters, gradients_of(step), strict=True):
                p.grad = gradient.copy()
            rule_.step()
        return np.concatenate([p.data.ravel() for p in parameters])

    cuts = range(20_000, weights.size, 20_000)
    small = [Parameter(part) for part in np.split(weights.ravel(), cuts)]
    expected = trained(small, lambda step: np.split(gradients[step].ravel(), cuts))
    for number in (1, 2, 4):
        monkeypatch.setattr(threads, "_requested", number)
        np.testing.assert_array_equal(trained([Parameter(weights)], lambda step: [gradients[step]]), expected)


def test_arrays_with_gaps_are_cut_into_large_pieces_too():
    lengths = []
    x = np.ones((1000, 8), np.float32)[:, :4]

    def work(part, out):
        lengths.append(len(part))
        np.add(part, 1, out=out)

    out = np.zeros_like(x)
    entrywise(work, x, out, most=400)
    assert sum(lengths) == 1000 and max(lengths) <= 100 and len(lengths) == 10 and (out == 2).all()
