"""A strict double of CuPy: NumPy inside, and stricter than CuPy outside.

`install()` puts it where ``import cupy`` finds it, so that ``minicnn.device("cuda:0")`` works without a GPU. It has the
names and parameters that the real wheel has (`cupy_api.json`, recorded by `record_api.py`) and no others, and refuses

- what CuPy refuses: host arrays and lists of numbers where arrays are wanted, ``np.`` functions that would convert,
  ``where=``, missing names, missing keywords, arguments too many or too few, ``range`` of a result, ...
- what CuPy accepts in silence, at a price: NumPy's functions, host arrays as indices, NumPy's scalars in arithmetic,
  and work on an array while another device is current, whose result would lie on that other device.

There are two devices. Indices out of range wrap around, reductions return 0-d arrays, and every crossing between host
and device is counted, as is whatever else makes the host wait (waiting.py). It says nothing about numerics, the order
of writes, or memory that was never written: for that there is the emulated device.

The strictness is for minicnn. A test may look: called from a file outside the package, an array turns into NumPy's
wherever NumPy wants one. So the same tests run on the host and on the double.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import minicnn

from .signature import LISTS, NUMBERS_TOO, ONE, SEVERAL, bound, each
from .waiting import FORMS, waits

API = json.loads(Path(__file__).with_name("cupy_api.json").read_text("utf-8"))
PACKAGE = str(Path(minicnn.__file__).parent)
KERNELS = str(Path(PACKAGE) / "kernels")
INTERNAL = (str(Path(__file__).parent), str(Path(np.__file__).parent))
UFUNC_KEYWORDS = {"out", "dtype", "casting"}
SCALARS = (bool, int, float, complex)
DEVICES = 2


class Counts:
    """How often something crossed since `reset`, or the host had to wait for the device."""

    to_device = to_host = from_kernels = 0
    refused = False  # by `allow_synchronize`

    @classmethod
    def reset(cls) -> None:
        cls.to_device = cls.to_host = cls.from_kernels = 0

    @classmethod
    def cross(cls) -> None:
        """To the device: `from_kernels`, if a kernel sent it, that will do so at each call."""
        cls.to_device += 1
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(KERNELS):
            frame = frame.f_back
        cls.from_kernels += frame is not None


class _Current(threading.local):
    """The number of the device that CuPy computes on: each thread has its own, and begins with the first."""

    id = 0


CURRENT = _Current()


def looking() -> bool:
    """Whether a test asked, and not minicnn: whose file the innermost frame is, beyond NumPy's and this folder's."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(INTERNAL):
        frame = frame.f_back
    return frame is None or not frame.f_code.co_filename.startswith(PACKAGE)


def _host(x: Any) -> Any:
    """`x` as a test sees it, at any depth."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, tuple | list):
        return type(x)(map(_host, x))
    return {k: _host(v) for k, v in x.items()} if isinstance(x, dict) else x


class WrongDevice(RuntimeError):
    """minicnn computes on an array that is not on the device that is current."""


def _here(x: ndarray, where: str) -> None:
    """Refuse what CuPy would compute on another device than that of `x`, unless a test asks."""
    if x._on != CURRENT.id and not looking():
        raise WrongDevice(
            f"{where}: an array is on cuda:{x._on}, and cuda:{CURRENT.id} is current: use backend.beside(array)"
        )


def _place(*args: Any) -> int:
    """The device of a result: of the first array in `args`, else the one that is current."""
    for x in args:
        if isinstance(x, ndarray):
            return x._on
        if isinstance(x, tuple | list) and any(isinstance(part, ndarray) for part in x):
            return _place(*x)
    return CURRENT.id


def _inside(x: Any, where: str, here: bool = True) -> Any:
    """The NumPy array in each of the double's arrays in `x`; anything else that is no plain number is refused."""
    if isinstance(x, ndarray):
        if here:
            _here(x, where)
        return x._host
    if isinstance(x, np.ndarray | np.generic):
        raise TypeError(f"{where}: Unsupported type {type(x)}")
    if isinstance(x, tuple | list):
        return type(x)(_inside(item, where, here) for item in x)
    return x


def _is_array(x: Any) -> bool:
    return isinstance(x, ndarray | list | tuple)


def _operand(x: Any, where: str) -> Any:
    """An operand of arithmetic: an array of the double's or a Python number."""
    if isinstance(x, ndarray):
        _here(x, where)
        return x._host
    if isinstance(x, SCALARS) and not isinstance(x, np.generic):
        return x
    raise TypeError(f"{where}: Unsupported type {type(x)}")


