"""Samplers: which items an epoch has."""

import numpy as np
import pytest

from minicnn import backend
from minicnn.data import (
    ArrayDataset,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)


@pytest.fixture
def dataset():
    return ArrayDataset(np.zeros((20, 1, 1), np.float32), np.arange(20))


def drawn(sampler, seed=0):
    order = sampler.order(np.random.default_rng(seed))
    assert len(order) == len(sampler) and order.dtype == np.int64
    return order.tolist()


def test_sequential():
    assert drawn(SequentialSampler("abcd")) == [0, 1, 2, 3] == list(SequentialSampler("abcd"))


def test_random():
    sampler = RandomSampler(range(50))
    assert sorted(drawn(sampler)) == list(range(50)) and drawn(sampler) == drawn(sampler) != drawn(sampler, 1)
    assert len(set(drawn(RandomSampler(range(50), num_samples=7)))) == 7
    twice = drawn(RandomSampler(range(50), num_samples=120))
    assert sorted(twice[:50]) == sorted(twice[50:100]) == list(range(50)) and twice[:50] != twice[50:100]
    assert len(set(twice[100:])) == 20
    assert drawn(RandomSampler([])) == []


def test_random_with_replacement():
    counts = np.bincount(drawn(RandomSampler(range(10), replacement=True, num_samples=10_000)), minlength=10)
    assert (np.abs(counts - 1000) < 6 * np.sqrt(900)).all() and len(set(counts)) > 1


def test_subset():
    assert sorted(drawn(SubsetRandomSampler([3, 1, 7]))) == [1, 3, 7]
    assert len({tuple(drawn(SubsetRandomSampler([3, 1, 7]), seed)) for seed in range(50)}) == 6


def test_weighted():
    counts = np.bincount(drawn(WeightedRandomSampler([0, 1, 3], 8000)), minlength=3)
    assert counts[0] == 0 and abs(counts[1] - 2000) < 6 * np.sqrt(1500)
    assert sorted(drawn(WeightedRandomSampler([1e308, 0, 1e308], 2, replacement=False))) == [0, 2]


def test_iterating_draws_from_minicnns_generator():
    orders = []
    for seed in (1, 1, 2):
        backend.manual_seed(seed)
        orders.append(list(RandomSampler(range(30))))
    assert orders[0] == orders[1] != orders[2]


def test_in_a_loader(dataset):
    loader = DataLoader(dataset, 4, sampler=SubsetRandomSampler(range(5, 15)), seed=3)
    assert len(loader) == 3 and len(DataLoader(dataset, 4, drop_last=True, sampler=range(7))) == 1
    epochs = [np.concatenate([labels for _, labels in loader]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(5, 15)) and epochs[0] != epochs[1]
    assert np.concatenate([y for _, y in DataLoader(dataset, 2, sampler=[4, 4, 2])]).tolist() == [4, 4, 2]
    shuffled, sampled = (
        DataLoader(dataset, 20, seed=3, **how) for how in ({"shuffle": True}, {"sampler": RandomSampler(dataset)})
    )
    assert np.array_equal(next(iter(shuffled))[1], next(iter(sampled))[1])


def test_a_loader_refuses(dataset):
    with pytest.raises(ValueError, match="sampler= decides on the order, and excludes shuffle=True"):
        DataLoader(dataset, shuffle=True, sampler=SequentialSampler(dataset))
    with pytest.raises(IndexError, match="the sampler gave 20, and there are 20 items"):
        iter(DataLoader(dataset, sampler=[1, 20]))

    class Short(Sampler):
        def __len__(self):
            return 3

        def order(self, generator):
            return np.arange(2)

    with pytest.raises(ValueError, match="the sampler gave 2 indices, its length is 3"):
        iter(DataLoader(dataset, sampler=Short()))


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: RandomSampler([1], num_samples=0),
            "RandomSampler: num_samples must be a whole number, 1 or more, got 0",
        ),
        (lambda: WeightedRandomSampler([1, 2], 1.5), "num_samples must be"),
        (lambda: WeightedRandomSampler([1, -2], 1), "weights must be a list of finite numbers"),
        (lambda: WeightedRandomSampler([0, 0], 1), "weights must be"),
        (lambda: WeightedRandomSampler([np.inf], 1), "weights must be"),
        (lambda: WeightedRandomSampler([], 1), "weights must be"),
        (lambda: WeightedRandomSampler([[1]], 1), "weights must be"),
        (lambda: WeightedRandomSampler([1, 0, 1], 3, replacement=False), "3 items cannot be drawn .* from the 2 whose"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
