"""The public operations: check the arguments, say what is wrong with them, carry the operation out.

Every `Op` of minicnn is defined here, just above the function that applies it, and the last section attaches the
operators and methods to `Tensor`. Names, arguments and meaning are PyTorch's. Wherever a tensor is expected a
plain array will do; integer targets, indices and masks are plain arrays.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .engine import Op, Tensor, apply, apply_with_saved, current_path, is_dry_run
from .kernels import activation as A
from .kernels import conv as C
from .kernels import elementwise as E
from .kernels import linear as L
from .kernels import loss as loss_kernels
from .kernels import norm as N
from .kernels import pool as P
from .kernels import reduction as R
from .kernels import shape as S

TensorLike = Tensor | Array


# ------------------------------------------------------------------------------------- arguments and errors


def located(name: str) -> str:
    """``"conv2d in features.3"``, to begin an error message with."""
    path = current_path()
    return f"{name} in {path}" if path else name


def _tensor(x: TensorLike) -> Tensor:
    return x if isinstance(x, Tensor) else Tensor(x)


def _optional(x: TensorLike | None) -> Tensor | None:
    return None if x is None else _tensor(x)


def _operand(name: str, x: Any, other: Tensor) -> Tensor:
    """The other side of an operator: a number or an integer array takes the tensor's dtype, so it never widens it."""
    if isinstance(x, Tensor):
        return x
    if backend.is_array(x) and not isinstance(x, np.generic):
        return Tensor(backend.cast(x, other.dtype) if x.dtype.kind in "biu" else x)
    number = np.asarray(x)  # host: no array, those have returned
    if number.dtype.kind not in "biufc":
        raise TypeError(f"{located(name)}: an operand is {x!r}, and must be a number, an array or a Tensor")
    return Tensor._of(backend.like(number.astype(other.dtype), other.data))


def _plain(name: str, x: TensorLike | None, reference: Tensor, dtype: Any = None) -> Array | None:
    """An argument that is not differentiated, as an array beside `reference`: a plain array crosses over to it."""
    if isinstance(x, Tensor):
        _check_devices(name, reference.data, x.data)
        x = x.data
    return None if x is None else _crossed(name, x, reference, dtype)


def _crossed(name: str, x: Any, reference: Tensor, dtype: Any = None) -> Array:
    """A plain array beside `reference`; in a dry run, where nothing is on a device, as it is."""
    if is_dry_run() and backend.is_array(x):
        return x
    return backend.like(x, reference.data, dtype, lambda: located(name))


def _check_devices(name: str, *arrays: Array | None) -> None:
    if not is_dry_run():  # which has shapes, and they are on no device
        backend.common_module(lambda: located(name), *arrays)


def pair(
    name: str, argument: str, value: Any, default: tuple[int, int] | None = None, least: int = 1
) -> tuple[int, int]:
    """An int, a pair, a one-element tuple, or (where there is a `default`) None or an empty tuple."""
    if type(value) is tuple and [*map(type, value)] == [int, int] and min(value) >= least:  # as layers keep it
        return value
    if type(value) is int and value >= least:
        return value, value
    if value is None or (isinstance(value, Sequence) and len(value) == 0):
        if default is None:
            raise ValueError(f"{located(name)}: {argument} is missing")
        return default
    both = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)  # host: a user's pair
    if len(both) == 1:
        both = both * 2
    if len(both) != 2 or not all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in both):
        raise TypeError(f"{located(name)}: {argument} must be an int or a pair of ints, got {value!r}")
    if min(both) < least:
        raise ValueError(f"{located(name)}: {argument} is {value}, and must be at least {least}")
    return int(both[0]), int(both[1])


def _axis(name: str, dim: Any, ndim: int) -> int:
    """One axis, made non-negative."""
    if not isinstance(dim, int | np.integer) or isinstance(dim, bool):
        raise TypeError(f"{located(name)}: dim must be an int, got {dim!r}")
    span = builtins.max(ndim, 1)  # PyTorch allows dim 0 and -1 for a tensor of no dimensions
    if not -span <= dim < span:
        raise IndexError(f"{located(name)}: dim is {dim}, and a tensor of {ndim} dimensions has {-span} to {span - 1}")
    return int(dim) % span