def _wrapped(x: Any, on: int | None = None) -> Any:
    """Arrays in a result as the double's; a scalar of NumPy's is a 0-d array on a device."""
    if isinstance(x, np.ndarray | np.generic):
        return ndarray(np.asarray(x), on)
    if isinstance(x, tuple | list):
        return type(x)(_wrapped(part, on) for part in x)
    return x


def _seen(x: Any, on: int) -> Any:
    """A result for a test, which finds numbers easier to compare than arrays without axes."""
    return x if isinstance(x, np.generic) else _wrapped(x, on)


def _index(index: Any, shape: tuple[int, ...]) -> Any:
    """`index` for NumPy: integer arrays wrap around where they are out of range, as CuPy's do."""
    parts = list(index) if isinstance(index, tuple) else [index]
    for part in parts:
        if isinstance(part, np.ndarray | np.generic | list):
            raise TypeError(f"an index is a {type(part).__name__} on the host: a hidden transfer each time")
    taken = sum(
        0 if p is None or p is Ellipsis else p.ndim if isinstance(p, ndarray) and p.dtype.kind == "b" else 1
        for p in parts
    )
    axis, found = 0, []
    for part in parts:
        if part is Ellipsis:
            axis += len(shape) - taken
        elif isinstance(part, ndarray) and part.dtype.kind == "b":
            _here(part, "index")
            _sync()  # how many there are decides the result's shape
            axis += part.ndim
            part = part._host
        elif isinstance(part, ndarray):
            _here(part, "index")
            part = part._host % max(shape[axis], 1)
            axis += 1
        elif part is not None:
            axis += 1
        found.append(part)
    return tuple(found) if isinstance(index, tuple) else found[0]


def _sync() -> None:
    if not looking():
        if Counts.refused:
            raise DeviceSynchronized("Device synchronization was detected while disallowed.")
        Counts.to_host += 1


class DeviceSynchronized(RuntimeError):
    pass


@contextmanager
def allow_synchronize(allow: bool) -> Iterator[None]:
    """``cupyx.allow_synchronize``, with the warning that CuPy gives."""
    warnings.warn("cupyx.allow_synchronize will be removed in future releases", stacklevel=3)
    before, Counts.refused = Counts.refused, not allow
    try:
        yield
    finally:
        Counts.refused = before


