"""The IDX reader: right on good files, one clear ValueError on every other."""

import gzip
import hashlib
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.data import read_idx
from tests.data.memory import peak_of

# By hand from the description of the format: type code and the struct letter of one big-endian number.
CODES = {"uint8": (0x08, "B"), "int8": (0x09, "b"), "int16": (0x0B, "h"), "int32": (0x0C, "i"),
         "float32": (0x0D, "f"), "float64": (0x0E, "d")}  # fmt: skip


def header(code: int, shape: tuple[int, ...]) -> bytes:
    return bytes([0, 0, code, len(shape)]) + b"".join(struct.pack(">I", n) for n in shape)


def idx(dtype: str, shape: tuple[int, ...], values: list) -> bytes:
    code, letter = CODES[dtype]
    return header(code, shape) + b"".join(struct.pack(">" + letter, value) for value in values)


GOOD = idx("uint8", (2, 2, 3), list(range(12)))


@pytest.fixture
def file(tmp_path):
    """Write bytes to a file and give its path."""

    def write(content: bytes):
        path = tmp_path / "numbers.idx"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (3, 1, 4), (1, 2, 1, 3), (0, 28, 28)])
@pytest.mark.parametrize("dtype", CODES)
def test_reads_every_type_and_shape(file, rng, dtype, shape, compress):
    values = rng.integers(0 if dtype == "uint8" else -100, 100, math.prod(shape)).tolist()
    if dtype.startswith("float"):
        values = [value + 0.25 for value in values]
    array = read_idx(file(compress(idx(dtype, shape, values))))
    assert array.dtype == np.dtype(dtype) and array.dtype.isnative
    assert array.shape == shape
    assert array.ravel().tolist() == values
    assert array.flags.writeable and array.flags.c_contiguous


def test_takes_the_path_as_a_string_and_looks_at_the_content_not_at_the_name(tmp_path):
    path = tmp_path / "plain.gz"
    path.write_bytes(GOOD)
    assert read_idx(str(path)).shape == (2, 2, 3)


BAD = {
    "empty": (b"", "0 bytes are too few"),
    "three bytes": (GOOD[:3], "3 bytes are too few"),
    "a web page": (b"<!DOCTYPE html>", r"not an IDX file, it starts with b'<!DO'"),
    "unknown type": (header(0x0A, (3,)) + b"abc", "type code is 0x0a"),
    "no dimensions": (header(0x08, ()) + b"a", "announces 0 dimensions"),
    "255 dimensions": (header(0x08, (1,) * 255) + b"a", "announces 255 dimensions"),
    "cut in the header": (GOOD[:14], "cut off within its header"),
    "cut in the numbers": (GOOD[:-1], r"uint8 numbers of shape \(2, 2, 3\) \(12 bytes\), and 11 bytes follow"),
    "one byte too long": (GOOD + b"a", "too long"),
    "huge": (header(0x0E, (2**32 - 1,) * 8), "more than max_bytes=1073741824"),
    "huge and empty": (header(0x08, (0, 2**32 - 1, 2**32 - 1)), "more than max_bytes"),
    "just below the limit": (header(0x08, (2**30,)), "1073741824 bytes.*and 0 bytes follow"),
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD)
def test_bad_files(file, content, message, compress):
    path = file(compress(content))
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]


PACKED = gzip.compress(GOOD)


@pytest.mark.parametrize(
    "content",
    [PACKED[:2], PACKED[:-1], PACKED[:-9], PACKED[:12], flipped(PACKED, 2), flipped(PACKED, -6), flipped(PACKED, 11)],
    ids=["magic only", "cut in its end", "cut before its end", "cut early", "method", "checksum", "content"],
)
def test_bad_gzip(file, content):
    path = file(content)
    with pytest.raises(ValueError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_max_bytes(file):
    path = file(GOOD)
    assert read_idx(path, max_bytes=12).size == 12
    with pytest.raises(ValueError, match="max_bytes=11"):
        read_idx(path, max_bytes=11)


def test_digest(file):
    digest = hashlib.sha256(GOOD).hexdigest()
    for content in (GOOD, PACKED):
        assert read_idx(file(content), sha256=digest).size == 12
    other = flipped(GOOD, len(GOOD) - 1)
    with pytest.raises(ValueError, match=rf"{hashlib.sha256(other).hexdigest()}, expected {digest}"):
        read_idx(file(other), sha256=digest)


@pytest.mark.parametrize("announced", [2**29, 2**40], ids=["allowed", "more than allowed"])
def test_what_the_header_announces_takes_no_memory(file, announced):
    path = file(header(0x08, (announced >> 20, 1 << 20)) + bytes(1000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6


def test_a_gzip_bomb_takes_no_memory(file):
    path = file(gzip.compress(header(0x08, (10,)) + bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too long"):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")


MOST = 1 << 20  # bytes that the files here may have
LONG = [gzip.compress(header(0x08, (count,)) + bytes(count)) for count in (MOST - 9, MOST + 1, 4 * MOST)]


@st.composite
def damaged(draw) -> bytes:
    """A good file, plain or compressed, with some bytes changed, and perhaps cut, on either side of compression; now
    and then one that is as long as its header says, which may be too long."""
    if draw(st.integers(0, 15)) == 0:
        content = bytearray(draw(st.sampled_from(LONG)))
        for _ in range(draw(st.integers(0, 1))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content)
    content = GOOD
    for _ in range(2):
        changed = bytearray(content)
        for _ in range(draw(st.integers(0, 3))):
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        content = bytes(changed[: draw(st.integers(1, len(changed)))]) if draw(st.booleans()) else bytes(changed)
        if draw(st.booleans()):
            content = gzip.compress(content)
    return content


def read_or_explain(content: bytes, path) -> None:
    path.write_bytes(content)
    try:
        array = read_idx(path, max_bytes=MOST)
    except ValueError as error:
        assert str(path) in str(error)  # ours: NumPy's and struct's do not name the file
    else:
        assert isinstance(array, np.ndarray) and array.nbytes <= MOST


@given(damaged())
def test_damaged_files_are_read_or_explained(tmp_path_factory, content):
    read_or_explain(content, tmp_path_factory.getbasetemp() / "damaged.idx")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_explained(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.idx"
    read_or_explain(content, path)
    read_or_explain(b"\0\0" + content, path)
    read_or_explain(b"\x1f\x8b\x08" + content, path)


@pytest.mark.long
def test_ten_thousand_damaged_files(tmp_path_factory):
    path, peaks = tmp_path_factory.getbasetemp() / "damaged.idx", []

    @settings(max_examples=10_000)
    @given(st.one_of(damaged(), st.binary(max_size=200).map(lambda content: b"\0\0" + content)))
    def check(content):
        peaks.append(peak_of(read_or_explain, content, path))

    check()
    assert len(peaks) >= 10_000 and max(peaks) < 3 * MOST  # pieces, and gzip, have their own
