"""IDX, the file format of MNIST and its relatives: a magic number, the sizes of the dimensions, the numbers.

The format is described on the MNIST page of Y. LeCun, C. Cortes and C. J. C. Burges, "The IDX file format"; all
integers in it are big-endian. A file from elsewhere may be cut off, be something else (a web page saved under the
data's name), or lie about its size: each ends in one `ValueError` that names the file and what is wrong with it.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from typing import Any

import numpy as np

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 64  # NumPy's own limit
CHUNK = 1 << 18  # read so much at a time: what the header announces is believed only as far as the bytes arrive


def read_idx(path: str | os.PathLike[str], sha256: str | None = None, max_bytes: int = 1 << 30) -> np.ndarray:
    """The array in the IDX file at `path`, compressed by gzip or not, in the machine's byte order.

    Args:
        path: the file; whether it is compressed is told from its first bytes, not from its name.
        sha256: the digest (hexadecimal) that the decompressed content must have.
        max_bytes: the most that the array may take. No file makes this function use much more memory.

    Raises:
        ValueError: not an IDX file, cut off, too long, too large, damaged, or of another digest.
        OSError: the file cannot be opened or read.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        compressed = file.peek(2)[:2] == b"\x1f\x8b"
        try:
            return _read(gzip.GzipFile(fileobj=file) if compressed else file, name, sha256, max_bytes)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{name}: cut off or damaged, gzip says: {error}") from None


def _read(stream: Any, name: str, sha256: str | None, max_bytes: int) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) < 4:
        raise ValueError(f"{name}: cut off, {len(magic)} bytes are too few for the header of an IDX file")
    zeros, code, ndim = struct.unpack(">HBB", magic)
    if zeros != 0:
        raise ValueError(f"{name}: not an IDX file, it starts with {magic!r} and should with two zero bytes")
    if code not in TYPES:
        known = ", ".join(f"0x{known:02x}" for known in TYPES)
        raise ValueError(f"{name}: not an IDX file, its type code is 0x{code:02x}, and IDX knows {known}")
    if not 1 <= ndim <= MAX_DIMENSIONS:
        raise ValueError(f"{name}: its header announces {ndim} dimensions, possible are 1 to {MAX_DIMENSIONS}")
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise ValueError(f"{name}: cut off within its header, which announces {ndim} dimensions")
    shape = struct.unpack(f">{ndim}I", sizes)
    dtype = np.dtype(TYPES[code])
    what = f"{dtype.newbyteorder('=').name} numbers of shape {shape}"
    if dtype.itemsize * math.prod(max(n, 1) for n in shape) > max_bytes:  # NumPy limits empty arrays likewise
        raise ValueError(f"{name}: its header announces {what}, more than max_bytes={max_bytes} allows")

    size = dtype.itemsize * math.prod(shape)
    body = bytearray()
    while len(body) < size and (chunk := stream.read(min(CHUNK, size - len(body)))):
        body += chunk
    if len(body) < size:
        raise ValueError(f"{name}: cut off, its header announces {what} ({size} bytes), and {len(body)} bytes follow")
    if stream.read(1):  # at the end of a gzip file this also checks gzip's own checksum
        raise ValueError(f"{name}: too long, its header announces {what} ({size} bytes), and more bytes follow")
    if sha256 is not None:
        digest = hashlib.sha256(magic + sizes)
        digest.update(body)
        if digest.hexdigest() != sha256:
            raise ValueError(
                f"{name}: damaged or another file, the SHA-256 of its decompressed content is {digest.hexdigest()}, "
                f"expected {sha256}"
            )
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
