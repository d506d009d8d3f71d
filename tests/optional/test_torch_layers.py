"""PyTorch's own module samples, replayed with the layers of `minicnn.nn`; names, defaults and state dicts compared."""

import inspect
import warnings
from typing import Any

import numpy as np
import pytest

from minicnn import Tensor, nn
from minicnn import functional as F

from .oracle import DTYPES, TOLERANCE, close, cotangent, leaves, to_ours, to_torch, torch

common_modules = pytest.importorskip("torch.testing._internal.common_modules")
common_nn = pytest.importorskip("torch.testing._internal.common_nn")

# How many samples of a layer, in training mode, at least are replayed.
LAYERS = {
    "AdaptiveAvgPool2d": 5, "AvgPool2d": 7, "BatchNorm2d": 6, "Conv2d": 4, "CrossEntropyLoss": 105, "ELU": 4,
    "LeakyReLU": 5, "Linear": 3, "LocalResponseNorm": 3, "MSELoss": 8, "MaxPool2d": 2, "ReLU": 4, "SiLU": 3,
    "Sigmoid": 4, "Softplus": 5, "Tanh": 3,
}  # fmt: skip
NOT_OFFERED = {"return_indices", "padding_mode", "device", "dtype"} | {"size_average", "reduce", "inplace"}


def compare_layers(
    name: str, theirs: Any, args: tuple, kwargs: dict, inputs: tuple, named: dict, training: bool, dtype: str
) -> None:
    """Our layer of that name with the weights of `theirs`: its output, and the gradient of inputs and weights."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        ours = getattr(nn, name)(*to_ours(args), **to_ours(kwargs)).to(dtype=dtype).train(training)
        theirs.to(DTYPES[dtype]).train(training)
        ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
        (mine, mine_named), (his, his_named) = to_ours((inputs, named)), to_torch((inputs, named))
        actual, expected = ours(*mine, **mine_named), theirs(*his, **his_named)
        close(f"{name} value", actual.data, expected, TOLERANCE[dtype])
        gradient = cotangent(actual.shape, actual.dtype)
        if expected.requires_grad:
            actual.backward(gradient)
            expected.backward(torch.from_numpy(gradient.copy()))
    for a, b in zip(leaves((mine, mine_named)), leaves((his, his_named)), strict=True):
        if isinstance(b, torch.Tensor) and b.grad is not None:
            close(f"{name} gradient of the input", a.grad, b.grad, TOLERANCE[dtype], floor=1.0)
    parameters = dict(ours.named_parameters())
    assert list(parameters) == [key for key, _ in theirs.named_parameters()]
    for key, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            close(f"{name} gradient of {key}", parameters[key].grad, parameter.grad, TOLERANCE[dtype], floor=1.0)
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        close(f"{name}.{key} afterwards", state[key], value, TOLERANCE[dtype])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_module_samples(name: str, dtype: str, training: bool):
    info = next(i for i in common_modules.module_db if i.module_cls is getattr(torch.nn, name))
    replayed = 0
    for sample in info.module_inputs_func(info, "cpu", DTYPES[dtype], True, training):
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        if NOT_OFFERED & set(kwargs) or (name == "BatchNorm2d" and "bias" in kwargs):
            continue
        theirs = getattr(torch.nn, name)(*args, **kwargs)
        inputs, named = sample.forward_input.args, sample.forward_input.kwargs
        compare_layers(name, theirs, args, kwargs, inputs, named, training, dtype)
        replayed += 1
    assert replayed >= LAYERS[name]


def convolutions() -> list[Any]:
    entries = common_nn.get_new_module_tests()
    return [e for e in entries if (e.get("fullname") or e.get("module_name")).split("_")[0] == "Conv2d"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution_samples(dtype: str):
    """Groups, dilation, named padding, no bias, an empty batch: from the older table of PyTorch's module tests."""
    replayed = 0
    for entry in convolutions():
        with torch.random.fork_rng():
            torch.manual_seed(replayed)
            m = entry["constructor"]() if "constructor" in entry else torch.nn.Conv2d(*entry["constructor_args"])
            x = torch.randn(entry["input_size"], dtype=DTYPES[dtype]).requires_grad_()
        if m.padding_mode == "zeros":
            kwargs = {"stride": m.stride, "padding": m.padding, "dilation": m.dilation, "groups": m.groups}
            args = (m.in_channels, m.out_channels, m.kernel_size)
            compare_layers("Conv2d", m, args, {**kwargs, "bias": m.bias is not None}, (x,), {}, True, dtype)
            replayed += 1
    assert replayed >= 17


