"""Batches: every item once an epoch, the same ones for the same seed."""

import gc
import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import backend
from minicnn.data import (
    ArrayDataset,
    Compose,
    DataLoader,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomShift,
    Subset,
    SubsetRandomSampler,
)

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


# ----------------------------------------------------------------------------------------------------- workers


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("minicnn-data")]


@settings(max_examples=30)
@given(st.integers(0, 30), st.integers(1, 7), st.booleans(), st.booleans(), st.integers(1, 4), st.integers(0, 2**32))
def test_any_number_of_workers_gives_the_same_batches(n, batch_size, shuffle, drop_last, prefetch_factor, seed):
    images = np.random.default_rng(0).integers(0, 256, (n, 6, 5)).astype(np.uint8)
    dataset = ArrayDataset(images, np.arange(n), Compose([RandomCrop(5, 1), RandomHorizontalFlip()]))
    none, *others = (
        DataLoader(
            dataset, batch_size, shuffle, drop_last, seed, transform=RandomShift(1), num_workers=number,
            prefetch_factor=prefetch_factor,
        )
        for number in (0, 1, 4)
    )  # fmt: skip
    for _ in range(2):
        batches = list(none)
        seen = [int(label) for _, labels in batches for label in labels]
        assert len(seen) == len(set(seen)) == (n // batch_size * batch_size if drop_last else n)
        for other in others:
            assert same(batches, other)
    assert workers() == []


class Slow:
    """Items that take a while; counts how many were made, and at how many places at once."""

    def __init__(self, n, broken=()):
        self.n, self.broken, self.made, self.busy, self.most = n, broken, 0, 0, 0
        self.lock = threading.Lock()

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        with self.lock:
            self.made += 1
            self.busy += 1
            self.most = max(self.most, self.busy)
        time.sleep(0.003)
        with self.lock:
            self.busy -= 1
        if index in self.broken:
            raise ValueError(f"photographs/{index}.jpg: broken")
        return np.full((1, 1, 1), index, np.float32), index


def test_workers_work_at_once_and_not_too_far_ahead():
    dataset = Slow(200)
    iterator = iter(DataLoader(dataset, 1, num_workers=4, prefetch_factor=3))
    next(iterator)
    time.sleep(0.3)  # they could make far more in that time
    assert dataset.made <= 4 * 3 + 1
    assert len(list(iterator)) == 199 and dataset.most > 1
    assert workers() == []


def test_nothing_starts_before_the_first_batch_is_asked_for():
    dataset = Slow(8)
    iterator = iter(DataLoader(dataset, num_workers=2))
    assert workers() == [] and dataset.made == 0
    assert next(iterator)[1] == [0]


@pytest.mark.parametrize("leave", ["break", "close", "exception", "forgotten"])
def test_a_pass_that_is_left_leaves_no_thread(leave):
    loader = DataLoader(Slow(100), num_workers=1, prefetch_factor=60)
    if leave == "break":
        for _ in loader:
            break
    elif leave == "close":
        iterator = iter(loader)
        next(iterator)
        iterator.close()
    elif leave == "exception":
        with pytest.raises(KeyboardInterrupt):
            for _ in loader:
                raise KeyboardInterrupt
    else:
        iterator = iter(loader)
        next(iterator)
        del iterator
    gc.collect()
    assert workers() == [] and loader.dataset.made < 20


@pytest.mark.parametrize("number", [0, 1, 4])
def test_what_goes_wrong_in_a_worker_is_raised_where_its_batch_would_come(number):
    loader = DataLoader(Slow(40, broken=(13, 14)), 2, num_workers=number)
    seen = []
    with pytest.raises(ValueError, match=r"photographs/13\.jpg: broken"):
        for _, numbers in loader:
            seen += numbers.tolist()
    assert seen == list(range(12)) and workers() == []
    assert loader.state_dict()["batch"] == 6


def test_settings_of_numpy_reach_the_workers(digits):
    def overflow(images):
        return images * np.float32(3e38) * 10

    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        list(DataLoader(digits, 5, transform=overflow, num_workers=2))


@pytest.mark.parametrize("where", ["loader", "data set", "composed", "subset"])
def test_a_transform_with_a_generator_of_its_own_and_workers_exclude_each_other(digits, where):
    shift = RandomShift(1, generator=np.random.default_rng(0))
    dataset, transform = digits, shift
    if where == "composed":
        transform = Compose([Normalize(0, 1), Compose([shift])])
    elif where != "loader":
        dataset, transform = ArrayDataset(digits.images, digits.labels, shift), None
        dataset = Subset(dataset, range(4)) if where == "subset" else dataset
    with pytest.raises(ValueError, match="a transform has a generator of its own"):
        DataLoader(dataset, transform=transform, num_workers=1)
    assert len(list(DataLoader(dataset, 30, transform=transform))) == 1


@pytest.mark.parametrize("option", ["num_workers", "prefetch_factor"])
@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_refuses_numbers_of_workers(digits, option, value):
    with pytest.raises(ValueError, match=f"DataLoader: {option} must be a whole number, . or more, got {value!r}"):
        DataLoader(digits, **{option: value})


# ------------------------------------------------------------------------------------------------------- resuming


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(1, 7), st.booleans(), st.integers(0, 3), st.data())
def test_a_loader_goes_on_where_another_was(n, batch_size, drop_last, number, data):
    """Three epochs without interruption, and with one after any batch: the same batches."""
    images = np.random.default_rng(0).integers(0, 256, (n, 4, 4)).astype(np.uint8)

    def loader(seed):
        dataset = ArrayDataset(images, np.arange(n))
        return DataLoader(
            dataset, batch_size, True, drop_last, seed, transform=RandomShift(2), num_workers=number
        )

    whole = [list(epoch) for epoch in [loader(5)] * 3]
    stop = data.draw(st.integers(0, 3 * len(whole[0])))
    first, batches, count = loader(5), [], 0
    state = first.state_dict()
    for _ in range(3):
        for batch in first:
            if count == stop:
                break
            batches.append(batch)
            count += 1
            state = json.loads(json.dumps(first.state_dict()))
        else:
            state = first.state_dict()
            continue
        break
    second = loader(77)
    second.load_state_dict(state)
    while second.epoch < 3:
        batches += second
    assert same(batches, [batch for epoch in whole for batch in epoch])


