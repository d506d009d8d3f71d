"""Arguments that all the networks share: which form, how wide, how large the images."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import nn

BOTH = ("paper", "torchvision")
WIDEST = 1000


def settle(
    model: nn.Module, architecture: str, variant: str, known: Sequence[str], *, smallest: int, usual: int,
    input_size: int | None, num_classes: int, in_channels: int, **options: Any,
) -> None:  # fmt: skip
    """Check what `model` is asked to be, and note it there: `minicnn.weights` writes it into files and compares it.

    Args:
        known: the variants that there are.
        smallest, usual: sides of images: the least that works, and the one where `input_size` is None.
        options: the other arguments that decide what the network computes, such as its ``width``.

    Raises:
        ValueError: an argument makes no sense; the message says which.
    """
    model.architecture, model.variant = architecture, choose_variant(architecture, variant, known)
    check_counts(architecture, num_classes=num_classes, in_channels=in_channels)
    model.num_classes, model.in_channels = int(num_classes), int(in_channels)
    model.smallest, model.input_size = smallest, choose_size(architecture, input_size, usual, smallest)
    if "width" in options:
        options["width"] = check_width(architecture, options["width"])
    model.options = options


def choose_variant(network: str, variant: str, known: Sequence[str] = BOTH) -> str:
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
    input_size = int(input_size)
    if input_size < smallest:
        raise ValueError(
            f"{network}: input_size={input_size} is too small: after all poolings nothing is left. "
            f"The smallest is {smallest}"
        )
    return input_size


def check_width(network: str, width: Any) -> float:
    """`width` as a float, if it is a positive number."""
    is_number = isinstance(width, int | float | np.integer | np.floating) and not isinstance(width, bool)
    if not is_number or not 0 < width <= WIDEST:
        raise ValueError(
            f"{network}: width is {width!r}, and must be a number above 0, at most {WIDEST}: it multiplies every "
            "layer's channels"
        )
    return float(width)


def check_images(network: str, images: Any, smallest: int) -> None:
    """`images` must be (N, channels, height, width), with sides of at least `smallest` pixels."""
    if not hasattr(images, "shape"):
        raise TypeError(
            f"{network}: images are a {type(images).__name__}, and must be a Tensor or an array of shape (N, channels, "
            "height, width)"
        )
    if len(images.shape) != 4:
        raise ValueError(
            f"{network}: images have shape {tuple(images.shape)}, and must be (N, channels, height, width)"
        )
    if min(images.shape[2:]) < smallest:
        raise ValueError(
            f"{network}: images of {times(images.shape[2:])} are too small: after all poolings nothing is left. "
            f"The smallest are {smallest}×{smallest}"
        )


def check_sides(
    network: str, images: Any, input_size: int, side_of_map: Callable[[int], int], what: str = "the classifier"
) -> None:
    """`images` must end in maps of the side for which a layer of fixed size was built.

    Args:
        side_of_map: the side of the maps that images of a side end in.
        what: reads the maps, and was built for `input_size`.
    """
    found, expected = [side_of_map(side) for side in images.shape[2:]], side_of_map(input_size)
    if found == [expected, expected]:
        return
    height, width = images.shape[2:]
    rebuild = f", or build the network with input_size={height}" if height == width else ""
    raise ValueError(
        f"{network}: images of {times(images.shape[2:])} end in maps of {times(found)}, and {what}, built for "
        f"input_size={input_size}, is for {expected}×{expected}. Resize the images to {input_size}×{input_size}"
        f"{rebuild}"
    )


def times(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides))


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """`channels` times `width`, rounded to a multiple of `multiple`, at least one of it."""
    return max(1, round(channels * width / multiple)) * multiple
