"""Arguments that all the networks share: which form, how wide, how large the images."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np


def choose_variant(network: str, variant: str, known: Sequence[str] = ("paper", "torchvision")) -> str:
    """`variant` if it is one of `known`.

    Raises:
        ValueError: it is not; the message names the nearest.
    """
    if variant in known:
        return variant
    near = difflib.get_close_matches(str(variant), known, n=1, cutoff=0.0)
    raise ValueError(
        f"{network}: unknown variant {variant!r}. Did you mean {near[0]!r}? There are {', '.join(map(repr, known))}"
    )


def check_counts(network: str, **counts: int) -> None:
    """Each of `counts` (``num_classes=…, in_channels=…``) must be a positive int."""
    for argument, count in counts.items():
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{network}: {argument} is {count!r}, and must be a positive int")


def choose_size(network: str, input_size: int | None, default: int, smallest: int) -> int:
    """The side of the images in pixels: `input_size`, or `default` where that is None.

    Raises:
        ValueError: images of this side would be used up before the last layer; the message names the smallest side.
    """
    if input_size is None:
        return default
    check_counts(network, input_size=input_size)
    if input_size < smallest:
        raise ValueError(
            f"{network}: input_size={input_size} is too small: after all poolings nothing is left. "
            f"The smallest is {smallest}"
        )
    return input_size


def check_images(network: str, images: Any, smallest: int) -> None:
    """`images` must be (N, channels, height, width), with sides of at least `smallest` pixels."""
    if len(images.shape) != 4:
        raise ValueError(
            f"{network}: images have shape {tuple(images.shape)}, and must be (N, channels, height, width)"
        )
    if min(images.shape[2:]) < smallest:
        height, width = images.shape[2:]
        raise ValueError(
            f"{network}: images of {height}×{width} are too small: after all poolings nothing is left. "
            f"The smallest are {smallest}×{smallest}"
        )


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """`channels` times `width`, rounded to a multiple of `multiple`, at least one of it."""
    if not width > 0:
        raise ValueError(f"width={width!r} must be a positive number: it multiplies every layer's channels")
    return max(1, round(channels * width / multiple)) * multiple
