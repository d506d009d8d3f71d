"""CIFAR-10 and CIFAR-100: small colour photographs, from the binary archives.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, chapter 3. The archives "for Python" are
pickles, which can run anything; the binary ones are plain records (https://www.cs.toronto.edu/~kriz/cifar.html): the
label, or for CIFAR-100 the coarse label and the fine one, a byte each, then 3072 bytes of red, green and blue.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .archive import regular_files
from .dataset import ArrayDataset
from .download import Remote, archive_of, home
from .transforms import Transform

PIXELS = (3, 32, 32)
MAX_BYTES = 256 << 20  # of an archive, decompressed; both have less than 180 MiB


def read_cifar(
    path: str | os.PathLike[str], members: Sequence[str], label_bytes: int = 1, max_bytes: int = MAX_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """The records in the files called `members` in an archive (``.tar.gz``), one file after the other.

    Args:
        members: names of files, without the folders that they are in.
        label_bytes: labels before each image: 1 in CIFAR-10, 2 in CIFAR-100.
        max_bytes: the most that the archive may take, decompressed. No file makes this function use more than twice
            that much memory.

    Returns:
        Images, uint8 (N, 3, 32, 32), and labels, uint8 (N, label_bytes).

    Raises:
        ValueError: not such an archive, damaged, cut off, too large, or lacking a file.
        OSError: the file cannot be opened or read.
    """
    name, length = os.fspath(path), label_bytes + math.prod(PIXELS)
    contents: dict[str, bytes] = {}
    for member, size, read in regular_files(path, max_bytes):
        short = member.rpartition("/")[2]
        if short in members:
            if size == 0 or size % length:
                raise ValueError(f"{name}: {short} has {size} bytes, not a multiple of the {length} of a record")
            if short in contents:
                raise ValueError(f"{name}: has {short} twice")
            contents[short] = read()
    if missing := [member for member in members if member not in contents]:
        raise ValueError(f"{name}: lacks {missing[0]}; CIFAR's binary archive is wanted, not the one for Python")
    parts = [np.frombuffer(contents[member], np.uint8).reshape(-1, length) for member in members]
    images = np.concatenate([part[:, label_bytes:] for part in parts])  # (N, 3072)
    return images.reshape(-1, *PIXELS), np.concatenate([part[:, :label_bytes] for part in parts])


class CIFAR10(ArrayDataset):
    """50,000 training or 10,000 test photographs of ten things, 32×32, in colour.

    ``dataset[i]`` is a float32 image (3, 32, 32) in 0 to 1 and its label. The archive is read as it was downloaded; it
    is looked for in `root`, and in the folder there that has the name of the class.

    Args:
        root: a folder for data sets; left out, the one in the user's cache folder, or what MINICNN_HOME names.
        train: the training images, else the test images.
        transform: a change to batches of images; see `minicnn.data.transforms`.
        download: get the archive where it is missing or damaged.

    Attributes:
        images: uint8 (N, 3, 32, 32).
        labels: int64 (N,).
        classes: the names of the classes.
        MEAN, STD: of red, green and blue in the training images, in 0 to 1, as commonly published.

    Raises:
        FileNotFoundError: the archive is not there; the message says how to get it.
        ValueError: it is damaged or another file.
        DownloadError: it could not be downloaded.
        ImportError: a download needs the extra ``data``.
    """

    classes: tuple[str, ...] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    MEAN: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    STD: tuple[float, ...] = (0.2470, 0.2435, 0.2616)

    mirrors: tuple[str, ...] = ("https://www.cs.toronto.edu/~kriz/",)
    remote = Remote(
        "cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170052171
    )
    members: dict[bool, tuple[str, ...]] = {
        True: tuple(f"data_batch_{i}.bin" for i in range(1, 6)), False: ("test_batch.bin",)
    }  # fmt: skip
    label_bytes = 1

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        train: bool = True,
        transform: Transform | None = None,
        *,
        download: bool = False,
    ):
        base = home() if root is None else Path(root)
        path = archive_of(type(self).__name__, self.remote, self.mirrors, base, download)
        images, labels = read_cifar(path, self.members[bool(train)], self.label_bytes)
        if labels[:, -1].max() >= len(self.classes):
            raise ValueError(f"{path}: has the label {labels[:, -1].max()}, and there are {len(self.classes)} classes")
        super().__init__(images, labels[:, -1], transform)


class CIFAR100(CIFAR10):
    """As `CIFAR10`, of a hundred things; the labels are the fine ones."""

    classes = (  # in the order of their numbers, which is that of the alphabet
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
        "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
        "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
        "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
        "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
        "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
    MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

    remote = Remote("cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec")
    members = {True: ("train.bin",), False: ("test.bin",)}
    label_bytes = 2
