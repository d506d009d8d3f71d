"""What a recipe trains on: the data set, how its images are prepared, what is held back, and the loaders."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import (
    CIFAR10,
    CIFAR100,
    MNIST,
    CenterCrop,
    Compose,
    DataLoader,
    FashionMNIST,
    ImageFolder,
    Imagenette,
    Normalize,
    Pad,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomShift,
    Resize,
    Subset,
)
from ..data.folder import VALIDATION, printable
from ..engine import dry_run
from .recipe import MODELS, Recipe, nearest

SETS: dict[str, Callable[..., Any]] = {
    "mnist": MNIST, "fashion-mnist": FashionMNIST, "cifar10": CIFAR10, "cifar100": CIFAR100, "imagenette": Imagenette,
}  # fmt: skip
SHARE = 0.2  # of each class in a folder of pictures is held back, where it has no part for tests
CHANNELS = 3  # of photographs
BORDER = 8 / 7  # photographs are resized to so much more than the network sees: 256 for 224
LOOK = 256  # images of 28×28 that gradients are measured on; of larger ones as many as have as many pixels


@dataclass
class Data:
    """What there is to train on and to judge by."""

    title: str
    classes: tuple[str, ...]  # as they are shown
    channels: int
    side: int
    train: Any  # as it is, without random changes
    judged_by: Any
    transform: Any  # of batches to train on
    judge_transform: Any
    train_augmented: Any  # what the loader reads
    facts: dict[str, Any]  # for files of weights: how pictures are prepared

    def fingerprint(self) -> str:
        """What tells whether the data are those of before: numbers, labels, and names and sizes of files."""
        name = "" if isinstance(self.train.dataset, ImageFolder) else self.title  # a folder may get another name
        digest = hashlib.sha256(repr((name, self._names(), self.channels, self.side)).encode())
        for part in (self.train, self.judged_by):
            whole: Any = part
            indices = np.arange(len(part))
            while isinstance(whole, Subset):
                whole, indices = whole.dataset, whole.indices[indices]
            digest.update(indices.astype("<i8").tobytes())
            digest.update(whole.labels[indices].astype("<i8").tobytes())
            for i in indices if isinstance(whole, ImageFolder) else ():
                path = whole.paths[i]
                digest.update(f"{path.relative_to(whole.folder)} {path.stat().st_size}\n".encode("utf-8", "replace"))
        return digest.hexdigest()

    def description(self) -> dict[str, Any]:
        """What a file of weights says of them, to be used without them: classes, and how pictures are prepared."""
        return {"class_names": list(self._names()), **self.facts}

    def _names(self) -> tuple[str, ...]:
        """The classes, with whatever letters folders have."""
        return tuple(self.train.dataset.classes)

    def loaders(self, recipe: Recipe, generator: np.random.Generator, workers: int) -> tuple[DataLoader, DataLoader]:
        """The loader of the training images, whose seed is drawn from `generator`, and that of the judge."""
        train = DataLoader(
            self.train_augmented, recipe.batch_size, shuffle=True, generator=generator, transform=self.transform,
            num_workers=workers,
        )  # fmt: skip
        batch = max(1, min(500, 500 * 28**2 // self.side**2))
        judge = DataLoader(self.judged_by, batch, seed=0, transform=self.judge_transform, num_workers=workers)
        return train, judge

    def look(self) -> tuple[np.ndarray, np.ndarray]:
        """A few training images, prepared, and their labels."""
        count = max(4, min(LOOK, LOOK * 28**2 // self.side**2))
        if isinstance(self.train.dataset, ImageFolder):  # of all classes: they come one after the other
            spread = np.linspace(0, len(self.train) - 1, min(count, len(self.train)))
            images, labels = self.train.batch(spread.astype(int))
        else:
            images, labels = self.train.dataset.batch(np.arange(min(count, len(self.train.dataset))))
        return self.judge_transform(images), labels


def is_folder(recipe: Recipe) -> bool:
    return recipe.data not in SETS


def judges(recipe: Recipe) -> str:
    """Which images a network trained by `recipe` is judged by, in a word or two."""
    held_back = recipe.hold_back or (is_folder(recipe) and not _has_parts(Path(recipe.data)))
    return "held-back" if held_back else "test"


def located(recipe: Recipe) -> Recipe:
    """`recipe` with the whole path of its folder, if its data are in one.

    Raises:
        ValueError: its data are neither the name of a data set nor a folder; the message has the nearest name.
    """
    if not is_folder(recipe):
        return recipe
    if not Path(recipe.data).is_dir():
        nearest("data set (and there is no such folder)", recipe.data, SETS)
    return replace(recipe, data=os.path.abspath(recipe.data))


def title(recipe: Recipe) -> str:
    """The name of the data."""
    if is_folder(recipe):
        return printable(os.path.basename(os.path.abspath(recipe.data)))
    return SETS[recipe.data].__name__


def load(recipe: Recipe, root: str | os.PathLike[str] | None = None, download: bool = False) -> Data:
    """Read what `recipe` trains on.

    Args:
        root, download: as for the data sets.

    Raises:
        ValueError: there is no such data set or folder, too few images, or a network that cannot see them.
        FileNotFoundError, ImportError, DownloadError: as the data sets'.
    """
    if is_folder(recipe):
        if not Path(recipe.data).is_dir():
            raise FileNotFoundError(
                f"there is no folder {recipe.data}, which has the pictures to train on. If they were moved, put a link "
                'to them there, or write their new place as "data" into config.json'
            )
        side, resize = _view(recipe)
        return _pictures(recipe, side, resize, *_folder_parts(recipe, resize))
    make = SETS[recipe.data]
    given: dict[str, Any] = {} if root is None else {"root": root}
    if download:
        given["download"] = True
    try:
        train, test = make(train=True, **given), None
        if not recipe.hold_back:
            test = make(train=False, **given)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. On the command line: --download") from None
    if isinstance(train, ImageFolder):
        return _pictures(recipe, *_view(recipe), train, test)
    return _arrays(recipe, make, train, test)


def _network_side(recipe: Recipe, channels: int) -> tuple[int, int]:
    """The usual and the least side of the network's images."""
    with dry_run():
        model = MODELS[recipe.model](in_channels=channels, **recipe.options)
    return model.input_size, model.smallest


