"""Arguments on two devices: each of every operation's, as a tensor and as a plain array, is refused with a message that
names both devices and the cure, or (labels, indices, class weights that are plain arrays of the host) crosses over."""

import inspect

import numpy as np
import pytest

from minicnn import Parameter, Tensor, backend, cuda, nn, optim
from minicnn import functional as F
from tests.device import double

A, IMAGES = np.arange(1, 7, dtype=np.float32).reshape(2, 3), np.ones((2, 3, 4, 4), np.float32)
THREE, CLASSES = np.ones(3, np.float32), np.array([2, 0])

# Arguments: arrays, and among them the numbers of those that cross over from the host where they are plain arrays.
CALLS = {
    "add": (lambda a, b: a + b, (A, A), ()),
    "sub": (lambda a, b: a - b, (A, A), ()),
    "mul": (lambda a, b: a * b, (A, THREE), ()),
    "div": (lambda a, b: a / b, (A, A), ()),
    "pow": (lambda a, b: a**b, (A, A), ()),
    "matmul": (F.matmul, (A, A.T.copy()), ()),
    "clamp": (F.clamp, (A, np.float32(0) * A, A), ()),
    "cat": (lambda *xs: F.cat(xs), (A, A, A), ()),
    "stack": (lambda *xs: F.stack(xs), (A, A), ()),
    "linear": (F.linear, (A, A, A[:, 0].copy()), ()),
    "conv2d": (F.conv2d, (IMAGES, np.ones((2, 3, 2, 2), np.float32), A[:, 0].copy()), ()),
    "batch_norm": (lambda *xs: F.batch_norm(*xs, training=True), (IMAGES, THREE, THREE, THREE, THREE), ()),
    "batch_norm in evaluation": (F.batch_norm, (IMAGES, THREE, THREE, THREE, THREE), (1, 2)),
    "cross_entropy": (F.cross_entropy, (A, CLASSES, THREE), (1, 2)),
    "cross_entropy of probabilities": (F.cross_entropy, (A, A / 9, THREE), (2,)),
    "nll_loss": (F.nll_loss, (A, CLASSES, THREE), (1, 2)),
    "mse_loss": (lambda a, b, w: F.mse_loss(a, b, weight=w), (A, A, A), ()),
    "getitem": (F.getitem, (A, CLASSES // 2), (1,)),
    "getitem by a mask": (F.getitem, (A, A > 2), (1,)),
    "getitem by two": (lambda a, i, j: F.getitem(a, (i, j)), (A, CLASSES // 2, CLASSES), (1, 2)),
    "getitem by a number and one": (lambda a, j: F.getitem(a, (1, j)), (A, CLASSES), (1,)),
    "backward": (lambda a, g: (a * 2).backward(g), (A, A), (1,)),
}
SAID = {  # the operation that it is made of
    "stack": "cat", "cross_entropy of probabilities, argument 1": "soft_cross_entropy",
    **{f"batch_norm in evaluation, argument {i}": "batch_norm_eval" for i in (3, 4)},
}  # fmt: skip
CASES = [
    pytest.param(name, i, form, id=f"{name}, argument {i}, {form}")
    for name, (_, arrays, _) in CALLS.items()
    for i in range(len(arrays))
    for form in ("tensor", "array")
    if i or form == "tensor"
]
PAIRS = [("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:0", "cuda:1")]


@pytest.fixture(params=[pytest.param("double", marks=pytest.mark.host), pytest.param("cuda", marks=pytest.mark.gpu)])
def devices(request):
    """CuPy, or what stands in for it; arrays are made on the host unless they are sent."""
    with backend.device("cpu"):
        if request.param == "cuda":
            yield cuda.device_count()
        else:
            with double.installed():
                yield double.DEVICES


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize(("name", "i", "form"), CASES)
def test_one_argument_elsewhere(devices, name, i, form, pair):
    most, other = pair
    if "cuda:1" in pair and devices < 2:
        pytest.skip("needs two CUDA devices")
    call, arrays, crossing = CALLS[name]
    arguments = [backend.to_device(x, other if j == i else most) for j, x in enumerate(arrays)]
    given = [Tensor(x) if j != i or form == "tensor" else x for j, x in enumerate(arguments)]
    if name == "backward":
        given[0] = Tensor(arguments[0], requires_grad=True)
    index = name.startswith("getitem")  # an index of the host crosses over as a tensor, too
    if (other == "cpu" and i in crossing and (form == "array" or index)) or (most == "cpu" and index and not i):
        expected = call(*(Tensor(x, requires_grad=name == "backward" and not j) for j, x in enumerate(arrays)))
        result = call(*given)
        if expected is not None:
            assert result.device == given[0].device
            np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=1e-5)
        return
    with pytest.raises(TypeError) as error:
        call(*given)
    said = SAID.get(name) or SAID.get(f"{name}, argument {i}") or name.partition(" ")[0]
    one, another = (other, most) if i == 0 else (most, other)
    assert str(error.value).startswith(f"{said}: one input is on {one}, another on {another}. ")
    assert f".to({most!r})" in str(error.value) and f".to({other!r})" in str(error.value)


@pytest.mark.host
def test_every_function_of_several_tensors_is_among_them():
    """By the annotations: a function of two tensors or more, or of a list of them."""
    several = set()
    for name, function in vars(F).items():
        if inspect.isfunction(function) and function.__module__ == F.__name__ and not name.startswith("_"):
            kinds = [str(p.annotation) for p in inspect.signature(function).parameters.values()]
            if sum("TensorLike" in kind for kind in kinds) > 1 or any("Sequence[TensorLike]" in kind for kind in kinds):
                several.add(name)
    assert several == {"batch_norm", "cat", "conv2d", "cross_entropy", "linear", "mse_loss", "nll_loss", "stack"}
    assert several <= CALLS.keys()


# ----------------------------------------------------------------------------------------------- optimisers

MAKE = {
    "SGD": lambda p: optim.SGD(p, 0.1, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, 0.1, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 0.1),
    "RMSprop": lambda p: optim.RMSprop(p, 0.1, momentum=0.9, centered=True),
}


def moved(make, first, then):
    """A model whose second parameter was updated on `first`, and moved to `then`; its optimiser; a copy of all."""
    model = nn.Sequential(nn.Linear(3, 2)).to(first)
    optimizer = make(model.parameters())
    step(model, optimizer)
    model.to(then)
    for p in model.parameters():
        p.grad = None
    return model, optimizer


def step(model, optimizer):
    for p in model.parameters():
        p.grad = backend.to_device(np.full(p.shape, 0.5, np.float32), p.device)
    optimizer.step()


@pytest.mark.parametrize(("first", "then"), PAIRS, ids="-".join)
@pytest.mark.parametrize("name", MAKE)
def test_an_optimizer_whose_model_has_moved(devices, name, first, then):
    """It says so before it has changed anything, and the cure that it names is one."""
    if "cuda:1" in (first, then) and devices < 2:
        pytest.skip("needs two CUDA devices")
    model, optimizer = moved(MAKE[name], first, then)
    weights = {key: backend.to_host(x).copy() for key, x in model.state_dict().items()}
    state = optimizer.state_dict()
    with pytest.raises(TypeError) as error:
        step(model, optimizer)
    assert str(error.value).startswith(f"{name}.step: parameter 0 of group 0 is on {then}, its ")
    assert f" on {first}: the model was moved" in str(error.value)
    for key, x in model.state_dict().items():
        np.testing.assert_array_equal(backend.to_host(x), weights[key])
    for i, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            np.testing.assert_array_equal(value, state["state"][i][key])
    optimizer.load_state_dict(optimizer.state_dict())
    step(model, optimizer)
    stayed = nn.Sequential(nn.Linear(3, 2))
    stayed.load_state_dict(weights)
    other = MAKE[name](stayed.parameters())
    other.load_state_dict(state)
    step(stayed, other)
    for key, x in model.state_dict().items():
        assert backend.device_of(x) == then
        np.testing.assert_allclose(backend.to_host(x), stayed.state_dict()[key], rtol=1e-5)


@pytest.mark.parametrize(("most", "other"), PAIRS[:2])
def test_an_array_of_integers_elsewhere(devices, most, other):
    with pytest.raises(TypeError, match=f"add: one input is on {most}, another on {other}"):
        Tensor(backend.to_device(A, most)) + backend.to_device(np.arange(3), other)


def test_a_gradient_elsewhere(devices):
    p = Parameter(np.ones(2, np.float32))
    p.grad = backend.to_device(np.ones(2, np.float32), "cuda:0")
    with pytest.raises(TypeError, match="SGD.step: one input is on cpu, another on cuda:0"):
        optim.SGD([p], 0.1).step()
