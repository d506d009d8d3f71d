"""Data sets in memory, parts of them, and splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend
from minicnn.data import ArrayDataset, RandomShift, Subset, random_split
from minicnn.data.dataset import fetch


@pytest.fixture
def digits(rng):
    return ArrayDataset(rng.integers(0, 256, (10, 5, 4)).astype(np.uint8), rng.integers(0, 10, 10).astype(np.uint8))


class OneByOne:
    """The least that is a data set."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


def test_items_of_bytes(digits):
    image, label = digits[3]
    assert image.dtype == np.float32 and image.shape == (1, 5, 4)
    assert np.array_equal(image[0], digits.images[3] / np.float32(255))
    assert type(label) is int and label == digits.labels[3]
    assert digits.labels.dtype == np.int64
    assert np.array_equal(digits[-1][0], digits[9][0])
    assert len(list(digits)) == len(digits) == 10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_items_of_floats_are_as_given(rng, dtype):
    images = rng.standard_normal((4, 3, 5, 5)).astype(dtype)
    dataset = ArrayDataset(images, [0, 1, 2, 3])
    assert dataset[2][0].dtype == dtype and np.array_equal(dataset[2][0], images[2])
    assert np.array_equal(dataset.batch([1, 0])[0], images[[1, 0]])


def test_transform_of_items_and_batches(digits):
    dataset = ArrayDataset(digits.images, digits.labels, transform=lambda x: 2 * x)
    assert np.array_equal(dataset[3][0], 2 * digits[3][0])
    assert np.array_equal(dataset.batch([3, 4])[0], 2 * digits.batch([3, 4])[0])
    shifted = ArrayDataset(digits.images, digits.labels, transform=RandomShift(2))
    images, _ = shifted.batch(range(10), np.random.default_rng(1))
    assert np.array_equal(images, RandomShift(2)(digits.batch(range(10))[0], np.random.default_rng(1)))


@pytest.mark.parametrize(
    "images, labels, error, message",
    [
        (np.zeros((3, 4)), [0, 1, 2], ValueError, r"images have shape \(3, 4\), expected \(N, H, W\)"),
        (np.zeros((3, 4, 4), int), [0, 1, 2], TypeError, "images are int64, expected uint8"),
        (np.zeros((3, 4, 4)), [0.0, 1, 2], TypeError, "labels are float64, expected integers"),
        (np.zeros((3, 4, 4)), [0, 1], ValueError, r"images \(3, 4, 4\) need labels of shape \(3,\).*got \(2,\)"),
        (np.zeros((3, 4, 4)), [[0], [1], [2]], ValueError, r".* got \(3, 1\)"),
    ],
)
def test_arrays_that_make_no_data_set(images, labels, error, message):
    with pytest.raises(error, match=f"ArrayDataset: {message}"):
        ArrayDataset(images, labels)


@pytest.mark.parametrize("index", [10, -11])
def test_no_such_item(digits, index):
    with pytest.raises(IndexError, match=f"item {index} of 10"):
        digits[index]


@pytest.mark.parametrize("wrap", [lambda dataset: dataset, OneByOne], ids=["batch", "one by one"])
def test_subset(digits, wrap):
    part = Subset(wrap(digits), [7, 0, -1])
    assert len(part) == 3
    assert np.array_equal(part[0][0], digits[7][0]) and part[2][1] == digits[9][1]
    images, labels = part.batch([2, 0])
    assert np.array_equal(images, digits.batch([9, 7])[0]) and np.array_equal(labels, digits.labels[[9, 7]])
    assert labels.dtype == np.int64
    assert [label for _, label in part] == digits.labels[[7, 0, -1]].tolist()
    assert np.array_equal(Subset(part, [1])[0][0], digits[0][0])


def test_a_subset_hands_the_generator_on(digits):
    dataset = ArrayDataset(digits.images, digits.labels, transform=RandomShift(2))
    images, _ = Subset(dataset, [4, 5, 6]).batch([0, 2], np.random.default_rng(3))
    assert np.array_equal(images, dataset.batch([4, 6], np.random.default_rng(3))[0])


def test_subset_of_items_that_are_not_there(digits):
    with pytest.raises(IndexError, match="no item 10 in a data set of 10"):
        Subset(digits, [0, 10])


@pytest.mark.parametrize("indices", [[True, False], [0.0, 1.5]])
def test_subset_refuses_what_are_no_indices(digits, indices):
    with pytest.raises(TypeError, match="Subset: indices are (bool|float64), expected integers"):
        Subset(digits, indices)


def test_an_empty_subset(digits):
    assert list(Subset(digits, [])) == []


def test_images_of_several_sizes_make_no_batch():
    with pytest.raises(ValueError, match=r"list gave \(1, 2, 2\) and \(1, 2, 3\)"):
        fetch([(np.zeros((1, 2, 2)), 0), (np.zeros((1, 2, 3)), 1)], np.array([0, 1]))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 2**32))
def test_random_split_is_a_partition(lengths, seed):
    total = sum(lengths)
    dataset = ArrayDataset(np.zeros((total, 1, 1)), np.arange(total))
    parts = random_split(dataset, lengths, seed=seed)
    assert [len(part) for part in parts] == lengths
    assert sorted(np.concatenate([part.indices for part in parts])) == list(range(total))
    again = random_split(dataset, lengths, seed=seed)
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(parts, again, strict=True))


def test_random_split_is_random(digits):
    large = ArrayDataset(np.zeros((1000, 1, 1)), np.arange(1000))
    first, other = random_split(large, [900, 100], seed=0)[1], random_split(large, [900, 100], seed=1)[1]
    assert len(set(first.indices) & set(other.indices)) < 50
    assert 300 < first.indices.mean() < 700
    by_generator = random_split(large, [900, 100], generator=np.random.default_rng(0))[1]
    assert np.array_equal(by_generator.indices, first.indices)


@pytest.mark.parametrize(
    "lengths, expected",
    [([0.5, 0.5], [5, 5]), ([0.75, 0.25], [8, 2]), ([0.29, 0.29, 0.42], [3, 3, 4]), ([1.0], [10]), ([10], [10]),
     ([0.0, 1.0], [0, 10])],
)  # fmt: skip
def test_random_split_by_fractions(digits, lengths, expected):
    assert [len(part) for part in random_split(digits, lengths, seed=0)] == expected


@pytest.mark.parametrize("lengths", [[5, 4], [11], [], [0.5, 0.4], [5.5, 4.5], [12, -2], [1.5, -0.5], [5.0, 5.0]])
def test_random_split_refuses(digits, lengths):
    with pytest.raises(ValueError, match="random_split: lengths"):
        random_split(digits, lengths)


def test_seed_and_generator(digits):
    with pytest.raises(ValueError, match="seed= and generator= exclude each other"):
        random_split(digits, [10], seed=0, generator=np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"generator must be a numpy\.random\.Generator, got int"):
        random_split(digits, [10], generator=0)


def test_left_out_the_seed_follows_from_manual_seed_and_draws_nothing_from_it(digits):
    drawn = []
    for split in (True, True, False):
        backend.manual_seed(7)
        if split:
            drawn.append(random_split(digits, [10])[0].indices)
        drawn.append(backend.generator().random(3))
    assert np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(drawn[1], drawn[3]) and np.array_equal(drawn[1], drawn[4])
