"""What the kernel tests share: how to find the kernels, run them, and differentiate them by numbers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from minicnn import backend, kernels
from minicnn.kernels import cut, fast, naive
from tests.device import places

drawn = settings(derandomize=True, deadline=None)  # how many examples, the profile says
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])

HOSTS = {"naive": naive, "fast": fast}  # the other implementations of the heavy operations, for the host
ROOMS = HOSTS | {"cut": cut}


class Pair(NamedTuple):
    """An operation's two passes, of one implementation."""

    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[..., tuple[Any, ...]]


def pairs_of(module) -> dict[str, Pair]:
    """The pairs that `module` itself defines, by name."""
    found = {}
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if name.endswith("_forward") and not name.startswith("_") and function.__module__.startswith(module.__name__):
            stem = name.removesuffix("_forward")
            found[stem] = Pair(function, getattr(module, f"{stem}_backward"))
    if module not in HOSTS.values() and places.on_a_device():
        return {stem: Pair(*map(places.crossing, pair)) for stem, pair in found.items()}
    return found


@cache
def families() -> dict[str, dict[str, Pair]]:
    """The array-neutral kernels: the pairs of each file in kernels/."""
    names = [info.name for info in pkgutil.iter_modules(kernels.__path__) if info.name not in ROOMS]
    return {name: pairs_of(importlib.import_module(f"{kernels.__name__}.{name}")) for name in names}


@cache
def implementations(name: str) -> dict[str, Pair]:
    """The operation in every form there is: ``"neutral"`` first, then those of the rooms that have it."""
    forms = {"neutral": next(pairs[name] for pairs in families().values() if name in pairs)}
    return forms | {room: pairs_of(module)[name] for room, module in ROOMS.items() if name in pairs_of(module)}


def each_implementation(name: str):
    """Run the test once with each implementation of the operation as its `pair`."""
    forms = implementations(name)
    if places.on_a_device():
        forms = {form: pair for form, pair in forms.items() if form not in HOSTS}
    return pytest.mark.parametrize("pair", list(forms.values()), ids=list(forms))


# ---------------------------------------------------------------------------------------------------- running

def normal(rng: np.random.Generator, shape, dtype=np.float64) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape), dtype=dtype)


def with_images_last(x: np.ndarray) -> np.ndarray:
    """A copy of (N, C, H, W) that lies in memory as (C, H, W, N); of any other array as it is."""
    return x if x.ndim != 4 else np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)


class Run(NamedTuple):
    output: np.ndarray
    grad_output: np.ndarray
    grads: tuple[np.ndarray | None, ...]
    saved: Any


def run(pair: Pair, arrays, needs=None, seed: int = 0, **params) -> Run:
    """Forward, and backward from a random gradient (the same for the same seed and shape)."""
    output, saved = pair.forward(*arrays, **params)
    grad_output = normal(np.random.default_rng([seed, 1]), np.shape(output), output.dtype)
    needs = tuple(x is not None for x in arrays) if needs is None else needs
    return Run(output, grad_output, tuple(pair.backward(grad_output, saved, needs, **params)), saved)


def arrays_in(*values) -> Iterator[np.ndarray]:
    """Every array in `values`, however deep in tuples, lists and dicts."""
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, dict):
            yield from arrays_in(*value.values())
        elif isinstance(value, (tuple, list)):
            yield from arrays_in(*value)


# -------------------------------------------------------------------------------------------------- comparing

def assert_close(actual, expected, tolerance: float | None = None) -> None:
    """Equal in shape and dtype, and in value to `tolerance` of the largest value (or of 1, if that is more)."""
    actual, expected = (backend.to_host(x) if backend.is_array(x) else np.asarray(x) for x in (actual, expected))
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if tolerance is None:
        tolerance = 1e-12 if expected.dtype.itemsize > 4 else 1e-5
    finite = expected[np.isfinite(expected)]
    scale = max(1.0, np.abs(finite).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_same(run: Run, other: Run, tolerance: float | None = None) -> None:
    """Two implementations agree, forward and backward, and on what needs no gradient."""
    assert_close(run.output, other.output, tolerance)
    assert len(run.grads) == len(other.grads)
    for grad, expected in zip(run.grads, other.grads, strict=True):
        assert (grad is None) == (expected is None)
        if grad is not None:
            assert_close(grad, expected, tolerance)


def assert_adjoint(linear: Callable[[np.ndarray], np.ndarray], grad_output, grad, rng: np.random.Generator) -> None:
    """`grad` is what the linear map's transpose makes of `grad_output`: ⟨g, A d⟩ = ⟨Aᵀ g, d⟩ for random d.

    Exact but for rounding, so it needs no differences; three directions are as good as certain.
    """
    tolerance = 1e-12 if grad.dtype.itemsize > 4 else 1e-5
    for _ in range(3):
        direction = normal(rng, grad.shape)
        there, back = grad_output.astype(np.float64) * linear(direction), grad.astype(np.float64) * direction
        assert abs(there.sum() - back.sum()) <= tolerance * max(1.0, abs(there).sum())


# --------------------------------------------------------------------------------------------- differentiating

def complex_step(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
    """∂⟨g, f⟩/∂x, entry by entry, as Im f(x + ih)/h: nothing is subtracted, so h can be tiny and nothing is lost.

    Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998. `f` must be smooth.
    """
    h, grad = 1e-30, np.empty(x.shape)
    for at in np.ndindex(x.shape):
        moved = x.astype(np.complex128)
        moved[at] += 1j * h
        value = f(moved)
        assert value.dtype == np.complex128
        grad[at] = np.sum(grad_output * value.imag) / h
    return grad


def central_difference(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, grad_output: np.ndarray) -> np.ndarray:
    """∂⟨g, f⟩/∂x, entry by entry, as (f(x + h) − f(x − h)) / 2h; no kink may lie within h of x."""
    h, grad = 1e-5, np.empty(x.shape)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += h
        down[at] -= h
        grad[at] = np.sum(grad_output * (f(up) - f(down))) / (2 * h)
    return grad


# ---------------------------------------------------------------------------------------------------- windows

class Windows(NamedTuple):
    """One axis of a convolution or pool, and the input's size that follows from the output's."""

    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    size: int


@st.composite
def windows(draw, pool: bool = False, dilated: bool = True) -> Windows:
    """Draw the output's size and `size % stride`, and derive the input's."""
    out, kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 3)) if dilated else 1
    remainder = draw(st.integers(0, stride - 1))
    padded = (out - 1) * stride + dilation * (kernel - 1) + 1 + remainder
    most = min(kernel // 2 if pool else 2, (padded - 1) // 2)
    padding = draw(st.integers(0, most))
    return Windows(out, kernel, stride, padding, dilation, padded - 2 * padding)
