"""Changes to images on their way to the network, on whole batches at once.

A transform is called with a batch of images (B, C, H, W) and returns another; it never writes to the one it got.
One that draws random numbers says so by an attribute ``random = True`` and takes a second argument, the
generator to draw from. `DataLoader` passes one made from its seed, the epoch and the batch, so that a batch is
the same whoever makes it and whenever. A plain function of one argument is a transform too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import backend

Transform = Callable[..., np.ndarray]


def apply(transform: Transform | None, images: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
    """`transform` of `images`, drawn from `generator` if it draws at all; None leaves them alone."""
    if transform is None:
        return images
    return transform(images, generator) if getattr(transform, "random", False) else transform(images)


class Compose:
    """One transform after another."""

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = list(transforms)

    @property
    def random(self) -> bool:
        """Whether one of them draws random numbers."""
        return any(getattr(transform, "random", False) for transform in self.transforms)

    def __call__(self, images: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        for transform in self.transforms:
            images = apply(transform, images, generator)
        return images

    def __repr__(self) -> str:
        return f"Compose({self.transforms})"


class ToFloat:
    """Images of bytes (0 to 255) as float32 in 0 to 1; floating-point images stay as they are.

    The data sets here do this themselves, before their own transform.
    """

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if images.dtype == np.uint8:
            return np.divide(images, np.float32(255), dtype=np.float32)
        if images.dtype.kind == "f":
            return images
        raise TypeError(
            f"ToFloat: images are {images.dtype}, expected uint8 (0 to 255) or floating-point numbers. Convert them "
            "first, for instance with .astype('float32')"
        )

    def __repr__(self) -> str:
        return "ToFloat()"


class Normalize:
    """``(images - mean) / std``, with one number for all channels or one for each.

    Raises:
        ValueError: `mean` and `std` differ in length, `std` is not positive, or the images have another number of
            channels.
        TypeError: the images are not floating-point numbers.
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]):
        self.mean, self.std = np.atleast_1d(np.asarray(mean, float)), np.atleast_1d(np.asarray(std, float))
        if self.mean.shape != self.std.shape or self.mean.ndim != 1:
            raise ValueError(f"Normalize: mean {mean} and std {std} must be two numbers, or two lists of one length")
        if not (self.std > 0).all():
            raise ValueError(f"Normalize: std must be positive, got {std}")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        check_batch("Normalize", images)
        if images.dtype.kind != "f":
            raise TypeError(f"Normalize: images are {images.dtype}, expected floating-point numbers: use ToFloat first")
        if self.mean.size not in (1, images.shape[1]):
            raise ValueError(
                f"Normalize: images of shape {images.shape} have {images.shape[1]} channels, mean and std are given "
                f"for {self.mean.size}"
            )
        mean, std = (v.astype(images.dtype)[:, None, None] for v in (self.mean, self.std))
        return (images - mean) / std

    def __repr__(self) -> str:
        return f"Normalize({self.mean.tolist()}, {self.std.tolist()})"


class RandomShift:
    """Each image moved by a whole number of pixels, drawn evenly from -`pixels` to `pixels`, on both axes.

    The same as padding by `pixels` and cropping back at a random place.

    Args:
        pixels: the most that an image moves.
        fill: the value that moves in from outside.
        generator: draw from this one, in the order of the calls; left out, from the caller's (a `DataLoader`
            passes one) or else from minicnn's.
    """

    random = True

    def __init__(self, pixels: int, fill: float = 0.0, generator: np.random.Generator | None = None):
        if not isinstance(pixels, int | np.integer) or pixels < 0:
            raise ValueError(f"RandomShift: pixels must be a whole number, 0 or more, got {pixels!r}")
        self.pixels, self.fill, self.generator = int(pixels), fill, generator

    def __call__(self, images: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
        check_batch("RandomShift", images)
        p, (batch, channels, height, width) = self.pixels, images.shape
        draw = source(self.generator, generator)
        top, left = draw.integers(0, 2 * p + 1, (2, batch))
        padded = np.full((batch, channels, height + 2 * p, width + 2 * p), self.fill, images.dtype)
        padded[:, :, p : p + height, p : p + width] = images
        crops = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        return crops[np.arange(batch), :, top, left]  # (B, C, H, W)

    def __repr__(self) -> str:
        return f"RandomShift({self.pixels}, fill={self.fill})"


def source(own: np.random.Generator | None, given: np.random.Generator | None) -> np.random.Generator:
    """Where a transform draws from: its own generator, or the caller's, or minicnn's."""
    return own or given or backend.generator()


def draws_alone(transform: Transform | None) -> bool:
    """Whether `transform`, or one in it, has a generator of its own: its numbers depend on the order of calls."""
    inside = getattr(transform, "transforms", ())
    return getattr(transform, "generator", None) is not None or any(map(draws_alone, inside))


def check_batch(name: str, images: np.ndarray) -> None:
    """Raises ValueError if `images` have no four dimensions; `name` is the transform's."""
    if images.ndim != 4:
        raise ValueError(
            f"{name}: images have shape {images.shape}, expected a batch (B, C, H, W). A single image of (C, H, W) "
            "becomes one by image[None]"
        )
