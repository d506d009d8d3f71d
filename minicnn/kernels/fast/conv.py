"""Convolution on the CPU: which algorithm, by an estimate of what each would take.

There are two: `im2col`, which does any convolution, and `winograd`, for kernels of 3 × 3 and 5 × 5 at stride 1, where
there are enough channels that its savings outweigh its transforms. im2col has two more forms under its name, `by_rows`
for many small images and `phased` for large ones with a stride.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...threads import alone
from .by_rows import ByRows
from .epilogue import taken
from .im2col import Im2col
from .phased import Phased
from .winograd import Winograd

ALGORITHMS = (Im2col.name, Winograd.name)
forced: ContextVar[str | None] = ContextVar("convolution", default=None)  # one of them, wherever it applies


Needs = tuple[bool, ...]


def algorithms(input_shape, weight_shape, dtype, stride, padding, dilation, groups) -> dict[str, Im2col | Winograd]:
    """Those that can do a convolution of these shapes, by name."""
    general = Im2col(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
    for form in (ByRows, Phased):
        if form.pays(general):
            general = form(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
    if not Winograd.applies(weight_shape, dtype, stride, padding, dilation) or min(*input_shape, *general.out) == 0:
        return {Im2col.name: general}
    return {Im2col.name: general, Winograd.name: Winograd(input_shape, weight_shape, dtype, padding, groups)}


class Choice(NamedTuple):
    """The algorithms for a convolution by name, and those that should take least time: for its output, and for the
    gradients of its input and its weight."""

    able: dict[str, Im2col | Winograd]
    of_output: Im2col | Winograd
    of_input: Im2col | Winograd
    of_weight: Im2col | Winograd

    def or_forced(self, algorithm: Im2col | Winograd) -> Im2col | Winograd:
        name = forced.get()
        return algorithm if name is None else self.able.get(name, self.able[Im2col.name])


@lru_cache(256)  # networks have a hundred; one that is cut into thousands of blocks keeps 300 kB
def choice(input_shape, weight_shape, dtype, stride, padding, dilation, groups) -> Choice:
    """Once for these shapes: how an algorithm cuts its work depends on nothing else."""
    able = algorithms(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
    return Choice(able, *(min(able.values(), key=lambda a: a.cost(of)) for of in ("output", "input", "weight")))


def plan(input_shape, weight_shape, dtype, stride, padding, dilation, groups) -> Im2col | Winograd:
    """The algorithm for the forward pass of a convolution of these shapes."""
    found = choice(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
    return found.or_forced(found.of_output)


def plan_of_gradients(
    needs: Needs, input_shape, weight_shape, dtype, stride, padding, dilation, groups
) -> list[tuple[Im2col | Winograd, Needs]]:
    """Which algorithms make the gradients that are needed, of input, weight and bias, and which of them each."""
    found = choice(input_shape, weight_shape, dtype, stride, padding, dilation, groups)
    of_input, of_weight = found.or_forced(found.of_input), found.or_forced(found.of_weight)
    if of_input is of_weight:
        return [(of_input, needs)]
    parts = (of_input, (needs[0], False, needs[2])), (of_weight, (False, needs[1], False))
    return [(algorithm, some) for algorithm, some in parts if True in some]


def conv2d_forward(input, weight, bias, stride, padding, dilation, groups):
    dtype = np.result_type(input, weight)
    chosen = plan(input.shape, weight.shape, dtype, stride, padding, dilation, groups)
    epilogue = taken(input, (len(input), len(weight), *chosen.out), dtype)
    with alone(chosen.short):
        return chosen.forward(input, weight, bias, epilogue), (input, weight)


def conv2d_backward(grad_output, saved, needs, stride, padding, dilation, groups):
    input, weight = saved
    sizes = input.shape, weight.shape, np.result_type(input, weight), stride, padding, dilation, groups
    grads: list[np.ndarray | None] = [None, None, None]
    passes = plan_of_gradients(tuple(needs), *sizes)
    with alone(all(algorithm.short for algorithm, _ in passes)):
        for algorithm, some in passes:
            made = algorithm.backward(grad_output, input, weight, some)
            grads = [new if need else old for new, old, need in zip(made, grads, some, strict=True)]
    return tuple(grads)
