"""Pictures in folders, as a new user has them, and Imagenette's."""

import hashlib
import io
import resource
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minicnn.data import (
    CenterCrop,
    Compose,
    DataLoader,
    ImageFolder,
    Imagenette,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    download,
    pictures,
    random_split,
    read_picture,
)
from tests.data.server import serving
from tests.data.test_pictures import damaged, no_files


def picture(rng, height, width, mode="RGB"):
    return Image.fromarray(rng.integers(0, 256, (height, width, 4)).astype(np.uint8), "RGBA").convert(mode)


@pytest.fixture
def photographs(tmp_path, rng):
    """Mixed sizes, colours and formats, and things that are no photographs."""
    root = tmp_path / "photographs"
    for folder in ("dog", "cat", "ape/deep", ".hidden"):
        (root / folder).mkdir(parents=True)
    for name, size, mode in (
        ("cat/1.jpg", (30, 40), "RGB"), ("cat/2.PNG", (50, 20), "L"), ("cat/10.jpeg", (25, 25), "CMYK"),
        ("dog/a.bmp", (33, 21), "RGB"), ("dog/b.png", (22, 44), "RGBA"), ("dog/c.gif", (20, 30), "P"),
        ("ape/deep/x.webp", (28, 29), "RGB"),
    ):  # fmt: skip
        picture(rng, *size, mode).save(root / name, **({"format": "JPEG"} if name.endswith("jpeg") else {}))
    for name in ("cat/notes.txt", "dog/._b.png", "Thumbs.db", "top.jpg", ".hidden/1.jpg", "ape/.x.png"):
        (root / name).write_bytes(b"no picture")
    return root


PATHS = ["ape/deep/x.webp", "cat/1.jpg", "cat/10.jpeg", "cat/2.PNG", "dog/a.bmp", "dog/b.png", "dog/c.gif"]


def test_what_is_found(photographs):
    dataset = ImageFolder(str(photographs))
    assert dataset.classes == ("ape", "cat", "dog") and dataset.class_to_idx == {"ape": 0, "cat": 1, "dog": 2}
    assert [path.relative_to(photographs).as_posix() for path in dataset.paths] == PATHS
    assert dataset.labels.tolist() == [0, 1, 1, 1, 2, 2, 2] and dataset.labels.dtype == np.int64
    assert len(dataset) == 7 and dataset.skipped == []


def test_items(photographs):
    dataset = ImageFolder(photographs)
    for i, path in enumerate(dataset.paths):
        image, label = dataset[i]
        assert image.dtype == np.float32 and np.array_equal(image, read_picture(path) / np.float32(255))
        assert type(label) is int and label == dataset.labels[i]
    assert np.array_equal(dataset[-1][0], dataset[6][0]) and len(list(dataset)) == 7
    for index in (7, -8):
        with pytest.raises(IndexError, match=f"ImageFolder: item {index} of 7"):
            dataset[index]
    assert ImageFolder(photographs, channels=1)[1][0].shape == (1, 30, 40)
    assert ImageFolder(photographs, resize=10)[1][0].shape == (3, 10, 13)


def test_batches(photographs):
    square = Compose([Resize(16), CenterCrop(16)])
    dataset = ImageFolder(photographs, square)
    images, labels = dataset.batch([6, 0, -6])
    assert images.shape == (3, 3, 16, 16) and images.dtype == np.float32 and labels.tolist() == [2, 0, 1]
    for image, i in zip(images, (6, 0, 1), strict=True):
        assert np.array_equal(image, square(ImageFolder(photographs)[i][0][None])[0])
    with pytest.raises(
        ValueError, match=r"x\.webp has \(3, 28, 29\), .*1\.jpg \(3, 30, 40\)\. Give ImageFolder a transform"
    ):
        ImageFolder(photographs).batch([0, 1])


def test_what_is_cut_out_does_not_keep_the_rest(tmp_path):
    (tmp_path / "class").mkdir()
    for i in range(8):
        Image.new("RGB", (500, 400)).save(tmp_path / "class" / f"{i}.png")
    dataset, whole = ImageFolder(tmp_path, CenterCrop(4)), 12 * 500 * 400  # bytes of one picture as floats
    dataset[0]  # what is imported and made once
    for read in (lambda: [dataset[i] for i in range(8)], lambda: dataset.batch(range(8))):
        tracemalloc.start()
        held = read()
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(held) in (2, 8) and kept < whole / 10 and peak < 3 * whole


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_loader_gives_the_same_on_any_number_of_workers(photographs, workers):
    def batches(workers):
        dataset = ImageFolder(photographs, Compose([RandomResizedCrop(8), RandomHorizontalFlip()]))
        loader = DataLoader(dataset, 2, shuffle=True, seed=1, num_workers=workers)
        return [(images.tobytes(), labels.tolist()) for _ in range(3) for images, labels in loader]

    assert batches(workers) == batches(0) and len({image for image, _ in batches(workers)}) == 12


