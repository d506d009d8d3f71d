"""MNIST as it is shipped, and Fashion-MNIST where it is found."""

import gzip
import hashlib
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import minicnn.data.mnist
from minicnn.data import MNIST, DataLoader, DownloadError, FashionMNIST, download
from tests.data.server import serving

SHIPPED = Path(minicnn.data.mnist.__file__).parent / "mnist"


@pytest.fixture(scope="module")
def train():
    return MNIST(train=True)


@pytest.fixture(scope="module")
def test():
    return MNIST(train=False)


def test_the_training_images(train):
    assert len(train) == 60_000
    assert train.images.dtype == np.uint8 and train.images.shape == (60_000, 28, 28)
    assert train.labels.dtype == np.int64 and train.labels.shape == (60_000,)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.classes == tuple("0123456789")


def test_the_test_images(test):
    assert test.images.shape == (10_000, 28, 28)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_an_item(train):
    image, label = train[0]
    assert image.dtype == np.float32 and image.shape == (1, 28, 28)
    assert image.min() == 0 and image.max() == 1
    assert np.array_equal(image[0], train.images[0] / np.float32(255))
    assert label == 5 and type(label) is int
    assert np.array_equal(MNIST(train=False, transform=lambda x: -x)[0][0], -MNIST(train=False)[0][0])


def test_mean_and_std_are_those_of_the_training_images(train):
    pixels = train.images.astype(np.int64).ravel()
    n, total, squares = pixels.size, int(pixels.sum()), int((pixels * pixels).sum())  # exact
    assert MNIST.MEAN == pytest.approx(total / n / 255, rel=1e-15)
    assert MNIST.STD == pytest.approx((n * squares - total**2) ** 0.5 / n / 255, rel=1e-15)


def test_the_digests_are_the_shipped_ones():
    lines = (SHIPPED / "SHA256SUMS").read_text().splitlines()
    shipped = {name: digest for digest, name in (line.split() for line in lines)}
    assert MNIST.files[True] | MNIST.files[False] == shipped
    assert {path.name for path in SHIPPED.glob("*.gz")} == {f"{name}.gz" for name in shipped}


def test_a_folder_of_ones_own_compressed_or_not(test, tmp_path):
    images, labels = MNIST.files[False]
    shutil.copy(SHIPPED / f"{images}.gz", tmp_path)
    (tmp_path / labels).write_bytes(gzip.decompress((SHIPPED / f"{labels}.gz").read_bytes()))
    for root in (tmp_path, str(tmp_path)):
        own = MNIST(train=False, root=root)
        assert np.array_equal(own.images, test.images) and np.array_equal(own.labels, test.labels)


def test_a_folder_that_lacks_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither train-images-idx3-ubyte\.gz nor .* root= is left out"):
        MNIST(root=tmp_path)


def test_one_changed_pixel_is_found(tmp_path):
    images, labels = MNIST.files[False]
    content = bytearray(gzip.decompress((SHIPPED / f"{images}.gz").read_bytes()))
    content[5000] ^= 1
    (tmp_path / images).write_bytes(content)
    shutil.copy(SHIPPED / f"{labels}.gz", tmp_path)
    with pytest.raises(ValueError, match=rf"{images}: damaged or another file.*{MNIST.files[False][images]}"):
        MNIST(train=False, root=tmp_path)


def test_an_epoch_has_every_image_once(test):
    loader = DataLoader(test, 64, shuffle=True, seed=0)
    images, labels = zip(*loader, strict=True)
    assert len(images) == len(loader) == 157
    assert np.array_equal(np.bincount(np.concatenate(labels)), np.bincount(test.labels))
    assert np.concatenate(images).sum(dtype=np.float64) == pytest.approx(test.images.sum() / 255, rel=1e-7)


