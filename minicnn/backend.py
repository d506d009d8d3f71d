"""Arrays and where they live: the one file that knows there is more than NumPy.

Everything else asks the array itself: ``xp = array_module(x)`` is ``numpy`` or ``cupy``, and the code that
follows is the same. CuPy is imported here alone, and only when a CUDA device is named.

Random numbers are drawn on the host and cross over once, so that every device starts from the same bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray; neither can be named here without importing CuPy

_OF_THE_HOST = {np.ndarray, type(None)}

# Numbers. Where arrays have gaps, or one is repeated along another's rows, NumPy copies several rows at a time into
# buffers, as many as fit, which takes longer than the arithmetic (numpy/numpy#17471). Of rows longer than half a buffer
# only one would fit, and they stay where they are. Of 8192, NumPy's own size, most maps' rows are a small part.
BUFFER = 1024
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


def common_module(name: str | Callable[[], str], *arrays: Array | None) -> ModuleType:
    """The one module of all `arrays` (None is skipped); arrays of two modules never meet silently.

    Args:
        name: whose inputs they are, for the message; a function, where it takes long to say.

    Raises:
        TypeError: two arrays live on different devices; the message names both and the call that moves one.
    """
    if {*map(type, arrays)} <= _OF_THE_HOST:  # nearly always, and at every operation
        return np
    found: tuple[str, ModuleType] | None = None
    for x in arrays:
        if x is None:
            continue
        device = device_of(x)
        if found is not None and found[0] != device:
            name = name if isinstance(name, str) else name()
            raise TypeError(
                f"{name}: one input is on {found[0]}, another on {device}. Arrays of two devices never meet silently: "
                f"move one with .to({found[0]!r}) or .to({device!r})"
            )
        found = (device, array_module(x))
    return np if found is None else found[1]


# ------------------------------------------------------------------------------------------------- devices


class device(str):
    """A device's name, ``"cpu"`` or ``"cuda:N"``, and in a `with` the place where new tensors are made::

        x = minicnn.Tensor(image).to(minicnn.device("cuda"))
        with minicnn.device("cuda:0"):
            model = minicnn.models.lenet5()  # its weights are drawn on the host, and cross over

    Results of operations stay where their inputs are, whatever surrounds them. It compares equal to its name.

    Args:
        name: ``"cpu"``, ``"cuda"`` (the first one) or ``"cuda:N"``.

    Raises:
        ValueError: another name.
    """

    type: str
    index: int | None  # type: ignore[assignment]  # str has a method of this name, PyTorch's device this number

    def __new__(cls, name: str) -> device:
        kind, colon, index = str(name).partition(":")
        if kind == "cpu" and not colon:
            self = super().__new__(cls, "cpu")
            self.index = None
        elif kind == "cuda" and (not colon or (index.isascii() and index.isdecimal())):
            self = super().__new__(cls, f"cuda:{int(index or 0)}")
            self.index = int(index or 0)
        else:
            raise ValueError(f"unknown device {str(name)!r}: use 'cpu', 'cuda' or 'cuda:N'")
        self.type = kind
        return self

    def __repr__(self) -> str:
        return f"device({str(self)!r})"

    def __enter__(self) -> device:
        _new_tensors_go_to.set((*_new_tensors_go_to.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        _new_tensors_go_to.set(_new_tensors_go_to.get()[:-1])


CPU = device("cpu")
# Those whose `with` surrounds what runs in this thread, the innermost last.
_new_tensors_go_to: ContextVar[tuple[device, ...]] = ContextVar("new tensors go to", default=(CPU,))


def device_of(x: Array) -> str:
    """``"cpu"`` or ``"cuda:N"``."""
    return "cpu" if array_module(x) is np else f"cuda:{x.device.id}"


_HERE = nullcontext()


def beside(x: Array) -> AbstractContextManager[Any]:
    """Inside ``with beside(x):`` what is computed, is computed where `x` is. On the host nothing changes.

    CuPy computes on the device that is current in this thread, the first one unless somebody changes it, and puts
    results there, wherever its operands are. So whatever computes on an array, copies it or makes one beside it (views
    and `to_host` need no care) does so inside; for operations and their backward passes the engine has seen to it.
    """
    return _HERE if type(x) is np.ndarray or array_module(x) is np else x.device


class _Quietly(np.errstate):
    """NumPy's state of errors, which ends with the `with`; and with it the size of its buffers."""

    __slots__ = ()

    def __enter__(self) -> None:
        super().__enter__()
        np.setbufsize(BUFFER)


def computing(*arrays: Array | None) -> AbstractContextManager[Any]:
    """What the engine puts around a kernel: `beside` the first of its `arrays` and, as on a GPU, without warnings; on
    the host with a `BUFFER` that leaves rows of maps where they are."""
    if not {*map(type, arrays)} <= _OF_THE_HOST:
        first = next(x for x in arrays if x is not None)
        if array_module(first) is not np:
            return first.device
    return _Quietly(all="ignore")  # log 0 is −inf, and who must not have it looks for it


def copy(x: Array) -> Array:
    """A copy of `x`, beside it."""
    with beside(x):
        return x.copy()


def cast(x: Array, dtype: Any) -> Array:
    """`x` in another dtype, beside it; `x` itself where it has that already."""
    with beside(x):
        return x.astype(dtype, copy=False)


def zeros_like(x: Array) -> Array:
    """Zeros of the shape and dtype of `x`, beside it."""
    with beside(x):
        return array_module(x).zeros_like(x)


def assign(x: Array, values: Array) -> None:
    """Write `values`, which may be on any device, into `x`, in place."""
    with beside(x):
        x[...] = to_device(values, device_of(x))


