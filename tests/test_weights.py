"""Weights in and out of files: no bit changes, a file is there whole or not at all, and a bad one changes nothing."""

import hashlib
import io
import json
import os
import re
import stat
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import Tensor, __version__, backend, models, nn, weights

FORMATS = ["safetensors", "npz"]


def network(generator, dtype="float32"):
    """A small network with an integer buffer, an empty name nowhere, and every parameter drawn at random."""
    layers = {"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "flat": nn.Flatten(), "out": nn.Linear(8, 3)}
    model = nn.Sequential(layers).to(dtype=dtype)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype.kind == "f":
            tensor.data[...] = generator.standard_normal(tensor.shape)
        else:
            tensor.data[...] = 12345678901
    return model


def bits(model):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in model.state_dict().items()}


# --------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("format", FORMATS)
def test_there_and_back_changes_no_bit(tmp_path, rng, format, dtype):
    model, other = network(rng, dtype), network(rng, dtype)
    model.conv.weight.data[0, 0, 0] = [np.nan, -0.0, np.inf]
    assert weights.save(model, tmp_path / f"w.{format}") is None
    before = bits(model)
    result = weights.load(other, tmp_path / f"w.{format}")
    assert bits(other) == before == bits(model)
    assert result == ([], [])
    assert os.listdir(tmp_path) == [f"w.{format}"]


def test_the_files_are_what_their_own_libraries_read(tmp_path, rng):
    model = network(rng)
    weights.save(model, tmp_path / "w.safetensors", note="ü")
    weights.save(model, str(tmp_path / "W.NPZ"), note="ü")
    with safetensors.safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.metadata()["note"] == "ü"
    found = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    with np.load(tmp_path / "W.NPZ", allow_pickle=False) as file:
        assert json.loads(str(file["__metadata__"]))["note"] == "ü"
        zipped = {name: file[name] for name in file.files if name != "__metadata__"}
    for arrays in (found, zipped):
        assert set(arrays) == set(model.state_dict())
        for name, array in model.state_dict().items():
            assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(arrays[name], backend.to_host(array))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_wrote_in_any_order_of_axes(tmp_path, rng, save):
    model, other = network(rng), network(rng)
    state = {name: np.asarray(backend.to_host(a), order="F") for name, a in model.state_dict().items()}
    save(tmp_path / "w.npz", **state)
    weights.load(other, tmp_path / "w.npz")
    assert bits(other) == bits(model)
    assert weights.read(tmp_path / "w.npz")[1] == {}


