"""The gradient of every operation, by numbers: one table, and a test that fails for an `Op` that is not in it.

Smooth operations are held to 1e-12 of the largest value (complex step), the others to 1e-6 (central differences).
"""

import sys
from dataclasses import replace

import numpy as np
import pytest

from minicnn import Tensor, apply, use_kernels
from minicnn import functional as F
from minicnn.engine import Op, observe
from minicnn.gradcheck import Trace, gradcheck
from minicnn.testing import assert_gradients
from tests.device import places

OPS = {name: value for name, value in vars(F).items() if isinstance(value, Op)}


def positive(*shape):
    return np.random.default_rng(5).uniform(0.5, 2, shape)


def probabilities(*shape):
    p = positive(*shape)
    return p / p.sum(axis=1, keepdims=True)


def running(channels):
    return {
        "running_mean": Tensor(np.linspace(-1, 1, channels)), "running_var": Tensor(np.linspace(0.5, 2, channels)),
    }  # fmt: skip


X, IMAGE, WIDE = (3, 4), (2, 3, 5, 6), (2, 4, 7, 5)
CLASSES, PIXELS = np.array([2, 0, 1, 2]), np.array([[[0, 2], [1, 1]], [[2, 2], [0, 1]]])
WEIGHT = np.array([0.5, 2.0, 1.5])
IGNORING = {"ignore_index": 2}

