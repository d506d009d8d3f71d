"""Files out of a tar archive, compressed by gzip, that may be hostile, damaged or cut off.

Python's own tarfile follows links, reads headers of any size into memory, and in older Pythons can be made to run
forever. Here are the few lines that data sets need: regular files, one after the other, in bounded memory and time.
Everything else in an archive (links, devices, folders) is passed over, so nothing can point out of a folder.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BLOCK = 512
MAX_FILE = 64 << 20  # bytes in a file that is unpacked
MAX_HEADER = 1 << 16  # bytes in a header that extends another: a long name, say
REGULAR, LONG_NAME, EXTENDED, GLOBAL, SPARSE = (b"0", b"\0", b"7"), b"L", b"x", b"g", b"S"

Member = tuple[str, int, Callable[[], bytes]]  # its name, its size, and what reads it


def regular_files(path: str | os.PathLike[str], max_bytes: int) -> Iterator[Member]:
    """The files in the archive at `path`, in its order; each can be read until the next is asked for.

    Args:
        max_bytes: the most that all of the archive may take, decompressed.

    Raises:
        ValueError: no archive, damaged, cut off, or too large.
        OSError: the file cannot be opened or read.
    """
    with open(path, "rb") as file:
        compressed = file.peek(2)[:2] == b"\x1f\x8b"
        yield from _walk(_Stream(gzip.GzipFile(fileobj=file) if compressed else file, os.fspath(path), max_bytes))


class _Stream:
    """Reads what was asked for, or fails; counts."""

    def __init__(self, file: Any, name: str, max_bytes: int):
        self.file, self.name, self.left = file, name, max_bytes

    def read(self, size: int) -> bytes:
        data = self.take(size)
        if len(data) < size:
            raise ValueError(f"{self.name}: cut off, an archive of tar's ends with two empty blocks")
        return data

    def skip(self, size: int) -> None:
        while size > 0:
            size -= len(self.read(min(size, 1 << 20)))

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or as many as there are."""
        if size > self.left:
            size = self.left + 1
        try:
            data = self.file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{self.name}: cut off or damaged, gzip says: {error}") from None
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"{self.name}: larger than it may be, decompressed")
        return data

    def end(self) -> None:
        """Read on to the end, where gzip has a checksum."""
        while self.take(1 << 20):
            pass


def _walk(stream: _Stream) -> Iterator[Member]:
    changes: dict[str, str] = {}  # by an extended header, for the next file
    while any(header := stream.read(BLOCK)):
        name, size, kind = _parsed(header, stream.name)
        padding = -size % BLOCK
        if kind in (LONG_NAME, EXTENDED):
            if size > MAX_HEADER:
                raise ValueError(f"{stream.name}: has a header of {size} bytes, {MAX_HEADER} may be")
            content = stream.read(size + padding)[:size]
            changes |= {"path": _text(content.rstrip(b"\0"))} if kind == LONG_NAME else _extended(content, stream.name)
            continue
        if kind == SPARSE:
            raise ValueError(f"{stream.name}: {name!r} is a sparse file, which is not supported")
        if kind != GLOBAL:
            name = changes.get("path", name)
            if "size" in changes:
                size = _number(changes["size"].encode(), 10, stream.name)
                padding = -size % BLOCK
            changes = {}
        unread = [size]

        def read(unread: list[int] = unread) -> bytes:
            return stream.read(unread.pop()) if unread else b""

        if kind in REGULAR and not name.endswith("/"):
            yield name, size, read
        stream.skip(sum(unread) + padding)
        unread.clear()
    stream.end()


def _parsed(header: bytes, archive: str) -> tuple[str, int, bytes]:
    """Name, size and kind in a header, whose checksum must be right."""
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _number(header[148:156], 8, archive) != total:
        raise ValueError(f"{archive}: no archive of tar's, or damaged: the checksum of a header is wrong")
    name, prefix = (_text(field.partition(b"\0")[0]) for field in (header[:100], header[345:500]))
    if header[257:263] == b"ustar\0" and prefix:
        name = f"{prefix}/{name}"
    return name, _number(header[124:136], 8, archive), header[156:157]


def _number(field: bytes, base: int, archive: str) -> int:
    digits = field.strip(b" \0")
    if not digits.isdigit() or len(digits) > 12 or not set(digits) <= set(b"0123456789"[:base]):
        raise ValueError(f"{archive}: no archive of tar's, or damaged: {field[:12]!r} is no number")
    return int(digits, base)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _extended(content: bytes, archive: str) -> dict[str, str]:
    """The entries of a pax header: lines of ``length key=value``."""
    entries = {}
    while content:
        length = _number(content.partition(b" ")[0], 10, archive)
        line, content = content[:length], content[length:]
        key, equals, value = line.partition(b" ")[2].partition(b"=")
        if not equals or not line.endswith(b"\n"):
            raise ValueError(f"{archive}: no archive of tar's, or damaged: an extended header makes no sense")
        entries[_text(key)] = _text(value[:-1])
    return entries


def extract(path: str | os.PathLike[str], folder: Path, top: str, max_bytes: int) -> Path:
    """Put the files below `top` in the archive at `path` into ``folder/top``, all of them or none; its path.

    What is not below `top`, and names that macOS adds (``._...``), are left out.

    Raises:
        ValueError: as `regular_files`; a name leads out of the folder, or comes twice.
        OSError: `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / top
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as unfinished:
        for name, size, read in regular_files(path, max_bytes):
            parts = _safe(name, os.fspath(path))
            if len(parts) < 2 or parts[0] != top or parts[-1].startswith("._"):
                continue
            if size > MAX_FILE:
                raise ValueError(f"{os.fspath(path)}: {name!r} has {size} bytes, {MAX_FILE} may be")
            place = Path(unfinished, *parts)
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                file = open(place, "xb")  # noqa: SIM115 - it is closed below; here only its name can be at fault
            except (FileExistsError, NotADirectoryError):
                raise ValueError(f"{os.fspath(path)}: {name!r} is in it twice") from None
            with file:
                file.write(read())
        if not Path(unfinished, top).is_dir():
            raise ValueError(f"{os.fspath(path)}: has no files below {top}")
        if target.exists():
            shutil.rmtree(target)
        os.replace(Path(unfinished, top), target)
    return target


def _safe(name: str, archive: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    wrong = name.startswith("/") or ".." in parts or not name.isprintable() or set(name) & set('\\:*?"<>|')
    if wrong or len(name) > 1024 or any(len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{archive}: the name {name[:100]!r} in it leads out of the folder or makes no sense")
    return parts
