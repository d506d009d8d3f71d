"""PyTorch's own operator samples (``op_db``), replayed against the names of minicnn."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import minicnn
from minicnn import Tensor, use_kernels
from minicnn import functional as F

from .oracle import DTYPES, compare, leaves, op_db, to_ours, torch


class Case(NamedTuple):
    """How to call an operator of PyTorch's, and how many samples at least there must have been for each dtype."""

    call: Callable[..., Tensor]
    samples: int
    references: int = 0  # of reference_inputs: many more, with infinities, NaN and unusual strides
    floor: float = 0.0


def method(name: str) -> Callable[..., Tensor]:
    return lambda x, *args, **kwargs: getattr(Tensor(x) if isinstance(x, np.ndarray) else x, name)(*args, **kwargs)


def add(a: Any, b: Any, alpha: float = 1) -> Tensor:
    return a + (b if alpha == 1 else b * alpha)


def max_pool2d(*args: Any, return_indices: bool = False, **kwargs: Any) -> Tensor:
    return F.max_pool2d(*args, **kwargs)


CASES = {
    "add": Case(add, 11, 116),
    "sub": Case(lambda a, b, alpha=1: add(a, b, -alpha), 11, 116),
    "mul": Case(lambda a, b: a * b, 9, 112),
    "div": Case(lambda a, b: a / b, 9, 112),
    "pow": Case(lambda a, b: a**b, 9, 112),
    "__radd__": Case(lambda a, b: b + a, 9, 110),
    "__rsub__": Case(lambda a, b: b - a, 9, 110),
    "__rmul__": Case(lambda a, b: b * a, 9, 110),
    "__rdiv__": Case(lambda a, b: b / a, 9, 110),
    "__rpow__": Case(lambda a, b: b**a, 9, 110),
    "__rmatmul__": Case(lambda a, b: b @ a, 15),
    "matmul": Case(lambda a, b: a @ b, 15),
    "neg": Case(lambda a: -a, 1, 35),
    "__getitem__": Case(lambda a, index: a[index], 16),
    "sum": Case(method("sum"), 20),
    "mean": Case(method("mean"), 20),
    "var": Case(method("var"), 14),
    "var unbiased": Case(method("var"), 2),
    "amax": Case(method("amax"), 20),
    "exp": Case(method("exp"), 3, 39),
    "log": Case(method("log"), 3, 39),
    "sqrt": Case(method("sqrt"), 1, 35),
    "abs": Case(method("abs"), 1, 35),
    "clamp": Case(method("clamp"), 7),
    "reshape": Case(method("reshape"), 7, 39),
    "flatten": Case(method("flatten"), 6, 45),
    "transpose": Case(method("transpose"), 8),
    "permute": Case(method("permute"), 4, 64),
    "squeeze": Case(method("squeeze"), 8),
    "squeeze multiple": Case(method("squeeze"), 6),
    "unsqueeze": Case(method("unsqueeze"), 9),
    "cat": Case(minicnn.cat, 9, 12),
    "stack": Case(minicnn.stack, 9),
    "sigmoid": Case(F.sigmoid, 3, 39),
    "tanh": Case(F.tanh, 1, 35),
    "softmax": Case(F.softmax, 7),
    "softmax with_dtype": Case(F.softmax, 7),
    "log_softmax": Case(F.log_softmax, 7),
    "log_softmax with_dtype": Case(F.log_softmax, 7),
    "nn.functional.conv2d": Case(F.conv2d, 30),
    "nn.functional.max_pool2d": Case(max_pool2d, 720),
    "nn.functional.avg_pool2d": Case(F.avg_pool2d, 7),
    "nn.functional.adaptive_avg_pool2d": Case(F.adaptive_avg_pool2d, 10),
    "nn.functional.local_response_norm": Case(F.local_response_norm, 11),
    # A batch of two values a channel: x̂ is ±1, and nearly all of the gradient cancels.
    "nn.functional.batch_norm": Case(F.batch_norm, 12, floor=1.0),
    "nn.functional.linear": Case(F.linear, 18),
    "nn.functional.relu": Case(F.relu, 4, 41),
    "nn.functional.leaky_relu": Case(F.leaky_relu, 9),
    "nn.functional.elu": Case(F.elu, 3, 35),
    "nn.functional.silu": Case(F.silu, 3, 39),
    "nn.functional.softplus": Case(F.softplus, 3, 39),
    "nn.functional.cross_entropy": Case(F.cross_entropy, 21),
    "nn.functional.nll_loss": Case(F.nll_loss, 61),
    "nn.functional.mse_loss": Case(F.mse_loss, 6),
    "nn.functional.dropout": Case(F.dropout, 15),
    "nn.functional.pad constant": Case(F.pad, 51),
}
# The operations of which there are several implementations.
HEAVY = [name for name in CASES if name.startswith(("nn.functional.", "softmax", "log_softmax", "sigmoid", "tanh"))]

