"""Devices: names, moving, mixing, crossings; on the strict double, whose strictness is tested in test_double.py."""

import copy
import json
import threading

import numpy as np
import pytest

import minicnn
from minicnn import Parameter, Tensor, backend, data, models, nn, optim, train, weights
from minicnn import functional as F
from minicnn.kernels import conv
from tests.device import double

pytestmark = pytest.mark.host  # these bring the double themselves


@pytest.fixture
def pretended():
    """CuPy's strict double, while the test runs."""
    with double.installed():
        double.Counts.reset()
        yield double.Counts


def test_names():
    assert minicnn.device("cuda") == minicnn.device("cuda:0") == "cuda:0" != minicnn.device("cuda:1")
    assert (minicnn.device("cuda:3").type, minicnn.device("cuda:3").index) == ("cuda", 3)
    assert (minicnn.device("cpu").type, minicnn.device("cpu").index) == ("cpu", None)
    assert repr(minicnn.device("cuda")) == "device('cuda:0')"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "", "cuda:1:2", "cudax"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="use 'cpu', 'cuda' or 'cuda:N'"):
        minicnn.device(name)


def test_availability_is_tried(pretended, monkeypatch):
    assert minicnn.cuda.is_available() and minicnn.cuda.device_count() == 2

    def broken(*_, **__):
        raise double.CUDARuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setitem(double.OWN, "ones", broken)
    assert not minicnn.cuda.is_available() and minicnn.cuda.device_count() == 0
    assert backend.cuda_problem() == "CUDARuntimeError: cudaErrorInsufficientDriver"


def test_new_tensors_go_to_the_device_that_surrounds_them(pretended):
    here = minicnn.device("cuda")
    with here, minicnn.device("cpu"), here:
        assert Tensor([1.0]).device == Parameter(np.ones(2)).device == "cuda:0"
        assert nn.BatchNorm2d(3).num_batches_tracked.device == "cuda:0"
    assert Tensor([1.0]).device == "cpu"


def test_one_device_surrounds_two_threads_at_once():
    """Each thread is in its own `with`, and leaves that, in whichever order they come and go."""
    device, both = minicnn.device("cpu"), threading.Barrier(2, timeout=30)
    places: list[tuple] = []

    def work():
        before = backend._new_tensors_go_to.get()
        with device:
            both.wait()
            copy.deepcopy(device)
        both.wait()
        places.append((before, backend._new_tensors_go_to.get()))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(places) == 2 and all(before == after for before, after in places)


def test_what_surrounds_does_not_move_results_or_other_tensors(pretended):
    x, kept = Tensor(np.ones((2, 3), np.float32)), Tensor([1, 2]).to("cuda")
    with minicnn.device("cuda"):
        results = (x * 2, x.detach(), F.dropout(x), x.to("float64"), Tensor(x), x[[0, 1]], kept.to("cpu"))
        assert {r.device for r in results} == {"cpu"}
    assert kept.to("int32").device == "cuda:0"


@pytest.mark.parametrize("build", [models.lenet5, models.resnet20])
def test_every_device_starts_from_the_same_bits(pretended, build):
    minicnn.manual_seed(3)
    host = build()
    minicnn.manual_seed(3)
    with minicnn.device("cuda"):
        there = build()
    assert {p.device for p in there.parameters()} == {"cuda:0"}
    for name, value in there.state_dict().items():
        np.testing.assert_array_equal(value, host.state_dict()[name])


def network(seed):
    minicnn.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize(("saved", "loaded"), [("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:0", "cuda:0")])
@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_weights_saved_on_one_device_load_on_another(pretended, tmp_path, saved, loaded, format):
    first, second = network(0).to(saved), network(1).to(loaded)
    weights.save(first, tmp_path / f"w.{format}")
    weights.load(second, tmp_path / f"w.{format}")
    for name, value in second.state_dict().items():
        assert backend.device_of(value) == loaded
        np.testing.assert_array_equal(value, first.state_dict()[name])


@pytest.mark.parametrize("make", [lambda p: optim.SGD(p, 0.1, momentum=0.9), lambda p: optim.Adam(p, 0.1)])
def test_an_optimizers_state_saved_on_one_device_goes_on_on_another(pretended, make):
    def step(parameter, optimizer):
        parameter.grad = backend.to_device(np.array([1.0, -2.0], np.float32), parameter.device)
        optimizer.step()

    there, here = (Parameter(np.ones(2, np.float32)) for _ in range(2))
    there.data = backend.to_device(there.data, "cuda")
    first, second = make([there]), make([here])
    step(there, first)
    here.data = backend.to_host(there.data)
    second.load_state_dict(first.state_dict())
    step(there, first)
    step(here, second)
    np.testing.assert_array_equal(there.data, here.data)


def test_devices_do_not_mix(pretended):
    layer, image = nn.Conv2d(1, 2, 3), Tensor(np.ones((1, 1, 5, 5), np.float32)).to("cuda")
    with pytest.raises(TypeError) as error:
        layer(image)
    assert str(error.value) == (
        "conv2d: one input is on cuda:0, another on cpu. Arrays of two devices never meet silently: move one with "
        ".to('cuda:0') or .to('cpu')"
    )
    norm = nn.BatchNorm2d(1)
    norm.weight.data, norm.bias.data = (backend.to_device(p.data, "cuda") for p in norm.parameters())
    for mode in (norm.train(), norm.eval()):
        with pytest.raises(TypeError, match="batch_norm: one input is on cuda:0, another on cpu"):
            mode(image)
    with pytest.raises(TypeError, match="cross_entropy: one input is on cuda:0, another on cpu"):
        F.cross_entropy(image.reshape(5, 5), np.zeros(5, int), weight=Tensor(np.ones(5, np.float32)))
    with pytest.raises(TypeError, match="add: one input is on cuda:0, another on cpu"):
        image + np.ones(5, np.float32)