def test_what_the_state_says(digits):
    loader = DataLoader(digits, 10, seed=3, num_workers=2)
    seed = loader.seed
    numbers = {"seed": seed, "batch_size": 10, "items": N}
    assert loader.state_dict() == {**numbers, "epoch": 0, "batch": 0}
    iterator = iter(loader)
    assert loader.state_dict() == {**numbers, "epoch": 0, "batch": 0}
    for k in range(3):
        next(iterator)
        assert loader.state_dict() == {**numbers, "epoch": 0, "batch": k + 1}  # whatever was made ahead
    assert next(iterator, None) is None
    assert loader.state_dict() == {**numbers, "epoch": 1, "batch": 0}
    other = DataLoader(digits, 10, seed=4)
    other.load_state_dict({**numbers, "epoch": 7, "batch": 2})
    assert other.state_dict() == {**numbers, "epoch": 7, "batch": 2} and other.epoch == 7
    assert [len(y) for _, y in other] == [5] and other.epoch == 8
    other.load_state_dict({**numbers, "epoch": 7, "batch": 3})
    assert list(other) == [] and [len(y) for _, y in other] == [10, 10, 5]
    other.load_state_dict({**numbers, "epoch": 7, "batch": 2})
    other.epoch = 4
    assert other.state_dict() == {**numbers, "epoch": 4, "batch": 0}


def test_the_order_of_a_sampler_without_order_is_kept(digits):
    loader = DataLoader(digits, 1, sampler=[5, 3, 9])
    next(iter(loader))
    state = loader.state_dict()
    assert state["order"] == [5, 3, 9] and state["batch"] == 1
    other = DataLoader(digits, 1, sampler=[0, 1, 2])
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert labels(other).tolist() == [3, 9] and labels(other).tolist() == [0, 1, 2]
    assert "order" not in DataLoader(digits, sampler=SubsetRandomSampler([1])).state_dict()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 4}, "the state is of a loader with batch_size 4, this one has 10"),
        ({"items": 4}, "the state is of a loader with items 4, this one has 25"),
        ({"batch": 4}, "at batch 4 of 3"),
        ({"order": [1]}, "or has another order"),
        ({"epoch": -1}, "no state of a loader"),
        ({"seed": "1"}, "no state of a loader"),
        ({"batch": None}, "no state of a loader"),
    ],
)
def test_refuses_another_state(digits, change, message):
    loader = DataLoader(digits, 10, seed=3)
    before = loader.state_dict()
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict({**before, **change})
    assert loader.state_dict() == before
