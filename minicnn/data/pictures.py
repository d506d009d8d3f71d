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
from typing import Any

import numpy as np

from .extra import need

# What Pillow may be asked to read. Not EPS, for instance, which is a program that another program would run.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 80_000_000  # in a picture, as it is and resized; it takes at most 16 bytes each while it is read

ORIENTATION = 274  # the number of the EXIF entry


def read_picture(
    path: str | os.PathLike[str], channels: int = 3, resize: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The picture in the file at `path`, uint8 (channels, H, W).

    Args:
        channels: 3 for red, green and blue, 1 for grey.
        resize: the length that the shorter side gets, bilinearly and without aliasing; left out, it stays.

    Raises:
        ValueError: no picture of a format in `FORMATS`, damaged, of pixels without a known range, or too large.
        ImportError: Pillow is missing; the message names the extra.
        OSError: the file cannot be opened.
    """
    image = need("PIL.Image", "pictures")
    try:
        with open(path, "rb") as file, image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise ValueError(f"{picture.width}×{picture.height} pixels are more than {max_pixels}")
            picture.load()
            turned = _turned(picture, image)
            pixels = np.asarray(_resized(_converted(turned, channels, image), resize, max_pixels, image))
    except Exception as error:  # a decoder may raise anything
        if isinstance(error, OSError) and error.errno is not None:  # there is no such file, or no permission
            raise
        unknown = type(error).__name__ == "UnidentifiedImageError"
        text = "not a picture that can be read" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{os.fspath(path)}: {text}. Known are {', '.join(FORMATS)}") from None
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1))  # (C, H, W)


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
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"pixels of 32 bits, from {values.min()} to {values.max()}, have no known range")
        picture = image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if picture.mode in ("LA", "La", "PA", "RGBa", "RGBA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = image.new("RGBA", picture.size, "white")
        picture = image.alpha_composite(paper, picture)
    return picture.convert("L" if channels == 1 else "RGB")


def _resized(picture: Any, resize: int | None, max_pixels: int, image: Any) -> Any:
    if resize is None or resize == min(picture.size):
        return picture
    short, long = sorted(picture.size)
    if resize * (resize * long // short) > max_pixels:
        raise ValueError(f"{picture.width}×{picture.height} pixels are too long and thin to be resized")
    size = [resize if side == short else resize * side // short for side in picture.size]
    return picture.resize(size, image.Resampling.BILINEAR)
