"""MNIST and Fashion-MNIST: 70,000 grey images each, in four IDX files.

MNIST is handwritten digits, shipped whole inside the package (see the NOTICE beside the files): Y. LeCun, L. Bottou,
Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86 (1998),
section III.A. Fashion-MNIST is pictures of clothes, made to take its place where that is too easy: H. Xiao, K. Rasul,
R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", arXiv:1708.07747.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .dataset import ArrayDataset
from .download import Remote, by_hand, fetch, home
from .idx import read_idx
from .transforms import Transform


class MNIST(ArrayDataset):
    """60,000 training or 10,000 test images of digits, 28×28, white on black.

    ``dataset[i]`` is a float32 image (1, 28, 28) in 0 to 1 and its label, 0 to 9. The files are looked for, compressed
    or not, in the folder in `root` that has the name of the class (or ``raw`` in that, where torchvision puts them),
    then in `root` itself.

    Args:
        root: a folder with the four files; left out, the copy in the package is read, which is all of MNIST. True or
            False here is `train`: ``MNIST(False)``.
        train: the training images, else the test images.
        transform: a change to batches of images; see `minicnn.data.transforms`.
        download: get files that are missing or damaged.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: int64 (N,).
        classes: the names of the classes.
        MEAN, STD: of all pixels of the training images, in 0 to 1 (a test computes them again).

    Raises:
        FileNotFoundError: a file is not there; the message says how to get it.
        ValueError: a file is damaged: its digest is not that of the data set.
        DownloadError: a file could not be downloaded.
        ImportError: a download needs the extra ``data``.
    """

    classes: tuple[str, ...] = tuple("0123456789")
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
    mirrors: tuple[str, ...] = (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    )
    # The files as the mirrors have them, compressed.
    remotes: tuple[Remote, ...] = (
        Remote(
            "train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422
        ),
        Remote("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
        Remote(
            "t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877
        ),
        Remote("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542),
    )
    shipped: Path | None = Path(__file__).parent / "mnist"  # where all files are that need no download
    advice = "minicnn brings its own copy, which is read where root= is left out"

    def __init__(
        self,
        root: str | os.PathLike[str] | bool | None = None,
        train: bool = True,
        transform: Transform | None = None,
        *,
        download: bool = False,
    ):
        folder, train = (None, root) if isinstance(root, bool) else (root, train)
        images, labels = (self._read(name, folder, download) for name in self.files[bool(train)])
        if labels.size and labels.max() >= len(self.classes):
            raise ValueError(f"{type(self).__name__}: has the label {labels.max()}, of {len(self.classes)} classes")
        super().__init__(images, labels, transform)

    def _read(self, name: str, root: str | os.PathLike[str] | None, download: bool) -> np.ndarray:
        """The array in the file `name`, from the first folder that has it."""
        title, sha256 = type(self).__name__, (self.files[True] | self.files[False])[name]
        folders = [] if root is not None or self.shipped is None else [self.shipped]
        own = None
        if root is not None or not (folders and folders[0].is_dir()):
            base = home() if root is None else Path(root)
            own = base / title
            folders += [own, own / "raw", base]
        for path in (folder / file for folder in folders for file in (f"{name}.gz", name)):
            if path.is_file():
                try:
                    return read_idx(path, sha256)
                except ValueError:
                    if not download or own is None:
                        raise
        remote = next(remote for remote in self.remotes if remote.name == f"{name}.gz")
        if download and own is not None:
            return read_idx(fetch(remote, self.mirrors, own), sha256)
        raise FileNotFoundError(
            f"{title}: neither {remote.name} nor {name} is in {folders[-1]}. {title}(download=True) gets it. "
            f"{by_hand(remote, self.mirrors, own or folders[-1])}. {self.advice}"
        )


class FashionMNIST(MNIST):
    """60,000 training or 10,000 test pictures of clothes, 28×28, as MNIST's digits in every other way.

    Left out, `root` is where Debian's package dataset-fashion-mnist puts them, if it is installed, else the folder for
    data sets in the user's cache folder, or what MINICNN_HOME names.
    """

    classes = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    MEAN, STD = 0.2860405969887955, 0.3530242445149226

    files = {
        True: {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        },
        False: {
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    }
    mirrors = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    )
    remotes = (
        Remote(
            "train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26421880
        ),
        Remote("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29515),
        Remote(
            "t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4422102
        ),
        Remote("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5148),
    )
    shipped = Path("/usr/share/datasets/fashion-mnist")
    advice = "Or, on Debian and Ubuntu: apt-get install dataset-fashion-mnist"
