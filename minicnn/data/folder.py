"""Pictures in folders, a folder a class; and Imagenette, which comes that way."""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .archive import extract
from .dataset import Batch
from .download import Remote, archive_of, home
from .loader import in_order
from .pictures import SUFFIXES, read_picture
from .transforms import ToFloat, Transform, apply

VALIDATION = ("val", "test", "valid", "validation")  # what the folder beside "train" may be called
CHECKERS = 4  # threads that look for broken files
MAX_UNPACKED = 4 << 30  # bytes in the files of Imagenette; the largest has 1.6 GB
NAMED = 5  # broken files that a warning names


class ImageFolder:
    """Pictures in folders: ``root/cat/1.jpg`` is of the class "cat".

    ``dataset[i]`` is a float32 image (C, H, W) in 0 to 1 and its label, the number of its folder in alphabetical order.
    Pictures are read when they are asked for. They may have all formats, colours and sizes that
    `minicnn.data.pictures` tells of; a batch needs them of one size, by `transform`. Files with other endings, and
    names that begin with a dot, are passed over; folders in a class's folder are read too, links to folders there are
    not followed. A pipe, a socket or a device with the ending of a picture is a broken file.

    Whatever is in the files, all threads together take at most 1.3 GB to read them, and 0.2 GB a thread for a file of
    0.1 GB, the largest that is read (`read_picture`). Beside that each has its own picture: 3 bytes a pixel as it was
    read, resized if there is `resize`, and 12 as floats. What a transform cuts out does not keep the rest.

    Args:
        root: the folder.
        transform: a change to images, called with each picture as a batch of one (1, C, H, W), as sizes may differ: for
            instance ``RandomResizedCrop(64)``. (A `DataLoader` has another, for whole batches.)
        train: where True or False, read the folder "train" in `root`, or the first of "val", "test", "valid" and
            "validation" in it; left out, `root` itself.
        download: there is nothing to download; here so that all data sets are called alike.
        channels: 3 for colours, 1 for grey.
        resize: the length that the shorter side of each picture gets as it is read, which is faster than `Resize`.
        broken: what to do with files that are no pictures, damaged or too large: ``"refuse"`` them when they are read,
            by an error; or ``"skip"`` them, with a warning that names them: for that every file is read once at the
            start.

    Attributes:
        classes: the names of the classes.
        class_to_idx: the number of each.
        paths: the files, in the order of classes and names.
        labels: int64 (N,).
        skipped: what was wrong with each file that was skipped; each begins with its name.
        MEAN, STD: of red, green and blue in ImageNet, as usual for photographs.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
        ValueError: an argument makes no sense; when a picture is read: it is broken, or differs in size from others.
        ImportError: Pillow is missing; the message names the extra.
    """

    MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
    STD: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Transform | None = None,
        *,
        train: bool | None = None,
        download: bool = False,
        channels: int = 3,
        resize: int | None = None,
        broken: str = "refuse",
    ):
        name = type(self).__name__
        if download:
            raise ValueError(f"{name}: has nothing to download, root={os.fspath(root)!r} is a folder of your own")
        if channels not in (1, 3) or broken not in ("refuse", "skip") or (resize is not None and resize < 1):
            raise ValueError(
                f"{name}: channels must be 1 or 3, broken 'refuse' or 'skip', resize a number of pixels or None; got "
                f"channels={channels!r}, broken={broken!r}, resize={resize!r}"
            )
        self.root, self.transform, self.channels, self.resize = Path(root), transform, channels, resize
        self.folder = self.root if train is None else _part(name, self.root, train)
        self.classes = tuple(sorted(entry.name for entry in _entries(name, self.folder) if entry.is_dir()))
        self.class_to_idx = {label: number for number, label in enumerate(self.classes)}
        self.paths: list[Path] = []
        labels: list[int] = []
        empty: list[str] = []
        for number, label in enumerate(self.classes):
            found = sorted(_pictures(self.folder / label))
            self.paths += found
            labels += [number] * len(found)
            if not found:
                empty.append(printable(label))
        self.labels = np.array(labels, np.int64)
        if self.paths and empty:
            more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
            warnings.warn(
                f"{name}: no pictures in {self.folder} for {', '.join(empty[:NAMED])}{more}: a class all the same",
                stacklevel=2,
            )
        self.skipped: list[str] = []
        if broken == "skip":
            self._skip_broken(name)
        if not self.paths:
            raise FileNotFoundError(
                f"{name}: no pictures in the folders in {self.folder}; expected {self.folder}/NAME_OF_CLASS/*"
                f"{{{','.join(SUFFIXES)}}}"
            )

    def _skip_broken(self, name: str) -> None:
        def problem(path: Path) -> str | None:
            try:
                read_picture(path, self.channels, self.resize)
            except OSError as error:
                return f"{path}: {error.strerror or error}"
            except ValueError as error:
                return str(error)
            return None

        problems = list(in_order(problem, self.paths, CHECKERS, 4 * CHECKERS))
        self.skipped = [text for text in problems if text is not None]
        if self.skipped:
            good = [text is None for text in problems]
            more = f" … and {len(self.skipped) - NAMED} more (see .skipped)" if len(self.skipped) > NAMED else ""
            warnings.warn(
                f"{name}: skipped {len(self.skipped)} of {len(good)} files: {'; '.join(self.skipped[:NAMED])}{more}",
                stacklevel=3,
            )
            self.paths = [path for path, is_good in zip(self.paths, good, strict=True) if is_good]
            self.labels = self.labels[good]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, int]:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__}: item {index} of {len(self)}")
        return self._image(index, None)[0], int(self.labels[index])

    def batch(self, indices: object, generator: np.random.Generator | None = None) -> Batch:
        """The images (B, C, H, W) and labels (B,) at `indices`; `generator` is for a transform that draws."""
        numbers = np.asarray(indices)
        images = [self._image(int(i), generator) for i in numbers]
        for i, image in zip(numbers, images, strict=True):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"a batch needs images of one shape: {self.paths[numbers[0]]} has {images[0].shape[1:]}, "
                    f"{self.paths[i]} {image.shape[1:]}. Give {type(self).__name__} a transform that makes them equal, "
                    "for instance Compose([Resize(64), CenterCrop(64)]), or use batches of one"
                )
        return np.concatenate(images), self.labels[numbers]

    def _image(self, index: int, generator: np.random.Generator | None) -> np.ndarray:
        """One image, as a batch (1, C, H, W)."""
        picture = ToFloat()(read_picture(self.paths[index], self.channels, self.resize))
        image = apply(self.transform, picture[None], generator)
        whole = image.base
        if isinstance(whole, np.ndarray) and whole.nbytes > image.nbytes:  # a crop would keep all of its picture
            image = image.copy()
        return image


