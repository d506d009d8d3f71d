"""Files of weights that are damaged or hostile, by the thousand: arrays or one `WeightsError`, in bounded memory."""

import json
import random
import struct

import numpy as np
import pytest

from minicnn import models, weights
from tests.data.memory import peak_of

pytestmark = pytest.mark.host

LIMIT = 1 << 20  # max_bytes; the bound on memory is several times that, see the module's docstring
BOUND = 8 * LIMIT
ODD = (
    b"null", b"-1", b"[]", b"{}", b'""', b"[-1,4]", b"[0,99999999]", b"[9,2]", b'"F64"', b'"Q8"', b"1e999",
    b"9" * 30, b"[" * 400, b'"\\ud800"', b"[1,1,1]", b"[4294967296,4294967296]", b'{"a":1}',
)  # fmt: skip
NUMBERS = (0, 1, 7, 8, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)


def mangled(content, draw, safetensors):
    """Bytes changed, cut, doubled or left out; a length or a value of the header exchanged."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 6))):
        near = 900 if draw.random() < 0.7 else len(content)
        at = draw.randrange(min(near, len(content)) or 1)
        how = draw.randrange(7)
        if how == 0:
            content[at : at + 1] = bytes([draw.randrange(256)])
        elif how == 1:
            del content[draw.randrange(len(content) or 1) :]
        elif how == 2:
            content[at:at] = content[at : at + draw.randrange(100)]
        elif how == 3:
            del content[at : at + draw.randrange(9)]
        elif how == 4:
            content[at : at + 4] = struct.pack("<I", draw.choice(NUMBERS) & 0xFFFFFFFF)
        elif how == 5 and safetensors:
            content[:8] = struct.pack("<Q", draw.choice(NUMBERS))
        elif (start := content.find(b":", at) + 1) and safetensors:
            ends = [i for i in (content.find(b",", start), content.find(b"}", start)) if i >= 0]
            value = draw.choice(ODD)
            length = int.from_bytes(content[:8], "little") + len(value) - (min(ends, default=start) - start)
            content[start : min(ends, default=start)] = value
            content[:8] = struct.pack("<Q", length & (1 << 64) - 1)  # so that what follows is reached
    return bytes(content)


def fuzz(tmp_path, suffix, count, seed):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path, draw = tmp_path / f"weights{suffix}", random.Random(seed)
    model = models.lenet5(width=0.1)
    weights.save(model, path, class_names=["a", "b"])
    content, kinds = path.read_bytes(), {"read": 0, "refused": 0}

    def attempt():
        try:
            arrays, metadata = weights.read(path, LIMIT)
        except weights.WeightsError as error:
            assert len(str(error)) < 1000 and "\n" not in str(error)
            kinds["refused"] += 1
            return
        kinds["read"] += 1
        assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in arrays.values())
        assert json.dumps(metadata)

    for i in range(count):
        path.write_bytes(mangled(content, draw, suffix == ".safetensors"))
        if i % 50:
            attempt()
        else:  # measuring takes longer
            assert peak_of(attempt) < BOUND
    assert min(kinds.values()) > 0


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_few_hundred_files(tmp_path, suffix):
    fuzz(tmp_path, suffix, 300, 1)


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_ten_thousand_files(tmp_path, suffix):
    fuzz(tmp_path, suffix, 10_000, 2)
