"""Arrays and where they live: the one file that knows there is more than NumPy.

Everything else asks the array itself: ``xp = array_module(x)`` is ``numpy`` or ``cupy``, and the code that
follows is the same. CuPy is imported here alone, and only when a CUDA device is named.

Random numbers are drawn on the host and cross over once, so that every device starts from the same bits.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray; neither can be named here without importing CuPy

_generator = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------------- which module


def array_module(x: Array) -> ModuleType:
    """The module (``numpy`` or ``cupy``) whose functions work on `x`."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    cupy = sys.modules.get("cupy")  # an array of CuPy's exists only where CuPy has been imported
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    raise TypeError(f"expected a NumPy or CuPy array, got {type(x).__name__}")


def is_array(x: object) -> bool:
    """Whether `x` is an array of a module that minicnn computes on."""
    if isinstance(x, (np.ndarray, np.generic)):
        return True
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def common_module(name: str, *arrays: Array | None) -> ModuleType:
    """The one module of all `arrays` (None is skipped); arrays of two modules never meet silently.

    Raises:
        TypeError: two arrays live on different devices; the message names both and the call that moves one.
    """
    found: tuple[str, ModuleType] | None = None
    for x in arrays:
        if x is None:
            continue
        if type(x) is np.ndarray and (found is None or found[1] is np):
            found = ("cpu", np)
            continue
        device = device_of(x)
        if found is not None and found[0] != device:
            raise TypeError(
                f"{name}: one input is on {found[0]}, another on {device}. Arrays of two devices never meet "
                f"silently: move one with .to({found[0]!r}) or .to({device!r})"
            )
        found = (device, array_module(x))
    return np if found is None else found[1]


# ------------------------------------------------------------------------------------------------- devices


def device_of(x: Array) -> str:
    """``"cpu"`` or ``"cuda:N"``."""
    return "cpu" if array_module(x) is np else f"cuda:{x.device.id}"


def parse_device(device: str) -> tuple[str, int]:
    """``"cuda:1"`` → ``("cuda", 1)``; ``"cuda"`` is the first one.

    Raises:
        ValueError: a name that is no device's.
    """
    kind, _, index = str(device).partition(":")
    if kind == "cpu" and not index:
        return "cpu", 0
    if kind == "cuda" and (not index or index.isdigit()):
        return "cuda", int(index or 0)
    raise ValueError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:N'")


def _cupy() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "a CUDA device needs CuPy: install minicnn with its extra cuda12 or cuda13 ('minicnn doctor' says which)"
        ) from error
    return cupy


def cuda_problem() -> str | None:
    """None where a CUDA device works, else one line that says what is missing.

    Import success is not enough (the wheel imports without a driver): allocate, compute, copy back.
    """
    try:
        cupy = _cupy()
        if float((cupy.ones(2, dtype="float32") + 1).sum()) == 4.0:
            return None
        return "CuPy computed a wrong sum"
    except Exception as error:  # a broken driver can raise anything; doctor prints it, nothing depends on its type
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def to_device(x: Array, device: str) -> Array:
    """`x` on `device`; `x` itself where it is there already."""
    kind, index = parse_device(device)
    if kind == "cpu":
        return to_host(x)
    cupy = _cupy()
    with cupy.cuda.Device(index):
        return cupy.asarray(x)


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array, `x` itself where it is one."""
    return np.asarray(x) if array_module(x) is np else x.get()


def like(values: Any, reference: Array, dtype: Any = None) -> Array:
    """Host `values` (numbers, nested lists, an array) as an array beside `reference`, of its module and device.

    An array of another device is left where it is: the operation that meets it then says so.
    """
    if not is_array(values):
        values = np.asarray(values, dtype=dtype)
        return values if array_module(reference) is np else to_device(values, device_of(reference))
    return values if dtype is None else values.astype(dtype, copy=False)


# -------------------------------------------------------------------------------------------------- strides


def sliding_windows(x: Array, size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """All windows of the last two axes, as a view: read from it, never write to it.

    `x` (..., H, W) → (..., out_h, out_w, kh, kw), where window (i, j) holds
    ``x[..., i*stride + k*dilation, j*stride + l*dilation]``.
    """
    xp = array_module(x)
    span_h, span_w = (dilation[0] * (size[0] - 1) + 1, dilation[1] * (size[1] - 1) + 1)
    view = xp.lib.stride_tricks.sliding_window_view(x, (span_h, span_w), axis=(-2, -1))
    return view[..., :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


# --------------------------------------------------------------------------------------------- random numbers


def manual_seed(seed: int) -> np.random.Generator:
    """Start minicnn's random numbers (weights, dropout masks) afresh from `seed`; return the generator.

    The same seed gives the same bits on every run, device and number of threads.
    """
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator


def generator() -> np.random.Generator:
    """The generator that weights and dropout masks are drawn from."""
    return _generator
