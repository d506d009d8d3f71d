"""MNIST as it is shipped."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

import minicnn.data.mnist
from minicnn.data import MNIST, DataLoader

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
