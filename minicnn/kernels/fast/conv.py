"""Convolution on the CPU: which algorithm, by an estimate of what each would take.

There are two: `im2col`, which does any convolution, and `winograd`, for kernels of 3 × 3 and 5 × 5 at stride 1, where
there are enough channels that its savings outweigh its transforms.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache

import numpy as np

from ...threads import alone
from .im2col import SHORT, Im2col
from .winograd import Winograd

ALGORITHMS = (Im2col.name, Winograd.name)
forced: ContextVar[str | None] = ContextVar("convolution", default=None)  # one of them, wherever it applies


Needs = tuple[bool, ...]


def algorithms(input_shape, weight_shape, dtype, stride, padding, dilation, groups) -> dict[str, Im2col | Winograd]:
    """Those that can do a convolution of these shapes, by name."""
    general = Im2col(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
    if not Winograd.applies(weight_shape, stride, padding, dilation, groups) or min(*input_shape, *general.out) == 0:
        return {Im2col.name: general}
    return {Im2col.name: general, Winograd.name: Winograd(input_shape, weight_shape, dtype, padding)}


def plan(input_shape, weight_shape, dtype, stride, padding, dilation, groups) -> Im2col | Winograd:
    """The algorithm for a convolution of these shapes, ready to run `forward` and `backward`."""
    sizes = input_shape, weight_shape, dtype, stride, padding, dilation, groups
    return _chosen(algorithms(*sizes), False, sizes)


def _chosen(able: dict[str, Im2col | Winograd], of_weight: bool, sizes: tuple) -> Im2col | Winograd:
    return able.get(forced.get() or _fastest(of_weight, *sizes), able[Im2col.name])


@lru_cache(1024)
def _fastest(of_weight: bool, *sizes) -> str:
    """The name of the algorithm that should take least time; for the gradient `of_weight` it may be another."""
    return min(algorithms(*sizes).values(), key=lambda algorithm: algorithm.cost(of_weight)).name


def plan_of_gradients(
    needs: Needs, input_shape, weight_shape, dtype, stride, padding, dilation, groups
) -> list[tuple[Im2col | Winograd, Needs]]:
    """Which algorithms make the gradients that are needed, of input, weight and bias, and which of them each."""
    sizes = input_shape, weight_shape, dtype, stride, padding, dilation, groups
    able = algorithms(*sizes)
    of_input, of_weight = _chosen(able, False, sizes), _chosen(able, True, sizes)
    if of_input is of_weight:
        return [(of_input, needs)]
    parts = (of_input, (needs[0], False, needs[2])), (of_weight, (False, needs[1], False))
    return [(algorithm, some) for algorithm, some in parts if True in some]


def is_short(chosen: Im2col | Winograd) -> bool:
    """Whether a second thread would not be worth waking."""
    return chosen.cost() < SHORT


def conv2d_forward(input, weight, bias, stride, padding, dilation, groups):
    dtype = np.result_type(input, weight)
    chosen = plan(input.shape, weight.shape, dtype, stride, padding, dilation, groups)
    with alone(is_short(chosen)):
        return chosen.forward(input, weight, bias), (input, weight)


def conv2d_backward(grad_output, saved, needs, stride, padding, dilation, groups):
    input, weight = saved
    sizes = input.shape, weight.shape, np.result_type(input, weight), stride, padding, dilation, groups
    grads: list[np.ndarray | None] = [None, None, None]
    passes = plan_of_gradients(tuple(needs), *sizes)
    with alone(all(is_short(algorithm) for algorithm, _ in passes)):
        for algorithm, some in passes:
            made = algorithm.backward(grad_output, input, weight, some)
            grads = [new if need else old for new, old, need in zip(made, grads, some, strict=True)]
    return tuple(grads)
