"""The tables of `inspect.storage` against what the kernels do: what nodes save, and what passes need besides."""

import math
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import Parameter, Tensor, apply, no_grad, threads
from minicnn import functional as F
from minicnn.engine import Op, observe
from minicnn.inspect.storage import KEEPS, TEMPORARIES, is_view, kept_for_backward, owner, saved, scratch, temporaries
from minicnn.inspect.storage import images_last as lies_last
from minicnn.kernels.fast import activation, entrywise, layout, norm, pool, windows
from minicnn.kernels.fast import linear as fast_linear
from minicnn.kernels.fast import scratch as fast_scratch
from tests.kernels.helpers import drawn, with_images_last

pytestmark = pytest.mark.host  # who shares memory with whom is asked of NumPy

OPS = {name: value for name, value in vars(F).items() if isinstance(value, Op)}

IMAGES = (4, 16, 64, 64)  # 1 MiB: NumPy reuses intermediate results from 256 KiB on
MATRIX = (512, 512)


def positive(*shape):
    return np.random.default_rng(5).uniform(0.5, 2, shape).astype(np.float32)


def images_last(*shape):
    """Standard normal numbers in an array whose images lie last in memory."""
    return with_images_last(np.random.default_rng(4).standard_normal(shape, dtype=np.float32))


def running(channels):
    return np.zeros(channels, np.float32), np.ones(channels, np.float32)


PROBABILITIES = Tensor(positive(*MATRIX))
CLASSES = np.random.default_rng(3).integers(0, MATRIX[1], MATRIX[0])