def test_npz_files_of_the_same_weights_are_equal(tmp_path, rng):
    model = network(rng)
    for name in ("a.npz", "b.npz"):
        weights.save(model, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_saves_arrays_that_are_not_contiguous_or_of_the_other_byte_order(tmp_path, rng):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("a", rng.standard_normal((4, 6)).astype(">f4")[::2, ::-1].T)
            self.register_buffer("b", np.arange(3, dtype=">i8"))

    for format in FORMATS:
        weights.save(Odd(), tmp_path / f"w.{format}")
        arrays, _ = weights.read(tmp_path / f"w.{format}")
        odd = Odd()
        assert arrays["a"].shape == odd.a.shape and arrays["b"].tolist() == [0, 1, 2]
        assert arrays["a"].dtype == np.float32 and arrays["b"].dtype == np.int64


@pytest.mark.host
@pytest.mark.parametrize("dtype", ["complex128", "U3", "longdouble"])
def test_refuses_to_save_what_the_formats_do_not_have(tmp_path, dtype):
    model = nn.Module()
    model.register_buffer("a", np.zeros(2, dtype))
    if np.dtype(dtype) == np.float64:
        pytest.skip("a long double is a double here")
    with pytest.raises(weights.WeightsError, match="a of dtype .* cannot be stored"):
        weights.save(model, tmp_path / "w.npz")
    assert not os.listdir(tmp_path)


# ----------------------------------------------------------------------------------------------------- the metadata


@pytest.mark.parametrize("format", FORMATS)
def test_the_metadata_says_what_is_in_the_file(tmp_path, format):
    model = models.lenet5(num_classes=7, in_channels=3, input_size=20)
    weights.save(model, tmp_path / f"w.{format}", class_names=list("abcdefg"), mean=[0.5], epochs=3, note="with \"'\n")
    assert weights.read(tmp_path / f"w.{format}")[1] == {
        "library": "minicnn", "version": __version__, "architecture": "lenet5", "variant": "modern",
        "options": '{"width": 1.0}', "classes": "7", "in_channels": "3", "input_size": "20",
        "class_names": '["a", "b", "c", "d", "e", "f", "g"]', "mean": "[0.5]",
        "epochs": "3", "note": "with \"'\n",
    }  # fmt: skip


def test_the_metadata_says_nothing_that_cannot_be_seen(rng):
    assert weights.describe(nn.Sequential(nn.ReLU())) == {
        "library": "minicnn", "version": __version__, "architecture": "Sequential"
    }  # fmt: skip
    assert weights.describe(network(rng))["classes"] == 3  # as its last layer has it
    for build in (models.googlenet, models.resnet18, models.vgg11, models.alexnet, models.lenet5):
        assert weights.describe(build(num_classes=9, width=0.05))["classes"] == 9, build
    assert weights.describe(models.lenet5(9, "1998", in_channels=2)) == {
        "library": "minicnn", "version": __version__, "architecture": "lenet5", "variant": "1998", "options": {},
        "classes": 9, "in_channels": 2, "input_size": 32,
    }  # fmt: skip


def test_attributes_of_other_networks_are_not_taken_for_ours(tmp_path, rng):
    model = network(rng)
    model.options, model.num_classes, model.in_channels = object(), [3], "many"
    weights.save(model, tmp_path / "w.npz")
    facts = weights.read(tmp_path / "w.npz")[1]
    assert "options" not in facts and (facts["classes"], facts["in_channels"]) == ("3", "1")
    weights.save(model, tmp_path / "w.npz", options="mine")
    weights.load(model, tmp_path / "w.npz")


def test_weights_of_another_network_are_refused_though_names_and_shapes_agree(tmp_path):
    paper, other = (models.resnet50(num_classes=2, width=0.03, variant=v) for v in ("paper", "torchvision"))
    weights.save(other, tmp_path / "w.npz")
    before = bits(paper)
    with pytest.raises(weights.WeightsError, match=r"w\.npz: has weights for variant='torchvision', .* 'paper'"):
        weights.load(paper, tmp_path / "w.npz")
    assert bits(paper) == before
    weights.load(paper, tmp_path / "w.npz", strict=False)
    assert bits(paper) == bits(other)
    weights.save(other, tmp_path / "w.npz", architecture="resnet101")
    with pytest.raises(weights.WeightsError, match="weights of 'resnet101', and this network is 'resnet50'"):
        weights.load(other, tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("name", "option", "stored", "own"),
    [
        ("resnet20", "shortcut", False, "A"),
        ("resnet20", "shortcut", "A", False),
        ("resnet18", "shortcut", "A", False),
        ("alexnet", "lrn", "text", "code"),
        ("googlenet", "aux_logits", False, True),
    ],
)
def test_weights_for_other_options_are_refused(tmp_path, name, option, stored, own):
    def build(value):
        return getattr(models, name)(num_classes=2, width=0.05, **{option: value})

    path = tmp_path / "w.npz"
    weights.save(build(stored), path)
    model = build(own)
    before = bits(model)
    with pytest.raises(weights.WeightsError, match=rf"for {option}={stored!r}, and this network has {own!r}\. Build"):
        weights.load(model, path)
    assert bits(model) == before
    weights.load(build(stored), path)
    np.savez(path, **build(stored).state_dict())  # a file from before there was this metadata
    weights.load(build(stored), path)
    if option != "aux_logits":  # which shows in the names
        weights.load(model, path)


def test_widths_that_give_the_same_shapes_are_the_same_network(tmp_path):
    weights.save(models.resnet20(width=0.251), tmp_path / "w.npz")
    weights.load(models.resnet20(width=0.25), tmp_path / "w.npz")


@pytest.mark.parametrize("options", ["[", "3", '{"shortcut": null}', '{"shortcut": ["A"]}', "[" * 100_000, "{" * 9999])
def test_options_that_make_no_sense(tmp_path, options):
    path = tmp_path / "w.npz"
    weights.save(models.resnet20(), path, options=options)
    with pytest.raises(weights.WeightsError, match="metadata has options that make no sense") as info:
        weights.load(models.resnet20(), path)
    assert str(info.value).startswith(f"{path}: ") and len(str(info.value)) < 300
    weights.save(models.resnet20(), path, options={"shortcut": "A", "future": 3})
    with pytest.raises(weights.WeightsError, match="weights for future=3, and this network has None"):
        weights.load(models.resnet20(), path)


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn", "resnet18", "resnet34"])
def test_variants_that_compute_the_same_take_each_others_weights(tmp_path, name):
    paper, other = (getattr(models, name)(num_classes=2, width=0.03, variant=v) for v in ("paper", "torchvision"))
    weights.save(other, tmp_path / "w.npz")
    weights.load(paper, tmp_path / "w.npz")
    assert bits(paper) == bits(other)
    images = Tensor(np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32))
    np.testing.assert_array_equal(paper.eval()(images).data, other.eval()(images).data)


