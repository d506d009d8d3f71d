"""From a data set to batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .dataset import Batch, Dataset, fetch, own_generator
from .transforms import Transform, apply


class DataLoader:
    """Batches of a data set: each pass over it is an epoch that yields every item once.

    A batch is a pair of NumPy arrays: images (B, C, H, W), floating-point, and labels (B,), int64.

    Every epoch has another order, and every batch its own random numbers, both made from the seed, the number of
    the epoch and that of the batch alone: so the same seed gives the same batches, and ``loader.epoch = 7`` makes
    the next pass the eighth epoch, whatever was read before.

    Args:
        dataset: anything with a length whose items are (image, label); see `minicnn.data.ArrayDataset`.
        batch_size: images in a batch; the last of an epoch may have fewer.
        shuffle: draw a new order for each epoch, else keep the data set's.
        drop_last: leave out a last batch that is not full.
        seed: an integer to start the random numbers from. Left out, they follow from `minicnn.manual_seed`.
        generator: instead of `seed`, a generator to draw the seed from.
        transform: a change to every batch of images, for instance `minicnn.data.RandomShift(1)`.

    Raises:
        ValueError: `batch_size` is not a positive whole number, or `seed` and `generator` are both given.
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
    ):
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"DataLoader: batch_size must be a whole number, 1 or more, got {batch_size!r}")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.transform = transform
        self.seed = int(own_generator("DataLoader", seed, generator).integers(2**63))
        self.epoch = 0  # the number of the next pass

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        return (self._batch(epoch, k, order) for k in range(len(self)))

    def _batch(self, epoch: int, k: int, order: np.ndarray) -> Batch:
        generator = np.random.default_rng((self.seed, epoch, k))
        indices = order[k * self.batch_size : (k + 1) * self.batch_size]
        images, labels = fetch(self.dataset, indices, generator)
        return apply(self.transform, images, generator), labels