def test_train_and_validation(photographs, tmp_path):
    for part in ("train", "valid"):
        (tmp_path / "both" / part).parent.mkdir(exist_ok=True)
        (tmp_path / "both" / part).symlink_to(photographs)
    assert len(ImageFolder(tmp_path / "both", train=True)) == len(ImageFolder(tmp_path / "both", train=False)) == 7
    with pytest.raises(FileNotFoundError, match=r"no folder train in .*, which train=True asks for.*random_split"):
        ImageFolder(photographs, train=True)
    with pytest.raises(FileNotFoundError, match="no folder val or test or valid or validation in"):
        ImageFolder(photographs, train=False)
    parts = random_split(ImageFolder(photographs, resize=8), [0.8, 0.2], seed=0)
    assert [len(part) for part in parts] == [6, 1]


def test_a_broken_file_is_refused_by_name_or_skipped(photographs):
    good = (photographs / "dog" / "b.png").read_bytes()
    (photographs / "dog" / "b.png").write_bytes(good[:-40])
    (photographs / "cat" / "2.PNG").write_bytes(b"<html>")
    dataset = ImageFolder(photographs, Compose([Resize(8), CenterCrop(8)]))
    assert len(dataset) == 7
    for read in (
        lambda: dataset[5],
        lambda: dataset.batch([5]),
        lambda: list(DataLoader(dataset, 2, num_workers=2))[2],
    ):
        with pytest.raises(ValueError, match=r"(b\.png|2\.PNG): "):
            read()
    with pytest.warns(UserWarning, match=r"skipped 2 of 7 files: .*2\.PNG: not a picture.*b\.png: ") as caught:
        dataset = ImageFolder(photographs, dataset.transform, broken="skip")
    assert caught[0].filename == __file__
    assert [path.name for path in dataset.paths] == ["x.webp", "1.jpg", "10.jpeg", "a.bmp", "c.gif"]
    assert dataset.labels.tolist() == [0, 1, 1, 2, 2] and len(dataset.skipped) == 2
    assert sum(len(labels) for _, labels in DataLoader(dataset, 2, num_workers=2)) == 5


def test_many_broken_files_make_one_short_warning(tmp_path, rng):
    (tmp_path / "a").mkdir()
    picture(rng, 5, 5).save(tmp_path / "a" / "z.png")
    for i in range(9):
        (tmp_path / "a" / f"{i}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"skipped 9 of 10 files: .*4\.png: .* … and 4 more") as caught:
        dataset = ImageFolder(tmp_path, broken="skip")
    assert len(caught) == 1 and len(dataset) == 1 and len(dataset.skipped) == 9


def test_what_is_no_file_is_broken(photographs):
    with no_files(photographs / "cat"), pytest.warns(UserWarning, match="skipped 3 of 10 files: .*pipe, a socket"):
        dataset = ImageFolder(photographs, broken="skip")
    assert len(dataset) == 7 and sum("pipe, a socket or a device" in text for text in dataset.skipped) == 3


def test_a_class_without_pictures_is_told_of(photographs):
    (photographs / "a\nlizard").mkdir()
    (photographs / "zebra").mkdir()
    (photographs / "zebra" / "notes.txt").write_text("none yet")
    with pytest.warns(UserWarning, match=r" for a.{1,4}lizard, zebra: a class all the same$") as caught:
        dataset = ImageFolder(photographs)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert len(dataset) == 7 and {"a\nlizard", "zebra"} < set(dataset.classes)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="there is no folder .*file"):
        ImageFolder(tmp_path / "file")
    (tmp_path / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match="no pictures in the folders in .*NAME_OF_CLASS"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("options", [{"channels": 2}, {"broken": "ignore"}, {"resize": 0}, {"download": True}])
def test_refuses(photographs, options):
    with pytest.raises(ValueError, match=f"ImageFolder: .*{next(iter(options)) if 'download' not in options else ''}"):
        ImageFolder(photographs, **options)


def test_a_file_that_is_gone_later(photographs):
    dataset = ImageFolder(photographs, resize=8)
    dataset.paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.jpg"):
        dataset[1]


def folder_or_explain(files, root):
    """A folder of damaged pictures: skipped and read, or refused by name."""
    for path in (root / "class").glob("*"):
        path.unlink()
    (root / "class").mkdir(exist_ok=True)
    Image.new("RGB", (4, 4)).save(root / "class" / "good.png")
    for i, data in enumerate(files):
        (root / "class" / f"{i}.jpg").write_bytes(data)
    (root / "class" / "nowhere.jpg").symlink_to(root / "nowhere")
    with no_files(root / "class") as others:
        dataset = ImageFolder(root, CenterCrop(4), broken="skip")
    assert len(dataset) + len(dataset.skipped) == len(files) + len(others) + 2
    assert {path.name for path in dataset.paths} <= {"good.png", *(f"{i}.jpg" for i in range(len(files)))}
    assert all(text.startswith(str(root)) for text in dataset.skipped)
    images, labels = dataset.batch(range(len(dataset)))
    assert images.shape == (len(dataset), 3, 4, 4) and labels.tolist() == [0] * len(dataset)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=20)