def dtype_of(name: str, dtype: Any) -> np.dtype:
    """The dtype that ``.to(dtype)`` means.

    Raises:
        ValueError: it is none; `name` is where it was given.
    """
    try:
        return np.dtype(dtype)
    except TypeError:
        raise ValueError(
            f"{name}: {dtype!r} is neither a device ('cpu', 'cuda' or 'cuda:N') nor a dtype ('float32', 'float64')"
        ) from None


def is_device(name: object) -> bool:
    """Whether `name` is meant as a device's, and not as a dtype's."""
    return isinstance(name, str) and name.partition(":")[0] in ("cpu", "cuda")


def new(x: np.ndarray) -> Array:
    """`x`, where new tensors go: itself on the host, unless within ``with device(...)``."""
    place = _new_tensors_go_to.get()[-1]
    return x if place is CPU else to_device(x, place)


def _cupy() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "a CUDA device needs CuPy: install minicnn with its extra cuda12 or cuda13 ('minicnn doctor' says which)"
        ) from error
    return cupy


def _cupyx() -> ModuleType:
    _cupy()  # says what is missing
    import cupyx

    return cupyx


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


def device_count() -> int:
    """How many CUDA devices CuPy finds."""
    return int(_cupy().cuda.runtime.getDeviceCount())


def to_device(x: Array, name: str) -> Array:
    """`x` on the device of this name; `x` itself where it is there already."""
    place = device(name)
    if place.type == "cpu":
        return to_host(x)
    cupy = _cupy()  # which stages what comes from the host through pinned memory of its own
    if array_module(x) is cupy and device_of(x) != place:
        with beside(x):
            x = cupy.ascontiguousarray(x).reshape(x.shape)  # nothing else goes from one device to another
    try:
        with cupy.cuda.Device(place.index):
            return cupy.asarray(x)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"{place} does not work: {error}. 'minicnn doctor' says what is missing") from error


def to_host(x: Array) -> np.ndarray:
    """`x` as a NumPy array, `x` itself where it is one."""
    return np.asarray(x) if array_module(x) is np else x.get()


def on_host(x: Any) -> Any:
    """`x`, on the host if it is an array."""
    return to_host(x) if is_array(x) else x


def like(values: Any, reference: Array, dtype: Any = None, name: str | Callable[[], str] = "like") -> Array:
    """`values` (numbers, nested lists, an array of NumPy's) as an array beside `reference`, on its device.

    These are what a user gives beside tensors: labels, masks, class weights. They cross over once.

    Args:
        name: who wants them, for the message; a function, where it takes long to say.

    Raises:
        TypeError: `values` are on a CUDA device and `reference` is not there: no array leaves a device unasked.
    """
    if type(values) is type(reference) is np.ndarray and (dtype is None or values.dtype == dtype):
        return values
    if not is_array(values) or isinstance(values, np.generic):
        values = np.asarray(values)
    if array_module(values) is not np:
        common_module(name, reference, values)
    if dtype is not None:
        values = cast(values, dtype)
    if array_module(values) is not np:
        return values
    place = device_of(reference)
    if isinstance(values, Both) and values.there is not None and device_of(values.there) == place:
        return values.there
    return np.asarray(values) if place == CPU else to_device(values, place)


class Both(np.ndarray):
    """An array of the host, with its copy on a device: where `like` would send it there, it is there already.

    What is computed from it has no copy.
    """

    there: Array | None = None


def on_both(x: Any, name: str) -> Any:
    """A batch's labels `x`, with a copy on the device of this name that all who ask `like` share.

    The result is a view that cannot be written to, as the two would no longer be equal. Where the device is the host,
    the copy is there already, or `x` is no array of integers on the host, it is `x` itself.
    """
    if name == CPU or not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        return x
    place = device(name)
    if isinstance(x, Both) and x.there is not None and device_of(x.there) == place:
        return x
    both = x.view(Both)
    both.there = to_device(x, place)
    both.flags.writeable = False
    return both


_max_workspace_size = 256 << 20


def max_workspace_size() -> int:
    """Bytes that a convolution on a CUDA device may take for its columns at a time; see `set_max_workspace_size`."""
    return _max_workspace_size


def set_max_workspace_size(size: int) -> None:
    """On a CUDA device a convolution makes columns (im2col) of at most `size` bytes at a time, or of one image if that
    takes more: a batch is cut accordingly. 256 MiB at first. It holds for the process, and for steps from now on.

    The bound decides in which order the gradient of a weight is added up, so it may change its last bits.

    Raises:
        TypeError, ValueError: `size` is no whole number from 1 up.
    """
    global _max_workspace_size
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise TypeError(f"set_max_workspace_size: size is {size!r}, and must be a whole number of bytes")
    if size < 1:
        raise ValueError(f"set_max_workspace_size: size is {size}, and must be at least 1 byte")
    _max_workspace_size = int(size)


# -------------------------------------------------------------------------------------------------- strides


def sliding_windows(x: Array, size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """All windows of the last two axes, as a view: read from it, never write to it.

    `x` (..., H, W) → (..., out_h, out_w, kh, kw), where window (i, j) holds
    ``x[..., i*stride + k*dilation, j*stride + l*dilation]``.
    """
    # Not sliding_window_view: NumPy's takes five times as long, and CuPy's waits for the device at each call.
    (*outer, h, w), (*steps, down, right) = x.shape, x.strides
    span_h, span_w = (dilation[0] * (size[0] - 1) + 1, dilation[1] * (size[1] - 1) + 1)
    places = ((h - span_h) // stride[0] + 1, (w - span_w) // stride[1] + 1)
    apart = (down * stride[0], right * stride[1], down * dilation[0], right * dilation[1])
    as_strided = array_module(x).lib.stride_tricks.as_strided
    return as_strided(x, (*outer, *places, *size), (*steps, *apart))


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
