"""The memory ledger: the two counting conventions by hand, and the prediction against what tracemalloc measures."""

import gc
import json
import math
import threading
import tracemalloc

import numpy as np
import pytest

from minicnn import Tensor, models, nn, no_grad, optim, threads
from minicnn import functional as F
from minicnn.engine import dry_run
from minicnn.inspect import memory
from minicnn.inspect.memory import PARTS
from minicnn.kernels.fast import scratch as fast_scratch

OPTIMIZERS = {
    "momentum": lambda parameters: optim.SGD(parameters, 1e-3, momentum=0.9),
    "adam": lambda parameters: optim.Adam(parameters, 1e-4),
    "none": lambda parameters: optim.SGD(parameters, 1e-3),
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Whether a second thread comes in time for a part of a short pass, and so needs scratch arrays, is chance."""
    monkeypatch.setattr(threads, "_requested", 1)


def built(name, **options):
    with dry_run():
        return getattr(models, name)(**options)


def measure(monkeypatch, build, shape, optimizer="momentum", training=True):
    """The peak of a later step than the first, of all arrays that were made since before the network.

    What else Python holds is left out: its table of all strings may grow by megabytes, before the peak or after it. So
    the step is one in which nothing did.
    """
    monkeypatch.setattr(fast_scratch, "_kept", threading.local())  # what other tests left behind does not count
    rng = np.random.default_rng(0)
    gc.collect()
    tracemalloc.start()
    try:
        model = build().train(training)
        images, labels = rng.standard_normal(shape, dtype=np.float32), rng.integers(0, 10, shape[0])
        rule = OPTIMIZERS[optimizer](model.parameters())

        def step():
            if not training:
                with no_grad():
                    return model(Tensor(images))
            rule.zero_grad()
            outputs = model(Tensor(images))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = F.cross_entropy(outputs[0], labels)
            for other in outputs[1:]:
                loss = loss + F.cross_entropy(other, labels)
            loss.backward()
            rule.step()

        def others():
            arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, domain)])
            return tracemalloc.get_traced_memory()[0] - sum(trace.size for trace in arrays.traces)

        domain = np.lib.tracemalloc_domain
        step()
        for _ in range(5):
            gc.collect()
            before = others()
            tracemalloc.reset_peak()
            step()
            peak = tracemalloc.get_traced_memory()[1]
            if abs(others() - before) < 1e5:
                return peak - before
        raise AssertionError("Python's own memory changed in each of five steps")
    finally:
        tracemalloc.stop()


SMALL = {
    "lenet5": (dict(), (256, 1, 28, 28)),
    "alexnet": (dict(width=0.25, input_size=99), (8, 3, 99, 99)),
    "vgg11": (dict(width=0.25, input_size=64), (8, 3, 64, 64)),
    "vgg11_bn": (dict(width=0.25, input_size=64), (8, 3, 64, 64)),
    "googlenet": (dict(width=0.5, input_size=64), (8, 3, 64, 64)),
    "resnet18": (dict(width=0.25, input_size=64), (16, 3, 64, 64)),
    "resnet20": (dict(), (16, 3, 32, 32)),
}


@pytest.mark.host
@pytest.mark.parametrize("name", SMALL)
def test_a_training_step(name, monkeypatch):
    options, shape = SMALL[name]
    predicted = memory(built(name, **options), shape).total
    assert predicted == pytest.approx(measure(monkeypatch, lambda: getattr(models, name)(**options), shape), rel=0.05)


@pytest.mark.host
@pytest.mark.parametrize("name", SMALL)
def test_an_evaluation(name, monkeypatch):
    """Here much depends on which Python variables still hold an array."""
    options, shape = SMALL[name]
    predicted = memory(built(name, **options), shape, training=False).total
    measured = measure(monkeypatch, lambda: getattr(models, name)(**options), shape, training=False)
    assert predicted == pytest.approx(measured, rel=0.05)


@pytest.mark.host
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer, monkeypatch):
    options, shape = dict(width=0.25, input_size=99), (2, 3, 99, 99)  # almost all of it parameters
    predicted = memory(built("alexnet", **options), shape, optimizer=optimizer)
    measured = measure(monkeypatch, lambda: models.alexnet(**options), shape, optimizer)
    assert predicted.total == pytest.approx(measured, rel=0.05)
    copies = {"none": 0, "momentum": 1, "adam": 2}[optimizer]
    assert predicted.parts["optimizer"] == copies * predicted.parts["parameters"]


@pytest.mark.host
def test_threads(monkeypatch):
    """Two threads keep two sets of scratch arrays, if the second ever gets a part; the ledger counts on it."""
    options, shape = SMALL["resnet18"]
    with_one = memory(built("resnet18", **options), shape).total
    monkeypatch.setattr(threads, "_requested", 2)
    with_two = memory(built("resnet18", **options), shape).total
    measured = measure(monkeypatch, lambda: models.resnet18(**options), shape)
    assert 1.03 * with_one < with_two
    assert 0.95 * with_one < measured < 1.05 * with_two


@pytest.mark.host
@pytest.mark.long
@pytest.mark.parametrize(("name", "batch"), [("vgg16", 2), ("googlenet", 4), ("resnet34", 4)])
def test_full_size(name, batch, monkeypatch):
    shape = (batch, 3, 224, 224)
    predicted = memory(built(name), shape).total
    assert predicted == pytest.approx(measure(monkeypatch, getattr(models, name), shape), rel=0.05)


class Branching(nn.Module):
    """What the five families do not do: a layer used twice, a product of two uses, a cut, a frozen weight."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(400, 500), nn.Linear(500, 500), nn.Linear(500, 10)
        self.first.requires_grad_(False)

    def forward(self, x):
        x = F.silu(self.first(x))
        y = F.relu(self.shared(x))
        y = self.shared(y) * y[:, ::2].reshape(-1, 250).transpose(0, 1).transpose(0, 1).mean()
        return self.last(F.cat([y[:, :250], F.softplus(y[:, 250:])], 1))


@pytest.mark.host
@pytest.mark.parametrize("training", [True, False])
def test_a_network_of_ones_own(training, monkeypatch):
    predicted = memory(Branching(), (2000, 400), training=training)
    assert predicted.total == pytest.approx(measure(monkeypatch, Branching, (2000, 400), training=training), rel=0.05)
    assert predicted.parts["optimizer"] == 4 * training * (500 * 501 + 10 * 501)  # not the frozen layer's


class Doubling(nn.Module):
    """Nothing is saved and nothing made going back, but for the sum of the two ways to each y."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(10, 500, bias=False), nn.Linear(500, 10, bias=False)

    def forward(self, x):
        y = self.first(x)
        for _ in range(12):
            y = y + y
        return self.last(y)


@pytest.mark.host
def test_gradients_that_are_passed_on_and_summed(monkeypatch):
    result = memory(Doubling(), (2000, 10))
    made = result.parts["activations"] + result.parts["activation_gradients"]
    assert made == pytest.approx(2 * 4 * 2000 * 500, rel=0.03)  # never more than two arrays
    assert result.total == pytest.approx(measure(monkeypatch, Doubling, (2000, 10)), rel=0.05)


def test_by_hand():
    """y = relu(x Wᵀ) Vᵀ: the fullest moment is the backward pass of the first product, with everything there."""
    network = nn.Sequential(nn.Linear(100, 1000, bias=False), nn.ReLU(), nn.Linear(1000, 2, bias=False))
    result = memory(network, (5000, 100), optimizer="none")
    hidden, w, v = 4 * 5000 * 1000, 4 * 100 * 1000, 4 * 1000 * 2
    assert result.parts == {
        "parameters": w + v,
        "gradients": v,  # W's is on its way
        "optimizer": 0,
        "buffers": 0,
        "input": 4 * 5000 * 100,
        "activations": hidden,  # relu's output, which both relu and the second product saved
        "activation_gradients": 2 * hidden,  # what arrived at relu, and what it passes on
        "workspace": hidden // 4 // 10 + 4 * 5000 * 2 + 4,  # relu's gate for a tenth, the scores, and the loss
    }
    assert result.moment == "backward of relu in 1"
    assert result.total == sum(result.parts.values())


# ----------------------------------------------------------------------------------------------- conventions

# Values of each layer as the course notes print them: image, convolutions, poolings, dense layers.
VGG16_VALUES = [
    224 * 224 * 3, *[224 * 224 * 64] * 2, 112 * 112 * 64, *[112 * 112 * 128] * 2, 56 * 56 * 128, *[56 * 56 * 256] * 3,
    28 * 28 * 256, *[28 * 28 * 512] * 3, 14 * 14 * 512, *[14 * 14 * 512] * 3, 7 * 7 * 512, 4096, 4096, 1000,
]  # fmt: skip


def test_cs231n_on_vgg16():
    result = memory(built("vgg16"), (1, 3, 224, 224), "cs231n")
    assert [layer.activations for layer in result.by_layer()] == [4 * n for n in VGG16_VALUES]
    assert sum(VGG16_VALUES) == 15_237_608
    parameters = 4 * 138_357_544
    assert result.parts == {
        "parameters": parameters, "gradients": parameters, "optimizer": parameters, "buffers": 0, "input": 0,
        "activations": 60_950_432, "activation_gradients": 60_950_432, "workspace": 0,
    }  # fmt: skip
    assert result.moment == ""


def test_cs231n_in_evaluation_and_with_other_optimizers():
    model = built("lenet5")
    values = 28 * 28 + 6 * 28 * 28 + 6 * 14 * 14 + 16 * 100 + 16 * 25 + 120 + 84 + 10
    evaluation = memory(model, (10, 1, 28, 28), "cs231n", training=False)
    assert {name: size for name, size in evaluation.parts.items() if size} == {
        "parameters": 4 * 61_706, "activations": 4 * 10 * values
    }  # fmt: skip
    assert memory(model, (1, 1, 28, 28), "cs231n", "adam").parts["optimizer"] == 8 * 61_706
    assert memory(model, (1, 1, 28, 28), "cs231n", "none").parts["optimizer"] == 0


def test_torchinfo_on_resnet152():
    """The figures in that library's README: 0.60, 360.87, 240.77 and 602.25 MB."""
    result = memory(built("resnet152", variant="torchvision"), (1, 3, 224, 224), "torchinfo")
    in_mb = {name: round(size / 1e6, 2) for name, size in result.parts.items() if size}
    assert in_mb == {"parameters": 240.77, "input": 0.6, "activations": 180.44, "activation_gradients": 180.44}
    assert round(2 * result.parts["activations"] / 1e6, 2) == 360.87
    assert round(result.total / 1e6, 2) == 602.25


def test_torchinfo_counts_layers_that_have_parameters_and_run():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
    result = memory(network, (3, 1, 8, 8), "torchinfo")
    assert result.parts["activations"] == 4 * 3 * (2 * 36 + 5)
    googlenet = memory(built("googlenet"), (1, 3, 224, 224), "torchinfo", training=False)
    assert googlenet.parts["parameters"] == 4 * 6_998_552  # without the auxiliary classifiers


@pytest.mark.parametrize("convention", ["actual", "cs231n"])
def test_the_classic_lesson(convention):
    """Most parameters in VGG's fully connected layers, most memory in its first convolutions."""
    layers = memory(built("vgg16"), (1, 3, 224, 224), convention).by_layer()
    parameters, activations = (sum(getattr(x, what) for x in layers) for what in ("parameters", "activations"))
    dense = sum(x.parameters for x in layers if x.path.startswith("classifier"))
    first = sum(x.activations for x in layers if x.path in {f"features.{i}" for i in range(9)})  # the first 4 of 13
    assert parameters == 4 * 138_357_544
    assert dense == 4 * (25_088 * 4096 + 4096 * 4096 + 4096 * 1000 + 4096 + 4096 + 1000)
    assert dense / parameters > 0.89
    assert first / activations > 0.6
    assert sum(x.activations for x in layers if x.path.startswith("classifier")) / activations < 0.01


# --------------------------------------------------------------------------------------------- the rest of it

def test_nothing_is_computed():
    model = built("vgg16")
    tracemalloc.start()
    memory(model, (64, 3, 224, 224))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # a few for how convolutions are cut, which is kept; the network takes gigabytes


def test_modes_are_put_back():
    model = built("googlenet", width=0.1).train()
    model.inception3a.eval()
    before = [module.training for module in model.modules()]
    evaluation = memory(model, (1, 3, 64, 64), training=False)
    assert [module.training for module in model.modules()] == before
    assert "aux" not in "".join(layer.path for layer in evaluation.by_layer() if layer.activations)
    with pytest.raises(ValueError, match="conv2d in conv1.conv: input has 1 channels"):
        memory(model, (1, 1, 64, 64), training=False)
    assert [module.training for module in model.modules()] == before


def test_text_html_and_dict():
    result = memory(models.lenet5(), (64, 1, 28, 28))
    text, page, data = str(result), result._repr_html_(), json.loads(json.dumps(result.to_dict()))
    assert text.splitlines()[0] == (
        "lenet5, input 64×1×28×28: a training step with optimizer 'momentum', convention 'actual'"
    )
    assert text.splitlines()[-1] == f"the fullest moment: {result.moment}" and result.moment.startswith("backward of")
    for name, size in result.parts.items():
        assert (PARTS[name] in text) == (PARTS[name] in page) == (size > 0)
    assert page.count("<tr>") == page.count("</tr>") == 2 + sum(size > 0 for size in result.parts.values())
    assert data["parts"] == result.parts and list(data["parts"]) == list(PARTS)
    assert data["total"] == result.total == sum(result.parts.values())
    assert data["layers"][0] == {"path": "conv1", "kind": "Conv2d", "parameters": 624, "activations": 0}
    shares = [float(line.split()[-1].rstrip("%")) for line in text.splitlines()[4:-3]]
    assert math.isclose(sum(shares), 100, abs_tol=0.5)


def test_networks_that_do_nothing():
    assert memory(nn.Identity(), (5, 4), training=False).total == 80
    assert memory(nn.Identity(), (5, 4), "cs231n", training=False).total == 80
    assert "0" in str(memory(nn.Identity(), (0, 4), "torchinfo"))


def test_several_inputs():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    result = memory(Sum(), [(1000, 10), (1, 10)])
    assert result.input_shape == ((1000, 10), (1, 10))
    assert result.parts["input"] == 4 * 10 * 1001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"convention": "torch"}, "memory: convention is 'torch', and must be among 'actual', 'cs231n', 'torchinfo'"),
        ({"optimizer": "sgd"}, "memory: optimizer is 'sgd', and must be among 'none', 'momentum', 'adam'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError) as error:
        memory(models.lenet5(), (1, 1, 28, 28), **arguments)
    assert str(error.value) == message
