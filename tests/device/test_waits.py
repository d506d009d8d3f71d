"""How often training waits for a device, and what crosses to it: on the strict double, which counts, and on CuPy."""

import math

import numpy as np
import pytest

from minicnn import Tensor, backend, cuda, models, nn, optim, train
from minicnn import functional as F
from minicnn.data import ArrayDataset, DataLoader
from minicnn.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from minicnn.train import measure
from tests import test_op_gradients as gradients
from tests.device import double


@pytest.fixture
def pretended():
    """CuPy's strict double, while the test runs."""
    with double.installed():
        double.Counts.reset()
        yield double.Counts


def dataset(shape, classes, count, seed=0):
    rng = np.random.default_rng(seed)
    return ArrayDataset(rng.standard_normal((count, *shape)).astype(np.float32), rng.integers(0, classes, count))


def small(classes=7, seed=0):
    """With all that a step may stumble over: batch norm's statistics, dropout's mask, more than five classes."""
    backend.manual_seed(seed)
    return nn.Sequential(
        ("conv", nn.Conv2d(1, 4, 2)), ("norm", nn.BatchNorm2d(4)), ("relu", nn.ReLU()), ("flat", nn.Flatten()),
        ("drop", nn.Dropout(0.2)), ("fc", nn.Linear(36, classes)),
    )  # fmt: skip


def fitted(model, data, batch, device, test=None, **options):
    model.to(device)
    optimizer = optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return train.fit(model, DataLoader(data, batch), test and DataLoader(test, batch), optimizer, **options)


class Count(train.Callback):
    """What crossed in each step."""

    def __init__(self, counts):
        self.counts, self.to_host, self.to_device = counts, [], []

    def step(self, training, progress):
        self.to_host.append(self.counts.to_host)
        self.to_device.append(self.counts.to_device)
        self.counts.reset()

    def skipped(self, training, reason):
        self.counts.reset()


STEPS = {
    "batch of 2": (small, (1, 4, 4), 7, 2, {}),
    "batch of 10": (small, (1, 4, 4), 7, 10, {}),
    "3 classes": (lambda: small(3), (1, 4, 4), 3, 4, {}),
    "300 classes": (lambda: small(300), (1, 4, 4), 300, 4, {}),
    "clipped": (small, (1, 4, 4), 7, 4, {"clip_norm": 0.01, "clip_value": 0.001}),
    "a norm that is small enough": (small, (1, 4, 4), 7, 4, {"clip_norm": 1e9}),
    "skipping": (small, (1, 4, 4), 7, 4, {"non_finite": "skip"}),
    "accumulating": (small, (1, 4, 4), 7, 2, {"accumulate": 3, "clip_norm": 0.01}),
    "lenet5": (models.lenet5, (1, 28, 28), 10, 4, {}),
    "resnet20": (lambda: models.resnet20(width=0.25, input_size=8), (3, 8, 8), 10, 4, {"clip_norm": 1.0}),
    "googlenet": (lambda: models.googlenet(7, width=0.125, input_size=33), (3, 33, 33), 7, 3, {}),
}


@pytest.mark.host
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_fit_waits_once(pretended, name):
    """For loss, hits and norm together; to the device go the images, the labels and the dropout masks, each once."""
    build, shape, classes, batch, options = STEPS[name]
    model, count = build(), Count(pretended)
    masks = sum(isinstance(layer, nn.Dropout) for layer in model.modules())
    batches = options.get("accumulate", 1)
    fitted(model, dataset(shape, classes, 2 * batch * batches), batch, "cuda", callbacks=[count], **options)
    assert count.to_host == [1, 1]
    assert count.to_device[1] == batches * (2 + masks)  # the first step's also has the model's own


@pytest.mark.host
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_googlenets_three_losses_share_their_labels(pretended, smoothing):
    model = models.googlenet(7, width=0.125, input_size=33).to("cuda")
    outputs, labels = model(Tensor(np.ones((2, 3, 33, 33), np.float32)).to("cuda")), np.array([6, 1])
    pretended.reset()
    if smoothing:  # as a recipe has it
        labels = backend.on_both(labels, "cuda")
    loss = train.runs.make_criterion(train.Recipe(model="googlenet", label_smoothing=smoothing), model)(outputs, labels)
    assert (pretended.to_device, pretended.to_host) == (1, 0)
    parts = [F.cross_entropy(o.to("cpu"), [6, 1], label_smoothing=smoothing).item() for o in outputs]
    assert loss.item() == pytest.approx(parts[0] + 0.3 * (parts[1] + parts[2]), rel=1e-6)


