"""PyTorch as the oracle: the same call in both libraries, compared in value, shape, dtype and every gradient.

Importing this skips the test module where PyTorch (with ``expecttest``, which its own samples need) is missing.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minicnn import Tensor

torch = pytest.importorskip("torch", reason="an optional check: it needs torch", exc_type=ImportError)
_invocations = pytest.importorskip(
    "torch.testing._internal.common_methods_invocations",
    reason="an optional check: PyTorch's samples need expecttest",
    exc_type=ImportError,
)
op_db = _invocations.op_db

torch.set_num_threads(1)  # the samples are small

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}  # relative to the largest value of the array that is compared
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def walk(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to all that is not a list, tuple or dict."""
    if isinstance(value, dict):
        return {key: walk(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(walk(entry, change) for entry in value)
    return change(value)


def leaves(value: Any) -> Iterator[Any]:
    """All that is not a list, tuple or dict in `value`, in order."""
    found: list[Any] = []
    walk(value, found.append)
    return iter(found)


def fresh(x: Any) -> Any:
    """A leaf of the same values and strides, so that a sample may be used again."""
    return x.detach().clone(memory_format=torch.preserve_format) if isinstance(x, torch.Tensor) else x


def to_torch(value: Any) -> Any:
    return walk(value, lambda x: fresh(x).requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x)


def to_ours(value: Any, plain: bool = False) -> Any:
    """Floating-point tensors as minicnn's (as arrays, if `plain`, where they want no gradient), others as arrays."""

    def change(x: Any) -> Any:
        if isinstance(x, torch.dtype):
            return np.dtype(str(x).removeprefix("torch."))
        if not isinstance(x, torch.Tensor):
            return x
        array = fresh(x).numpy()
        is_array = not x.is_floating_point() or (plain and not x.requires_grad)
        return array if is_array else Tensor(array, requires_grad=x.requires_grad)

    return walk(value, change)


def cotangent(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.asarray(np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def close(what: str, actual: Any, expected: Any, tolerance: float, floor: float = 0.0) -> None:
    """Equal in shape and dtype and, but for rounding, in value; NaN and the infinities in the same places.

    `floor` is the size that values have on their way, where the result is what is left after they cancel.
    """
    wanted = expected.detach().numpy()
    assert actual.shape == wanted.shape, f"{what}: shape {actual.shape}, PyTorch has {wanted.shape}"
    assert actual.dtype == wanted.dtype, f"{what}: dtype {actual.dtype}, PyTorch has {wanted.dtype}"
    finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    scale = max(floor, min(finite.max(initial=0.0), 1e300))
    np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance * scale, err_msg=what)


def compare(
    our_function: Callable[..., Tensor], torch_function: Callable[..., Any], *args: Any,
    plain: bool = False, floor: float = 0.0, what: str = "", **kwargs: Any,
) -> None:  # fmt: skip
    """Call both with the same arguments (of PyTorch's types) and compare results and gradients.

    Afterwards the arguments must be as PyTorch leaves them too: running statistics moved, all else untouched.
    """
    wanted = any(isinstance(x, torch.Tensor) and x.requires_grad for x in leaves((args, kwargs)))
    ours, theirs = to_ours((args, kwargs), plain and wanted), to_torch((args, kwargs))  # one Tensor there must be
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch_function(*theirs[0], **theirs[1])
    with np.errstate(all="ignore"):  # PyTorch computes infinities and NaN without a word
        actual = our_function(*ours[0], **ours[1])
    found = [expected, *(x for x in leaves(theirs) if isinstance(x, torch.Tensor))]
    tolerance = max(TOLERANCE.get(str(x.dtype).removeprefix("torch."), 0.0) for x in found)
    close(f"{what} value", actual.data, expected, tolerance, floor)
    assert actual.requires_grad == expected.requires_grad, f"{what}: requires_grad is {actual.requires_grad}"
    if expected.requires_grad:
        gradient = cotangent(actual.shape, actual.dtype)
        expected.backward(torch.from_numpy(gradient.copy()))
        with np.errstate(all="ignore"):
            actual.backward(gradient)
    for i, (a, b) in enumerate(zip(leaves(ours), leaves(theirs), strict=True)):
        if not isinstance(b, torch.Tensor):
            continue
        close(f"{what} argument {i} afterwards", a.data if isinstance(a, Tensor) else a, b, tolerance, floor)
        if b.grad is not None:
            assert a.grad is not None, f"{what}: argument {i} has no gradient"
            close(f"{what} gradient of argument {i}", a.grad, b.grad, tolerance, floor)
        elif isinstance(a, Tensor):
            assert a.grad is None, f"{what}: argument {i} has a gradient"
