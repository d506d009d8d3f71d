"""MNIST: handwritten digits, shipped whole inside the package (see the NOTICE beside the files).

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", Proceedings
of the IEEE 86 (1998), section III.A.
"""

from __future__ import annotations

import os
from pathlib import Path

from .dataset import ArrayDataset
from .idx import read_idx
from .transforms import Transform


class MNIST(ArrayDataset):
    """60,000 training or 10,000 test images of digits, 28×28, white on black.

    ``dataset[i]`` is a float32 image (1, 28, 28) in 0 to 1 and its label, 0 to 9.

    Args:
        train: the training images, else the test images.
        transform: a change to batches of images; see `minicnn.data.transforms`.
        root: a folder with the four files, compressed or not; left out, the copy in the package is read.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: int64 (N,).
        classes: the names of the classes.
        MEAN, STD: of all pixels of the training images, in 0 to 1 (a test computes them again).

    Raises:
        FileNotFoundError: `root` lacks a file.
        ValueError: a file is damaged: its digest is not that of MNIST.
    """

    classes = tuple("0123456789")
    MEAN, STD = 0.1306604762738429, 0.3081078038564627

    # SHA-256 of the decompressed files, as shipped in mnist/SHA256SUMS: images, labels.
    files = {
        True: {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        },
        False: {
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    }

    def __init__(
        self, train: bool = True, transform: Transform | None = None, root: str | os.PathLike[str] | None = None
    ):
        folder = Path(__file__).parent / "mnist" if root is None else Path(root)
        images, labels = (read_idx(_find(folder, name), sha256) for name, sha256 in self.files[bool(train)].items())
        super().__init__(images, labels, transform)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"MNIST: neither {name}.gz nor {name} is in {folder}. minicnn brings its own copy, which is read where root= "
        "is left out"
    )