@pytest.mark.parametrize("folder", ["", "MNIST", "MNIST/raw"])
def test_where_files_are_looked_for(test, tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in MNIST.files[False]:
        shutil.copy(SHIPPED / f"{name}.gz", tmp_path / folder)
    own = MNIST(tmp_path, train=False, download=True)  # nothing is missing, so nothing is asked for
    assert np.array_equal(own.images, test.images)


def test_true_or_false_alone_is_train(train, test):
    assert len(MNIST(True)) == len(train) and len(MNIST(False)) == len(test)


def test_the_copy_in_the_package_needs_no_download(test):
    assert np.array_equal(MNIST(train=False, download=True).labels, test.labels)


# ---------------------------------------------------------------------------------------------------- downloads


def small(cls, rng):
    """A data set of 4 and 3 images: its files compressed, the class that expects them, and the arrays."""
    contents, files, remotes, arrays = {}, {}, [], []
    for train, n in ((True, 4), (False, 3)):
        images, labels = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        arrays += [images, labels]
        for name, array in zip(cls.files[train], (images, labels), strict=True):
            raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            files.setdefault(train, {})[name] = hashlib.sha256(raw).hexdigest()
            contents[f"/{name}.gz"] = packed = gzip.compress(raw)
            remotes.append(download.Remote(f"{name}.gz", hashlib.sha256(packed).hexdigest(), len(packed)))
    changes = {"files": files, "remotes": tuple(remotes), "shipped": None}
    return contents, type(cls.__name__, (cls,), changes), arrays


@pytest.fixture
def local(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0)


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST])
def test_download(tmp_path, rng, monkeypatch, local, cls):
    contents, cls, (images, labels, test_images, test_labels) = small(cls, rng)
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path))
    folder = tmp_path / cls.__name__
    with serving(contents, {next(iter(contents)): ["500", "wrong", "cut", "good"]}) as server:
        cls.mirrors = (f"{server.address}/missing/", f"{server.address}/")
        with pytest.raises(DownloadError, match=rf"By hand: fetch .*missing/train-images.* put it into {folder}"):
            cls(download=True)
        for own in (cls(download=True), cls()):
            assert np.array_equal(own.images, images) and np.array_equal(own.labels, labels)
        assert sorted(path.name for path in folder.iterdir()) == sorted(path[1:] for path in list(contents)[:2])
        own = cls(train=False, download=True)
        assert np.array_equal(own.images, test_images) and np.array_equal(own.labels, test_labels)
        damaged = folder / next(iter(contents))[1:]
        damaged.write_bytes(damaged.read_bytes()[:-1])
        with pytest.raises(ValueError, match=f"{damaged}: cut off or damaged"):
            cls()
        assert np.array_equal(cls(download=True).images, images)
        asked = len(server.requests)
        cls(download=True)
        assert len(server.requests) == asked
    other = tmp_path / "other"
    with pytest.raises(FileNotFoundError, match=rf"neither .*\.gz nor .* is in {other}\. .*download=True.*By hand"):
        cls(other)


def test_a_label_that_is_no_class(tmp_path, rng):
    contents, cls, _ = small(MNIST, rng)
    raw = bytearray(gzip.decompress(contents["/t10k-labels-idx1-ubyte.gz"]))
    raw[-1] = 10
    cls.files[False]["t10k-labels-idx1-ubyte"] = hashlib.sha256(raw).hexdigest()
    contents["/t10k-labels-idx1-ubyte.gz"] = bytes(raw)
    for path, content in contents.items():
        (tmp_path / path[1:]).write_bytes(content)
    with pytest.raises(ValueError, match="has the label 10, of 10 classes"):
        cls(tmp_path, train=False)


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST])
def test_each_file_has_an_address(cls):
    assert [remote.name for remote in cls.remotes] == [f"{name}.gz" for name in cls.files[True] | cls.files[False]]
    digests = [remote.sha256 for remote in cls.remotes] + list((cls.files[True] | cls.files[False]).values())
    assert len(set(digests)) == 8 and all(len(digest) == 64 for digest in digests)


# ------------------------------------------------------------------------------------------------- Fashion-MNIST

DEBIANS = FashionMNIST.shipped


def test_fashion_where_debians_package_puts_it(tmp_path, rng, monkeypatch):
    contents, cls, (images, *_) = small(FashionMNIST, rng)
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path / "home"))
    cls.shipped = tmp_path / "usr"
    with pytest.raises(FileNotFoundError, match=r"home.*apt-get install dataset-fashion-mnist"):
        cls()
    cls.shipped.mkdir()
    for path, content in contents.items():
        (cls.shipped / path[1:]).write_bytes(content)
    assert np.array_equal(cls().images, images) and not (tmp_path / "home").exists()


@pytest.mark.skipif(not DEBIANS.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_as_debian_has_it():
    train, test = FashionMNIST(), FashionMNIST(train=False)
    assert train.images.shape == (60_000, 28, 28) and test.images.shape == (10_000, 28, 28)
    assert np.bincount(train.labels).tolist() == [6000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[train.labels[0]] == "Ankle boot"
    pixels = train.images.astype(np.int64).ravel()
    n, total, squares = pixels.size, int(pixels.sum()), int((pixels * pixels).sum())  # exact
    assert pytest.approx(total / n / 255, rel=1e-15) == FashionMNIST.MEAN
    assert pytest.approx((n * squares - total**2) ** 0.5 / n / 255, rel=1e-15) == FashionMNIST.STD