# Each case: a function, and its inputs: shapes (standard normal numbers) or arrays. The first case of an operation
# with optional inputs has them all.
CASES = {
    "ADD": [
        (lambda a, b: a + b, X, X), (lambda a, b: a + b, (2, 3, 4), (3, 1)), (lambda a, b: a + b, (4,), (2, 1, 4)),
        (lambda a: a + 2, X), (lambda a: 2 + a, X), (lambda a: a + a, X), (lambda a, b: a + b, (), (2, 3)),
        (lambda a, b: a + b, (0, 3), (3,)),
    ],
    "SUB": [
        (lambda a, b: a - b, X, X), (lambda a, b: a - b, (2, 3, 4), (3, 1)), (lambda a, b: a - b, (4,), (2, 1, 4)),
        (lambda a: 2 - a, X),
    ],
    "MUL": [
        (lambda a, b: a * b, X, X), (lambda a, b: a * b, (2, 3, 4), (3, 1)), (lambda a, b: a * b, (4,), (2, 1, 4)),
        (lambda a: a * 3, X), (lambda a: a * a, X), (lambda a, b: a * b, (1, 1), (3, 2)),
    ],
    "DIV": [
        (lambda a, b: a / b, X, positive(*X)), (lambda a, b: a / b, (2, 3, 4), -positive(3, 1)),
        (lambda a, b: a / b, (4,), positive(2, 1, 4)), (lambda b: 2 / b, positive(*X)), (lambda a: a / 4, X),
    ],
    "NEG": [(lambda a: -a, X), (lambda a: -a, ())],
    "POW": [
        (lambda a, n: a**n, positive(*X), X), (lambda a, n: a**n, positive(3, 1), (2, 1, 4)), (lambda a: a**3, X),
        (lambda a: a**-2.0, positive(*X)), (lambda a: a**0.5, positive(*X)), (lambda n: 2.0**n, X), (lambda a: a**0, X),
    ],
    "EXP": [(lambda a: a.exp(), X)],
    "LOG": [(lambda a: a.log(), positive(*X))],
    "SQRT": [(lambda a: a.sqrt(), positive(*X))],
    "ABS": [(lambda a: a.abs(), X)],
    "CLAMP": [
        (lambda a, low, high: a.clamp(low, high), X, np.full(X, -0.5), np.full(X, 0.4)),
        (lambda a, low, high: a.clamp(low, high), (2, 3, 4), np.linspace(-1, -0.1, 4), np.linspace(0.1, 1, 3)[:, None]),
        (lambda a, low, high: a.clamp(low, high), X, np.full(X, 0.5), np.full(X, -0.4)),
        (lambda a: a.clamp(min=0.1), X), (lambda a: a.clamp(max=0.1), X), (lambda a: a.clamp(-0.3, 0.3), X),
        (lambda a, high: a.clamp(max=high), (4,), X),
    ],
    "TO_DTYPE": [(lambda a: apply(F.TO_DTYPE, a, dtype=np.dtype(np.longdouble)), X)],
    "TO_DEVICE": [(lambda a: apply(F.TO_DEVICE, a, device="cpu"), X)],
    "SUM": [
        (lambda a: a.sum(), X), (lambda a: a.sum(dim=(0, -1)), (2, 3, 4)), (lambda a: a.sum(dim=1, keepdim=True), X),
        (lambda a: a.sum(dim=0), (0, 3)),
    ],
    "MEAN": [
        (lambda a: a.mean(), X), (lambda a: a.mean(dim=(0, -1)), (2, 3, 4)),
        (lambda a: a.mean(dim=-2, keepdim=True), (2, 3, 4)),
    ],
    "VAR": [
        (lambda a: a.var(), X), (lambda a: a.var(dim=(0, 2), correction=0), (2, 3, 4)),
        (lambda a: a.var(dim=1, keepdim=True), X), (lambda a: a.var(dim=0, unbiased=False), X),
    ],
    "AMAX": [
        (lambda a: a.amax(), X), (lambda a: a.amax(dim=(0, 2)), (2, 3, 4)), (lambda a: a.amax(dim=-1, keepdim=True), X)
    ],
    "RESHAPE": [(lambda a: a.reshape(2, 6), X), (lambda a: a.flatten(), (2, 3, 4)), (lambda a: a.reshape(-1, 1), X)],
    "PERMUTE": [(lambda a: a.permute(2, 0, 1), (2, 3, 4)), (lambda a: a.transpose(-1, 0), (2, 3, 4))],
    "GETITEM": [
        (lambda a: a[1:, ::2], X), (lambda a: a[np.array([0, 2, 0, -1])], X), (lambda a: a[..., None, 1], X),
        (lambda a: a[np.arange(12).reshape(3, 4) % 3 == 0], X), (lambda a: a[[0, 0, 1], [1, 1, 3]], X),
        (lambda a: a[2, 1], X), (lambda a: a[0:0], X),
    ],
    "CAT": [
        (lambda a, b, c: F.cat([a, b, c], dim=1), (2, 1, 3), (2, 4, 3), (2, 2, 3)), (lambda a: F.cat([a, a]), X),
        (lambda a, b: F.stack([a, b], dim=-1), X, X), (lambda a, b: F.cat([a, b]), (0,), (2, 3)),
    ],
    "PAD": [
        (lambda a: F.pad(a, (1, 2, 0, 3)), IMAGE), (lambda a: F.pad(a, (-1, 2, 1, -2), value=7.0), IMAGE),
        (lambda a: F.pad(a, (2, 0)), (4,)),
    ],
    "LINEAR": [
        (F.linear, (5, 4), (3, 4), (3,)), (F.linear, (5, 4), (3, 4)), (F.linear, (2, 5, 4), (3, 4), (3,)),
        (F.linear, (4,), (3, 4), (3,)), (F.linear, (5, 4), (4,), ()), (F.linear, (0, 4), (3, 4), (3,)),
    ],
    "MATMUL": [
        (lambda a, b: a @ b, (3, 4), (4, 2)), (lambda a, b: a @ b, (2, 1, 3, 4), (5, 4, 2)),
        (lambda a, b: a @ b, (4,), (4, 2)), (lambda a, b: a @ b, (3, 4), (4,)), (lambda a, b: a @ b, (4,), (4,)),
        (lambda a, b: a @ b, (2, 3, 4), (4,)),
    ],
    "CONV2D": [
        (F.conv2d, IMAGE, (4, 3, 3, 2), (4,)), (F.conv2d, IMAGE, (4, 3, 2, 3)),
        (lambda x, w, b: F.conv2d(x, w, b, stride=(2, 3), padding=(1, 2), dilation=(2, 1)), IMAGE, (2, 3, 2, 3), (2,)),
        (lambda x, w, b: F.conv2d(x, w, b, stride=2, groups=2), WIDE, (6, 2, 3, 2), (6,)),
        (lambda x, w: F.conv2d(x, w, padding=1, groups=4), WIDE, (4, 1, 3, 3)),
        (lambda x, w: F.conv2d(x, w, padding="same"), (1, 2, 4, 5), (3, 2, 2, 3)),
        (F.conv2d, (2, 3, 3, 2), (4, 3, 3, 2), (4,)), (F.conv2d, (3, 5, 6), (2, 3, 1, 1), (2,)),
        (F.conv2d, (0, 3, 5, 6), (2, 3, 3, 3), (2,)),
    ],
    "MAX_POOL2D": [
        (lambda x: F.max_pool2d(x, 2), IMAGE), (lambda x: F.max_pool2d(x, (3, 2), stride=(2, 1), padding=1), IMAGE),
        (lambda x: F.max_pool2d(x, 2, dilation=2, stride=1), IMAGE), (lambda x: F.max_pool2d(x, 2), (3, 5, 6)),
        (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), WIDE),
    ],
    "AVG_POOL2D": [
        (lambda x: F.avg_pool2d(x, 2), IMAGE), (lambda x: F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=1), IMAGE),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), WIDE),
        (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), WIDE),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE),
    ],
    "ADAPTIVE_AVG_POOL2D": [
        (lambda x: F.adaptive_avg_pool2d(x, (2, 4)), IMAGE), (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
        (lambda x: F.adaptive_avg_pool2d(x, (7, None)), IMAGE),
    ],
    "LOCAL_RESPONSE_NORM": [
        (lambda x: F.local_response_norm(x, 3, alpha=0.7, beta=0.75, k=2.0), (2, 5, 3, 2)),
        (lambda x: F.local_response_norm(x, 4, alpha=0.7, beta=0.3), (2, 5, 3)),
        (lambda x: F.local_response_norm(x, 9, alpha=0.7), (2, 4, 2, 2)),
    ],
    "BATCH_NORM": [
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), IMAGE, (3,), (3,)),
        (lambda x: F.batch_norm(x, **running(3), training=True), IMAGE),
        (lambda x, w, b: F.batch_norm(x, **running(4), weight=w, bias=b, training=True, eps=0.1), (5, 4), (4,), (4,)),
        (lambda x, b: F.batch_norm(x, None, None, None, b, True), (2, 3, 4), (3,)),
    ],
    "BATCH_NORM_EVAL": [
        (lambda x, w, b: F.batch_norm(x, **running(3), weight=w, bias=b), IMAGE, (3,), (3,)),
        (lambda x: F.batch_norm(x, **running(3)), IMAGE),
        (lambda x, w: F.batch_norm(x, **running(4), weight=w), (1, 4), (4,)),
    ],
    "RELU": [(F.relu, X)],
    "LEAKY_RELU": [(F.leaky_relu, X), (lambda x: F.leaky_relu(x, -0.3), X)],
    "ELU": [(F.elu, X), (lambda x: F.elu(x, 2.5), X)],
    "SIGMOID": [(F.sigmoid, X), (F.sigmoid, np.linspace(-31, 31, 7))],
    "TANH": [(F.tanh, X)],
    "SILU": [(F.silu, X), (F.silu, np.linspace(-31, 31, 7))],
    "SOFTPLUS": [(F.softplus, X), (lambda x: F.softplus(x, 3.0, 1.0), X), (F.softplus, np.linspace(-31, 31, 7))],
    "SOFTMAX": [(lambda x: F.softmax(x, 1), X), (lambda x: F.softmax(x, -2), (2, 3, 4))],
    "LOG_SOFTMAX": [(lambda x: F.log_softmax(x, 1), X), (lambda x: F.log_softmax(x, -2), (2, 3, 4))],
    "DROPOUT": [(F.dropout, X), (lambda x: F.dropout(x, 0.2), IMAGE), (lambda x: F.dropout(x, 1.0), X)],
    "CROSS_ENTROPY": [
        (lambda x: F.cross_entropy(x, CLASSES), (4, 3)), (lambda x: F.cross_entropy(x, PIXELS), (2, 3, 2, 2)),
        (lambda x: F.cross_entropy(x, CLASSES, WEIGHT, label_smoothing=0.2), (4, 3)),
        (lambda x: F.cross_entropy(x, PIXELS, WEIGHT, reduction="none", label_smoothing=0.2, **IGNORING), (2, 3, 2, 2)),
        (lambda x: F.cross_entropy(x, CLASSES, reduction="sum", **IGNORING), (4, 3)),
        (lambda x: F.cross_entropy(x, 1), (3,)),
    ],
    "SOFT_CROSS_ENTROPY": [
        (F.cross_entropy, (4, 3), probabilities(4, 3)), (F.cross_entropy, (2, 3, 2, 2), probabilities(2, 3, 2, 2)),
        (lambda x, t: F.cross_entropy(x, t, WEIGHT, -100, "none", 0.2), (4, 3), probabilities(4, 3)),
        (lambda x, t: F.cross_entropy(x, t, WEIGHT, reduction="sum"), (4, 3), probabilities(4, 3)),
    ],
    "NLL_LOSS": [
        (lambda x: F.nll_loss(x, CLASSES), (4, 3)), (lambda x: F.nll_loss(x, PIXELS, WEIGHT, **IGNORING), (2, 3, 2, 2)),
        (lambda x: F.nll_loss(x, CLASSES, WEIGHT, reduction="none"), (4, 3)),
        (lambda x: F.nll_loss(x, CLASSES, reduction="sum", **IGNORING), (4, 3)),
    ],
    "MSE_LOSS": [
        (F.mse_loss, X, X), (lambda x, t: F.mse_loss(x, t, reduction="sum"), X, X),
        (lambda x, t: F.mse_loss(x, t, reduction="none"), (2, 3, 4), (4,)), (F.mse_loss, (4,), (3, 4)),
        (lambda x, t, w: F.mse_loss(x, t, weight=w), X, X, positive(*X)),
    ],
}  # fmt: skip
EVERY = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]
# Cases whose gradient is zero: x⁰, everything dropped, and those where there is nothing.
ZERO = {("POW", 6), ("DROPOUT", 2), ("ADD", 7), ("LINEAR", 5), ("CONV2D", 8), ("GETITEM", 6), ("SUM", 3)}