def _part(name: str, root: Path, train: bool) -> Path:
    names = ("train",) if train else VALIDATION
    for path in (root / part for part in names):
        if path.is_dir():
            return path
    raise FileNotFoundError(
        f"{name}: there is no folder {' or '.join(names)} in {root}, which train={train} asks for. Leave train= out to "
        "read the folder itself; random_split holds some of its pictures back"
    )


def _entries(name: str, folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{name}: there is no folder {folder}") from None


def _pictures(folder: Path) -> Iterator[Path]:
    """The files in and below `folder` that have a picture's ending."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(place, name)


class Imagenette(ImageFolder):
    """9,469 training or 3,925 test photographs of ten easy classes of ImageNet, by J. Howard (fast.ai).

    The archive is unpacked beside itself once, after its digest was checked. It is looked for in `root`, and in the
    folder there that has the name of the class.

    Args:
        root: a folder for data sets; left out, the one in the user's cache folder, or what MINICNN_HOME names.
        train: the training images, else the test images.
        transform, channels, resize: as for `ImageFolder`.
        download: get the archive where it is missing or damaged.
        size: of the shorter side: ``"160px"`` (99 MB), ``"320px"`` (342 MB) or ``"full"`` (1.6 GB).

    Raises:
        FileNotFoundError: it is not there; the message says how to get it.
        ValueError: the archive is damaged, pictures are missing, an argument makes no sense.
        DownloadError: it could not be downloaded.
        ImportError: the extra ``data`` is missing.
    """

    # Names of the folders, in the order of the classes.
    folders = {
        "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
        "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
        "n03445777": "golf ball", "n03888257": "parachute",
    }  # fmt: skip
    counts = {True: 9469, False: 3925}
    mirrors: tuple[str, ...] = ("https://s3.amazonaws.com/fast-ai-imageclas/",)
    remotes = {
        "160px": Remote(
            "imagenette2-160.tgz", "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5", 99003388
        ),
        "320px": Remote(
            "imagenette2-320.tgz", "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c", 341663724
        ),
        "full": Remote(
            "imagenette2.tgz", "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd", 1557161267
        ),
    }

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        transform: Transform | None = None,
        *,
        download: bool = False,
        size: str = "160px",
        channels: int = 3,
        resize: int | None = None,
    ):
        if size not in self.remotes:
            raise ValueError(f"Imagenette: size must be one of {', '.join(map(repr, self.remotes))}, got {size!r}")
        folder = self._unpacked(home() if root is None else Path(root), self.remotes[size], download)
        super().__init__(folder, transform, train=bool(train), channels=channels, resize=resize)
        expected = self.counts[bool(train)]
        if set(self.classes) != set(self.folders) or len(self) != expected:
            raise ValueError(
                f"Imagenette: {self.folder} has {len(self)} pictures in {len(self.classes)} folders, expected "
                f"{expected} in {len(self.folders)}. Remove {folder}, and it is unpacked anew"
            )
        self.classes = tuple(self.folders[name] for name in self.classes)
        self.class_to_idx = {label: number for number, label in enumerate(self.classes)}

    def _unpacked(self, root: Path, remote: Remote, download: bool) -> Path:
        """The folder that the archive makes, made from it where need be."""
        top, own = remote.name.partition(".")[0], root / "Imagenette"
        for folder in (own / top, root / top):
            if folder.is_dir():
                return folder
        archive = archive_of("Imagenette", remote, self.mirrors, root, download)
        return extract(archive, archive.parent, top, MAX_UNPACKED)


def printable(text: str) -> str:
    """What may have the name of a file or folder in it, with whatever letters, as it can be shown."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
