"""Top-k error against sorting each image's scores, and its edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import Tensor
from minicnn.metrics import in_top_k, topk_error


def sorted_first(row, label, k):
    """Whether `label` is among the first `k` of the classes sorted by score, then by number."""
    return label in sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


@given(images=st.integers(1, 6), classes=st.integers(1, 8), levels=st.integers(1, 10), seed=st.integers(0, 1 << 16))
def test_equals_sorting(images, classes, levels, seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, classes + 1))
    scores = rng.integers(0, levels, (images, classes)).astype(np.float32)  # few levels, many ties
    labels = rng.integers(0, classes, images)
    expected = [sorted_first(row.tolist(), int(label), k) for row, label in zip(scores, labels, strict=True)]
    found = in_top_k(scores, labels, k)
    assert found.dtype == bool and found.tolist() == expected
    assert topk_error(scores, labels, k) == pytest.approx(1 - np.mean(expected))


def test_top_1_is_what_argmax_says(rng):
    scores, labels = rng.integers(0, 4, (200, 10)).astype(float), rng.integers(0, 10, 200)
    np.testing.assert_array_equal(in_top_k(scores, labels, 1), scores.argmax(axis=1) == labels)


def test_top_5_of_a_known_example():
    scores = np.array([[9, 8, 7, 6, 5, 4, 3], [1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 0, 0]], np.float32)
    assert in_top_k(scores, [4, 1, 5]).tolist() == [True, False, False]
    assert in_top_k(scores, [5, 2, 4]).tolist() == [False, True, True]
    assert topk_error(scores, [4, 1, 5]) == pytest.approx(2 / 3)


def test_a_network_that_says_nothing_is_right_by_chance():
    labels = np.arange(1000) % 10
    assert topk_error(np.zeros((1000, 10)), labels) == 0.5
    assert topk_error(np.zeros((1000, 10)), labels, k=1) == 0.9


def test_scores_that_are_not_numbers_win_nothing():
    nan = np.nan
    assert not in_top_k(np.array([[nan, 1, 0], [0, nan, 1], [nan, nan, nan]]), [0, 2, 2], 1).any()
    assert topk_error(np.full((4, 10), nan), [0, 1, 2, 9]) == 1.0


def test_takes_tensors_lists_and_every_type_of_label(rng):
    scores, labels = rng.standard_normal((5, 7)), rng.integers(0, 7, 5)
    expected = topk_error(scores, labels, 2)
    assert topk_error(Tensor(scores, requires_grad=True), Tensor(labels), 2) == expected
    assert topk_error(scores.tolist(), labels.tolist(), 2) == expected
    assert topk_error(scores, labels.astype(np.uint8), 2) == expected
    assert isinstance(expected, float)


@pytest.mark.parametrize(
    ("scores", "labels", "k", "error", "reason"),
    [
        (np.zeros(3), [0], 1, ValueError, r"scores \(3,\) and labels \(1,\)"),
        (np.zeros((2, 3)), [0], 1, ValueError, r"scores \(2, 3\) and labels \(1,\)"),
        (np.zeros((2, 3)), [[0], [1]], 1, ValueError, r"labels \(2, 1\)"),
        (np.zeros((2, 3)), [0.0, 1.0], 1, TypeError, "labels are float64, expected integers"),
        (np.zeros((2, 3)), [0, 3], 1, ValueError, "labels go from 0 to 3, there are 3 classes"),
        (np.zeros((2, 3)), [-1, 0], 1, ValueError, "labels go from -1 to 0"),
        (np.zeros((2, 3)), [0, 1], 5, ValueError, "k is 5, and must be from 1 to the number of classes, 3"),
        (np.zeros((2, 3)), [0, 1], 0, ValueError, "k is 0"),
        (np.zeros((0, 3)), np.zeros(0, int), 1, ValueError, "there are no images"),
    ],
)
def test_what_makes_no_sense_is_refused(scores, labels, k, error, reason):
    with pytest.raises(error, match=reason):
        topk_error(scores, labels, k)


def test_no_images_no_hits():
    assert in_top_k(np.zeros((0, 3)), np.zeros(0, int), 1).shape == (0,)