def test_what_is_out_of_range_is_refused_before_it_crosses(pretended):
    scores = Tensor(np.ones((2, 3), np.float32)).to("cuda")
    pretended.reset()
    with pytest.raises(IndexError, match="target holds class 3"):
        F.cross_entropy(scores, np.array([0, 3]))
    for index in ([0, 2], (slice(None), [3]), np.array([[-3]])):
        with pytest.raises(IndexError, match="out of bounds"):
            scores[index]
    assert pretended.to_device == 0
    np.testing.assert_array_equal(scores[[1, -1], [0, 2]].numpy(), [1, 1])


def test_a_device_that_does_not_work_says_so(pretended):
    with pytest.raises(RuntimeError, match="cuda:7 does not work: .*invalid device ordinal.*minicnn doctor"):
        Tensor([1.0]).to("cuda:7")


STEPS = {
    "lenet5": (lambda: models.lenet5(), (4, 1, 28, 28), lambda p: optim.SGD(p, 0.01, momentum=0.9, weight_decay=1e-4)),
    "resnet20": (lambda: models.resnet20(width=0.25, input_size=8), (4, 3, 8, 8), lambda p: optim.Adam(p, 0.01)),
    "googlenet": (
        lambda: models.googlenet(5, width=0.125, input_size=33), (2, 3, 33, 33), lambda p: optim.RMSprop(p, 0.01)
    ),
    "alexnet": (lambda: models.alexnet(5, width=0.0625, input_size=67), (2, 3, 67, 67), lambda p: optim.AdamW(p, 0.01)),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_waits_for_nothing(pretended, name, rng):
    """No transfer to the host; to the device the batch, its labels and the dropout masks, each once."""
    build, shape, make = STEPS[name]
    model = build().to("cuda").train()
    optimizer = make(model.parameters())
    criterion = models.paper_loss(model)
    images, labels = rng.standard_normal(shape).astype(np.float32), np.arange(shape[0])
    masks = sum(isinstance(m, nn.Dropout) for m in model.modules())
    for _ in range(2):
        pretended.reset()
        loss = criterion(model(Tensor(images).to("cuda")), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert (pretended.to_host, pretended.to_device) == (0, 2 + masks)
    assert np.isfinite(loss.item()) and pretended.to_host == 1


def test_a_convolution_on_a_device_keeps_to_the_workspace(pretended, monkeypatch, rng):
    """The engine sends it to `kernels.cut`; on the host the whole batch's columns are made, as in the textbook."""
    images = rng.standard_normal((4, 2, 6, 6)).astype(np.float32)
    layer = nn.Conv2d(2, 3, 3)
    columns: list[int] = []

    def noted(*args):
        columns.append((made := im2col(*args)).nbytes)
        return made

    im2col = conv.im2col
    monkeypatch.setattr(conv, "im2col", noted)
    monkeypatch.setattr(backend, "_max_workspace_size", 2 * 18 * 16 * 4)  # two images'
    with minicnn.use_kernels("im2col"):
        layer(Tensor(images)).sum().backward()
    layer.to("cuda")(Tensor(images).to("cuda")).sum().backward()
    assert columns == 2 * [4 * 18 * 16 * 4] + 4 * [2 * 18 * 16 * 4]


def training(place: str) -> train.Training:
    """Of a small network with batch norm, Adam and a schedule, over two epochs of four steps."""
    minicnn.manual_seed(1)
    layers = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    model = nn.Sequential(*layers).to(place)
    rng = np.random.default_rng(2)
    images, labels = rng.standard_normal((24, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 24)
    loader = data.DataLoader(data.ArrayDataset(images, labels), 6, shuffle=True, seed=3)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=1)
    return train.Training(model, loader, loader, optimizer, schedule, epochs=2, device=place)


@pytest.mark.parametrize(("first", "second"), [("cuda:0", "cpu"), ("cpu", "cuda:0")])
def test_a_training_begun_on_one_device_goes_on_on_another(pretended, first, second):
    whole, begun = training("cpu"), training(first)
    expected = whole.run()
    begun.epochs = 1
    begun.run()
    arrays, facts = begun.state_dict()
    assert all(type(array) is np.ndarray for array in arrays.values()), "a checkpoint's arrays are the host's"
    resumed = training(second)
    resumed.load_state_dict(arrays, facts)
    found = resumed.run()
    assert {backend.device_of(array) for array in resumed.model.state_dict().values()} == {second}
    np.testing.assert_allclose(found["steps"]["loss"], expected["steps"]["loss"], rtol=1e-4)
    assert found["epochs"][-1]["test_accuracy"] == expected["epochs"][-1]["test_accuracy"]
    for name, array in resumed.model.state_dict().items():
        np.testing.assert_allclose(
            backend.to_host(array), whole.model.state_dict()[name], rtol=1e-3, atol=1e-5, err_msg=name
        )


def test_a_run_says_what_its_device_was(pretended, tmp_path):
    recipe = train.Recipe(images=64, epochs=1, steps=1)
    train.run(recipe, "cuda", folder=tmp_path / "there")
    train.run(recipe, "cpu", folder=tmp_path / "here")
    there, here = (json.loads((tmp_path / name / "environment.json").read_text("utf-8")) for name in ("there", "here"))
    assert there["device"] == "cuda:0" and here["properties"] is None
    found = there["properties"]
    assert found["is_gpu"] is False and found["cupy"] == "14.2.0" and {"name", "driver", "cuda"} <= found.keys()