# For each operation: a function and its inputs, shapes (standard normal numbers) or arrays.
CASES = {
    "ADD": (lambda a, b: a + b, IMAGES, IMAGES),
    "SUB": (lambda a, b: a - b, IMAGES, IMAGES),
    "MUL": (lambda a, b: a * b, IMAGES, IMAGES),
    "DIV": (lambda a, b: a / b, IMAGES, positive(*IMAGES)),
    "NEG": (lambda a: -a, IMAGES),
    "POW": (lambda a: a**2, IMAGES),
    "EXP": (F.exp, IMAGES),
    "LOG": (F.log, positive(*IMAGES)),
    "SQRT": (F.sqrt, positive(*IMAGES)),
    "ABS": (F.abs, IMAGES),
    "CLAMP": (lambda a: F.clamp(a, -1, 1), IMAGES),
    "TO_DTYPE": (lambda a: a.to(dtype="float64"), IMAGES),
    "TO_DEVICE": (lambda a: apply(F.TO_DEVICE, a, device="cpu"), IMAGES),
    "SUM": (lambda a: a.sum(1), IMAGES),
    "MEAN": (lambda a: a.mean(), IMAGES),
    "VAR": (lambda a: a.var(), IMAGES),
    "AMAX": (lambda a: a.amax(1), IMAGES),
    "RESHAPE": (lambda a: a.flatten(1), IMAGES),
    "PERMUTE": (lambda a: a.transpose(1, 2), IMAGES),
    "GETITEM": (lambda a: a[:, np.arange(8)], IMAGES),
    "CAT": (lambda a, b: F.cat([a, b], 1), IMAGES, IMAGES),
    "PAD": (lambda a: F.pad(a, (1, 1)), IMAGES),
    "LINEAR": (F.linear, MATRIX, MATRIX, MATRIX[:1]),
    "LINEAR in blocks": (F.linear, (32, 4096), (128, 4096), (128,)),
    "MATMUL": (lambda a, b: a @ b, MATRIX, MATRIX),
    "CONV2D": (lambda x, w, b: F.conv2d(x, w, b, padding=1), IMAGES, (32, 16, 3, 3), (32,)),
    "CONV2D with a stride": (lambda x, w: F.conv2d(x, w, stride=2, padding=1), (4, 16, 128, 128), (32, 16, 3, 3)),
    "CONV2D images last": (lambda x, w, b: F.conv2d(x, w, b), images_last(128, 6, 28, 28), (8, 6, 3, 3), (8,)),
    "CONV2D images last, bordered": (lambda x, w: F.conv2d(x, w, padding=2), images_last(64, 2, 28, 28), (6, 2, 5, 5)),
    "CONV2D images last, many kernels": (lambda x, w: F.conv2d(x, w), images_last(16, 8, 32, 32), (64, 8, 5, 5)),
    "CONV2D images last, long rows": (lambda x, w: F.conv2d(x, w), images_last(512, 1, 28, 28), (20, 1, 5, 5)),
    "CONV2D to images last": (lambda x, w: F.conv2d(x, w), (64, 4, 28, 28), (6, 4, 5, 5)),
    "MAX_POOL2D images last": (lambda x: F.max_pool2d(x, 3, 2, 1), images_last(64, 8, 28, 28)),
    "MAX_POOL2D images last, in pieces": (lambda x: F.max_pool2d(x, 2), images_last(64, 30, 28, 28)),
    "AVG_POOL2D images last": (lambda x: F.avg_pool2d(x, 2), images_last(64, 30, 28, 28)),
    "BATCH_NORM images last": (
        lambda x, w, b: F.batch_norm(x, *running(30), w, b, True), images_last(64, 30, 28, 28), (30,), (30,)
    ),
    "RELU images last": (F.relu, images_last(64, 30, 28, 28)),
    "MAX_POOL2D": (lambda x: F.max_pool2d(x, 3, 1, 1), IMAGES),
    "MAX_POOL2D without overlap": (lambda x: F.max_pool2d(x, 2), IMAGES),
    "AVG_POOL2D": (lambda x: F.avg_pool2d(x, 2), IMAGES),
    "ADAPTIVE_AVG_POOL2D": (lambda x: F.adaptive_avg_pool2d(x, 60), IMAGES),
    "LOCAL_RESPONSE_NORM": (lambda x: F.local_response_norm(x, 5), IMAGES),
    "BATCH_NORM": (lambda x, w, b: F.batch_norm(x, *running(16), w, b, True), IMAGES, (16,), (16,)),
    "BATCH_NORM of two": (lambda x, w, b: F.batch_norm(x, *running(16), w, b, True), (2, 16, 99, 99), (16,), (16,)),
    "BATCH_NORM of features": (lambda x, w, b: F.batch_norm(x, *running(512), w, b, True), MATRIX, (512,), (512,)),
    "BATCH_NORM_EVAL": (lambda x, w, b: F.batch_norm(x, *running(16), w, b), IMAGES, (16,), (16,)),
    "RELU": (F.relu, IMAGES),
    "LEAKY_RELU": (F.leaky_relu, IMAGES),
    "ELU": (F.elu, IMAGES),
    "SIGMOID": (F.sigmoid, IMAGES),
    "TANH": (F.tanh, IMAGES),
    "SILU": (F.silu, IMAGES),
    "SOFTPLUS": (F.softplus, IMAGES),
    "SOFTMAX": (lambda x: F.softmax(x, 1), IMAGES),
    "LOG_SOFTMAX": (lambda x: F.log_softmax(x, 1), IMAGES),
    "DROPOUT": (F.dropout, IMAGES),
    "CROSS_ENTROPY": (lambda x: F.cross_entropy(x, CLASSES), MATRIX),
    "SOFT_CROSS_ENTROPY": (lambda x: F.cross_entropy(x, PROBABILITIES), MATRIX),
    "NLL_LOSS": (lambda x: F.nll_loss(x, CLASSES), MATRIX),
    "MSE_LOSS": (F.mse_loss, IMAGES, IMAGES),
}


class Last:
    """Remembers the last operation and its output."""

    def forward(self, node, output):
        self.node, self.output = node, output


def run(name, rng):
    """The case's inputs, the node of its operation, and the output."""
    function, *inputs = CASES[name]
    arrays = (x if isinstance(x, np.ndarray) else rng.standard_normal(x, dtype=np.float32) for x in inputs)
    tensors = [Tensor(x) for x in arrays]
    for tensor in tensors:
        tensor.requires_grad = True  # now, as a tensor that is made with it copies its array, in the usual order
    last = Last()
    with observe(last):
        function(*tensors)
    assert last.node.op is OPS[name.split()[0]]
    return tensors, last.node, last.output, lambda: function(*tensors)