@given(st.lists(damaged(), max_size=4))
def test_folders_of_damaged_pictures(tmp_path_factory, files):
    folder_or_explain(files, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_damaged_pictures_in_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")

    @settings(max_examples=2500)
    @given(st.lists(damaged(), min_size=4, max_size=4))
    def check(files):
        folder_or_explain(files, root)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check()
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
    # Made floats, a picture takes nearly as much as while it is read, 15 bytes a pixel; and what is free has gaps.
    assert more * 1024 < 1.5 * pictures.BYTES * pictures.MAX_PIXELS


# ------------------------------------------------------------------------------------------------------ Imagenette


def imagenette(rng, top="imagenette2-160"):
    """An archive of it with one picture a class and part."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for part in ("train", "val"):
            for name in Imagenette.folders:
                file = io.BytesIO()
                picture(rng, 20, 20).save(file, "JPEG")
                info = tarfile.TarInfo(f"{top}/{part}/{name}/{name}_1.JPEG")
                info.size = file.tell()
                file.seek(0)
                tar.addfile(info, file)
    data = buffer.getvalue()
    remote = download.Remote(f"{top}.tgz", hashlib.sha256(data).hexdigest(), len(data))
    small = {"counts": {True: 10, False: 10}, "remotes": {"160px": remote}}
    return data, type("Imagenette", (Imagenette,), small), remote


def test_imagenette(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MINICNN_HOME", str(tmp_path))
    data, cls, remote = imagenette(rng)
    with pytest.raises(FileNotFoundError, match=r"Imagenette: imagenette2-160.tgz is neither in .*download=True"):
        cls()
    with serving({f"/{remote.name}": data}) as server:
        cls.mirrors = (f"{server.address}/",)
        train = cls(download=True)
        test = cls(train=False, download=True)
        assert len(server.requests) == 1  # and unpacked once
    assert len(train) == len(test) == 10 and train.labels.tolist() == list(range(10))
    assert train.classes[0] == "tench" and train.class_to_idx["parachute"] == 9
    assert train[0][0].shape == (3, 20, 20) and not np.array_equal(train[0][0], test[0][0])
    assert sorted(path.name for path in (tmp_path / "Imagenette").iterdir()) == ["imagenette2-160", remote.name]
    train.paths[3].unlink()
    wrong = pytest.raises(ValueError, match=r"has 9 pictures in 10 folders, expected 10 in 10\. Remove .*2-160")
    with wrong, pytest.warns(UserWarning, match=r"Imagenette: no pictures in .* for "):
        cls()


def test_imagenette_from_a_folder_of_ones_own(tmp_path, rng):
    data, cls, remote = imagenette(rng)
    (tmp_path / remote.name).write_bytes(data[:-1])
    with pytest.raises(ValueError, match="damaged or another file"):
        cls(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [remote.name]
    (tmp_path / remote.name).write_bytes(data)
    assert len(cls(tmp_path, resize=8, channels=1)) == 10 and (tmp_path / "imagenette2-160").is_dir()
    with pytest.raises(ValueError, match="size must be one of '160px', got '320px'"):
        cls(tmp_path, size="320px")
    assert set(Imagenette.remotes) == {"160px", "320px", "full"} and len(Imagenette.folders) == 10