def test_running_statistics_over_several_batches():
    """Momentum, None for the plain average, and evaluation in between."""
    for momentum in (0.1, 0.8, None):
        ours = nn.BatchNorm2d(3, momentum=momentum).to(dtype="float64")
        theirs = torch.nn.BatchNorm2d(3, momentum=momentum).double()
        for seed in range(4):
            for training in (True, False):
                ours.train(training)
                theirs.train(training)
                x = cotangent((2, 3, 4, 5), np.float64) + seed
                close("value", ours(Tensor(x)).data, theirs(torch.from_numpy(x)), 1e-10)
        for key, value in theirs.state_dict().items():
            close(key, ours.state_dict()[key], value, 1e-10)


# Arguments of PyTorch's that minicnn does not have: none of them changes what the others mean.
OMITTED = {
    "max_pool2d": ["return_indices"],
    "softmax": ["_stacklevel"], "log_softmax": ["_stacklevel"],
    "cross_entropy": ["size_average", "reduce"], "nll_loss": ["size_average", "reduce"],  # deprecated
    "mse_loss": ["size_average", "reduce"],
    "Conv2d": ["padding_mode", "device", "dtype"], "Linear": ["device", "dtype"],
    "BatchNorm2d": ["device", "dtype", "bias"], "MaxPool2d": ["return_indices"],
    "CrossEntropyLoss": ["size_average", "reduce"], "MSELoss": ["size_average", "reduce"],
    "Sigmoid": ["args", "kwargs"], "Tanh": ["args", "kwargs"],
}  # fmt: skip
FUNCTIONS = (
    "adaptive_avg_pool2d batch_norm cross_entropy dropout elu leaky_relu local_response_norm log_softmax max_pool2d "
    "mse_loss nll_loss pad relu sigmoid silu softmax tanh"
)
# Written in C++: what `inspect` cannot see is the first line of their documentation.
IN_CPP = {
    "conv2d": "conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor",
    "avg_pool2d": "avg_pool2d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, "
    "divisor_override=None) -> Tensor",
    "linear": "linear(input, weight, bias=None) -> Tensor",
    "softplus": "softplus(input, beta=1, threshold=20) -> Tensor",
}


def signature(function: Any) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.name != "self"}


@pytest.mark.parametrize("name", [*FUNCTIONS.split(), *LAYERS, "Dropout", "Flatten", "Identity"])
def test_arguments_names_order_and_defaults(name: str):
    library, ours = (torch.nn, nn) if hasattr(nn, name) else (torch.nn.functional, F)
    theirs = getattr(library, "_max_pool2d" if name == "max_pool2d" else name)
    wanted = {k: v for k, v in signature(theirs).items() if k not in OMITTED.get(name, [])}
    assert list(signature(getattr(ours, name)).items()) == list(wanted.items())


@pytest.mark.parametrize("name", IN_CPP)
def test_arguments_of_what_is_written_in_cpp(name: str):
    documented = getattr(torch.nn.functional, name).__doc__.strip().splitlines()[0]
    assert documented == IN_CPP[name]  # else PyTorch has changed: look again
    ours = signature(getattr(F, name)).items()
    arguments = ", ".join(k if v is inspect.Parameter.empty else f"{k}={v}" for k, v in ours)
    assert f"{name}({arguments}) -> Tensor".replace(".0", "") == documented