def _quiet(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """On a GPU nothing warns: 1/0 is ∞."""
    with np.errstate(all="ignore"):
        return function(*args, **kwargs)


def _fits(name: str, parameters: list[str], args: tuple, kwargs: dict[str, Any], method: bool = False) -> None:
    """Refuse a call that does not fit CuPy's signature, and lists or numbers where CuPy wants arrays."""
    where = f"cupy.{'ndarray.' * method}{name}"
    try:
        arguments = bound(name, parameters, args, kwargs)
    except TypeError as error:
        raise TypeError(f"{where}(): {error}") from None
    first = None if method or name in NUMBERS_TOO else next(iter(arguments), None)
    for parameter, value in each(arguments, parameters):
        several = isinstance(value, list | tuple) and parameter not in LISTS
        if several and not (parameter in SEVERAL and all(isinstance(part, ndarray) for part in value)):
            raise TypeError(f"{where}: {parameter} is a {type(value).__name__} where CuPy wants its arrays")
        if parameter in SEVERAL and not several and not isinstance(value, ndarray):
            raise TypeError(f"{where}: Only tuple or list is allowed for {parameter}")
        if parameter == first and parameter in ONE and isinstance(value, SCALARS):
            raise TypeError(f"{where}: {parameter} is a {type(value).__name__} where CuPy wants an array")


# ------------------------------------------------------------------------------------------------------- arrays


class Flags:
    """What CuPy's flags have: no ``writeable``."""

    def __init__(self, flags: Any):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class ndarray:
    """An array on a pretended device: on the current one, unless it is said which."""

    __slots__ = ("_host", "_on", "__weakref__")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray, on: int | None = None):
        if host.dtype.kind not in "biufc" or host.dtype.char in "gG":  # nor has it long doubles
            raise ValueError(f"Unsupported dtype {host.dtype}")
        self._host = host
        self._on = CURRENT.id if on is None else on

    # what is known without asking the device
    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host.flags))
    device = property(lambda self: Device(self._on))
    T = property(lambda self: ndarray(self._host.T, self._on))
    real = property(lambda self: ndarray(self._host.real, self._on))
    imag = property(lambda self: ndarray(self._host.imag, self._on))

    # what the host waits for; CuPy looks after the device here by itself
    def get(self) -> np.ndarray:
        _sync()
        return self._host.copy()

    def item(self) -> Any:
        _sync()
        return self._host.item()

    def tolist(self) -> Any:
        _sync()
        return self._host.tolist()

    def __bool__(self) -> bool:
        _sync()
        return bool(self._host)

    def __int__(self) -> int:
        _sync()
        return int(self._host)

    def __float__(self) -> float:
        _sync()
        return float(self._host)

    def __complex__(self) -> complex:
        _sync()
        return complex(self._host)

    def __format__(self, how: str) -> str:
        _sync()
        return format(self._host, how)

    def __repr__(self) -> str:
        _sync()
        return repr(self._host)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if looking():
            return np.array(self._host, dtype=dtype, copy=True if copy is None else copy)
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if looking():
            return getattr(ufunc, method)(*_host(args), **_host(kwargs))
        raise TypeError(f"np.{ufunc.__name__} of an array on a device: use the array's own module")

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        if looking():
            return function(*_host(args), **_host(kwargs))
        raise TypeError(f"np.{function.__name__} of an array on a device: use the array's own module")

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (ndarray(np.asarray(row), self._on) for row in self._host)

    def __getitem__(self, index: Any) -> Any:
        if looking():
            return _seen(self._host[_host(index)], self._on)
        if any(isinstance(part, ndarray) for part in (index if isinstance(index, tuple) else (index,))):
            _here(self, "getitem")  # a copy, not a view
        index = _index(index, self.shape)
        found = self._host[index]
        if isinstance(found, np.generic):  # CuPy's is a view
            found = self._host[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return _wrapped(found, self._on)

    def __setitem__(self, index: Any, value: Any) -> None:
        if looking():
            self._host[_host(index)] = _host(value)
            return
        _here(self, "setitem")
        if not isinstance(value, (ndarray, *SCALARS)):
            raise ValueError(f"non-scalar {type(value)} cannot be used for fill")
        self._host[_index(index, self.shape)] = _operand(value, "setitem")

    def __deepcopy__(self, memo: Any) -> ndarray:
        return ndarray(self._host.copy(), self._on)

    def __reduce__(self) -> Any:
        _sync()
        return asarray, (self._host.copy(),)

    def __getattr__(self, name: str) -> Any:
        if name not in API["ndarray"]["methods"]:
            raise AttributeError(f"'ndarray' object has no attribute {name!r}")
        known = API["ndarray"]["methods"][name]

        def method(*args: Any, **kwargs: Any) -> Any:
            if looking():
                return _seen(getattr(self._host, name)(*_host(args), **_host(kwargs)), self._on)
            _fits(name, known, args, kwargs, method=True)
            if waits(name, args, kwargs, _is_array):
                _sync()
            result = _quiet(getattr(self._host, name), *_inside(args, name), **_inside_values(kwargs, name))
            if not (isinstance(result, np.ndarray) and np.may_share_memory(result, self._host)):  # a view asks nobody
                _here(self, name)
            return _wrapped(result, self._on)

        return method

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if casting is not None or subok is not None:
            raise TypeError("casting is not supported yet")
        changed = _quiet(self._host.astype, dtype, order=order, copy=copy)
        if changed is self._host:
            return self
        _here(self, "astype")
        return ndarray(changed, self._on)


def _inside_values(kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v if k == "dtype" else _inside(v, name) for k, v in kwargs.items()}


def _operator(name: str, reflected: bool) -> Callable:
    ufunc = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "pow": np.power,
        "floordiv": np.floor_divide, "mod": np.remainder, "matmul": np.matmul, "and": np.bitwise_and,
        "or": np.bitwise_or, "xor": np.bitwise_xor, "lt": np.less, "le": np.less_equal, "gt": np.greater,
        "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    }[name]  # fmt: skip

    def operator(self: ndarray, other: Any) -> Any:
        if not isinstance(other, (ndarray, np.ndarray, np.generic, list, tuple, *SCALARS)):
            return NotImplemented
        if looking() and not isinstance(other, ndarray):
            pair = (_host(other), self._host) if reflected else (self._host, _host(other))
            result = _quiet(ufunc, *pair)
            return _wrapped(result, self._on) if isinstance(other, SCALARS) else result
        mine, its = (_operand(x, f"cupy.{ufunc.__name__}") for x in (self, other))
        pair = (its, mine) if reflected else (mine, its)
        result = _quiet(ufunc, *pair, order="C") if ufunc is not np.matmul else _quiet(ufunc, *pair)
        return _wrapped(result, self._on)

    return operator


def _in_place(name: str) -> Callable:
    plain = _operator(name, False)

    def operator(self: ndarray, other: Any) -> Any:
        result = plain(self, other)
        if result is not NotImplemented:
            np.copyto(self._host, _host(result), casting="same_kind")
            return self
        return result

    return operator


for _name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "matmul", "and", "or", "xor"):
    setattr(ndarray, f"__{_name}__", _operator(_name, False))
    setattr(ndarray, f"__r{_name}__", _operator(_name, True))
    if f"__i{_name}__" not in API["ndarray"]["missing"]:  # CuPy has no __imatmul__: a name is bound anew
        setattr(ndarray, f"__i{_name}__", _in_place(_name))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _operator(_name, False))
