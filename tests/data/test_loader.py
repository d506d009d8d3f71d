"""Batches: every item once an epoch, the same ones for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicnn import backend
from minicnn.data import ArrayDataset, Compose, DataLoader, Normalize, RandomShift, Subset

N = 25


@pytest.fixture
def digits(rng):
    return ArrayDataset(rng.integers(0, 256, (N, 6, 5)).astype(np.uint8), np.arange(N))


def labels(loader):
    """The labels of one epoch, which are the items' numbers here."""
    return np.concatenate([labels for _, labels in loader])


def same(a, b):
    return all(
        np.array_equal(xa, xb) and np.array_equal(ya, yb) for (xa, ya), (xb, yb) in zip(list(a), list(b), strict=True)
    )


def test_what_a_batch_is(digits):
    batches = list(DataLoader(digits, batch_size=8))
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 1]
    for images, labels in batches:
        assert images.dtype == np.float32 and labels.dtype == np.int64
        assert images.shape == (len(labels), 1, 6, 5)
        assert np.array_equal(images, digits.images[labels][:, None] / np.float32(255))
    assert next(iter(DataLoader(digits)))[0].shape == (1, 1, 6, 5)


@given(st.integers(0, 12), st.integers(1, 15), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_every_item_once_an_epoch(n, batch_size, shuffle, drop_last, seed):
    dataset = ArrayDataset(np.zeros((n, 2, 2), np.float32), np.arange(n))
    loader = DataLoader(dataset, batch_size, shuffle, drop_last, seed)
    for _ in range(3):
        batches = list(loader)
        assert len(batches) == len(loader)
        seen = [int(label) for _, labels in batches for label in labels]
        assert len(seen) == len(set(seen)) == (n // batch_size * batch_size if drop_last else n)
        assert set(seen) <= set(range(n))
        assert all(len(labels) == batch_size for _, labels in batches[:-1])
        if not shuffle:
            assert seen == list(range(len(seen)))


def test_each_epoch_has_its_own_order_which_the_seed_gives(digits):
    loader, again = (DataLoader(digits, 4, shuffle=True, seed=3) for _ in range(2))
    orders = [tuple(labels(loader)) for _ in range(5)]
    assert len(set(orders)) == 5
    assert orders == [tuple(labels(again)) for _ in range(5)]
    assert tuple(labels(DataLoader(digits, 4, shuffle=True, seed=4))) not in orders
    again.epoch = 2
    assert tuple(labels(again)) == orders[2]
    assert (again.epoch, loader.epoch) == (3, 5)


def test_the_order_does_not_depend_on_the_batch_size(digits):
    assert np.array_equal(
        labels(DataLoader(digits, 4, shuffle=True, seed=3)), labels(DataLoader(digits, 7, shuffle=True, seed=3))
    )


def test_orders_are_even():
    dataset = ArrayDataset(np.zeros((4, 1, 1), np.float32), np.arange(4))
    loader = DataLoader(dataset, 4, shuffle=True, seed=0)
    places = np.zeros((4, 4))
    for _ in range(2000):
        places[labels(loader), range(4)] += 1
    assert (np.abs(places - 500) < 6 * np.sqrt(500)).all()


@pytest.mark.parametrize("where", ["loader", "data set", "composed"])
def test_augmentation_is_the_seeds_too(digits, where):
    def loader(seed):
        shift = RandomShift(2)
        if where == "composed":
            shift = Compose([shift, Normalize(0.5, 0.5)])
        if where == "data set":
            return DataLoader(ArrayDataset(digits.images, digits.labels, shift), 4, seed=seed)
        return DataLoader(digits, 4, seed=seed, transform=shift)

    assert same(loader(1), loader(1))
    assert not same(loader(1), loader(2))
    one = loader(1)
    first, second = list(one), list(one)
    assert not same(first, second)  # another epoch, other shifts
    one.epoch = 1
    assert same(one, second)
    one.epoch = 1
    iterator = iter(one)
    next(iterator)
    backend.generator().random(10)  # what others draw meanwhile changes nothing
    assert np.array_equal(next(iterator)[0], second[1][0])


def test_each_batch_has_its_own_shifts(digits):
    same_image = ArrayDataset(np.repeat(digits.images[:1], 40, axis=0), np.zeros(40, int))
    first, second = (images for images, _ in DataLoader(same_image, 20, seed=0, transform=RandomShift(2)))
    assert not np.array_equal(first, second)


def test_two_passes_at_once_do_not_disturb_each_other(digits):
    loader = DataLoader(digits, 4, shuffle=True, seed=3, transform=RandomShift(2))
    epochs = [list(loader), list(loader)]
    loader.epoch = 0
    first, second = iter(loader), iter(loader)
    pairs = list(zip(first, second, strict=True))
    assert same([a for a, _ in pairs], epochs[0]) and same([b for _, b in pairs], epochs[1])


def test_transform_is_applied_to_whole_batches(digits):
    shapes = []

    def transform(images):
        shapes.append(images.shape)
        return images + 1

    images, _ = next(iter(DataLoader(digits, 4, transform=transform)))
    assert shapes == [(4, 1, 6, 5)]
    assert np.array_equal(images, digits.batch(range(4))[0] + 1)


def test_left_out_the_seed_follows_from_manual_seed(digits):
    orders = []
    for seed in (1, 1, 2):
        backend.manual_seed(seed)
        pair = [DataLoader(digits, shuffle=True) for _ in range(2)]
        orders.append([tuple(labels(loader)) for loader in pair])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1]


def test_generator_gives_the_seed(digits):
    orders = [tuple(labels(DataLoader(digits, shuffle=True, generator=np.random.default_rng(s)))) for s in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_any_object_with_items_will_do(digits):
    items = [digits[i] for i in range(N)]
    assert same(DataLoader(items, 4, shuffle=True, seed=1), DataLoader(digits, 4, shuffle=True, seed=1))
    images, numbers = next(iter(DataLoader(items, 4)))
    assert images.dtype == np.float32 and numbers.dtype == np.int64


def test_of_a_subset(digits):
    loader = DataLoader(Subset(digits, range(5, 15)), 4, shuffle=True, seed=0)
    assert len(loader) == 3 and sorted(labels(loader)) == list(range(5, 15))


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None, "8"])
def test_refuses_the_batch_size(digits, batch_size):
    with pytest.raises(ValueError, match=f"DataLoader: batch_size must be .*, got {batch_size!r}"):
        DataLoader(digits, batch_size)


def test_refuses_seed_and_generator_together(digits):
    with pytest.raises(ValueError, match="DataLoader: seed= and generator= exclude each other"):
        DataLoader(digits, seed=1, generator=np.random.default_rng(1))
