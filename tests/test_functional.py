"""The public operations: argument forms, corner cases, and errors that teach.

Values and gradients are checked elsewhere: in `kernels/`, in `test_op_gradients.py`, against PyTorch in `optional/`.
"""

import inspect
import sys
import types
from typing import Any

import numpy as np
import pytest

import minicnn
from minicnn import Tensor, nn, optim
from minicnn import functional as F

INF, NAN = float("inf"), float("nan")


def leaf(values: Any, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.asarray(values, dtype=dtype), requires_grad=True)


def back(output: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Go backward with a random cotangent, and return it."""
    cotangent = np.asarray(rng.standard_normal(output.shape)).astype(output.dtype)
    output.backward(cotangent)
    return cotangent


# ------------------------------------------------------------------------------------------ argument forms


def test_pairs_have_many_forms(rng):
    x, w = rng.standard_normal((2, 3, 8, 9)), rng.standard_normal((4, 3, 3, 3))
    want = F.conv2d(x, w, None, (2, 2), (1, 1), (2, 2)).data
    for two, one in (((2,), (1,)), ([2, 2], [1, 1]), (np.int64(2), np.int64(1)), (2, 1)):
        np.testing.assert_array_equal(F.conv2d(x, w, None, two, one, two).data, want)
    for pool in (F.max_pool2d, F.avg_pool2d):
        want = pool(x, (3, 3), (3, 3), (1, 1)).data
        for stride in (None, (), [], 3, (3,)):
            np.testing.assert_array_equal(pool(x, 3, stride, (1,)).data, want)
    np.testing.assert_array_equal(F.adaptive_avg_pool2d(x, (None, 2)).data, F.adaptive_avg_pool2d(x, (8, 2)).data)


@pytest.mark.host  # running statistics that are plain arrays are written to
def test_tensors_and_arrays_mean_the_same(rng):
    x, statistics = rng.standard_normal((4, 3)).astype(np.float32), np.ones(3, np.float32)
    target, weight = np.array([0, 2, 1, 1]), np.array([0.5, 2.0, 1.0], np.float32)
    moved = []
    for wrap in (Tensor, np.copy):
        mean, var = wrap(statistics.copy()), wrap(statistics.copy())
        F.batch_norm(wrap(x), mean, var, wrap(weight), wrap(weight), training=True)
        moved.append((np.asarray(mean), np.asarray(var)))
        assert not (moved[-1][0] == 1).any()
        wanted = F.cross_entropy(x, target, weight).data
        np.testing.assert_array_equal(F.cross_entropy(wrap(x), wrap(target), wrap(weight)).data, wanted)
        np.testing.assert_array_equal(Tensor(x).clamp(wrap(-weight), wrap(weight)).data, np.clip(x, -weight, weight))
        np.testing.assert_array_equal(Tensor(x)[wrap(target)].data, x[target])
    np.testing.assert_array_equal(moved[0], moved[1])


def test_the_target_of_a_single_item_is_a_number_or_an_array_of_one(rng):
    scores = rng.standard_normal(3)
    for loss in (F.cross_entropy, F.nll_loss):
        want = loss(scores[None], np.array([2])).item()
        for target in (2, np.int64(2), np.array(2), np.array([2]), [2], Tensor(np.array(2))):
            assert loss(scores, target).item() == want
        assert loss(scores, 2, reduction="none").shape == ()


def test_numbers_and_tensors_of_no_dimensions_never_widen():
    x, zero_d = Tensor(np.ones((2, 2), np.float32)), Tensor(np.array(2.0))
    for y in (x + 2.5, 2 * x, x / np.float64(3), x ** np.arange(2), zero_d + x, x - zero_d, x.clamp(zero_d, 3.0)):
        assert y.dtype == np.float32
    assert (x + Tensor(np.ones((1, 1)))).dtype == np.float64
    assert (zero_d + Tensor(np.float32(1))).dtype == np.float64


def test_the_gradient_of_a_converted_operand_comes_back_in_its_own_dtype(rng):
    x, factor = leaf(rng.standard_normal((2, 3)), np.float32), leaf(2.0)
    cotangent = back(x * factor, rng)
    assert factor.grad is not None
    assert factor.grad.dtype == np.float64
    np.testing.assert_allclose(factor.grad, (cotangent * x.data).sum(), rtol=1e-6)


def test_ints_take_their_axes_before_arrays_index_the_others(rng):
    """PyTorch's rule, where NumPy would put the arrays' axis first."""
    values, mask = rng.standard_normal((2, 3, 4, 5)), np.array([[True, False, True], [False, True, True]])
    x = leaf(values)
    cotangent = back(x[0, :, [1, 2, 1]], rng)
    np.testing.assert_array_equal(x[0, :, [1, 2, 1]].data, values[0][:, [1, 2, 1]])
    want = np.zeros_like(values)
    np.add.at(want[0], (slice(None), [1, 2, 1]), cotangent)
    np.testing.assert_allclose(x.grad, want)
    np.testing.assert_array_equal(x[:, 1, None, [3, 0]].data, values[:, 1][:, None, [3, 0]])
    np.testing.assert_array_equal(x[mask, :, np.array(2)].data, values[..., 2][mask])
    np.testing.assert_array_equal(x[..., [0, 1], -1].data, values[..., -1][..., [0, 1]])
    np.testing.assert_array_equal(x[1, [0, 2]].data, values[1, [0, 2]])


def test_weighted_mse_loss(rng):
    x, target, weight = (leaf(rng.standard_normal((2, 3))) for _ in range(3))
    squares = weight.data * (x.data - target.data) ** 2
    np.testing.assert_allclose(F.mse_loss(x, target, "none", weight).data, squares)
    np.testing.assert_allclose(F.mse_loss(x, target, "sum", weight).data, squares.sum())
    loss = F.mse_loss(x, target, weight=weight)
    np.testing.assert_allclose(loss.data, squares.sum() / weight.data.sum())
    cotangent = back(loss, rng)
    slope = 2 * weight.data * (x.data - target.data) / weight.data.sum()
    np.testing.assert_allclose(x.grad, cotangent * slope)
    np.testing.assert_allclose(target.grad, -cotangent * slope)
    np.testing.assert_allclose(
        weight.grad, cotangent * ((x.data - target.data) ** 2 - loss.item()) / weight.data.sum()
    )


# -------------------------------------------------------------------------------------------- corner cases


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax])
@pytest.mark.parametrize("shape", [(), (3, 0), (0, 3), (2, 0, 2)])
def test_softmax_of_nothing(function, shape, rng):
    x = leaf(np.ones(shape))
    y = function(x, -1)
    assert y.shape == shape
    back(y, rng)
    np.testing.assert_array_equal(x.grad, np.zeros(shape))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_an_empty_batch_moves_nothing(training, rng):
    mean, var, weight, bias = Tensor(rng.standard_normal(3)), Tensor(np.ones(3)), leaf(np.ones(3)), leaf(np.zeros(3))
    before = mean.data.copy()
    y = F.batch_norm(np.ones((0, 3, 2, 2)), mean, var, weight, bias, training)
    assert y.shape == (0, 3, 2, 2)
    np.testing.assert_array_equal(mean.data, before)
    np.testing.assert_array_equal(var.data, np.ones(3))
    back(y, rng)
    np.testing.assert_array_equal((weight.grad, bias.grad), np.zeros((2, 3)))
    assert F.batch_norm(np.ones(0), np.ones(0), np.ones(0), training=training).shape == (0,)


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
def test_pooling_an_empty_batch(pool, rng):
    x = leaf(np.ones((0, 3, 5, 5)))
    y = pool(x, 3, 2, 1)
    assert y.shape == (0, 3, 3, 3)
    back(y, rng)
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_where_all_is_minus_infinity_an_entry_wins_and_not_the_padding(rng):
    x = leaf(np.full((1, 1, 5, 5), -INF))
    y = F.max_pool2d(x, 3, 2, 1)
    assert (y.data == -INF).all()
    cotangent = back(y, rng)
    want = np.zeros((5, 5))
    want[np.ix_([0, 1, 3], [0, 1, 3])] = cotangent[0, 0]  # the first entry inside of each window
    np.testing.assert_array_equal(x.grad, want[None, None])


def test_adaptive_avg_pool2d_into_no_bins(rng):
    x = leaf(np.ones((2, 3, 4, 4)))
    y = F.adaptive_avg_pool2d(x, (0, 2))
    assert y.shape == (2, 3, 0, 2)
    back(y, rng)
    np.testing.assert_array_equal(x.grad, np.zeros(x.shape))


@pytest.mark.parametrize(("batch", "ins", "outs"), [(2, 0, 4), (2, 3, 0), (0, 3, 4)])
def test_linear_with_nothing_on_one_side(batch, ins, outs, rng):
    x, w, b = leaf(np.ones((batch, ins))), leaf(np.ones((outs, ins))), leaf(np.ones(outs))
    cotangent = back(F.linear(x, w, b), rng)
    np.testing.assert_array_equal(x.grad, np.zeros(x.shape) if outs == 0 else cotangent @ w.data)
    np.testing.assert_array_equal(w.grad, np.zeros(w.shape))
    np.testing.assert_array_equal(b.grad, cotangent.sum(axis=0))


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
@pytest.mark.parametrize("weight", [None, np.zeros(3)])
def test_an_ignored_item_has_no_gradient_even_where_the_mean_is_0_by_0(loss, weight, rng):
    x = leaf(rng.standard_normal((2, 3)))
    value = loss(x, np.array([-100, -100 if weight is None else 1]), weight)
    assert np.isnan(value.data)
    back(value, rng)
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad[0], np.zeros(3))
    if weight is None:
        np.testing.assert_array_equal(x.grad[1], np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_mean_of_nothing_is_nan_without_a_warning(dtype, rng):
    x, scores = leaf(np.ones((2, 0)), dtype), leaf(np.ones((0, 3)), dtype)
    losses = F.cross_entropy(scores, np.zeros(0, int)), F.cross_entropy(scores, scores.data), F.mse_loss(x, x)
    for y in (x.mean(), x.mean(1), *losses):
        assert np.isnan(y.data).all()
        assert y.dtype == dtype
        back(y, rng)


def test_gradients_at_nan_and_at_kinks(rng):
    values = [-1.0, 0.0, 2.0, NAN]
    for function, slopes in ((F.relu, [0, 0, 1, 1]), (F.abs, [-1, 0, 1, 0]), (lambda x: x.clamp(0, 1), [0, 1, 0, 0])):
        x = leaf(values)
        cotangent = back(function(x), rng)
        np.testing.assert_array_equal(x.grad, cotangent * slopes)


def test_clamp_between_equal_bounds_has_no_gradient_from_below(rng):
    """At low = high an entry below touches both bounds: PyTorch gives the gradient to neither."""
    x, low, high = leaf([1.0, 3.0]), leaf([2.0, 2.0]), leaf([2.0, 2.0])
    cotangent = back(x.clamp(low, high), rng)
    np.testing.assert_array_equal((x.grad, low.grad), np.zeros((2, 2)))
    np.testing.assert_array_equal(high.grad, [0.0, cotangent[1]])


def test_the_variance_of_one_value_is_nan_and_so_is_its_gradient(rng):
    x = leaf([3.0])
    with np.errstate(invalid="ignore"):
        y = x.var()
        back(y, rng)
    assert np.isnan(y.data)
    assert np.isnan(x.grad).all()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_of_no_channels_is_its_bias(kernel, stride):
    x, w = (Tensor(np.ones(shape), requires_grad=True) for shape in ((2, 0, 6, 6), (4, 0, kernel, kernel)))
    b = Tensor(np.arange(4.0), requires_grad=True)
    y = F.conv2d(x, w, b, stride)
    np.testing.assert_array_equal(y.numpy(), np.broadcast_to(np.arange(4.0)[:, None, None], y.shape))
    y.backward(np.ones(y.shape))
    assert x.grad.shape == x.shape and w.grad.shape == w.shape
    np.testing.assert_array_equal(b.grad, np.full(4, y.size / 4))


@pytest.mark.parametrize("integer", [np.int8, np.int64])
def test_groups_may_be_numpys(integer, rng):
    """And where a convolution of these shapes was first asked for with a small one, nothing of it stays."""
    x, w = rng.standard_normal((1, 4, 40, 41), np.float32), rng.standard_normal((8, 2, 3, 3), np.float32)
    np.testing.assert_array_equal(F.conv2d(x, w, groups=integer(2)).numpy(), F.conv2d(x, w, groups=2).numpy())


def test_a_complex_bias_of_a_real_convolution(rng):
    """As the complex step of the gradient check needs it."""
    x, w, b = rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    step = F.conv2d(x, w, b + 1e-20j * np.arange(4)).data
    np.testing.assert_allclose(step.imag / 1e-20, np.broadcast_to(np.arange(4)[:, None, None], step.shape))


# ---------------------------------------------------------------------------------------- errors that teach

X = np.ones((2, 4, 6, 6), np.float32)
W = np.ones((8, 4, 3, 3), np.float32)
M = np.ones((3, 4), np.float32)
V = np.ones(4, np.float32)
T = Tensor(M)
INTS = Tensor(np.ones((3, 4), np.int64))
Y = np.zeros(3, np.int64)

ERRORS: dict[str, list[tuple[Any, type[Exception], str]]] = {
    "conv2d": [
        (lambda: F.conv2d(X[0, 0], W), ValueError, "input has shape (6, 6), and must be (batch, channels, height,"),
        (lambda: F.conv2d(X, W[0]), ValueError, "weight has shape (4, 3, 3), and must be (out, in/groups, height,"),
        (lambda: F.conv2d(X, W[:, :2]), ValueError, "input has 4 channels, weight (8, 2, 3, 3) with groups=1 expects "
         "2. Did you mean groups=2?"),
        (lambda: F.conv2d(X[:, :3], W), ValueError, "input has 3 channels, weight (8, 4, 3, 3) with groups=1 expects"),
        (lambda: F.conv2d(X, W, V), ValueError, "bias has shape (4,), 8 filters expect (8,)"),
        (lambda: F.conv2d(X, W, groups=3), ValueError, "groups=3 must be a positive int that divides the 8 filters"),
        (lambda: F.conv2d(X, W, groups=0), ValueError, "groups=0 must be"),
        (lambda: F.conv2d(X, W, groups=2.0), ValueError, "groups=2.0 must be"),
        (lambda: F.conv2d(X, W, groups=True), ValueError, "groups=True must be"),
        (lambda: F.conv2d(X, W[:0]), ValueError, "weight has shape (0, 4, 3, 3), and must have at least one filter"),
        (lambda: F.conv2d(X, W, stride=0), ValueError, "stride is 0, and must be at least 1"),
        (lambda: F.conv2d(X, W, stride=1.5), TypeError, "stride must be an int or a pair of ints, got 1.5"),
        (lambda: F.conv2d(X, W, stride=True), TypeError, "stride must be an int or a pair of ints, got True"),
        (lambda: F.conv2d(X, W, dilation=(1, 2, 3)), TypeError, "dilation must be an int or a pair of ints"),
        (lambda: F.conv2d(X, W, padding=-1), ValueError, "padding is -1, and must be at least 0"),
        (lambda: F.conv2d(X, W, padding="full"), ValueError, "padding is 'full', and must be an int, a pair, 'same'"),
        (lambda: F.conv2d(X, W, None, 2, "same"), ValueError, "padding='same' needs stride 1, got (2, 2)"),
        (lambda: F.conv2d(X, W, dilation=3), ValueError, "a kernel of 3×3 with dilation (3, 3) does not fit into an "
         "input of 6×6 with padding (0, 0)"),
        (lambda: F.conv2d(X.astype(float), W), TypeError, "input is float64, weight is float32: they must be equal. "
         "Convert the input with .to(dtype='float32'), or the model with model.to(dtype='float64')"),
        (lambda: F.conv2d(X.astype(int), W), TypeError, "input is int64, and must hold floating-point numbers."),
        (lambda: F.conv2d(X[0].astype(int), W), TypeError, "input is int64, and must hold floating-point numbers"),
    ],
    "max_pool2d": [
        (lambda: F.max_pool2d(X, 7), ValueError, "a window of 7×7 does not fit into an input of 6×6 with padding (0,"),
        (lambda: F.max_pool2d(X, 0), ValueError, "kernel_size is 0, and must be at least 1"),
        (lambda: F.max_pool2d(X, ()), ValueError, "kernel_size is missing"),
        (lambda: F.max_pool2d(X, 2, 0), ValueError, "stride is 0, and must be at least 1"),
        (lambda: F.max_pool2d(X, 2, padding=2), ValueError, "padding (2, 2) is more than half of the kernel size (2,"),
        (lambda: F.max_pool2d(X, 2, dilation="a"), TypeError, "dilation must be an int or a pair of ints, got 'a'"),
        (lambda: F.max_pool2d(X[:, :, :0], 2), ValueError, "does not fit into an input of 0×6"),
        (lambda: F.max_pool2d(X[:, :, :0], 2, padding=1), ValueError, "input of shape (2, 4, 0, 6) has nothing to"),
        (lambda: F.max_pool2d(X[0].astype(int), 2), TypeError, "input is int64"),
    ],
    "avg_pool2d": [
        (lambda: F.avg_pool2d(M, 2), ValueError, "input has shape (3, 4), and must be (batch, channels, height,"),
        (lambda: F.avg_pool2d(X[:, :, :0], 2, padding=1), ValueError, "input of shape (2, 4, 0, 6) has nothing to"),
        (lambda: F.avg_pool2d(X, 2, divisor_override=0), ValueError, "divisor_override must not be 0"),
        (lambda: F.avg_pool2d(X, (8, 1)), ValueError, "a window of 8×1 does not fit into an input of 6×6"),
    ],
    "adaptive_avg_pool2d": [
        (lambda: F.adaptive_avg_pool2d(X, -1), ValueError, "output_size is (-1, -1), and must be at least 0"),
        (lambda: F.adaptive_avg_pool2d(X, (1, 2, 3)), TypeError, "output_size must be an int or a pair of ints"),
        (lambda: F.adaptive_avg_pool2d(X, 1.5), TypeError, "output_size must be an int or a pair of ints"),
        (lambda: F.adaptive_avg_pool2d(X[:, :, :0], 1), ValueError, "input of shape (2, 4, 0, 6) has nothing to"),
    ],
    "local_response_norm": [
        (lambda: F.local_response_norm(M, 2), ValueError, "input has shape (3, 4), and must be (batch, channels, *)"),
        (lambda: F.local_response_norm(X, 0), ValueError, "size is 0, and must be an int of at least 1"),
        (lambda: F.local_response_norm(X, 2.5), ValueError, "size is 2.5, and must be an int"),
    ],
    "batch_norm": [
        (lambda: F.batch_norm(V, V, V), ValueError, "input has shape (4,), and must be (batch, channels, *)"),
        (lambda: F.batch_norm(X, V[:3], V), ValueError, "input has 4 channels, running_mean has shape (3,)"),
        (lambda: F.batch_norm(X, V, V, V[:1]), ValueError, "input has 4 channels, weight has shape (1,) and must have"),
        (lambda: F.batch_norm(X, None, None), ValueError, "running_mean is missing. Evaluation needs both"),
        (lambda: F.batch_norm(X, Tensor(V), None, training=True), ValueError, "running_var is missing"),
        (lambda: F.batch_norm(X[:1, :, :1, :1], Tensor(V), Tensor(V), training=True), ValueError,
         "input of shape (1, 4, 1, 1) has one "
         "value a channel, which has no variance. Use a larger batch, or evaluation mode: model.eval()"),
        (lambda: F.batch_norm(X, V.astype(float), V), TypeError, "input is float32, running_mean is float64: they"),
        (lambda: F.batch_norm(X, V, V, eps=-1.0), ValueError, "eps is -1.0, and must be positive"),
        (lambda: F.batch_norm(X, V, V, training=True, eps=0.0), ValueError, "eps is 0.0, and must be positive"),
        (lambda: F.batch_norm(X.astype(int), V, V), TypeError, "input is int64, and must hold floating-point numbers"),
    ],
    "linear": [
        (lambda: F.linear(M, W[0, 0]), ValueError, "input has shape (3, 4), weight (3, 3): the last axis of both is "
         "the number of inputs and must be equal. Flatten images first, or size the layer for them"),
        (lambda: F.linear(M, M, V), ValueError, "bias has shape (4,), weight (3, 4) expects (3,)"),
        (lambda: F.linear(M.astype(float), M), TypeError, "input is float64, weight is float32"),
        (lambda: F.linear(M, M, V[:3].astype(float)), TypeError, "input is float32, bias is float64"),
    ],
    "matmul": [
        (lambda: T @ M, ValueError, "shapes (3, 4) and (3, 4) do not multiply: inner axes must be equal"),
        (lambda: T @ 2.0, ValueError, "shapes (3, 4) and () do not multiply"),
        (lambda: M.T.astype(float) @ T, TypeError, "input is float64, other is float32"),
    ],
    "relu": [(lambda: F.relu(INTS), TypeError, "int64")],
    "leaky_relu": [(lambda: F.leaky_relu(INTS), TypeError, "int64")],
    "elu": [(lambda: F.elu(INTS), TypeError, "int64")],
    "silu": [(lambda: F.silu(INTS), TypeError, "int64")],
    "softplus": [(lambda: F.softplus(INTS), TypeError, "int64")],
    "sigmoid": [(lambda: F.sigmoid(INTS), TypeError, "int64")],
    "tanh": [(lambda: F.tanh(INTS), TypeError, "int64, and only floating-point numbers have gradients. Convert it")],
    "softmax": [
        (lambda: F.softmax(M, 2), IndexError, "dim is 2, and a tensor of 2 dimensions has -2 to 1"),
        (lambda: F.softmax(np.float32(1), 1), IndexError, "dim is 1, and a tensor of 0 dimensions has -1 to 0"),
        (lambda: F.softmax(M, 1.0), TypeError, "dim must be an int, got 1.0"),
    ],
    "log_softmax": [(lambda: F.log_softmax(M, -3), IndexError, "dim is -3, and a tensor of 2 dimensions has -2 to 1")],
    "dropout": [
        (lambda: F.dropout(M, 1.5), ValueError, "p is 1.5, and must be a probability between 0 and 1"),
        (lambda: F.dropout(INTS), TypeError, "int64"),
    ],
    "cross_entropy": [
        (lambda: F.cross_entropy(M, Y[:2]), ValueError, "input has shape (3, 4), so target must have (3,), and has"),
        (lambda: F.cross_entropy(V, [1, 2]), ValueError, "input has shape (4,), so target must have (), and has (2,)"),
        (lambda: F.cross_entropy(M, Y + 4), IndexError, "target holds class 4, and the 4 classes are 0 to 3"),
        (lambda: F.cross_entropy(M, Y - 1), IndexError, "target holds class -1"),
        (lambda: F.cross_entropy(M, Y - 1, ignore_index=7), IndexError, "the 4 classes are 0 to 3 (or ignore_index,"),
        (lambda: F.cross_entropy(M, Y == 0), TypeError, "target is bool, and must hold class indices (integers)"),
        (lambda: F.cross_entropy(M, V[:3]), ValueError, "target is float32 of shape (3,). Class probabilities must "
         "have the input's shape; class indices must be integers"),
        (lambda: F.cross_entropy(M, Y, V[:3]), ValueError, "weight has shape (3,), 4 classes expect (4,)"),
        (lambda: F.cross_entropy(M, Y, label_smoothing=1.5), ValueError, "label_smoothing is 1.5, and must be between"),
        (lambda: F.cross_entropy(M, Y, reduction="avg"), ValueError, "reduction is 'avg', and must be 'none', 'mean'"),
        (lambda: F.cross_entropy(M[:, :0], Y), ValueError, "input has shape (3, 0), in which there are no classes"),
        (lambda: F.cross_entropy(V[0], 0), ValueError, "input is one number, and must be (classes,) or"),
    ],
    "nll_loss": [
        (lambda: F.nll_loss(M, V[:3]), TypeError, "target is float32, and must hold class indices (integers)"),
        (lambda: F.nll_loss(M, Y[:2]), ValueError, "input has shape (3, 4), so target must have (3,), and has (2,)"),
        (lambda: F.nll_loss(M, Y + 9), IndexError, "target holds class 9"),
        (lambda: F.nll_loss(M, Y, reduction=None), ValueError, "reduction is None"),
    ],
    "mse_loss": [
        (lambda: F.mse_loss(M, V[:3]), ValueError, "shapes (3, 4) and (3,) do not broadcast"),
        (lambda: F.mse_loss(M, M, "max"), ValueError, "reduction is 'max', and must be 'none', 'mean' or 'sum'"),
        (lambda: F.mse_loss(M, M, weight=V), ValueError, "weight has shape (4,), input (3, 4): they must be equal"),
        (lambda: F.mse_loss(M, INTS), TypeError, "int64"),
    ],
    "pad": [
        (lambda: F.pad(M, (1,)), ValueError, "pad has 1 widths, and needs a pair for each of at most 2 axes"),
        (lambda: F.pad(V, (1, 1, 1, 1)), ValueError, "pad has 4 widths, and needs a pair for each of at most 1 axes"),
        (lambda: F.pad(M, (1, 1), "reflect"), ValueError, "mode is 'reflect', and only 'constant' is offered"),
        (lambda: F.pad(M, (-3, -2)), ValueError, "widths (-3, -2) cut more than there is off shape (3, 4)"),
        (lambda: F.pad(M, 1), TypeError, "pad must be a list or tuple of ints, got 1"),
        (lambda: F.pad(M, (0.5, 1)), TypeError, "pad must be a list or tuple of ints, got (0.5, 1)"),
    ],
    "cat": [
        (lambda: minicnn.cat([]), ValueError, "needs at least one tensor"),
        (lambda: minicnn.cat(T), TypeError, "tensors must be a list or tuple of them, got Tensor"),
        (lambda: minicnn.cat([T, None]), TypeError, "None is neither a tensor nor an array"),
        (lambda: minicnn.cat([M, M.T]), ValueError, "shapes (3, 4) and (4, 3) must be equal except along dim 0"),
        (lambda: minicnn.cat([M, M], 2), IndexError, "dim is 2, and a tensor of 2 dimensions has -2 to 1"),
        (lambda: minicnn.cat([np.float32(1)]), ValueError, "shapes () and () must be equal except along dim 0"),
    ],
    "stack": [
        (lambda: minicnn.stack([]), ValueError, "needs at least one tensor"),
        (lambda: minicnn.stack([M, M.T]), ValueError, "shapes (3, 4) and (4, 3) must be equal"),
        (lambda: minicnn.stack([M, M], 3), IndexError, "dim is 3, and a tensor of 3 dimensions has -3 to 2"),
    ],
    "getitem": [
        (lambda: T[3], IndexError, "index 3 is out of bounds for axis 0 with size 3 (the tensor has shape (3, 4))"),
        (lambda: T[0, 1, 2], IndexError, "too many indices"),
        (lambda: T[[0, 5], 0], IndexError, "index 5 is out of bounds"),
        (lambda: T[np.array([True, False])], IndexError, "boolean index did not match"),
        (lambda: T[1.5], IndexError, "only integers, slices"),
        (lambda: T[np.array([0.5])], TypeError, "an index is float64, and must be integers or booleans"),
    ],
    "reshape": [
        (lambda: T.reshape(5, 2), ValueError, "(3, 4) has 12 entries, which shape (5, 2) cannot hold"),
        (lambda: T.reshape(-1, 5), ValueError, "(3, 4) has 12 entries, which shape (-1, 5) cannot hold"),
        (lambda: T.reshape(-1, -1), ValueError, "shape (-1, -1) has more than one unknown or a negative length"),
        (lambda: T.reshape(3.0, 4), TypeError, "the shape must be made of ints, got (3.0, 4)"),
    ],
    "flatten": [
        (lambda: T.flatten(1, 0), ValueError, "start_dim 1 comes after end_dim 0"),
        (lambda: T.flatten(2), IndexError, "dim is 2"),
    ],
    "permute": [
        (lambda: T.permute(0, 0), ValueError, "dims (0, 0) must name each of the 2 axes once"),
        (lambda: T.permute(0), ValueError, "dims (0,) must name each of the 2 axes once"),
        (lambda: T.permute(0, 2), IndexError, "dim is 2"),
    ],
    "transpose": [(lambda: T.transpose(0, 2), IndexError, "dim is 2, and a tensor of 2 dimensions has -2 to 1")],
    "squeeze": [
        (lambda: T.squeeze(2), IndexError, "dim is 2, and a tensor of 2 dimensions has -2 to 1"),
        (lambda: T.squeeze((0, 0)), ValueError, "dim (0, 0) names an axis twice"),
    ],
    "unsqueeze": [(lambda: T.unsqueeze(3), IndexError, "dim is 3, and a tensor of 3 dimensions has -3 to 2")],
    "sum": [
        (lambda: T.sum(2), IndexError, "dim is 2, and a tensor of 2 dimensions has -2 to 1"),
        (lambda: T.sum((0, -2)), ValueError, "dim (0, -2) names an axis twice"),
        (lambda: T.sum(0.5), TypeError, "dim must be an int, got 0.5"),
        (lambda: INTS.sum(), TypeError, "int64, and only floating-point numbers have gradients"),
    ],
    "mean": [(lambda: T.mean((0, 5)), IndexError, "dim is 5")],
    "var": [(lambda: T.var("rows"), TypeError, "dim must be an int, got")],
    "amax": [
        (lambda: Tensor(M[:0]).amax(), ValueError, "shape (0, 4) has no entries along dim (0, 1) to take the largest"),
        (lambda: T.amax(9), IndexError, "dim is 9"),
    ],
    "clamp": [
        (lambda: T.clamp(), ValueError, "give min, max or both"),
        (lambda: T.clamp(V[:3]), ValueError, "shapes (3, 4) and (3,) do not broadcast"),
        (lambda: T.clamp("a"), TypeError, "an operand is 'a', and must be a number, an array or a Tensor"),
    ],
    "exp": [(lambda: INTS.exp(), TypeError, "int64")],
    "log": [(lambda: INTS.log(), TypeError, "int64")],
    "sqrt": [(lambda: INTS.sqrt(), TypeError, "int64")],
    "abs": [(lambda: INTS.abs(), TypeError, "int64")],
    "add": [
        (lambda: T + V[:3], ValueError, "shapes (3, 4) and (3,) do not broadcast: aligned at the right, axes must be"),
        (lambda: T + None, TypeError, "an operand is None, and must be a number, an array or a Tensor"),
        (lambda: "a" + T, TypeError, "an operand is 'a'"),
        (lambda: INTS + 1, TypeError, "int64"),
    ],
    "to": [
        (lambda: T.to("float46"), ValueError, "'float46' is neither a device ('cpu', 'cuda' or 'cuda:N') nor a dtype"),
        (lambda: T.to(dtype="float46"), ValueError, "'float46' is neither a device"),
        (lambda: T.to("cuda:x"), ValueError, "unknown device 'cuda:x': use 'cpu', 'cuda' or 'cuda:N'"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "call", "error", "text"),
    [pytest.param(name, *case, id=f"{name}: {case[2][:40]}") for name, cases in ERRORS.items() for case in cases],
)
def test_errors(name, call, error, text):
    with pytest.raises(error) as info:
        call()
    message = str(info.value)
    assert text in message
    if name != "to":
        assert message.startswith(f"{name}: ")
    assert "\n" not in message


def test_every_public_function_has_its_errors():
    public = {n for n, f in vars(F).items() if inspect.isfunction(f) and f.__module__ == F.__name__ and n[0] != "_"}
    assert public - {"located", "pair"} == set(ERRORS) - {"add"}


def test_an_error_names_the_layer():
    model = nn.Sequential(("features", nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3))), ("flatten", nn.Flatten()))
    with pytest.raises(ValueError, match=r"^conv2d in features\.1: input has 3 channels, weight \(8, 4, 3, 3\)"):
        model(X[:, :3])


def test_arrays_of_two_devices_never_meet_silently(monkeypatch):
    class ArrayOfAGpu:
        shape, ndim, dtype, device = (3, 4), 2, np.dtype(np.float32), types.SimpleNamespace(id=1)

    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=ArrayOfAGpu))
    for call in (lambda x: T + Tensor(x), lambda x: F.linear(x, T), lambda x: F.mse_loss(T, x)):
        with pytest.raises(TypeError, match=r"move one with \.to\('(cpu|cuda:1)'\) or \.to\('(cpu|cuda:1)'\)"):
            call(ArrayOfAGpu())


def test_without_cupy_a_cuda_device_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match="CuPy: install minicnn with its extra cuda12 or cuda13"):
        T.to("cuda")


@pytest.mark.parametrize("index", [0, (0,), (..., 0), slice(0, 1)])
def test_an_entry_is_a_view_on_every_device(index):
    p = nn.Parameter(np.array([1.0, 2.0]))
    entry, p.grad = p[index], np.ones(2)
    optim.SGD([p], lr=5, maximize=True).step()  # writes into the parameter's array
    assert entry.item() == 6