def _check_hold_back(recipe: Recipe, total: int) -> None:
    if not 0 <= recipe.hold_back < total:
        raise ValueError(f"hold_back is {recipe.hold_back}: some of {total} images must be left to train on")


def _count(recipe: Recipe, there_are: int) -> int:
    """How many of the images that there are to train on are trained on."""
    if recipe.images is not None and not 1 <= recipe.images <= there_are:
        raise ValueError(
            f"images is {recipe.images}: it must be from 1 to {there_are}, the images there are to train on"
        )
    return recipe.images or there_are


def _augmented(how: str, recipe: Recipe, view: list[Any], side: int) -> list[Any]:
    """The transforms of images to train on, one of `AUGMENTATIONS`; `view` brings an image to its `side`."""
    ways: dict[str, list[Any]] = {
        "none": view,
        "shift": [*view, RandomShift(recipe.shift)],
        "crop": [*view, RandomCrop(side, padding=max(1, side // 8)), RandomHorizontalFlip()],
        "photos": [RandomResizedCrop(side, scale=(0.25, 1.0)), RandomHorizontalFlip()],
    }
    return ways[how]


# --------------------------------------------------------------------------------------- images that are in memory

def _arrays(recipe: Recipe, kind: Any, everything: Any, test: Any) -> Data:
    _check_hold_back(recipe, len(everything))
    last = len(everything) - recipe.hold_back
    train = Subset(everything, np.arange(_count(recipe, last)))
    judged_by = test if test is not None else Subset(everything, np.arange(last, len(everything)))
    channels = everything.images.shape[1] if everything.images.ndim == 4 else 1
    native = everything.images.shape[-1] + 2 * recipe.pad
    usual, smallest = _network_side(recipe, channels)
    side = recipe.input_size or (native if native >= smallest else usual)
    resize: list[Any] = [Resize((side, side))] if side != native else []
    pad: list[Any] = [Pad(recipe.pad)] if recipe.pad else []
    mean, std = np.atleast_1d(kind.MEAN).tolist(), np.atleast_1d(kind.STD).tolist()
    if recipe.pixels:
        black, white = recipe.pixels
        mean, std = [-black / (white - black)] * channels, [1 / (white - black)] * channels
    normalize = Normalize(mean, std)
    how = recipe.augment or {"mnist": "shift"}.get(recipe.data, "crop")
    augment = _augmented(how, recipe, [], everything.images.shape[-1])
    return Data(
        kind.__name__, tuple(everything.classes), channels, side, train, judged_by,
        Compose([*augment, *pad, *resize, normalize]), Compose([*pad, *resize, normalize]), train,
        {"mean": mean, "std": std},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ pictures

def _has_parts(folder: Path) -> bool:
    """Whether a folder of pictures has one for training and one for tests."""
    return (folder / "train").is_dir() and any((folder / name).is_dir() for name in VALIDATION)


def _folder_parts(recipe: Recipe, resize: int) -> tuple[ImageFolder, ImageFolder | None]:
    root = Path(recipe.data)
    if _has_parts(root):
        train, test = _opened(recipe, resize, root, True), None
        if not recipe.hold_back:
            test = _opened(recipe, resize, root, False)
            if test.classes != train.classes:
                one = sorted(set(train.classes) ^ set(test.classes))[0]
                raise ValueError(f"{root}: the parts have other classes: {one!r} is a folder in one of them only")
        return train, test
    return _opened(recipe, resize, root, True if (root / "train").is_dir() else None), None


def _opened(recipe: Recipe, resize: int, root: Path, train: bool | None) -> ImageFolder:
    """A part of a folder, without its broken pictures."""
    with warnings.catch_warnings():
        if recipe.broken == "refuse":
            warnings.simplefilter("ignore")  # an error names them
        folder = ImageFolder(root, train=train, broken="skip", resize=resize)
    if folder.skipped and recipe.broken == "refuse":
        more = f" (and {len(folder.skipped) - 1} more)" if len(folder.skipped) > 1 else ""
        raise ValueError(f"broken pictures: {folder.skipped[0]}{more}. --broken skip leaves them out")
    if len(folder.classes) < 2:
        raise ValueError(f"{folder.folder}: has {len(folder.classes)} folders, and needs two or more, one a class")
    return folder


def _split(folder: ImageFolder, count: int | None, seed: int) -> tuple[Subset, Subset]:
    """Some pictures to train on, and some to judge by: `count` of them, or of each class its share."""
    generator = np.random.default_rng((seed, 2015))
    if count:
        order = generator.permutation(len(folder))
        held = order[:count]
    else:
        chosen = []
        for label in range(len(folder.classes)):
            own = generator.permutation(np.flatnonzero(folder.labels == label))
            chosen.append(own[: min(len(own) - 1, max(1, round(SHARE * len(own))))] if len(own) else own)
        held = np.concatenate(chosen)
    if not len(held):
        raise ValueError(f"{folder.folder}: has too few pictures to hold some back, two of a class are the least")
    rest = np.setdiff1d(np.arange(len(folder)), held)
    return Subset(folder, rest), Subset(folder, np.sort(held))


def _view(recipe: Recipe) -> tuple[int, int]:
    """The side of what the network sees of a photograph, and what its shorter side is resized to before."""
    if recipe.pad or recipe.pixels:
        raise ValueError(
            f"pad is {recipe.pad} and pixels {list(recipe.pixels)}, which are for data sets of small images, and not "
            "for photographs: choose another preset (--list-presets) or none, or leave them out"
        )
    side = recipe.input_size or _network_side(recipe, CHANNELS)[0]
    return side, max(side, round(side * BORDER))


def _pictures(recipe: Recipe, side: int, resize: int, folder: ImageFolder, test: ImageFolder | None) -> Data:
    _check_hold_back(recipe, len(folder))
    how = recipe.augment or "photos"
    view: list[Any] = [Resize(resize), CenterCrop(side)]

    def seen(dataset: ImageFolder, transforms: list[Any]) -> ImageFolder:
        other = copy.copy(dataset)
        other.transform, other.resize = Compose(transforms), resize
        return other

    plain, augmented = seen(folder, view), seen(folder, _augmented(how, recipe, view, side))
    judged_by: Any
    if test is None:
        train, judged_by = _split(plain, recipe.hold_back or None, recipe.seed)
        indices = train.indices
    else:
        judged_by, indices = seen(test, view), np.arange(len(folder))
    if (count := _count(recipe, len(indices))) < len(indices):  # of all classes, not of the first ones
        indices = np.sort(np.random.default_rng((recipe.seed, 2016)).choice(indices, count, replace=False))
    normalize = Normalize(folder.MEAN, folder.STD)
    return Data(
        type(folder).__name__ if not is_folder(recipe) else title(recipe), tuple(map(printable, folder.classes)),
        folder.channels, side, Subset(plain, indices), judged_by, normalize, normalize, Subset(augmented, indices),
        {"mean": list(folder.MEAN), "std": list(folder.STD), "resize": resize},
    )  # fmt: skip
