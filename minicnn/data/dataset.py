"""Data sets: things with a length whose item `i` is an image and its label.

Any object with ``len()`` and ``[i]`` will do. One that also has ``batch(indices, generator)`` is asked for whole
batches, which is much faster than item by item; `ArrayDataset` and all data sets made from it have.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .. import backend
from .transforms import ToFloat, Transform, apply

Batch = tuple[np.ndarray, np.ndarray]


class Dataset(Protocol):
    """What a data set has at least."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, int]: ...


class ArrayDataset:
    """Images and labels that are in memory.

    Items are float images (C, H, W), bytes divided by 255, and Python ints.

    Args:
        images: (N, H, W) or (N, C, H, W), uint8 or floating-point. The array is used as it is, without a copy.
        labels: (N,), integers.
        transform: a change to batches of float images (B, C, H, W); see `minicnn.data.transforms`.

    Raises:
        TypeError, ValueError: the arrays are of other types or shapes, or of two lengths.
    """

    def __init__(self, images: Any, labels: Any, transform: Transform | None = None):
        name, images, labels = type(self).__name__, np.asarray(images), np.asarray(labels)
        if images.ndim not in (3, 4):
            raise ValueError(f"{name}: images have shape {images.shape}, expected (N, H, W) or (N, C, H, W)")
        if images.dtype != np.uint8 and images.dtype.kind != "f":
            raise TypeError(f"{name}: images are {images.dtype}, expected uint8 (0 to 255) or floating-point numbers")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"{name}: labels are {labels.dtype}, expected integers, the number of each image's class")
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"{name}: images {images.shape} need labels of shape {images.shape[:1]}, one each, got {labels.shape}"
            )
        self.images = images
        self.labels = labels.astype(np.int64)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, int]:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__}: item {index} of {len(self)}")
        images, labels = self.batch([index])
        return images[0], int(labels[0])

    def batch(self, indices: Any, generator: np.random.Generator | None = None) -> Batch:
        """The images (B, C, H, W) and labels (B,) at `indices`; `generator` is for a transform that draws."""
        images = ToFloat()(self.images[indices])
        if images.ndim == 3:
            images = images[:, None]
        return apply(self.transform, images, generator), self.labels[indices]


class Subset:
    """The items of `dataset` at `indices`, in that order.

    Raises:
        IndexError: `dataset` has no such item.
        TypeError: `indices` are not integers.
    """

    def __init__(self, dataset: Dataset, indices: Any):
        indices = np.asarray(indices)
        if indices.size and indices.dtype.kind not in "iu":
            raise TypeError(
                f"Subset: indices are {indices.dtype}, expected integers; np.flatnonzero(mask) makes them from a mask"
            )
        self.dataset = dataset
        self.indices = indices.astype(np.int64)
        outside = self.indices[(self.indices < -len(dataset)) | (self.indices >= len(dataset))]
        if outside.size:
            raise IndexError(f"Subset: there is no item {outside[0]} in a data set of {len(dataset)}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, int]:
        return self.dataset[int(self.indices[index])]

    def batch(self, indices: Any, generator: np.random.Generator | None = None) -> Batch:
        """The images (B, C, H, W) and labels (B,) at `indices`."""
        return fetch(self.dataset, self.indices[indices], generator)


def fetch(dataset: Dataset, indices: np.ndarray, generator: np.random.Generator | None = None) -> Batch:
    """The items at `indices` (at least one) as a batch: in one go where `dataset` can, else one by one.

    Raises:
        ValueError: the images are of several sizes.
    """
    if hasattr(dataset, "batch"):
        return dataset.batch(indices, generator)
    images, labels = zip(*(dataset[int(i)] for i in indices), strict=True)
    shapes = sorted({np.shape(image) for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f"a batch needs images of one shape, {type(dataset).__name__} gave {shapes[0]} and {shapes[1]}: resize or "
            "crop them, or use batches of one"
        )
    return np.stack(images), np.asarray(labels, dtype=np.int64)


def random_split(
    dataset: Dataset,
    lengths: Sequence[int | float],
    seed: int | None = None,
    generator: np.random.Generator | None = None,
) -> list[Subset]:
    """Cut `dataset` at random into parts that do not overlap, for instance to hold images back from training.

    Args:
        lengths: how many items go into each part, together all of them; or fractions (floats) that add up to 1,
            whose counts are rounded down, and what is left over goes to the first parts, one each.
        seed, generator: where the random numbers come from; see `DataLoader`.

    Raises:
        ValueError: `lengths` do not add up.
    """
    total = len(dataset)
    if any(isinstance(length, float) for length in lengths):
        if abs(sum(lengths) - 1) > 1e-9:
            raise ValueError(f"random_split: lengths {list(lengths)} are fractions, which must add up to 1")
        counts = [int(total * fraction) for fraction in lengths]
        for i in range(total - sum(counts)):
            counts[i % len(counts)] += 1
    else:
        counts = [int(length) for length in lengths]
    if sum(counts) != total or min(counts, default=0) < 0:
        raise ValueError(f"random_split: lengths {counts} must add up to the {total} items of the data set")
    order = own_generator("random_split", seed, generator).permutation(total)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts)[:-1])]


def own_generator(name: str, seed: int | None, generator: np.random.Generator | None) -> np.random.Generator:
    """The generator given, or one made from the seed given, or a child of minicnn's, which it does not disturb."""
    if seed is not None and generator is not None:
        raise ValueError(f"{name}: seed= and generator= exclude each other, give one")
    if generator is not None:
        if not isinstance(generator, np.random.Generator):
            raise TypeError(f"{name}: generator must be a numpy.random.Generator, got {type(generator).__name__}")
        return generator
    return backend.generator().spawn(1)[0] if seed is None else np.random.default_rng(seed)
