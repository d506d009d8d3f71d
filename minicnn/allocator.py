"""Freed memory stays with the process, for the next array.

A large array's memory comes fresh from the system, which clears it page by page as it is first written to, and goes
back as soon as the array dies: a training step pays for the same pages again every time. Small networks, whose
arithmetic is short, spend a quarter of their time on it. glibc, the C library of most Linux systems, can be told to
keep what is freed. The peak stays what it was; it is what the process holds between two steps that grows.

Other systems' allocators keep their ways.
"""

from __future__ import annotations

import ctypes
import os
import sys

VARIABLE = "MINICNN_KEEP_MEMORY"
OTHERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # glibc's own: who sets one has decided

MOST = 1 << 30  # bytes that are kept; an array as large as this comes and goes as before
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's numbers, from <malloc.h>

_kept: bool | None = None  # None before the first operation


def keep_freed_memory() -> bool:
    """Have the process keep up to a gigabyte of freed memory; the engine calls it before every operation.

    False where that cannot be asked for, and where MINICNN_KEEP_MEMORY is 0 or one of glibc's own variables is set.
    """
    global _kept
    if _kept is None:
        wanted = os.environ.get(VARIABLE) != "0" and not any(name in os.environ for name in OTHERS)
        _kept = wanted and sys.platform == "linux" and _tell()
    return _kept


def _tell() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, MOST)) and bool(mallopt(TRIM_THRESHOLD, MOST))
