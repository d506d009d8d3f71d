"""What VGG-16's convolutions take for their columns at batch 32 on a device: no more than the workspace."""

import math
import tracemalloc

import numpy as np
import pytest

from minicnn import Tensor, backend, cuda, models
from minicnn.engine import dry_run
from minicnn.inspect.storage import origin
from minicnn.inspect.trace import trace
from minicnn.kernels import conv, cut
from minicnn.models import paper_loss
from tests.device import double

pytestmark = pytest.mark.host  # these bring the double themselves

BATCH = 32


@pytest.fixture
def pretended():
    """CuPy's strict double, while the test runs."""
    with double.installed():
        yield


def convolutions():
    """Of each convolution of VGG-16 at batch 32: the shapes of its input and its weight, and its arguments."""
    with dry_run():
        model = models.vgg16()
    nodes = [node for node in trace(model, (BATCH, 3, 224, 224)).nodes if node.op.name == "conv2d"]
    assert len(nodes) == 13
    return [(origin(node, 0).shape, origin(node, 1).shape, node.params) for node in nodes]


def without_memory(shape):
    return np.broadcast_to(np.float32(1), shape)


@pytest.mark.parametrize("bound", [16 << 20, 256 << 20, 1 << 30])
def test_every_layer_is_cut_to_the_bound(monkeypatch, bound):
    """Its real shapes. What an image's columns are is reckoned here from the paper's table: 9 entries a window."""
    monkeypatch.setattr(backend, "_max_workspace_size", bound)
    whole = []
    for input, weight, params in convolutions():
        windows = (params[name] for name in ("stride", "padding", "dilation"))
        blocks = cut._blocks(without_memory(input), without_memory(weight), *windows)
        images = [block.stop - block.start for block in blocks]
        an_image = 9 * math.prod(input[1:]) * 4
        assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(BATCH))
        assert max(images) == 1 or max(images) * an_image <= bound
        assert len(blocks) == math.ceil(BATCH / max(bound // an_image, 1)), "no more than need be"
        whole.append(BATCH * an_image)
    assert max(whole) == 32 * 9 * 64 * 224 * 224 * 4 == 3_699_376_128
    assert sum(size > 256 << 20 for size in whole) == 8


def taken(call):
    """What `call` returned, and the most bytes that there were at a time beyond those from before."""
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_the_layer_with_the_largest_columns_keeps_to_the_bound(pretended):
    """conv1_2 with its real maps, computed: beside its results it takes one block's columns and half as much again.

    Uncut, forward would take 3.7 GB for them. An eighth of its filters takes an eighth of the time, and as much.
    """
    shape, filters, bound = (BATCH, 64, 224, 224), 8, cuda.max_workspace_size()
    assert bound == 256 << 20
    input = double.ndarray(without_memory(shape))
    weight = double.ndarray(np.full((filters, 64, 3, 3), 0.5, np.float32))
    params = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    (output, saved), forward = taken(lambda: cut.conv2d_forward(input, weight, None, **params))
    size = math.prod(output.shape) * 4
    assert size + bound / 2 < forward < size + 1.5 * bound
    corner, inner = 4 * 64 * 0.5, 9 * 64 * 0.5  # windows of ones
    assert output._host[0, 0, 0, 0] == output._host[31, 7, 223, 223] == corner
    assert output._host[15, 7, 100, 100] == output._host[16, 7, 1, 222] == inner
    grad, size = double.ndarray(without_memory(output.shape)), math.prod(shape) * 4
    del output
    (grad_input, grad_weight, _), backward = taken(
        lambda: cut.conv2d_backward(grad, saved, (True, True, False), **params)
    )
    assert size + bound / 2 < backward < size + 1.5 * bound
    assert (grad_input._host[0, 0, 0, 0], grad_input._host[20, 3, 7, 9]) == (corner / 8, inner / 8)
    assert grad_weight._host[5, 6, 1, 1] == BATCH * 224 * 224
    assert grad_weight._host[5, 6, 0, 0] == BATCH * 223 * 223


def test_a_step_of_the_whole_network_keeps_to_the_bound(pretended, monkeypatch, rng):
    """All of its layers and its maps' real sides, with a 16th of its channels and so of the bound."""
    bound, columns = (256 << 20) // 16, []
    monkeypatch.setattr(backend, "_max_workspace_size", bound)

    def noted(function, size):
        def call(*args):
            result = function(*args)
            columns.append(size(args, result))
            return result

        return call

    monkeypatch.setattr(conv, "im2col", noted(conv.im2col, lambda args, made: made.nbytes))
    monkeypatch.setattr(conv, "col2im", noted(conv.col2im, lambda args, made: args[0].nbytes))
    model = models.vgg16(num_classes=10, width=1 / 16).to("cuda")
    images = rng.standard_normal((BATCH, 3, 224, 224)).astype(np.float32)
    loss = paper_loss(model)(model(Tensor(images).to("cuda")), np.arange(BATCH) % 10)
    forward = len(columns)
    loss.backward()
    assert bound / 2 < max(columns) <= bound
    assert forward > 13 and len(columns) > 2 * forward, "each layer in blocks, forward, and backward twice"
    assert all(np.isfinite(backend.to_host(p.grad)).all() for p in model.parameters())
