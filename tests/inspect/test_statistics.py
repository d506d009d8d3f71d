"""What is said of an array in a line."""

import math

import numpy as np
import pytest

from minicnn.inspect.statistics import in_words, statistics


def test_statistics():
    found = statistics(np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]], np.float32))
    assert (found.shape, found.dtype, found.norm, found.zeros) == ((2, 3), "float32", 5.0, 4)
    assert (found.minimum, found.maximum, found.nan, found.infinite) == (-4, 3, 0, 0)
    assert found.mean == pytest.approx(-1 / 6)
    assert str(found) == "2×3 float32, norm 5, from -4 to 3, 66.7 % zeros"


def test_what_is_no_number_is_counted_and_left_out():
    found = statistics(np.array([np.nan, np.inf, -np.inf, 2.0]))
    assert (found.nan, found.infinite, found.minimum, found.maximum, found.mean) == (1, 2, 2, 2, 2)
    assert math.isnan(found.norm) and str(found).endswith("1 NaN, 2 infinite")


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_no_finite_entry(values):
    found = statistics(np.array(values))
    assert math.isnan(found.mean) and math.isnan(found.minimum) and "from" not in str(found)


def test_tiny_and_huge_numbers_keep_their_norm():
    assert statistics(np.full(4, 1e-30, np.float32)).norm == pytest.approx(2e-30, rel=1e-6)
    assert statistics(np.full(4, 1e30, np.float32)).norm == pytest.approx(2e30, rel=1e-6)


def test_in_words():
    assert in_words(np.float32(0.5)[()]) == "0.5 float32" and in_words(np.array(3)) == "3 int64"
    assert in_words(np.array([1.0, -2.5])) == "[1, -2.5] float64"
    assert in_words(np.ones(9)) == "9 float64, norm 3, from 1 to 1"


def test_the_norm_of_numbers_whose_squares_are_no_numbers():
    for size in (1e-250, 1e250):
        assert statistics(np.full(4, size)).norm == pytest.approx(2 * size, rel=1e-12)
