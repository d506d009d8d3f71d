"""Gradient clipping: between ``loss.backward()`` and ``optimizer.step()``, make large gradients smaller.

Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", section 3.2, Algorithm 1, is
clipping by norm. Gradients are replaced, never written into: what a recording has kept of a backward pass stays true.

`parameters` is a tensor, an iterable of tensors, or one of (name, tensor) pairs, as ``model.named_parameters()`` gives,
whose names then appear in messages. Parameters without a gradient are passed over.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..backend import Array, array_module, beside, device_of, is_array, like, to_device
from ..engine import Tensor

BLOCK = 1 << 16  # numbers widened to float64 at a time, so that they stay in the cache
BLOCK_THERE = 1 << 24  # on a CUDA device: few and long operations, and at most a few hundred megabytes for them

Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


def clip_grad_norm_(
    parameters: Parameters, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = True
) -> float | Array:
    """Scale all gradients by one factor, so that together (as one long vector) they have at most the norm `max_norm`.

    The factor is max_norm / (norm + 10⁻⁶), or 1 where that is more.

    Args:
        parameters: see above.
        max_norm: the largest norm to let pass; infinity only measures.
        norm_type: the p of the norm; ``float("inf")`` for the largest absolute value.
        error_if_nonfinite: raise an error where the norm is infinite or NaN. PyTorch's default is False, which turns
            the finite gradients to 0 or NaN without a word. On a CUDA device it waits for the device, once.

    Returns:
        The norm before clipping, computed in float64: a Python float (PyTorch returns a tensor); on a CUDA device with
        ``error_if_nonfinite=False`` a 0-d array there, which nothing has waited for.

    Raises:
        RuntimeError: the norm is not finite; the message says whose gradient is not, and no gradient has changed.
        TypeError, ValueError: an argument is of the wrong kind or out of its range.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm is {max_norm}, and must be at least 0")
    with_grads = list(_with_gradients("clip_grad_norm_", parameters))
    norm = get_total_norm([p.grad for _, p in with_grads], norm_type)
    if error_if_nonfinite:
        norm = float(norm)
        if not math.isfinite(norm):
            raise RuntimeError(
                f"clip_grad_norm_: the norm of the gradients is {norm}, so they cannot be scaled to {max_norm}. "
                f"{_not_finite(with_grads)}. Nothing has been changed. Look for the first step whose loss is not "
                "finite (too large a rate, a log or a division of 0), or pass error_if_nonfinite=False to scale "
                "regardless"
            )
    _scale(with_grads, max_norm, norm)
    return norm


