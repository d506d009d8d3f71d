"""PyTorch's files without PyTorch: right on good ones, one WeightsError on every other, and nothing run."""

import io
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minicnn import nn, pth, weights

FIXTURES = Path(__file__).parent / "fixtures"


def count(*shape, dtype="float32", start=0.0):
    """As in fixtures/make_pth.py."""
    return (np.arange(np.prod(shape, dtype=int)) / 4 + start).reshape(shape).astype(dtype)


def network():
    layers = {"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "flat": nn.Flatten(), "out": nn.Linear(4, 3)}
    return nn.Sequential(layers)


SHAPES = {
    "conv.weight": (2, 1, 3, 3), "conv.bias": (2,), "norm.weight": (2,), "norm.bias": (2,), "norm.running_mean": (2,),
    "norm.running_var": (2,), "norm.num_batches_tracked": (), "out.weight": (3, 4), "out.bias": (3,),
}  # fmt: skip

# ------------------------------------------------------------------------------------------------------ good files


@pytest.mark.parametrize("format", ["zip", "stream"])
def test_reads_the_state_dict_of_a_network(format):
    model = network()
    weights.load(model, FIXTURES / f"network_{format}.pth")
    state = model.state_dict()
    for i, (name, shape) in enumerate(SHAPES.items()):
        if name.endswith("tracked"):
            continue
        np.testing.assert_array_equal(state[name], count(*shape, start=i), err_msg=name)
    # The stream was written without the counter, as before PyTorch 0.4.1; there it starts at 0.
    assert state["norm.num_batches_tracked"] == (6 if format == "zip" else 0)


@pytest.mark.parametrize("format", ["zip", "stream"])
def test_reads_every_type_and_parts_of_storages(format):
    arrays, metadata = weights.read(FIXTURES / f"types_{format}.pth")
    expected = {
        "float64": count(2, 3, dtype="float64"),
        "float16": count(3, dtype="float16"),
        "bfloat16": count(2, 2),  # widened
        "int64": np.arange(-2, 3),
        "int32": np.arange(3, dtype="int32"),
        "int16": np.arange(3, dtype="int16"),
        "int8": np.arange(-1, 2, dtype="int8"),
        "uint8": np.arange(3, dtype="uint8"),
        "bool": np.array([True, False, True]),
        "scalar": np.float32(0.25),
        "empty": np.zeros((0, 3), "float32"),
        "parameter": count(3),
        "part": count(4, 5).T[1:3, 1:],
        "whole": count(4, 5),
    }
    assert list(arrays) == list(expected) and metadata == {}
    for name, array in expected.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


# ------------------------------------------------------------------------------- programs and files put together here

MARK, TUPLE, REDUCE, STOP, EMPTY_DICT = pickle.MARK, pickle.TUPLE, pickle.REDUCE, pickle.STOP, pickle.EMPTY_DICT
PROTO = b"\x80\x02"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


DICT, FLOATS = name("collections", "OrderedDict"), name("torch", "FloatStorage")
PARAMETER, REBUILD = name("torch.nn.parameter", "Parameter"), name("torch._utils", "_rebuild_tensor")


def text(string: str) -> bytes:
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def number(n: int) -> bytes:
    if 0 <= n < 256:
        return b"K" + bytes([n])
    body = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(body)]) + body