def case(name, i):
    """The function and its inputs as arrays."""
    if name == "TO_DTYPE" and places.on_a_device():
        pytest.skip("a device has no longer floats")
    fn, *inputs = CASES[name][i]
    rng = np.random.default_rng(11)
    return fn, [rng.standard_normal(x) if isinstance(x, tuple) else x for x in inputs]


def rooms(name):
    """The implementations to check `name` in: all that there are of it."""
    if places.on_a_device():  # where there is one
        return ["im2col"]
    forward = OPS[name].forward.__name__
    return [room for room, kernels in use_kernels.rooms.items() if kernels is None or hasattr(kernels, forward)]




def test_every_op_has_a_case():
    assert OPS.keys() - CASES.keys() == set(), "these operations have no gradient case"
    assert CASES.keys() - OPS.keys() == set(), "these cases are of no operation"


def test_every_op_is_in_functional():
    known = {id(op) for op in OPS.values()}
    elsewhere = [
        f"{module}.{name}"
        for module, contents in sys.modules.items()
        if contents is not None and module.split(".")[0] == "minicnn"
        for name, value in vars(contents).items()
        if isinstance(value, Op) and id(value) not in known
    ]
    assert elsewhere == []
    assert len({op.name for op in OPS.values()}) == len(OPS)