def clip_grads_with_norm_(parameters: Parameters, max_norm: float, total_norm: float | Array) -> None:
    """The second half of `clip_grad_norm_`: scale all gradients, whose norm `total_norm` is known, to `max_norm`.

    Args:
        parameters: see above.
        max_norm: the largest norm to let pass.
        total_norm: what `get_total_norm` has returned for their gradients; where it is not finite, they become 0 or
            NaN.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of its range.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grads_with_norm_: max_norm is {max_norm}, and must be at least 0")
    _scale(list(_with_gradients("clip_grads_with_norm_", parameters)), max_norm, total_norm)


def _scale(with_grads: list[tuple[str, Any]], max_norm: float, norm: float | Array) -> None:
    factor: Any
    there = is_array(norm) and array_module(norm) is not np
    if there:  # nothing waits to see whether the factor is 1
        with beside(norm):
            factor = array_module(norm).minimum(max_norm / (norm + 1e-6), 1.0)  # NaN stays
    else:
        factor = max_norm / (float(norm) + 1e-6)
        if factor >= 1:  # NaN scales too
            return
    with np.errstate(invalid="ignore"):  # 0 · inf, where the caller has asked for it
        for _, p in with_grads:
            with beside(p.grad):
                here = to_device(factor, device_of(p.grad)).astype(p.grad.dtype) if there else factor
                p.grad = array_module(p.grad).asarray(p.grad * here)


def clip_grad_value_(parameters: Parameters, clip_value: float) -> None:
    """Bring every entry of every gradient into [−clip_value, clip_value]. Infinities become the bound, NaN stays NaN.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of its range.
    """
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value is {clip_value}, and must be at least 0")
    for _, p in _with_gradients("clip_grad_value_", parameters):
        xp = array_module(p.grad)
        with beside(p.grad):
            p.grad = xp.asarray(xp.clip(p.grad, -clip_value, clip_value))


def get_total_norm(
    tensors: Tensor | Array | Iterable[Tensor | Array], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float | Array:
    """The norm of all entries of `tensors` (often gradients) as one long vector: (Σ |x|ᵖ)^(1/p), p = `norm_type`.

    Computed in float64 on values divided by their largest, so that it does not overflow before the result itself does.

    Args:
        tensors: a tensor or an array, or an iterable of them.
        norm_type: p, above 0; ``float("inf")`` for the largest absolute value.
        error_if_nonfinite: raise an error where the result is infinite or NaN. On a CUDA device it waits for the
            device, once.

    Returns:
        A Python float, 0 where there are no entries; on a CUDA device without `error_if_nonfinite` a 0-d array of
        float64 there, which nothing has waited for: ``float()`` of it does.

    Raises:
        RuntimeError: the norm is not finite, and `error_if_nonfinite` was given.
        TypeError, ValueError: an argument is of the wrong kind or out of its range.
    """
    p = float(norm_type)
    if not p > 0:
        raise ValueError(f"get_total_norm: norm_type is {norm_type}, and must be above 0")
    norms: list[Any] = []
    given: list[Any] = [tensors] if isinstance(tensors, Tensor) or is_array(tensors) else list(tensors)
    for x in given:
        array = x.data if isinstance(x, Tensor) else x
        norm, block = (_norm, BLOCK) if array_module(array) is np else (_norm_there, BLOCK_THERE)
        with beside(array):
            flat = array.reshape(-1)
            norms += [norm(flat[start : start + block], p) for start in range(0, flat.size, block)]
    # The norm of the norms of the parts is that of the whole.
    total: Any
    if there := [norm for norm in norms if is_array(norm)]:
        with beside(there[0]):
            place = device_of(there[0])  # of several devices, the first one's
            norms = [to_device(norm, place) if is_array(norm) else like(norm, there[0]) for norm in norms]
            total = _norm_there(array_module(there[0]).stack(norms), p)
    else:
        total = _norm(np.array(norms), p)  # host: Python's numbers
    if error_if_nonfinite:
        total = float(total)
        if not math.isfinite(total):
            raise RuntimeError(f"get_total_norm: the norm of order {p:g} is {total}")
    return total


def _norm(x: np.ndarray, p: float) -> float:
    sizes = abs(x).astype(np.float64)
    largest = float(sizes.max()) if sizes.size else 0.0
    if p == math.inf or largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(((sizes / largest) ** p).sum()) ** (1 / p)


def _norm_there(x: Array, p: float) -> Array:
    """`_norm` on a device, which is not waited for: 0-d, of float64."""
    xp = array_module(x)
    sizes = abs(x).astype(xp.float64)
    largest = sizes.max()
    if p == math.inf:
        return largest
    scale = xp.where((largest > 0) & xp.isfinite(largest), largest, 1.0)  # 0, ∞ and NaN come through without
    return scale * ((sizes / scale) ** p).sum() ** (1 / p)


def _with_gradients(name: str, parameters: Parameters) -> Iterator[tuple[str, Any]]:
    """The parameters that have a gradient, each with its name or else its place."""
    given: list[Any] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not given and isinstance(parameters, Iterator):
        warnings.warn(
            f"{name}: parameters is a generator that gave nothing (was it walked before?), so nothing is clipped",
            UserWarning,
            stacklevel=3,
        )
    for i, entry in enumerate(given):
        label, p = entry if isinstance(entry, tuple) else (f"parameter {i}", entry)
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: {label} is a {type(p).__name__}, and must be a Tensor")
        if p.grad is not None:
            yield label, p


def _not_finite(with_grads: list[tuple[str, Any]], most: int = 5) -> str:
    """Whose gradients are not finite, and how."""
    found = []
    for label, p in with_grads:
        xp = array_module(p.grad)
        with beside(p.grad):
            nan, inf = int(xp.isnan(p.grad).sum()), int(xp.isinf(p.grad).sum())
        if nan + inf:
            found.append(f"{label} {p.shape}: {nan} NaN and {inf} infinite of {p.grad.size}")
    if not found:
        return "Every gradient is finite, only their norm is too large for float64"
    more = f"; and {len(found) - most} more" if len(found) > most else ""
    return f"Not finite are the gradients of {'; '.join(found[:most])}{more}"