def sequence(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def numbers(*ns: int) -> bytes:
    return sequence(*map(number, ns))


def storage(numel: int, kind: str = "FloatStorage", key: str = "0", stream: bool = False) -> bytes:
    fields = [text("storage"), name("torch", kind), text(key), text("cpu"), number(numel)]
    return sequence(*fields, *([b"N"] if stream else [])) + b"Q"


def tensor(
    shape=(2,), strides=(1,), offset=0, numel=2, kind="FloatStorage", function="_rebuild_tensor_v2", stream=False,
    key="0",
) -> bytes:  # fmt: skip
    hooks = name("collections", "OrderedDict") + b")R"
    fields = [storage(numel, kind, key, stream), number(offset), numbers(*shape), numbers(*strides)]
    fields += [b"\x89", hooks] if function == "_rebuild_tensor_v2" else []
    return name("torch._utils", function) + sequence(*fields) + REDUCE


def program(body: bytes) -> bytes:
    """A pickle whose result is ``{"w": body}``."""
    return PROTO + EMPTY_DICT + text("w") + body + b"s" + STOP


DATA = struct.pack("<2f", 0.5, 0.25)


def archive(pickled: bytes, files=None, folder="archive", compression=zipfile.ZIP_STORED) -> bytes:
    entries = {f"{folder}/data.pkl": pickled, f"{folder}/data/0": DATA, f"{folder}/version": b"3\n"}
    entries |= {k[1:] if k.startswith("/") else f"{folder}/{k}": v for k, v in (files or {}).items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as z:
        for entry, content in entries.items():
            if content is not None:
                z.writestr(entry, content)
    return file.getvalue()


SIZED = struct.pack("<q", 2) + DATA


def stream(pickled: bytes, keys=("0",), data=SIZED, magic=pth.MAGIC, version=1001) -> bytes:
    start = b"".join(pickle.dumps(value, 2) for value in (magic, version, {"little_endian": True}))
    return start + pickled + pickle.dumps(list(keys), 2) + data


class Vector(nn.Module):
    """A network that is one vector."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(np.full(2, 7, np.float32))


@pytest.fixture
def load(tmp_path):
    """Write bytes to a file and load it into a `Vector`."""

    def write_and_load(content: bytes, name="weights.pth"):
        path = tmp_path / name
        path.write_bytes(content)
        model = Vector()
        weights.load(model, path)
        return model.w.data

    return write_and_load


@pytest.fixture
def refused(tmp_path):
    """Check that bytes end in one `WeightsError` with the reason, quickly, in little memory, and change nothing."""

    def check(content: bytes, reason: str, name="weights.pth"):
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


def test_the_programs_put_together_here_are_good_ones(load):
    np.testing.assert_array_equal(load(archive(program(tensor()))), [0.5, 0.25])
    np.testing.assert_array_equal(load(stream(program(tensor(stream=True)))), [0.5, 0.25])


def test_reads_what_old_versions_and_python_2_wrote(load):
    """Python 2: strings of bytes, dicts as lists of pairs; PyTorch 0.1: Parameter as an object with a state."""
    old = tensor(function="_rebuild_tensor", stream=True).replace(text("storage"), b"U\x07storage")
    parameter = PARAMETER + sequence(old) + b"\x81" + sequence(b"\x88", b"\x89", b"N") + b"b"
    pairs = b"]" + MARK + b"]" + MARK + b"U\x01w" + parameter + b"ee"
    pickled = PROTO + name("collections", "OrderedDict") + pairs + b"\x85R" + STOP
    np.testing.assert_array_equal(load(stream(pickled)), [0.5, 0.25])


def test_reads_big_endian_files_and_strides_that_are_not_used(load):
    files = {"byteorder": b"big", "data/0": struct.pack(">2f", 0.5, 0.25)}
    np.testing.assert_array_equal(load(archive(program(tensor()), files)), [0.5, 0.25])
    one = tensor(shape=(1, 2), strides=(10**6, 1))
    assert weights._read_pth(archive(program(one)), 1 << 20)[0]["w"].shape == (1, 2)


# -------------------------------------------------------------------------------------------------- hostile programs

HOSTILE_CALLS = {
    "os.system": (name("os", "system"), "names 'os.system'"),
    "posix.system": (name("posix", "system"), "names 'posix.system'"),
    "eval": (name("builtins", "eval"), "names 'builtins.eval'"),
    "eval of Python 2": (name("__builtin__", "eval"), "names '__builtin__.eval'"),
    "torch.load": (name("torch", "load"), "names 'torch.load'"),
    "through a module on the list": (name("torch._utils", "sys"), "names 'torch._utils.sys'"),
    "through an attribute": (name("collections", "OrderedDict.__init__"), "names 'collections.OrderedDict.__init__'"),
    "through attributes": (name("torch", "FloatStorage.__init__.__globals__"), "names"),
    "a name with a dot": (name("collections.OrderedDict", ""), "names 'collections.OrderedDict.'"),
    "a name split elsewhere": (name("torch._utils._rebuild_tensor_v2", "__globals__"), "names"),
}


@pytest.mark.parametrize("case", HOSTILE_CALLS)
@pytest.mark.parametrize("make", [archive, stream])
def test_names_that_are_not_on_the_list_end_the_reading(refused, make, case, tmp_path):
    what, reason = HOSTILE_CALLS[case]
    refused(make(program(what + sequence(text(f"touch {tmp_path}/canary")) + REDUCE)), f"{reason}.* Nothing was run")
    assert not (tmp_path / "canary").exists()


class Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("make", [archive, stream])
def test_a_pickle_that_runs_a_command_does_not(refused, make, protocol, tmp_path):
    pickled = pickle.dumps({"w": Evil(tmp_path / "canary")}, protocol)
    refused(make(pickled), "names|protocol|instruction|not a file of PyTorch's")
    refused(pickled, "names|protocol|instruction|not a file of PyTorch's")  # nothing around it
    assert not (tmp_path / "canary").exists()
    os.system(f"touch {tmp_path / 'canary'}")
    assert (tmp_path / "canary").exists()  # so that the check above can fail


HOSTILE_INSTRUCTIONS = {
    "INST": b"(S'true'\nios\nsystem\n",
    "OBJ": b"(cos\nsystem\nS'true'\no",
    "OBJ of something on the list": MARK + name("collections", "OrderedDict") + b"o",
    "STACK_GLOBAL": text("os") + text("system") + b"\x93",
    "NEWOBJ_EX": name("collections", "OrderedDict") + b")}\x92",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"P0\n",
    "LONG4": b"\x8b\xff\xff\xff\x7f" + b"\x01",
    "LONG": b"L" + b"9" * 100_000 + b"L\n",
    "INT": b"I" + b"9" * 100_000 + b"\n",
    "BINBYTES": b"B\xff\xff\xff\x7f",
    "BINBYTES8": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "BINUNICODE8": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "BYTEARRAY8": b"\x96" + b"\xff" * 7 + b"\x7f",
    "FRAME": b"\x95" + b"\xff" * 8,
    "EMPTY_SET": b"\x8f",
    "FROZENSET": MARK + b"\x91",
    "DUP": b"N2",
    "POP": b"N0",
    "0xff": b"\xff",
}


@pytest.mark.parametrize("case", HOSTILE_INSTRUCTIONS)
def test_instructions_that_weights_do_not_need_end_the_reading(refused, case):
    refused(archive(program(HOSTILE_INSTRUCTIONS[case])), f"instruction|names '{case}'")


MALFORMED_PROGRAMS = {
    "no instruction": (b"", "is cut off"),
    "no end": (PROTO + EMPTY_DICT, "is cut off"),
    "nothing": (PROTO + STOP, "empty stack"),
    "protocol 5": (b"\x80\x05}.", "protocol 5"),
    "a number": (PROTO + number(3) + STOP, "holds an object of type int"),
    "a list": (PROTO + b"]" + STOP, "holds an object of type list"),
    "a tensor": (PROTO + tensor() + STOP, "holds an object of type TensorView"),
    "a name": (PROTO + DICT + STOP, "holds an object of type Global"),
    "an entry that is no tensor": (program(number(3)), "'w' is of type int"),
    "a checkpoint": (PROTO + EMPTY_DICT + text("state_dict") + EMPTY_DICT + b"s" + STOP, "save that part alone"),
    "a key that is a number": (PROTO + EMPTY_DICT + number(3) + tensor() + b"s" + STOP, "key of type int"),
    "a key that is of type tuple": (PROTO + EMPTY_DICT + b")" + tensor() + b"s" + STOP, "key of type tuple"),
    "a key without a value": (PROTO + EMPTY_DICT + MARK + text("w") + b"u" + STOP, "without a value"),
    "a string not in UTF-8": (program(b"X\x01\x00\x00\x00\xff"), "not UTF-8"),
    "a string that is cut off": (program(b"X\xff\xff\xff\xff"), "longer|cut off"),
    "a name without end": (PROTO + b"c" + b"x" * 1000, "more than 200"),
    "no mark": (PROTO + TUPLE + STOP, "lacks a mark"),
    "a value from under a mark": (PROTO + number(1) + MARK + b"\x85" + STOP, "empty stack"),
    "a list as a dict": (program(b"]" + text("a") + text("b") + b"s"), "no dict"),
    "a dict as a list": (program(EMPTY_DICT + b"Na"), "no list"),
    "an item for nothing": (PROTO + b"Na" + STOP, "no list"),
    "a state for a storage": (program(storage(2) + b")b"), "no dict or TensorView"),
    "a state for a name": (program(DICT + b")b"), "no dict or TensorView"),
    "an unknown memory": (program(b"h\x05"), "place 5"),
    "a memory far away": (program(b"Nr\xff\xff\xff\xff"), "memorises"),
    "a memory of nothing": (PROTO + b"q\x00" + STOP, "memorises"),
    "a call of a number": (program(number(3) + b")R"), "calls something"),
    "a call of a string": (program(text("torch._utils._rebuild_tensor_v2") + b")R"), "calls something"),
    "a call of a tensor": (program(tensor() + b")R"), "calls something"),
    "a call of a storage type": (program(FLOATS + numbers(2) + REDUCE), "calls torch.FloatStorage"),
    "a call of Parameter": (program(PARAMETER + sequence(tensor()) + REDUCE), "calls torch.nn"),
    "a new OrderedDict": (program(DICT + b")\x81"), "calls collections.OrderedDict"),
    "a new tensor": (program(tensor()[:-1] + b"\x81"), "calls"),
    "an OrderedDict of numbers": (program(DICT + b"]K\x01a\x85R"), "not pairs"),
    "an OrderedDict with keyword": (program(DICT + b"}\x85R"), "calls"),
    "a parameter of a number": (program(name("torch._utils", "_rebuild_parameter") + numbers(1) + REDUCE), "calls"),
    "a tensor without storage": (program(REBUILD + numbers(1, 1, 1, 1) + REDUCE), "other than a storage"),
    "a tensor of too few arguments": (program(REBUILD + numbers(1, 1) + REDUCE), "calls torch._utils"),
    "a negated tensor": (
        program(tensor()[:-2] + EMPTY_DICT + text("neg") + b"\x88s" + TUPLE + REDUCE), "not stored plainly"
    ),
    "a storage that is no storage": (program(sequence(text("module"), *[b"N"] * 4) + b"Q"), "no storage"),
    "a storage of a number": (program(number(3) + b"Q"), "no storage"),
    "a storage of no type": (program(sequence(text("storage"), *[b"N"] * 4) + b"Q"), "as PyTorch does not"),
    "a storage of a function": (
        program(sequence(text("storage"), DICT, text("0"), text("cpu"), number(2)) + b"Q"), "as PyTorch does not"
    ),
    "a storage of negative size": (program(tensor(numel=-2)), "as PyTorch does not"),
    "a storage of huge size": (program(tensor(numel=1 << 60)), "as PyTorch does not"),
    "a storage of a number with 1,000 digits": (program(tensor(numel=1 << 2000)), "as PyTorch does not"),
    "a storage of large size": (program(tensor((1 << 40,), numel=1 << 40)), "has 8 bytes|take more than"),
    "a storage that is missing": (program(tensor(key="7")), "missing"),
    "a storage outside": (program(tensor(key="../../etc/passwd")), "missing"),
    "a storage of two types": (program(tensor() + b"s" + text("b") + tensor(kind="IntStorage")), "two ways"),
    "a storage in two sizes": (program(tensor() + b"s" + text("b") + tensor(numel=3)), "two ways"),
    "a shape larger than the storage": (program(tensor((3,))), "larger than its storage"),
    "a huge shape": (program(tensor((1 << 40,))), "larger than its storage"),
    "a huge shape of no stride": (program(tensor((1 << 40,), (0,))), "larger than its storage"),
    "a huge shape of many dimensions": (program(tensor((1 << 40,) * 60, (0,) * 60)), "larger than its storage"),
    "a shape of too many dimensions": (program(tensor((1,) * 65, (0,) * 65)), "65 dimensions"),
    "a huge empty shape": (program(tensor((0, 1 << 47, 1 << 47), (0, 0, 0))), "."),
    "a negative shape": (program(tensor((-2,))), "numbers from 0"),
    "two negative sizes": (program(tensor((-1, -2), (1, 1))), "numbers from 0"),
    "a negative stride": (program(tensor((2,), (-1,), offset=1)), "numbers from 0"),
    "a stride beyond the storage": (program(tensor((2,), (2,))), "larger than its storage"),
    "an offset beyond the storage": (program(tensor((2,), (1,), offset=1)), "larger than its storage"),
    "a negative offset": (program(tensor(offset=-1)), "numbers from 0"),
    "a huge offset": (program(tensor(offset=1 << 62)), "numbers from 0"),
    "fewer strides than sizes": (program(tensor((2,), ())), "1 dimensions with 0 strides"),
    "a shape that is of type list": (program(tensor().replace(numbers(2), b"]")), "numbers from 0"),
    "a shape of bools": (program(tensor().replace(numbers(2), sequence(b"\x88"))), "numbers from 0"),
    "a shape of floats": (program(tensor().replace(numbers(2), b"G" + bytes(8))), "instruction BINFLOAT"),
    "another type than the network's": (program(tensor(kind="LongStorage", numel=1, shape=(1,))), r"shape \(1,\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED_PROGRAMS)
def test_malformed_programs(refused, case):
    pickled, reason = MALFORMED_PROGRAMS[case]
    refused(archive(pickled), reason)


LAUGHS = b")" + b"".join(b"q%ch%ch%c\x87" % (i, i, i) for i in range(200))  # tuples, each holds the one before thrice
BOMBS = {
    "deep lists": (PROTO + b"]" * 50_000 + b"a" * 49_999 + STOP, "holds an object of type list"),
    "deeper lists": (PROTO + b"]" * 2_000_000 + b"a" * 1_999_999 + STOP, "more than 200,000 steps"),
    "deep tuples": (PROTO + b")" + b"\x85" * 50_000 + STOP, "holds an object of type tuple"),
    "deep dicts": (PROTO + (EMPTY_DICT + text("a")) * 30_000 + b"N" + b"s" * 30_000 + STOP, "is of type dict"),
    "a billion laughs": (program(LAUGHS), "'w' is of type tuple"),
    "a billion laughs as a key": (PROTO + EMPTY_DICT + LAUGHS + b"Ns" + STOP, "key of type tuple"),
    "a billion laughs as a shape": (program(tensor().replace(numbers(2), LAUGHS)), "numbers from 0"),
    "a billion laughs as a storage": (program(LAUGHS + b"Q"), "no storage"),
    "a list that holds itself": (program(b"]q\x00h\x00a"), "'w' is of type list"),
    "a long pickle": (PROTO + b"X" + struct.pack("<I", 5 << 20) + bytes(5 << 20) + STOP, "longer than a state dict's"),
    # one list of pairs, made into a dict again and again
    "many dicts of one list": (
        PROTO + b"]" + MARK + (text("a") + b"N\x86") * 10_000 + b"eq\x00" + (DICT + b"h\x00\x85R") * 10_000 + STOP,
        "more than 200,000 steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_programs_that_would_take_all_memory_or_time(refused, case):
    pickled, reason = BOMBS[case]
    refused(archive(pickled), reason)


def test_tensors_that_share_a_storage_are_counted_each(refused):
    view = tensor((1 << 20,), (1,), 0, 1 << 20, "BFloat16Storage") + b"q\x00"
    others = b"".join(text(str(i)) + b"h\x00" for i in range(600))
    pickled = PROTO + EMPTY_DICT + text("w") + view + b"s" + MARK + others + b"u" + STOP
    refused(archive(pickled, {"data/0": bytes(1 << 21)}), "its tensors take more than")


# ----------------------------------------------------------------------------------------------------- malformed files

def pair(size: int) -> bytes:
    return struct.pack("<II", size, size)


GOOD = program(tensor())
DIRECTORY = b"PK\x01\x02\x14\x03\x14\x00"
MALFORMED_ARCHIVES = {
    "cut off": (archive(GOOD)[:-30], "no zip archive"),
    "cut off early": (archive(GOOD)[:40], "no zip archive"),
    "compressed": (archive(GOOD, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "compressed otherwise": (archive(GOOD, compression=zipfile.ZIP_LZMA), "compressed"),
    "a storage cut off": (archive(GOOD, {"data/0": DATA[:5]}), "has 5 bytes, and must have 8"),
    "a storage too long": (archive(GOOD, {"data/0": DATA + b"\0"}), "has 9 bytes, and must have 8"),
    "no storage": (archive(GOOD, {"data/0": None}), "missing"),
    "no pickle": (archive(GOOD, {"data.pkl": None}), "data.pkl"),
    "the pickle elsewhere": (archive(GOOD, folder="a/b"), "data.pkl"),
    "two pickles": (archive(GOOD, {"/other/data.pkl": GOOD}), "data.pkl"),
    "TorchScript": (archive(GOOD, {"constants.pkl": b""}), "TorchScript"),
    "a wrong byte order": (archive(GOOD, {"byteorder": b"middle"}), "byte order"),
    "a wrong checksum": (archive(GOOD).replace(DATA, b"\1" + DATA[1:]), "checksum"),
    "a gigabyte announced": (archive(GOOD).replace(pair(8), pair(1 << 30)), "would take"),
    "encrypted": (archive(GOOD).replace(DIRECTORY + b"\0\0", DIRECTORY + b"\1\0"), "encrypted"),
    "many files": (archive(GOOD) + b"PK\x01\x02" * 30_000, "more than 20000 files"),
    "an empty archive": (b"PK\x05\x06" + bytes(18), "is cut off|magic"),
    "an empty file": (b"", "magic"),
    "a web page": (b"<!DOCTYPE html><html>403</html>", "neither as a zip archive"),
    "a tar archive": (b"pickle" + bytes(251) + b"ustar\0" + bytes(300), "tar archive"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED_ARCHIVES)
def test_malformed_archives(refused, case):
    content, reason = MALFORMED_ARCHIVES[case]
    refused(content, reason)


def test_two_files_of_one_name(refused):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z, pytest.warns(UserWarning, match="Duplicate name"):
        z.writestr("archive/data.pkl", GOOD)
        z.writestr("archive/data.pkl", GOOD)
    refused(file.getvalue(), "one name")


OWN = program(tensor(stream=True))
MALFORMED_STREAMS = {
    "cut off in the numbers": (stream(OWN)[:-1], "cut off: 2 numbers need 16 bytes, and 15 follow"),
    "cut off in the keys": (stream(OWN)[:-20], "cut off"),
    "cut off in the pickle": (stream(OWN)[:100], "cut off"),
    "cut off in the magic number": (stream(OWN)[:8], "cut off"),
    "too long": (stream(OWN) + b"\0", "too long: 1 bytes follow"),
    "another magic number": (stream(OWN, magic=3), "magic number"),
    "another version": (stream(OWN, version=1002), "version"),
    "another length": (stream(OWN, data=struct.pack("<q", 1) + DATA), "another length"),
    "a negative length": (stream(OWN, data=struct.pack("<q", -2) + DATA), "another length"),
    "no keys": (stream(OWN, keys=()), "list of storages"),
    "an unknown key": (stream(OWN, keys=("1",)), "list of storages"),
    "a key twice": (stream(OWN, keys=("0", "0"), data=2 * SIZED), "list of storages"),
    "keys that are numbers": (stream(OWN, keys=(0,)), "list of storages"),
    "a large storage": (stream(program(tensor((1 << 40,), numel=1 << 40, stream=True))), "cut off"),
    "a storage that is part of another": (
        stream(OWN.replace(number(2) + b"N", number(2) + sequence(text("1"), number(0), number(1)))), "part of another"
    ),
    "a storage as in a zip archive": (stream(GOOD), "no storage"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED_STREAMS)
def test_malformed_streams(refused, case):
    content, reason = MALFORMED_STREAMS[case]
    refused(content, reason)


# -------------------------------------------------------------------------------------------------------------- fuzzing

FILES = {path.name: path.read_bytes() for path in sorted(FIXTURES.glob("*.pth"))}


@st.composite
def damaged(draw):
    """One of the fixtures after a few changes of bytes, a cut, an insertion or a repetition."""
    content = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        match draw(st.sampled_from(["set", "set", "set", "cut", "insert", "repeat", "remove"])):
            case "set":
                content[at] = draw(st.integers(0, 255))
            case "cut":
                del content[at + 1 :]
            case "insert":
                content[at:at] = draw(st.binary(max_size=12))
            case "repeat":
                content[at:at] = content[at : at + draw(st.integers(1, 300))]
            case "remove":
                del content[at + 1 : at + draw(st.integers(2, 300))]
    return bytes(content)


@given(content=damaged())
def test_damaged_files_are_read_or_refused(content):
    """Anything but a `WeightsError`'s reason would be a traceback."""
    try:
        arrays, _ = weights._read_pth(content, 1 << 24)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(array, np.ndarray) and array.nbytes <= 1 << 24 for array in arrays.values())


@given(body=st.binary(max_size=60))
@example(body=b"}")  # an empty state dict, the only one that random bytes make
def test_random_programs_are_refused_or_hold_nothing(body):
    try:
        arrays, _ = weights._read_pth(archive(PROTO + body + STOP), 1 << 24)
    except ValueError as error:
        assert re.search("its pickle|holds|state dict|missing", str(error))
    else:
        assert arrays == {}


INSTRUCTIONS = [
    b"N", b"\x88", b")", b"]", b"}", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"R", b"\x81", b"b",
    b"Q", b"q\x00", b"h\x00", b"q\x01", b"h\x01", number(2), number(0), text("w"), text("storage"), text("0"), DICT,
    FLOATS, REBUILD, name("torch._utils", "_rebuild_tensor_v2"), PARAMETER, storage(2), tensor(), numbers(2), numbers(1)
]  # fmt: skip


@given(parts=st.lists(st.sampled_from(INSTRUCTIONS), max_size=40))
def test_random_programs_of_allowed_instructions_are_read_or_refused(parts):
    try:
        arrays, _ = weights._read_pth(archive(PROTO + b"".join(parts) + STOP), 1 << 24)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
