"""Transforms that cut, pad and mirror, on whole batches (B, C, H, W) of any dtype; see `transforms` for how they work.

They are called as torchvision's, and take the same arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .transforms import check_batch, source

MODES = ("constant", "edge", "reflect", "symmetric")


def pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """A height and a width, from one number for both or from two.

    Raises:
        ValueError: they are no positive whole numbers.
    """
    sides = (size, size) if isinstance(size, int | np.integer) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in sides):
        raise ValueError(f"{name}: size must be one or two positive whole numbers (height, width), got {size!r}")
    return int(sides[0]), int(sides[1])


def _missing(images: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """By how much `images` (B, C, H, W) are smaller than `size`, in rows and columns."""
    return max(size[0] - images.shape[2], 0), max(size[1] - images.shape[3], 0)


class Pad:
    """Images with a border added.

    Args:
        padding: its width on all sides; or two numbers, left and right, top and bottom; or four: left, top, right,
            bottom.
        fill: the value of the border, where the mode is ``"constant"``.
        padding_mode: ``"constant"``, ``"edge"`` (the last pixel again), ``"reflect"`` (mirrored at the last pixel) or
            ``"symmetric"`` (mirrored at its outer edge).

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, padding: int | Sequence[int], fill: float = 0, padding_mode: str = "constant"):
        widths = (padding,) if isinstance(padding, int | np.integer) else tuple(padding)
        if len(widths) not in (1, 2, 4) or not all(isinstance(n, int | np.integer) and n >= 0 for n in widths):
            raise ValueError(f"Pad: padding must be one, two or four whole numbers, 0 or more, got {padding!r}")
        if padding_mode not in MODES:
            raise ValueError(f"Pad: padding_mode must be one of {', '.join(map(repr, MODES))}, got {padding_mode!r}")
        self.padding, self.fill = (*map(int, widths),) * (4 // len(widths)), fill
        self.padding_mode: Any = padding_mode

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_batch("Pad", images)
        left, top, right, bottom = self.padding
        constant: dict[str, Any] = {"constant_values": self.fill} if self.padding_mode == "constant" else {}
        return np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), self.padding_mode, **constant)

    def __repr__(self) -> str:
        return f"Pad({self.padding}, fill={self.fill}, padding_mode={self.padding_mode!r})"


class CenterCrop:
    """The middle of images; what is smaller than `size` is padded with zeros first, evenly.

    Args:
        size: the side of a square, or height and width.
    """

    def __init__(self, size: int | Sequence[int]):
        self.size = pair("CenterCrop", size)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_batch("CenterCrop", images)
        rows, columns = _missing(images, self.size)
        if rows or columns:
            images = Pad((columns // 2, rows // 2, columns - columns // 2, rows - rows // 2))(images)
        top, left = (round((side - size) / 2) for side, size in zip(images.shape[2:], self.size, strict=True))
        return images[:, :, top : top + self.size[0], left : left + self.size[1]]

    def __repr__(self) -> str:
        return f"CenterCrop({self.size})"


class RandomCrop:
    """A part of each image, drawn evenly from all places.

    ``RandomCrop(32, padding=4)`` is what the residual networks' paper does to CIFAR-10 (with a flip).

    Args:
        size: the side of a square, or height and width.
        padding: `Pad` by it first; None for not.
        pad_if_needed: pad images that are smaller than `size` by what they lack, on either side, not refuse
            them.
        fill, padding_mode: as for `Pad`.
        generator: as for `RandomShift`.

    Raises:
        ValueError: an argument makes no sense; an image is smaller than `size`.
    """

    random = True

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: float = 0,
        padding_mode: str = "constant",
        generator: np.random.Generator | None = None,
    ):
        self.size = pair("RandomCrop", size)
        self.pad = Pad(0 if padding is None else padding, fill, padding_mode)
        self.pad_if_needed, self.generator = pad_if_needed, generator

    def __call__(self, images: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        check_batch("RandomCrop", images)
        images, (height, width) = self.pad(images), self.size
        if self.pad_if_needed:
            rows, columns = _missing(images, self.size)
            images = Pad((columns, rows), self.pad.fill, self.pad.padding_mode)(images)
        spare = images.shape[2] - height, images.shape[3] - width
        if min(spare) < 0:
            raise ValueError(
                f"RandomCrop: images of {images.shape[2]}×{images.shape[3]} pixels, padded, are smaller than {height}×"
                f"{width}. pad_if_needed=True pads them"
            )
        draw, batch = source(self.generator, generator), len(images)
        top, left = (draw.integers(0, most + 1, batch) for most in spare)
        crops = np.lib.stride_tricks.sliding_window_view(images, self.size, axis=(2, 3))
        return crops[np.arange(batch), :, top, left]  # (B, C, height, width)

    def __repr__(self) -> str:
        return f"RandomCrop({self.size}, {self.pad})"


class _RandomFlip:
    """Each image mirrored or not, by a coin of its own.

    Args:
        p: how probable it is that an image is mirrored.
        generator: as for `RandomShift`.

    Raises:
        ValueError: `p` is no probability.
    """

    random = True
    axis: int

    def __init__(self, p: float = 0.5, generator: np.random.Generator | None = None):
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p must be from 0 to 1, got {p!r}")
        self.p, self.generator = p, generator

    def __call__(self, images: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        check_batch(type(self).__name__, images)
        mirrored = source(self.generator, generator).random(len(images)) < self.p  # (B,)
        return np.where(mirrored[:, None, None, None], np.flip(images, self.axis), images)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.p})"


class RandomHorizontalFlip(_RandomFlip):
    __doc__ = f"Left and right exchanged at random. {_RandomFlip.__doc__}"
    axis = 3


class RandomVerticalFlip(_RandomFlip):
    __doc__ = f"Top and bottom exchanged at random. {_RandomFlip.__doc__}"
    axis = 2
