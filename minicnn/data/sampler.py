"""Samplers: which items an epoch has, and in what order.

A sampler has a length and ``order(generator)``, which draws the indices of one epoch. `DataLoader` hands it a generator
made from its seed and the number of the epoch, so that every epoch can be had again. As in PyTorch, a sampler can be
iterated over too, and any iterable of indices that has a length is one for `DataLoader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np

from .. import backend


class Sampler:
    """What the samplers here have in common."""

    def __len__(self) -> int:
        raise NotImplementedError

    def order(self, generator: np.random.Generator) -> np.ndarray:
        """The indices of an epoch, int64 (len(self),), drawn from `generator` if anything is drawn."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        """The indices of an epoch, drawn from minicnn's generator."""
        return iter(self.order(backend.generator()).tolist())


class SequentialSampler(Sampler):
    """The items in their order."""

    def __init__(self, data_source: Sized):
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def order(self, generator: np.random.Generator) -> np.ndarray:
        return np.arange(len(self))


class RandomSampler(Sampler):
    """The items in an order drawn anew for each epoch.

    Args:
        replacement: draw each item from all, so that some come twice and others not.
        num_samples: how many to draw; left out, as many as there are. Without replacement, more than there are
            means whole orders one after the other.

    Raises:
        ValueError: `num_samples` is no positive whole number.
    """

    def __init__(self, data_source: Sized, replacement: bool = False, num_samples: int | None = None):
        self.data_source, self.replacement = data_source, replacement
        self.num_samples = None if num_samples is None else _positive("RandomSampler", num_samples)

    def __len__(self) -> int:
        return len(self.data_source) if self.num_samples is None else self.num_samples

    def order(self, generator: np.random.Generator) -> np.ndarray:
        total, wanted = len(self.data_source), len(self)
        if self.replacement and wanted:
            return generator.integers(0, total, wanted)
        rounds = -(-wanted // total) if total else 0
        return np.concatenate([generator.permutation(total) for _ in range(rounds)] or [np.arange(0)])[:wanted]


class SubsetRandomSampler(Sampler):
    """The items at `indices`, in an order drawn anew for each epoch."""

    def __init__(self, indices: Sequence[int]):
        self.indices = np.asarray(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(self.indices)


class WeightedRandomSampler(Sampler):
    """Items drawn with probabilities of their own, for instance rare classes more often.

    Args:
        weights: of each item, in proportion to its probability.
        num_samples: how many to draw.
        replacement: an item may come again; without, it may not.

    Raises:
        ValueError: weights are negative, not finite or all 0; fewer than `num_samples` can be drawn.
    """

    def __init__(self, weights: Any, num_samples: int, replacement: bool = True):
        weights = np.asarray(weights, float)
        if weights.ndim != 1 or not np.isfinite(weights).all() or weights.min(initial=0) < 0 or not weights.any():
            raise ValueError(
                "WeightedRandomSampler: weights must be a list of finite numbers, none negative and not all 0"
            )
        self.num_samples, self.replacement = _positive("WeightedRandomSampler", num_samples), replacement
        if not replacement and num_samples > np.count_nonzero(weights):
            raise ValueError(
                f"WeightedRandomSampler: {num_samples} items cannot be drawn without replacement from the "
                f"{np.count_nonzero(weights)} whose weight is not 0"
            )
        self.weights = weights / weights.max()  # so that their sum is finite

    def __len__(self) -> int:
        return self.num_samples

    def order(self, generator: np.random.Generator) -> np.ndarray:
        probabilities = self.weights / self.weights.sum()
        return generator.choice(len(probabilities), self.num_samples, self.replacement, probabilities)


def _positive(name: str, number: int) -> int:
    if not isinstance(number, int | np.integer) or number < 1:
        raise ValueError(f"{name}: num_samples must be a whole number, 1 or more, got {number!r}")
    return int(number)
