"""CIFAR's binary archives: made small by hand here, as the real ones are not at hand."""

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.data import CIFAR10, CIFAR100, DataLoader, DownloadError, download, read_cifar
from tests.data.memory import peak_of
from tests.data.server import serving

LIMIT = 1 << 20


def record(labels, image) -> bytes:
    """As https://www.cs.toronto.edu/~kriz/cifar.html has it: labels, then red, green and blue, row by row."""
    planes = [bytes(int(image[c][i][j]) for i in range(32) for j in range(32)) for c in range(3)]
    return bytes(int(label) for label in labels) + b"".join(planes)


def archive(files) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def small(cls, rng):
    """An archive with 2 images a file, and a class that expects it; all images and labels, training first."""
    names = [name for train in (True, False) for name in cls.members[train]]
    images = rng.integers(0, 256, (2 * len(names), 3, 32, 32)).astype(np.uint8)
    labels = rng.integers(0, len(cls.classes), (2 * len(names), cls.label_bytes))
    labels[:, :-1] %= 20
    records = [record(label, image) for label, image in zip(labels, images, strict=True)]
    files = {f"folder/{name}": records[2 * i] + records[2 * i + 1] for i, name in enumerate(names)}
    data = archive({"folder/readme.html": b"read me", **dict(reversed(files.items()))})  # in an order of its own
    remote = download.Remote(cls.remote.name, hashlib.sha256(data).hexdigest(), len(data))
    return data, type(cls.__name__, (cls,), {"remote": remote}), images, labels[:, -1]


@pytest.mark.parametrize("where", ["", "own"])
@pytest.mark.parametrize("cls", [CIFAR10, CIFAR100])
def test_reads_the_archive(tmp_path, rng, cls, where):
    data, cls, images, labels = small(cls, rng)
    folder = tmp_path / cls.__name__ if where else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / cls.remote.name).write_bytes(data)
    train, test = cls(tmp_path), cls(root=str(tmp_path), train=False)
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    assert np.array_equal(np.concatenate([train.images, test.images]), images)
    assert np.array_equal(np.concatenate([train.labels, test.labels]), labels)
    image, label = train[0]
    assert image.dtype == np.float32 and np.array_equal(image, images[0] / np.float32(255)) and label == labels[0]
    assert np.array_equal(cls(tmp_path, transform=lambda x: -x)[0][0], -image)
    assert len(list(DataLoader(test, 2))) == 1


def test_classes():
    assert len(CIFAR10.classes) == 10 and CIFAR10.classes[3] == "cat"
    assert len(set(CIFAR100.classes)) == 100 and list(CIFAR100.classes) == sorted(CIFAR100.classes)
    assert (CIFAR100.classes[0], CIFAR100.classes[99]) == ("apple", "worm")


def test_home_is_where_it_is_looked_for(tmp_path, rng, monkeypatch):
    data, cls, images, _ = small(CIFAR10, rng)
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"is neither in .*CIFAR10 nor in .*CIFAR10\(download=True\) gets it"):
        cls()
    (tmp_path / cls.remote.name).write_bytes(data)
    assert np.array_equal(cls(train=False).images, images[-2:])


def test_download(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0)
    data, cls, images, _ = small(CIFAR10, rng)
    with serving({f"/{cls.remote.name}": data}, {f"/{cls.remote.name}": ["500", "wrong", "cut", "good"]}) as server:
        cls.mirrors = (f"{server.address}/missing/", f"{server.address}/")
        with pytest.raises(DownloadError):
            cls(tmp_path, download=True)
        assert list((tmp_path / "CIFAR10").iterdir()) == []
        assert np.array_equal(cls(tmp_path, download=True).images, images[:-2])
        asked = len(server.requests)
        cls(tmp_path, download=True)
        assert len(server.requests) == asked
        (tmp_path / "CIFAR10" / cls.remote.name).write_bytes(data[:-1])
        with pytest.raises(ValueError, match=r"damaged or another file, its SHA-256 is .*download=True\) gets it anew"):
            cls(tmp_path)
        assert len(cls(tmp_path, download=True, train=False)) == 2