def arrays_in(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from arrays_in(item)


def memory_of(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)


def test_the_tables_know_every_operation():
    names = {op.name for op in OPS.values()}
    assert set(KEEPS) == names
    assert set(TEMPORARIES) <= names
    assert {case.split()[0] for case in CASES} == set(OPS)


@pytest.mark.parametrize("name", OPS)
def test_what_a_node_saves(name, rng):
    _, node, output, _ = run(name, rng)
    there = {memory_of(x.data): x for x in node.inputs if x is not None} | {memory_of(output): node}
    existing, own = set(), []
    for array in arrays_in(node.saved):
        if memory_of(array) in there:
            existing.add(there[memory_of(array)])
        elif array.nbytes > 4096:  # not one number a channel or an item
            own.append(array.nbytes)
    predicted = dict(saved(node))
    assert {key for key in predicted if not isinstance(key, tuple)} == existing
    assert sorted(size for key, size in predicted.items() if isinstance(key, tuple)) == sorted(own)
    assert all(predicted[key] == (output if key is node else key.data).nbytes for key in existing)
    assert dict(kept_for_backward(node)) == predicted


def test_only_what_backward_will_ask_for_is_kept(rng):
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    last = Last()
    with observe(last), no_grad():
        F.relu(Tensor(x, requires_grad=True))
    assert list(kept_for_backward(last.node)) == [] != list(saved(last.node))
    with observe(last):
        F.conv2d(Tensor(x), Parameter(rng.standard_normal((4, 3, 3, 3), dtype=np.float32)))
    assert [key for key, _ in kept_for_backward(last.node)] == [last.node.inputs[0]]  # and not the parameter


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere NumPy reuses fewer intermediate results")
@pytest.mark.parametrize("name", CASES)
def test_what_a_pass_needs(name, rng, monkeypatch):
    """Measured, beside what was there before and what there is afterwards, to an eighth of the largest array."""
    monkeypatch.setattr(fast_linear, "wide_blas", lambda: name == "LINEAR in blocks")
    monkeypatch.setattr(fast_scratch, "_kept", threading.local())
    monkeypatch.setattr(threads, "_requested", 1)  # two would not need theirs all at the same moment
    inputs, node, output, again = run(name, rng)
    kept = [array.nbytes for array in arrays_in(node.saved)]
    largest = max(*(x.data.nbytes for x in inputs), output.nbytes, *kept)
    gradient = np.empty_like(output)  # lies as the output does
    gradient[...] = rng.standard_normal(output.shape)
    again(), node.backward(gradient)  # what is made once is there
    own = sum(size for key, size in saved(node) if isinstance(key, tuple))
    mask = inputs[0].data.nbytes if name == "DROPOUT" else 0  # made by the function, outside of the operation
    made = 0 if memory_of(output) in map(memory_of, (x.data for x in inputs)) else output.nbytes
    expected = own + mask + made
    monkeypatch.setattr(fast_scratch, "_kept", threading.local())  # so that scratch arrays count
    forwards, backwards = (scratch(node, backward)[0] for backward in (False, True))
    tracemalloc.start()
    try:
        again()
        forward = tracemalloc.get_traced_memory()[1] - expected
        tracemalloc.reset_peak()
        grads = node.backward(gradient)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del grads
    needed = temporaries(node, backward=False) + sum(forwards.values())
    assert forward == pytest.approx(needed, abs=0.13 * largest)
    assert peak - after == pytest.approx(temporaries(node, backward=True), abs=0.13 * largest)
    kept_now = {key: array.nbytes for key, array in fast_scratch._kept.__dict__.get("arrays", {}).items()}
    predicted = {key[1:]: max(forwards.get(key, 0), backwards.get(key, 0)) for key in forwards | backwards}
    assert kept_now == pytest.approx(predicted, rel=0.01)


def pooling(draw, pool):
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(2))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    strides = (draw(st.sampled_from([(1, 1), (2, 2), (1, 2), kernel])), padding)
    return lambda x: pool(x, kernel, *strides, ceil_mode=draw(st.booleans()))


TOLD = {  # what to draw, and a function of x, w, b; w and b are (channels,), or a matrix and its bias
    "max_pool2d": lambda draw: pooling(draw, F.max_pool2d),
    "avg_pool2d": lambda draw: pooling(draw, F.avg_pool2d),
    "batch_norm": lambda draw: lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
    "batch_norm_eval": lambda draw: lambda x, w, b: F.batch_norm(
        x, *(a.astype(x.dtype) for a in running(len(w.data))), w, b
    ),
    "local_response_norm": lambda draw: lambda x: F.local_response_norm(x, 3, beta=draw(st.sampled_from([0.5, 0.75]))),
    "relu": lambda draw: F.relu,
    "leaky_relu": lambda draw: lambda x: F.leaky_relu(x, draw(st.sampled_from([-0.1, 0.1, 2.0]))),
    "sigmoid": lambda draw: F.sigmoid,
    "linear": lambda draw: F.linear,
}


