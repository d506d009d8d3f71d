"""Operations that move entries: each is held to where it says an entry goes, by moving entry numbers instead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

from .helpers import drawn, dtypes, implementations, normal, run, seeds

shapes = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)


def assert_moves(name: str, arrays, moved: np.ndarray, seed: int, **params) -> None:
    """Check the operation on `arrays`, given `moved`: for each entry of the output the number of the input's entry
    that it must hold (counted through all the arrays, −1 for none). Backward, an entry gets the sum of the gradients
    of the places where it went.
    """
    result = run(implementations(name)["neutral"], arrays, seed=seed, **params)
    entries = np.concatenate([x.ravel() for x in arrays])
    table = np.append(entries, entries.dtype.type(params.get("value", 0)))  # whose entry −1 is the value
    np.testing.assert_array_equal(result.output, table[moved], strict=True)
    collected = np.zeros(len(entries) + 1, dtype=entries.dtype)
    np.add.at(collected, moved.ravel(), result.grad_output.ravel())
    parts = np.split(collected[:-1], np.cumsum([x.size for x in arrays])[:-1])
    for grad, x, part in zip(result.grads, arrays, parts, strict=True):
        np.testing.assert_allclose(grad, part.reshape(x.shape), rtol=1e-6)
        assert grad.dtype == x.dtype


def numbered(shape) -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape)


@drawn
@given(shapes, st.randoms(use_true_random=False), dtypes, seeds)
def test_permute(shape, random, dtype, seed):
    dims = tuple(random.sample(range(len(shape)), len(shape)))
    moved = np.empty([shape[d] for d in dims], dtype=int)
    for at in np.ndindex(shape):
        moved[tuple(at[d] for d in dims)] = numbered(shape)[at]
    assert_moves("permute", (normal(np.random.default_rng(seed), shape, dtype),), moved, seed, dims=dims)


@drawn
@given(shapes, st.randoms(use_true_random=False), dtypes, seeds)
def test_reshape(shape, random, dtype, seed):
    wanted = tuple(random.sample([*shape, 1], len(shape) + 1))
    moved = np.array(range(int(np.prod(shape))), dtype=int).reshape(wanted)  # read and written row by row
    assert_moves("reshape", (normal(np.random.default_rng(seed), shape, dtype),), moved, seed, shape=wanted)


@drawn
@given(st.data(), shapes, dtypes, seeds)
def test_getitem_with_ints_slices_and_ellipses(data, shape, dtype, seed):
    index = data.draw(basic_indices(shape, allow_newaxis=True))
    moved = np.asarray(numbered(shape)[index])
    assert_moves("getitem", (normal(np.random.default_rng(seed), shape, dtype),), moved, seed, index=index)


@pytest.mark.parametrize(
    "index",
    [
        np.array([2, 0, 2, 2]),
        np.array([[0, 0], [-1, 1]]),
        (np.array([0, 0, 1]), np.array([1, 1, 0])),
        (slice(1, None), np.array([3, 3])),
        (np.array([1, 1]), slice(None), np.array([0, 0])),
        (Ellipsis, np.array([0, 0]), None),
        (0, np.array([1, 1])),
        np.array([True, False, True]),
        (slice(None), np.array([True, False, True, True])),
        np.arange(3 * 4 * 2).reshape(3, 4, 2) % 5 == 0,
        np.zeros(0, dtype=int),
        np.array(1),
    ],
    ids=str,
)
def test_getitem_with_arrays(index, rng):
    """An entry that is taken twice gets both gradients."""
    assert_moves("getitem", (normal(rng, (3, 4, 2)),), np.asarray(numbered((3, 4, 2))[index]), 0, index=index)


@drawn
@given(st.data(), shapes, st.integers(1, 4), dtypes, seeds)
def test_cat(data, shape, count, dtype, seed):
    dim = data.draw(st.integers(0, len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    rng = np.random.default_rng(seed)
    arrays = tuple(normal(rng, (*shape[:dim], n, *shape[dim + 1 :]), dtype) for n in lengths)
    numbers = np.split(np.arange(sum(x.size for x in arrays)), np.cumsum([x.size for x in arrays])[:-1])
    moved = np.empty((*shape[:dim], sum(lengths), *shape[dim + 1 :]), dtype=int)
    starts = np.cumsum([0, *lengths])
    for x, number, start in zip(arrays, numbers, starts, strict=False):
        for at, n in zip(np.ndindex(x.shape), number, strict=True):
            moved[(*at[:dim], start + at[dim], *at[dim + 1 :])] = n
    assert_moves("cat", arrays, moved, seed, dim=dim)


def test_cat_skips_the_empty_vectors_of_old():
    """PyTorch's legacy: (0,) beside operands of more axes counts for nothing, and gets an empty gradient."""
    x = np.ones((2, 3))
    assert_moves("cat", (np.empty(0), x, np.empty(0)), numbered((2, 3)), 0, dim=1)
    assert_moves("cat", (np.empty(0), np.empty(0)), np.empty(0, dtype=int), 0, dim=0)


@drawn
@given(st.data(), shapes, st.sampled_from([0.0, -1.5]), dtypes, seeds)
def test_pad(data, shape, value, dtype, seed):
    """Entry i goes to i + before, and where that is outside it is cut off; what nothing goes to is the value."""
    widths = []
    for n in shape:
        before = data.draw(st.integers(-n, 2))
        widths.append((before, data.draw(st.integers(-(n + before), 2))))
    moved = np.full([n + before + after for n, (before, after) in zip(shape, widths, strict=True)], -1)
    for at in np.ndindex(shape):
        to = tuple(i + before for i, (before, _) in zip(at, widths, strict=True))
        if all(0 <= i < n for i, n in zip(to, moved.shape, strict=True)):
            moved[to] = numbered(shape)[at]
    x = normal(np.random.default_rng(seed), shape, dtype)
    assert_moves("pad", (x,), moved, seed, widths=tuple(widths), value=value)