@pytest.mark.parametrize(("name", "i", "room"), [(n, i, room) for n, i in EVERY for room in rooms(n)])
def test_gradient(name, i, room):
    fn, inputs = case(name, i)
    smooth = OPS[name].smooth
    tolerance = {"rtol": 1e-12, "atol": 1e-15} if smooth else {"rtol": 1e-6, "atol": 1e-9}
    entries = 60 if room == "naive" else 10_000
    with use_kernels(room), observe(trace := Trace()):
        report = assert_gradients(fn, *inputs, max_entries=entries, **tolerance)
    assert OPS[name] in {node.op for node in trace.values}, "the case does not use its operation"
    assert report.set_aside == 0
    if not (places.on_a_device() and name == "POW"):  # CuPy's complex power loses digits beside the negative numbers
        assert report.method == ("complex step" if smooth else "central differences")
    assert any(measured.largest > 1e-3 for measured in report.inputs) == ((name, i) not in ZERO), "nothing was measured"


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name][0]) > 2])
def test_gradient_of_each_input_alone(name):
    """The others being constants, which backward is told by `needs`."""
    fn, inputs = case(name, 0)
    for i in range(len(inputs)):
        some = [Tensor(x, requires_grad=i == k) for k, x in enumerate(inputs)]
        assert len(assert_gradients(fn, *some).inputs) == 1


@pytest.mark.parametrize("name", CASES)
def test_the_case_sees_an_error_of_a_thousandth(monkeypatch, name):
    op = OPS[name]

    def forward(*arrays, **params):
        return op.forward(*arrays, **params)

    def backward(grad_output, saved, needs, **params):
        return [g if g is None else 1.001 * g for g in op.backward(grad_output, saved, needs, **params)]

    monkeypatch.setattr(F, name, replace(op, forward=forward, backward=backward))
    fn, inputs = case(name, 0)
    report = gradcheck(fn, *inputs)
    assert report.status == "wrong"
    assert report.first_wrong.op == op.name
    assert all(measured.wrong for measured in report.inputs)
