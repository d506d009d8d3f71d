"""The rules that every kernel keeps, checked on one small case or a few of each.

A kernel that is new and has no case here fails `test_every_pair_has_a_case`.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.device import places

from .helpers import (
    ROOMS,
    Pair,
    arrays_in,
    assert_close,
    central_difference,
    complex_step,
    families,
    normal,
    pairs_of,
    run,
)

FAMILIES = families()
NEUTRAL = {name: pair for pairs in FAMILIES.values() for name, pair in pairs.items()}
INF = float("inf")


class Case(NamedTuple):
    """Inputs by their shapes (None for one left out) and params.

    values: ``"normal"``; ``"positive"``, from 0.5 up; or ``"apart"``, no two entries nearer than 0.1 to each other or
        to 0, so that no maximum or bound is near a tie.
    smooth: whether the complex step applies; else central differences.
    """

    shapes: tuple[tuple[int, ...] | None, ...]
    params: dict[str, Any] = {}
    values: str = "normal"
    smooth: bool = True

    def arrays(self, dtype=np.float64) -> tuple[np.ndarray | None, ...]:
        rng = np.random.default_rng(7)
        if self.values == "apart":
            sizes = [0 if shape is None else int(np.prod(shape)) for shape in self.shapes]
            pool = rng.permutation(sum(sizes)) - sum(sizes) // 2 + 0.5  # …, −0.5, 0.5, 1.5, … in some order
            parts = np.split(pool / 5, np.cumsum(sizes)[:-1])
            made = [None if s is None else part.reshape(s) for s, part in zip(self.shapes, parts, strict=True)]
        else:
            made = [None if shape is None else normal(rng, shape) for shape in self.shapes]
            if self.values == "positive":
                made = [None if x is None else 0.5 + abs(x) for x in made]
        return tuple(None if x is None else x.astype(dtype) for x in made)


def kinked(*shapes, **params) -> Case:
    return Case(shapes, params, "apart", smooth=False)


IMAGE = (2, 3, 4, 5)
POOL = {"kernel_size": (2, 3), "stride": (2, 1), "padding": (1, 1), "ceil_mode": True}
CONV = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
SCORES = (4, 3)
TARGET = np.array([2, 0, -1, 1])
CLASS_WEIGHT = np.array([0.5, 2.0, 1.25])
MEAN, VAR = np.array([0.3, -0.2, 0.1]), np.array([0.5, 1.5, 2.5])
LOSS = {"target": TARGET, "ignore_index": -1}
MAPS = {"target": np.array([[2, -1], [0, 1]]), "ignore_index": -1}  # for scores (2, 3, 2)
EACH_REDUCTION = ("none", "sum", "mean")

CASES: dict[str, list[Case]] = {
    # elementwise
    **{
        name: [Case(((2, 3), (2, 3))), Case(((2, 1, 3), (4, 1))), Case(((), (2,)))]
        for name in ("add", "sub", "mul", "div")
    },
    "neg": [Case(((2, 3),))],
    "pow": [Case(((2, 3), (3,)), values="positive"), Case(((2, 1), (1, 2)), values="positive")],
    "exp": [Case(((2, 3),))],
    "log": [Case(((2, 3),), values="positive")],
    "sqrt": [Case(((2, 3),), values="positive")],
    "abs": [kinked((3, 4))],
    "clamp": [kinked((3, 4), (4,), (3, 1)), kinked((3, 4), (), None), kinked((3, 4), None, ())],
    "to_dtype": [Case(((2, 3),), {"dtype": np.dtype(np.float32)}, "apart", smooth=False)],
    "to_device": [Case(((2, 3),), {"device": "cpu"})],
    # reductions
    **{
        name: [
            Case(((2, 3, 4),), {"dim": (0, 2), "keepdim": False}),
            Case(((2, 3, 4),), {"dim": (1,), "keepdim": True}),
            Case(((2, 3),), {"dim": (), "keepdim": False}),
        ]
        for name in ("sum", "mean")
    },
    "var": [
        Case(((2, 3, 4),), {"dim": (0, 2), "correction": correction, "keepdim": keepdim})
        for correction, keepdim in ((0, False), (1, True), (0.5, False))
    ],
    "amax": [kinked((2, 3, 4), dim=(0, 2), keepdim=False), kinked((2, 3, 4), dim=(1,), keepdim=True)],
    # shapes
    "reshape": [Case(((2, 6),), {"shape": (3, 4)})],
    "permute": [Case(((2, 3, 4),), {"dims": (2, 0, 1)})],
    "getitem": [
        Case(((4, 5),), {"index": index})
        for index in (
            1, (slice(None, None, -2), 3), (..., None),
            np.array([2, 0, 2]), (np.array([0, 0]), slice(1, 3)), np.arange(4) % 2 == 0,
        )
    ],
    "cat": [
        Case(shapes, {"dim": dim})
        for shapes, dim in ((((2, 3), (1, 3)), 0), (((2, 1), (2, 3), (2, 2)), 1), (((0,), (2, 2)), 0))
    ],
    "pad": [
        Case(((2, 3),), {"widths": ((1, 0), (0, 2)), "value": 0.5}),
        Case(((3, 4),), {"widths": ((-1, 1), (2, -3)), "value": 0.0}),
    ],
    # products
    "linear": [
        Case(shapes)
        for shapes in (((2, 3), (4, 3), (4,)), ((2, 2, 3), (4, 3), None), ((3,), (2, 3), (1,)), ((2, 3), (3,), ()))
    ],
    "matmul": [
        Case(shapes)
        for shapes in (
            ((2, 3), (3, 4)), ((3,), (3,)), ((3,), (2, 3, 4)), ((2, 2, 3), (3,)), ((2, 1, 2, 3), (3, 3, 2)),
        )
    ],
    # convolution
    "conv2d": [
        Case(((2, 3, 4, 3), (2, 3, 2, 3), (2,)), CONV),
        Case(
            ((1, 4, 5, 4), (2, 2, 2, 1), None),
            {"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1), "groups": 2},
        ),
        Case(((2, 2, 3, 4), (4, 1, 3, 2), (4,)), CONV | {"stride": (1, 3), "padding": (1, 2), "groups": 2}),
    ],
    # pooling
    "max_pool2d": [
        kinked(IMAGE, **POOL, dilation=(1, 1)),
        kinked(IMAGE, **POOL | {"ceil_mode": False}, dilation=(3, 2)),
    ],
    "avg_pool2d": [
        Case((IMAGE,), POOL | {"count_include_pad": True, "divisor_override": None}),
        Case((IMAGE,), POOL | {"count_include_pad": False, "divisor_override": None}),
        Case((IMAGE,), POOL | {"count_include_pad": False, "divisor_override": 7, "ceil_mode": False}),
    ],
    "adaptive_avg_pool2d": [Case((IMAGE,), {"output_size": size}) for size in ((1, 1), (3, 2), (5, 7))],
    # normalisation
    "local_response_norm": [
        Case(((2, 5, 2),), {"size": size, "alpha": 0.5, "beta": 0.75, "k": 2.0}) for size in (1, 3, 4, 7, 12)
    ],
    "batch_norm_train": [
        Case(((3, 3, 2, 2), (3,), (3,)), {"eps": 1e-5}),
        Case(((4, 3), None, None), {"eps": 0.1}),
        Case(((2, 3, 2), (3,), None), {"eps": 1e-5}),
    ],
    "batch_norm_eval": [
        Case(shapes, {"mean": MEAN, "var": VAR, "eps": 1e-5})
        for shapes in (((3, 3, 2, 2), (3,), (3,)), ((4, 3), None, None), ((2, 3, 2), None, (3,)))
    ],
    # activations
    "relu": [kinked((3, 4))],
    "leaky_relu": [kinked((3, 4), negative_slope=0.01)],
    "elu": [Case(((3, 4),), {"alpha": alpha}, "apart") for alpha in (1.0, 0.7)],
    **{name: [Case(((3, 4),))] for name in ("sigmoid", "tanh", "silu")},
    "softplus": [
        Case(((3, 4),), {"beta": beta, "threshold": threshold}, "apart")
        for beta, threshold in ((1.0, 20.0), (2.0, 1.2))
    ],
    **{name: [Case(((2, 3, 4),), {"dim": dim}) for dim in (0, 1, 2)] for name in ("softmax", "log_softmax")},
    # losses
    "nll_loss": [
        *(Case((SCORES,), LOSS | {"weight": w, "reduction": r}) for r in EACH_REDUCTION for w in (None, CLASS_WEIGHT)),
        Case(((2, 3, 2),), MAPS | {"weight": CLASS_WEIGHT, "reduction": "mean"}),
    ],
    "cross_entropy": [
        Case((shape,), target | {"weight": w, "reduction": r, "label_smoothing": s})
        for shape, target in ((SCORES, LOSS), ((2, 3, 2), MAPS))
        for r in EACH_REDUCTION
        for w, s in ((None, 0.0), (CLASS_WEIGHT, 0.2))
    ],
    "soft_cross_entropy": [
        Case((shape, shape), {"weight": w, "reduction": r, "label_smoothing": s}, "positive")
        for shape in (SCORES, (2, 3, 2))
        for r in EACH_REDUCTION
        for w, s in ((None, 0.0), (CLASS_WEIGHT, 0.2))
    ],
    "mse_loss": [
        Case(shapes, {"reduction": r}) for shapes in (((2, 3), (2, 3)), ((2, 3), (3,))) for r in EACH_REDUCTION
    ],
}  # fmt: skip
IMPLEMENTATIONS = {"neutral": NEUTRAL} | {room: pairs_of(module) for room, module in ROOMS.items()}


def cases_in(*rooms: str):
    """Every case in every implementation of `rooms` that has the operation."""
    found = [
        pytest.param(IMPLEMENTATIONS[room][name], case, name, id=f"{name}-{i}-{room}")
        for name, cases in CASES.items()
        for room in rooms
        if name in IMPLEMENTATIONS[room]
        for i, case in enumerate(cases)
    ]
    return pytest.mark.parametrize(("pair", "case", "name"), found)


each = cases_in(*IMPLEMENTATIONS)


# ---------------------------------------------------------------------------------------------- the collection

def test_every_pair_has_a_case():
    assert set(CASES) == set(NEUTRAL)


def test_no_two_files_use_a_name_twice():
    """The engine finds an operation's other implementations by its function's name."""
    assert sum(map(len, FAMILIES.values())) == len(NEUTRAL)


@pytest.mark.parametrize("name", NEUTRAL)
def test_both_passes_take_the_same_params(name):
    forward, backward = (inspect.signature(f).parameters for f in NEUTRAL[name])
    params = [p for p in forward if p in CASES[name][0].params]
    assert set(params) == set(CASES[name][0].params)
    assert list(backward)[3:] == params or list(backward)[3:] == ["_"]  # **_: any


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_mirror_names_and_signatures(room):
    for name, pair in pairs_of(ROOMS[room]).items():
        for function, neutral in zip(pair, NEUTRAL[name], strict=True):
            expected = [p if i else "grad_output" for i, p in enumerate(inspect.signature(neutral).parameters)]
            found = [p if i else "grad_output" for i, p in enumerate(inspect.signature(function).parameters)]
            if function is pair.backward:  # what comes second is saved, under whatever name
                expected[1] = found[1] = "saved"
            assert found == expected


# ------------------------------------------------------------------------------------------------ the gradients

@cases_in(*ROOMS)
def test_rooms_compute_the_same(pair: Pair, case: Case, name: str):
    arrays = case.arrays()
    output, _ = pair.forward(*arrays, **case.params)
    assert_close(output, NEUTRAL[name].forward(*arrays, **case.params)[0])


@each
def test_gradients_are_the_numerical_ones(pair: Pair, case: Case, name: str):
    arrays = case.arrays()
    result = run(pair, arrays, **case.params)
    differentiate, tolerance = (complex_step, 1e-12) if case.smooth else (central_difference, 1e-8)
    if name == "to_dtype":
        tolerance = 1e-2  # the difference of two float32
    for i, x in enumerate(arrays):
        if x is None:
            assert result.grads[i] is None
            continue

        def f(moved, i=i):
            others = [None if y is None else y.astype(moved.dtype) for y in arrays]
            return NEUTRAL[name].forward(*others[:i], moved, *others[i + 1 :], **case.params)[0]

        assert_close(result.grads[i], differentiate(f, x, result.grad_output), tolerance)


@each
def test_only_needed_gradients_are_returned_and_they_are_the_same(pair: Pair, case: Case, name: str):
    arrays = case.arrays()
    whole = run(pair, arrays, **case.params).grads
    for needs in itertools.product(*((False,) if x is None else (False, True) for x in arrays)):
        grads = run(pair, arrays, needs, **case.params).grads
        assert len(grads) == len(needs)
        for need, grad, expected in zip(needs, grads, whole, strict=True):
            if need:
                np.testing.assert_array_equal(grad, expected)
            elif len(needs) > 1:  # of a single input the gradient is never asked for in vain
                assert grad is None


# ------------------------------------------------------------------------------------------------- the manners

@each
def test_nothing_is_written_to_what_was_given(pair: Pair, case: Case, name: str):
    arrays, params = case.arrays(), copy.deepcopy(case.params)
    given = [(x, x.copy()) for x in arrays_in(arrays, params)]
    for x, _ in given:
        x.setflags(write=False)
    output, saved = pair.forward(*arrays, **params)
    grad_output = normal(np.random.default_rng(1), np.shape(output))
    given += [(x, x.copy()) for x in arrays_in(output, saved, grad_output)]
    for x, _ in given:
        x.setflags(write=False)
    needs = tuple(x is not None for x in arrays)
    first = pair.backward(grad_output, saved, needs, **params)
    second = pair.backward(grad_output, saved, needs, **params)  # a graph may be walked twice
    for x, before in given:
        np.testing.assert_array_equal(x, before)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@each
def test_gradients_share_no_memory_but_that_of_grad_output(pair: Pair, case: Case, name: str):
    arrays = case.arrays()
    result = run(pair, arrays, **case.params)
    kept = list(arrays_in(arrays, case.params, result.saved, result.output))
    for grad in result.grads:
        if grad is not None:
            assert not any(np.may_share_memory(grad, x) for x in kept)


@each
def test_float32_stays_float32(pair: Pair, case: Case, name: str):
    arrays = {k: v for k, v in case.params.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
    params = case.params | {k: v.astype(np.float32) for k, v in arrays.items()}
    exact = run(pair, case.arrays(), **case.params)
    single = run(pair, case.arrays(np.float32), **params)
    assert single.output.dtype == np.float32
    assert_close(single.output, exact.output.astype(np.float32), 1e-5)
    for grad, expected in zip(single.grads, exact.grads, strict=True):
        if expected is not None:
            assert grad.dtype == np.float32
            assert_close(grad, expected.astype(np.float32), 2e-5)


@each
def test_memory_layout_makes_no_difference(pair: Pair, case: Case, name: str):
    """Arrays in Fortran's order, and views of every second entry of a larger array."""
    arrays = case.arrays()
    plain = run(pair, arrays, **case.params)
    needs = tuple(x is not None for x in arrays)

    def spaced(x):
        larger = np.full([2 * n for n in x.shape], np.nan, dtype=x.dtype)
        view = larger[(..., *[slice(None, None, 2)] * x.ndim)]
        view[...] = x
        return view

    for rearranged in (lambda x: x.copy(order="F"), spaced):
        output, saved = pair.forward(*(None if x is None else rearranged(x) for x in arrays), **case.params)
        assert_close(output, plain.output)
        grads = pair.backward(rearranged(plain.grad_output), saved, needs, **case.params)
        for grad, expected in zip(grads, plain.grads, strict=True):
            if expected is not None:
                assert_close(grad, expected)


def test_on_a_device_kernels_are_run_there():
    neutral = [pair.forward for pairs in families().values() for pair in pairs.values()]
    assert {hasattr(kernel, "__wrapped__") for kernel in neutral} == {places.on_a_device()}  # by places.crossing
