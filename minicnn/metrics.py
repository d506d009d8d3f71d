"""How often the right class is among a network's first guesses."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backend
from .backend import Array
from .engine import Tensor


def in_top_k(scores: Any, labels: Any, k: int = 5) -> np.ndarray:
    """For each image, whether its class is among the `k` with the highest scores.

    Of equal scores the class of the lower number comes first, as for ``argmax``, so that a network that gives all
    classes the same score is right as often as chance. A score that is not a number is never the better one.

    Args:
        scores: (N, C), a tensor or an array.
        labels: (N,), integers from 0 to C − 1.
        k: 1 to C.

    Returns:
        (N,) of bool, on the host.

    Raises:
        TypeError, ValueError: `scores`, `labels` or `k` are not as above.
    """
    scores = scores.data if isinstance(scores, Tensor) else scores
    scores = backend.to_host(scores if backend.is_array(scores) else np.asarray(scores))
    labels = labels.data if isinstance(labels, Tensor) else labels
    labels = backend.to_host(labels if backend.is_array(labels) else np.asarray(labels))
    return among_first(scores, labels, k)


def among_first(scores: Array, labels: np.ndarray, k: int) -> Array:
    """`in_top_k` where the scores are: for `labels` on the host, (N,) of bool on the device of `scores` (N, C)."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"in_top_k: scores {scores.shape} and labels {labels.shape} must be (N, C) and (N,)")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"in_top_k: labels are {labels.dtype}, expected integers, the number of each image's class")
    classes = scores.shape[1]
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"in_top_k: labels go from {labels.min()} to {labels.max()}, there are {classes} classes")
    if not 1 <= k <= classes:
        raise ValueError(f"in_top_k: k is {k}, and must be from 1 to the number of classes, {classes}")
    xp = backend.array_module(scores)
    labels = backend.like(labels, scores)
    own = scores[xp.arange(len(scores), dtype=xp.int64), labels][:, None]  # (N, 1)
    behind = (scores < own) | ((scores == own) & (xp.arange(classes, dtype=xp.int64) > labels[:, None]))  # (N, C)
    return classes - 1 - behind.sum(axis=1) < k


def topk_error(scores: Any, labels: Any, k: int = 5) -> float:
    """The share, 0 to 1, of images whose class is not among the `k` with the highest scores; see `in_top_k`.

    ImageNet's challenge counted so with k = 5 (Russakovsky et al. 2015, "ImageNet large scale visual recognition
    challenge", section 4.1).

    Raises:
        TypeError, ValueError: as `in_top_k`; and there must be an image.
    """
    hits = in_top_k(scores, labels, k)
    if not hits.size:
        raise ValueError("topk_error: there are no images")
    return float(1 - hits.mean())
