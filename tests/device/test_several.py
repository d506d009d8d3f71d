"""Several devices: what is computed of arrays is computed where they are, whichever device is current.

On the double, which has two and refuses work elsewhere (and all tests run on its second one, while the first is
current); and on CuPy itself where it finds two.
"""

import contextlib
import threading

import numpy as np
import pytest

import minicnn
from minicnn import Tensor, backend, cuda, models, nn, optim
from minicnn import functional as F
from minicnn.engine import backward_steps
from minicnn.inspect import debug, detect_anomaly, record
from minicnn.selfcheck import networks
from tests.device import double

FAR = "cuda:1"


@pytest.fixture(params=[pytest.param("double", marks=pytest.mark.host), pytest.param("cuda", marks=pytest.mark.gpu)])
def two(request):
    """Two devices, the first of them current."""
    if request.param == "double":
        with double.installed():
            yield
        assert double.CURRENT.id == 0
        return
    if cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    import cupy

    yield
    assert cupy.cuda.Device().id == 0


def training(device, steps=3):
    """Losses of a short training of LeNet-5 on `device`, and the network."""
    minicnn.manual_seed(0)
    model = models.lenet5().to(device)
    optimizer = optim.SGD(model.parameters(), 0.05, momentum=0.9)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4, 1, 28, 28)).astype(np.float32), np.arange(4)
    losses = []
    with backend.device("cpu"):
        for _ in range(steps):
            loss = F.cross_entropy(model(Tensor(images).to(device)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss)
    assert {loss.device for loss in losses} == {device}
    arrays = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    arrays += [x for state in optimizer.state.values() for x in state.values() if backend.is_array(x)]
    assert {backend.device_of(x) for x in arrays if not isinstance(x, np.ndarray)} <= {device}
    return [loss.item() for loss in losses], model


def test_a_training_on_another_device_than_the_current(two):
    losses, _ = training(FAR)
    np.testing.assert_allclose(losses, training("cpu")[0], rtol=1e-5)


def test_a_backward_pass_in_another_thread(two):
    """Each thread has a current device of its own."""
    x = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3), requires_grad=True)
    far = x.to(FAR)
    far.retain_grad()
    loss = ((far * 2).exp() * far).sum()
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert Tensor(far.grad).device == FAR or isinstance(far.grad, np.ndarray)  # a copy, where the tests run on CuPy
    assert isinstance(x.grad, np.ndarray)
    a = np.arange(6, dtype=np.float64).reshape(2, 3)
    np.testing.assert_allclose(x.grad, np.exp(2 * a) * (1 + 2 * a), rtol=1e-5)


def test_from_one_device_to_another_and_back(two):
    x = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    y = ((x.to("cuda:0") * 3).to(FAR) * 5).to("cuda:0")
    assert y.device == "cuda:0"
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((2, 2), 15.0))


def test_arrays_of_two_cuda_devices_do_not_mix(two):
    here, there = (Tensor(np.ones(3, np.float32)).to(d) for d in ("cuda:0", FAR))
    with pytest.raises(TypeError, match="add: one input is on cuda:0, another on cuda:1"):
        here + there


def test_what_is_made_beside_an_array(two):
    with backend.device(FAR):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm2d(1, momentum=None), nn.ReLU())
        nn.init.constant_(model[0].bias, 2.0)
        x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    minicnn.nn.init.xavier_uniform_(model[0].weight)
    model.load_state_dict({name: backend.to_host(x) for name, x in model.state_dict().items()})
    model.to("float64").to("float32")
    rows = model[0](x)
    rows.reshape(2, 1, 1, 3).sum().backward(retain_graph=True)
    optim.Adam(model.parameters(), 0.1).zero_grad(set_to_none=False)
    rows.sum().backward(retain_graph=True)
    model.zero_grad(set_to_none=False)
    for p in model[0].parameters():
        assert isinstance(p.grad, np.ndarray) or backend.device_of(p.grad) == FAR  # a copy, where the tests run on CuPy
        assert not backend.to_host(p.grad).any()
    model[1](rows.reshape(2, 1, 1, 3))
    results = [
        x * np.float32(2), x + 1, x + backend.to_device(np.arange(3), FAR), x.to("float64"), x.detach().to("int32"),
        Tensor(x, requires_grad=True), x[np.array([1, 0])], x[np.array([True, False])], rows,
    ]  # fmt: skip
    assert {t.device for t in (*results, *model.parameters(), *model.buffers())} == {FAR}
    steps = list(backward_steps(rows, np.ones((2, 3), np.float32)))
    assert {backend.device_of(g) for s in steps for g in (s.grad_output, *s.grad_inputs) if g is not None} == {FAR}


def test_the_debugger_and_anomaly_detection(two):
    x = Tensor(np.ones((2, 3), np.float32)).to(FAR)
    layer = nn.Linear(3, 2).to(FAR)
    with record(), detect_anomaly():
        loss = F.relu(layer(x)).sum()
    walk = debug(loss)
    walk.run()
    steps = list(backward_steps(loss))
    assert {backend.device_of(s.output) for s in steps} == {FAR}
    assert minicnn.gradcheck(nn.Linear(3, 2).to(FAR), x.to("float64"))


# ------------------------------------------------------------------------------------------ what catches it


@pytest.mark.host
def test_an_operation_without_the_guard_is_caught(monkeypatch):
    with double.installed():
        x = Tensor(np.ones(3, np.float32)).to(FAR)
        monkeypatch.setattr(backend, "computing", lambda *arrays: contextlib.nullcontext())
        with pytest.raises(double.WrongDevice, match="an array is on cuda:1, and cuda:0 is current"):
            x.exp()


@pytest.mark.host
def test_a_selfcheck_of_the_second_device_sees_results_that_lie_elsewhere():
    with double.installed():
        far, near = (backend.to_device(np.ones(2), d) for d in (FAR, "cuda:0"))
        networks.check_places({"x": far}, FAR)
        with pytest.raises(RuntimeError, match="the loss is on cuda:0, and must be on cuda:1"):
            networks.check_places({"x": far, "the loss": near}, FAR)