@pytest.mark.host
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"accumulate": 2, "clip_value": 0.02}])
def test_what_fit_says_is_what_it_says_on_the_host(pretended, device, options):
    data, test = dataset((1, 4, 4), 7, 20), dataset((1, 4, 4), 7, 15, seed=1)
    here, there = (fitted(small(), data, 5, place, test, epochs=3, **options) for place in ("cpu", device))
    np.testing.assert_allclose(there["steps"]["loss"], here["steps"]["loss"], rtol=1e-4)
    for name in ("accuracy", "top5_error"):
        assert 0 < here["epochs"][0][name] < 1, "or it would show nothing"
    for mine, theirs in zip(there["epochs"], here["epochs"], strict=True):
        for name in ("accuracy", "top5_error", "test_accuracy", "test_top5_error"):
            assert mine[name] == theirs[name]
        assert mine["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-4)


@pytest.mark.host
@pytest.mark.parametrize("batch", [2, 5, 12])
def test_an_evaluation_waits_twice(pretended, batch):
    """For the predictions, and for all losses together."""
    model, data = small().to("cuda"), dataset((1, 4, 4), 7, 24)
    pretended.reset()
    found = train.evaluate(model, DataLoader(data, batch))
    assert pretended.to_host == 2
    expected = train.evaluate(model.to("cpu"), DataLoader(data, batch))
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    assert (found.accuracy, found.top5_error) == (expected.accuracy, expected.top5_error)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


# ------------------------------------------------------------------------------------------------------ divergence


class Root(nn.Module):
    """The root of 0 has the value 0 and an infinite derivative."""

    def forward(self, x):
        return (x * 0).sqrt()


@pytest.mark.host
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_is_seen_before_the_step(pretended, accumulate):
    """With the layer's name, though nothing but the one transfer was read."""
    data = dataset((1, 4, 4), 7, 24)
    data.images[13] = np.nan  # in the second batch of eight, the fourth of four
    model, seen = small(), []

    class Watch(train.Callback):
        def step(self, training, progress):
            seen.append({name: backend.to_host(array) for name, array in training.model.state_dict().items()})

    with pytest.raises(train.NonFiniteLoss, match=r"the loss is nan at step 2 of epoch 1.*It began in conv: "):
        fitted(model, data, 8 // accumulate, "cuda", accumulate=accumulate, callbacks=[Watch()])
    assert len(seen) == 1
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(backend.to_host(parameter.data), seen[0][name])


@pytest.mark.host
def test_a_gradient_that_is_not_finite_is_seen_before_the_step(pretended):
    model = nn.Sequential(
        ("flat", nn.Flatten()), ("first", nn.Linear(16, 8)), ("root", Root()), ("fc", nn.Linear(8, 7))
    )
    before = model.state_dict()
    with pytest.raises(train.NonFiniteGradient, match="the gradient of first.weight is not finite.*It began in root: "):
        fitted(model, dataset((1, 4, 4), 7, 8), 8, "cuda")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(backend.to_host(array), backend.to_host(before[name]))


@pytest.mark.host
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_step_is_skipped_as_if_its_batches_were_not_there(pretended, device):
    """Weights and running statistics; the second of three steps, of two batches each, has one that is not finite."""
    poisoned = dataset((1, 4, 4), 7, 24)
    poisoned.images[9] = np.nan
    rest = ArrayDataset(np.delete(poisoned.images, range(8, 16), 0), np.delete(poisoned.labels, range(8, 16)))
    models, count = [small(), small()], Count(pretended)
    for model in models:
        model.get_submodule("drop").p = 0.0
    history = fitted(
        models[0], poisoned, 4, device, accumulate=2, clip_norm=1.0, non_finite="skip", callbacks=[count]
    )
    assert count.to_host == [1, 1]
    assert history["steps"] == fitted(models[1], rest, 4, device, accumulate=2, clip_norm=1.0)["steps"]
    for name, array in models[0].state_dict().items():
        np.testing.assert_array_equal(backend.to_host(array), backend.to_host(models[1].state_dict()[name]))


@pytest.mark.parametrize("non_finite", ["stop", "skip"])
def test_a_norm_beyond_float64_counts_as_a_gradient_that_is_not_finite(non_finite):
    """Of finite gradients: they cannot be scaled."""

    class Huge(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(np.zeros(8))

        def forward(self, images):
            return F.flatten(images, 1)

    model, told = Huge(), []

    class Watch(train.Callback):
        def skipped(self, training, reason):
            told.append(reason)

    def criterion(outputs, labels):
        return (model.weight * 1.7e308 * np.array([1, -1] * 4)).sum()

    data = dataset((1, 1, 7), 7, 4)
    options = {"criterion": criterion, "clip_norm": 1.0, "non_finite": non_finite, "callbacks": [Watch()]}
    optimizer, place = optim.SGD(model.parameters(), 0.1), model.weight.device
    if non_finite == "stop":
        with pytest.raises(train.NonFiniteGradient, match="the loss is 0, and the norm of the gradients is inf"):
            train.fit(model, DataLoader(data, 4), None, optimizer, device=place, **options)
    else:
        train.fit(model, DataLoader(data, 4), None, optimizer, device=place, **options)
        assert len(told) == 1 and "the norm of the gradients is inf" in told[0]
    assert (backend.to_host(model.weight.data) == 0).all()


# --------------------------------------------------------------------------------------------------------- clipping


def with_gradients(device, scale=1.0, bad=None):
    rng = np.random.default_rng(3)
    parameters = [nn.Parameter(np.zeros(shape, np.float32)) for shape in ((3, 4), (), (0,), (70_000,), (2, 1, 3))]
    for p in parameters:
        p.data = backend.to_device(p.data, device)
        grad = np.asarray(scale * rng.normal(size=p.shape), np.float32)
        if bad is not None and grad.size == 12:
            grad[1, 2] = bad
        p.grad = backend.to_device(grad, device)
    return parameters


@pytest.mark.host
@pytest.mark.parametrize(("checked", "waits"), [(False, 0), (True, 1)])
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
@pytest.mark.parametrize("max_norm", [0.5, 1e9, math.inf])
@pytest.mark.parametrize("norm_type", [0.5, 2.0, math.inf])
def test_clipping_waits_only_where_it_has_to_look(pretended, checked, waits, device, max_norm, norm_type):
    here, there = with_gradients("cpu"), with_gradients(device)
    expected = clip_grad_norm_(here, max_norm, norm_type)
    pretended.reset()
    norm = clip_grad_norm_(there, max_norm, norm_type, error_if_nonfinite=checked)
    assert pretended.to_host == waits
    total = get_total_norm([p.grad for p in with_gradients(device)], norm_type, error_if_nonfinite=checked)
    assert pretended.to_host == 2 * waits
    clip_grad_value_(there, 3.0)
    assert pretended.to_host == 2 * waits
    for found in (norm, total):
        assert checked == isinstance(found, float)
        assert checked or (found.shape, found.dtype, backend.device_of(found)) == ((), np.float64, device)
        assert float(found) == pytest.approx(expected, rel=1e-12)
    clip_grad_value_(here, 3.0)
    for p, q in zip(here, there, strict=True):
        assert q.grad.dtype == np.float32 and backend.device_of(q.grad) == device
        np.testing.assert_allclose(backend.to_host(q.grad), p.grad, rtol=3e-7)


@pytest.mark.host
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_regardless_without_waiting(pretended, bad):
    """As on the host: with an infinity the finite gradients become 0, with a NaN all become NaN."""
    here, there = with_gradients("cpu", bad=bad), with_gradients("cuda", bad=bad)
    expected = clip_grad_norm_(here, 1.0, error_if_nonfinite=False)
    pretended.reset()
    norm = clip_grad_norm_(there, 1.0, error_if_nonfinite=False)
    assert pretended.to_host == 0
    np.testing.assert_array_equal(float(norm), expected)
    for p, q in zip(here, there, strict=True):
        np.testing.assert_array_equal(backend.to_host(q.grad), p.grad)
    with pytest.raises(RuntimeError, match=r"parameter 0 \(3, 4\): . NaN and . infinite of 12"):
        clip_grad_norm_(with_gradients("cuda", bad=bad), 1.0)


@pytest.mark.host
@pytest.mark.parametrize("places", [("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:1", "cuda:0")])
def test_clipping_what_lies_on_two_devices(pretended, places):
    one, other = (with_gradients(place)[:3] for place in places)
    both = with_gradients("cpu")[:3] + with_gradients("cpu")[:3]
    expected = clip_grad_norm_(both, 0.5)
    norm = clip_grad_norm_([*one, *other], 0.5, error_if_nonfinite=False)
    assert float(norm) == pytest.approx(expected, rel=1e-12)
    for p, q in zip(both, [*one, *other], strict=True):
        assert backend.device_of(q.grad) == q.device
        np.testing.assert_allclose(backend.to_host(q.grad), p.grad, rtol=3e-7)


def test_clipping_in_two_halves_is_clipping():
    """Also where tests run on a device."""
    whole, halves = (with_gradients(backend.device_of(backend.new(np.ones(1)))) for _ in range(2))
    norm = get_total_norm([p.grad for p in halves])
    clip_grads_with_norm_(((str(i), p) for i, p in enumerate(halves)), 0.25, norm)
    assert clip_grad_norm_(whole, 0.25) == float(norm)
    for p, q in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(backend.to_host(p.grad), backend.to_host(q.grad))
    with pytest.raises(ValueError, match="clip_grads_with_norm_: max_norm is -1"):
        clip_grads_with_norm_(whole, -1.0, norm)


# ----------------------------------------------------------------------------------------------------------- labels


@pytest.mark.host
def test_labels_that_are_on_both_sides(pretended):
    labels = np.array([2, 0, 1])
    both = backend.on_both(labels, "cuda")
    assert pretended.to_device == 1 and isinstance(both, np.ndarray) and both.tolist() == [2, 0, 1]
    scores = backend.to_device(np.ones((3, 3), np.float32), "cuda")
    pretended.reset()
    assert backend.like(both, scores) is backend.like(both, scores) is backend.on_both(both, "cuda:0").there
    assert pretended.to_device == 0
    with pytest.raises(ValueError, match="read-only"):
        both[0] = 1
    labels[0] = 2  # its owner may still
    for other in (both[::-1], both + 0, both % 2, both.astype(np.int32), both.reshape(1, 3), both.copy()):
        assert backend.to_host(backend.like(other, scores)).tolist() == other.tolist()
    assert pretended.to_device == 6, "what is computed from it is something else"
    assert backend.device_of(backend.like(both, backend.to_device(scores, "cuda:1"))) == "cuda:1"
    assert backend.like(both, np.ones(3)).tolist() == [2, 0, 1]
    assert backend.on_both(labels, "cpu") is labels
    for left in ([2, 0, 1], np.ones((3, 3), np.float32), None):
        assert backend.on_both(left, "cuda") is left


@pytest.mark.host
def test_a_criterion_of_ones_own_gets_labels_it_can_compute_with(pretended):
    data = dataset((1, 4, 4), 6, 12)

    def criterion(outputs, labels):
        seen.append(labels)
        return F.cross_entropy(outputs, (labels + 1) % 6)

    seen = []
    losses = [
        fitted(small(6), data, 6, place, criterion=criterion)["steps"]["loss"] for place in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert all(isinstance(labels, np.ndarray) for labels in seen)


# --------------------------------------------------------------------------------------------------- numbers to read


@pytest.mark.host
def test_reading_numbers(pretended):
    def on(device, x):
        return backend.to_device(np.asarray(x), device)

    values = [2, on("cpu", np.float32(0.1)), Tensor(np.full((1, 1), 3.0)), 0.5]
    assert measure.read(*values) == [2, float(np.float32(0.1)), 3, 0.5] and measure.read() == []
    tenth = Tensor._of(on("cuda:0", np.float32([0.1])))
    far = [on("cuda:1", np.int64(1 << 40)), tenth, on("cuda:1", np.float64(math.inf))]
    pretended.reset()
    found = measure.read(*values, *far, *far[:1])
    assert found == [*measure.read(*values), 1 << 40, float(np.float32(0.1)), math.inf, 1 << 40]
    assert pretended.to_host == 1 and all(type(x) is float for x in found)


# ------------------------------------------------------------------------------------------------- on CuPy itself


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.01, "clip_value": 0.001}, {"accumulate": 2}])
def test_cupy_refuses_no_step_of_fit(monkeypatch, options):
    """With synchronisation refused but in the one reading of a step."""
    import cupyx

    readings = []

    def read(*values):
        readings.append(len(values))
        with cupyx.allow_synchronize(True):
            return measure.read(*values)

    model, data = small(), dataset((1, 4, 4), 7, 24)
    fitted(model, data, 6, "cuda", **options)  # kernels are compiled
    monkeypatch.setattr(train.loop, "read", read)
    with cuda.synchronization_refused():
        history = fitted(model, data, 6, "cuda", **options)
    assert len(readings) == len(history["steps"]["loss"]) == 4 // options.get("accumulate", 1)
    assert np.isfinite(history["steps"]["loss"]).all()


@pytest.mark.gpu
def test_cupy_clips_without_waiting():
    parameters = with_gradients("cuda")
    expected = clip_grad_norm_(with_gradients("cpu"), 0.5)
    with cuda.synchronization_refused():
        norm = clip_grad_norm_(parameters, 0.5, error_if_nonfinite=False)
        clip_grad_value_(parameters, 1.0)
    assert float(norm) == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------------------- what stands in no network's step

HOSTS = {"TO_DTYPE", "TO_DEVICE"}  # the one's cases have longer floats than a device, the other's are to come back


@pytest.mark.host
@pytest.mark.parametrize(("name", "i"), [(name, i) for name, i in gradients.EVERY if name not in HOSTS])
def test_an_operation_waits_for_nothing(pretended, name, i):
    """Forward and backward, for every case that its gradient is checked with."""
    fn, *inputs = gradients.CASES[name][i]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(x) if isinstance(x, tuple) else np.asarray(x) for x in inputs]
    with backend.device("cuda:1"):
        output = fn(*(Tensor(x, requires_grad=x.dtype.kind == "f") for x in arrays))
        output.backward(Tensor(np.ones(output.shape)))
    masked = (name, i) == ("GETITEM", 3)  # how many are chosen decides the result's shape
    assert output.device == "cuda:1" and (pretended.to_host > 0) == masked
    assert pretended.from_kernels == 0, "a kernel sends a constant at each call"