OPERATORS = {f"{op.name} {op.variant_test_name}".strip(): op for op in op_db}
OPERATORS["div"] = OPERATORS["div no_rounding_mode"]


def skipped(name: str, sample: Any) -> str:
    """Why a sample is not replayed; empty where it is."""
    values = list(leaves((sample.input, sample.args)))
    if not any(isinstance(value, torch.Tensor) for value in values):
        return "numbers on both sides: Python's operator, not ours"
    if name == "__rsub__" and not isinstance(sample.input, torch.Tensor):
        return "a number as the left operand of PyTorch's own __rsub__: it gives NotImplemented"
    if name == "nn.functional.max_pool2d" and sample.kwargs.get("return_indices"):
        return "return_indices is not offered"
    if name == "nn.functional.dropout" and sample.kwargs.get("training", True) and 0 < sample.kwargs.get("p", 0.5) < 1:
        return "random"
    if name == "nn.functional.elu" and torch.isnan(sample.input).any():
        return "the gradient at NaN: PyTorch's vectorised code and its scalar code differ"
    return ""


def replay(name: str, samples: Any, at_least: int) -> None:
    case, operator = CASES[name], OPERATORS[name]
    replayed = 0
    for i, sample in enumerate(samples):
        if not skipped(name, sample):
            args, kwargs = (sample.input, *sample.args), sample.kwargs
            what = f"{name}, sample {i}: {sample.summary()}:"
            compare(case.call, operator.op, *args, floor=case.floor, what=what, plain=bool(i % 2), **kwargs)
            replayed += 1
    assert replayed >= at_least, f"{name}: only {replayed} samples were replayed"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_samples(name: str, dtype: str):
    replay(name, OPERATORS[name].sample_inputs("cpu", DTYPES[dtype], requires_grad=True), CASES[name].samples)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.references])
def test_reference_samples(name: str):
    samples = OPERATORS[name].reference_inputs("cpu", torch.float64, requires_grad=True)
    replay(name, samples, CASES[name].references)


@pytest.mark.parametrize("kernels", ["im2col", "naive"])
@pytest.mark.parametrize("name", HEAVY)
def test_samples_of_the_other_kernels(name: str, kernels: str):
    with use_kernels(kernels):
        replay(name, OPERATORS[name].sample_inputs("cpu", torch.float64, requires_grad=True), CASES[name].samples)


def refused(name: str, sample: Any) -> bool:
    """Whether a sample that PyTorch refuses is one for us to refuse."""
    tensors = [value for value in leaves((sample.input, sample.args)) if isinstance(value, torch.Tensor)]
    if not any(x.is_floating_point() for x in tensors):
        return False  # integers and Python's numbers never reach us
    if any(x.is_complex() or x.ndim > 32 for x in tensors):
        return False  # the gradient check needs complex numbers; an array of 65 dimensions cannot be made
    return not {"out", "dtype"} & set(sample.kwargs)  # not offered


@pytest.mark.parametrize("name", [name for name in CASES if OPERATORS[name].error_inputs_func is not None])
def test_what_pytorch_refuses_is_refused(name: str):
    for error in OPERATORS[name].error_inputs("cpu"):
        sample = error.sample_input
        if refused(name, sample):
            (args, kwargs) = to_ours(((sample.input, *sample.args), sample.kwargs))
            with pytest.raises((ValueError, TypeError, IndexError, RuntimeError)) as info:
                CASES[name].call(*args, **kwargs)
            assert str(info.value).startswith(f"{name.removeprefix('nn.functional.').split()[0]}:")
