"""Pictures in files, as arrays, whatever their format and colours. Needs Pillow (the extra ``data``).

What a picture becomes, with three channels (red, green, blue) or one (grey):

- grey pictures get three equal channels, coloured ones are made grey as Pillow does it (ITU-R 601-2);
- palettes are looked up, CMYK, YCbCr and HSV are converted (without colour profiles);
- what is transparent shows white paper;
- 16 bits a pixel are brought to 8, 0 to 65,535 becoming 0 to 255; 32-bit and floating-point pixels, whose range nobody
  tells, are refused;
- a rotation or reflection that the camera only noted (EXIF) is carried out; a note that cannot be read is none;
- of an animation the first picture is taken.

What Pillow warns of (a damaged note, say) is left to Python's filters, which threads share.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .extra import need

# What Pillow may be asked to read. Not EPS, for instance, which is a program that another program would run.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 80_000_000  # in a picture, as it is and resized, and in all that threads read at one time together
BYTES = 16  # the most that each of them takes meanwhile
MAX_BYTES = 100_000_000  # in a file: decoders read as much as it says, some of them twice, before a pixel is counted
LARGE = 2_000_000  # pixels from which on it is worth a moment to give the memory back
STRIP = 1 << 20  # pixels of 16 and 32 bits that are brought to 8 at one time

ORIENTATION = 274  # the number of the EXIF entry


def read_picture(
    path: str | os.PathLike[str], channels: int = 3, resize: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The picture in the file at `path`, uint8 (channels, H, W).

    Args:
        channels: 3 for red, green and blue, 1 for grey.
        resize: the length that the shorter side gets, bilinearly and without aliasing; left out, it stays.

    However many threads call this at one time, together they use at most `BYTES` × `MAX_PIXELS` (1.3 GB) beside what
    they return: a picture waits until there is room for it. The file itself, of at most `MAX_BYTES` (0.1 GB), may take
    twice its size in each thread.

    Raises:
        ValueError: no picture of a format in `FORMATS`, damaged, of pixels without a known range, or too large; no
            regular file (a pipe, say, would be waited for without end), or one of more than `MAX_BYTES`.
        ImportError: Pillow is missing; the message names the extra.
        OSError: the file cannot be opened.
    """
    image = need("PIL.Image", "pictures")
    check_file(path)
    try:
        with (
            open(path, "rb") as file,
            image.open(file, formats=FORMATS) as picture,
            _room.for_pixels(_largest(picture, resize, max_pixels)),
        ):
            try:
                return _pixels(picture, channels, resize, image)
            finally:
                picture.close()  # before the room is left
    except Exception as error:  # a decoder may raise anything
        if isinstance(error, OSError) and error.filename is not None:  # by open: there is none, or no permission
            raise
        raise ValueError(f"{os.fspath(path)}: {why_unreadable(error)}") from None


def _pixels(picture: Any, channels: int, resize: int | None, image: Any) -> np.ndarray:
    """`picture` as uint8 (channels, H, W). The pictures on the way are let go as soon as the next is there."""
    picture.load()
    picture = _turned(picture, image)
    picture = _converted(picture, channels, image)
    if resize is not None and resize != min(picture.size):
        picture = picture.resize(_resized(picture.size, resize), image.Resampling.BILINEAR)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (C, H, W)


def check_file(path: str | os.PathLike[str]) -> None:
    """Look whether what is at `path` can be read without waiting for somebody, or for long: a folder is left to `open`.

    Raises:
        ValueError: it is a pipe, a socket or a device, or larger than `MAX_BYTES`.
        OSError: there is nothing, or it may not be looked at.
    """
    found = os.stat(path)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise ValueError(f"{os.fspath(path)}: a pipe, a socket or a device, and not a file with a picture")
    if found.st_size > MAX_BYTES:
        raise ValueError(f"{os.fspath(path)}: has {found.st_size:,} bytes, and a picture may have {MAX_BYTES:,}")


def why_unreadable(error: Exception) -> str:
    """What a decoder has against a picture, in one line; which formats there are, where that may be the cure."""
    if type(error).__name__ == "UnidentifiedImageError":
        return f"not a picture that can be read. Known are {', '.join(FORMATS)}"
    return " ".join(str(error).split()) or type(error).__name__


class _Room:
    """How many pixels may be read at one time by all threads together: each picture waits for its own."""

    def __init__(self, pixels: int):
        self.pixels, self.taken, self.changed = pixels, 0, threading.Condition()

    @contextmanager
    def for_pixels(self, count: int) -> Iterator[None]:
        """Inside, `count` of the pixels are taken. One that alone is larger than the room waits for all of it."""
        with self.changed:
            self.changed.wait_for(lambda: self.taken == 0 or self.taken + count <= self.pixels)
            self.taken += count
        try:
            yield
        finally:
            if count > LARGE:
                _give_back()
            with self.changed:
                self.taken -= count
                self.changed.notify_all()


_room = _Room(MAX_PIXELS)


def _give_back() -> None:
    """Make the system's what was freed: GNU's C library keeps it for each thread that has used it, and four of them
    would keep four times as much as one."""
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none, and keep less
        if trim is not None:
            trim(0)


def _turned(picture: Any, image: Any) -> Any:
    """`picture` as it was held, by the EXIF note in it."""
    turn = image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE, 6: turn.ROTATE_270,
        7: turn.TRANSVERSE, 8: turn.ROTATE_90,
    }  # fmt: skip
    try:
        noted = picture.getexif().get(ORIENTATION)
        how = turns.get(noted)
    except Exception:  # a note that cannot be read is none
        return picture
    return picture if how is None else picture.transpose(how)


def _converted(picture: Any, channels: int, image: Any) -> Any:
    """`picture` in 8 bits a channel, grey or red, green and blue, on white paper."""
    if picture.mode.startswith("I"):  # Pillow's modes for grey pictures of 16 bits, and of 32
        values = np.asarray(picture)  # (H, W)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"pixels of 32 bits, from {values.min()} to {values.max()}, have no known range")
        bytes_ = np.empty(values.shape, np.uint8)
        rows = max(1, STRIP // values.shape[1])
        for at in range(0, len(values), rows):
            bytes_[at : at + rows] = (values[at : at + rows].astype(np.int64) + 128) // 257
        picture = image.fromarray(bytes_)
    elif picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if picture.mode in ("LA", "La", "PA", "RGBa", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA") if picture.mode != "RGBA" else picture
        paper = image.new("RGB", picture.size, "white")
        paper.paste(picture, mask=picture.getchannel("A"))
        picture = paper
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _largest(picture: Any, resize: int | None, max_pixels: int) -> int:
    """The pixels of `picture`, which is not loaded yet, as it is or resized, whichever are more.

    Raises:
        ValueError: they are more than `max_pixels`.
    """
    count = picture.width * picture.height
    if count > max_pixels:
        raise ValueError(f"{picture.width}×{picture.height} pixels are more than {max_pixels}")
    if resize is None:
        return count
    width, height = _resized(picture.size, resize)
    if width * height > max_pixels:
        raise ValueError(f"{picture.width}×{picture.height} pixels are too long and thin to be resized")
    return max(count, width * height)


def _resized(size: tuple[int, int], resize: int) -> tuple[int, int]:
    """The width and height that a picture of `size` gets, the shorter of them `resize`."""
    width, height = (resize if side == min(size) else resize * side // min(size) for side in size)
    return width, height
