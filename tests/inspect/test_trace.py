"""The dry run: which operations, what it costs, and what follows from shapes."""

import time
import tracemalloc

import numpy as np
import pytest

from minicnn import Tensor, backend, models, nn, no_grad
from minicnn import functional as F
from minicnn.engine import dry_run, observe
from minicnn.inspect import trace
from minicnn.inspect.trace import multiply_adds, receptive_fields


def built(name, **options):
    with dry_run():
        return getattr(models, name)(**options)


def field(traced, position=-1):
    found = receptive_fields(traced)[traced.nodes[position]]
    return None if found is None else found.size


def test_a_dry_run_makes_no_arrays():
    model = built("vgg19")
    tracemalloc.start()
    traced = trace(model, (8, 3, 224, 224))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert traced.output.shape == (8, 1000)
    assert peak < 1e6  # the first activation alone would be 103 MB


def test_a_dry_run_is_quick():
    model = built("vgg19")
    began = time.process_time()
    trace(model, (1, 3, 224, 224))
    assert time.process_time() - began < 1


def test_a_dry_run_draws_no_random_numbers():
    """Neither weights, where a network is built in it, nor dropout's masks."""
    before = backend.generator().bit_generator.state
    model = built("alexnet", width=0.1)
    trace(model.train(), (2, 3, 227, 227))
    assert backend.generator().bit_generator.state == before
    assert all(not p.data.any() for name, p in model.named_parameters() if name.endswith("weight"))


def test_a_dry_run_leaves_the_state_alone(rng):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    trace(model, (2, 3, 8, 8))
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


@pytest.mark.parametrize("name", ["lenet5", "googlenet", "resnet20", "alexnet"])
def test_the_same_operations_as_the_real_run(name, rng):
    size = {"lenet5": 28, "googlenet": 64, "resnet20": 32, "alexnet": 67}[name]
    model = getattr(models, name)(input_size=size, **({} if name == "lenet5" else {"width": 0.1}))
    shape = (2, 1 if name == "lenet5" else 3, size, size)
    seen = []

    class Watch:
        def forward(self, node, output):
            seen.append((node.op.name, node.path, output.shape, output.dtype, node.needs))

    with observe(Watch()):
        model(Tensor(rng.standard_normal(shape, dtype=np.float32)))
    assert [(n.op.name, n.path, n.shape, n.dtype, n.needs) for n in trace(model, shape).nodes] == seen


def test_operations_are_linked_without_gradients_too():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    with no_grad():
        silent = trace(model, (1, 1, 8, 8))
    frozen = trace(model.requires_grad_(False), (1, 1, 8, 8))
    for traced in (silent, frozen):
        conv, relu, pool = traced.nodes
        assert relu.inputs[0] is conv and pool.inputs[0] is relu and conv.inputs[0] is traced.inputs[0]
        assert traced.maker(traced.output) is pool
        assert field(traced) == (4, 4)


def test_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, a, b):
            return self.left(a) + self.right(b)

    traced = trace(Sum(), (2, 3), (2, 5))
    assert [n.op.name for n in traced.nodes] == ["linear", "linear", "add"]
    assert sum(map(multiply_adds, traced.nodes)) == 2 * (3 * 4 + 5 * 4)


def test_a_layers_own_error():
    with pytest.raises(ValueError, match=r"conv2d in features\.0: input has 1 channels"):
        trace(built("vgg11"), (1, 1, 224, 224))


# What a reader counts by hand: output entries times the inputs of each.
@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda x, w: F.conv2d(x, w, padding=1), [(2, 8, 5, 6), (16, 8, 3, 3)], 2 * 16 * 5 * 6 * 8 * 9),
        (lambda x, w: F.conv2d(x, w, stride=2, groups=4), [(2, 8, 5, 7), (16, 2, 3, 3)], 2 * 16 * 2 * 3 * 2 * 9),
        (F.linear, [(5, 4), (3, 4)], 5 * 3 * 4),
        (F.linear, [(5, 4), (4,)], 5 * 4),
        (lambda a, b: a @ b, [(2, 3, 4), (4, 7)], 2 * 3 * 7 * 4),
        (lambda a, b: a * b, [(3, 4), (3, 4)], 0),
        (F.relu, [(3, 4)], 0),
    ],
)
def test_multiply_adds(function, shapes, expected):
    assert sum(map(multiply_adds, trace(function, *shapes).nodes)) == expected


def test_receptive_fields_of_stacks():
    def after(*layers):
        return field(trace(nn.Sequential(*layers), (1, 1, 64, 64)))

    assert after(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)) == (7, 7)
    assert after(nn.Conv2d(1, 1, 3, stride=2), nn.Conv2d(1, 1, 3)) == (7, 7)
    assert after(nn.Conv2d(1, 1, (3, 5), dilation=(2, 1))) == (5, 5)
    assert after(nn.AvgPool2d(2), nn.ReLU(), nn.MaxPool2d((1, 3), stride=2)) == (2, 6)
    assert after(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1)) is None


# Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", Distill 2019: VGG-16 212 behind
# the last pooling, AlexNet 195.
@pytest.mark.parametrize(("name", "side", "expected"), [("vgg16", 224, 212), ("alexnet", 227, 195)])
def test_receptive_fields_of_networks(name, side, expected):
    traced = trace(built(name), (1, 3, side, side))
    last = max(i for i, node in enumerate(traced.nodes) if node.op.name == "max_pool2d")
    assert field(traced, last) == (expected, expected)


def test_the_largest_of_several_ways_counts():
    model = built("googlenet", aux_logits=False)
    traced = trace(model, (1, 3, 224, 224))
    fields = receptive_fields(traced)
    joined = next(node for node in traced.nodes if node.op.name == "cat")
    sizes = [fields[source].size for source in joined.inputs]
    assert sizes == [(27, 27), (43, 43), (59, 59), (43, 43)]  # 1×1, 3×3, 5×5 and pooling, all 8 pixels apart
    assert fields[joined].size == (59, 59)