def _axes(name: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """Several axes, made non-negative; None or an empty tuple means all."""
    if dim is None or (isinstance(dim, Sequence) and len(dim) == 0):
        return tuple(range(ndim))
    axes = tuple(_axis(name, d, ndim) for d in (dim if isinstance(dim, Sequence) else (dim,)))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{located(name)}: dim {dim} names an axis twice")
    return axes if ndim else ()


def _floating(name: str, argument: str, t: Tensor | Array) -> None:
    """Integers have no gradient, so an operation that has one does not take them."""
    if t.dtype.kind not in "fc":
        raise TypeError(
            f"{located(name)}: {argument} is {t.dtype}, and must hold floating-point numbers. Convert it first, for "
            "instance with .to(dtype='float32')"
        )


def _same_dtype(name: str, **arguments: Tensor | Array | None) -> None:
    """Layers do not widen silently: a float64 image in a float32 network is an error that says so."""
    dtypes = [t.dtype for t in arguments.values() if t is not None]
    if dtypes[0].kind in "fc" and dtypes.count(dtypes[0]) == len(dtypes):
        return
    found = {k: t for k, t in arguments.items() if t is not None}
    (first, reference), *others = found.items()
    for argument, t in found.items():
        _floating(name, argument, t)
    for argument, t in others:
        if t.dtype != reference.dtype and "c" not in t.dtype.kind + reference.dtype.kind:
            raise TypeError(
                f"{located(name)}: {first} is {reference.dtype}, {argument} is {t.dtype}: they must be equal. Convert "
                f"the {first} with .to(dtype={t.dtype.name!r}), or the model with "
                f"model.to(dtype={reference.dtype.name!r})"
            )


def _images(name: str, input: TensorLike) -> tuple[Tensor, bool]:
    """A batch of images (N, C, H, W), and whether it was a single one (C, H, W)."""
    input = _tensor(input)
    if input.ndim not in (3, 4):
        raise ValueError(
            f"{located(name)}: input has shape {input.shape}, and must be (batch, channels, height, width) or "
            "(channels, height, width)"
        )
    _floating(name, "input", input)
    return (unsqueeze(input, 0), True) if input.ndim == 3 else (input, False)


def _reduction(name: str, reduction: str) -> str:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{located(name)}: reduction is {reduction!r}, and must be 'none', 'mean' or 'sum'")
    return reduction


def _same(*shapes, **_):
    return shapes[0]


def _broadcast(*shapes, **_):
    return np.broadcast_shapes(*(s for s in shapes if s is not None))


# ----------------------------------------------------------------------------------------------- arithmetic

ADD = Op("add", E.add_forward, E.add_backward, _broadcast, True, "y = a + b;  ∂a = g,  ∂b = g")
SUB = Op("sub", E.sub_forward, E.sub_backward, _broadcast, True, "y = a − b;  ∂a = g,  ∂b = −g")
MUL = Op("mul", E.mul_forward, E.mul_backward, _broadcast, True, "y = a·b;  ∂a = g·b,  ∂b = g·a")
DIV = Op("div", E.div_forward, E.div_backward, _broadcast, True, "y = a / b;  ∂a = g / b,  ∂b = −g·a / b²")
NEG = Op("neg", E.neg_forward, E.neg_backward, _same, True, "y = −x;  ∂x = −g")
POW = Op("pow", E.pow_forward, E.pow_backward, _broadcast, True, "y = xⁿ;  ∂x = g·n·xⁿ⁻¹,  ∂n = g·xⁿ·log x")
EXP = Op("exp", E.exp_forward, E.exp_backward, _same, True, "y = eˣ;  ∂x = g·y")
LOG = Op("log", E.log_forward, E.log_backward, _same, True, "y = log x;  ∂x = g / x")
SQRT = Op("sqrt", E.sqrt_forward, E.sqrt_backward, _same, True, "y = √x;  ∂x = g / 2y")
ABS = Op("abs", E.abs_forward, E.abs_backward, _same, False, "y = |x|;  ∂x = g·sign x")
CLAMP = Op(
    "clamp", E.clamp_forward, E.clamp_backward, _broadcast, False,
    "y = min(max(x, lo), hi);  ∂x = g where lo ≤ x ≤ hi,  ∂lo = g where x < lo,  ∂hi = g where x > hi",
)  # fmt: skip


def _promoted(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """PyTorch's rule: a tensor of no dimensions takes the dtype of those that have some, and never widens them."""
    dtypes = [t.dtype for t in tensors if t is not None and t.ndim]
    if not dtypes:
        return tensors
    dtype = np.result_type(*dtypes)
    return tuple(t if t is None or t.ndim or t.dtype.kind != dtype.kind else to(t, dtype=dtype) for t in tensors)


def _check_broadcast(name: str, *tensors: Tensor | None) -> None:
    shapes = [t.shape for t in tensors if t is not None]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"{located(name)}: shapes {' and '.join(map(str, shapes))} do not broadcast: aligned at the right, axes "
            "must be equal or 1"
        ) from None


def _binary(op: Op, a: Any, b: Any) -> Tensor:
    a, b = (a, _operand(op.name, b, a)) if isinstance(a, Tensor) else (_operand(op.name, a, b), b)
    if a.dtype != b.dtype:
        a, b = _promoted(a, b)
    if a.shape != b.shape:
        _check_broadcast(op.name, a, b)
    return apply(op, a, b)


def clamp(input: TensorLike, min: Any = None, max: Any = None) -> Tensor:
    """Entries below `min` raised to it, above `max` lowered to it; bounds are numbers or (differentiable) tensors."""
    if min is None and max is None:
        raise ValueError(f"{located('clamp')}: give min, max or both")
    input = _tensor(input)
    low, high = (None if bound is None else _operand("clamp", bound, input) for bound in (min, max))
    _check_broadcast("clamp", input, low, high)
    return apply(CLAMP, *_promoted(input, low, high))


TO_DTYPE = Op("to_dtype", E.to_dtype_forward, E.to_dtype_backward, _same, False, "y = x in another precision;  ∂x = g")
TO_DEVICE = Op("to_device", E.to_device_forward, E.to_device_backward, _same, True, "y = x elsewhere;  ∂x = g")


def to(input: Tensor, device: Any = None, dtype: Any = None) -> Tensor:
    """`input` on another device or in another dtype, itself where nothing changes; gradients come back the same way.

    The first argument may be either: ``x.to("cuda")``, ``x.to("float64")``.
    """
    if dtype is None and not backend.is_device(device):
        device, dtype = None, device
    if dtype is not None:
        dtype = backend.dtype_of("to", dtype)
    if dtype is not None and dtype != input.dtype:
        if dtype.kind in "fc" and input.dtype.kind in "fc":
            input = apply(TO_DTYPE, input, dtype=dtype)
        else:
            input = Tensor._of(backend.cast(input.data, dtype))
    if device is not None:
        device = backend.device(device)
        if device != input.device:
            if input.dtype.kind not in "fc":
                return Tensor._of(backend.to_device(input.data, device))
            return apply(TO_DEVICE, input, device=device)
    return input


# ----------------------------------------------------------------------------------------------- reductions


def _reduced(shape, dim, keepdim, **_):
    return tuple(1 if d in dim else n for d, n in enumerate(shape) if keepdim or d not in dim)


SUM = Op("sum", R.sum_forward, R.sum_backward, _reduced, True, "y = Σ x;  ∂x = g for each")
MEAN = Op("mean", R.mean_forward, R.mean_backward, _reduced, True, "y = Σ x / n;  ∂x = g / n for each")
VAR = Op(
    "var", R.var_forward, R.var_backward, _reduced, True, "y = Σ (x − mean)² / (n − c);  ∂x = 2g (x − mean) / (n − c)"
)
AMAX = Op(
    "amax", R.amax_forward, R.amax_backward, _reduced, False, "y = max x;  ∂x = g shared among the maxima, else 0"
)


def sum(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The sum over `dim`: an axis, several, or None for all."""
    return apply(SUM, input, dim=_axes("sum", dim, input.ndim), keepdim=keepdim)


def mean(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The mean over `dim`: an axis, several, or None for all."""
    return apply(MEAN, input, dim=_axes("mean", dim, input.ndim), keepdim=keepdim)


def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Tensor:
    """The variance over `dim`, divided by n − `correction` (1 by default; 0 where `unbiased` is False)."""
    if isinstance(dim, bool):  # PyTorch's var(unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = int(unbiased)
    return apply(VAR, input, dim=_axes("var", dim, input.ndim), correction=correction, keepdim=keepdim)


def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The maximum over `dim`; entries that tie for it share its gradient equally."""
    dim = _axes("amax", dim, input.ndim)
    if any(input.shape[d] == 0 for d in dim):
        raise ValueError(
            f"{located('amax')}: shape {input.shape} has no entries along dim {dim} to take the largest of"
        )
    return apply(AMAX, input, dim=dim, keepdim=keepdim)


# --------------------------------------------------------------------------------------------------- shapes


def _indexed(shape, index):
    return np.broadcast_to(np.float32(0), shape)[index].shape


def _joined(*shapes, dim):
    present = [s for s in shapes if s != (0,)] or shapes
    return (*present[0][:dim], builtins.sum(s[dim] for s in present), *present[0][dim + 1 :])


RESHAPE = Op(
    "reshape",
    S.reshape_forward,
    S.reshape_backward,
    lambda _, shape: shape,
    True,
    "y = x in another shape;  ∂x = g in x's",
)
PERMUTE = Op(
    "permute", S.permute_forward, S.permute_backward, lambda shape, dims: tuple(shape[d] for d in dims), True,
    "y = x with its axes in another order;  ∂x = g with them put back",
)  # fmt: skip
GETITEM = Op("getitem", S.getitem_forward, S.getitem_backward, _indexed, True, "y = x[i];  ∂x = g added at i, else 0")
CAT = Op(
    "cat", S.cat_forward, S.cat_backward, _joined, True, "y = a, b, … side by side;  ∂a, ∂b, … = g cut where they met"
)
PAD = Op(
    "pad", S.pad_forward, S.pad_backward,
    lambda shape, widths, value: tuple(n + b + a for n, (b, a) in zip(shape, widths, strict=True)), True,
    "y = x with a border;  ∂x = g without it",
)  # fmt: skip


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same entries in another shape; one length may be −1, to be found from the others."""
    wanted = tuple(shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)
    if not all(isinstance(n, int | np.integer) for n in wanted):
        raise TypeError(f"{located('reshape')}: the shape must be made of ints, got {wanted}")
    size, known = math.prod(input.shape), math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) > 1 or any(n < -1 for n in wanted):
        raise ValueError(f"{located('reshape')}: shape {wanted} has more than one unknown or a negative length")
    if -1 in wanted and known and size % known == 0:
        wanted = tuple(size // known if n == -1 else n for n in wanted)
    if -1 in wanted or math.prod(wanted) != size:
        raise ValueError(f"{located('reshape')}: {input.shape} has {size} entries, which shape {wanted} cannot hold")
    return apply(RESHAPE, input, shape=wanted)


def flatten(input: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes `start_dim` to `end_dim` joined into one."""
    input = _tensor(input)
    start, end = _axis("flatten", start_dim, input.ndim), _axis("flatten", end_dim, input.ndim)
    if start > end:
        raise ValueError(f"{located('flatten')}: start_dim {start_dim} comes after end_dim {end_dim}")
    return reshape(input, *input.shape[:start], math.prod(input.shape[start : end + 1]), *input.shape[end + 1 :])


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The axes in the order `dims`."""
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], Sequence) else dims
    axes = tuple(_axis("permute", d, input.ndim) for d in order)
    if sorted(axes) != list(range(input.ndim)):
        raise ValueError(f"{located('permute')}: dims {tuple(order)} must name each of the {input.ndim} axes once")
    return apply(PERMUTE, input, dims=axes)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged."""
    dims = list(range(input.ndim))
    a, b = _axis("transpose", dim0, input.ndim), _axis("transpose", dim1, input.ndim)
    if dims:
        dims[a], dims[b] = b, a
    return apply(PERMUTE, input, dims=tuple(dims))


def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without its axes of length 1 (among `dim`, an axis or several, where given)."""
    # An empty tuple squeezes nothing, as in PyTorch, where for the reductions it means all.
    dims = () if isinstance(dim, Sequence) and len(dim) == 0 else _axes("squeeze", dim, input.ndim)
    return reshape(input, *(n for d, n in enumerate(input.shape) if n != 1 or d not in dims))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new axis of length 1 at `dim`."""
    dim = _axis("unsqueeze", dim, input.ndim + 1)
    return reshape(input, *input.shape[:dim], 1, *input.shape[dim:])


def getitem(input: Tensor, index: Any) -> Tensor:
    """``x[index]``: ints, slices, ``...``, None, arrays of ints or booleans. Those on the host cross over to `input`.

    As in NumPy, but that ints take their axes away first, as in PyTorch: ``x[0, :, [1, 2]]`` is ``x[0][:, [1, 2]]``.
    """

    def plain(part: Any) -> Any:
        if isinstance(part, Tensor):
            part = part.data
        if isinstance(part, list):
            part = np.asarray(part, dtype=None if part else np.intp)
        if backend.is_array(part):
            if part.dtype.kind not in "biu":
                raise TypeError(f"{located('getitem')}: an index is {part.dtype}, and must be integers or booleans")
            return int(part) if part.dtype.kind != "b" and part.ndim == 0 else part
        return part

    def is_int(part: Any) -> bool:
        return isinstance(part, int) and not isinstance(part, bool)

    def placed(input: Tensor, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arrays among `parts` beside `input`; looked at before, for on a device what is out of range wraps around."""
        host = tuple(map(backend.on_host, parts))
        if is_dry_run():
            return host
        if input.device != "cpu":
            np.broadcast_to(np.False_, input.shape)[host]
        return tuple(_crossed("getitem", part, input) if backend.is_array(part) else part for part in parts)

    def take(input: Tensor, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        try:
            if any(map(backend.is_array, parts)):
                parts = placed(input, parts)
                index = parts if isinstance(index, tuple) else parts[0]
            return apply(GETITEM, input, index=index)
        except IndexError as error:
            raise IndexError(f"{located('getitem')}: {error} (the tensor has shape {input.shape})") from None

    if not isinstance(index, tuple):
        return take(input, plain(index))
    index = tuple(plain(part) for part in index)
    if any(is_int(part) for part in index) and any(backend.is_array(part) for part in index):
        ints: list[Any] = []
        for part in index:
            if is_int(part) or part is ...:
                ints.append(part)
            elif part is not None and not isinstance(part, bool):  # takes an axis, or as many as a mask has
                ints += [slice(None)] * (part.ndim if backend.is_array(part) and part.dtype.kind == "b" else 1)
        input, index = take(input, tuple(ints)), tuple(part for part in index if not is_int(part))
    return take(input, index)


def _several(name: str, tensors: Sequence[TensorLike]) -> list[Tensor]:
    if not isinstance(tensors, Sequence):
        raise TypeError(f"{located(name)}: tensors must be a list or tuple of them, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError(f"{located(name)}: needs at least one tensor")
    for t in tensors:
        if not isinstance(t, Tensor) and not backend.is_array(t):
            raise TypeError(f"{located(name)}: {t!r} is neither a tensor nor an array")
    return [_tensor(t) for t in tensors]


def cat(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Tensors joined along an existing axis; their other axes must be equal."""
    parts = _several("cat", tensors)
    present = [t for t in parts if t.shape != (0,)] or parts
    dim = _axis("cat", dim, present[0].ndim)
    first = present[0].shape
    for t in present:
        if t.ndim == 0 or (*t.shape[:dim], *t.shape[dim + 1 :]) != (*first[:dim], *first[dim + 1 :]):
            raise ValueError(f"{located('cat')}: shapes {first} and {t.shape} must be equal except along dim {dim}")
    return apply(CAT, *parts, dim=dim)


def stack(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis."""
    parts = _several("stack", tensors)
    for t in parts:
        if t.shape != parts[0].shape:
            raise ValueError(f"{located('stack')}: shapes {parts[0].shape} and {t.shape} must be equal")
    dim = _axis("stack", dim, parts[0].ndim + 1)
    return apply(CAT, *(unsqueeze(t, dim) for t in parts), dim=dim)


def pad(input: TensorLike, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """A border of `value` around the last axes; negative widths cut off.

    Args:
        input: any shape.
        pad: (before, after) of the last axis, then of the one before it, and so on.
        mode: ``"constant"``, the only one.
        value: of the border, 0 by default.
    """
    input = _tensor(input)
    if mode != "constant":
        raise ValueError(f"{located('pad')}: mode is {mode!r}, and only 'constant' is offered")
    if not isinstance(pad, Sequence) or not all(isinstance(n, int | np.integer) for n in pad):
        raise TypeError(f"{located('pad')}: pad must be a list or tuple of ints, got {pad!r}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(
            f"{located('pad')}: pad has {len(pad)} widths, and needs a pair for each of at most {input.ndim} axes"
        )
    pairs = [(int(pad[i]), int(pad[i + 1])) for i in range(0, len(pad), 2)][::-1]
    widths = ((0, 0),) * (input.ndim - len(pairs)) + tuple(pairs)
    if any(n + b + a < 0 for n, (b, a) in zip(input.shape, widths, strict=True)):
        raise ValueError(f"{located('pad')}: widths {tuple(pad)} cut more than there is off shape {input.shape}")
    return apply(PAD, input, widths=widths, value=0.0 if value is None else value)


# ------------------------------------------------------------------------------------------ linear, products


def _linear_shape(input, weight, bias):
    return (*input[:-1], *weight[:-1])


def _matmul_shape(a, b):
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    return (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


LINEAR = Op(
    "linear", L.linear_forward, L.linear_backward, _linear_shape, True, "y = x Wᵀ + b;  ∂x = g W,  ∂W = gᵀ x,  ∂b = Σ g"
)
MATMUL = Op("matmul", L.matmul_forward, L.matmul_backward, _matmul_shape, True, "Y = A B;  ∂A = G Bᵀ,  ∂B = Aᵀ G")


def linear(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """y = x Wᵀ + b.

    Args:
        input: (*, in).
        weight: (out, in), or (in,) for one output without an axis.
        bias: (out,), or () with a weight of one dimension.

    Returns:
        (*, out), or (*).
    """
    input, weight, bias = _tensor(input), _tensor(weight), _optional(bias)
    if weight.ndim not in (1, 2) or input.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"{located('linear')}: input has shape {input.shape}, weight {weight.shape}: the last axis of both is the "
            "number of inputs and must be equal. Flatten images first, or size the layer for them"
        )
    if bias is not None and bias.shape not in (weight.shape[:-1], (), (1,)):
        raise ValueError(
            f"{located('linear')}: bias has shape {bias.shape}, weight {weight.shape} expects {weight.shape[:-1]}"
        )
    _same_dtype("linear", input=input, weight=weight, bias=bias)
    return apply(LINEAR, input, weight, bias)


def matmul(input: Any, other: Any) -> Tensor:
    """The matrix product over the last two axes; a vector is a row on the left, a column on the right."""
    input, other = _tensor(input), _tensor(other)
    if input.ndim == 0 or other.ndim == 0 or input.shape[-1] != other.shape[-2 if other.ndim > 1 else -1]:
        raise ValueError(
            f"{located('matmul')}: shapes {input.shape} and {other.shape} do not multiply: inner axes must be equal"
        )
    _same_dtype("matmul", input=input, other=other)
    return apply(MATMUL, input, other)


# ---------------------------------------------------------------------------------------------- convolution


def _conv2d_shape(input, weight, bias, stride, padding, dilation, groups):
    return (input[0], weight[0], *map(C.output_size, input[2:], weight[2:], stride, padding, dilation))


CONV2D = Op(
    "conv2d", C.conv2d_forward, C.conv2d_backward, _conv2d_shape, True,
    "y = W ⋆ x + b;  ∂x = W turned by 180° ⋆ g,  ∂W = x ⋆ g,  ∂b = Σ g",
)  # fmt: skip


def conv2d(
    input: TensorLike, weight: TensorLike, bias: TensorLike | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Cross-correlation of images with filters, which is what networks call convolution.

    y[n, o, i, j] = b[o] + Σ_{c,k,l} weight[o, c, k, l] · input[n, c, i·stride + k·dilation, j·stride + l·dilation]

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (O, C/groups, kh, kw).
        bias: (O,).
        stride, dilation: an int or a pair.
        padding: zeros at each side, an int or a pair; ``"valid"`` (none), or ``"same"`` (as many as keep the size, at
            stride 1).
        groups: channels and filters are split into so many independent convolutions.

    Returns:
        (N, O, out_h, out_w) or (O, out_h, out_w), with out = ⌊(size + 2·padding − dilation·(k − 1) − 1) / stride⌋ + 1.

    Raises:
        ValueError: shapes that do not fit; a kernel larger than the padded input.
        TypeError: dtypes that differ.
    """
    input, single = _images("conv2d", input)
    weight, bias = _tensor(weight), _optional(bias)
    if weight.ndim != 4:
        raise ValueError(
            f"{located('conv2d')}: weight has shape {weight.shape}, and must be (out, in/groups, height, width)"
        )
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)):
        raise ValueError(f"{located('conv2d')}: groups={groups!r} must be a positive int")
    groups = int(groups)  # sizes are computed with it, and NumPy's small integers would overflow
    stride, dilation = pair("conv2d", "stride", stride, (1, 1)), pair("conv2d", "dilation", dilation, (1, 1))
    if isinstance(padding, str):
        input, padding = _named_padding(input, padding, weight.shape[2:], stride, dilation)
    padding = pair("conv2d", "padding", padding, (0, 0), least=0)
    of_bias = None if bias is None else bias.shape
    _check_conv2d(input.shape, weight.shape, of_bias, stride, padding, dilation, groups)
    _same_dtype("conv2d", input=input, weight=weight, bias=bias)
    output = apply(CONV2D, input, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return squeeze(output, 0) if single else output


@lru_cache(1024)  # a network asks the same at every step
def _check_conv2d(input, weight, bias, stride, padding, dilation, groups) -> None:
    """That the shapes fit."""
    (out_channels, per_group, *size), channels = weight, input[1]
    if out_channels == 0:
        raise ValueError(f"{located('conv2d')}: weight has shape {weight}, and must have at least one filter")
    if groups < 1 or out_channels % groups:
        raise ValueError(
            f"{located('conv2d')}: groups={groups} must be a positive int that divides the {out_channels} filters"
        )
    if channels != per_group * groups:
        fits = channels // per_group if per_group and channels % per_group == 0 else 0
        hint = f". Did you mean groups={fits}?" if fits and out_channels % fits == 0 else ""
        raise ValueError(
            f"{located('conv2d')}: input has {channels} channels, weight {weight} with groups={groups} expects "
            f"{per_group * groups}{hint}"
        )
    if bias is not None and bias != (out_channels,):
        raise ValueError(f"{located('conv2d')}: bias has shape {bias}, {out_channels} filters expect ({out_channels},)")
    if 0 in size or any(
        n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(input[2:], padding, dilation, size, strict=True)
    ):
        raise ValueError(
            f"{located('conv2d')}: a kernel of {size[0]}×{size[1]} with dilation {dilation} does not fit into an input "
            f"of {input[2]}×{input[3]} with padding {padding}"
        )


def _named_padding(input: Tensor, padding: str, size, stride, dilation) -> tuple[Tensor, Any]:
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise ValueError(f"{located('conv2d')}: padding is {padding!r}, and must be an int, a pair, 'same' or 'valid'")
    if stride != (1, 1):
        raise ValueError(f"{located('conv2d')}: padding='same' needs stride 1, got {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
    odd_h, odd_w = (t % 2 for t in total)
    if odd_h or odd_w:  # one row or column more at the end
        input = pad(input, (0, odd_w, 0, odd_h))
    return input, tuple(t // 2 for t in total)


# -------------------------------------------------------------------------------------------------- pooling


def _pooled(shape, kernel_size, stride, padding, ceil_mode, dilation=(1, 1), **_):
    out = (
        P.output_size(*args, ceil_mode) for args in zip(shape[2:], kernel_size, stride, padding, dilation, strict=True)
    )
    return (*shape[:2], *out)


MAX_POOL2D = Op(
    "max_pool2d", P.max_pool2d_forward, P.max_pool2d_backward, _pooled, False,
    "y = max over the window;  ∂x = g at the entry that won, else 0",
)  # fmt: skip
AVG_POOL2D = Op(
    "avg_pool2d", P.avg_pool2d_forward, P.avg_pool2d_backward, _pooled, True,
    "y = Σ x / n over the window;  ∂x = Σ g / n over the windows it was in",
)  # fmt: skip
ADAPTIVE_AVG_POOL2D = Op(
    "adaptive_avg_pool2d", P.adaptive_avg_pool2d_forward, P.adaptive_avg_pool2d_backward,
    lambda shape, output_size: (*shape[:2], *output_size), True,
    "y = mean of the bin;  ∂x = Σ g / n over the bins it was in",
)  # fmt: skip


def _pool_arguments(
    name: str, input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
):
    size = pair(name, "kernel_size", kernel_size)
    params: dict[str, Any] = {
        "kernel_size": size,
        "stride": pair(name, "stride", stride, size),
        "padding": pair(name, "padding", padding, (0, 0), least=0),
        "ceil_mode": bool(ceil_mode),
    }
    dilation = pair(name, "dilation", dilation, (1, 1))
    for k, p in zip(size, params["padding"], strict=True):
        if 2 * p > k:
            raise ValueError(
                f"{located(name)}: padding {params['padding']} is more than half of the kernel size {size}"
            )
    if min(_pooled(input.shape, dilation=dilation, **params)[2:]) < 1:
        raise ValueError(
            f"{located(name)}: a window of {size[0]}×{size[1]} does not fit into an input of "
            f"{input.shape[2]}×{input.shape[3]} with padding {params['padding']}"
        )
    if 0 in input.shape[2:]:
        raise ValueError(f"{located(name)}: input of shape {input.shape} has nothing to pool")
    return params, dilation


def max_pool2d(
    input: TensorLike,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest entry of each window; of equal ones the first, which gets the whole gradient.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation: an int or a pair; the stride is the kernel's size by default, the
            padding minus infinity and at most half of the kernel's size.
        ceil_mode: round the output's size up, so that a last, cut window counts.

    Raises:
        ValueError: a window that does not fit.
    """
    input, single = _images("max_pool2d", input)
    params, dilation = _pool_arguments("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    output = apply(MAX_POOL2D, input, dilation=dilation, **params)
    return squeeze(output, 0) if single else output


def avg_pool2d(
    input: TensorLike, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, ceil_mode: as for `max_pool2d`, with zeros for padding.
        count_include_pad: whether padding counts as entries to divide by.
        divisor_override: divide by this number instead.

    Raises:
        ValueError: a window that does not fit.
    """
    input, single = _images("avg_pool2d", input)
    params, _ = _pool_arguments("avg_pool2d", input, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override == 0:
        raise ValueError(f"{located('avg_pool2d')}: divisor_override must not be 0")
    output = apply(
        AVG_POOL2D, input, count_include_pad=bool(count_include_pad), divisor_override=divisor_override, **params
    )
    return squeeze(output, 0) if single else output


def adaptive_avg_pool2d(input: TensorLike, output_size: Any) -> Tensor:
    """Means over a fixed number of bins, whatever the input's size.

    Args:
        input: (N, C, H, W) or (C, H, W).
        output_size: an int or a pair; None in it keeps the input's size. Bin i of n covers rows ⌊iH/n⌋ to ⌈(i+1)H/n⌉.
    """
    input, single = _images("adaptive_avg_pool2d", input)
    wanted = tuple(output_size) if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(wanted) == 2:
        wanted = tuple(n if o is None else o for o, n in zip(wanted, input.shape[2:], strict=True))
    size = pair("adaptive_avg_pool2d", "output_size", wanted, least=0)
    if 0 in input.shape[2:]:
        raise ValueError(f"{located('adaptive_avg_pool2d')}: input of shape {input.shape} has nothing to average")
    output = apply(ADAPTIVE_AVG_POOL2D, input, output_size=size)
    return squeeze(output, 0) if single else output


# ------------------------------------------------------------------------------------------- normalisation

LOCAL_RESPONSE_NORM = Op(
    "local_response_norm", N.local_response_norm_forward, N.local_response_norm_backward, _same, True,
    "y = x / dᵝ, d = k + α/n Σ x² over neighbours;  ∂x = g d⁻ᵝ − 2αβ/n · x Σ g x d⁻ᵝ⁻¹",
)  # fmt: skip
BATCH_NORM = Op(
    "batch_norm", N.batch_norm_train_forward, N.batch_norm_train_backward, _same, True,
    "x̂ = (x − mean) / std, y = γ x̂ + β;  ∂x = γ/std (g − mean g − x̂ mean(g x̂)),  ∂γ = Σ g x̂,  ∂β = Σ g",
)  # fmt: skip
BATCH_NORM_EVAL = Op(
    "batch_norm_eval", N.batch_norm_eval_forward, N.batch_norm_eval_backward, _same, True,
    "y = γ (x − running mean) / running std + β;  ∂x = g γ / std,  ∂γ = Σ g x̂,  ∂β = Σ g",
)  # fmt: skip


def local_response_norm(
    input: TensorLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Each entry divided by (k + α/size · Σ x²)ᵝ, the sum going over `size` neighbouring channels.

    Krizhevsky et al. 2012, section 3.3. The paper's formula does not divide α by `size`; its released code and
    PyTorch do, and so does this. For the formula as printed pass ``alpha * size``.

    Args:
        input: (N, C, *).
        size: the window, in channels: ``size // 2`` before, the rest after.
    """
    input = _tensor(input)
    if input.ndim < 3:
        raise ValueError(
            f"{located('local_response_norm')}: input has shape {input.shape}, and must be (batch, channels, *)"
        )
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"{located('local_response_norm')}: size is {size}, and must be an int of at least 1")
    return apply(LOCAL_RESPONSE_NORM, input, size=size, alpha=alpha, beta=beta, k=k)


def batch_norm(
    input: TensorLike, running_mean: TensorLike | None, running_var: TensorLike | None,
    weight: TensorLike | None = None, bias: TensorLike | None = None,
    training: bool = False, momentum: float | Array = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Each channel shifted and scaled to mean 0 and variance 1, then by `weight` and `bias`. Ioffe and Szegedy 2015.

    In training the statistics are the batch's, and the running ones move towards them by `momentum`, in place (the
    variance unbiased, as the paper's algorithm 2 has it). In evaluation the running ones are used. An empty batch moves
    nothing.

    Args:
        input: (N, C, *).
        running_mean, running_var: (C,) both; or both None, in training only.
        weight, bias: (C,) or None.
        momentum: a number, or an array without axes on the statistics' device.

    Raises:
        ValueError: shapes that do not fit; training on a single value a channel, which has no variance.
        TypeError: dtypes that differ.
    """
    input, weight, bias = _tensor(input), _optional(weight), _optional(bias)
    if input.shape == (0,):  # nothing: PyTorch lets it pass
        return input
    if input.ndim < 2:
        raise ValueError(f"{located('batch_norm')}: input has shape {input.shape}, and must be (batch, channels, *)")
    if training:
        mean, var = _written(running_mean), _written(running_var)
    else:
        mean, var = _plain("batch_norm", running_mean, input), _plain("batch_norm", running_var, input)
    for argument, x in (("running_mean", mean), ("running_var", var), ("weight", weight), ("bias", bias)):
        if x is not None and x.shape != (input.shape[1],):
            raise ValueError(
                f"{located('batch_norm')}: input has {input.shape[1]} channels, {argument} has shape {x.shape} and "
                f"must have ({input.shape[1]},)"
            )
    if eps < 0 or (eps == 0 and training):
        raise ValueError(f"{located('batch_norm')}: eps is {eps}, and must be positive: it keeps 1/√(var + eps) finite")
    _same_dtype("batch_norm", input=input, weight=weight, bias=bias, running_mean=mean, running_var=var)
    _check_devices("batch_norm", input.data, mean, var)
    if (mean is None) != (var is None) or (mean is None and not training):
        raise ValueError(
            f"{located('batch_norm')}: {'running_mean' if mean is None else 'running_var'} is missing. Evaluation "
            "needs both running_mean and running_var, training both or neither"
        )
    if not training:
        return apply(BATCH_NORM_EVAL, input, weight, bias, mean=mean, var=var, eps=eps)
    count = math.prod(input.shape) // builtins.max(input.shape[1], 1)
    if count == 1:
        raise ValueError(
            f"{located('batch_norm')}: input of shape {input.shape} has one value a channel, which has no variance. "
            "Use a larger batch, or evaluation mode: model.eval()"
        )
    output, saved = apply_with_saved(BATCH_NORM, input, weight, bias, eps=eps)
    if saved is not None and count:
        with backend.beside(input.data):
            _move_running_statistics(mean, var, saved[0], saved[1] * (count / builtins.max(count - 1, 1)), momentum)
    return output


def _written(statistics: TensorLike | None) -> Array | None:
    """Running statistics as the array that is written to: itself, not a copy on another device."""
    statistics = statistics.data if isinstance(statistics, Tensor) else statistics
    return statistics if statistics is None or backend.is_array(statistics) else np.asarray(statistics)


def _move_running_statistics(mean, var, batch_mean, batch_var, momentum) -> None:
    """The one place where minicnn writes into what it was given (``.real``: a complex-step check may pass through)."""
    if mean is not None:
        mean += momentum * (batch_mean.real - mean)
    if var is not None:
        var += momentum * (batch_var.real - var)


# ---------------------------------------------------------------------------------------------- activations

RELU = Op("relu", A.relu_forward, A.relu_backward, _same, False, "y = max(0, x);  ∂x = g where x > 0, else 0")
LEAKY_RELU = Op(
    "leaky_relu",
    A.leaky_relu_forward,
    A.leaky_relu_backward,
    _same,
    False,
    "y = x where x > 0, else a·x;  ∂x = g, else a·g",
)
ELU = Op("elu", A.elu_forward, A.elu_backward, _same, False, "y = x where x > 0, else α(eˣ − 1);  ∂x = g, else g·α eˣ")
SIGMOID = Op("sigmoid", A.sigmoid_forward, A.sigmoid_backward, _same, True, "y = 1 / (1 + e⁻ˣ);  ∂x = g·y (1 − y)")
TANH = Op("tanh", A.tanh_forward, A.tanh_backward, _same, True, "y = tanh x;  ∂x = g (1 − y²)")
SILU = Op("silu", A.silu_forward, A.silu_backward, _same, True, "y = x σ(x);  ∂x = g σ(x) (1 + x (1 − σ(x)))")
SOFTPLUS = Op("softplus", A.softplus_forward, A.softplus_backward, _same, True, "y = log(1 + e^βx) / β;  ∂x = g σ(βx)")
SOFTMAX = Op("softmax", A.softmax_forward, A.softmax_backward, _same, True, "y = eˣ / Σ eˣ;  ∂x = y (g − Σ g y)")
LOG_SOFTMAX = Op(
    "log_softmax", A.log_softmax_forward, A.log_softmax_backward, _same, True, "y = x − log Σ eˣ;  ∂x = g − eʸ Σ g"
)
DROPOUT = Op(
    "dropout", E.mul_forward, E.mul_backward, _same, True, "y = x·m / (1 − p), m drawn 0 or 1;  ∂x = g·m / (1 − p)"
)


def relu(input: TensorLike, inplace: bool = False) -> Tensor:
    """max(0, x). `inplace` is accepted, as PyTorch's, and ignored: minicnn writes into no input."""
    return apply(RELU, _tensor(input))


def leaky_relu(input: TensorLike, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else `negative_slope`·x. `inplace` is ignored."""
    return apply(LEAKY_RELU, _tensor(input), negative_slope=negative_slope)


def elu(input: TensorLike, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else `alpha`·(eˣ − 1). `inplace` is ignored."""
    return apply(ELU, _tensor(input), alpha=alpha)


def silu(input: TensorLike, inplace: bool = False) -> Tensor:
    """x·σ(x), also called Swish. `inplace` is ignored."""
    return apply(SILU, _tensor(input))


def softplus(input: TensorLike, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^βx) / β, a smooth ReLU; x itself where βx > `threshold`."""
    return apply(SOFTPLUS, _tensor(input), beta=beta, threshold=threshold)


def sigmoid(input: TensorLike) -> Tensor:
    """1 / (1 + e⁻ˣ)."""
    return apply(SIGMOID, _tensor(input))


def tanh(input: TensorLike) -> Tensor:
    """The hyperbolic tangent."""
    return apply(TANH, _tensor(input))


def softmax(input: TensorLike, dim: int | None = None, dtype: Any = None) -> Tensor:
    """eˣ / Σ eˣ along `dim`; without one along axis 0 or 1, by PyTorch's old rule. `dtype` converts first."""
    input = _tensor(input) if dtype is None else to(_tensor(input), dtype=dtype)
    dim = _softmax_axis("softmax", dim, input.ndim)
    return apply(SOFTMAX, input, dim=dim) if input.ndim and input.size else exp(input - input)


def log_softmax(input: TensorLike, dim: int | None = None, dtype: Any = None) -> Tensor:
    """x − log Σ eˣ along `dim`, the logarithm of `softmax` without its rounding."""
    input = _tensor(input) if dtype is None else to(_tensor(input), dtype=dtype)
    dim = _softmax_axis("log_softmax", dim, input.ndim)
    return apply(LOG_SOFTMAX, input, dim=dim) if input.ndim and input.size else input - input


def _softmax_axis(name: str, dim: int | None, ndim: int) -> int:
    return _axis(name, (0 if ndim in (0, 1, 3) else 1) if dim is None else dim, ndim)


def dropout(input: TensorLike, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training each entry is zero with probability `p`, and the others are divided by 1 − p; else the input itself.

    Srivastava et al. 2014, section 10 ("inverted" dropout). The mask is drawn on the host from minicnn's generator.
    `inplace` is ignored.
    """
    input = _tensor(input)
    if not 0 <= p <= 1:
        raise ValueError(f"{located('dropout')}: p is {p}, and must be a probability between 0 and 1")
    if not training or p == 0:
        return input
    if is_dry_run():  # a mask of shape alone; the random numbers stay where they are
        return apply(DROPOUT, input, Tensor._of(np.broadcast_to(np.zeros((), dtype=input.dtype), input.shape)))
    kept = backend.generator().random(input.shape, dtype=np.float32) >= p
    mask = kept.astype(input.dtype) / (1 - p) if p < 1 else np.zeros(input.shape, dtype=input.dtype)
    return apply(DROPOUT, input, Tensor._of(backend.like(mask, input.data)))


# --------------------------------------------------------------------------------------------------- losses


def _loss_shape(input, *_, reduction, **__):
    return (input[0], *input[2:]) if reduction == "none" else ()


CROSS_ENTROPY = Op(
    "cross_entropy", loss_kernels.cross_entropy_forward, loss_kernels.cross_entropy_backward, _loss_shape, True,
    "L = −log p of the target, p = softmax x;  ∂x = g (p − y) / N for a mean, y = 1 at the target, else 0",
)  # fmt: skip
SOFT_CROSS_ENTROPY = Op(
    "soft_cross_entropy",
    loss_kernels.soft_cross_entropy_forward, loss_kernels.soft_cross_entropy_backward, _loss_shape, True,
    "L = −Σ y log p, p = softmax x;  ∂x = g (p Σ y − y) / N for a mean,  ∂y = −g log p / N",
)  # fmt: skip
NLL_LOSS = Op(
    "nll_loss", loss_kernels.nll_loss_forward, loss_kernels.nll_loss_backward, _loss_shape, True,
    "y = −x at the target;  ∂x = −g / N for a mean, at the target, else 0",
)  # fmt: skip
MSE_LOSS = Op(
    "mse_loss", loss_kernels.mse_loss_forward, loss_kernels.mse_loss_backward,
    lambda a, b, reduction: np.broadcast_shapes(a, b) if reduction == "none" else (), True,
    "y = (x − t)²;  ∂x = 2g (x − t) / N for a mean,  ∂t = −∂x",
)  # fmt: skip


def _classes(name: str, input: Tensor, single: bool, target: Any, ignore_index: int) -> Array:
    """Class indices (N, *) for scores (N, C, *), checked on the host, where they usually still are."""
    if isinstance(target, Tensor):
        _check_devices(name, input.data, target.data)
        target = target.data
    target = target if backend.is_array(target) else np.asarray(target)
    if target.dtype.kind not in "iu":
        raise TypeError(f"{located(name)}: target is {target.dtype}, and must hold class indices (integers)")
    if single and target.shape == ():
        target = target.reshape(1)
    expected = (input.shape[0], *input.shape[2:])
    if target.shape != expected:
        raise ValueError(
            f"{located(name)}: input has shape {input.shape[1:] if single else input.shape}, so target must have "
            f"{() if single else expected}, and has {target.shape}"
        )
    host = backend.to_host(target)
    wrong = (host != ignore_index) & ((host < 0) | (host >= input.shape[1]))
    if wrong.any():
        raise IndexError(
            f"{located(name)}: target holds class {host[wrong][0]}, and the {input.shape[1]} classes are 0 to "
            f"{input.shape[1] - 1}"
            + ("" if ignore_index < 0 else f" (or ignore_index, {ignore_index})")
        )
    return _crossed(name, target, input)


def _class_weight(name: str, weight: TensorLike | None, input: Tensor) -> Array | None:
    weight = _plain(name, weight, input, input.dtype)
    if weight is not None and weight.shape != (input.shape[1],):
        raise ValueError(
            f"{located(name)}: weight has shape {weight.shape}, {input.shape[1]} classes expect ({input.shape[1]},)"
        )
    return weight


def _scores(name: str, input: TensorLike) -> tuple[Tensor, bool]:
    """Scores (N, C, *), and whether they were those of a single item, (C,)."""
    input = _tensor(input)
    if input.ndim == 0:
        raise ValueError(f"{located(name)}: input is one number, and must be (classes,) or (batch, classes, *)")
    if input.shape[builtins.min(input.ndim - 1, 1)] == 0:
        raise ValueError(f"{located(name)}: input has shape {input.shape}, in which there are no classes")
    return (unsqueeze(input, 0), True) if input.ndim == 1 else (input, False)


def _is_floating(target: Any) -> bool:
    return (target.dtype if hasattr(target, "dtype") else np.asarray(target).dtype).kind in "fc"


def cross_entropy(
    input: TensorLike, target: TensorLike, weight: TensorLike | None = None, ignore_index: int = -100,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """The negative log-probability of the target class under softmax.

    Args:
        input: scores before softmax, (N, C, *) or (C,).
        target: class indices (N, *), integers; or class probabilities of `input`'s shape, floats (differentiable).
        weight: of each class, (C,).
        ignore_index: items with this class count for nothing (indices only).
        reduction: ``"mean"`` (weighted by `weight` for indices), ``"sum"`` or ``"none"``.
        label_smoothing: ε, the share of the target spread evenly over all classes (Szegedy et al. 2016, section 7).

    Returns:
        One number, or (N, *) for ``"none"``.

    Raises:
        ValueError, TypeError, IndexError: shapes that do not fit, targets that are neither, a class out of range.
    """
    name = "cross_entropy"
    input, single = _scores(name, input)
    reduction, weight = _reduction(name, reduction), _class_weight(name, weight, input)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{located(name)}: label_smoothing is {label_smoothing}, and must be between 0 and 1")
    params = {"weight": weight, "reduction": reduction, "label_smoothing": label_smoothing}
    if _is_floating(target):
        target = _tensor(target)
        target = unsqueeze(target, 0) if single else target
        if target.shape != input.shape:
            raise ValueError(
                f"{located(name)}: input has shape {input.shape}, target is {target.dtype} of shape {target.shape}. "
                "Class probabilities must have the input's shape; class indices must be integers"
            )
        output = apply(SOFT_CROSS_ENTROPY, input, target, **params)
    else:
        target = _classes(name, input, single, target, ignore_index)
        output = apply(CROSS_ENTROPY, input, target=target, ignore_index=ignore_index, **params)
    return squeeze(output, 0) if single and reduction == "none" else output


def nll_loss(
    input: TensorLike,
    target: TensorLike,
    weight: TensorLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Minus the entry at the target class, for log-probabilities `input`; arguments as for `cross_entropy`."""
    input, single = _scores("nll_loss", input)
    target = _classes("nll_loss", input, single, target, ignore_index)
    weight, reduction = _class_weight("nll_loss", weight, input), _reduction("nll_loss", reduction)
    output = apply(NLL_LOSS, input, target=target, weight=weight, ignore_index=ignore_index, reduction=reduction)
    return squeeze(output, 0) if single and reduction == "none" else output


def mse_loss(
    input: TensorLike, target: TensorLike, reduction: str = "mean", weight: TensorLike | None = None
) -> Tensor:
    """(x − t)², averaged, summed or as it is; `input` and `target` broadcast, and both are differentiable.

    With a `weight` (of `input`'s shape, differentiable too) w (x − t)², and the mean is divided by Σ w.
    """
    input, target, weight = _tensor(input), _tensor(target), _optional(weight)
    _reduction("mse_loss", reduction)
    _check_broadcast("mse_loss", input, target)
    if weight is None:
        return apply(MSE_LOSS, input, target, reduction=reduction)
    if weight.shape != input.shape:
        raise ValueError(
            f"{located('mse_loss')}: weight has shape {weight.shape}, input {input.shape}: they must be equal"
        )
    _check_devices("mse_loss", input.data, target.data, weight.data)
    losses = _binary(MUL, apply(MSE_LOSS, input, target, reduction="none"), weight)
    if reduction == "none":
        return losses
    return sum(losses) if reduction == "sum" else _binary(DIV, sum(losses), sum(weight))


# ---------------------------------------------------------------------------------- the operators of `Tensor`


def exp(input: Tensor) -> Tensor:
    """eˣ."""
    return apply(EXP, input)


def log(input: Tensor) -> Tensor:
    """The natural logarithm."""
    return apply(LOG, input)


def sqrt(input: Tensor) -> Tensor:
    """√x."""
    return apply(SQRT, input)


def abs(input: Tensor) -> Tensor:
    """|x|; the slope at 0 is taken as 0."""
    return apply(ABS, input)


_operators = {
    "__add__": lambda a, b: _binary(ADD, a, b),
    "__radd__": lambda a, b: _binary(ADD, b, a),
    "__sub__": lambda a, b: _binary(SUB, a, b),
    "__rsub__": lambda a, b: _binary(SUB, b, a),
    "__mul__": lambda a, b: _binary(MUL, a, b),
    "__rmul__": lambda a, b: _binary(MUL, b, a),
    "__truediv__": lambda a, b: _binary(DIV, a, b),
    "__rtruediv__": lambda a, b: _binary(DIV, b, a),
    "__pow__": lambda a, b: _binary(POW, a, b),
    "__rpow__": lambda a, b: _binary(POW, b, a),
    "__matmul__": matmul,
    "__rmatmul__": lambda a, b: matmul(b, a),
    "__neg__": lambda a: apply(NEG, a),
    "__getitem__": getitem,
}
_methods = (
    sum, mean, var, amax, exp, log, sqrt, abs, clamp, reshape, flatten, transpose, permute, squeeze, unsqueeze, to
)  # fmt: skip

for _name, _operator in _operators.items():
    setattr(Tensor, _name, _operator)
for _method in _methods:
    setattr(Tensor, _method.__name__, _method)