for _name, _ufunc in (("neg", np.negative), ("pos", np.positive), ("abs", np.absolute), ("invert", np.invert)):
    setattr(
        ndarray, f"__{_name}__",
        lambda self, _ufunc=_ufunc: _wrapped(_quiet(_ufunc, _operand(self, _ufunc.__name__), order="C"), self._on),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- functions


class Ufunc:
    """An operation entry by entry; of NumPy's keywords CuPy has three, and of its methods next to none."""

    def __init__(self, name: str):
        self.__name__ = name
        self._ufunc = getattr(np, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for keyword in kwargs:
            if keyword not in UFUNC_KEYWORDS:
                raise TypeError(f"Wrong arguments {{{keyword!r}: ...}}")
        on = _place(*args)
        args = tuple(_operand(x, f"cupy.{self.__name__}") for x in args)
        out = kwargs.pop("out", None)
        if out is not None:
            kwargs["out"] = _inside(out, self.__name__)
        result = _quiet(self._ufunc, *args, **kwargs, **({} if out is not None else {"order": "C"}))
        return out if out is not None else _wrapped(result, on)

    def at(self, array: ndarray, index: Any, *values: Any) -> None:
        if self.__name__ not in ("add", "maximum", "minimum"):
            raise TypeError(f"cupy.{self.__name__}.at does not support these types")
        values = tuple(_operand(v, "at") for v in values)
        self._ufunc.at(_inside(array, "at"), _index(index, array.shape), *values)

    def reduce(self, array: ndarray, **kwargs: Any) -> Any:
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"cupy.{self.__name__}.reduce")
        return _wrapped(self._ufunc.reduce(_inside(array, "reduce"), **kwargs), array._on)

    def outer(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"cupy.{self.__name__}.outer")

    accumulate = reduceat = outer


def asarray(a: Any, dtype: Any = None, order: Any = None, *, blocking: bool = False) -> ndarray:
    if isinstance(a, ndarray):
        if a._on != CURRENT.id:  # from one device to another
            if not (a._host.flags.c_contiguous or a._host.flags.f_contiguous):
                raise NotImplementedError("CuPy cannot copy non-contiguous array between devices.")
            a = ndarray(a._host.copy())
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    if (isinstance(a, np.ndarray) and a.ndim) or isinstance(a, list | tuple):
        Counts.cross()
    return ndarray(np.array(a, dtype=dtype, order=order or "K"))  # a copy, unlike NumPy's


def array(obj: Any, dtype: Any = None, copy: bool = True, order: Any = "K", subok: bool = False, ndmin: int = 0) -> Any:
    if isinstance(obj, ndarray):
        return ndarray(np.array(_inside(obj, "array"), dtype=dtype, copy=copy, order=order, ndmin=ndmin))
    Counts.cross()
    return ndarray(np.array(obj, dtype=dtype, order=order, ndmin=ndmin))


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


OWN: dict[str, Any] = {"asarray": asarray, "array": array, "asnumpy": asnumpy, "ndarray": ndarray, "ufunc": Ufunc}
CONSTANTS = ("pi", "e", "inf", "nan", "newaxis", "float16", "float32", "float64", "complex64", "complex128", "bool_",
             "int8", "int16", "int32", "int64", "intp", "uint8", "uint16", "uint32", "uint64", "dtype")  # fmt: skip
ANEW = ("clip", "concatenate", "stack", "take", "take_along_axis", "where")  # in C order, whatever comes in
LENGTHS = ("zeros", "ones", "full", "empty", "arange", "eye", "linspace")
PREDICATES = ("result_type", "promote_types", "can_cast", "issubdtype", "finfo", "iinfo", "broadcast_shapes",
              "may_share_memory", "shares_memory")  # fmt: skip


def _function(name: str, known: list[str], function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        if name in PREDICATES:
            bound(name, known, args, kwargs)
            return function(*_inside(args, name, here=False), **kwargs)
        _fits(name, known, args, kwargs)
        if name in LENGTHS and any(isinstance(x, ndarray) for x in args[:1]):
            raise TypeError(f"cupy.{name}: 'ndarray' object cannot be interpreted as an integer")
        if waits(name, args if name in FORMS else args[1:], kwargs, _is_array):
            _sync()
        out = kwargs.get("out")
        result = _quiet(function, *_inside(args, name), **_inside_values(kwargs, name))
        if name in ANEW:
            result = np.asarray(result, order="C")
        return out if isinstance(out, ndarray) else _wrapped(result, _place(*args))

    call.__name__ = name
    return call


class Namespace(types.ModuleType):
    """``cupy``, ``cupy.linalg``, ``cupy.lib.stride_tricks``: the names of the recorded table, made on request."""

    def __init__(self, name: str, numpy_module: Any):
        super().__init__(name)
        self._prefix, self._numpy = name.removeprefix("cupy").lstrip("."), numpy_module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "random" or self._prefix.startswith("random"):
            raise AttributeError("cupy.random: random numbers are drawn on the host, and cross over once")
        if not self._prefix and name in OWN:
            return OWN[name]
        full = f"{self._prefix}.{name}".lstrip(".")
        if not self._prefix and name in CONSTANTS:
            return getattr(np, name)
        if any(known.startswith(f"{full}.") for known in API["functions"]):
            return Namespace(f"cupy.{full}", getattr(self._numpy, name))
        entry = API["functions"].get(full)
        if entry is None:
            raise AttributeError(f"module 'cupy' has no attribute {full!r}")
        if entry["kind"] == "ufunc":
            return Ufunc(name)
        return _function(full, entry["parameters"], getattr(self._numpy, name))


class CUDARuntimeError(RuntimeError):
    pass


class Device:
    """A device, the current one by default; the current one inside a `with`."""

    def __init__(self, id: int | None = None):
        if id is not None and id not in range(DEVICES):
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = CURRENT.id if id is None else id
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(CURRENT.id)
        CURRENT.id = self.id
        return self

    def __exit__(self, *_: object) -> None:
        CURRENT.id = self._before.pop()

    def synchronize(self) -> None:
        _sync()


class MemoryPool:
    """Counts the arrays that there are on the current device; it keeps nothing back."""

    def used_bytes(self) -> int:
        whole = {}
        for x in gc.get_objects():
            if type(x) is ndarray and x._on == CURRENT.id:
                host = x._host
                while isinstance(host.base, np.ndarray):
                    host = host.base
                whole[id(host)] = host.nbytes
        return sum(whole.values())

    total_bytes = used_bytes

    def free_all_blocks(self) -> None: ...


def device_properties(index: int) -> dict[str, Any]:
    return {"name": b"strict double (no GPU)", "totalGlobalMem": 1 << 30}


def make() -> Namespace:
    """What stands in for the module ``cupy``."""
    cupy = Namespace("cupy", np)
    cupy.__version__ = API["cupy"]
    cupy.cuda = types.SimpleNamespace(
        Device=Device, is_available=lambda: True,
        runtime=types.SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: DEVICES, getDeviceProperties=device_properties,
            driverGetVersion=lambda: 12090, runtimeGetVersion=lambda: 12080,
        ),
    )  # fmt: skip
    cupy.get_default_memory_pool = MemoryPool
    return cupy


def make_cupyx() -> types.ModuleType:
    """What stands in for the module ``cupyx``."""
    cupyx = types.ModuleType("cupyx")
    vars(cupyx).update(allow_synchronize=allow_synchronize, DeviceSynchronized=DeviceSynchronized)
    return cupyx


def install() -> None:
    """Let ``import cupy`` find the double from now on.

    Raises:
        RuntimeError: the real one has been imported.
    """
    if "cupy" in sys.modules:
        raise RuntimeError("CuPy itself is imported already")
    sys.modules |= {"cupy": make(), "cupyx": make_cupyx()}


@contextmanager
def installed() -> Iterator[None]:
    """Let ``import cupy`` find the double inside the `with`."""
    names = ("cupy", "cupyx")
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules |= {"cupy": make(), "cupyx": make_cupyx()}
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules |= before