@pytest.mark.parametrize("name", TOLD)
@drawn
@given(st.data())
def test_kernels_tell_what_scratch_arrays_they_ask_for(name, data):
    """In one thread, with pieces of all sizes. Where pools have images first, they may tell of a little more."""
    draw, dtype = data.draw, data.draw(st.sampled_from([np.float32, np.float64]))
    shape = tuple(draw(st.sampled_from(sizes)) for sizes in ([2, 3, 5, 16, 17], [1, 4, 64], [3, 4, 8], [3, 7, 11]))
    flat = name == "linear" or (name.startswith("batch_norm") and draw(st.booleans()))
    shape = shape[:2] if flat else shape
    order = draw(st.sampled_from([np.asarray] if flat else [np.asarray, with_images_last]), label="order")
    rng, function = np.random.default_rng(0), TOLD[name](draw)
    outs = (draw(st.sampled_from([32, 100])), shape[1]) if name == "linear" else shape[1:2]
    shapes = [shape, outs, outs[:1]] if name == "linear" or name.startswith("batch_norm") else [shape]
    x, *others = order(rng.standard_normal(shape, dtype=dtype)), *(np.ones(of, dtype) for of in shapes[1:])
    tensors = [Tensor(x), *map(Tensor, others)]
    for tensor in tensors:
        tensor.requires_grad = draw(st.booleans(), label="needed")
    asked, last = dict[tuple[str, np.dtype], int](), Last()

    def noted(role, size, of_role):
        key = role, np.dtype(of_role)
        asked[key] = max(asked.get(key, 0), math.prod(size) * key[1].itemsize)
        return np.empty(size, of_role)

    def check(backward):
        told = {key[1:]: size for key, size in scratch(last.node, backward)[0].items()}
        assert told.keys() == asked.keys()
        about = name == "max_pool2d" and not layout.lie_last(x) and not backward
        assert all(asked[key] <= told[key] if about else asked[key] == told[key] for key in told)
        asked.clear()

    with pytest.MonkeyPatch.context() as patch:
        piece, wide = draw(st.sampled_from([50, 3000, 1 << 19]), label="piece"), draw(st.booleans(), label="wide")
        for file in (entrywise, pool, windows, norm):
            patch.setattr(file, "PIECE", piece)
        patch.setattr(activation, "PIECE_OF_FUNCTION", piece // 2)
        for file in (activation, pool, windows, norm, fast_linear):
            patch.setattr(file, "scratch", noted)
        patch.setattr(norm, "FAR", np.inf)
        patch.setattr(fast_linear, "LEAST", 1)
        patch.setattr(fast_linear, "wide_blas", lambda: wide)
        patch.setattr(threads, "_requested", 1)
        pool._windows.cache_clear(), pool._phases.cache_clear()
        try:
            with observe(last):
                function(*tensors)
            check(backward=False)
            if True in last.node.needs:
                gradient = np.empty_like(last.output)
                gradient[...] = 1
                last.node.backward(gradient)
            check(backward=True)
        finally:
            pool._windows.cache_clear(), pool._phases.cache_clear()


@pytest.mark.parametrize("layer", [
    F.relu, F.elu, F.silu, lambda y: y * 2, lambda y: y + y, lambda y: np.ones((1, 1, 1, 1), np.float32) * y,
    lambda y: F.max_pool2d(y, 2), lambda y: F.avg_pool2d(y, 3), lambda y: F.batch_norm(y, *running(6), training=True),
    lambda y: F.dropout(y, 0.5), lambda y: F.adaptive_avg_pool2d(y, 4), lambda y: F.local_response_norm(y, 3),
])  # fmt: skip
def test_how_results_lie_in_memory(layer, rng):
    """What the ledger believes is so, of what follows a convolution that leaves images last."""
    last = Last()
    y = F.conv2d(rng.standard_normal((16, 1, 28, 28), dtype=np.float32), Parameter(np.ones((6, 1, 5, 5), np.float32)))
    with observe(last):
        z = layer(y)
    assert layout.lie_last(y.data) and lies_last(last.node) == layout.lie_last(z.data)


def test_a_view_is_its_owners_memory(rng):
    x = Tensor(rng.standard_normal((2, 3, 4), dtype=np.float32), requires_grad=True)
    kept = (x * 2).node
    y = Tensor._of(np.zeros((2, 3, 4), np.float32), kept)
    assert owner(y.reshape(6, 4).transpose(0, 1)[1:, ::2].node) is kept
    assert is_view(y[..., None, 0].node) and not is_view(y[np.array([0, 1])].node) and not is_view((y + 1).node)
