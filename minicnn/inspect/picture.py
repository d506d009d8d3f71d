"""Arrays as small heat maps: a diverging colour scale, and a PNG that any notebook shows."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from .. import backend
from ..backend import Array

# From −1 by 0 to 1: blue, white, orange of equal lightness on both sides, which colour-blind readers tell apart.
ANCHORS = np.array([(8, 52, 105), (86, 160, 211), (247, 247, 247), (232, 119, 46), (115, 17, 0)], dtype=np.float64)
NOT_A_NUMBER = (0, 0, 0)  # NaN and the infinities
MAPS = 8  # at the most, side by side
SIDE = 128  # entries at the most; a longer axis is thinned out evenly


def colours(values: np.ndarray, bound: float) -> np.ndarray:
    """RGB of numbers between −`bound` and `bound` (beyond, the colour of the bound): (*) → (*, 3) of uint8."""
    finite = np.isfinite(values)
    place = np.clip(np.where(finite, values, 0) / (bound or 1), -1, 1) * 2 + 2  # 0 to 4, between the anchors
    below = np.minimum(place.astype(int), 3)
    share = (place - below)[..., None]
    rgb = ANCHORS[below] * (1 - share) + ANCHORS[below + 1] * share
    return np.where(finite[..., None], rgb, NOT_A_NUMBER).round().astype(np.uint8)


def largest(array: Array) -> float:
    """The largest absolute value among the finite entries: the bound of a colour scale. 1 where all is 0."""
    values = np.abs(backend.to_host(array).astype(np.float64))
    return float(values[np.isfinite(values)].max(initial=0)) or 1.0


def png(rgba: np.ndarray) -> bytes:
    """An image (H, W, 4) of uint8 as a PNG file (ISO/IEC 15948): its header, the packed rows, the end."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = rgba.shape
    rows = b"".join(b"\0" + row.tobytes() for row in rgba)  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits each of red, green, blue and opacity
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiles(array: Array) -> np.ndarray:
    """What a heat map shows of an array: a stack of maps, (maps, height, width).

    Of one image (1, C, H, W) its maps, of several images or filters (N, C, H, W) the first map of each; a matrix or a
    vector is one map.
    """
    host = backend.to_host(array)
    if host.ndim < 3:
        maps = np.atleast_2d(host)[None]
    elif host.ndim == 3:
        maps = host
    else:
        maps = (host if host.shape[0] == 1 else host[:, 0]).reshape(-1, *host.shape[-2:])
    steps = [max(-(-n // SIDE), 1) for n in maps.shape[1:]]
    return maps[:MAPS, :: steps[0], :: steps[1]]


def heat_map(array: Array, bound: float | None = None) -> str:
    """An array as an HTML image: `tiles` side by side, an entry a pixel, the same scale for all of them."""
    maps = tiles(array).astype(np.float64)
    if not maps.size:
        return ""
    count, height, width = maps.shape
    rgba = np.zeros((height, count * (width + 1) - 1, 4), dtype=np.uint8)  # transparent between the maps
    for i, values in enumerate(maps):
        left = i * (width + 1)
        rgba[:, left : left + width, :3] = colours(values, bound or largest(array))
        rgba[:, left : left + width, 3] = 255
    zoom = max(min(480 // rgba.shape[1], 96 // height, 12), 1)
    data = base64.b64encode(png(rgba)).decode()
    return (
        f'<img alt="heat map" src="data:image/png;base64,{data}" width="{zoom * rgba.shape[1]}" '
        f'height="{zoom * height}" style="image-rendering: pixelated">'
    )
