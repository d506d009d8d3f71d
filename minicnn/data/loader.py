"""From a data set to batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from .dataset import Batch, Dataset, fetch, own_generator
from .sampler import RandomSampler, SequentialSampler
from .transforms import Transform, apply, draws_alone

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Pass:
    """How far one pass over the data has come."""

    epoch: int
    batch: int  # how many batches of the epoch were handed out
    order: np.ndarray
    over: bool = False


class DataLoader:
    """Batches of a data set: each pass over it is an epoch that yields every item once.

    A batch is a pair of NumPy arrays: images (B, C, H, W), floating-point, and labels (B,), int64.

    Every epoch has another order, and every batch its own random numbers, both made from the seed, the number of
    the epoch and that of the batch alone: so the same seed gives the same batches, on any number of workers, and
    ``loader.epoch = 7`` makes the next pass the eighth epoch, whatever was read before.

    A training that was interrupted goes on where it was: `state_dict` says what was handed out, and after
    `load_state_dict` the next pass begins with the batch that follows.

    Args:
        dataset: anything with a length whose items are (image, label); see `minicnn.data.ArrayDataset`.
        batch_size: images in a batch; the last of an epoch may have fewer.
        shuffle: draw a new order for each epoch, else keep the data set's.
        drop_last: leave out a last batch that is not full.
        seed: an integer to start the random numbers from. Left out, they follow from `minicnn.manual_seed`.
        generator: instead of `seed`, a generator to draw the seed from.
        transform: a change to every batch of images, for instance `minicnn.data.RandomShift(1)`.
        sampler: which items an epoch has, instead of all of them; see `minicnn.data.sampler`.
        num_workers: threads that make batches ahead; with 0 each is made when it is asked for. What goes wrong in one
            is raised where its batch would have come. They are gone when the pass ends, is left, or fails.
        prefetch_factor: batches that are made ahead for each worker.

    Raises:
        ValueError: an argument makes no sense; arguments exclude each other; a transform has a generator of its own,
            whose numbers would depend on which worker comes first.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        generator: np.random.Generator | None = None,
        transform: Transform | None = None,
        *,
        sampler: Any = None,
        num_workers: int = 0,
        prefetch_factor: int = 2,
    ):
        for name, value, least in (
            ("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("prefetch_factor", prefetch_factor, 1),
        ):  # fmt: skip
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"DataLoader: {name} must be a whole number, {least} or more, got {value!r}")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler= decides on the order, and excludes shuffle=True")
        if num_workers and any(map(draws_alone, (transform, *_transforms(dataset)))):
            raise ValueError(
                "DataLoader: a transform has a generator of its own, from which workers would draw in any order. Leave "
                "its generator= out, and each batch gets numbers that follow from the loader's seed"
            )
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.transform = transform
        self.sampler = sampler if sampler is not None else (RandomSampler if shuffle else SequentialSampler)(dataset)
        self.num_workers, self.prefetch_factor = int(num_workers), int(prefetch_factor)
        self.seed = int(own_generator("DataLoader", seed, generator).integers(2**63))
        self._next_epoch, self._skip = 0, 0
        self._order: np.ndarray | None = None  # of the next pass, where it was loaded
        self._pass: _Pass | None = None

    @property
    def epoch(self) -> int:
        """The number of the next pass, from 0. To set it forgets where the pass before was left."""
        return self._next_epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._next_epoch, self._skip, self._order, self._pass = number, 0, None, None

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        order = self._drawn(self._next_epoch) if self._order is None else self._order
        this = self._pass = _Pass(self._next_epoch, self._skip, order)
        self._next_epoch, self._skip, self._order = self._next_epoch + 1, 0, None
        return self._batches(this)

    def _batches(self, this: _Pass) -> Iterator[Batch]:
        def make(k: int) -> Batch:
            return self._batch(this.epoch, k, this.order)

        numbers = range(this.batch, len(self))
        with closing(in_order(make, numbers, self.num_workers, self.num_workers * self.prefetch_factor)) as batches:
            for batch in batches:
                this.batch += 1
                yield batch
        this.over = True

    def _drawn(self, epoch: int) -> np.ndarray:
        """The indices of an epoch."""
        if hasattr(self.sampler, "order"):
            order = self.sampler.order(np.random.default_rng((self.seed, epoch)))
        else:
            order = np.array(list(self.sampler), np.int64)
        if len(order) != len(self.sampler):
            raise ValueError(f"DataLoader: the sampler gave {len(order)} indices, its length is {len(self.sampler)}")
        outside = order[(order < 0) | (order >= len(self.dataset))]
        if outside.size:
            raise IndexError(f"DataLoader: the sampler gave {outside[0]}, and there are {len(self.dataset)} items")
        return order

    def _batch(self, epoch: int, k: int, order: np.ndarray) -> Batch:
        generator = np.random.default_rng((self.seed, epoch, k))
        indices = order[k * self.batch_size : (k + 1) * self.batch_size]
        images, labels = fetch(self.dataset, indices, generator)
        return apply(self.transform, images, generator), labels

    def state_dict(self) -> dict[str, Any]:
        """Where the latest pass is, in plain numbers (for JSON, say); what workers made ahead does not count.

        In the body of a loop over the loader, the batch that it has is among those handed out. For a sampler without
        ``order`` the rest of the epoch is in it, and what it draws later is its own affair.
        """
        this = self._pass
        underway = this is not None and not this.over
        state: dict[str, Any] = {
            "seed": self.seed,
            "epoch": this.epoch if this is not None and underway else self._next_epoch,
            "batch": this.batch if this is not None and underway else self._skip,
            "batch_size": self.batch_size,
            "items": len(self.sampler),
        }
        order = this.order if this is not None and underway else self._order
        if order is not None and not hasattr(self.sampler, "order"):
            state["order"] = order.tolist()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` says: the next pass begins with the batch after the last that was handed out.

        Raises:
            ValueError: `state` is none, or of a loader with another number of items or another batch size.
        """
        names = ("seed", "epoch", "batch", "batch_size", "items")
        if not all(type(state.get(name)) is int and state[name] >= 0 for name in names):
            raise ValueError(f"DataLoader: this is no state of a loader: {str(state)[:200]}")
        seed, epoch, batch, batch_size, items = (state[name] for name in names)
        order = state.get("order")
        for name, own, its in (("batch_size", self.batch_size, batch_size), ("items", len(self.sampler), items)):
            if own != its:
                raise ValueError(f"DataLoader: the state is of a loader with {name} {its}, this one has {own}")
        if batch > len(self) or (order is not None and len(order) != items):
            raise ValueError(f"DataLoader: the state is at batch {batch} of {len(self)}, or has another order")
        self.seed, self._next_epoch, self._skip, self._pass = seed, epoch, batch, None
        self._order = None if order is None else np.array(order, np.int64)


def in_order(make: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Generator[R, None, None]:
    """``make(item)`` of each item, in their order, by `workers` threads that are at most `ahead` items ahead.

    An exception in a thread is raised where its result would have come. When the iterator ends or is closed, no thread
    is left.
    """
    if workers == 0:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="minicnn-data")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(copy_context().run, make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _transforms(dataset: Any) -> Iterator[Transform | None]:
    """The transforms of `dataset` and of those that it is made from."""
    while dataset is not None:
        yield getattr(dataset, "transform", None)
        dataset = getattr(dataset, "dataset", None)