def test_a_label_that_is_no_class(tmp_path, rng):
    data, cls, *_ = small(CIFAR10, rng)
    data = archive({name: record([10], np.zeros((3, 32, 32))) for name in cls.members[False]})
    cls.remote = cls.remote._replace(sha256=hashlib.sha256(data).hexdigest())
    (tmp_path / cls.remote.name).write_bytes(data)
    with pytest.raises(ValueError, match="has the label 10, and there are 10 classes"):
        cls(tmp_path, train=False)


ONE = record([1], np.ones((3, 32, 32)))
BAD = {
    "the one for Python": (
        {"cifar-10-batches-py/data_batch_1": b"\x80\x02}q\x01."},
        "lacks a.bin.*not the one for Python",
    ),
    "a file missing": ({"x/a.bin": ONE}, "lacks b.bin"),
    "a file empty": ({"x/a.bin": ONE, "x/b.bin": b""}, "b.bin has 0 bytes, not a multiple of the 3073"),
    "a file cut": ({"x/a.bin": ONE, "x/b.bin": ONE[:-1]}, "b.bin has 3072 bytes, not a multiple"),
    "a file too long": ({"x/a.bin": ONE + b"1", "x/b.bin": ONE}, "a.bin has 3074 bytes, not a multiple"),
    "a file twice": ({"x/a.bin": ONE, "y/a.bin": ONE, "x/b.bin": ONE}, "has a.bin twice"),
    "a bomb": ({"x/other": bytes(2 * LIMIT)}, "larger than it may be"),
}


@pytest.mark.parametrize("files, message", BAD.values(), ids=BAD)
def test_bad_archives(tmp_path, files, message):
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(archive(files))
    with pytest.raises(ValueError, match=message) as caught:
        read_cifar(path, ["a.bin", "b.bin"], max_bytes=LIMIT)
    assert str(path) in str(caught.value)


PLAIN = gzip.decompress(archive({"x/a.bin": ONE * 2, "x/b.bin": ONE}))


@st.composite
def damaged(draw) -> bytes:
    """An archive with bytes changed within compression and without, and perhaps cut. Files of it may be too long or
    too short, in an archive that says so."""
    data = bytearray(PLAIN)
    if draw(st.booleans()):
        lengths = st.sampled_from([0, 1, len(ONE) - 1, len(ONE), len(ONE) + 1, 2 * len(ONE)])
        data[:] = gzip.decompress(archive({f"x/{name}.bin": (ONE * 2)[: draw(lengths)] for name in "ab"}))
    for compressed in (False, True):
        for _ in range(draw(st.integers(0, 3))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        if draw(st.booleans()):
            del data[draw(st.integers(1, len(data))) :]
        if not compressed:
            data = bytearray(gzip.compress(bytes(data), 1))
    return bytes(data)


def read_or_explain(data: bytes, path) -> None:
    path.write_bytes(data)
    try:
        images, labels = read_cifar(path, ["a.bin", "b.bin"], max_bytes=LIMIT)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert images.shape[1:] == (3, 32, 32) and labels.shape == (len(images), 1)


@given(damaged())
def test_damaged_archives_are_read_or_explained(tmp_path_factory, data):
    read_or_explain(data, tmp_path_factory.getbasetemp() / "damaged.tar.gz")


@pytest.mark.long
def test_ten_thousand_damaged_archives(tmp_path_factory):
    path, peaks = tmp_path_factory.getbasetemp() / "damaged.tar.gz", []

    @settings(max_examples=10_000)
    @given(damaged())
    def check(data):
        peaks.append(peak_of(read_or_explain, data, path))

    check()
    assert len(peaks) >= 10_000 and max(peaks) < 3 * LIMIT