# ------------------------------------------------------------------------------------------------------------ loading


def store(path, arrays, metadata=None):
    """Without `weights.save`."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path, metadata)
    return path


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("own", ["float32", "float64"])
@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
def test_casts_to_the_networks_dtype(tmp_path, rng, own, stored, format):
    model = network(rng, own)
    state = {n: backend.to_host(a) for n, a in network(rng, "float64").state_dict().items()}
    state = {n: a.astype(stored) if a.dtype.kind == "f" else a for n, a in state.items()}
    weights.load(model, store(tmp_path / f"w.{format}", state))
    for name, array in model.state_dict().items():
        assert array.dtype == (own if array.dtype.kind == "f" else "int64")
        np.testing.assert_array_equal(backend.to_host(array), state[name].astype(array.dtype))


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.0, -2.5, 0.0, np.inf, 3.0e38, 1e-40], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + upper)
    found = weights.read(path)[0]["w"]
    expected = (values.view(np.uint32) & 0xFFFF0000).view(np.float32).reshape(2, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"out.bias": None}, "out.bias is missing"),
        ({"more": np.zeros(2)}, "more is unexpected"),
        ({"out.bias": np.zeros(4, np.float32)}, r"out.bias has shape \(4,\), and must have \(3,\)"),
        ({"out.bias": np.zeros((), np.float32)}, r"out.bias has shape \(\), and must have \(3,\)"),
        ({"out.bias": np.full(3, 1e300)}, "out.bias has numbers too large for float32"),
        ({"norm.num_batches_tracked": np.float32(3.5)}, "num_batches_tracked is float32, and the network needs int64"),
        ({f"layer{i}.weight": np.zeros(1) for i in range(2000)}, "unexpected.* …$"),
        ({"line\nbreak\x1b[31m": np.zeros(1)}, r"a name that no layer has: 'line\\nbreak\\x1b"),
        ({"x" * 1000: np.zeros(1)}, "a name that no layer has: 'xxx"),
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_what_does_not_fit_changes_nothing(tmp_path, rng, change, reason, format):
    model = network(rng)
    state = {**network(rng).state_dict(), **change}
    path = store(tmp_path / f"w.{format}", {name: backend.to_host(a) for name, a in state.items() if a is not None})
    before = bits(model)
    with pytest.raises(weights.WeightsError, match=reason) as info:
        weights.load(model, path)
    assert str(info.value).startswith(f"{path}: ") and len(str(info.value)) < 1500 and "\n" not in str(info.value)
    assert bits(model) == before


def test_not_strict_loads_what_there_is(tmp_path, rng):
    model, other = network(rng), network(rng)
    state = other.state_dict()
    del state["out.bias"]
    before = model.out.bias.data.copy()
    result = weights.load(model, store(tmp_path / "w.npz", {**state, "more": np.zeros(2)}), strict=False)
    assert result == (["out.bias"], ["more"])
    np.testing.assert_array_equal(model.out.bias.data, before)
    np.testing.assert_array_equal(model.conv.weight.data, other.conv.weight.data)
    with pytest.raises(weights.WeightsError, match="out.weight has shape"):
        weights.load(model, store(tmp_path / "w.npz", {"out.weight": np.zeros(3)}), strict=False)


# ------------------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_failure_leaves_what_was_there(tmp_path, rng, monkeypatch, format, moment):
    path = tmp_path / f"w.{format}"
    model = network(rng)
    weights.save(model, path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if moment == "write":
        monkeypatch.setitem(weights.WRITERS, f".{format}", lambda file, *_: (file.write(b"half"), fail()))
    else:
        monkeypatch.setattr(os, moment, fail)
    with pytest.raises(OSError, match="No space left"):
        weights.save(network(rng), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"old")
    with weights.replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_permissions_are_those_of_the_old_file_or_of_any_new_one(tmp_path):
    (tmp_path / "usual").touch()
    for mode in (0o600, 0o664):
        path = tmp_path / "w.npz"
        path.touch()
        path.chmod(mode)
        with weights.replacing(path) as file:
            assert [stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob(".*.part")] == [mode]
            file.write(b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode
    with weights.replacing(tmp_path / "new.npz") as file:
        file.write(b"new")
    assert (tmp_path / "new.npz").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_link_stays_a_link(tmp_path, rng):
    (tmp_path / "there").mkdir()
    (tmp_path / "w.npz").symlink_to(tmp_path / "there" / "real.npz")
    for _ in range(2):  # to nothing, to a file
        model = network(rng)
        weights.save(model, tmp_path / "w.npz")
        assert (tmp_path / "w.npz").is_symlink() and os.listdir(tmp_path / "there") == ["real.npz"]
        other = network(rng)
        weights.load(other, tmp_path / "w.npz")
        assert bits(other) == bits(model)


def test_only_files_are_replaced(tmp_path, rng):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "null.npz").symlink_to("/dev/null")
    for name in ("folder.npz", "pipe.npz", "null.npz"):
        with pytest.raises(PermissionError, match=f"{name} is no file that may be written"):
            weights.save(network(rng), tmp_path / name)
    with pytest.raises(FileNotFoundError, match="cannot be written: there is no folder .*nowhere"):
        weights.save(network(rng), tmp_path / "nowhere" / "w.npz")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["folder.npz", "null.npz", "pipe.npz"]


@pytest.mark.parametrize("name", ["w", "w.pth", "w.h5", "npz"])
def test_unknown_endings(tmp_path, rng, name):
    with pytest.raises(weights.WeightsError, match=r"must end in .safetensors or .npz"):
        weights.save(network(rng), tmp_path / name)
    if not name.endswith("pth"):
        with pytest.raises(weights.WeightsError, match=r"end in .safetensors, .npz, .pth, .pt"):
            weights.read(tmp_path / name)


def test_without_safetensors_the_error_names_the_extra(tmp_path, rng, monkeypatch):
    model = network(rng)
    weights.save(model, tmp_path / "w.safetensors")
    before = (tmp_path / "w.safetensors").read_bytes()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (weights.save, weights.load):
        with pytest.raises(ImportError, match=re.escape("pip install -e '.[data]'")):
            call(model, tmp_path / "w.safetensors")
    assert (tmp_path / "w.safetensors").read_bytes() == before and os.listdir(tmp_path) == ["w.safetensors"]
    weights.save(model, tmp_path / "w.npz")
    weights.load(network(rng), tmp_path / "w.npz")


# ---------------------------------------------------------------------------------------------------------- bad files


class Vector(nn.Module):
    """A network that is one vector."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(np.full(2, 7, np.float32))