@pytest.mark.host
def test_an_average_of_all_batches_waits_for_nothing(pretended):
    with backend.device("cuda:1"):
        layer = nn.BatchNorm2d(2, momentum=None)
        for mean in (1, 2, 6):
            layer(Tensor(np.array([[[[mean - 1, mean + 1]]] * 2], np.float32)))
    assert pretended.to_host == 0
    np.testing.assert_allclose(layer.running_mean.numpy(), 3.0)


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "Nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, maximize=True),
    "Adam": lambda p: optim.Adam(p, 0.1, amsgrad=True, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, 0.1, amsgrad=True),
    "RMSprop": lambda p: optim.RMSprop(p, 0.1, momentum=0.9, centered=True, weight_decay=0.1),
}


@pytest.mark.host
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_waits_for_nothing(pretended, name):
    with backend.device("cuda:1"):
        parameters = [nn.Parameter(np.ones((3, 2))), nn.Parameter(np.ones(3))]
        optimizer = OPTIMIZERS[name](parameters)
        for _ in range(2):  # the first makes what the second finds
            for p in parameters:
                p.grad = backend.to_device(np.full(p.shape, 0.5), p.device)
            optimizer.step()
    assert pretended.to_host == 0


def test_no_optimizer_is_forgotten():
    kinds = {type(make([nn.Parameter(np.ones(2))])) for make in OPTIMIZERS.values()}
    public = {kind for kind in vars(optim).values() if isinstance(kind, type) and issubclass(kind, optim.Optimizer)}
    assert kinds == public - {optim.Optimizer}
