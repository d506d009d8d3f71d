"""Transforms that change the size of images, bilinearly, on batches (B, C, H, W).

A new pixel is a weighted sum of old ones. Where images shrink, each covers as much as it stands for, in a triangle
(as Pillow and torchvision's ``antialias=True`` do it); otherwise it is made of its two neighbours on either axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .crop import pair
from .transforms import check_batch, source

ATTEMPTS = 10  # of RandomResizedCrop to find a place, as torchvision's


def resized(images: np.ndarray, height: int, width: int, antialias: bool = True) -> np.ndarray:
    """`images` (B, C, H, W) as (B, C, height, width), of the same dtype; bytes are rounded."""
    if images.shape[2:] == (height, width):
        return images
    values = images.astype(np.float32) if images.dtype == np.uint8 else images
    for axis, size in ((3, width), (2, height)):
        if values.shape[axis] != size:
            values = _along(values, axis, size, antialias)
    return np.rint(values).clip(0, 255).astype(np.uint8) if images.dtype == np.uint8 else values


def _along(values: np.ndarray, axis: int, size: int, antialias: bool) -> np.ndarray:
    """`values` with `size` pixels along `axis`: the sum of as many shifted copies as a pixel is made of."""
    old = values.shape[axis]
    scale = old / size
    reach = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(size) + 0.5) * scale - 0.5  # in pixels of the old image, whose first has its centre at 0
    taps = np.ceil(centres - reach).astype(int)[:, None] + np.arange(2 * math.ceil(reach) + 1)  # (size, K)
    weights = np.maximum(0, 1 - np.abs(taps - centres[:, None]) / reach)
    weights[(taps < 0) | (taps >= old)] = 0
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(values.dtype)
    taps = taps.clip(0, old - 1)
    along = (-1, 1) if axis == 2 else (-1,)
    return sum(values.take(taps[:, k], axis) * weights[:, k].reshape(along) for k in range(taps.shape[1]))


class Resize:
    """Images in another size.

    Args:
        size: height and width; or one number, the length that the shorter side gets, the other in proportion (rounded
            down).
        antialias: without it, shrinking leaves pixels out, which is faster and makes patterns.

    Raises:
        ValueError: `size` is none.
        TypeError: the images are neither floating-point numbers nor bytes.
    """

    def __init__(self, size: int | Sequence[int], antialias: bool = True):
        self.size, self.antialias = pair("Resize", size), antialias
        self.shorter = isinstance(size, int | np.integer)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_batch("Resize", images)
        _check_dtype("Resize", images)
        height, width = self.size
        if self.shorter:
            short = min(images.shape[2:])
            height, width = (side * height // short for side in images.shape[2:])
        return resized(images, height, width, self.antialias)

    def __repr__(self) -> str:
        return f"Resize({self.size[0] if self.shorter else self.size}, antialias={self.antialias})"


class RandomResizedCrop:
    """A part of each image, of random size and shape at a random place, resized: how ImageNet's networks are trained.

    Area and shape are drawn up to ten times, until the part lies inside the image; after that the middle is taken, as
    large as `ratio` allows. C. Szegedy et al., "Going deeper with convolutions", 2015, section 6, where the area is
    from 8 % to 100 % and the aspect ratio from 3/4 to 4/3.

    Args:
        size: the side of a square, or height and width.
        scale: the smallest and the largest part of the area.
        ratio: the smallest and the largest width in heights, drawn evenly on a logarithmic scale.
        antialias: as for `Resize`.
        generator: as for `RandomShift`.

    Raises:
        ValueError: an argument makes no sense.
        TypeError: the images are neither floating-point numbers nor bytes.
    """

    random = True

    def __init__(
        self,
        size: int | Sequence[int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        antialias: bool = True,
        generator: np.random.Generator | None = None,
    ):
        self.size = pair("RandomResizedCrop", size)
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1] < math.inf:
            raise ValueError(
                f"RandomResizedCrop: scale and ratio must be a smaller and a larger positive number, scale at most 1; "
                f"got {scale} and {ratio}"
            )
        self.scale, self.ratio, self.antialias, self.generator = scale, ratio, antialias, generator

    def __call__(self, images: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        check_batch("RandomResizedCrop", images)
        _check_dtype("RandomResizedCrop", images)
        boxes = self.boxes(images.shape, source(self.generator, generator))
        crops = (images[i : i + 1, :, top : top + h, left : left + w] for i, (top, left, h, w) in enumerate(boxes))
        parts = [resized(crop, *self.size, self.antialias) for crop in crops]
        return np.concatenate(parts) if parts else np.empty((0, images.shape[1], *self.size), images.dtype)

    def boxes(self, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
        """The parts drawn for images of `shape` (B, C, H, W): top, left, height and width of each, (B, 4)."""
        batch, _, height, width = shape
        area = height * width * generator.uniform(*self.scale, (batch, ATTEMPTS))
        ratio = np.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), (batch, ATTEMPTS)))
        place = generator.random((2, batch))
        widths, heights = np.rint(np.sqrt(area * ratio)).astype(int), np.rint(np.sqrt(area / ratio)).astype(int)
        fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
        first, rows = fits.argmax(axis=1), np.arange(batch)  # of those that fit
        middle = min(max(width / height, self.ratio[0]), self.ratio[1])  # the shape that is allowed nearest the image's
        widest = max(1, min(width, round(height * middle))), max(1, min(height, round(width / middle)))
        w = np.where(fits.any(axis=1), widths[rows, first], widest[0])
        h = np.where(fits.any(axis=1), heights[rows, first], widest[1])
        inside = np.floor(place * (np.stack([height - h, width - w]) + 1)).astype(int)
        centred = np.stack([(height - h) // 2, (width - w) // 2])
        top, left = np.where(fits.any(axis=1), inside, centred)
        return np.stack([top, left, h, w], axis=1)

    def __repr__(self) -> str:
        return f"RandomResizedCrop({self.size}, scale={self.scale}, ratio={self.ratio})"


def _check_dtype(name: str, images: np.ndarray) -> None:
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise TypeError(f"{name}: images are {images.dtype}, expected uint8 or floating-point numbers")