@pytest.fixture
def refused(tmp_path):
    """Check that bytes end in one `WeightsError` with the reason, in little memory, and change nothing."""

    def check(name: str, content: bytes, reason: str):
        path = tmp_path / name
        path.write_bytes(content)
        model = Vector()
        tracemalloc.start()
        try:
            with pytest.raises(weights.WeightsError, match=reason) as info:
                weights.load(model, path)
            assert tracemalloc.get_traced_memory()[1] < 50 << 20
        finally:
            tracemalloc.stop()
        message = str(info.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 1500
        assert info.value.__cause__ is None and info.value.__suppress_context__
        assert (model.w.data == 7).all()

    return check


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"w\.npz"):
        weights.load(Vector(), tmp_path / "w.npz")
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name in ("folder.npz", "pipe.npz", "zero.npz"):  # reading the pipe would wait, the device never end
        with pytest.raises(weights.WeightsError, match=f"{name}: not a file"):
            weights.read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_files_that_are_too_large(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    with open(path, "wb") as file:
        file.truncate(weights.MAX_BYTES + 1)  # of nothing; takes no room
    with pytest.raises(weights.WeightsError, match=rf"w{suffix}: has 2147483649 bytes, more than max_bytes=2147483648"):
        weights.read(path)
    weights.save(Vector(), tmp_path / "w.npz")
    with pytest.raises(weights.WeightsError, match="more than max_bytes=100"):
        weights.read(tmp_path / "w.npz", max_bytes=100)


def test_too_little_memory(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    weights.save(Vector(), tmp_path / "w.npz")
    monkeypatch.setattr(weights, "_content", fail)
    with pytest.raises(weights.WeightsError, match="not enough memory"):
        weights.read(tmp_path / "w.npz")


def safe(header, data=b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


BAD_SAFETENSORS = {
    "empty": (b"", "cut off"),
    "seven bytes": (b"\0" * 7, "cut off"),
    "no header": (struct.pack("<Q", 0), "damaged|cut off"),
    "a header of 2⁶⁴ − 1 bytes": (b"\xff" * 8 + b"{}", "header would take 18446744073709551615"),
    "a header longer than the file": (struct.pack("<Q", 100) + b"{}", "header would take 100"),
    "a header of 20 MB": (safe(b" " * (20 << 20), b""), "header would take 20971520"),
    "a header cut off": (safe({"w": entry()})[:30], "cut off"),
    "the numbers cut off": (safe({"w": entry()}, b"\0" * 7), "damaged"),
    "too many numbers": (safe({"w": entry()}, b"\0" * 9), "damaged"),
    "a pickle": (b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x93.", "cut off"),
    "a zip archive": (b"PK\x03\x04" + bytes(100), "cut off"),
    "a web page": (b"<!DOCTYPE html><html>403</html>", "cut off"),
    "not JSON": (safe(b"{'w': 1}"), "damaged"),
    "not UTF-8": (safe(b'{"\xff": {}}'), "damaged"),
    "a list": (safe([]), "damaged"),
    "deep JSON": (safe(b'{"w":' * 100_000), "damaged"),
    "deep JSON where it is not looked at": (safe(b'{"w":{"x":' + b"[" * 100_000), "damaged"),
    "an entry without shape": (safe({"w": {"dtype": "F32", "data_offsets": [0, 8]}}), "damaged"),
    "a negative size": (safe({"w": entry(shape=(-2,))}), "damaged"),
    "a size that is no integer": (safe({"w": entry(shape=(2.0,))}), "damaged"),
    "a huge shape": (safe({"w": entry(shape=(1 << 40,))}), "damaged"),
    "a shape that overflows": (safe({"w": entry(shape=(1 << 32, 1 << 32))}), "damaged"),
    "a huge empty shape": (safe({"w": entry(shape=(0, 1 << 62, 1 << 62), offsets=(0, 0))}, b""), "."),
    "100 dimensions": (safe({"w": entry(shape=(1,) * 100, offsets=(0, 4))}, b"\0" * 4), "."),
    "offsets outside": (safe({"w": entry(offsets=(8, 16))}), "damaged"),
    "offsets in the wrong order": (safe({"w": entry(offsets=(8, 0))}), "damaged"),
    "huge offsets": (safe({"w": entry(offsets=(0, 1 << 63))}), "damaged"),
    "two arrays in one place": (safe({"v": entry(), "w": entry()}), "damaged"),
    "an unknown type": (safe({"w": entry("F31")}), "damaged"),
    "a type of 8 bits": (safe({"w": entry("F8_E4M3", offsets=(0, 2))}, b"\0\0"), "type F8_E4M3"),
    "metadata that is no string": (safe({"__metadata__": {"a": 3}, "w": entry()}), "damaged"),
    "metadata that is a list": (safe({"__metadata__": [], "w": entry()}), "damaged"),
    "a name of metadata over two lines": (safe({"__metadata__": {"a\nb": ""}, "w": entry()}), "a name that no layer"),
    "another architecture of a megabyte": (safe({"__metadata__": {"architecture": "x" * 10**6}, "w": entry()}), None),
    "another shape": (safe({"w": entry(shape=(1, 2))}), r"w has shape \(1, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_bad_safetensors(refused, case):
    content, reason = BAD_SAFETENSORS[case]
    if reason is None:  # a network that has no architecture of its own does not compare
        arrays, metadata = weights._read_safetensors(content, 1 << 30)
        vector = Vector()
        vector.architecture = "vector"
        with pytest.raises(weights.WeightsError, match=r"^source: has weights of …$"):
            weights.assign(vector, arrays, metadata, "source")
        return
    refused("w.safetensors", content, reason)


def test_the_safetensors_put_together_here_are_good_ones(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safe({"w": entry(), "__metadata__": {"a": "b"}}))
    assert weights.read(path)[1] == {"a": "b"}
    weights.load(model := Vector(), path)
    assert (model.w.data == 0).all()


class PanicException(BaseException):
    """As Rust's bindings raise one."""


def test_a_panic_of_the_parser_is_one_error_too(refused, monkeypatch):
    def panic(_):
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr(safetensors, "deserialize", panic)
    refused("w.safetensors", safe({"w": entry()}), "damaged .* 'called `Option")


def test_an_interruption_is_not_taken_for_a_damaged_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors, "deserialize", interrupt)
    (tmp_path / "w.safetensors").write_bytes(safe({"w": entry()}))
    with pytest.raises(KeyboardInterrupt):
        weights.read(tmp_path / "w.safetensors")


def npy(header="{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", data=b"\0" * 8, version=(1, 0)) -> bytes:
    text = header.encode() + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def npz(*files, compression=zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files or [("w.npy", npy())]:
            archive.writestr(name, content)
    return stream.getvalue()


def objects() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.array([Vector, os.system], object), allow_pickle=True)
    return stream.getvalue()


def descr(text: str, data=b"\0" * 8) -> bytes:
    return npz(("w.npy", npy(f"{{'descr': {text}, 'fortran_order': False, 'shape': (2,), }}", data)))


def shape(text: str, data=b"\0" * 8) -> bytes:
    return npz(("w.npy", npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {text}, }}", data)))


def text(letters: bytes, order="<") -> bytes:
    header = f"{{'descr': '{order}U{len(letters) // 4}', 'fortran_order': False, 'shape': (), }}"
    return npz(("w.npy", npy()), ("__metadata__.npy", npy(header, letters)))


def lying_bomb() -> bytes:
    """100 MB of zeros, announced as 8 bytes."""
    bomb = npz(("w.npy", bytes(100 << 20)), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000 and bomb.count(struct.pack("<I", 100 << 20)) == 2
    return bomb.replace(struct.pack("<I", 100 << 20), struct.pack("<I", 8))


BAD_NPZ = {
    "empty": (b"", "no zip archive"),
    "an .npy file": (npy(), "no zip archive"),
    "cut off": (npz()[:-10], "no zip archive"),
    "cut off early": (npz()[:40], "no zip archive"),
    "without its beginning": (npz()[40:], "no zip archive|cut off"),
    "a wrong checksum": (npz().replace(b"(2,)", b"(3,)"), "checksum"),
    "objects": (objects(), "not an array of plain numbers"),
    "records": (descr("[('a', '<f4')]"), "not an array of plain numbers"),
    "text": (descr("'<U1'"), "is text"),
    "bytes": (descr("'|S4'"), "not an array of plain numbers"),
    "complex numbers": (descr("'<c8'", b"\0" * 16), "not an array of plain numbers"),
    "dates": (descr("'<M8[D]'", b"\0" * 16), "not an array of plain numbers"),
    "an unknown type": (descr("'<f3'"), "not an array of plain numbers"),
    "a large unit": (descr("'<U9999999999'"), "not an array of plain numbers"),
    "a program as type": (descr("__import__('os').system('true')"), "not an array of plain numbers"),
    "a program as shape": (shape("(print(1),)"), "not an array of plain numbers"),
    "a deep shape": (shape("(" * 5000 + "2," + ")" * 5000), "not an array of plain numbers"),
    "a negative shape": (shape("(-2,)"), "not an array of plain numbers"),
    "two negative sizes": (shape("(-1, -2)"), "not an array of plain numbers"),
    "a huge shape": (shape("(99999999999999,)"), "8 bytes are not an array"),
    "a shape of many digits": (shape(f"({'9' * 250},)"), "."),
    "a huge empty shape": (shape("(0, 9999999999999999999)", b""), "."),
    "two numbers without a comma": (shape("(1 2)"), "."),
    "100 dimensions": (shape(f"({'1,' * 100})", b"\0" * 4), "."),
    "the numbers cut off": (npz(("w.npy", npy(data=b"\0" * 7))), "7 bytes are not an array"),
    "too many numbers": (npz(("w.npy", npy(data=b"\0" * 9))), "9 bytes are not an array"),
    "version 3": (npz(("w.npy", npy(version=(3, 0)))), "not an .npy file of version 1 or 2"),
    "another file": (npz(("w.npy", b"<html>")), "not an .npy file"),
    "an empty .npy file": (npz(("w.npy", b"")), "not an .npy file"),
    "a header longer than the file": (npz(("w.npy", b"\x93NUMPY\x01\x00\xff\xff{}")), "not an array of plain numbers"),
    "another ending": (npz(("w.txt", npy())), "npz file has .npy files only"),
    "a path": (npz(("../../w.npy", npy())), "../../w is unexpected"),
    "compressed otherwise": (npz(compression=zipfile.ZIP_BZIP2), "compressed in a way"),
    "a bomb": (npz(("w.npy", npy(data=bytes(100 << 20))), compression=zipfile.ZIP_DEFLATED), "would take"),
    "a bomb that lies about its size": (lying_bomb(), "no zip archive"),
    "many files": (npz() + b"PK\x01\x02" * 30_000, "more than 20000 files"),
    "metadata that is a number": (npz(("w.npy", npy()), ("__metadata__.npy", npy())), "metadata is not a string"),
    "metadata that is not JSON": ("{", "."),
    "metadata that is a list": ("[]", "not strings under names"),
    "metadata of numbers": ('{"a": 3}', "not strings under names"),
    "deep metadata": ("[" * 100_000, "nested too deeply|not strings"),
    "metadata of no letters": (text(b"\xff\xff\xff\xff"), "letters that there are not"),
    "metadata of no letters, the other way round": (text(b"\x00\x11\x00\x00", ">"), "letters that there are not"),
    "metadata of half a letter": (text("\ud800".encode("utf-32-le", "surrogatepass")), "letters that there are not"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz(refused, case, monkeypatch):
    content, reason = BAD_NPZ[case]
    if isinstance(content, str):
        file = io.BytesIO()
        np.savez(file, w=np.zeros(2, np.float32), __metadata__=np.array(content))
        content = file.getvalue()
    if case == "a bomb":  # of 100 MB: that it is refused before it is unpacked is what `refused` measures
        assert len(content) < 200_000
        monkeypatch.setattr(weights.read, "__defaults__", (50 << 20,))
    refused("w.npz", content, reason)


def test_the_npz_put_together_here_are_good_ones(tmp_path):
    for version in ((1, 0), (2, 0)):
        (tmp_path / "w.npz").write_bytes(npz(("w.npy", npy(version=version))))
        weights.load(model := Vector(), tmp_path / "w.npz")
        assert (model.w.data == 0).all()
    for order, codec in (("<", "utf-32-le"), (">", "utf-32-be")):
        (tmp_path / "w.npz").write_bytes(text('{"é": "\U0001f600"}\0\0'.encode(codec), order))
        assert weights.read(tmp_path / "w.npz")[1] == {"é": "\U0001f600"}


@settings(max_examples=400)
@given(
    name=st.sampled_from(["w.npy", "__metadata__.npy"]),
    metadata=st.sampled_from(["{}", '{"variant": "paper"}']),
    changes=st.lists(st.tuples(st.integers(0, 159), st.sampled_from([0, 1, 17, 92, 216, 255])), min_size=1, max_size=3),
    cut=st.sampled_from([0, 0, 0, 1, 4, 100]),
)
def test_damaged_contents_with_right_checksums_are_read_or_refused(tmp_path_factory, name, metadata, changes, cut):
    with zipfile.ZipFile(io.BytesIO(text(metadata.encode("utf-32-le")))) as archive:
        files = {entry: bytearray(archive.read(entry)) for entry in archive.namelist()}
    for at, value in changes:
        files[name][-1 - at % len(files[name])] = value
    files[name] = files[name][: len(files[name]) - cut]
    path = tmp_path_factory.getbasetemp() / "contents.npz"
    path.write_bytes(npz(*((entry, bytes(content)) for entry, content in files.items())))
    model = Vector()
    try:
        weights.load(model, path)
    except weights.WeightsError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        assert (model.w.data == 7).all()
    else:
        arrays, facts = weights.read(path)
        np.testing.assert_array_equal(model.w.data, arrays["w"])
        assert all(ord(letter) <= sys.maxunicode for letter in "".join(facts.values()))


@given(
    format=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_files_are_read_or_refused(tmp_path_factory, format, changes, cut):
    content = bytearray(GOOD_FILES[format])
    for at, value in changes:
        content[int(at * len(content))] = value
    if cut is not None:
        del content[int(cut * len(content)) :]
    path = tmp_path_factory.getbasetemp() / f"damaged.{format}"
    path.write_bytes(content)
    model = Vector()
    try:
        weights.load(model, path)
    except weights.WeightsError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        assert (model.w.data == 7).all()
    else:
        np.testing.assert_array_equal(model.w.data, weights.read(path)[0]["w"])


GOOD_FILES = {"safetensors": safe({"w": entry(), "__metadata__": {"variant": "paper"}}), "npz": npz()}


# --------------------------------------------------------------------------------------------- torchvision's weights


def stream_of_vector() -> bytes:
    """A `.pth` of ``{"w": [0.5, 0.25]}``, made by hand as in test_pth."""
    import pickle

    header = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00K\x02\x85K\x01\x85tR"
    program = b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s."
    return header + program + pickle.dumps(["0"], 2) + struct.pack("<q2f", 2, 0.5, 0.25)


def test_the_digest_in_the_name_of_a_pth_is_checked(tmp_path):
    content = stream_of_vector()
    digest = hashlib.sha256(content).hexdigest()[:8]
    for name, right in ((f"vector-{digest}.pth", True), ("vector-01234567.pth", False), ("vector-0123456.pth", True)):
        (tmp_path / name).write_bytes(content)
        model = Vector()
        if right:
            weights.load(model, tmp_path / name)
            assert model.w.data.tolist() == [0.5, 0.25]
            continue
        with pytest.raises(weights.WeightsError, match=f"SHA-256 starts with {digest}, and its name says 01234567"):
            weights.load(model, tmp_path / name)
        assert (model.w.data == 7).all()


def test_published_files_have_their_metadata(tmp_path, monkeypatch):
    content = stream_of_vector()
    name = f"vector-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / name).write_bytes(content)
    assert weights.read(tmp_path / name)[1] == {}
    monkeypatch.setitem(weights.PUBLISHED, name, {"architecture": "vector", "resize": "232"})
    assert weights.read(tmp_path / name)[1] == {
        "architecture": "vector", "variant": "torchvision", "classes": "1000", "dataset": "ImageNet-1k", "resize": "232"
    }  # fmt: skip


def test_a_pth_that_names_no_variant_is_taken_for_torchvisions_where_it_matters(tmp_path):
    """ResNet-50's weights fit both variants; those of other networks show what they are, or it does not matter."""
    (tmp_path / "w.pth").write_bytes(stream_of_vector())
    for architecture, variant, fits in (
        ("resnet50", "torchvision", True), ("resnet101", "paper", False), ("resnet152", "paper", False),
        ("resnet18", "paper", True), ("resnet20", "paper", True), ("lenet5", "1998", True),
    ):  # fmt: skip
        model = Vector()
        model.architecture, model.variant = architecture, variant
        if fits:
            weights.load(model, tmp_path / "w.pth")
            continue
        with pytest.raises(weights.WeightsError, match=r"'torchvision' \(PyTorch's files name none, .* is 'paper'"):
            weights.load(model, tmp_path / "w.pth")
        assert (model.w.data == 7).all()
        weights.load(model, tmp_path / "w.pth", strict=False)
        weights.save(Vector(), tmp_path / "w.npz", architecture=architecture)  # one of ours may be from before
        weights.load(model, tmp_path / "w.npz")


def test_the_table_of_published_files():
    for name, facts in weights.PUBLISHED.items():
        assert re.fullmatch(r"[a-z0-9_]+(-owt)?-[0-9a-f]{8}\.pth", name), name
        assert name.startswith(facts["architecture"]) and callable(getattr(models, facts["architecture"]))
        assert all(isinstance(value, str) for value in facts.values())
    assert {facts["architecture"] for facts in weights.PUBLISHED.values()} == {
        "alexnet", "googlenet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg11", "vgg11_bn",
        "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    }  # fmt: skip


# --------------------------------------------------------------------------------------- PyTorch, where it is installed


def test_through_pytorch_and_back_changes_no_bit(tmp_path, rng):
    """minicnn → safetensors → PyTorch → safetensors → minicnn, and PyTorch's own files."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    model = network(rng)
    model.conv.weight.data[0, 0, 0] = [np.nan, -0.0, np.inf]
    weights.save(model, tmp_path / "ours.safetensors")
    layers = {"conv": torch.nn.Conv2d(1, 2, 3), "norm": torch.nn.BatchNorm2d(2), "out": torch.nn.Linear(8, 3)}
    theirs = torch.nn.Sequential()
    for name, layer in layers.items():
        theirs.add_module(name, layer)
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "zip.pth")
    torch.save(theirs.state_dict(), tmp_path / "stream.pth", _use_new_zipfile_serialization=False)
    for name in ("theirs.safetensors", "zip.pth", "stream.pth"):
        other = network(rng)
        weights.load(other, tmp_path / name)
        assert bits(other) == bits(model), name
