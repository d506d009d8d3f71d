"""What can be said of an array in a line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import backend
from ..backend import Array
from ..nn.utils import get_total_norm
from . import table

SHOWN_IN_FULL = 8  # entries; a larger array is told by its statistics


@dataclass(frozen=True)
class Statistics:
    """Statistics of an array, computed in float64, so that the norm of very small numbers is not lost.

    Attributes:
        shape, dtype: of the array.
        norm: the Euclidean norm of all entries.
        minimum, maximum, mean: of the finite entries; NaN where there are none.
        zeros: how many entries are exactly 0.
        nan, infinite: how many entries are NaN, or plus or minus infinity.
    """

    shape: tuple[int, ...]
    dtype: str
    norm: float
    minimum: float
    maximum: float
    mean: float
    zeros: int
    nan: int
    infinite: int

    def __str__(self) -> str:
        """``1×6×28×28 float32, |x| = 12.3, from −0.9 to 1.1, 31 % zeros``"""
        parts = [f"{table.dimensions(self.shape)} {self.dtype}"]
        if not np.isnan(self.mean):
            parts += [f"norm {self.norm:.4g}", f"from {self.minimum:.4g} to {self.maximum:.4g}"]
        size = int(np.prod(self.shape))
        if self.zeros:
            parts.append(f"{100 * self.zeros / size:.3g} % zeros")
        parts += [f"{count:,} {what}" for count, what in ((self.nan, "NaN"), (self.infinite, "infinite")) if count]
        return ", ".join(parts)


def statistics(array: Array) -> Statistics:
    """The `Statistics` of an array of real numbers, on any device."""
    host = backend.to_host(array)
    values = host.astype(np.float64)
    finite = values[np.isfinite(values)]
    some = finite.size > 0
    return Statistics(
        shape=host.shape,
        dtype=str(host.dtype),
        norm=get_total_norm(values),
        minimum=float(finite.min()) if some else float("nan"),
        maximum=float(finite.max()) if some else float("nan"),
        mean=float(finite.mean()) if some else float("nan"),
        zeros=int((values == 0).sum()),
        nan=int(np.isnan(values).sum()),
        infinite=int(np.isinf(values).sum()),
    )


def in_words(array: Array) -> str:
    """A small array in full, a larger one by its `Statistics`."""
    if array.size > SHOWN_IN_FULL:
        return str(statistics(array))
    numbers = ", ".join(f"{x:.6g}" for x in backend.to_host(array).ravel())
    return f"[{numbers}] {array.dtype}" if array.ndim else f"{numbers} {array.dtype}"
