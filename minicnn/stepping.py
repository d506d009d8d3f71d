"""What `minicnn step` steps through: a network, a picture, and the loss between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import models, weights
from .classify import Classifier, open_picture
from .data import MNIST, Normalize, ToFloat
from .engine import Tensor, no_grad
from .nn import Module

DIGITS = 10  # MNIST's classes, for which a network is built where nothing else says how many


@dataclass(frozen=True)
class Specimen:
    """A network and what it is shown.

    Attributes:
        model: the network.
        image: float32 (1, C, H, W), normalised.
        label: the class whose loss is looked at.
        description: of the picture, ``"test digit 7 (a 9)"``.
    """

    model: Module
    image: np.ndarray
    label: int
    description: str

    def loss(self) -> Tensor:
        """The network's own loss for the picture, in the mode that the network is in."""
        outputs = self.model(self.image)
        return models.paper_loss(self.model)(outputs, np.array([self.label]))


def prepare(
    build: Callable[..., Module],
    image: int | str | os.PathLike[str],
    label: int | None = None,
    weights_file: str | os.PathLike[str] | None = None,
    variant: str | None = None,
    **options: Any,
) -> Specimen:
    """Build a network and get it a picture.

    Args:
        build: one of `minicnn.models`.
        image: a number, of MNIST's test images, which is enlarged to the side of the network's images and repeated for
            each channel; or a picture's file, prepared as for `minicnn classify`.
        label: the class; left out, the digit's own, or for a file the one that the network takes it for.
        weights_file: of the network; left out, its weights are drawn anew.
        variant: of the network; left out, what the weights say.
        options: for `build`, where no weights say them: ``num_classes`` (10 unless given), ``in_channels``,
            ``input_size``.

    Raises:
        ValueError: no such digit or class; no picture; a network that cannot be built.
        WeightsError, ImportError, OSError: as `Classifier.load` and `open_picture`.
    """
    if weights_file is None:
        model = build(**{"num_classes": DIGITS, **options, **({"variant": variant} if variant else {})})
        classifier = Classifier(model)
    elif options:
        raise ValueError(f"{' and '.join(options)}: the weights decide, so it cannot be given beside them")
    else:
        classifier = Classifier.load(build, weights_file, variant)
        model = classifier.model
    if isinstance(image, int):
        pixels, digit = enlarged_digit(image, weights.describe(model)["in_channels"], model.input_size)
        known, description = digit, f"test digit {image} (a {digit})"
    else:
        pixels, known, description = classifier.preparation(open_picture(image)), None, os.fspath(image)
    classes = _classes(model, pixels)
    if label is None:
        label = int(classes.argmax()) if known is None or known >= len(classes) else known
    if not 0 <= label < len(classes):
        raise ValueError(f"label is {label}, and the network's {len(classes)} classes are 0 to {len(classes) - 1}")
    return Specimen(model, pixels, label, description)


def enlarged_digit(number: int, channels: int = 1, side: int = 28) -> tuple[np.ndarray, int]:
    """MNIST's test image `number`, normalised, as float32 (1, channels, side, side), and its label.

    Pixels are repeated (or left out) to reach another side than 28.

    Raises:
        ValueError: there is no image of that number.
    """
    digits = MNIST(train=False)
    if not 0 <= number < len(digits):
        raise ValueError(f"image is {number}, and the {len(digits):,} test images are 0 to {len(digits) - 1}")
    pixels = digits.images[number]  # (28, 28)
    rows = np.arange(side) * len(pixels) // side
    pixels = np.broadcast_to(pixels[rows][:, rows], (1, channels, side, side))
    return Normalize(digits.MEAN, digits.STD)(ToFloat()(pixels)), int(digits.labels[number])


def _classes(model: Module, image: np.ndarray) -> np.ndarray:
    """The scores of `image`, (classes,)."""
    was_training = model.training
    try:
        with no_grad():
            return model.eval()(image).numpy()[0]
    finally:
        model.train(was_training)
